"""Layer 4: from a validated configuration to everything a search needs before it trains."""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import pareto
from nasctl.arch import Architecture, Cost, Opaque
from nasctl.data import Dataset, check_dataset_options, declared_shape
from nasctl.errors import ConfigError, SpecError, unknown
from nasctl.evaluate import CHECKPOINTS, FineTuning, TrainingJob
from nasctl.halving import objective_problems
from nasctl.plugins import PACKAGED_EVALUATORS, Registry, call_factory
from nasctl.references import ReferenceNetwork, load_references, with_weights
from nasctl.replay import Recording, load_recording, replayed_family
from nasctl.samplers import check_options
from nasctl.space import Family
from nasctl.trial import EXACT_METRICS, Objectives
from search_spaces.table import read_table, result_metrics

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

OTHER_DATA = "other images, labels or splits; put the old ones back"
SAMPLE = 500
"""Random candidates that cost ranges, references and calibration networks are taken from."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched: the networks, the data that judges them, and who judges.

    Attributes:
        dataset: None where a plugin's evaluator replaces data and training.
        family_options: as given to the family, to build it again in a worker.
        references: networks of the literature that are trained to compare with.
        recording: the run that is replayed, if one is.
    """

    family: Family
    family_name: str
    family_options: Mapping[str, Any]
    dataset: Dataset | None
    references: tuple[ReferenceNetwork, ...] = ()
    recording: Recording | None = None

    @property
    def validation_images(self) -> int | None:
        """What accuracies are judged on; None where an evaluator does not say."""
        if self.recording is not None:
            return self.recording.validation_images
        return len(self.dataset.val_labels) if self.dataset is not None else None

    @property
    def results(self) -> str | None:
        """A fingerprint of the results that are told in the place of training; None: none are."""
        if self.recording is not None:
            return self.recording.fingerprint
        if self.family_name != "table":
            return None
        return read_table(**self.family_options).fingerprint

    @property
    def has_modules(self) -> bool:
        """Whether its networks can be built, and so priced and timed: not those of a table."""
        architecture = sample_architectures(self.family, seed=0, n=1)[0]
        return not any(isinstance(b, Opaque) for b in architecture.blocks)


def load_problem(
    config: SearchConfig,
    registry: Registry,
    *,
    allow_no_data: bool = False,
    read_weights: bool = True,
) -> Problem:
    """Data and family; every block is checked against the shapes it will meet.

    Args:
        config: validated.
        registry: with the plugins.
        allow_no_data: be content with the declared shape of pictures that are not there.
        read_weights: also read the files of `init.weights`; needed where something is trained.

    Raises:
        ConfigError: unknown names or options, unreadable data, impossible shapes.
    """
    _check_names(config, registry)
    dataset: Dataset | None = None
    options = dict(config.space.options)
    factory = registry.families[config.space.family]
    extras: dict[str, Any] = {}
    # A family that needs the shape of images takes it from the data, whoever evaluates.
    required = inspect.signature(factory).parameters.get("input_shape")
    needs_shape = (
        required is not None
        and required.default is inspect.Parameter.empty
        and "input_shape" not in options
    )
    if config.evaluator == "train" or needs_shape:
        load = registry.lookup("datasets", "data.name", config.data.name)
        check_dataset_options(config.data.name, config.data.options, registry.datasets)
        declared = None
        if allow_no_data or config.evaluator == "replay":
            declared = declared_shape(config.data.name, config.data.options)
        if declared is None:
            loaded = call_factory(load, config.data.options, key="data")
            declared = loaded.input_shape, loaded.num_classes
            dataset = loaded if config.evaluator == "train" else None
        extras = dict(zip(("input_shape", "num_classes"), declared, strict=True))
    try:
        family = call_factory(
            factory,
            options,
            key="space.options",
            extras={**extras, "user_blocks": registry.user_blocks},
        )
    except SpecError as error:
        raise ConfigError([f"space.options: {p}" for p in error.problems]) from error
    except ConfigError as error:  # a family names its own options; users need the whole key
        whole = [p if p.startswith("space.") else f"space.options.{p}" for p in error.problems]
        raise ConfigError(whole) from error
    problem = Problem(
        family=family,
        family_name=config.space.family,
        family_options={**{k: v for k, v in extras.items() if k not in options}, **options},
        dataset=dataset,
    )
    if config.evaluator == "replay":
        return _replayed(config, problem, registry)
    return _compared(config, problem, extras, read_weights=read_weights)


def _check_names(config: SearchConfig, registry: Registry) -> None:
    """Of everything that is chosen by name, and the options of the sampler: all at once."""
    problems: list[str] = []
    known = (*PACKAGED_EVALUATORS, *registry.evaluators)
    if config.evaluator not in known:
        problems.append(f"evaluator: {unknown('evaluator', config.evaluator, known)}")
    registry_names = {"families": ("space.family", config.space.family)}
    if config.evaluator == "train":
        registry_names |= {
            "datasets": ("data.name", config.data.name),
            "trainers": ("recipe.trainer", config.recipe.trainer),
        }
    for kind, (key, name) in registry_names.items():
        try:
            registry.lookup(kind, key, name)
        except ConfigError as error:
            problems += error.problems
    try:
        check_options(config.sampler.name, config.sampler.options)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)


def _replayed(config: SearchConfig, problem: Problem, registry: Registry) -> Problem:
    assert config.replay.run is not None, "the configuration was checked"
    found = load_recording(config.replay.run, registry.blocks, config.model_dump(mode="json"))
    family = replayed_family(problem.family, found)
    return dataclasses.replace(problem, family=family, recording=found)


def _compared(
    config: SearchConfig, problem: Problem, data: Mapping[str, Any], *, read_weights: bool
) -> Problem:
    """With the reference networks, on `input_shape` and `num_classes` of the data."""
    if not config.reference:
        return problem
    # Their accuracies and costs have to mean the same as those of the candidates.
    if problem.family.cost is not None or not problem.has_modules:
        raise ConfigError(
            f"reference: the networks of space.family={config.space.family} have costs of their "
            "own, which a published network does not have; use []"
        )
    entries = [(entry.name, entry.width) for entry in config.reference]
    networks = load_references(entries, **data)
    if read_weights:
        networks = with_weights(networks, config.init.weights)
    return dataclasses.replace(problem, references=networks)


def check_data(problem: Problem, recorded: str | None) -> None:
    """Whether a run that continues has the images that it began with.

    Args:
        recorded: the fingerprint of its data; None: it has none.

    Raises:
        ConfigError: it has others.
    """
    dataset = problem.dataset
    if dataset is not None and recorded not in (None, dataset.fingerprint):
        raise ConfigError(f"data: {dataset.name} has changed since this run began: {OTHER_DATA}")


def check_results(config: SearchConfig, problem: Problem, recorded: str | None) -> None:
    """Whether a run that continues is told the results that it began with.

    Args:
        recorded: their fingerprint; None: it has none.

    Raises:
        ConfigError: it would be told others.
    """
    if recorded is None or problem.results == recorded:
        return
    if problem.recording is None:
        name = problem.family_options["file"]
        raise ConfigError(
            f"space.options.file: {name} has other rows than this run began with; put the old ones "
            "back"
        )
    raise ConfigError(
        f"replay.run: {config.replay.run} has other trainings than this run began with: "
        f"{len(problem.recording.trials)} that are finished, which lead to other networks"
    )


def training_job(
    config: SearchConfig, problem: Problem, registry: Registry, directory: Path | None
) -> TrainingJob:
    """Trains by the recipe on the data; keeps weights and checkpoints in a run's folder, if any."""
    assert problem.dataset is not None, "there is no data to train on"
    own_build = problem.family.build is not None
    return TrainingJob(
        recipe=config.recipe.to_recipe(),
        plugins=tuple(registry.sources),
        family=(problem.family_name, problem.family_options) if own_build else None,
        weights=None if directory is None else str(directory.absolute() / "weights"),
        cooldown=config.fidelity.cooldown,
        checkpoints=None if directory is None else str(directory.absolute() / CHECKPOINTS),
        checkpoint_s=config.fidelity.checkpoint_s,
        starts={r.architecture.id: r.start for r in problem.references if r.start is not None},
        fine_tuning=FineTuning(lr=config.init.lr, warmup=config.init.warmup),
        dataset=problem.dataset.without_test(),
    )


def cost_metrics(config: SearchConfig, problem: Problem) -> tuple[str, ...]:
    """The metrics of a candidate that are known before training."""
    if problem.family.cost is not None:
        architecture = sample_architectures(problem.family, seed=config.seed, n=1)[0]
        return tuple(problem.family.cost(architecture))
    if not problem.has_modules:
        return ()
    return (*EXACT_METRICS, "latency_ms") if config.latency.name != "none" else EXACT_METRICS


def sample_architectures(family: Family, *, seed: int, n: int = SAMPLE) -> list[Architecture]:
    """Distinct architectures of up to `n` random configurations.

    Raises:
        SpecError: nothing that was drawn can be built.
    """
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(n):
        _, architecture = family.sample(rng)
        found.setdefault(architecture.id, architecture)
    return list(found.values())


def check_metrics(config: SearchConfig, problem: Problem) -> None:
    """Whether every metric that the configuration names will exist.

    A plugin's evaluator may report anything; what it fails to report fails its trials.

    Raises:
        ConfigError: an unknown metric, with the nearest one; a constraint on something that is
            known only after training.
    """
    costs = cost_metrics(config, problem)
    known, is_known = ("accuracy", *costs), problem.dataset is not None
    if config.evaluator == "table":
        known, is_known = (*result_metrics(problem.family_options), *costs), True
    problems = []
    if is_known:
        problems += [
            f"objectives: {_unknown_metric(m, known, config)}"
            for m in config.objectives
            if m not in known
        ]
    problems += [
        f"constraints: {_unknown_metric(m, costs, config)}" for m in config.bounds if m not in costs
    ]
    if config.fidelity.name == "halving":
        problems += objective_problems(config.objectives, costs)
    if problems:
        raise ConfigError(problems)


def _unknown_metric(metric: str, known: Iterable[str], config: SearchConfig) -> str:
    if metric == "latency_ms" and config.latency.name == "none":
        return "latency_ms is not measured with latency=none; use latency=table or drop it"
    return unknown("metric", metric, known)


def resolve_reference_point(
    objectives: Objectives,
    given: Mapping[str, float],
    constraints: Mapping[str, float],
    costs: Iterable[Cost],
) -> dict[str, float]:
    """The point that hypervolume is measured from: what is given, else accuracy 0 and each cost
    its constraint or 1.1 x the maximum of the sample. ConfigError for what cannot be derived."""
    try:
        return pareto.default_reference(objectives, constraints, list(costs), given)
    except ValueError as error:  # of what is no cost, and is not known before training
        raise ConfigError(f"{error}; or is the objective too much?") from None
