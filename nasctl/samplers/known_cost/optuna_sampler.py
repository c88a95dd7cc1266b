"""The strategy as a sampler for plain Optuna studies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from nasctl.arch import Scalar
from nasctl.samplers.base import Known, Observation
from nasctl.samplers.known_cost.aim import Aim
from nasctl.samplers.known_cost.strategy import KnownCostStrategy, Options
from nasctl.space import Choices, Decision, SearchSpace
from nasctl.trial import Direction

Costs = Callable[[Mapping[str, Any]], Sequence[float] | None]


class KnownCostSampler(BaseSampler):
    """Expected hypervolume improvement where all objectives but one are known before a trial.

    A study with one expensive objective and cheap exact ones: accuracy against parameters, latency
    from a table, price. The model answers only for the expensive one.

        sampler = KnownCostSampler(
            {"depth": [1, 2, 3], "width": [16, 32, 64]},
            costs=lambda params: [count_parameters(**params)],
            unknown=0, upper_bound=1.0, reference_point=[0.8, 1e6], seed=0,
        )
        study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])

    Results are learned in the order of trial numbers among those finished; running trials count as
    if they had turned out as expected.

    Args:
        space: choices by parameter, suggested with `suggest_categorical` and the same choices; or a
            `SearchSpace` with conditions. Parameters outside of it are drawn at random.
        costs: the known objectives of some parameters, in the order of the study; None: infeasible,
            never to be proposed.
        unknown: position of the expensive objective.
        upper_bound: its largest possible value (1 for an accuracy), if it is maximised and has one.
        reference_point: one value per objective; None: chosen from what is seen.
        seed: of everything random.
        startup_trials: spread over the costs before the model decides.
        pool_size: random candidates, unless the space is small enough to have all.
    """

    def __init__(
        self,
        space: Mapping[str, Sequence[Scalar]] | SearchSpace,
        costs: Costs,
        *,
        unknown: int = 0,
        upper_bound: float | None = None,
        reference_point: Sequence[float] | None = None,
        seed: int = 0,
        startup_trials: int = 10,
        pool_size: int = 10_000,
    ) -> None:
        if not isinstance(space, SearchSpace):
            space = SearchSpace(tuple(Decision(n, tuple(c)) for n, c in space.items()))
        self._space = space
        self._known_costs = costs
        self._unknown = unknown
        self._bound = upper_bound
        self._reference = reference_point
        self._seed = seed
        self._options = Options(startup=startup_trials, pool=pool_size)
        self._strategy: KnownCostStrategy | None = None
        self._told: set[int] = set()
        self._random = RandomSampler(seed=seed)
        self._lock = threading.Lock()
        self._threads = ThreadpoolController()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters of the space that have something to choose."""
        del study, trial
        return {
            d.name: CategoricalDistribution(d.choices)
            for d in self._space.decisions
            if len(d.choices) > 1
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The active parameters of the next network.

        Raises:
            ValueError: the study has no objective `unknown`, or `costs` gives another number of
                values than it has others.
        """
        with self._lock, self._threads.limit(limits=1):
            strategy = self._prepared(study)
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            pending: list[Choices] = []
            for t in trials:
                if t.number == trial.number:
                    continue
                choices = self._choices(t.params)
                if choices is None:
                    continue
                if t.state is TrialState.RUNNING:
                    pending.append(choices)
                elif t.state.is_finished() and t.number not in self._told:
                    self._told.add(t.number)
                    values = tuple(t.values) if t.state is TrialState.COMPLETE else None
                    strategy.tell(Observation(number=t.number, choices=choices, values=values))
            proposal = strategy.ask(trial.number, 0, pending)
        assert proposal is not None
        return {n: v for n, v in proposal.choices.items() if n in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing: proposals depend on the seed and the trial's number alone."""

    def _choices(self, params: Mapping[str, Any]) -> Choices | None:
        """The trial's parameters as choices of the space; None for those of another space."""
        try:
            chosen = self._space.decide(
                lambda d: (
                    d.choices[d.choices.index(params[d.name])]
                    if len(d.choices) > 1
                    else d.choices[0]
                )
            )
        except (KeyError, ValueError):
            return None
        return chosen

    def _prepared(self, study: Study) -> KnownCostStrategy:
        if self._strategy is None:
            directions: list[Direction] = [
                "max" if d is StudyDirection.MAXIMIZE else "min" for d in study.directions
            ]
            if not 0 <= self._unknown < len(directions):
                raise ValueError(
                    f"unknown={self._unknown}: the study has {len(directions)} objectives"
                )
            names = [f"objective {i}" for i in range(len(directions))]
            reference = dict(zip(names, self._reference, strict=True)) if self._reference else {}
            aim = Aim(
                objectives=dict(zip(names, directions, strict=True)),
                unknown=names[self._unknown],
                bound=self._bound if directions[self._unknown] == "max" else None,
                reference=reference,
            )
            others = [n for n in names if n != aim.unknown]
            self._strategy = KnownCostStrategy(
                self._space,
                lambda choices: self._price(choices, others),
                aim,
                seed=self._seed,
                options=self._options,
            )
        return self._strategy

    def _price(self, choices: Choices, names: Sequence[str]) -> Known | None:
        costs = self._known_costs(choices)
        if costs is None:
            return None
        if len(costs) != len(names):
            raise ValueError(
                f"costs gave {len(costs)} values, but {len(names)} objectives are known"
            )
        return Known(
            id=json.dumps(choices),
            costs=dict(zip(names, map(float, costs), strict=True)),
            feasible=True,
        )
