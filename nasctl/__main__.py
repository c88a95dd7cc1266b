"""`python -m nasctl`, and the `nasctl` command."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading

from nasctl.cli import main
from nasctl.cli_common import say
from nasctl.errors import EnvironmentProblemError


def run() -> None:
    """The command, and the end of the process.

    What Python does besides at its end, freeing everything that a search has imported and made,
    takes a second and more, and serves nobody.
    """
    code: object = 0
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end
    try:
        main()
    except SystemExit as done:
        code = done.code
    waits = any(not t.daemon for t in threading.enumerate() if t is not threading.main_thread())
    if waits or not isinstance(code, int | None):
        sys.exit(code)  # type: ignore[arg-type]  # as it came
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        pass  # the reader has gone, and wants no more; or it is closed
    except OSError as error:
        if not code:  # else something was said already, often of this
            say(f"Error: stdout: {error.strerror}")
            code = EnvironmentProblemError.exit_code
    with contextlib.suppress(OSError, ValueError):  # `main` has closed it, or it takes no more
        sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    run()
