"""Profiles, for tests."""

from __future__ import annotations

from typing import Any

from nasctl.arch import Architecture, Block, Shape
from nasctl.profile import Profile, Target, find_target, profile_network
from search_spaces.blocks import (
    GlobalPoolLinear,
)


def profiled(name: str, **settings: Any) -> Profile:
    return profile_network(find_target(name, **settings))


def of_blocks(*blocks: Block, shape: Shape = (3, 32, 32)) -> Profile:
    chain = (*blocks, GlobalPoolLinear(out=10))
    architecture = Architecture(input_shape=shape, blocks=chain, num_classes=10)
    return profile_network(Target(name="mine", architecture=architecture))
