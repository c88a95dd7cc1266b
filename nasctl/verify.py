"""Layer 4: `nasctl verify`: the finalists of a search again, before anybody relies on them.

Fresh seeds, the full recipe, the test split (opened here and nowhere else), latency alone. The
search is only read; the verification has a folder of its own in the run's, with its own ledger.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import prepare, running
from nasctl.arch import Architecture, Opaque
from nasctl.dataset import Dataset
from nasctl.engine import Engine, EngineSettings
from nasctl.errors import NothingFeasibleError
from nasctl.evaluate import CHECKPOINTS
from nasctl.executors import create_executor
from nasctl.executors.base import Executor, Job
from nasctl.export.int8 import file_settings
from nasctl.files import write_json, write_text
from nasctl.interrupt import StopRequest
from nasctl.kept_files import PROMISED_CSV, VERIFIED, VERIFIED_JSON
from nasctl.latency import WholeLatency, measure_networks
from nasctl.ledger import Ledger
from nasctl.planned import NoSampler
from nasctl.prepare import Problem
from nasctl.pricing import latency_place, latency_settings, network_builder
from nasctl.records import LEDGER, RunRecords
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
from nasctl.runlock import RunLock
from nasctl.trial import State, Trial
from nasctl.verification.begin import described, settle
from nasctl.verification.checks import check_data, check_run, finalists_for, seeds_for
from nasctl.verification.exports import FOLDER, Timing, delivered, evaluations, keep_models
from nasctl.verification.finalists import finalists_of
from nasctl.verification.job import Opened, VerificationJob
from nasctl.verification.judging import judge
from nasctl.verification.openings import note_opening
from nasctl.verification.plan import Limit, VerificationPlan
from nasctl.verification.promised import promised_csv
from nasctl.verification.reading import evidence_of, verified_of
from nasctl.verification.settings import VerifySettings
from nasctl.verification.timing import combined
from nasctl.verification.view import chosen_training, judgement_of

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

MAX_FAILURES = 20
"""Failed trainings in a row after which a verification gives up."""
FLUSH_S = 45.0


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(RunRequest):
    """One call of `nasctl verify`.

    Attributes:
        source: the search, of which only what it has found is read.
        config: its configuration, with what this call changes.
        settings: the section `verify`.
        same_recipe: whether that is the recipe of the search.
        publish: writes the report of the search anew.
    """

    source: RunRecords
    config: SearchConfig
    settings: VerifySettings
    same_recipe: bool
    publish: Callable[[RunRecords], None]


def run_verification(request: VerifyRequest) -> dict[str, Any]:
    """Verifies, or goes on where it was stopped; the object of `verified.json`.

    Raises:
        ConfigError: the run cannot be verified so; nothing was trained.
        NothingFeasibleError: it has no front, or no finalist could be trained again.
        InterruptedSearchError: a signal stopped it; what is known so far is written.
        NasctlError: see its exit code.
    """
    source, settings = request.source, request.settings
    check_run(source)
    problem = prepare.load_problem(request.config, request.registry)
    finalists = finalists_for(source, settings, request.registry)
    seeds_for(finalists, request.config, settings, problem)
    check_data(source, problem, finalists)
    new = described(source, problem, finalists, settings, same_recipe=request.same_recipe)
    meta = {
        "verification": new,
        "reference_point": source.reference_point,
        "validation_images": problem.validation_images,
        "environment": (
            {"precision": running.effective_precision(request.config)}
            if problem.dataset is not None
            else {}
        ),
    }
    with _held(source.directory), opened(request, source.directory / VERIFIED, meta) as (run, stop):
        settle(run.ledger, new, settings, source)
        verification = _Verification(request, problem, run, stop)
        records = carry_out(
            request,
            run,
            stop,
            work=verification.work,
            write=verification.write,
            publish=lambda _: request.publish(RunRecords(source.directory)),
            flush_s=FLUSH_S,
        )
    return verified_of(records)


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Nobody may go on searching meanwhile: the front would change under the verification."""
    lock = RunLock(directory)
    try:
        yield
    finally:
        lock.release()


class _Verification:
    """The steps of one verification, in order; state is in its ledger."""

    def __init__(
        self, request: VerifyRequest, problem: Problem, run: OpenRun, stop: StopRequest
    ) -> None:
        self._request = request
        self._config = request.config
        self._settings = request.settings
        self._problem = problem
        self._ledger: Ledger = run.ledger
        self._directory = run.directory
        self._checkpoints = run.directory / CHECKPOINTS
        self._stop = stop
        self._display = request.display
        stored = run.ledger.meta("verification")
        types = request.registry.blocks
        where = str(run.directory / LEDGER)
        self._finalists = finalists_of(stored["finalists"], types, where=where)
        self._is_open = False
        self._limits = [Limit(start=start, seeds=seeds) for start, seeds in stored["limits"]]

    def work(self, tracking: Tracking) -> None:
        """Measures, then trains: who gets more seeds depends on measured latencies too."""
        self._ledger.set_meta(exhausted_at=None)  # more seeds may be allowed now
        options = self._config.executor.model_dump(exclude={"name", "retries"})
        executor = create_executor(
            self._config.executor.name,
            **options,
            announce=self._display.phase,
            note=self._display.warning,
        )
        self._measure(executor)
        tracking.start()
        self._train(executor, tracking)
        with tracking.paused():  # nothing else may use the machine meanwhile
            self._deliver(executor)
        if not self._has_results(RunRecords(self._directory)):
            failed = [t.error for t in self._ledger.trials() if t.error]
            raise NothingFeasibleError(
                f"no finalist could be trained again; the last one: {failed[-1]}"
            )

    def write(self, records: RunRecords) -> None:
        """What has come out so far, beside its ledger and in the run's folder."""
        if not self._has_results(records):
            return
        verified = verified_of(records)
        for folder in (self._directory, self._directory.parent):
            write_json(folder / VERIFIED_JSON, verified)
            write_text(folder / PROMISED_CSV, promised_csv(verified))

    @staticmethod
    def _has_results(records: RunRecords) -> bool:
        return any(t.state is State.COMPLETE for t in records.trials())

    # -- latency ------------------------------------------------------------------------------

    def _measure(self, executor: Executor) -> None:
        """The latency of all finalists, whole and alone, once for each verification."""
        known = self._ledger.measurements()
        todo = [f.architecture for f in self._finalists if f.arch_id not in known]
        table = self._request.source.latency
        if not todo or table is None or not self._is_timed(todo):
            return
        settings = latency_settings(self._config)
        place = latency_place(self._config, executor, self._request.registry)
        device: str = table["device"]
        if place.node is not None:
            place.check(settings, device, self._display.phase)
        found = place.device(settings, self._display.phase)
        is_same = found.fingerprint == device
        if not is_same:
            self._display.warning(
                f"latency: this is another device than that of the search ({device}), it is: "
                f"{found.fingerprint}; predicted and measured values do not compare"
            )
        build = network_builder(
            self._config, self._problem, self._request.registry, with_references=True
        )
        where = "the machine" if place.node is None else place.node
        count = self._settings.sessions

        def session(number: int) -> Mapping[str, WholeLatency]:
            self._display.phase(
                f"measuring {len(todo)} networks whole, alone on {where}, {number + 1} of {count}"
            )
            return measure_networks(
                todo,
                settings,
                build_network=build,
                canary_ms=table["reference_network_ms"] if is_same else None,
                progress=self._display.phase,
                seed=number,
                place=place,
                device=device if place.node is not None else None,
            )

        began = time.monotonic()
        sessions = [session(number) for number in range(count)]
        stored = self._ledger.meta("verification")
        of = {"device": found.fingerprint, "runtime": found.runtime, "as_searched": is_same}
        with self._ledger.transaction():
            self._ledger.put_measurements(combined(sessions, self._settings.confidence))
            seconds = time.monotonic() - began
            note_measuring(self._ledger, settings, "networks", len(todo) * count, seconds)
            self._ledger.set_meta(verification={**stored, "latency_device": of})

    def _is_timed(self, networks: Sequence[Architecture]) -> bool:
        """Whether there are modules to time, and latency is predicted by a table of ours."""
        return (
            self._settings.latency == "measure"
            and self._problem.family.cost is None
            and not any(isinstance(b, Opaque) for a in networks for b in a.blocks)
        )

    # -- files --------------------------------------------------------------------------------

    def _deliver(self, executor: Executor) -> None:
        """Finalists as files, once for the weights that each hands out."""
        dataset, records = self._problem.dataset, RunRecords(self._directory)
        if not self._settings.export or dataset is None or not self._has_results(records):
            return
        self.write(records)  # it says which weights are handed out
        stored = self._ledger.meta("verification")
        before: dict[str, Any] = stored.get("delivered") or {}
        evidence = evidence_of(records, self._request.registry.blocks)
        chosen = {j.arch_id: chosen_training(j) for j in judgement_of(evidence).finalists}
        todo = {
            f.arch_id: (f.architecture, trial.seed)
            for f in self._finalists
            if (trial := chosen[f.arch_id]) is not None
            and before.get(f.arch_id, {}).get("seed") != trial.seed
        }
        if not todo:
            self._show_models(dataset)
            return
        self._open_test()
        asked, began = stored.get("exported_evaluations", 0), time.monotonic()
        # Beforehand: a call that is killed has asked the test split as well.
        planned = {"exported_evaluations": asked + 2 * len(todo)}
        self._ledger.set_meta(verification={**stored, **planned})
        new = delivered(
            RunRecords(self._directory.parent),
            todo,
            build=network_builder(
                self._config, self._problem, self._request.registry, with_references=True
            ),
            dataset=dataset,
            folder=self._directory / FOLDER,
            timing=self._timing(executor, [a for a, _ in todo.values()]),
            say=self._display.phase,
        )
        seconds = time.monotonic() - began
        note_measuring(self._ledger, latency_settings(self._config), "files", 2 * len(new), seconds)
        for arch_id, values in new.items():
            if text := values.get("error") or values.get("problem"):
                what = "was not exported: " if "error" in values else ""
                self._display.warning(f"{arch_id} {what}{text}")
        asked += evaluations(new)
        changed = {"delivered": {**before, **new}, "exported_evaluations": asked}
        self._ledger.set_meta(verification={**stored, **changed})
        self._show_models(dataset, changed=frozenset(todo))

    def _show_models(self, dataset: Dataset, changed: Container[str] = ()) -> None:
        """Members as models in the tracking store."""
        members = {m["arch_id"] for m in verified_of(RunRecords(self._directory))["members"]}
        networks = [f.architecture for f in self._finalists if f.arch_id in members]
        keep_models(self._directory, networks, dataset, changed=changed)

    def _timing(self, executor: Executor, networks: Sequence[Architecture]) -> Timing | None:
        """How files are timed; on the scale of the search if it measured with the same runtime."""
        table = self._request.source.latency
        if table is None or not self._is_timed(networks):
            return None
        settings = latency_settings(self._config)
        place = latency_place(self._config, executor, self._request.registry)
        device = place.device(file_settings(settings), self._display.phase).fingerprint
        return Timing(
            settings=settings,
            place=place,
            device=device if place.node is not None else None,
            canary_ms=table["reference_network_ms"] if table["device"] == device else None,
        )

    def _open_test(self) -> None:
        """Notes, once in a call, that the test split is opened."""
        dataset = self._problem.dataset
        if not self._is_open and dataset is not None and dataset.test_labels is not None:
            note_opening(self._ledger, self._request.command)
            self._is_open = True

    # -- training -----------------------------------------------------------------------------

    def _open_ids(self, trials: Sequence[Trial]) -> set[str]:
        found = judge(
            self._finalists,
            trials,
            self._ledger.measurements(),
            objectives=self._config.objectives,
            settings=self._settings,
            seed=self._config.seed,
        )
        return found.open_ids(self._settings)

    def _job(self) -> Job:
        config, problem, registry = self._config, self._problem, self._request.registry
        if problem.dataset is None:
            return running.make_job(config, problem, registry, self._directory)
        inner = prepare.training_job(config, problem, registry, self._directory)
        published = frozenset(f.arch_id for f in self._finalists if not f.is_contender)
        return VerificationJob(
            inner=dataclasses.replace(inner.with_payload(None), published=published),
            data=Opened.of(problem.dataset, inner.starts),
        )

    def _train(self, executor: Executor, tracking: Tracking) -> None:
        settings, config = self._settings, self._config
        limit = self._limits[-1].seeds
        references = sum(not f.is_contender for f in self._finalists)
        most = (len(self._finalists) - references) * limit + references * settings.seeds
        plan = VerificationPlan(
            self._finalists,
            seeds=seeds_for(self._finalists, config, settings, self._problem),
            first=settings.seeds,
            limits=self._limits,
            epochs=config.recipe.epochs,
            open_ids=self._open_ids,
        )
        engine = Engine(
            ledger=self._ledger,
            settings=EngineSettings(
                objectives=config.objectives,
                constraints={},
                trials=most,
                seed=config.seed,
                epochs=config.recipe.epochs,
                window=most,  # the plan knows itself what it has to wait for
                retries=config.executor.retries,
                max_failures=MAX_FAILURES,
            ),
            source=plan,
            sampler=NoSampler(),
            observer=Announcer(self._display, tracking),
            checkpoints=self._checkpoints,
            warn=self._display.warning,
        )
        self._display.started(most, engine.trials, at_most=limit > settings.seeds)
        if plan.has_more({t.number: t for t in engine.trials}):
            self._open_test()
            note_resources(self._ledger, running.resources(config, self._problem))
            self._display.phase("starting workers")
            drive(
                engine,
                executor,
                self._job(),
                ledger=self._ledger,
                checkpoints=self._checkpoints,
                stop=self._stop,
            )
        check_end(engine, self._stop, self._request.command)
