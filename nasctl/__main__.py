"""`python -m nasctl`, and the `nasctl` command."""

from __future__ import annotations

import atexit
import os
import sys
import threading

from nasctl.cli import main


def run() -> None:
    """The command, and the end of the process.

    What Python does besides at its end, freeing everything that a search has imported and made,
    takes a second and more, and serves nobody.
    """
    code: object = 0
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
        sys.stderr.flush()
    except (OSError, ValueError):  # the reader has gone, or `main` has closed it
        sys.exit(code)
    os._exit(code or 0)


if __name__ == "__main__":
    run()
