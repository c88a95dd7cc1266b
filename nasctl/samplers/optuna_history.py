"""How a search looks to Optuna: every choice a text label, a history that asking cannot change."""

from __future__ import annotations

import datetime
import json
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasctl.arch import Scalar
from nasctl.samplers.base import derive_seed
from nasctl.space import Choices, SearchSpace

STUDY_NAME = "nasctl"
_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


class Encoding:
    """A conditional space as a fixed set of categorical parameters.

    Labels are the JSON of a choice: Optuna takes True for 1 and warns about anything but scalars.
    Inactive decisions keep a value of their own, like genes that are not expressed, so that joint
    models and crossover see one space instead of the few decisions that are always active.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._labels = {d.name: [json.dumps(c) for c in d.choices] for d in space.decisions}
        self._values: dict[str, dict[str, Scalar]] = {
            d.name: dict(zip(self._labels[d.name], d.choices, strict=True)) for d in space.decisions
        }
        self.distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(labels) for name, labels in self._labels.items()
        }
        self.relative = {n: d for n, d in self.distributions.items() if not d.single()}
        """Those with something to choose."""

    def labels(
        self, choices: Mapping[str, Any], inactive: Mapping[str, Any], *key: str | int
    ) -> dict[str, str]:
        """The label of every decision; those in neither mapping are drawn from `key`."""
        given = {**inactive, **choices}
        labels = {}
        for name, known in self._labels.items():
            if name in given:
                labels[name] = json.dumps(given[name])
            else:
                labels[name] = known[derive_seed("inactive", self._seed, name, *key) % len(known)]
        return labels

    def choices(self, labels: Mapping[str, str]) -> tuple[Choices, Choices]:
        """Active decisions, and the values that the inactive ones keep."""
        values = {name: self._values[name][label] for name, label in labels.items()}
        active = self._space.decide(lambda d: values[d.name])
        return active, {n: v for n, v in values.items() if n not in active}


def frozen_trial(
    number: int,
    state: TrialState,
    params: dict[str, str],
    distributions: dict[str, BaseDistribution],
    *,
    values: Sequence[float] | None = None,
    constraints: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """A trial as Optuna keeps it; times are constant, they must not influence anything."""
    trial = FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=values,
        datetime_start=_EPOCH,
        datetime_complete=_EPOCH if state.is_finished() else None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
    for name, value in (constraints or {}).items():
        trial.set_constraint(name, value)
    return trial


class History(BaseStorage):
    """A read-only study plus the one trial that is being asked for.

    Optuna's own storages keep a trial for every ask: numbers, caches and study attributes would
    then depend on how often was asked, memory would grow, and a rebuilt study would differ.
    """

    def __init__(self, directions: Sequence[str], trials: Sequence[FrozenTrial]) -> None:
        named = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        self._directions = [named[d] for d in directions]
        self._trials = trials
        self._asked: FrozenTrial | None = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        del study_id, template_trial
        number = self._trials[-1].number + 1 if self._trials else 0
        self._asked = frozen_trial(number, TrialState.RUNNING, {}, {})
        return number

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        trial = self.get_trial(trial_id)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self.get_trial(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if self._asked is not None and trial_id == self._asked.number:
            return self._asked
        raise KeyError(f"no trial {trial_id} is being asked for")

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        del study_id, deepcopy
        listed = [*self._trials] if self._asked is None else [*self._trials, self._asked]
        return listed if states is None else [t for t in listed if t.state in states]

    def get_study_id_from_name(self, study_name: str) -> int:
        del study_name
        return 0

    def get_study_name_from_id(self, study_id: int) -> str:
        del study_id
        return STUDY_NAME

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        del study_id
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        del study_id
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        del study_id
        return {}

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(f"a told history cannot be changed: {args} {kwargs}")

    create_new_study = _refuse
    delete_study = _refuse
    set_study_user_attr = _refuse
    set_study_system_attr = _refuse
    get_all_studies = _refuse
    set_trial_state_values = _refuse
    set_trial_intermediate_value = _refuse
    set_trial_user_attr = _refuse


def open_study(sampler: Any, directions: Sequence[str], trials: Sequence[FrozenTrial]) -> Study:
    """A study that holds exactly `trials`."""
    # The constructor, unlike optuna.create_study, logs nothing, so no logger has to be silenced.
    return Study(study_name=STUDY_NAME, storage=History(directions, trials), sampler=sampler)


def ask_labels(
    sampler: Any,
    directions: Sequence[str],
    trials: Sequence[FrozenTrial],
    distributions: Mapping[str, BaseDistribution],
) -> dict[str, str]:
    """One proposal of an Optuna sampler for a study that holds exactly `trials`."""
    return dict(open_study(sampler, directions, trials).ask(dict(distributions)).params)
