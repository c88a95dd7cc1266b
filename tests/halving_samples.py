"""Decisions of halving, for its tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from nasctl.engine import Engine
from nasctl.halving import Decision, recorded
from nasctl.trial import Work


def work(engine: Engine) -> Work:
    found = engine.next()
    assert isinstance(found, Work)
    return found


def decisions(engine: Engine) -> dict[tuple[int, int], Decision]:
    return recorded(engine._ledger.events())[0]


def rule_of(engine: Engine) -> list[tuple[Any, ...]]:
    """Every decision without its time, in the order of trials."""
    found = sorted(decisions(engine).values(), key=lambda d: (d.number, d.rung))
    return [dataclasses.astuple(dataclasses.replace(d, seconds=0.0)) for d in found]
