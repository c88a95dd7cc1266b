"""What all blocks share: names of activations, rounding, arithmetic of shapes and its checks."""

from __future__ import annotations

from collections.abc import Mapping

from nasctl.arch import Block, Shape
from nasctl.errors import SpecError, unknown

ACTIVATIONS: Mapping[str, str] = {
    "linear": "Identity",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "LeakyReLU",
    "hard_swish": "Hardswish",
    "swish": "SiLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "gelu": "GELU",
}
"""Name to the class in torch.nn; `linear` is no activation."""

ACTIVATION_ALIASES: Mapping[str, str] = {"identity": "linear", "silu": "swish"}


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, but never below 90 % of it, nor 0.

    The rule of MobileNet's reference code (`_make_divisible` in tensorflow/models, slim).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


Size = int | tuple[int, int]
"""One number for both directions, or (along the height, along the width)."""


def normalise_activations(block: Block, *fields: str) -> None:
    """Gives activations their one name; to be called before anything else looks at the fields.

    Raises:
        SpecError: there is no such activation.
    """
    for field in fields:
        given = getattr(block, field)
        name = ACTIVATION_ALIASES.get(given, given)
        if name not in ACTIVATIONS:
            what = unknown("activation", given, ACTIVATIONS)
            raise SpecError(f"{block.op}.{field}: {what}")
        object.__setattr__(block, field, name)


def require_positive(block: Block, *names: str) -> None:
    """Checks fields that count something.

    Raises:
        SpecError: one of them is below 1.
    """
    problems = [
        f"{block.op}.{name}: must be at least 1, got {getattr(block, name)}"
        for name in names
        if min(pair(getattr(block, name))) < 1
    ]
    if problems:
        raise SpecError(problems)


def require_odd(block: Block, name: str) -> None:
    """Checks a kernel size that has to keep the size of the map.

    Raises:
        SpecError: it is even.
    """
    if getattr(block, name) % 2 == 0:
        raise SpecError(f"{block.op}.{name}: must be odd, got {getattr(block, name)}")


def feature_map(in_shape: Shape) -> tuple[int, int, int]:
    """(channels, height, width).

    Raises:
        SpecError: it is no feature map.
    """
    if len(in_shape) != 3:
        raise SpecError(f"needs a feature map (channels, height, width), got shape {in_shape}")
    channels, height, width = in_shape
    return channels, height, width


def pair(size: Size) -> tuple[int, int]:
    """(along the height, along the width)."""
    return size if isinstance(size, tuple) else (size, size)


def same_padding(kernel_size: Size) -> tuple[int, int]:
    """(k - 1) // 2 a side: odd kernels keep the size of the map at stride 1."""
    height, width = pair(kernel_size)
    return (height - 1) // 2, (width - 1) // 2


def windowed_shape(
    in_shape: Shape,
    out: int,
    kernel_size: Size,
    stride: int,
    *,
    padding: Size | None = None,
    ceil: bool = False,
) -> Shape:
    """The shape after a window slides over the map: (h + 2 padding - kernel_size) / stride + 1,

    rounded down, or up with `ceil` (as torch does it: no window begins beyond the map and its
    left padding). Without `padding` it is `same_padding`.

    Raises:
        SpecError: the stride is larger than the map, or the kernel than the padded map.
    """
    _, height, width = feature_map(in_shape)
    if stride > min(height, width):
        raise SpecError(f"stride {stride} is larger than the {height}x{width} feature map")
    pads = same_padding(kernel_size) if padding is None else pair(padding)
    kernels = pair(kernel_size)
    if any(k > side + 2 * pad for k, side, pad in zip(kernels, (height, width), pads, strict=True)):
        shown, by = _shown(kernel_size), _shown(pads if pads[0] != pads[1] else pads[0])
        raise SpecError(
            f"kernel_size {shown} is larger than the {height}x{width} feature map padded by {by}"
        )
    return (
        out,
        _positions(height, kernels[0], stride, pads[0], ceil=ceil),
        _positions(width, kernels[1], stride, pads[1], ceil=ceil),
    )


def _positions(side: int, kernel: int, stride: int, padding: int, *, ceil: bool) -> int:
    room = side + 2 * padding - kernel
    if not ceil:
        return room // stride + 1
    steps = -(-room // stride)
    return steps + 1 if steps * stride < side + padding else steps


def _shown(size: Size) -> str:
    return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)


def smallest_stride(
    in_shape: Shape, kernel_size: Size, stride: int, padding: Size | None = None
) -> int:
    """The smallest stride that visits the same positions: where there is one only, many do."""
    _, *sides = feature_map(in_shape)
    pads = same_padding(kernel_size) if padding is None else pair(padding)
    positions = [
        side + 2 * pad - kernel + 1
        for side, pad, kernel in zip(sides, pads, pair(kernel_size), strict=True)
    ]
    return min(stride, max(positions))
