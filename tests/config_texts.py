"""Configurations from text, for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasctl.config import (
    LoadedConfig,
    load_config,
)
from nasctl.errors import ConfigError

BASED = "defaults: [search, _self_]\n"


def load(text: str, *overrides: str, name: str = "my.yaml") -> LoadedConfig:
    Path(name).write_text(text)
    return load_config(name, overrides)


def problems(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return caught.value.problems
