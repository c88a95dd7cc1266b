"""Layer 2: what runs a network when its latency is asked for: ONNX Runtime, torch, a program."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nasctl.arch import Shape
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.latency_settings import LatencySettings, Timer, Timing

if TYPE_CHECKING:
    from torch import nn


class Runtime(Protocol):
    """Something that can be asked to time modules.

    Attributes:
        passes: None, or the rounds that make sense for a device that repeats by itself.
    """

    passes: int | None

    def prepare(self, module: nn.Module, input_shape: Shape) -> Timer:
        """Exports or compiles `module` for inputs (batch, *input_shape)."""
        ...

    def prepare_graph(self, model: bytes) -> Timer:
        """The same of a network that is an ONNX graph already, with an open batch.

        Raises:
            ConfigError: this runtime takes no ONNX graphs.
            EnvironmentProblemError: an operator that the runtime lacks.
        """
        ...


@contextlib.contextmanager
def open_runtime(settings: LatencySettings) -> Iterator[Runtime]:
    """The runtime that the settings name; its files and thread settings end with the context.

    Raises:
        ConfigError: a program that does not exist, a device that this torch does not have.
    """
    if settings.runtime == "onnxruntime":
        yield OnnxRuntime(batch=settings.batch, threads=settings.threads)
    elif settings.runtime == "command":
        with tempfile.TemporaryDirectory(prefix="nasctl-latency-") as folder:
            yield CommandRuntime(settings, Path(folder))
    else:
        import torch

        if settings.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"latency.device: {settings.device}, but torch sees no CUDA device")
        threads = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            yield TorchRuntime(settings)
        finally:
            torch.set_num_threads(threads)


class OnnxRuntime:
    """The exported graph in ONNX Runtime on the CPU."""

    passes: int | None = None

    def __init__(self, *, batch: int, threads: int) -> None:
        self._batch, self._threads = batch, threads

    def prepare(self, module: nn.Module, input_shape: Shape) -> Timer:
        from nasctl.onnx_runtime import SessionTimer, export_onnx

        model = export_onnx(module, input_shape, batch=self._batch)
        return SessionTimer(model, threads=self._threads)

    def prepare_graph(self, model: bytes) -> Timer:
        from nasctl.onnx_runtime import SessionTimer, with_batch

        return SessionTimer(with_batch(model, self._batch), threads=self._threads)


class TorchRuntime:
    """The module itself, eager or compiled, on CPU (wall clock) or CUDA (events).

    Batch norms are not folded. The CUDA path has not been run on the machine it was written on.
    """

    passes: int | None = None

    def __init__(self, settings: LatencySettings) -> None:
        self._settings = settings

    def prepare(self, module: nn.Module, input_shape: Shape) -> Timer:
        import torch

        s = self._settings
        dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
        inputs = torch.randn(s.batch, *input_shape, generator=torch.Generator().manual_seed(0)).to(
            s.device, dtype[s.dtype]
        )
        module = module.eval().to(s.device, dtype[s.dtype])
        if s.layout == "channels_last" and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        run: Callable[[Any], Any] = torch.compile(module, dynamic=False) if s.compile else module
        return _cuda_timer(run, inputs) if s.device != "cpu" else _cpu_timer(run, inputs)

    def prepare_graph(self, model: bytes) -> Timer:
        del model
        raise ConfigError("latency.runtime=torch runs no ONNX files; onnxruntime and command do")


def _cpu_timer(run: Callable[[Any], Any], inputs: Any) -> Timer:
    import torch

    def timer(calls: int) -> Timing:
        with torch.inference_mode():
            run(inputs)  # untimed: the caches still hold the network that was visited before
            stamps = [time.perf_counter_ns()]
            for _ in range(calls):
                run(inputs)
                stamps.append(time.perf_counter_ns())
        return Timing.between(stamps)

    return timer


def _cuda_timer(run: Callable[[Any], Any], inputs: Any) -> Timer:
    import torch

    def timer(calls: int) -> Timing:
        with torch.inference_mode(), torch.cuda.device(inputs.device):
            event: Any = torch.cuda.Event  # untyped
            events = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(calls)]
            run(inputs)  # the first call after other work may wait for memory or clocks
            for start, end in events:
                start.record()
                run(inputs)
                end.record()
            torch.cuda.synchronize()
        return Timing(calls_ms=tuple(start.elapsed_time(end) for start, end in events))

    return timer


class CommandRuntime:
    """A program that is given an ONNX file: a phone, a board over ssh, a vendor's simulator."""

    passes: int | None = 1

    def __init__(self, settings: LatencySettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._models = 0
        if shutil.which(settings.command[0]) is None:
            raise ConfigError(f"latency.command: no such program: {settings.command[0]}")

    def prepare(self, module: nn.Module, input_shape: Shape) -> Timer:
        from nasctl.onnx_runtime import export_onnx

        return self._timer(export_onnx(module, input_shape, batch=self._settings.batch))

    def prepare_graph(self, model: bytes) -> Timer:
        from nasctl.onnx_runtime import with_batch

        return self._timer(with_batch(model, self._settings.batch))

    def _timer(self, model: bytes) -> Timer:
        path = self._folder / f"{self._models}.onnx"
        self._models += 1
        path.write_bytes(model)

        def timer(calls: int) -> Timing:
            del calls  # the program decides how often
            return run_command(self._settings.command, path, self._settings.timeout_s)

        return timer


def run_command(command: tuple[str, ...], model: Path, timeout_s: float) -> Timing:
    """Runs the program once and reads its answer.

    Raises:
        EnvironmentProblemError: it hangs, fails, or prints something else than the JSON object.
    """
    arguments = [a.replace("{model}", str(model)) for a in command]
    if arguments == list(command):
        arguments.append(str(model))
    name = f"latency.command {command[0]}"
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that a hanging ssh below it can be ended with it
        )
    except OSError as error:
        raise EnvironmentProblemError(f"{name}: cannot be started: {error}") from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise EnvironmentProblemError(f"{name}: no answer in {timeout_s:g} s") from error
        finally:
            if process.poll() is None:  # it hangs, or we are being interrupted
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        said = err.decode(errors="replace").strip().splitlines()
        last = f": {said[-1][:200]}" if said else ""
        raise EnvironmentProblemError(f"{name}: exit status {process.returncode}{last}")
    return _parse_answer(name, out.decode(errors="replace"))


def _parse_answer(name: str, out: str) -> Timing:
    lines = out.strip().splitlines() or [""]
    try:
        answer = json.loads(lines[-1])
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise EnvironmentProblemError(
            f'{name}: expected {{"latency_ms": ...}} as its last line, got {lines[-1][:80]!r}'
        )
    values: dict[str, float | None] = {}
    for key in ("latency_ms", "p90_ms"):
        value = answer.get(key)
        if value is None and key == "p90_ms":
            values[key] = None
            continue
        if value is None:
            raise EnvironmentProblemError(f"{name}: its answer has no {key!r}: {lines[-1][:80]}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise EnvironmentProblemError(f"{name}: {key} is not a number: {value!r}")
        if not math.isfinite(value) or value <= 0:
            raise EnvironmentProblemError(f"{name}: {key} must be finite and above 0: {value!r}")
        values[key] = float(value)
    latency = values["latency_ms"]
    assert latency is not None
    return Timing(calls_ms=(latency,), p90_ms=values["p90_ms"])


def runtime_version(settings: LatencySettings) -> str:
    """`onnxruntime 1.31.1`, `torch 2.13.0 eager`, or the command with a hash of its files.

    Imports none of them.
    """
    if settings.runtime == "onnxruntime":
        return f"onnxruntime {metadata.version('onnxruntime')}"
    if settings.runtime == "torch":
        mode = "compiled" if settings.compile else "eager"
        return f"torch {metadata.version('torch')} {mode}"
    digest = hashlib.sha256(json.dumps(settings.command).encode())
    for argument in settings.command:
        found = shutil.which(argument) or argument
        with contextlib.suppress(OSError):  # most arguments are not files
            digest.update(Path(found).read_bytes())
    return f"command {Path(settings.command[0]).name} {digest.hexdigest()[:8]}"


def device_fingerprint(settings: LatencySettings) -> str:
    """Readable text that names everything a latency depends on, besides the network.

    Processor and visible cores (or the GPU), runtime and its version, the version of torch (its
    exporter makes the graph), batch, threads, dtype and layout.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores", runtime_version(settings)]
    if settings.device != "cpu":
        import torch

        name = torch.cuda.get_device_name(settings.device) if torch.cuda.is_available() else "none"
        parts.insert(1, f"{settings.device} {name}")
    if settings.runtime != "torch":
        parts.append(f"exported by torch {metadata.version('torch')}")
    parts += [
        f"batch {settings.batch}",
        f"threads {settings.threads}",
        settings.dtype,
        settings.layout,
    ]
    return "; ".join(parts)


def _processor() -> str:
    """The model name with family and model numbers: clouds call many processors the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    numbers = "/".join(facts[k] for k in ("cpu family", "model", "stepping") if k in facts)
    return f"{name} ({numbers})" if numbers else name
