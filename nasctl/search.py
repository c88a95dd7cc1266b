"""Layer 4: `nasctl search`, from a validated configuration to a front that was measured."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nasctl import precision, prepare, running
from nasctl.candidates import CandidateSource
from nasctl.engine import Engine, EngineSettings
from nasctl.environment import RUN_MARK, describe_environment
from nasctl.errors import InterruptedSearchError, NasctlError
from nasctl.evaluate import CHECKPOINTS
from nasctl.executors.base import Executor
from nasctl.executors.surroundings import environ
from nasctl.files import write_json
from nasctl.front import (
    Entry,
    FrontSoFar,
    collect_entries,
    front_entries,
    near_front_entries,
)
from nasctl.halving import continued
from nasctl.interrupt import StopRequest, handling_signals
from nasctl.latency import measure_networks
from nasctl.ledger import Ledger
from nasctl.observer import Observer
from nasctl.plugins import Registry
from nasctl.prepare import Problem
from nasctl.pricing import Pricer, Tables, latency_settings, make_pricer
from nasctl.records import RunRecords
from nasctl.references import reference_trials
from nasctl.rundir import Differences, OpenRun, open_run, record_artifacts
from nasctl.samplers import SamplerContext, create_sampler, sampler_note
from nasctl.space import measure_space
from nasctl.trial import Evaluation, Trial

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

NEAR_FRONT_LIMIT = 24
"""How many networks are measured whole at the end, front members first."""


class Display(Observer, Protocol):
    """What the flow tells its user, besides the trials."""

    def phase(self, text: str) -> None: ...
    def warning(self, text: str) -> None: ...
    def front(self, size: int, hypervolume: float) -> None: ...
    def started(self, total: int, trials: Iterable[Trial], *, at_most: bool = False) -> None: ...


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """One call of `nasctl search`.

    Attributes:
        resolved: the configuration as plain values; `config_text` is the same as YAML.
        command: as typed, for the record.
        differences: see `rundir.open_run`.
        track: makes the projection of the run in a folder into its tracking store.
        publish: writes the report of a run into its folder.
    """

    config: SearchConfig
    resolved: Mapping[str, Any]
    config_text: str
    command: str
    fresh: bool
    registry: Registry
    differences: Differences
    display: Display
    track: Callable[[Path], Tracking]
    publish: Callable[[RunRecords], None]


class Tracking(Protocol):
    """The projection of a run into a tracking store."""

    def start(self) -> None: ...
    def poke(self) -> None: ...
    def paused(self) -> contextlib.AbstractContextManager[None]: ...
    def close(self, flush_seconds: float) -> bool: ...


def run_search(request: SearchRequest) -> RunRecords:
    """Runs or continues a search until its trials are done; the records of it.

    Raises:
        ConfigError: the configuration names something that does not exist or cannot be.
        InterruptedSearchError: a signal stopped it; the front so far is written.
        NasctlError: see its exit code.
    """
    config = request.config
    problem = prepare.load_problem(config, request.registry)
    prepare.check_metrics(config, problem)
    directory = Path(config.output_dir) / config.name
    meta = {
        "command": request.command,
        "environment": describe_environment(),
        "plugins": dict(request.registry.sources),
        "validation_images": problem.validation_images,
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
        # What it starts can be found by this, should it ever be left behind.
        environ({RUN_MARK: run.ledger.meta("uid")}),
    ):
        return _Search(request, problem, run, stop).run()


class _Search:
    """The steps of one search, in order; state is in the ledger."""

    def __init__(
        self, request: SearchRequest, problem: Problem, run: OpenRun, stop: StopRequest
    ) -> None:
        self._request = request
        self._config = request.config
        self._problem = problem
        self._run = run
        self._ledger: Ledger = run.ledger
        self._directory = run.directory
        self._checkpoints = run.directory / CHECKPOINTS
        self._stop = stop
        self._display = request.display
        self._began = time.monotonic()
        self._seconds_before = float(run.ledger.meta("seconds", 0.0))
        if run.moved is not None:
            self._display.warning(f"the old run was moved to {run.moved}")

    def run(self) -> RunRecords:
        self._ledger.set_meta(status="RUNNING")
        tracking = self._request.track(self._directory)
        try:
            price = self._price()
            executor = running.make_executor(self._config, self._problem, self._ledger)
            engine = self._engine(price, tracking, running.clock_of(executor))
            tracking.start()
            self._train(engine, executor)
            with tracking.paused():  # nothing else may use the machine meanwhile
                self._measure_front(price, executor)
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
        return self._records()

    def _records(self) -> RunRecords:
        return RunRecords(self._directory)

    # -- before training ----------------------------------------------------------------------

    def _price(self) -> Pricer:
        """Prices are fixed when a run is created: its ledger holds the tables from then on."""
        config, family = self._config, self._problem.family
        sample = prepare.sample_architectures(family, seed=config.seed)
        stored = Tables(
            block_costs=self._ledger.meta("block_costs"),
            latency_table=self._ledger.meta("latency_table"),
        )
        price = make_pricer(
            config,
            self._problem,
            sample,
            self._request.registry,
            stored=stored,
            announce=self._display.phase,
        )
        new: dict[str, Any] = {}
        if price.blocks is not None and stored.block_costs is None:
            new["block_costs"] = price.blocks.to_json()
        if price.latency is not None and stored.latency_table is None:
            new["latency_table"] = price.latency.to_json()
            new["latency_summary"] = price.latency.summary
        if self._ledger.meta("reference_point") is None:
            new["reference_point"] = prepare.resolve_reference_point(
                config.objectives,
                config.reference_point,
                config.bounds,
                [price(a).cost for a in sample],
            )
            new["space_size"] = vars(measure_space(family, seed=config.seed))
            if self._problem.dataset is not None:
                on_gpu = config.executor.name == "inline" or config.executor.gpus > 0
                effective = precision.effective(config.recipe.amp, may_use_gpu=on_gpu)
                new["environment"] = {**self._ledger.meta("environment"), "precision": effective}
        self._ledger.set_meta(**new)
        return price

    def _engine(self, price: Pricer, tracking: Tracking, clock: Callable[[], float]) -> Engine:
        config = self._config
        source = CandidateSource(
            family=self._problem.family,
            price=price,
            constraints=config.bounds,
            seed=config.seed,
            max_seeds=config.search.max_seeds,
            repeat_duplicates=config.search.duplicates == "repeat",
        )
        self._front = FrontSoFar(config.objectives, self._ledger.meta("reference_point"))
        for trial in self._ledger.trials():
            self._front.add(trial)
        context = SamplerContext(
            space=self._problem.family.space,
            directions=tuple(config.objectives.values()),
            seed=config.seed,
            trials=config.trials,
            objectives=tuple(config.objectives),
            reference_point=self._ledger.meta("reference_point"),
            price=source.known,
            max_seeds=config.search.max_seeds,
        )
        if note := sampler_note(config.sampler.name, context):
            self._display.warning(note)
        settings = EngineSettings(
            objectives=config.objectives,
            constraints=config.bounds,
            trials=config.trials,
            seed=config.seed,
            epochs=config.recipe.epochs,
            order=config.search.order,
            window=config.search.window,
            retries=config.executor.retries,
            max_failures=config.search.max_failures,
        )
        return Engine(
            ledger=self._ledger,
            settings=settings,
            source=source,
            sampler=create_sampler(config.sampler.name, config.sampler.options, context),
            observer=_Both(self._display, tracking, self._front),
            references=reference_trials(
                self._problem.references, price, seed=config.seed, epochs=config.recipe.epochs
            ),
            halving=continued(config.fidelity.to_halving(), self._ledger, settings),
            checkpoints=self._checkpoints,
            warn=self._display.warning,
            clock=clock,
        )

    # -- training -----------------------------------------------------------------------------

    def _train(self, engine: Engine, executor: Executor) -> None:
        self._display.started(self._config.trials, engine.trials)
        self._display.front(self._front.size, self._front.hypervolume)

        if engine.has_work():
            self._display.phase("starting workers")
            job = running.make_job(
                self._config, self._problem, self._request.registry, self._directory
            )
            try:
                running.drive(
                    engine,
                    executor,
                    job,
                    ledger=self._ledger,
                    checkpoints=self._checkpoints,
                    stop=self._stop,
                )
            finally:
                if (note := running.note_simulation(executor, self._ledger)) is not None:
                    self._display.phase(note)
        if engine.fatal is not None:
            raise engine.fatal
        if self._stop.exit_code:
            raise self._interrupted()
        if engine.exhausted:
            self._display.warning(
                f"the space is exhausted after {len(engine.trials)} of {self._config.trials} trials"
            )

    def _interrupted(self) -> InterruptedSearchError:
        return InterruptedSearchError(
            f"stopped; everything finished is kept. To continue: {self._request.command}",
            exit_code=self._stop.exit_code or 130,
        )

    # -- after training -----------------------------------------------------------------------

    def _entries(self, trials: list[Trial]) -> list[Entry]:
        return collect_entries(
            trials,
            measured=self._ledger.measurements(),
            validation_images=self._ledger.meta("validation_images"),
        )

    def _measure_front(self, price: Pricer, executor: Executor) -> None:
        """Measures front members, near-front candidates and references whole, until the front
        stands on measured networks: replacing a prediction can bring others onto it."""
        if price.latency is None:
            return
        for _ in itertools.repeat(None, 3):
            entries = self._entries(self._ledger.trials())
            references = self._entries(self._ledger.references())
            members = front_entries(entries, self._config.objectives)
            near = near_front_entries(entries, members, self._config.objectives)
            measured = self._ledger.measurements()
            todo = [e for e in (*members, *near) if e.arch_id not in measured][:NEAR_FRONT_LIMIT]
            todo += [e for e in references if e.arch_id not in measured]
            if not todo:
                return
            self._display.phase(f"measuring {len(todo)} networks whole, alone on the machine")
            self._measure(todo, price.latency.canary_ms, executor)

    def _measure(self, todo: list[Entry], canary_ms: float, executor: Executor) -> None:
        from search_spaces import network

        settings = latency_settings(self._config)
        published = {r.architecture.id for r in self._problem.references}
        own_build = self._problem.family.build or network.build
        found = executor.run_exclusive(
            lambda: measure_networks(
                [e.architecture for e in todo],
                settings,
                canary_ms=canary_ms,
                build_network=lambda a: network.build(a) if a.id in published else own_build(a),
                progress=self._display.phase,
            )
        )
        self._ledger.put_measurements({k: v.to_json() for k, v in found.items()})

    def _finish(self, status: str, tracking: Tracking) -> None:
        """Writes front and report; also after an interrupt, so that there is always something."""
        seconds = self._seconds_before + time.monotonic() - self._began
        self._ledger.set_meta(status=status, seconds=seconds)
        records = self._records()
        if records.trials():
            write_json(self._directory / "front.json", records.front)
            members = records.front_ids()
            for entry in records.entries:
                if entry.arch_id in members:
                    write_json(
                        self._directory / "weights" / f"{entry.arch_id}.json",
                        entry.architecture.to_json(),
                    )
            if status == "FINISHED":
                self._display.phase("writing the report")
            self._request.publish(records)
            record_artifacts(self._run, records.sealed())
        # An interrupted search sends the rest when it is continued: no word about it now.
        sent = tracking.close(20.0 if status == "FINISHED" else 3.0)
        if not sent and status != "INTERRUPTED":
            self._display.warning(
                f"not everything reached the tracking store; later: nasctl sync {self._directory}"
            )


class _Both:
    """Tells the display, with the front so far, and the tracker that there is something new."""

    def __init__(self, display: Display, tracking: Tracking, front: FrontSoFar) -> None:
        self._display = display
        self._tracking = tracking
        self._front = front

    def trial_started(self, trial: Trial) -> None:
        self._display.trial_started(trial)
        self._tracking.poke()

    def epoch(self, trial: Trial, evaluation: Evaluation) -> None:
        self._display.epoch(trial, evaluation)
        self._tracking.poke()

    def trial_ended(self, trial: Trial) -> None:
        if not trial.is_reference and self._front.add(trial):
            self._display.front(self._front.size, self._front.hypervolume)
        self._display.trial_ended(trial)
        self._tracking.poke()

    def rejected(self, count: int) -> None:
        self._display.rejected(count)
