"""Layer 2: what is meant by latency, and what a timing is. Validation needs it: light imports."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nasctl.errors import ConfigError, unknown

RUNTIMES = ("onnxruntime", "torch", "command")
DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = ("nchw", "channels_last")


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What latency means here, and how long to measure it.

    Args:
        runtime: `onnxruntime` (the exported graph), `torch` (the module; a diagnostic: eager
            latency follows the number of layers, not what a deployed graph costs), or `command`.
        batch: images per call.
        threads: of the runtime, within an operation.
        dtype: float32; float16 and bfloat16 with the torch runtime only.
        layout: nchw; channels_last with the torch runtime only. (ONNX Runtime picks its own
            inner layout.)
        device: `cpu`, or `cuda`/`cuda:N` with the torch runtime.
        compile: torch runtime: torch.compile instead of eager. Seconds per block.
        command: any program that takes an ONNX file and prints
            `{"latency_ms": ..., "p90_ms": ...}` (p90 optional) as its last line. `{model}` in an
            argument is replaced by the file's path; without it the path is appended.
        timeout_s: of one run of the command.
        calibration_networks: whole networks on which the sum of blocks is corrected.
        calls: timed consecutive calls per visit; see `nasctl.latency_rounds`.
        rounds: at most; a command is asked once, since it repeats as it likes.
        precision: rounds end when 95 % of the medians have this relative standard error.
        budget_s: rounds end after this much time.

    Raises:
        ConfigError: every value that cannot be, at once.
    """

    runtime: Literal["onnxruntime", "torch", "command"] = "onnxruntime"
    batch: int = 1
    threads: int = 1
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    layout: Literal["nchw", "channels_last"] = "nchw"
    device: str = "cpu"
    compile: bool = False
    command: tuple[str, ...] = ()
    timeout_s: float = 60.0
    calibration_networks: int = 10
    calls: int = 4
    rounds: int = 100
    precision: float = 0.01
    budget_s: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        problems = [
            f"latency.{name}: {unknown(name, value, valid)}"
            for name, value, valid in (
                ("runtime", self.runtime, RUNTIMES),
                ("dtype", self.dtype, DTYPES),
                ("layout", self.layout, LAYOUTS),
            )
            if value not in valid
        ]
        problems += [
            f"latency.{name}: must be at least 1, got {value}"
            for name in ("batch", "threads", "calibration_networks", "calls", "rounds")
            if (value := getattr(self, name)) < 1
        ]
        problems += [
            f"latency.{name}: must be above 0, got {value}"
            for name in ("timeout_s", "precision", "budget_s")
            if not (value := getattr(self, name)) > 0
        ]
        problems += self._contradictions()
        if problems:
            raise ConfigError(problems)

    def _contradictions(self) -> Iterator[str]:
        if self.runtime == "command" and not self.command:
            yield "latency.command: missing; latency.runtime=command needs a program to run"
        if self.runtime != "command" and self.command:
            yield f"latency.command: given, but latency.runtime={self.runtime}"
        if self.device != "cpu" and not _is_cuda(self.device):
            yield f"latency.device: {unknown('device', self.device, ('cpu', 'cuda', 'cuda:0'))}"
        if self.runtime == "torch":
            return
        for name, default in (
            ("dtype", "float32"),
            ("layout", "nchw"),
            ("device", "cpu"),
            ("compile", False),
        ):
            if (value := getattr(self, name)) != default:
                yield f"latency.{name}: {value} needs latency.runtime=torch, not {self.runtime}"


def _is_cuda(device: str) -> bool:
    kind, _, number = device.partition(":")
    return kind == "cuda" and (device == "cuda" or number.isdigit())


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one visit gave: the time of every call, and the device's own p90 where it tells one."""

    calls_ms: tuple[float, ...]
    p90_ms: float | None = None

    @classmethod
    def between(cls, stamps_ns: Sequence[int]) -> Timing:
        """The calls between consecutive time stamps."""
        return cls(calls_ms=tuple((b - a) / 1e6 for a, b in itertools.pairwise(stamps_ns)))


class Timer(Protocol):
    """Something ready to run: times `calls` consecutive calls."""

    def __call__(self, calls: int) -> Timing: ...
