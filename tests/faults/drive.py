"""Runs nasctl for the fault tests: in this process where that does, as a user does otherwise."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nasctl import cli
from nasctl.doctor import Diagnosis, examine
from nasctl.records import RunRecords
from tests.e2e.command import Desk
from tests.e2e.warm import Command

ROOT = Path(__file__).parent.parent.parent
PLUGIN = ("--plugin", "tests.faults.plugin")
TOY = """\
defaults: [search, _self_, override tracking: none, override sampler: random]
name: toy
trials: 12
space: {family: toy, options: {size: 6}}
recipe: {epochs: 2}
evaluator: lookup
executor: {cpus: 0.5}
"""
SEARCH = ("search", "toy.yaml", *PLUGIN)
INLINE = "executor=inline"


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line of its error."""
        (line,) = [x for x in self.err.splitlines() if x.startswith("Error: ")]
        assert "Traceback" not in self.err
        return line


@dataclass(frozen=True)
class Bench(Desk):
    """A desk with the table of accidents; commands run in the folder."""

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return {**super().environment, "PYTHONPATH": path, "FAULT_FOLDER": str(self.folder)}

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "toy"

    @property
    def toy(self) -> RunRecords:
        return self.records("toy")

    def call(self, *arguments: str, **environment: str) -> Said:
        """`nasctl ARGUMENTS` in this process, without its start-up time."""
        out, err = io.StringIO(), io.StringIO()
        names = ("FAULT_FOLDER", "NASCTL_CACHE", "PYTHONPATH")
        environment = {**{k: self.environment[k] for k in names}, **environment}
        before = {k: os.environ.get(k) for k in environment}
        argv, sys.argv = sys.argv, ["nasctl", *arguments]
        os.environ.update(environment)
        code = 0
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                cli.main()
            except SystemExit as done:
                code = int(done.code or 0)
            finally:
                sys.argv = argv
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
        return Said(code, out.getvalue(), err.getvalue())

    def finished(self) -> list[str]:
        """(network, seed) of each training that came to its end, as text."""
        log = self.folder / "finished"
        return log.read_text().splitlines() if log.exists() else []

    def diagnosis(self, run: str = "toy") -> Diagnosis:
        return examine(self.folder / "runs" / run)

    def assert_sound(self, run: str = "toy", *, seconds: float = 0.0) -> Diagnosis:
        """What the doctor says, who may be asked again while processes are still going."""
        until = time.monotonic() + seconds
        while True:
            found = self.diagnosis(run)
            if found.sound or time.monotonic() > until:
                break
            time.sleep(0.2)
        assert found.sound, "\n".join(c.to_line() for c in found.checks)
        return found

    def copy(self, folder: Path) -> Bench:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Bench(folder, self.cache)


def kill(process: Command | subprocess.Popen[str]) -> None:
    """SIGKILL for the driver alone, as the kernel's OOM killer and an impatient user do."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def states(bench: Bench, run: str = "toy") -> Mapping[str, int]:
    """How many trials are in every state that there is one in."""
    counts = bench.records(run).front["trials"]
    return {state: n for state, n in counts.items() if n}
