"""Drivers that begin with everything imported, so that many can be killed: `pid` for each line of
arguments on stdin. What a driver says goes into the file `said` of its folder."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

from nasctl import cli

HEAVY = ("optuna", "hydra", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "moocore")
NASCTL = ("config", "search", "outputs", "progress", "terminal", "executors.inline", "samplers")


def main() -> None:
    for name in (*HEAVY, *(f"nasctl.{n}" for n in NASCTL), "nasctl.samplers.optuna_samplers"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them; none becomes a zombie
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            drive(job["folder"], job["arguments"], job["environment"])
        print(pid, flush=True)


def drive(folder: str, arguments: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["nasctl", *arguments]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with open("exit", "w") as file:
            file.write(str(code))
        os._exit(code)


if __name__ == "__main__":
    main()
