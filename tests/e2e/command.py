"""Runs the public command as a user does: a process, files, signals."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.errors import EnvironmentProblemError
from nasctl.records import RunRecords
from nasctl.trial import State, Trial
from tests.e2e.warm import Command, warm

DIGITS = """\
defaults: [search, _self_, override data: digits]
name: digits
trials: 6
objectives: {accuracy: max, latency_ms: min, params: min}
recipe: {epochs: 2, batch_size: 32, lr: 0.3}
search: {window: 2}
space:
  options:
    stem: {channels: 8}
    stages:
      - {channels: 8, depth: [1, 2], stride: 1}
      - {channels: 16, depth: 1, stride: 2}
    width_multiplier: {choices: [1.0, 2.0], scope: network}
    block_type: {choices: [inverted_residual, depthwise_separable], scope: stage}
    expand_ratio: {choices: [2, 4], scope: stage}
    kernel_size: {choices: [3, 5], scope: network}
    bottleneck_activation: linear
"""
"""A space on scikit-learn's 8x8 digits: a training takes a second."""

TABLE = '''\
"""A table as a search problem: two decisions, accuracies from a formula."""
import os, signal, time
from nasctl.api import Architecture, Cost, Decision, Family, Opaque, SearchSpace

def family(*, size=8):
    numbers = tuple(range(size))
    space = SearchSpace((Decision("depth", numbers), Decision("width", numbers)))
    def decode(choices):
        block = Opaque("cell", depth=choices["depth"], width=choices["width"])
        return Architecture(input_shape=(1, 8, 8), blocks=(block,), num_classes=10)
    def cost(architecture):
        values = dict(architecture.blocks[0].values)
        return Cost(latency_ms=1.0 + values["depth"], params=10.0 + values["width"])
    return Family(space=space, decode=decode, cost=cost)

def values(architecture):
    values = dict(architecture.blocks[0].values)
    return values["depth"], values["width"]

def formula(architecture, *, budget, seed):
    depth, width = values(architecture)
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    return {"accuracy": 0.5 + 0.04 * depth + 0.02 * width}

def moody(architecture, *, budget, seed):
    depth, width = values(architecture)
    if depth == 1:
        raise ValueError("no such network <b>here</b>")
    for epoch in range(budget):
        yield {"accuracy": float("nan") if depth == 2 else 0.1 * depth}

FAMILIES = {"toy": family}
def noisy(architecture, *, budget, seed):
    print("nothing that belongs on stdout")
    return {"accuracy": 0.5}

EVALUATORS = {"formula": formula, "moody": moody, "noisy": noisy}
'''

TOY = """\
defaults: [search, _self_, override tracking: none]
name: toy
trials: 12
space: {family: toy, options: {size: 5}}
evaluator: formula
"""


@dataclass(frozen=True)
class Desk:
    """A folder that a user works in, with a configuration and a cache of its own."""

    folder: Path
    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "NASCTL_CACHE": str(self.cache), "PYTHONWARNINGS": "default"}

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts `nasctl ARGUMENTS` in a process group of its own, as a shell does."""
        return subprocess.Popen(
            [sys.executable, "-m", "nasctl", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start_warm(self, *arguments: str, **environment: str) -> Command:
        """The same, one after the other, without the imports; see `warm`."""
        environment = {**self.environment, **environment}
        return warm().start(arguments, folder=self.folder, environment=environment)

    def run(
        self, *arguments: str, code: int = 0, timeout: float = 240, **environment: str
    ) -> tuple[str, str]:
        """stdout and stderr of the command, which must end with `code`."""
        return ended(self.start_warm(*arguments, **environment), code, timeout)

    def run_afresh(self, *arguments: str, **environment: str) -> tuple[str, str]:
        """The same in a new process, with another order of sets."""
        return ended(self.start(*arguments, **environment), 0, 240)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json")[0])

    def records(self, run: str) -> RunRecords:
        return RunRecords(self.folder / "runs" / run)

    def trials(self, run: str) -> list[Trial]:
        return self.records(run).trials()

    def wait_for(
        self,
        run: str,
        process: subprocess.Popen[str],
        condition: Callable[[list[Trial]], bool],
        seconds: float = 120,
    ) -> None:
        """Until the ledger of a running search satisfies a condition."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            if (self.folder / "runs" / run / "ledger.sqlite").exists():
                # Until its first commit a ledger has no tables and no version.
                with contextlib.suppress(EnvironmentProblemError):
                    if condition(self.trials(run)):
                        return
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"{run}: nothing came of it; exit {process.returncode}\n{out}\n{err}")


def ended(process: Command | subprocess.Popen[str], code: int, timeout: float) -> tuple[str, str]:
    """What the command said, which must end with `code` in time."""
    try:
        out, err = process.communicate(timeout=timeout)
    except (subprocess.TimeoutExpired, TimeoutError):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"timed out\n{out}\n{err}") from None
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    return out, err


def completed(trials: list[Trial]) -> int:
    return sum(t.state is State.COMPLETE for t in trials)


def history(trials: list[Trial]) -> list[tuple[int, str, str, float | None]]:
    return [(t.number, t.arch_id, t.state.value, t.metrics.get("accuracy")) for t in trials]
