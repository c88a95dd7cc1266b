"""Configurations of ablations for tests: short texts, and what loading them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasctl.config import (
    LoadedAblation,
    load_config,
)
from nasctl.errors import ConfigError

BASED = "defaults: [ablate, _self_]\n"
STUDY = BASED + "baseline: {network: mobilenet_v2, width: 0.25}\n"
FACTOR = STUDY + "factors: {bottleneck_activation: [linear, relu6]}\n"
FACTORS = {"act": ["linear", "relu6"], "se": ["false", "true"], "last": ["relu6", "none"]}


def load(text: str, *overrides: str, name: str = "my.yaml") -> LoadedAblation:
    Path(name).write_text(text)
    return load_config(name, overrides, kind="ablate")


def problems(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems
