"""Layer 3: reference networks: published networks trained under the recipe of a search, to compare.

They are priced, trained and measured like candidates but were not proposed: they count in no
total, decide neither membership nor hypervolume, and no constraint rejects them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasctl import pareto
from nasctl.arch import Architecture, Shape
from nasctl.candidates import Priced
from nasctl.errors import ConfigError, SpecError
from nasctl.front import Entry, front_entries, make_entry
from nasctl.trial import Objectives, State, Trial, reference_label
from search_spaces.reference import reference_network


@dataclass(frozen=True, kw_only=True)
class ReferenceNetwork:
    """A published network at a width, for the input and the classes of the data."""

    name: str
    width: float
    architecture: Architecture

    @property
    def label(self) -> str:
        return reference_label(self.name, self.width)


def load_references(
    entries: Iterable[tuple[str, Sequence[float]]], *, input_shape: Shape, num_classes: int
) -> tuple[ReferenceNetwork, ...]:
    """The networks that the setting `reference` asks for, in its order.

    Args:
        entries: name and widths of each.
        input_shape: of the data, as is `num_classes`.

    Raises:
        ConfigError: a network that cannot be built for this input, or two that are the same.
    """
    problems: list[str] = []
    found: dict[str, ReferenceNetwork] = {}
    for place, (name, widths) in enumerate(entries):
        for width in widths:
            try:
                architecture = reference_network(
                    name, input_shape=input_shape, num_classes=num_classes, width=width
                )
            except SpecError as error:
                at = "" if width == 1 else f"width {width:g}: "
                problems += [f"reference.{place}: {at}{p}" for p in error.problems]
                continue
            made = ReferenceNetwork(name=name, width=width, architecture=architecture)
            other = found.setdefault(architecture.id, made)
            if other is not made:
                problems.append(
                    f"reference.{place}: {made.label} is the same network as {other.label} here"
                )
    if problems:
        raise ConfigError(problems)
    return tuple(found.values())


def reference_trials(
    networks: Sequence[ReferenceNetwork],
    price: Callable[[Architecture], Priced],
    *,
    seed: int,
    epochs: int,
) -> list[Trial]:
    """The trainings to do, numbered -1, -2, ...; none has begun."""
    made = []
    for place, network in enumerate(networks):
        priced = price(network.architecture)
        made.append(
            Trial(
                number=-1 - place,
                state=State.RUNNING,
                choices={"reference": network.name, "width": network.width},
                architecture=network.architecture,
                seed=seed,
                epochs=epochs,
                attempts=0,
                cost=priced.cost,
                cost_intervals=priced.intervals,
            )
        )
    return made


def references_json(
    references: Iterable[Trial],
    entries: Sequence[Entry],
    *,
    objectives: Objectives,
    constraints: Mapping[str, float],
    measured: Mapping[str, Mapping[str, Any]],
    validation_images: int | None,
    calibration_networks: int,
) -> list[dict[str, Any]]:
    """The list `references` of `front.json`: one object per reference network that has begun.

    `on_front` says whether it would be a member if it were a candidate: it keeps the constraints
    and no network of the search dominates it. `violations` is how far it breaks each constraint,
    as a fraction of the bound. Before it is COMPLETE its metrics are its costs.

    Args:
        references: as the ledger has them.
        entries: the networks of the search.
        constraints: upper bounds by cost metric.
        measured, validation_images, calibration_networks: see `front.collect_entries`.
    """
    members = [e.decisive for e in front_entries(entries, objectives)]
    found = []
    for trial in references:
        complete = trial.state is State.COMPLETE
        entry = make_entry(
            [trial if complete else dataclasses.replace(trial, metrics=trial.cost)],
            measured.get(trial.arch_id),
            validation_images,
            calibration_networks,
        )
        priced = Priced(cost=trial.cost, intervals=trial.cost_intervals)
        violations = priced.violations(constraints)
        plain = entry.to_json()
        del plain["choices"]
        found.append(
            {
                "name": trial.choices["reference"],
                "width": trial.choices["width"],
                **plain,
                "state": trial.state.value,
                "error": trial.error,
                "violations": violations,
                "on_front": complete
                and not violations
                and not pareto.dominated_by(entry.decisive, members, objectives),
            }
        )
    return found
