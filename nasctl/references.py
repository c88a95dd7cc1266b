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
from nasctl.errors import ConfigError, SpecError, unknown
from nasctl.front import Entry, front_entries, make_entry
from nasctl.pretrained import KEY, Pretrained, load_pretrained
from nasctl.space import Choices
from nasctl.trial import Objectives, State, Trial, reference_label
from search_spaces.reference import reference_network


@dataclass(frozen=True, kw_only=True)
class ReferenceNetwork:
    """A published network at a width, for the input and the classes of the data; `start`: what it
    begins with, None: random weights."""

    name: str
    width: float
    architecture: Architecture
    start: Pretrained | None = None

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


def with_weights(
    networks: Sequence[ReferenceNetwork], weights: str | Mapping[str, str] | None
) -> tuple[ReferenceNetwork, ...]:
    """The networks with what the setting `init.weights` gives them.

    Args:
        weights: a file, where there is one network; or files by name, or by name and width.

    Raises:
        ConfigError: a name that no network has or several have, or a file that does not fit.
    """
    if weights is None:
        return tuple(networks)
    labels = [n.label for n in networks]
    if isinstance(weights, str):
        if len(networks) != 1:
            example = f"init.weights='{{{labels[0]}: {weights}}}'"
            raise ConfigError(f"{KEY}: for which of {', '.join(labels)}? {example}")
        weights = {labels[0]: weights}
    starts: dict[str, Pretrained] = {}
    problems = []
    for name, file in weights.items():
        meant = [n for n in networks if name in (n.label, n.name)]
        if len(meant) != 1:
            several = f"{name!r} has several widths; name one of {', '.join(labels)}"
            wrong = unknown("reference network", name, labels)
            problems.append(f"{KEY}: {several if meant else wrong}")
            continue
        try:
            starts[meant[0].label] = load_pretrained(file, meant[0].name, meant[0].architecture)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(dataclasses.replace(n, start=starts.get(n.label)) for n in networks)


def starting_weights(networks: Iterable[ReferenceNetwork]) -> dict[str, str]:
    """The sha256 of the file that each network begins with, by label: part of what a run is."""
    return {n.label: n.start.sha256 for n in networks if n.start is not None}


def check_weights(
    networks: Sequence[ReferenceNetwork],
    recorded: Mapping[str, str] | None,
    *,
    remedy: str = "put the old file back, or start a run with another name=...",
) -> None:
    """Whether a run that continues, or is verified, has the weights that it began with.

    Raises:
        ConfigError: a file has changed.
    """
    for network in networks:
        known = (recorded or {}).get(network.label)
        if network.start is not None and known not in (None, network.start.sha256):
            raise ConfigError(
                f"{KEY}: {network.start.file}: has changed since this run began; {remedy}"
            )


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
                choices=_choices(network),
                architecture=network.architecture,
                seed=seed,
                epochs=epochs,
                attempts=0,
                cost=priced.cost,
                cost_intervals=priced.intervals,
            )
        )
    return made


def _choices(network: ReferenceNetwork) -> Choices:
    begins: Choices = {} if network.start is None else {"weights": network.start.label}
    return {"reference": network.name, "width": network.width, **begins}


def references_json(
    references: Iterable[Trial],
    entries: Sequence[Entry],
    *,
    objectives: Objectives,
    constraints: Mapping[str, float],
    measured: Mapping[str, Mapping[str, Any]],
    validation_images: int | None,
    calibration_networks: int,
    violations: Callable[[Entry], Mapping[str, float]] | None = None,
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
        violations: how far a network breaks each constraint, judged as its candidates are; None:
            by what was predicted, as before they were trained.
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
        over = dict(violations(entry)) if violations else priced.violations(constraints)
        plain = entry.to_json()
        del plain["choices"]
        found.append(
            {
                "name": trial.choices["reference"],
                "width": trial.choices["width"],
                **({"weights": w} if (w := trial.choices.get("weights")) else {}),
                **plain,
                "state": trial.state.value,
                "error": trial.error,
                "violations": over,
                "on_front": complete
                and not over
                and not pareto.dominated_by(entry.decisive, members, objectives),
            }
        )
    return found
