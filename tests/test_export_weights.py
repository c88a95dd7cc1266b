"""`nasctl export` of a network without weights: were they never kept, or are they gone?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.export.flow import _weights
from nasctl.trial import State


class Trained(NamedTuple):
    """As much of a trial."""

    arch_id: str
    state: State


class Records:
    """As much of a run as the weights of a network are looked for in."""

    directory = Path("runs/toy")
    verified = None

    def __init__(self, kept: set[str], noted: tuple[str, ...] = ()) -> None:
        self.kept = kept
        self.noted = noted

    def trials(self) -> list[Trained]:
        ended = [Trained("front", State.COMPLETE), Trained("other", State.COMPLETE)]
        return [*ended, Trained("pruned", State.PRUNED)]

    def references(self) -> list[Trained]:
        return []

    def weights(self, arch_id: str) -> Path | None:
        return Path(arch_id) if arch_id in self.kept else None

    best_weights = weights

    def meta(self, key: str) -> Any:
        return dict.fromkeys(self.noted, "sha") if key == "artifacts" else None


def said(records: Records, arch_id: str) -> str:
    with pytest.raises(EnvironmentProblemError) as caught:
        _weights(records, arch_id)  # type: ignore[arg-type]
    return str(caught.value)


def test_what_is_there_is_taken() -> None:
    assert _weights(Records({"front"}), "front") == Path("front")  # type: ignore[arg-type]


def test_gone_is_not_never_kept() -> None:
    gone = "runs/toy: the weights of {} are gone; only a copy of them helps"
    # Of members it is noted; of others, that a training ended where weights are kept.
    noted = Records(set(), ("front.json", "weights/front-s0.safetensors"))
    assert said(noted, "front") == gone.format("front")
    assert said(Records({"front"}), "other") == gone.format("other") + "; those of front are there"


def test_never_kept() -> None:
    never = "runs/toy: the weights of {} were not kept: its training did not end, or nothing was"
    assert said(Records({"front"}), "pruned").startswith(never.format("pruned"))
    assert said(Records(set()), "other").startswith(never.format("other"))
