"""Layer 4: `nasctl ablate`, from a validated configuration to verdicts with their evidence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import precision, running
from nasctl.ablation.build import CheckRecipe, Prepared, prepare_study, recipe_of
from nasctl.ablation.job import AblationJob
from nasctl.ablation.plan import NoSampler, Planned, StudyPlan, deadline
from nasctl.ablation.reading import view_of
from nasctl.ablation.shared import Shared, read_shared
from nasctl.ablation.study import training_key
from nasctl.ablation.view import verdicts_of
from nasctl.engine import Engine, EngineSettings
from nasctl.environment import RUN_MARK, describe_environment
from nasctl.errors import InterruptedSearchError, NasctlError
from nasctl.evaluate import CHECKPOINTS, EvaluatorJob, TrainingJob
from nasctl.executors import create_executor
from nasctl.executors.base import Executor
from nasctl.executors.surroundings import environ
from nasctl.fields import canonical_json
from nasctl.files import write_json
from nasctl.interrupt import StopRequest, handling_signals
from nasctl.latency import LatencySettings, measure_networks
from nasctl.ledger import Ledger
from nasctl.plugins import Registry
from nasctl.records import RunRecords
from nasctl.rundir import Differences, OpenRun, open_run, record_artifacts
from nasctl.search import Display, Tracking
from nasctl.trial import Evaluation, Trial

if TYPE_CHECKING:
    from nasctl.config.ablation import AblationConfig

MAX_FAILURES = 20
"""Failed trainings in a row after which a study gives up."""


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """One call of `nasctl ablate`; the attributes are those of `search.SearchRequest`.

    Attributes:
        check_recipe: what is wrong with a recipe that a factor has changed.
        publish: writes the report from the view of the study into the run's folder.
    """

    config: AblationConfig
    resolved: Mapping[str, Any]
    config_text: str
    command: str
    fresh: bool
    registry: Registry
    differences: Differences
    display: Display
    track: Callable[[Path], Tracking]
    check_recipe: CheckRecipe
    publish: Callable[[Mapping[str, Any], Path], object]


def run_ablation(request: AblationRequest) -> RunRecords:
    """Runs or continues a study until every question is decided, or its seeds are spent.

    Raises:
        ConfigError: the study cannot be as it is configured; nothing was trained.
        InterruptedSearchError: a signal stopped it; the verdicts so far are written.
        NasctlError: see its exit code.
    """
    config = request.config
    prepared = prepare_study(config, request.registry, request.check_recipe)
    directory = Path(config.output_dir) / config.name
    environment = describe_environment()
    if config.evaluator == "train":
        on_gpu = config.executor.name == "inline" or config.executor.gpus > 0
        environment["precision"] = precision.effective(config.recipe.amp, may_use_gpu=on_gpu)
    baseline = next(iter(prepared.study.arms.values()))
    meta = {
        "command": request.command,
        "environment": environment,
        "plugins": dict(request.registry.sources),
        "validation_images": (
            len(prepared.data_of(baseline).val_labels) if config.evaluator == "train" else None
        ),
        "study": prepared.study.to_json(),
        "status": "RUNNING",
        "seconds": 0.0,
    }
    with (
        handling_signals() as stop,
        open_run(
            directory,
            config=request.resolved,
            config_text=request.config_text,
            meta=meta,
            block_types=request.registry.blocks,
            differences=request.differences,
            fresh=request.fresh,
        ) as run,
        environ({RUN_MARK: run.ledger.meta("uid")}),
    ):
        _allow_more_seeds(run.ledger, prepared.study.to_json())
        return _Ablation(request, prepared, run, stop).run()


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
        self._run = run
        self._ledger: Ledger = run.ledger
        self._directory = run.directory
        self._stop = stop
        self._display = request.display
        self._began = time.monotonic()
        self._seconds_before = float(run.ledger.meta("seconds", 0.0))
        if run.moved is not None:
            self._display.warning(f"the old run was moved to {run.moved}")

    def run(self) -> RunRecords:
        self._ledger.set_meta(status="RUNNING", exhausted_at=None)
        tracking = self._request.track(self._directory)
        options = self._config.executor.model_dump(exclude={"name", "retries"})
        executor = create_executor(self._config.executor.name, **options)
        try:
            tracking.start()
            self._train(executor, tracking)
            with tracking.paused():  # nothing else may use the machine meanwhile
                self._measure(executor)
            self._finish("FINISHED", tracking)
        except KeyboardInterrupt:
            self._finish("INTERRUPTED", tracking)
            raise self._interrupted() from None
        except InterruptedSearchError:
            self._finish("INTERRUPTED", tracking)
            raise
        except NasctlError:
            self._finish("FAILED", tracking)
            raise
        return RunRecords(self._directory)

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
            may_go_on=deadline(self._config.budget_s, self._seconds_before),
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
        most = len(study.arms) * (study.last + len(study.rates.factors) * study.rates.seeds)
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
            observer=_Both(self._display, tracking),
            checkpoints=self._directory / CHECKPOINTS,
            warn=self._display.warning,
        )
        self._display.started(most, engine.trials, at_most=study.last > study.first)
        if plan.has_more({t.number: t for t in engine.trials}):
            self._display.phase("starting workers")
            running.drive(
                engine,
                executor,
                self._job(shared),
                ledger=self._ledger,
                checkpoints=self._directory / CHECKPOINTS,
                stop=self._stop,
            )
        if engine.fatal is not None:
            raise engine.fatal
        if self._stop.exit_code:
            raise self._interrupted()

    def _interrupted(self) -> InterruptedSearchError:
        return InterruptedSearchError(
            f"stopped; everything finished is kept. To continue: {self._request.command}",
            exit_code=self._stop.exit_code or 130,
        )

    # -- after training -----------------------------------------------------------------------

    def _measure(self, executor: Executor) -> None:
        """The latency of every arm, whole and alone on the machine."""
        if self._config.latency.name == "none":
            return
        from search_spaces import network

        known = self._ledger.measurements()
        todo = {a.architecture.id: a.architecture for a in self._study.arms.values()}
        todo = {k: v for k, v in todo.items() if k not in known}
        if not todo:
            return
        self._display.phase(f"measuring {len(todo)} networks whole, alone on the machine")
        settings = LatencySettings(**self._config.latency.model_dump(exclude={"name"}))
        found = executor.run_exclusive(
            lambda: measure_networks(
                list(todo.values()),
                settings,
                canary_ms=None,
                build_network=network.build,
                progress=self._display.phase,
            )
        )
        self._ledger.put_measurements({k: v.to_json() for k, v in found.items()})

    def _finish(self, status: str, tracking: Tracking) -> None:
        """Writes verdicts and report; after an interrupt too, so that there is always something."""
        seconds = self._seconds_before + time.monotonic() - self._began
        self._ledger.set_meta(status=status, seconds=seconds)
        records = RunRecords(self._directory)
        if records.trials():
            view = view_of(records)
            write_json(self._directory / "verdicts.json", verdicts_of(view))
            write_json(self._directory / "ablation.json", view)
            if status == "FINISHED":
                self._display.phase("writing the report")
            self._request.publish(view, self._directory)
            record_artifacts(self._run, records.sealed())
        # A small study may be over before MLflow is imported and its new store has its tables.
        sent = tracking.close(45.0 if status == "FINISHED" else 3.0)
        if not sent and status != "INTERRUPTED":
            self._display.warning(
                f"not everything reached the tracking store; later: nasctl sync {self._directory}"
            )


class _Both:
    """Tells the display, and the tracker that there is something new."""

    def __init__(self, display: Display, tracking: Tracking) -> None:
        self._display = display
        self._tracking = tracking

    def trial_started(self, trial: Trial) -> None:
        self._display.trial_started(trial)
        self._tracking.poke()

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        self._display.epoch(trial, evaluation)
        self._tracking.poke()

    def trial_ended(self, trial: Trial) -> None:
        self._display.trial_ended(trial)
        self._tracking.poke()

    def rejected(self, count: int) -> None:
        """Nothing is rejected here."""
