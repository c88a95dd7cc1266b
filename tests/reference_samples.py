"""Reference networks with results, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from nasctl.arch import Architecture
from nasctl.trial import Objectives, State, Trial
from tests import toy

OBJECTIVES: Objectives = {"accuracy": "max", "params": "min"}


def reference(number: int, architecture: Architecture | None = None, **changes: Any) -> Trial:
    """One that has not begun; the first two are networks of the toy space, far over any bound."""
    architecture = architecture or toy.decode({"depth": 7, "width": 7 + number})
    made = Trial(
        number=number,
        state=State.RUNNING,
        choices={"reference": "mobilenet_v2", "width": 0.25 * -number},
        architecture=architecture,
        seed=0,
        epochs=2,
        attempts=0,
        cost=toy.cost(architecture),
    )
    return dataclasses.replace(made, **changes)


REFERENCES = (reference(-1), reference(-2))
