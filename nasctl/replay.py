"""Layer 4: `evaluator=replay`, the results of an earlier run in the place of training.

What is replayed are the finished trainings of the run: their metrics epoch by epoch, their times
and their costs. A proposal of a network that the run never trained is answered with the nearest
one that it did train (`search_spaces.nearest`): the choices of all samplers then lead somewhere,
to networks like the one they ask for. Turning such proposals away instead would leave random
draws, whatever the sampler.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.arch import Architecture, Block, Cost
from nasctl.errors import ConfigError, EnvironmentProblemError, SpecError, unknown
from nasctl.fields import canonical_json
from nasctl.ledger import Ledger
from nasctl.records import LEDGER, find_run
from nasctl.space import Choices, Family
from nasctl.trial import EpochMetrics, State, Trial, Work
from search_spaces.nearest import Nearest


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The finished trainings of a run.

    Attributes:
        trials: in order of their numbers, COMPLETE all of them; no repeated (network, seed).
        validation_images: of that run.
    """

    trials: tuple[Trial, ...]
    validation_images: int | None

    @functools.cached_property
    def networks(self) -> dict[str, list[Trial]]:
        """The trainings of each network by its id, in order of their seeds."""
        found: dict[str, list[Trial]] = {}
        for trial in sorted(self.trials, key=lambda t: (t.seed, t.number)):
            found.setdefault(trial.arch_id, []).append(trial)
        return found

    def training(self, work: Work) -> Trial:
        """The one with the seed of `work`; another of the network where there is none."""
        trials = self.networks[work.architecture.id]
        exact = (t for t in trials if t.seed == work.seed)
        return next(exact, trials[work.seed % len(trials)])

    def cost(self, architecture: Architecture) -> Cost:
        return self.networks[architecture.id][0].cost

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything that a replay tells: more trainings lead the same choices elsewhere."""
        told = [
            [t.arch_id, dict(t.choices), t.seed, dict(t.cost), t.seconds]
            + [[e.epoch, dict(e.metrics)] for e in t.evaluations]
            for t in self.trials
        ]
        return hashlib.sha256(canonical_json(told).encode()).hexdigest()


def load_recording(
    run: str, block_types: Mapping[str, type[Block]], config: Mapping[str, Any]
) -> Recording:
    """Reads a run for being replayed.

    Args:
        run: its folder.
        block_types: op name to class.
        config: resolved, of the search that replays.

    Raises:
        ConfigError: there is no such run, it is no search or damaged, nothing of it is finished, it
            searched something else, or its trainings do not report an objective.
    """
    try:
        directory = find_run(run)
        ledger = Ledger(Path(directory) / LEDGER, block_types, readonly=True)
        try:
            trials = [t for t in ledger.trials() if t.state is State.COMPLETE]
            recorded = ledger.meta("config", {})
            images = ledger.meta("validation_images")
            is_verification = ledger.meta("verification") is not None
        finally:
            ledger.close()
    except EnvironmentProblemError as error:
        raise ConfigError(f"replay.run: {error}") from None
    if is_verification or (isinstance(recorded, Mapping) and "factors" in recorded):
        kind = "a verification" if is_verification else "a study"
        raise ConfigError(f"replay.run: {run}: {kind}; only a search can be replayed")
    if not trials:
        raise ConfigError(f"replay.run: {run}: no finished training in it")
    if (damage := next(_damage(trials, recorded, images), None)) is not None:
        raise ConfigError(f"replay.run: {run}: {damage}; see nasctl doctor {run}")
    problems = list(_differences(run, recorded, config))
    metrics = set.intersection(*(set(t.metrics) for t in trials))
    problems += [
        f"objectives: {unknown('metric', m, sorted(metrics))} in {run}"
        for m in config["objectives"]
        if m not in metrics
    ]
    if problems:
        raise ConfigError(problems)
    return Recording(trials=tuple(trials), validation_images=images)


def _damage(trials: Sequence[Trial], recorded: object, images: object) -> Iterator[str]:
    """What nasctl would not have written, so that nobody stumbles over it later."""
    sections = recorded if isinstance(recorded, Mapping) else {}
    if not all(isinstance(sections.get(name), Mapping) for name in ("space", "data", "recipe")):
        yield "its ledger does not say what was searched"
    if not isinstance(images, int | None):
        yield f"its ledger has {images!r} validation images"
    for trial in trials:
        if not trial.evaluations:
            yield f"trial {trial.number} is COMPLETE and reported nothing"
        if trial.cost.keys() != trials[0].cost.keys():
            yield f"trial {trial.number} has other costs than trial {trials[0].number}"
        told = [*trial.metrics.items(), *trial.cost.items(), ("seconds", trial.seconds)]
        told += [item for e in trial.evaluations for item in e.metrics.items()]
        for name, value in told:
            if not isinstance(value, int | float) or not math.isfinite(value):
                yield f"trial {trial.number} has {name}={value!r}"
        if trial.seconds < 0:
            yield f"trial {trial.number} took {trial.seconds:g} s"


def _differences(run: str, recorded: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """What makes the results of the run those of other networks or trainings."""
    for path in ("space", "data", "recipe.epochs"):
        was: Any = recorded
        now: Any = config
        for part in path.split("."):
            was, now = was.get(part), now[part]
        if _plain(was) != _plain(now):
            shown = f": {was}, here {now}" if path == "recipe.epochs" else ""
            yield (
                f"{path}: not that of {run}{shown}; replay it with its own configuration: "
                f"nasctl search {run}/config.yaml evaluator=replay replay.run={run} name=..."
            )


def _plain(value: Any) -> Any:
    """A section with the path in it from the root: a run records it so, a file may say less."""
    given = value.get("path") if isinstance(value, Mapping) else None
    return {**value, "path": os.path.abspath(given)} if isinstance(given, str) else value


def replayed_family(family: Family, recording: Recording) -> Family:
    """The same choices, but every one of them leads to a network that was trained.

    Raises:
        ConfigError: a recorded training has choices that the space does not have.
    """
    known: dict[str, tuple[Choices, Architecture]] = {}
    for trial in recording.trials:
        _check_choices(family, trial)
        known.setdefault(trial.arch_id, (trial.choices, trial.architecture))
    networks: Sequence[tuple[Choices, Architecture]] = list(known.values())
    nearest = Nearest(family.space, [choices for choices, _ in networks])

    def decode(choices: Choices) -> Architecture:
        asked = family.decode(choices)  # what cannot be built was not to be had then either
        found = known.get(asked.id) or networks[nearest(choices)]
        return found[1]

    return Family(
        space=family.space,
        decode=decode,
        cost=recording.cost,
        count_networks=lambda: len(networks),
    )


def _check_choices(family: Family, trial: Trial) -> None:
    try:
        family.space.validate(trial.choices)
    except SpecError as error:
        problem = f"trial {trial.number} is not of this space: {error.problems[0]}"
        raise ConfigError(f"replay.run: {problem}") from None


def _is_of_cooldown(metric: str) -> bool:
    return metric == "cooldown_seconds" or metric.startswith("rung_")


@dataclass(frozen=True, kw_only=True)
class ReplayJob:
    """Tells what was recorded, and how long it took."""

    recording: Recording

    @property
    def payload(self) -> None:
        """There is no data."""

    def with_payload(self, payload: object) -> ReplayJob:
        """The same job: there is no data to bind."""
        del payload
        return self

    def prepare(self) -> None:
        """Nothing: the recording is there."""

    def __call__(self, work: Work) -> Iterator[EpochMetrics]:
        """The epochs of the training, as they were reported; without the cool-downs of rungs that
        `work` does not have, which take no time here either."""
        for evaluation in self.recording.training(work).evaluations:
            metrics = evaluation.metrics
            if evaluation.epoch not in work.rungs:
                metrics = {k: v for k, v in metrics.items() if not _is_of_cooldown(k)}
            yield EpochMetrics(metrics, evaluation.epoch)

    def seconds(self, work: Work) -> dict[int, float]:
        """The recorded time of each epoch that is reported.

        Where epochs report their own times (`seconds`, and `cooldown_seconds` at a rung), the time
        of the whole training is shared out in proportion, and cool-downs at epochs that are no rung
        of `work` are left out; elsewhere every epoch took as long.
        """
        trial = self.recording.training(work)
        last = trial.evaluations[-1].epoch
        own = {e.epoch: e.metrics.get("seconds", 0.0) for e in trial.evaluations}
        if len(own) != last or not all(own.values()):
            # Of an evaluator that reports its last epoch alone, that one took all of the time.
            before = [0, *own][: len(own)]
            return {e: (e - b) * trial.seconds / last for e, b in zip(own, before, strict=True)}
        extra = {e.epoch: e.metrics.get("cooldown_seconds", 0.0) for e in trial.evaluations}
        # An attempt that went on from a checkpoint took less than its epochs: they count then.
        scale = max(1.0, trial.seconds / (sum(own.values()) + sum(extra.values())))
        return {e: scale * (own[e] + (extra[e] if e in work.rungs else 0.0)) for e in own}
