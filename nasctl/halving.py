"""Layer 3: successive halving in a search: what a trial is compared with, and what was decided.

The rule itself is in `nasctl.rungs`. In the deterministic order a decision on trial n uses its own
value and trials before n - window alone, which are final by then, so it is a function of the
history whatever the timing; in the order `async` it uses everything there is. Decisions are
numbered by their order in the ledger, and one that was made is never made again: a trial that
comes to the same rung once more (its worker was lost) is answered as before.

Never stopped are controls, from which the rule's errors are estimated, and repeats of a network
that is known: stopping those that look bad would leave the mean of its lucky seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl import rungs
from nasctl.errors import EnvironmentProblemError
from nasctl.fidelity import HalvingSettings
from nasctl.ledger import Ledger
from nasctl.ledger_commits import LEFT_UNTOUCHED
from nasctl.rungs import Correlation, Past
from nasctl.trial import Evaluation, Objectives, State, Trial

if TYPE_CHECKING:
    from nasctl.engine import EngineSettings

DECISION = "decision"
RAISED = "rung_raised"
"""Kinds of events in the ledger."""

Events = Iterable[tuple[float, str, Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision of the numbered sequence in the ledger.

    Attributes:
        number: of the trial.
        rung: epochs.
        value: of the learned objective at the rung.
        cohort: trials with a value at this rung that were known, this one included.
        pairs: finished ones among them.
        probability: of joining the final front; None: too little was known.
        survives: in the surviving part; None where that was not asked.
        wanted: what the rule says: the trial has to end.
        exempt: why it goes on all the same: `control` or `repeat`.
        seconds: from the start of the attempt.
    """

    number: int
    rung: int
    value: float
    cohort: int
    pairs: int
    probability: float | None
    survives: bool | None
    wanted: bool
    exempt: str | None
    seconds: float

    @property
    def stops(self) -> bool:
        """Whether the trial ends here."""
        return self.wanted and self.exempt is None


def learned_objective(objectives: Objectives, costs: Iterable[str]) -> str | None:
    """The one objective that is not known before training; None if there is not exactly one."""
    learned = [m for m in objectives if m not in set(costs)]
    return learned[0] if len(learned) == 1 else None


def objective_problems(objectives: Objectives, costs: Iterable[str]) -> list[str]:
    """Why a search cannot use halving with these objectives; each a line for the user."""
    costs = set(costs)
    if learned_objective(objectives, costs) is not None:
        return []
    learned = ", ".join(m for m in objectives if m not in costs) or "none of them"
    return [
        "fidelity: halving compares one objective, as far as it was trained, with costs that are "
        f"known before; here training decides {learned}; use fidelity=full, or a family with costs"
    ]


def rung_value(evaluation: Evaluation, metric: str) -> float | None:
    """The value of a rung: after a cool-down where there was one, else as the epoch reports it."""
    return evaluation.metrics.get(f"rung_{metric}", evaluation.metrics.get(metric))


class Scale:
    """From trials to what the rule compares: oriented, scaled, costs in one order."""

    def __init__(self, objectives: Objectives, reference_point: Mapping[str, float]) -> None:
        self._objectives = objectives
        self._reference_point = reference_point

    def metric(self, trial: Trial) -> str:
        """The objective that is learned."""
        found = learned_objective(self._objectives, trial.cost)
        assert found is not None, "checked before the search"
        return found

    def value(self, metric: str, raw: float) -> float:
        """Larger is better."""
        return self._sign(metric) * rungs.scaled(raw, metric)

    def costs(self, trial: Trial) -> tuple[float, ...]:
        """Smaller is better."""
        metric = self.metric(trial)
        return tuple(-self._sign(m) * trial.cost[m] for m in self._objectives if m != metric)

    def reference(self, metric: str) -> tuple[float, tuple[float, ...]]:
        """The worst value and the worst costs that count."""
        point = self._reference_point
        costs = tuple(-self._sign(m) * point[m] for m in self._objectives if m != metric)
        return self.value(metric, point[metric]), costs

    def past(self, trial: Trial, epochs: Iterable[int], weight: float) -> Past | None:
        """A trial as the rule sees it; None for one that failed: it says nothing."""
        if trial.state is State.FAILED:
            return None
        metric = self.metric(trial)
        done = trial.state is State.COMPLETE
        return Past(
            network=trial.arch_id,
            costs=self.costs(trial),
            rungs={e: self.value(metric, v) for e, v in rung_values(trial, epochs, metric).items()},
            final=self.value(metric, trial.metrics[metric]) if done else None,
            weight=weight,
        )

    def _sign(self, metric: str) -> float:
        return 1.0 if self._objectives[metric] == "max" else -1.0


def rung_values(trial: Trial, epochs: Iterable[int], metric: str) -> dict[int, float]:
    """What a trial reached at the rungs among `epochs`, as it was reported."""
    wanted = set(epochs)
    found = {}
    for evaluation in trial.evaluations:
        value = rung_value(evaluation, metric) if evaluation.epoch in wanted else None
        if value is not None:
            found[evaluation.epoch] = value
    return found


def continued(
    rule: HalvingSettings | None, ledger: Ledger, search: EngineSettings
) -> Halving | None:
    """The rule of the run in a ledger, as far as it has come; None: the run has none."""
    if rule is None:
        return None
    return Halving(
        rule,
        objectives=search.objectives,
        reference_point=ledger.meta("reference_point"),
        epochs=search.epochs,
        seed=search.seed,
        window=search.window if search.order == "deterministic" else None,
        events=ledger.events(),
    )


class Halving:
    """The state of the rule in one search; continued from the events of its ledger.

    Args:
        settings: of the run.
        objectives: one of them is learned, the others are costs (`learned_objective`).
        reference_point: of the hypervolume.
        epochs: of a whole training.
        seed: of the run.
        window: of the deterministic order; None: the order is `async`.
        events: of the ledger.
    """

    def __init__(
        self,
        settings: HalvingSettings,
        *,
        objectives: Objectives,
        reference_point: Mapping[str, float],
        epochs: int,
        seed: int,
        window: int | None,
        events: Events,
    ) -> None:
        self._settings = settings
        self._scale = Scale(objectives, reference_point)
        self._seed = seed
        self._window = window
        self._all = settings.rungs(epochs)
        self._decisions, self._raised = recorded(events)
        self._stops = {d.number: d for d in self._decisions.values() if d.stops}
        self._past: dict[int, Past | None] = {}  # of trials that are final
        self._said: list[Past] = []  # those of them that say something, by number
        self._said_before = [0]  # how many of these are of trials before 0, 1, 2, ...
        self._first: dict[str, int] = {}  # network to its first trial, of those before `_listed`
        self._listed = 0

    def rungs_for(self, trial: Trial) -> tuple[int, ...]:
        """The rungs that count for a trial; none for reference networks, which nothing stops."""
        if trial.is_reference:
            return ()
        return active_rungs(self._all, self._raised, trial)

    def begin(self, trial: Trial, trials: Mapping[int, Trial]) -> Correlation | None:
        """To be called when a trial begins: raises the first rung if it ranks too badly.

        Returns:
            What was measured of the rung that decides nothing any more, to be recorded.
        """
        active = self.rungs_for(trial)
        if not active:
            return None
        past, least = self._known(trial, trials), self._settings.min_correlation
        found = rungs.correlation(past, active[0])
        # Where sizes differ much, slow learners turn the ranks of an early rung around. Predictions
        # know the costs, and may be good all the same.
        if not found.is_below(least):
            return None
        if not rungs.correlation(past, active[0], predicted=True).is_below(least):
            return None
        self._raised[active[0]] = trial.number
        return found

    def judge(
        self, trial: Trial, evaluation: Evaluation, trials: Mapping[int, Trial], seconds: float
    ) -> tuple[Decision | None, bool]:
        """The decision on a trial that has reported an epoch, and whether it is new.

        None where the epoch is no rung, or has no value.
        """
        rung = evaluation.epoch
        if (decided := self._decisions.get((trial.number, rung))) is not None:
            return decided, False
        if rung not in self.rungs_for(trial):
            return None, False
        metric = self._scale.metric(trial)
        value = rung_value(evaluation, metric)
        if value is None:
            return None, False
        verdict = rungs.judge(
            self._known(trial, trials),
            rung=rung,
            value=self._scale.value(metric, value),
            costs=self._scale.costs(trial),
            reference=self._scale.reference(metric),
            settings=self._settings,
        )
        decision = Decision(
            number=trial.number,
            rung=rung,
            value=value,
            cohort=verdict.cohort,
            pairs=verdict.pairs,
            probability=verdict.probability,
            survives=verdict.survives,
            wanted=verdict.stops(self._settings.p_stop),
            exempt=self._exemption(trial, trials),
            seconds=seconds,
        )
        self._decisions[trial.number, rung] = decision
        if decision.stops:
            self._stops[trial.number] = decision
        return decision, True

    def stopped(self, number: int) -> Decision | None:
        """The decision that ended a trial."""
        return self._stops.get(number)

    def values(self, trial: Trial) -> dict[int, float]:
        """What a trial reached at its rungs, as it was reported; nothing of one that failed: what
        came of it there may be where its trouble began."""
        if not trial.evaluations or trial.state is State.FAILED:
            return {}
        return rung_values(trial, self.rungs_for(trial), self._scale.metric(trial))

    def _exemption(self, trial: Trial, trials: Mapping[int, Trial]) -> str | None:
        if rungs.is_control(self._seed, trial.number, self._settings.control_every):
            return "control"
        for number in range(self._listed, trial.number + 1):
            self._first.setdefault(trials[number].arch_id, number)
        self._listed = max(self._listed, trial.number + 1)
        return "repeat" if self._first[trial.arch_id] < trial.number else None

    def _known(self, trial: Trial, trials: Mapping[int, Trial]) -> list[Past]:
        """The past of a decision on `trial`; see the module."""
        if self._window is None:
            found = (self._past_of(t) for n, t in trials.items() if n >= 0 and n != trial.number)
            return [p for p in found if p is not None]
        end = max(0, trial.number - self._window)
        while len(self._said_before) <= end:  # all of them are final
            past = self._past_of(trials[len(self._said_before) - 1])
            self._said += [past] if past is not None else []
            self._said_before.append(len(self._said))
        return self._said[: self._said_before[end]]

    def _past_of(self, trial: Trial) -> Past | None:
        if trial.number in self._past:
            return self._past[trial.number]
        weight = weight_of(trial, self._decisions, self._settings)
        past = self._scale.past(trial, self.rungs_for(trial), weight)
        if trial.state.is_final:
            self._past[trial.number] = past
        return past


def active_rungs(ladder: Iterable[int], raised: Mapping[int, int], trial: Trial) -> tuple[int, ...]:
    """The rungs that count for a trial: those that were not raised before it."""
    return tuple(r for r in ladder if trial.number < raised.get(r, trial.number + 1))


def weight_of(
    trial: Trial, decisions: Mapping[tuple[int, int], Decision], settings: HalvingSettings
) -> float:
    """1 / probability of a finished trial to be one, given what the rule said: see `Past`."""
    spared = any(
        d.wanted and d.exempt == "control" for e in trial.evaluations
        if (d := decisions.get((trial.number, e.epoch))) is not None
    )  # fmt: skip
    return float(settings.control_every) if spared else 1.0


def recorded(events: Events) -> tuple[dict[tuple[int, int], Decision], dict[int, int]]:
    """The decisions by (trial, rung), and the first trial for which a rung no longer counts.

    Raises:
        EnvironmentProblemError: one of them was not written by nasctl.
    """
    decisions = {}
    raised = {}
    for _, kind, data in events:
        try:
            if kind == DECISION:
                decision = Decision(**data)
                decisions[decision.number, decision.rung] = decision
            elif kind == RAISED:
                raised[int(data["rung"])] = int(data["before"])
        except (TypeError, ValueError, LookupError):
            text = f"the ledger has a {kind} that nasctl did not write; {LEFT_UNTOUCHED}"
            raise EnvironmentProblemError(text) from None
    return decisions, raised
