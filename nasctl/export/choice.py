"""Layer 4: which network of a run is the best within a budget, by what is known best of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasctl.budget import best_within, read_budget
from nasctl.records import RunRecords
from nasctl.verification.fronts import IN_INT8, Front, front_of, shown

_JUDGED = ("kept", "fell", "joined", "near")
"""What a verification says of networks that it has an opinion of."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A network within a budget.

    Attributes:
        at: the budget, as given.
        values_of: whose values of this network were held against it: `verification`,
            `verification, in int8`, or `search`.
    """

    arch_id: str
    at: str
    values_of: str

    def to_json(self) -> dict[str, str]:
        return {"at": self.at, "values_of": self.values_of}

    def line(self) -> str:
        """For people."""
        return f"{self.arch_id} is the best at {self.at}, by the values of the {self.values_of}"


def choose(records: RunRecords, at: str) -> Choice:
    """The best network for METRIC=VALUE.

    Args:
        at: the budget; see `nasctl.budget`.

    Raises:
        ConfigError: it is none, or nothing has that metric.
        NothingFeasibleError: no network is within it; names the closest.
    """
    found = best_within(known_front(records), *read_budget(at))
    return Choice(arch_id=str(found["arch_id"]), at=at, values_of=str(found["values_of"]))


def known_front(records: RunRecords) -> dict[str, Any]:
    """As `front.json`, each member with `values_of`: the verified front, and those members of the
    searched one that no verification has judged (`nasctl verify --at` judges one network).

    Accuracies are those of validation images in both: test images choose nothing. A front that was
    judged by int8 files is chosen from by their values, by those names of metrics that decided.
    """
    verified = records.verified or {}
    front = front_of(verified)
    judged = {
        entry["arch_id"]
        for part in ("members", "candidates")
        for entry in verified.get(part, ())
        if entry.get("status") in _JUDGED
    }
    members = [
        {
            "arch_id": e["arch_id"],
            "metrics": _deciding(e["metrics"], front),
            "values_of": "verification" if front == "trained" else "verification, in int8",
        }
        for e in verified.get("members", ())
    ]
    members += [
        {**member, "values_of": "search"}
        for member in records.front["members"]
        if member["arch_id"] not in judged
    ]
    return {"objectives": records.objectives, "members": members}


_JUDGED_ON_IMAGES = ("accuracy", IN_INT8["accuracy"])


def _deciding(metrics: Mapping[str, float], front: Front) -> dict[str, float]:
    """Each metric with the value that decided about the front; none with one of test images."""
    of_validation = {n: f"{n}_val" for n in _JUDGED_ON_IMAGES if f"{n}_val" in metrics}
    known = {**metrics, **{name: metrics[val] for name, val in of_validation.items()}}
    return {name: known.get(shown(name, front), value) for name, value in known.items()}
