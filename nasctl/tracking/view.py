"""Layer 3: what a run looks like in a tracking store. Pure: records in, values out, no MLflow.

One parent run for the search and one child per trial. Everything is a function of the records
(timestamps too), so that projecting twice says the same thing twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from nasctl.fields import canonical_json
from nasctl.tracking.note import search_note
from nasctl.tracking.study import arm_recipes, effects, study_note, training_name
from nasctl.tracking.text import (
    KEY_LENGTH,
    TAG_LENGTH,
    cut,
    finite_only,
    flatten,
    redact,
    safe_names,
    value_text,
)
from nasctl.tracking.verification import link_tags, verification_note, verified_metrics
from nasctl.trial import State, Trial

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

VOLATILE = ("trials", "executor", "tracking", "progress", "output_dir", "stop", "price")
"""Settings that may change when a run is continued; MLflow's parameters cannot, its tags can."""

RISING = ("verify.max_seeds",)
"""Keys of other sections that may change likewise."""

KEY = "weights"
"""Of a reference network that began with some, among its choices and in the section `init`."""

_TRIAL_STATUS: dict[State, Status] = {
    State.RUNNING: "RUNNING",
    State.COMPLETE: "FINISHED",
    State.PRUNED: "KILLED",
    State.FAILED: "FAILED",
}
_RUN_STATUS: dict[str, Status] = {
    "RUNNING": "RUNNING",
    "FINISHED": "FINISHED",
    "INTERRUPTED": "KILLED",
    "FAILED": "FAILED",
}


class RunRecords(Protocol):
    """A snapshot of one run, as `nasctl.records` reads it from the ledger."""

    @property
    def uid(self) -> str:
        """Unique for ever; what runs in the store are found by."""

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def environment(self) -> Mapping[str, str]: ...
    @property
    def command(self) -> str: ...
    @property
    def git_commit(self) -> str | None: ...
    @property
    def objectives(self) -> Mapping[str, Literal["max", "min"]]: ...
    @property
    def status(self) -> str:
        """RUNNING, FINISHED, INTERRUPTED or FAILED."""

    @property
    def is_ablation(self) -> bool: ...
    @property
    def study(self) -> Mapping[str, Any]:
        """Of an ablation."""

    @property
    def verdicts(self) -> Sequence[Mapping[str, Any]]:
        """Of an ablation, so far."""

    @property
    def verification(self) -> Mapping[str, Any] | None:
        """Of a verification: `run` and `run_uid` of its search, and more."""

    @property
    def verified(self) -> Mapping[str, Any] | None:
        """Of a verification, so far: the object of verified.json."""

    @property
    def rejected_count(self) -> int: ...
    @property
    def measurements(self) -> Mapping[str, Mapping[str, Any]]:
        """By architecture id, what was measured of the whole network: `p50_ms`, ..."""

    @property
    def compute(self) -> Mapping[str, Any] | None:
        """The compute ledger (`nasctl.compute`) of a search."""

    @property
    def latency_device(self) -> Mapping[str, str]:
        """The node of a cluster that measured: `node`, `device`, `runtime`; empty: none did."""

    def trials(self) -> Sequence[Trial]: ...
    def references(self) -> Sequence[Trial]:
        """The reference networks, which are no trials."""

    def hypervolume_history(self) -> Sequence[tuple[int, float]]: ...
    def front_ids(self) -> Set[str]: ...
    def artifacts(self) -> Sequence[tuple[Path, str]]:
        """(file, folder); a file named after an architecture id belongs to that trial's run."""

    def models(self) -> Sequence[tuple[Path, Path]]:
        """(ONNX file, example of its input), named after architecture ids."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of a metric that has a history."""

    key: str
    value: float
    step: int
    timestamp_ms: int


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run of the store as it should be.

    Attributes:
        key: the search's uid, or `uid:number` of a trial.
        attempt: a higher one replaces the run: its earlier epochs belong to a lost attempt.
        points: metrics with a history, in order.
        latest: metrics of which only the current value matters.
        step: at which `latest` values of metrics with a history stand: that of the last epoch.
        end_ms: None while running.
    """

    key: str
    name: str
    status: Status
    attempt: int = 1
    start_ms: int
    end_ms: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    latest: Mapping[str, float] = field(default_factory=dict)
    step: int = 0

    def digest(self) -> str:
        """Equal for equal views: lets a new process skip what is there already."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


# -- one trial ------------------------------------------------------------------------------------


def trial_view(
    trial: Trial,
    *,
    uid: str,
    recipe: Mapping[str, Any],
    pareto: bool,
    live: bool,
    measured: Mapping[str, Any] | None = None,
) -> RunView:
    """The child run of one trial, or of a reference network, which is tagged `reference`.

    Args:
        trial: the ledger's row.
        uid: of the search.
        recipe: training settings, the same for all trials.
        pareto: whether its network is on the front now.
        live: whether the search is running; if not, an unfinished trial is shown as interrupted.
        measured: what was measured of the whole network, if it was.
    """
    running = trial.state is State.RUNNING
    interrupted = running and not live
    state = "INTERRUPTED" if interrupted else trial.state.value
    metrics = finite_only({**trial.cost, **trial.metrics})
    if measured and "p50_ms" in measured:
        metrics |= finite_only({"latency_ms_measured": measured["p50_ms"]})
    params = {
        **trial.choices,
        "arch_id": trial.arch_id,
        **({} if trial.is_reference else {"trial": trial.number}),
        "seed": trial.seed,
        "epochs": trial.epochs,
        **{f"recipe.{k}": v for k, v in flatten(recipe) if k != "epochs"},
    }
    tags = {
        "state": state,
        "pareto": str(pareto and trial.state is State.COMPLETE and not trial.is_reference).lower(),
        "nasctl.trial_uid": f"{uid}:{trial.number}",
        "mlflow.source.name": "nasctl",
        "mlflow.source.type": "LOCAL",
    }
    if trial.is_reference:
        tags["reference"] = value_text(trial.choices["reference"], TAG_LENGTH)
    if trial.attempts > 1:
        tags["nasctl.attempt"] = str(trial.attempts)
    if trial.error:
        tags["failure"] = value_text(trial.error, 500)
        tags["mlflow.note.content"] = cut(f"**{state}**: {redact(trial.error)}", TAG_LENGTH)
    points = tuple(_epoch_points(trial))
    return RunView(
        key=f"{uid}:{trial.number}",
        name=_name(trial),
        status="KILLED" if interrupted else _TRIAL_STATUS[trial.state],
        attempt=trial.attempts,
        start_ms=_ms(trial.started_at),
        end_ms=None if running and live else _ms(trial.started_at + trial.seconds),
        params={k: value_text(v) for k, v in safe_names(params).items()},
        tags=tags,
        points=points,
        latest=safe_names(metrics),
        step=max((p.step for p in points), default=0),
    )


def _name(trial: Trial) -> str:
    if trial.is_reference:
        return f"reference {trial.label}"
    if "arm" in trial.choices:
        return cut(training_name(trial), KEY_LENGTH)
    return f"{trial.number:03d} {trial.arch_id}"


def _epoch_points(trial: Trial) -> Iterator[Point]:
    # When an epoch ended is not recorded: its own seconds add up to it, deterministically.
    clock = trial.started_at
    for evaluation in trial.evaluations:
        seconds = evaluation.metrics.get("seconds", 0.0)
        clock += seconds if math.isfinite(seconds) else 0.0
        for key, value in safe_names(finite_only(evaluation.metrics)).items():
            yield Point(key=key, value=value, step=evaluation.epoch, timestamp_ms=_ms(clock))


# -- the search -----------------------------------------------------------------------------------


def search_view(records: RunRecords, trials: Sequence[Trial], front: Set[str]) -> RunView:
    """The parent run: configuration, environment, progress of the front."""
    status = _RUN_STATUS.get(records.status, "RUNNING")
    everything = (*trials, *records.references())
    ends = {t.number: _ms(t.started_at + t.seconds) for t in everything}
    start = _ms(min((t.started_at for t in everything), default=0.0))
    config = dict(flatten(records.config))
    moving = {k: v for k, v in config.items() if k.split(".")[0] in VOLATILE or k in RISING}
    fixed = {k: v for k, v in config.items() if k not in moving}
    tags = {
        **{f"config.{k}": value_text(v, TAG_LENGTH) for k, v in moving.items()},
        **{f"env.{k}": value_text(v, TAG_LENGTH) for k, v in records.environment.items()},
        **{f"latency.{k}": value_text(v, TAG_LENGTH) for k, v in records.latency_device.items()},
        "state": records.status,
        "nasctl.run_uid": records.uid,
        "nasctl.command": value_text(records.command, TAG_LENGTH),
        "mlflow.note.content": _note(records, trials, front),
        "mlflow.source.name": "nasctl",
        "mlflow.source.type": "LOCAL",
        **(link_tags(records.verification) if records.verification is not None else {}),
    }
    if records.git_commit:
        tags["mlflow.source.git.commit"] = records.git_commit
    return RunView(
        key=records.uid,
        name=cut(records.name, KEY_LENGTH),
        status=status,
        start_ms=start,
        end_ms=None if status == "RUNNING" else max(ends.values(), default=start),
        params={k: value_text(v) for k, v in safe_names(fixed).items()},
        tags=safe_names(tags),
        points=(*_hypervolume_points(records, trials, ends), *_marginal_points(records, ends)),
        latest=safe_names({**_progress(records, trials, front), **_spent(records)}),
    )


def _note(records: RunRecords, trials: Sequence[Trial], front: Set[str]) -> str:
    """What the parent run opens on."""
    if records.is_ablation:
        return study_note(records, trials)
    if records.verification is not None:
        return verification_note(records, trials)
    return search_note(records, trials, front)


def _hypervolume_points(
    records: RunRecords, trials: Iterable[Trial], ends: Mapping[int, int]
) -> Iterator[Point]:
    # Trials finish out of order; a value is sent once no earlier trial can change it any more.
    open_numbers = [t.number for t in trials if not t.state.is_final]
    settled = min(open_numbers, default=math.inf)
    for number, value in records.hypervolume_history():
        if number < settled and math.isfinite(value):
            when = ends.get(number, 0)
            yield Point(key="hypervolume", value=float(value), step=number, timestamp_ms=when)


def _marginal_points(records: RunRecords, ends: Mapping[int, int]) -> Iterator[Point]:
    """What an hour still brought, after each trial."""
    found = records.compute or {"marginal": (), "unit": ""}
    for row in found["marginal"]:
        if row["per_hour"] is not None and math.isfinite(row["per_hour"]):
            yield Point(
                key=f"hypervolume_per_{found['unit']}",
                value=float(row["per_hour"]),
                step=row["trial"],
                timestamp_ms=ends.get(row["trial"], 0),
            )


def _spent(records: RunRecords) -> dict[str, float]:
    """The compute ledger as metrics: `core_hours`, `core_hours_halving`, ...; what was not
    recorded has none."""
    found = records.compute
    if not found:
        return {}
    units = ("core_hours", "gpu_hours") if found["total"]["gpu_hours"] else ("core_hours",)
    spent = {unit: found["total"][unit] for unit in units}
    if found["total"]["money"] is not None:
        spent["cost"] = found["total"]["money"]
    for row in found["rows"]:
        if row["seconds"] is not None:
            spent |= {f"{unit}_{row['purpose']}": row[unit] for unit in units}
    return finite_only(spent)


def _progress(records: RunRecords, trials: Sequence[Trial], front: Set[str]) -> dict[str, float]:
    progress = {
        f"trials_{state.value.lower()}": float(sum(t.state is state for t in trials))
        for state in (State.COMPLETE, State.PRUNED, State.FAILED)
    }
    if records.is_ablation:
        return {**progress, **finite_only(effects(records.verdicts))}
    if records.verification is not None:
        return {**progress, **finite_only(verified_metrics(records.verified))}
    progress["trials_rejected"] = float(records.rejected_count)
    progress["front_size"] = float(len(front))
    done = [{**t.cost, **t.metrics} for t in trials if t.state is State.COMPLETE]
    for name, direction in records.objectives.items():
        values = finite_only({str(i): m[name] for i, m in enumerate(done) if name in m}).values()
        if values and direction == "max":  # the smallest network alone says nothing
            progress[f"best_{name}"] = max(values)
    return progress


def view_run(records: RunRecords) -> list[RunView]:
    """Every run of the store as it should be: the search first, then its trials by number, then
    the reference networks."""
    trials = records.trials()
    front = records.front_ids()
    live = records.status == "RUNNING"
    recipe = records.config.get("recipe") or {}
    recipes = arm_recipes(records.study)
    begun = {**recipe, **{k: v for k, v in (records.config.get("init") or {}).items() if k != KEY}}
    children = [
        trial_view(
            trial,
            uid=records.uid,
            recipe=begun
            if trial.is_reference and KEY in trial.choices
            else recipes.get(str(trial.choices.get("arm")), recipe),
            pareto=trial.arch_id in front,
            live=live,
            measured=records.measurements.get(trial.arch_id),
        )
        for trial in (*trials, *records.references())
    ]
    return [search_view(records, trials, front), *children]
