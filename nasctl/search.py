"""Layer 4: `nasctl search`, from a validated configuration to a front that was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import prepare, running, stopping
from nasctl.candidates import ENUMERATION_LIMIT, CandidateSource
from nasctl.engine import Engine, EngineSettings
from nasctl.errors import ConfigError
from nasctl.evaluate import CHECKPOINTS
from nasctl.executors.base import Executor
from nasctl.executors.place import ExecutorPlace
from nasctl.files import write_json
from nasctl.front import FrontSoFar
from nasctl.halving import continued
from nasctl.interrupt import StopRequest
from nasctl.ledger import Ledger
from nasctl.measured_front import MeasuredFront
from nasctl.prepare import Problem
from nasctl.pricing import (
    Pricer,
    Tables,
    latency_place,
    latency_settings,
    make_pricer,
    network_builder,
)
from nasctl.records import LEDGER, RunRecords
from nasctl.references import check_weights, reference_trials, starting_weights
from nasctl.resources import note_measuring, note_resources
from nasctl.rundir import OpenRun
from nasctl.runflow import (
    Announcer,
    RunRequest,
    Tracking,
    carry_out,
    check_end,
    drive,
    opened,
)
from nasctl.samplers import SamplerContext, create_sampler, sampler_note
from nasctl.space import measure_space
from nasctl.trial import Trial

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

FLUSH_S = 45.0
"""A small search may be over before MLflow is imported and its new store has its tables."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest(RunRequest):
    """One call of `nasctl search`.

    Attributes:
        publish: writes the report of a run into its folder.
        rehearse: what `publish` does, without its files: its first time takes longer than others.
    """

    config: SearchConfig
    publish: Callable[[RunRecords], None]
    rehearse: Callable[[RunRecords], None]


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
        "validation_images": problem.validation_images,
        "data": problem.dataset.fingerprint if problem.dataset is not None else None,
        "init_weights": starting_weights(problem.references),
        "results": problem.results,
    }
    request = dataclasses.replace(
        request, differences=functools.partial(_differences, request, problem, directory / LEDGER)
    )
    with opened(request, directory, meta) as (run, stop):
        search = _Search(request, problem, run, stop)
        return carry_out(
            request,
            run,
            stop,
            work=search.work,
            write=search.write,
            publish=request.publish,
            flush_s=FLUSH_S,
        )


def _differences(
    request: SearchRequest,
    problem: Problem,
    ledger_path: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> list[str]:
    """Those of the configuration, and of the files that it names: by what is in them, wherever
    they are by now."""
    found = request.differences(before, now)
    ledger = Ledger(ledger_path, {}, readonly=True)
    try:
        data, weights = ledger.meta("data"), ledger.meta("init_weights")
        results = ledger.meta("results")
    finally:
        ledger.close()
    for check in (
        functools.partial(prepare.check_data, problem, data),
        functools.partial(check_weights, problem.references, weights),
        functools.partial(prepare.check_results, request.config, problem, results),
    ):
        try:
            check()
        except ConfigError as error:
            found = [*found, *error.problems]
    return found


class _Search:
    """The steps of one search, in order; state is in the ledger."""

    def __init__(
        self, request: SearchRequest, problem: Problem, run: OpenRun, stop: StopRequest
    ) -> None:
        self._request = request
        self._config = request.config
        self._problem = problem
        self._ledger: Ledger = run.ledger
        self._directory = run.directory
        self._checkpoints = run.directory / CHECKPOINTS
        self._stop = stop
        self._display = request.display

    def work(self, tracking: Tracking) -> None:
        """Prices, trains, measures."""
        executor = running.make_executor(
            self._config,
            self._problem,
            self._request.registry,
            self._ledger,
            announce=self._display.phase,
            note=self._display.warning,
        )
        if self._ledger.meta("reference_point") is None:
            executor.preflight()  # of a new run, whose blocks would be measured first
        place = latency_place(self._config, executor, self._request.registry)
        continues = self._ledger.meta("latency_table") is not None
        price = self._price(place)
        front = self._measured_front(price, place)
        engine = self._engine(
            price, tracking, running.clock_of(executor), at_last=self._ahead(front)
        )
        if continues and price.latency is not None and engine.has_work():
            # Another device, or none, is not noticed after hours of training.
            place.check(latency_settings(self._config), price.latency.device, self._display.phase)
        tracking.start()
        self._train(engine, executor)
        if front is not None:
            with tracking.paused():  # nothing else may use the machine meanwhile
                front.measure()

    def write(self, records: RunRecords) -> None:
        """The front, and beside the weights of its members what they are of."""
        write_json(self._directory / "front.json", records.front)
        members = records.front_ids()
        for entry in records.entries:
            if entry.arch_id in members:
                write_json(
                    self._directory / "weights" / f"{entry.arch_id}.json",
                    entry.architecture.to_json(),
                )

    # -- before training ----------------------------------------------------------------------

    def _price(self, place: ExecutorPlace) -> Pricer:
        """Prices are fixed when a run is created: its ledger holds the tables from then on."""
        config, family = self._config, self._problem.family
        sample = prepare.sample_architectures(family, seed=config.seed)
        stored = Tables(
            block_costs=self._ledger.meta("block_costs"),
            latency_table=self._ledger.meta("latency_table"),
        )
        began = time.monotonic()
        price = make_pricer(
            config,
            self._problem,
            sample,
            self._request.registry,
            stored=stored,
            announce=self._display.phase,
            place=place,
        )
        new: dict[str, Any] = {}
        if price.blocks is not None and stored.block_costs is None:
            new["block_costs"] = price.blocks.to_json()
        if price.latency is not None and stored.latency_table is None:
            new["latency_table"] = price.latency.to_json()
            new["latency_summary"] = price.latency.summary
            settings, blocks = latency_settings(config), len(price.latency.blocks)
            note_measuring(self._ledger, settings, "table", blocks, time.monotonic() - began)
        if self._ledger.meta("reference_point") is None:
            new["reference_point"] = prepare.resolve_reference_point(
                config.objectives,
                config.reference_point,
                config.bounds,
                [price(a).cost for a in sample],
            )
            new["space_size"] = vars(measure_space(family, seed=config.seed))
            if self._problem.dataset is not None:
                effective = running.effective_precision(config)
                new["environment"] = {**self._ledger.meta("environment"), "precision": effective}
        self._ledger.set_meta(**new)
        return price

    def _engine(
        self,
        price: Pricer,
        tracking: Tracking,
        clock: Callable[[], float],
        *,
        at_last: Iterable[None],
    ) -> Engine:
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
            observer=Announcer(self._display, tracking, self._join_front),
            references=reference_trials(
                self._problem.references, price, seed=config.seed, epochs=config.recipe.epochs
            ),
            halving=continued(config.fidelity.to_halving(), self._ledger, settings),
            stop=stopping.continued(
                config.stop.to_settings(),
                self._ledger,
                objectives=config.objectives,
                trials=config.trials,
            ),
            checkpoints=self._checkpoints,
            warn=self._display.warning,
            at_last=at_last,
            clock=clock,
        )

    def _join_front(self, trial: Trial) -> None:
        if not trial.is_reference and self._front.add(trial):
            self._display.front(self._front.size, self._front.hypervolume)

    def _measured_front(self, price: Pricer, place: ExecutorPlace) -> MeasuredFront | None:
        """None: latency is no objective."""
        if price.latency is None:
            return None
        return MeasuredFront(
            price.latency,
            latency_settings(self._config),
            objectives=self._config.objectives,
            build_network=network_builder(
                self._config, self._problem, self._request.registry, with_references=True
            ),
            place=place,
            ledger=self._ledger,
            display=self._display,
        )

    # -- training -----------------------------------------------------------------------------

    def _train(self, engine: Engine, executor: Executor) -> None:
        self._display.started(self._config.trials, engine.trials)
        self._display.front(self._front.size, self._front.hypervolume)

        if engine.has_work():
            self._display.phase("starting workers")
            note_resources(self._ledger, running.resources(self._config, self._problem))
            job = running.make_job(
                self._config, self._problem, self._request.registry, self._directory
            )
            try:
                drive(
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
        check_end(engine, self._stop, self._request.command)
        if engine.stopped is not None:
            self._display.warning(stopping.stopped_line(engine.stopped))
        if engine.exhausted:
            whole = self._problem.family.space.count() <= ENUMERATION_LIMIT
            end = "the space is exhausted" if whole else "no other network was found"
            self._display.warning(
                f"{end} after {len(engine.trials)} of {self._config.trials} trials"
            )

    def _ahead(self, front: MeasuredFront | None) -> Iterator[None]:
        """What comes after the last training as far as it can be done before, in steps."""
        if front is not None:
            yield from front.ahead()
        with contextlib.suppress(Exception):  # `publish` fails, too, and is heard
            self._request.rehearse(RunRecords(self._directory))
