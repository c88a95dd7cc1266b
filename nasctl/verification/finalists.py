"""Layer 4: the finalists of a search: its front, what comes near it, and what it is compared with.

Who is one is decided by what the search saw, its validation accuracies; test data has no part in
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nasctl.arch import Architecture, Block, Cost
from nasctl.budget import best_within, read_budget
from nasctl.errors import ConfigError, EnvironmentProblemError, NothingFeasibleError
from nasctl.front import Entry, front_entries, make_entry, near_front_entries
from nasctl.pareto import dominated_by
from nasctl.records import RunRecords
from nasctl.space import Choices
from nasctl.trial import Objectives, State, Trial
from nasctl.verification.settings import VerifySettings

Role = Literal["member", "near", "reference"]


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A network to be verified, with what the search promised of it.

    Attributes:
        role: `member` of the searched front, `near` it, or a `reference` network, which is compared
            with and never a member.
        name: of a reference network.
        cost: everything known before training, as the search had it.
        cost_intervals: of the predicted ones.
        searched: the values of the search, `latency_ms_measured` among them where there is one.
        searched_uncertainty: of those, as `front.json` has it.
        used_seeds: of its trainings in the search.
    """

    architecture: Architecture
    role: Role
    choices: Choices
    cost: Mapping[str, float]
    cost_intervals: Mapping[str, tuple[float, float]]
    searched: Mapping[str, float]
    searched_uncertainty: Mapping[str, Mapping[str, Any]]
    used_seeds: tuple[int, ...]
    name: str = ""

    @property
    def arch_id(self) -> str:
        return self.architecture.id

    @property
    def is_contender(self) -> bool:
        """Whether it may be a member of the verified front."""
        return self.role != "reference"

    @property
    def label(self) -> str:
        """How people call it."""
        return self.name or self.arch_id

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `from_json` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "arch_id": self.arch_id,
            **plain,
            "architecture": self.architecture.to_json(),
            "choices": dict(self.choices),
            "cost": dict(self.cost),
            "cost_intervals": {k: list(v) for k, v in self.cost_intervals.items()},
            "searched": dict(self.searched),
            "searched_uncertainty": {k: dict(v) for k, v in self.searched_uncertainty.items()},
            "used_seeds": list(self.used_seeds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], block_types: Mapping[str, type[Block]]) -> Finalist:
        """The inverse of `to_json`.

        Args:
            block_types: op name to class.
        """
        given = {k: v for k, v in data.items() if k != "arch_id"}
        return cls(
            **{
                **given,
                "architecture": Architecture.from_json(data["architecture"], block_types),
                "cost": Cost(**data["cost"]),
                "cost_intervals": {k: (v[0], v[1]) for k, v in data["cost_intervals"].items()},
                "used_seeds": tuple(data["used_seeds"]),
            }
        )


def choose_finalists(records: RunRecords, settings: VerifySettings) -> list[Finalist]:
    """The members of the front, best first, then the nearest candidates, then references.

    With `settings.at` it is one network, the best member within that budget.

    Raises:
        NothingFeasibleError: there is no front.
        ConfigError: the budget names an unknown metric.
    """
    objectives = records.objectives
    members = front_entries(records.entries, objectives)
    if not members:
        raise NothingFeasibleError(
            f"{records.directory}: there is no front to verify: no training of it has finished"
        )
    if settings.at is not None:
        best = best_within(records.front, *read_budget(settings.at))["arch_id"]
        return [_of(e, "member", records) for e in members if e.arch_id == best]
    near = nearest(near_front(records.entries, members, objectives), members, objectives)
    found = [_of(e, "member", records) for e in members]
    found += [_of(e, "near", records) for e in near[: settings.near]]
    if settings.references:
        found += _references(records, {f.arch_id for f in found})
    return found


def near_front(
    entries: Sequence[Entry], members: Sequence[Entry], objectives: Objectives
) -> list[Entry]:
    """Candidates off the front that may belong to it: their intervals reach it.

    Where the run says nothing of how values scatter (an evaluator that was asked once for each
    network), nothing tells who may: then it is all of them.
    """
    judged = judged_metric(objectives)
    known = [e.uncertainty[judged].interval for e in entries if judged in e.uncertainty]
    if any(low < high for low, high in known):
        return near_front_entries(entries, members, objectives)
    ids = {e.arch_id for e in members}
    return [e for e in entries if e.arch_id not in ids and all(m in e.decisive for m in objectives)]


def nearest(near: Sequence[Entry], members: Sequence[Entry], objectives: Objectives) -> list[Entry]:
    """Candidates near the front, those first that lack least of the judged metric to be on it.

    What one lacks is how much better the best of the members that dominate it is; ties are in the
    order of the first training.
    """
    judged = judged_metric(objectives)
    sign = 1 if objectives[judged] == "max" else -1
    better = [m.decisive for m in members]

    def lacks(entry: Entry) -> float:
        over = dominated_by(entry.decisive, better, objectives)
        own = entry.decisive[judged]
        return max((sign * (better[i][judged] - own) for i in over), default=0.0)

    return sorted(near, key=lacks)


def judged_metric(objectives: Objectives) -> str:
    """The objective that trainings are about: accuracy, else the first."""
    return "accuracy" if "accuracy" in objectives else next(iter(objectives))


def _of(entry: Entry, role: Role, records: RunRecords) -> Finalist:
    trials = [t for t in records.trials() if t.arch_id == entry.arch_id]
    return _finalist(entry, role, trials)


def _finalist(entry: Entry, role: Role, trials: Sequence[Trial], name: str = "") -> Finalist:
    plain = entry.to_json()
    first = next(t for t in trials if t.state is State.COMPLETE)
    return Finalist(
        architecture=entry.architecture,
        role=role,
        choices=entry.choices if role != "reference" else {},
        cost=first.cost,
        cost_intervals=first.cost_intervals,
        searched=plain["metrics"],
        searched_uncertainty=plain["uncertainty"],
        used_seeds=tuple(t.seed for t in trials),
        name=name,
    )


def _references(records: RunRecords, taken: set[str]) -> list[Finalist]:
    """Those with a result; one that the search has found as well is a finalist already."""
    return [
        _finalist(
            make_entry(
                [t], records.measurements.get(t.arch_id), records.meta("validation_images"), 0
            ),
            "reference",
            [t],
            t.label,
        )
        for t in records.references()
        if t.state is State.COMPLETE and t.arch_id not in taken
    ]


def with_blocks(
    finalists: Sequence[Finalist],
    block_types: Mapping[str, type[Block]],
    *,
    plugins: Mapping[str, str],
    given: Mapping[str, str],
) -> list[Finalist]:
    """The same with the blocks of plugins in place of what a ledger reads them as.

    Args:
        plugins: that the run was made with.
        given: that are here.

    Raises:
        ConfigError: a plugin of the run is missing.
    """
    missing = [name for name in plugins if name not in given]
    if missing:
        raise ConfigError(f"--plugin {missing[0]}: the run was made with it; give it again")
    return [
        dataclasses.replace(
            f, architecture=Architecture.from_json(f.architecture.to_json(), block_types)
        )
        for f in finalists
    ]


def finalists_of(
    stored: object, block_types: Mapping[str, type[Block]], *, where: str
) -> list[Finalist]:
    """As a ledger keeps them.

    Raises:
        EnvironmentProblemError: it has none, or they cannot be read.
    """
    if not isinstance(stored, list):
        raise EnvironmentProblemError(f"{where}: it does not say what is verified")
    try:
        return [Finalist.from_json(f, block_types) for f in stored]
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentProblemError(f"{where}: its finalists cannot be read: {error}") from None
