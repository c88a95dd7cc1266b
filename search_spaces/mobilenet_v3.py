"""MobileNetV3 (arXiv 1905.02244), large and small, at any width multiplier."""

from __future__ import annotations

from functools import partial

from nasctl.arch import Architecture, Block, Shape
from search_spaces.blocks import ConvNormActivation, GlobalPoolMlp, InvertedResidual
from search_spaces.blocks.shapes import make_divisible
from search_spaces.published import Published

Row = tuple[int, int, int, bool, str, int]
"""Kernel, expanded channels, channels, squeeze-and-excite, activation, stride."""

RE, HS = "relu", "hard_swish"

LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
)
"""Table 1."""

SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
)
"""Table 2."""


def mobilenet_v3(
    input_shape: Shape, num_classes: int, width: float = 1, *, rows: tuple[Row, ...], hidden: int
) -> Architecture:
    """Tables 1 and 2: a 3x3 stem, the rows, a 1x1 to 6 x their last channels, and the head.

    Args:
        input_shape: (channels, height, width).
        num_classes: of the output.
        width: scales every layer but the output.
        rows: of the table.
        hidden: channels of the layer between pooling and output.

    Raises:
        SpecError: an input that is too small.
    """
    channels = make_divisible(16 * width)
    chain: list[Block] = [ConvNormActivation(out=channels, stride=2, activation=HS)]
    for kernel_size, expanded, out, squeeze_excite, activation, stride in rows:
        chain.append(
            InvertedResidual(
                out=make_divisible(out * width),
                kernel_size=kernel_size,
                stride=stride,
                expand_ratio=make_divisible(expanded * width) / channels,
                activation=activation,
                se_ratio=0.25 if squeeze_excite else 0,
            )
        )
        channels = make_divisible(out * width)
    chain += [
        ConvNormActivation(out=6 * channels, kernel_size=1, activation=HS),
        GlobalPoolMlp(
            out=num_classes, hidden=make_divisible(hidden * width), activation=HS, dropout=0.2
        ),
    ]
    return Architecture(input_shape=input_shape, blocks=tuple(chain), num_classes=num_classes)


NETWORKS: dict[str, Published] = {
    f"mobilenet_v3_{size}": Published(
        make=partial(mobilenet_v3, rows=rows, hidden=hidden),
        scalable=True,
        source=f"Howard et al. 2019, arXiv 1905.02244, table {table}; layout of torchvision",
    )
    for size, rows, hidden, table in (("large", LARGE, 1280, 1), ("small", SMALL, 1024, 2))
}
