"""Layer 2: when bfloat16 pays, and the convolutions that it must not touch on a CPU."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


AMX = "amx_bf16"


def bf16_pays(device: torch.device) -> bool:
    """What `amp: auto` means: bfloat16 on GPUs that compute in it and on CPUs with AMX.

    On one core of a Sapphire Rapids server, relative to float32 (`benchmarks/training.py`, `--amp
    bf16` and `--amp off`): 1.19 for inverted residuals, 1.23 for bottlenecks, 0.94 for depthwise
    separable blocks; up to 2 for ResNets of plain 3x3 convolutions. With AVX512-BF16 alone
    (ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16) it never paid, so such CPUs stay in float32.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not may_have_amx():
        return False
    ask = getattr(torch.cpu, "get_capabilities", None)  # older torch cannot tell: float32
    return ask is not None and bool(ask().get(AMX))


def may_have_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """False where Linux offers processes no AMX in bfloat16; takes no torch to know."""
    try:
        return AMX in cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # another system
        return True


def effective(amp: str, *, may_use_gpu: bool) -> Literal["bfloat16", "float32"]:
    """What a recipe's `amp` comes to on this machine, for the record.

    Args:
        amp: `auto`, `bf16` or `off`.
        may_use_gpu: whether trainings are given a GPU, where there is one.
    """
    if amp == "bf16":
        return "bfloat16"
    if amp == "off" or not (may_use_gpu or may_have_amx()):
        return "float32"
    import torch  # seconds, in which no training begins

    on_gpu = may_use_gpu and torch.cuda.is_available()
    pays = bf16_pays(torch.device("cuda" if on_gpu else "cpu"))
    return "bfloat16" if pays else "float32"


def slow_convolutions_in_float32() -> contextlib.AbstractContextManager[object]:
    """Inside autocast on a CPU: depthwise convolutions that stride or are large, in float32.

    oneDNN's bfloat16 kernels for their gradients are slow enough (10 times float32, for the first
    strided block of a MobileNetV2) to make the whole network slower than without autocast.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Float32(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's
            # The signature is torch's, which leaves it untyped.
            del types
            if func is not torch.conv2d or not is_slow(args):
                return func(*args, **(kwargs or {}))
            images, weight, bias, *rest = args
            with torch.autocast("cpu", enabled=False):
                out = func(images.float(), weight, bias, *rest)
            return out.to(torch.bfloat16)

    return Float32()


def is_slow(arguments: tuple[object, ...]) -> bool:
    """Of `conv2d(images, weight, bias, stride, padding, dilation, groups)`, as modules call it."""
    import torch

    if len(arguments) < 7:
        return False
    _, weight, _, stride, _, _, groups = arguments
    assert isinstance(weight, torch.Tensor)
    assert isinstance(stride, tuple)
    return groups == weight.shape[0] > 1 and (max(stride) > 1 or max(weight.shape[2:]) > 3)
