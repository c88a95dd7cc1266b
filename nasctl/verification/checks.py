"""Layer 4: whether a run can be verified, and that its data is still that of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl.arch import Architecture, Opaque
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.int8 import check_dataset
from nasctl.plugins import Registry
from nasctl.prepare import Problem
from nasctl.records import RunRecords
from nasctl.references import check_weights
from nasctl.runlock import driver
from nasctl.trial import EXACT_METRICS
from nasctl.verification.finalists import Finalist, choose_finalists, with_blocks
from nasctl.verification.fronts import IN_INT8
from nasctl.verification.plan import fresh_seeds
from nasctl.verification.settings import VerifySettings
from search_spaces.table import read_table

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig


def check_run(records: RunRecords) -> None:
    """Whether a run is a search that nobody drives now.

    Raises:
        ConfigError: it is something else.
        EnvironmentProblemError: a process drives it.
    """
    run = records.directory
    if records.is_ablation:
        raise ConfigError(
            f"{run}: an ablation study has verdicts and no front; nasctl verify takes a search"
        )
    if records.is_verification:
        raise ConfigError(
            f"{run}: is a verification itself; nasctl verify {run.parent} continues it"
        )
    if records.config.get("evaluator") == "replay":
        raise ConfigError(
            f"{run}: it replays {records.config['replay']['run']}, and a recording has no fresh "
            "seeds; verify that run"
        )
    if (holder := driver(run)) is not None:
        raise EnvironmentProblemError(
            f"{run}: it is being searched or verified by another process (pid {holder}); wait for "
            "it, or stop it"
        )


def finalists_for(
    records: RunRecords, settings: VerifySettings, registry: Registry
) -> list[Finalist]:
    """Who is verified, with modules where plugins have them.

    Raises:
        ConfigError: a plugin of the run is missing.
        NothingFeasibleError: there is no front.
    """
    plugins: Mapping[str, str] = records.meta("plugins") or {}
    found = choose_finalists(records, settings)
    return with_blocks(found, registry.blocks, plugins=plugins, given=registry.sources)


def seeds_for(
    finalists: Sequence[Finalist], config: SearchConfig, settings: VerifySettings, problem: Problem
) -> dict[str, tuple[int, ...]]:
    """Fresh seeds by architecture id, `settings.max_seeds` or as many as there are.

    Raises:
        ConfigError: a table has fewer than `settings.seeds` results that the search has not seen.
    """
    table = None
    if config.evaluator == "table":
        table = read_table(**problem.family_options)
    found = {}
    for f in finalists:
        circle = None if table is None else len(table.results[table.key(f.architecture)])
        seeds = fresh_seeds(config.seed, settings.max_seeds, circle=circle, used=f.used_seeds)
        if len(seeds) < settings.seeds:
            raise ConfigError(
                f"verify.seeds: {settings.seeds}, but the table has {len(seeds)} results of "
                f"{f.arch_id} that the search has not seen"
            )
        found[f.arch_id] = seeds
    return found


def check_front(
    records: RunRecords,
    finalists: Sequence[Finalist],
    config: SearchConfig,
    settings: VerifySettings,
    problem: Problem,
) -> None:
    """Whether int8 files can be made, and have what the front is to be judged by.

    Raises:
        ConfigError: they do not.
    """
    if settings.front != "int8":
        return
    key, remedy = "verify.front: int8", "verify.front=trained judges the networks"
    if problem.dataset is None:
        raise ConfigError(
            f"{key}: evaluator={config.evaluator} trains no network that could be quantised; "
            f"{remedy}"
        )
    try:
        check_dataset(problem.dataset)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}; {remedy}") from None
    known = (*IN_INT8, *EXACT_METRICS)
    for metric in config.objectives:
        if metric not in known:
            raise ConfigError(
                f"{key}: objectives.{metric}: int8 files have no value of it, but of "
                f"{', '.join(dict.fromkeys(known))}; {remedy}"
            )
    if "latency_ms" not in config.objectives:
        return
    if settings.latency == "search":
        raise ConfigError(
            f"{key}: objectives.latency_ms: verify.latency=search has no latency of int8 files; "
            "use verify.latency=measure"
        )
    if not is_timed(records, settings, problem, [f.architecture for f in finalists]):
        raise ConfigError(
            f"{key}: objectives.latency_ms: the run has it from space.family={config.space.family} "
            f"and measures none, so int8 files have no value of it; {remedy}"
        )


def is_timed(
    records: RunRecords,
    settings: VerifySettings,
    problem: Problem,
    networks: Sequence[Architecture],
) -> bool:
    """Whether there are modules to time, and latency is predicted by a table of ours."""
    return (
        settings.latency == "measure"
        and records.latency is not None
        and problem.family.cost is None
        and not any(isinstance(b, Opaque) for a in networks for b in a.blocks)
    )


def check_data(records: RunRecords, problem: Problem, finalists: Sequence[Finalist]) -> None:
    """Whether the data is what the search was made on, and references begin with the same weights.

    Raises:
        ConfigError: a file of weights has changed.
        EnvironmentProblemError: the data has.
    """
    taught = {f.arch_id for f in finalists}
    check_weights(
        [r for r in problem.references if r.architecture.id in taught],
        records.meta("init_weights"),
        remedy="put the old file back, or leave it out with verify.references=false",
    )
    if problem.dataset is None:
        return
    was = records.meta("data") or _data_of_weights(records, finalists)
    if was not in (None, problem.dataset.fingerprint):
        raise EnvironmentProblemError(
            f"{records.directory}: {problem.dataset.name} has changed since the search "
            f"({was}, now {problem.dataset.fingerprint}): its accuracies would not compare"
        )


def _data_of_weights(records: RunRecords, finalists: Sequence[Finalist]) -> str | None:
    """Of a run that is older than that note: what its weights say."""
    for f in finalists:
        path: Path | None = records.weights(f.arch_id)
        if path is not None:
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, framework="np") as file:
                    return (file.metadata() or {}).get("data")
            except (OSError, SafetensorError):
                continue  # damaged weights are for `nasctl doctor` to tell of
    return None
