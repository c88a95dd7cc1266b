"""Layer 4: `--dry-run`. What a search would do, how large its space is, and how long it takes."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import prepare
from nasctl.arch import Architecture, Cost
from nasctl.candidates import Priced
from nasctl.errors import NothingFeasibleError
from nasctl.executors import create_executor, worker_count
from nasctl.fidelity import expected_epochs
from nasctl.latency_place import HERE, Place
from nasctl.plugins import Registry
from nasctl.pricing import Announce, Tables, latency_place, make_pricer
from nasctl.references import ReferenceNetwork
from nasctl.rundir import check_place
from nasctl.space import SpaceSize, cost_range, measure_space
from nasctl.trial import Work

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

TIMED_NETWORKS = 5
TRAINING_BYTES = 16
"""Of a parameter: itself, its gradient, its momentum, and one to spare, in float32."""
TIMED_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What can be said before training.

    Attributes:
        size: of the space.
        cost_range: smallest and largest value of each cost among `sampled` random networks.
        feasible: how many of those satisfy the constraints.
        trial_seconds: expected mean duration of a training on one worker; None if unknown.
        references: reference networks with their costs, trained besides the trials.
        reference_seconds: of all of them together on one worker.
        total_seconds: of all trials and references on `workers` workers.
        epochs: of a whole training.
        rungs: epochs at which a trial may be stopped.
        expected_epochs: of a trial, cool-downs included, if one in eta goes on at each rung.
    """

    size: SpaceSize
    cost_range: Mapping[str, tuple[float, float]]
    sampled: int
    feasible: int
    trials: int
    workers: int
    trial_seconds: float | None
    references: Sequence[tuple[ReferenceNetwork, Cost]] = ()
    reference_seconds: float = 0.0
    epochs: int = 0
    rungs: tuple[int, ...] = ()
    expected_epochs: float = 0.0

    @property
    def total_seconds(self) -> float | None:
        if self.trial_seconds is None:
            return None
        return (self.trials * self.trial_seconds + self.reference_seconds) / self.workers

    def to_json(self) -> dict[str, Any]:
        """`configurations`, `networks`, `networks_exact`, `cost_range`, and the rest."""
        return {
            "configurations": self.size.configurations,
            "networks": self.size.networks,
            "networks_exact": self.size.networks_exact,
            "networks_relative_error": self.size.networks_error,
            "cost_range": {k: list(v) for k, v in self.cost_range.items()},
            "sampled": self.sampled,
            "feasible": self.feasible,
            "trials": self.trials,
            "references": [
                {"name": r.name, "width": r.width, "arch_id": r.architecture.id, "cost": dict(cost)}
                for r, cost in self.references
            ],
            "workers": self.workers,
            "seconds": self.total_seconds,
            "epochs": self.epochs,
            "rungs": list(self.rungs),
            "expected_epochs": self.expected_epochs,
        }

    def to_text(self) -> str:
        """The same for people."""
        size = self.size
        networks = f"{size.networks:,}"
        if not size.networks_exact:
            error = size.networks_error
            networks = f"about {networks} (+-{error:.0%})" if error else f"at least {networks}"
        lines = [
            f"configurations    {size.configurations:,}",
            f"distinct networks {networks}",
            f"costs of {self.sampled} random networks, smallest to largest",
        ]
        lines += [f"  {k:<15} {low:>12,.6g} .. {high:,.6g}" for k, (low, high) in
                  self.cost_range.items()]  # fmt: skip
        lines.append(f"within constraints {self.feasible} of {self.sampled}")
        lines += ["reference networks"] if self.references else []
        for network, cost in self.references:
            costs = ", ".join(f"{k} {v:,.6g}" for k, v in cost.items())
            lines.append(f"  {network.label:<24} {costs}")
        if self.rungs:
            rungs = ", ".join(map(str, self.rungs))
            lines.append(
                f"rungs             {rungs} of {self.epochs} epochs: {self.expected_epochs:.1f} "
                "epochs a trial where as many stop as can, less time than below; the first ones "
                "never do"
            )
        if not self.feasible:
            lines.append("WARNING: none of them satisfies the constraints; loosen them")
        published = f"{self.reference_seconds:.0f} s of references, " if self.references else ""
        if self.trial_seconds is not None and self.total_seconds is not None:
            lines.append(
                f"time              about {self.total_seconds / 60:.1f} min for {self.trials} "
                f"trials of about {self.trial_seconds:.0f} s on {self.workers} workers, "
                f"{published}and half a minute around them"
            )
        return "\n".join(lines)


def dry_run(config: SearchConfig, registry: Registry, *, announce: Announce) -> Outlook:
    """Prices a sample and times a few training steps; writes nothing but caches.

    Raises:
        ConfigError: as `search` would.
        EnvironmentProblemError: the run could not be written where it should be.
        NothingFeasibleError: no network of the sample can be built.
    """
    check_place(Path(config.output_dir) / config.name)
    problem = prepare.load_problem(config, registry, allow_no_data=True)
    if problem.dataset is None and config.evaluator == "train":
        announce(
            f"no pictures at {config.data.options['path']}: by their declared shape, without time"
        )
    prepare.check_metrics(config, problem)
    family = problem.family
    sample = prepare.sample_architectures(family, seed=config.seed)
    if not sample:
        raise NothingFeasibleError("no network of this space can be built")
    price = make_pricer(
        config,
        problem,
        sample,
        registry,
        stored=Tables(),
        announce=announce,
        place=_latency_place(config, registry),
    )
    priced = [price(a) for a in sample]
    feasible = [not p.violations(config.bounds) for p in priced]
    references = [(r, price(r.architecture).cost) for r in problem.references]
    seconds, reference_seconds = None, 0.0
    largest = max(p.cost.get("params", 0.0) for p in priced)
    if problem.dataset is not None and largest * TRAINING_BYTES > _memory() / 2:
        announce(f"networks of up to {largest:,.0f} parameters are too large to be timed here")
    elif problem.dataset is not None:
        announce("timing a few training steps")
        expected = _training_seconds(config, problem, registry, sample, priced)
        seconds = expected(statistics.fmean(_macs(p.cost) for p in priced))
        reference_seconds = sum(expected(_macs(cost)) for _, cost in references)
    rule, epochs = config.fidelity.to_halving(), config.recipe.epochs
    rungs = rule.rungs(epochs) if rule is not None else ()
    executor = config.executor
    workers = 1 if executor.name == "inline" else worker_count(executor.workers, executor.cpus)
    return Outlook(
        size=measure_space(family, seed=config.seed),
        cost_range=cost_range([p.cost for p in priced]),
        sampled=len(sample),
        feasible=sum(feasible),
        trials=config.trials,
        workers=workers,
        trial_seconds=seconds,
        references=references,
        reference_seconds=reference_seconds,
        epochs=epochs,
        rungs=rungs,
        expected_epochs=epochs if rule is None else expected_epochs(rungs, epochs, rule),
    )


def _latency_place(config: SearchConfig, registry: Registry) -> Place:
    if config.latency.node is None:
        return HERE
    options = config.executor.model_dump(exclude={"name", "retries"})
    return latency_place(config, create_executor(config.executor.name, **options), registry)


def _memory() -> float:
    """Bytes of this machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _macs(cost: Cost) -> float:
    return cost.get("macs", cost.get("params", 0.0))


def _training_seconds(
    config: SearchConfig,
    problem: prepare.Problem,
    registry: Registry,
    sample: Sequence[Architecture],
    priced: Sequence[Priced],
) -> Callable[[float], float]:
    """From the MACs of a network to the seconds of its training: a few steps of networks at the
    quantiles of MACs, and a straight line (seconds per image against MACs) through them."""
    assert problem.dataset is not None
    recipe = config.recipe.to_recipe()
    images = min(len(problem.dataset.train_labels), TIMED_STEPS * recipe.batch_size)
    part = dataclasses.replace(
        problem.dataset.without_test(),
        train_images=problem.dataset.train_images[:images],
        train_labels=problem.dataset.train_labels[:images],
        val_images=problem.dataset.val_images[:1],
        val_labels=problem.dataset.val_labels[:1],
    )
    macs = [_macs(p.cost) for p in priced]
    order = sorted(range(len(sample)), key=lambda i: macs[i])
    chosen = [
        order[round(q * (len(order) - 1) / (TIMED_NETWORKS - 1))] for q in range(TIMED_NETWORKS)
    ]
    job = prepare.training_job(config, problem, registry, None).with_payload(part)
    job.prepare()
    work = [
        Work(number=0, attempt=1, architecture=sample[i], seed=config.seed, epochs=1)
        for i in chosen
    ]
    for _ in job(work[0]):
        pass  # the first training warms caches and thread pools up
    per_image = []
    for one in work:
        began = time.perf_counter()
        for _ in job(one):
            pass
        per_image.append((time.perf_counter() - began) / images)
    x = [macs[i] for i in chosen]
    slope, intercept = (
        statistics.linear_regression(x, per_image)
        if len(set(x)) > 1
        else (0.0, statistics.fmean(per_image))
    )
    validation = len(problem.dataset.val_labels) / 3  # a forward pass is a third of a step
    trained = recipe.epochs * (len(problem.dataset.train_labels) + validation)
    return lambda m: trained * max(intercept + slope * m, min(per_image))
