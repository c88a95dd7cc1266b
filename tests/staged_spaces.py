"""Small staged spaces of every kind, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nasctl.space import Family
from search_spaces.staged import staged

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "staged_ids.json"
TYPES = ["inverted_residual", "depthwise_separable", "residual_bottleneck", "skip"]


def family(side: int = 16, **options: Any) -> Family:
    return staged(input_shape=(3, side, side), num_classes=4, **options)


def packaged() -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "conf" / "mbv2_space.yaml").read_text())
    options: dict[str, Any] = config["space"]["options"]
    return options


def packaged_family() -> Family:
    return staged(input_shape=(1, 28, 28), num_classes=10, **packaged())


def scoped(choices: list[Any], scope: str) -> dict[str, Any]:
    return {"choices": choices, "scope": scope}


STEM = {"channels": 8}
SPACES: dict[str, dict[str, Any]] = {
    "fixed": {"stem": STEM, "stages": [{"channels": 8}]},
    "skips commute": {
        "stem": STEM,
        "stages": [{"channels": 16, "depth": [1, 2, 3], "stride": 2}],
        "block_type": scoped(["skip", "depthwise_separable", "residual_bottleneck"], "block"),
        "kernel_size": scoped([3, 5], "block"),
    },
    "stage choices of skipped blocks": {
        "stem": STEM,
        "stages": [{"channels": 8, "depth": 2}, {"channels": 16, "depth": [1, 2], "stride": 2}],
        "block_type": scoped(TYPES, "block"),
        "kernel_size": scoped([3, 5], "stage"),
        "expand_ratio": scoped([3, 6], "stage"),
    },
    "network choices of skipped blocks": {
        "stem": STEM,
        "stages": [{"channels": 8, "depth": [1, 2]}, {"channels": 16, "depth": 2}],
        "block_type": scoped(["skip", "inverted_residual"], "block"),
        "kernel_size": scoped([3, 5], "network"),
        "expand_ratio": scoped([1, 2, 2.1], "network"),
        "bottleneck_activation": ["linear", "relu6"],
    },
    "widths": {
        "stem": STEM,
        "stages": [{"channels": 16, "depth": [1, 2]}, {"channels": 24, "depth": 2, "stride": 2}],
        "block_type": ["skip", "depthwise_separable"],
        "width_multiplier": [0.5, 0.75, 1.0, 1.01],
        "head": {"channels": 24},
    },
    "width per block": {
        "stem": STEM,
        "stages": [{"channels": 16, "depth": [1, 2, 3], "stride": 2}],
        "block_type": scoped(["skip", "depthwise_separable"], "block"),
        "width_multiplier": scoped([0.5, 1], "block"),
    },
    "width per stage": {
        "stem": STEM,
        "stages": [{"channels": 16, "depth": [1, 2]}, {"channels": 16, "depth": [1, 3]}],
        "block_type": ["skip", "depthwise_separable"],
        "width_multiplier": scoped([0.5, 1], "stage"),
    },
    "resolutions": {
        "stem": {"channels": 8, "stride": 2},
        "resolution": [8, 12, 16],
        "stages": [{"channels": 8, "depth": [1, 2], "stride": 2}],
        "block_type": scoped(["skip", "depthwise_separable"], "block"),
    },
    "one type for the network": {
        "stem": STEM,
        "stages": [{"channels": 8, "depth": [1, 2]}, {"channels": 8, "depth": [1, 2]}],
        "block_type": scoped(TYPES, "network"),
        "kernel_size": scoped([3, 5], "network"),
        "expand_ratio": scoped([1, 6], "stage"),
        "bottleneck_activation": scoped(["linear", "relu6"], "block"),
    },
    "stages of their own": {
        "stem": STEM,
        "stages": [
            {"channels": 8, "depth": [1, 2], "block_type": "skip"},
            {"channels": 16, "depth": [1, 2], "block_type": TYPES, "width_multiplier": [0.5, 1]},
            {"channels": 16, "expand_ratio": scoped([1, 2], "block"), "kernel_size": 5},
        ],
        "kernel_size": scoped([3, 5], "network"),
        "bottleneck_activation": scoped(["linear", "relu", "relu6"], "stage"),
        "width_multiplier": [1, 2],
    },
    "whole alternatives": {
        "stem": STEM,
        "stages": [{"channels": 8, "depth": 2}, {"channels": 16, "depth": [1, 2], "stride": 2}],
        "block_type": scoped(
            [
                "skip",
                {"block_type": "inverted_residual", "kernel_size": 3, "expand_ratio": 1},
                {"block_type": "inverted_residual", "kernel_size": 5},
            ],
            "block",
        ),
        "expand_ratio": scoped([1, 2], "stage"),
    },
    "choices of several blocks": {  # a plain twin is two convolutions, as two blocks are
        "stem": {"channels": 8, "pool": 2},
        "stages": [{"channels": 8, "depth": [1, 2, 3, 4]}, {"channels": 16, "depth": [1, 2]}],
        "block_type": scoped(["conv", "residual_basic", "skip"], "block"),
        "shortcut": scoped(["A", "B", "none"], "stage"),
        "head": {"channels": 8, "hidden": 16, "activation": "hard_swish"},
    },
    "expanded maps": {  # channels between the blocks differ from those of the stage
        "stem": STEM,
        "stages": [{"channels": 8, "depth": [1, 3]}, {"channels": 8, "depth": 1}],
        "block_type": scoped(["expansion_residual", "skip"], "block"),
        "expand_ratio": scoped([1, 2], "block"),
        "residual": [True, False],
    },
}
