"""Layer 4: `nasctl ablate`, from a validated configuration to verdicts with their evidence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import precision, running
from nasctl.ablation.build import CheckRecipe, Prepared, prepare_study, recipe_of
from nasctl.ablation.job import AblationJob
from nasctl.ablation.plan import Planned, StudyPlan, deadline
from nasctl.ablation.reading import view_of
from nasctl.ablation.shared import Shared, read_shared
from nasctl.ablation.study import training_key
from nasctl.ablation.view import verdicts_of
from nasctl.arch import Architecture
from nasctl.engine import Engine, EngineSettings
from nasctl.errors import TooManyFailuresError
from nasctl.evaluate import CHECKPOINTS, EvaluatorJob, TrainingJob
from nasctl.executors.base import Executor
from nasctl.executors.place import ExecutorPlace
from nasctl.fields import canonical_json
from nasctl.files import write_json
from nasctl.interrupt import StopRequest
from nasctl.ledger import Ledger
from nasctl.planned import NoSampler
from nasctl.prepare import OTHER_DATA
from nasctl.pricing import latency_place, latency_settings
from nasctl.records import RunRecords
from nasctl.resources import configured_resources, note_resources
from nasctl.rundir import OpenRun
from nasctl.runflow import (
    Announcer,
    RunRequest,
    Tracking,
    carry_out,
    check_end,
    drive,
    measure_whole,
    opened,
    settled_device,
)

if TYPE_CHECKING:
    from nasctl.config.ablation import AblationConfig

MAX_FAILURES = 20
"""Failed trainings in a row after which a study gives up."""
FLUSH_S = 45.0
"""A small study may be over before MLflow is imported and its new store has its tables."""


@dataclass(frozen=True, kw_only=True)
class AblationRequest(RunRequest):
    """One call of `nasctl ablate`.

    Attributes:
        check_recipe: what is wrong with a recipe that a factor has changed.
        publish: writes the report from the view of the study into the run's folder.
    """

    config: AblationConfig
    check_recipe: CheckRecipe
    publish: Callable[[Mapping[str, Any], Path], object]


def run_ablation(request: AblationRequest) -> RunRecords:
    """Runs or continues a study until every question is decided, or its seeds are spent.

    Raises:
        ConfigError: the study cannot be as it is configured; nothing was trained.
        InterruptedSearchError: a signal stopped it; the verdicts so far are written.
        TooManyFailuresError: so did too many trainings for a verdict; likewise.
        NasctlError: see its exit code.
    """
    config = request.config
    prepared = prepare_study(config, request.registry, request.check_recipe)
    directory = Path(config.output_dir) / config.name
    environment, images, data = {}, None, None
    if config.evaluator == "train":
        data = "-".join(sorted({d.fingerprint for d in prepared.datasets.values()}))
        on_gpu = config.executor.name == "inline" or config.executor.gpus > 0
        environment["precision"] = precision.effective(config.recipe.amp, may_use_gpu=on_gpu)
        images = len(prepared.data_of(prepared.study.baseline).val_labels)
    meta = {
        "environment": environment,
        "validation_images": images,
        "data": data,
        "study": prepared.study.to_json(),
    }
    request = dataclasses.replace(
        request, differences=functools.partial(_differences, request, directory, data)
    )
    with opened(request, directory, meta, same_code=True) as (run, stop):
        _allow_more_seeds(run.ledger, prepared.study.to_json())
        ablation = _Ablation(request, prepared, run, stop)
        records = carry_out(
            request,
            run,
            stop,
            work=ablation.work,
            write=ablation.write,
            publish=lambda records: request.publish(view_of(records), directory),
            flush_s=FLUSH_S,
        )
    _check_results(records)
    return records


def _differences(
    request: AblationRequest,
    directory: Path,
    data: str | None,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> list[str]:
    """Those of the configuration, and of the images that it is about."""
    found, recorded = request.differences(before, now), RunRecords(directory).meta("data")
    if recorded not in (None, data):
        name = request.config.data.name
        found = [*found, f"data: {name} has changed since this study began: {OTHER_DATA}"]
    return found


def _check_results(records: RunRecords) -> None:
    """Raises if failed trainings have left a question of the study without an answer."""
    view = view_of(records)
    failed = view["trainings"]["failed"]
    asked = [c for c in view["comparisons"] if not c["kind"].endswith("_control")]
    lost = [c["name"] for c in asked if c["n"] < view["setting"]["seeds"]["min"]]
    if lost and failed:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise TooManyFailuresError(
            f"no verdict on {lost[0]}{more}: {failed} trainings failed; --fresh trains those again "
            "and takes the finished ones over"
        )


def _allow_more_seeds(ledger: Ledger, study: Mapping[str, Any]) -> None:
    """More seeds may be allowed when a study continues, and nothing else of it may change. Where
    results have been seen, that is remembered: the looks were planned for fewer."""
    before = int((ledger.meta("study") or study)["last"])
    if study["last"] > before and any(t.state.is_final for t in ledger.trials()):
        raised = [*ledger.meta("seeds_raised", []), [before, study["last"]]]
        ledger.set_meta(seeds_raised=raised)
    ledger.set_meta(study=study)


class _Ablation:
    """The steps of one study, in order; state is in the ledger."""

    def __init__(
        self, request: AblationRequest, prepared: Prepared, run: OpenRun, stop: StopRequest
    ) -> None:
        self._request = request
        self._config = request.config
        self._prepared = prepared
        self._study = prepared.study
        self._ledger: Ledger = run.ledger
        self._directory = run.directory
        self._stop = stop
        self._display = request.display

    def work(self, tracking: Tracking) -> None:
        """Trains and measures."""
        self._ledger.set_meta(exhausted_at=None)  # more seeds may be allowed now
        executor = running.configured_executor(
            self._config.executor,
            self._request.registry,
            announce=self._display.phase,
            note=self._display.warning,
        )
        place = latency_place(self._config, executor, self._request.registry)
        todo = self._unmeasured()
        device = None
        if todo:  # a device that is not there is not noticed after hours of training
            settings = latency_settings(self._config)
            device = settled_device(place, settings, self._ledger, self._display)
        tracking.start()
        self._train(executor, tracking)
        with tracking.paused():  # nothing else may use the machine meanwhile
            self._measure(todo, place, device)

    def write(self, records: RunRecords) -> None:
        """The verdicts, and everything else that a report shows."""
        view = view_of(records)
        write_json(self._directory / "verdicts.json", verdicts_of(view))
        write_json(self._directory / "ablation.json", view)

    # -- training -----------------------------------------------------------------------------

    def _plan(self, shared: Shared) -> StudyPlan:
        environment = self._ledger.meta("environment")
        code = {
            name: environment[name]
            for name in ("nasctl", "torch", "precision", "cpu")
            if name in environment
        }
        code |= {"evaluator": self._config.evaluator, **self._request.registry.sources}

        def key(row: Planned) -> str:
            return training_key(
                row.arm,
                lr=row.lr,
                seed=row.seed,
                split=row.split,
                data=self._prepared.data_of(row.arm).fingerprint,
                code=code,
            )

        return StudyPlan(
            self._study,
            key=key,
            shared=shared.places.get,
            may_go_on=deadline(self._config.budget_s, float(self._ledger.meta("seconds", 0.0))),
        )

    def _job(self, shared: Shared) -> AblationJob:
        arms = self._study.arms
        config = self._config
        plugins = tuple(self._request.registry.sources)
        inner: TrainingJob | EvaluatorJob = EvaluatorJob(
            evaluator=config.evaluator, plugins=plugins
        )
        if config.evaluator == "train":
            inner = TrainingJob(
                recipe=config.recipe.to_recipe(),
                plugins=plugins,
                checkpoints=str(self._directory.absolute() / CHECKPOINTS),
                checkpoint_s=60.0,
            )
        return AblationJob(
            inner=inner,
            recipes={a.name: recipe_of(a) for a in arms.values()},
            data={a.name: canonical_json(a.settings["data"]) for a in arms.values()},
            shared=shared.epochs,
            datasets=self._prepared.datasets if config.evaluator == "train" else None,
        )

    def _train(self, executor: Executor, tracking: Tracking) -> None:
        study = self._study
        shared = read_shared(Path(self._config.output_dir), self._directory)
        plan = self._plan(shared)
        most = study.trainings(study.last)
        settings = EngineSettings(
            objectives={study.metric: "max"},
            constraints={},
            trials=most,
            seed=study.seed,
            epochs=self._config.recipe.epochs,
            window=most,  # the plan knows itself what it has to wait for
            retries=self._config.executor.retries,
            max_failures=MAX_FAILURES,
        )
        engine = Engine(
            ledger=self._ledger,
            settings=settings,
            source=plan,
            sampler=NoSampler(),
            observer=Announcer(self._display, tracking),
            checkpoints=self._directory / CHECKPOINTS,
            warn=self._display.warning,
        )
        self._display.started(most, engine.trials, at_most=study.last > study.first)
        if plan.has_more({t.number: t for t in engine.trials}):
            self._display.phase("starting workers")
            given = configured_resources(self._request.resolved)
            if self._config.evaluator == "train":
                given = running.with_own_gpu(given, self._config.executor)
            note_resources(self._ledger, given)
            drive(
                engine,
                executor,
                self._job(shared),
                ledger=self._ledger,
                checkpoints=self._directory / CHECKPOINTS,
                stop=self._stop,
            )
        check_end(engine, self._stop, self._request.command)

    # -- after training -----------------------------------------------------------------------

    def _unmeasured(self) -> list[Architecture]:
        """The arms whose latency is still to be measured."""
        if self._config.latency.name == "none":
            return []
        known = self._ledger.measurements()
        arms = {a.architecture.id: a.architecture for a in self._study.arms.values()}
        return [network for arch_id, network in arms.items() if arch_id not in known]

    def _measure(self, todo: list[Architecture], place: ExecutorPlace, device: str | None) -> None:
        """The latency of arms, whole and alone on the machine or the node."""
        if not todo:
            return
        from search_spaces import network

        measure_whole(
            todo,
            latency_settings(self._config),
            canary_ms=None,
            build_network=network.build,
            place=place,
            device=device,
            ledger=self._ledger,
            display=self._display,
        )
