"""Architectures as numbers: from any space's choices and from what is known of their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nasctl.arch import Scalar
from nasctl.samplers.known_cost.gp import Array, Groups, Points
from nasctl.space import Choices, Decision, SearchSpace

GROUPS = ("choices", "totals", "costs")
RARE = 0.05  # labels rarer than this are scaled as if they were not
SAME = 0.9999  # correlation above which a column says nothing new


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(value: Scalar) -> tuple[bool, Scalar]:
    return isinstance(value, bool), value  # True is 1 to a dictionary


class Encoder:
    """Feature groups of configurations.

    - `choices`: one column per choice of every decision that has several; all 0 where the decision
      is inactive.
    - `totals`: for decisions with the same choices (the kernel sizes of all blocks), how often each
      occurs; and the number itself for decisions between three numbers or more (logarithm where all
      are positive; their mean where inactive).
    - `costs`: logarithms of every cost that is positive, one of those that go together.

    Args:
        space: the decisions.
        sample: configurations and their costs, to learn the scale of every column from; columns
            have mean 0 and variance 1 over it.
    """

    def __init__(
        self, space: SearchSpace, sample: Sequence[tuple[Choices, Mapping[str, float]]]
    ) -> None:
        self._columns: dict[str, dict[tuple[bool, Scalar], int]] = {}
        free = [d for d in space.decisions if len(d.choices) > 1]
        width = 0
        for d in free:
            self._columns[d.name] = {_column(c): width + i for i, c in enumerate(d.choices)}
            width += len(d.choices)
        self._width = width
        self._totals = self._plan_totals(free)
        metrics = sorted(set.intersection(*(set(c) for _, c in sample)) if sample else ())
        self._metrics = [m for m in metrics if all(c[m] > 0 for _, c in sample)]
        self._kept: dict[str, Array] = {}
        raw = self._raw(sample)
        for group, values in raw.items():
            self._kept[group] = _new_columns(values)
        self._mean: dict[str, Array] = {}
        self._scale: dict[str, Array] = {}
        for group, values in self._chosen(raw).items():
            self._mean[group] = values.mean(axis=0)
            scale = values.std(axis=0)
            if group == "choices":
                scale = np.maximum(scale, np.sqrt(RARE * (1 - RARE)))
            self._scale[group] = np.where(scale > 0, scale, 1.0)

    def _plan_totals(self, free: Sequence[Decision]) -> Array:
        """What each column of `choices` adds to each of `totals`."""
        alike: dict[tuple[tuple[bool, Scalar], ...], list[str]] = {}
        for d in free:
            alike.setdefault(tuple(map(_column, d.choices)), []).append(d.name)
        added: list[Array] = []
        for choices, names in alike.items():
            if len(names) > 1:
                for choice in choices:
                    added.append(np.zeros(self._width))
                    added[-1][[self._columns[name][choice] for name in names]] = 1.0
        for d in free:
            if len(d.choices) > 2 and all(map(_is_number, d.choices)):
                numbers = np.array(d.choices, dtype=np.float64)
                if (numbers > 0).all():
                    numbers = np.log(numbers)
                added.append(np.zeros(self._width))
                added[-1][list(self._columns[d.name].values())] = numbers - numbers.mean()
        return np.stack(added, axis=1) if added else np.zeros((self._width, 0))

    def _raw(self, configurations: Sequence[tuple[Choices, Mapping[str, float]]]) -> Groups:
        columns, width = self._columns, self._width
        choices = np.zeros((len(configurations), width))
        choices.reshape(-1)[
            [
                row * width + columns[name][value.__class__ is bool, value]
                for row, (chosen, _) in enumerate(configurations)
                for name, value in chosen.items()
                if name in columns
            ]
        ] = 1.0
        costs = np.array(
            [[cost[m] for m in self._metrics] for _, cost in configurations], dtype=np.float64
        ).reshape(len(configurations), len(self._metrics))
        return {
            "choices": choices,
            "totals": choices @ self._totals,
            "costs": np.log(np.maximum(costs, 1e-300)),
        }

    def _chosen(self, raw: Groups) -> dict[str, Array]:
        return {g: v[:, self._kept[g]] for g, v in raw.items()}

    def __call__(self, configurations: Sequence[tuple[Choices, Mapping[str, float]]]) -> Points:
        """The features of configurations, in order."""
        chosen = self._chosen(self._raw(configurations))
        return Points({g: (v - self._mean[g]) / self._scale[g] for g, v in chosen.items()})


def _new_columns(values: Array) -> Array:
    """Indices of the columns that vary and are no copies of earlier ones."""
    kept: list[int] = []
    if not len(values):
        return np.array(kept, dtype=np.intp)
    spread = values.std(axis=0)
    unit = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    for j in range(values.shape[1]):
        if spread[j] > 1e-12 and not any(
            abs(float(np.mean(unit[:, j] * unit[:, k]))) > SAME for k in kept
        ):
            kept.append(j)
    return np.array(kept, dtype=np.intp)
