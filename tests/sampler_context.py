"""What samplers are told of a search, for their tests."""

from __future__ import annotations

from nasctl.samplers import SamplerContext
from nasctl.space import Decision, SearchSpace

FLAT = SearchSpace(tuple(Decision(f"d{i}", (0, 1, 2, 3)) for i in range(8)))


def context(space: SearchSpace = FLAT, seed: int = 0) -> SamplerContext:
    return SamplerContext(space=space, directions=("max", "min"), seed=seed, trials=100)
