"""Layer 4: `nasctl ablate --dry-run`: arms, trainings, time, and what the study could see."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.ablation.arms import Arm
from nasctl.ablation.build import CheckRecipe, Prepared, prepare_study, recipe_of
from nasctl.ablation.noise import noise_of
from nasctl.ablation.reading import study_of
from nasctl.ablation.sentences import amount
from nasctl.ablation.study import Study
from nasctl.ablation.text import aligned
from nasctl.effects import power
from nasctl.effects.sequential import Looks
from nasctl.environment import worker_count
from nasctl.evaluate import TrainingJob
from nasctl.plugins import Registry
from nasctl.records import LEDGER, RunRecords
from nasctl.rundir import check_place
from nasctl.trial import Work

if TYPE_CHECKING:
    from nasctl.config.ablation import AblationConfig

TIMED_STEPS = 8
POWER = 0.8
MOST_LOOKED = 30
"""Seeds up to which looks are simulated."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What differences between paired trainings scatter with.

    Attributes:
        sd: of one training over seeds, in units of the metric.
        correlation: of two arms on the same seeds.
        source: where that is from.
    """

    sd: float
    correlation: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a study would do.

    Attributes:
        seconds: of one training of each arm, by its name; None if they were not timed.
    """

    study: Study
    seconds: dict[str, float] | None
    workers: int
    noise: Noise

    def detectable(self, n: int) -> float:
        """The true difference that n seeds find with a power of 80 %, one comparison."""
        sd = power.sd_of_differences(self.noise.sd, self.noise.correlation)
        return power.detectable_effect(n=n, sd=sd, alpha=self.study.alpha, target=POWER)

    def seeds_needed(self) -> tuple[int | None, int | None]:
        """Seeds that find the smallest effect that matters with a power of 80 %, one comparison: at
        one look, and at most where there is a look after every seed from the first of this study
        on. None: no number that is worth naming."""
        study = self.study
        sd = power.sd_of_differences(self.noise.sd, self.noise.correlation)
        if not study.smallest_effect:
            return None, None
        effect, alpha = study.smallest_effect, study.alpha
        once = power.units_needed(effect, sd=sd, alpha=alpha, target=POWER)
        if once is None or once > MOST_LOOKED:
            return once, None
        last = max(once, study.first)
        while Looks.every(study.first, last).power(effect, sd=sd, alpha=alpha) < POWER:
            last += 1
        return once, last

    def total_seconds(self, seeds: int) -> float | None:
        """On all workers."""
        if self.seconds is None:
            return None
        variants = {a.variant: self.seconds[a.name] for a in self.study.arms.values()}
        rates = len(self.study.rates.factors) * self.study.rates.seeds
        work = seeds * sum(self.seconds.values()) + rates * sum(variants.values())
        return work / self.workers

    def to_json(self) -> dict[str, Any]:
        """The object that `--dry-run --json` prints."""
        study = self.study
        return {
            "arms": [
                {
                    "name": a.name,
                    "role": a.role,
                    "levels": dict(a.levels),
                    "arch_id": a.architecture.id,
                    "cost": dict(a.cost),
                    "width_factor": a.width_factor,
                    "seconds": self.seconds[a.name] if self.seconds else None,
                }
                for a in study.arms.values()
            ],
            "comparisons": [c.name for c in study.comparisons],
            "trainings": {
                "min": study.trainings(study.first),
                "max": study.trainings(study.last),
            },
            "seconds": {
                "min": self.total_seconds(study.first),
                "max": self.total_seconds(study.last),
            },
            "noise": dataclasses.asdict(self.noise),
            "seeds_needed": dict(zip(("once", "looked"), self.seeds_needed(), strict=True)),
            "detectable": {str(n): self.detectable(n) for n in self._worth_showing()},
        }

    def to_text(self) -> str:
        """The same for people."""
        return "\n".join(self._lines())

    def _worth_showing(self) -> list[int]:
        study = self.study
        return sorted({study.first, study.last, 2 * study.last, 4 * study.last})

    def _lines(self) -> Iterator[str]:
        study = self.study
        rows = [["arm", "parameters", "MACs", "width", "s/training"]]
        for arm in study.arms.values():
            rows.append(
                [
                    arm.name,
                    f"{arm.cost.get('params', 0):,.0f}",
                    f"{arm.cost.get('macs', 0):,.0f}",
                    f"x{arm.width_factor:.3g}",
                    f"{self.seconds[arm.name]:.1f}" if self.seconds else "-",
                ]
            )
        yield from aligned(rows)
        yield ""
        yield "questions"
        for comparison in study.comparisons:
            yield f"  {comparison.name}"
        yield ""
        for seeds in dict.fromkeys((study.first, study.last)):
            total = self.total_seconds(seeds)
            duration = f", about {total / 60:.1f} min on {self.workers} workers" if total else ""
            yield f"{seeds} seeds: {study.trainings(seeds)} trainings{duration}"
        if rates := study.rate_trainings():
            yield f"({rates} of them choose the learning rate of each arm)"
        yield ""
        least = amount(study.smallest_effect, study.metric, sign=False)
        yield (
            f"noise: SD {amount(self.noise.sd, study.metric, sign=False)} over seeds, correlation "
            f"{self.noise.correlation:.2f} between arms ({self.noise.source})"
        )
        for n in self._worth_showing():
            shown = amount(self.detectable(n), study.metric, sign=False)
            yield f"  {n:>4} seeds see a difference of {shown} four times in five"
        once, looked = self.seeds_needed()
        if study.smallest_effect > 0:
            needed = f"{once} seeds" if once else "more seeds than anyone has"
            if looked is not None and study.last > study.first:
                needed += f" at one look, seeds.max={looked} with looks from {study.first} on"
            yield f"  for the smallest effect that matters ({least}): {needed}"
        yield "  for one comparison at one look; several comparisons, or more looks, need more"


def look_ahead(config: AblationConfig, registry: Registry, check_recipe: CheckRecipe) -> Outlook:
    """Checks everything and times a few steps of each arm; writes nothing but caches.

    Raises:
        ConfigError: as `run_ablation` would.
        EnvironmentProblemError: the run could not be written where it should be.
    """
    directory = Path(config.output_dir) / config.name
    check_place(directory)
    prepared = prepare_study(config, registry, check_recipe)
    executor = config.executor
    workers = 1 if executor.name == "inline" else worker_count(executor.workers, executor.cpus)
    seconds = None
    if config.evaluator == "train":
        seconds = {
            arm.name: _training_seconds(arm, prepared, tuple(registry.sources))
            for arm in prepared.study.arms.values()
        }
    return Outlook(
        study=prepared.study,
        seconds=seconds,
        workers=workers,
        noise=_noise(config, directory),
    )


def _noise(config: AblationConfig, directory: Path) -> Noise:
    """From the results that the study has already; else what the configuration assumes."""
    if (directory / LEDGER).is_file():
        records = RunRecords(directory)
        found = noise_of(study_of(records), records.trials()) if records.study else None
        if found is not None and found.correlation is not None:
            source = f"from {found.n} seeds of {directory}"
            return Noise(sd=found.sd, correlation=found.correlation, source=source)
    pilot = config.pilot
    return Noise(sd=pilot.sd, correlation=pilot.correlation, source="assumed: `pilot`")


def _training_seconds(arm: Arm, prepared: Prepared, plugins: Sequence[str]) -> float:
    """From a few steps; the first one warms up."""
    dataset = prepared.data_of(arm)
    recipe = recipe_of(arm)
    images = min(len(dataset.train_labels), TIMED_STEPS * recipe.batch_size)
    part = dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:images],
        train_labels=dataset.train_labels[:images],
        val_images=dataset.val_images[:1],
        val_labels=dataset.val_labels[:1],
    )
    job = TrainingJob(recipe=recipe, plugins=tuple(plugins), dataset=part)
    job.prepare()
    work = Work(number=0, attempt=1, architecture=arm.architecture, seed=0, epochs=1)
    for _ in job(work):
        pass
    began = time.perf_counter()
    for _ in job(work):
        pass
    per_image = (time.perf_counter() - began) / images
    # A forward pass over validation images is a third of a step.
    return recipe.epochs * per_image * (len(dataset.train_labels) + len(dataset.val_labels) / 3)
