"""Layer 4: `nasctl verify`: the finalists of a search again, before anybody relies on them.

Fresh seeds, the full recipe, the test split (opened here and nowhere else), latency alone. The
search is only read; the verification has a folder of its own in the run's, with its own ledger.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl import prepare, running
from nasctl.errors import NothingFeasibleError
from nasctl.files import write_json, write_text
from nasctl.interrupt import StopRequest
from nasctl.kept_files import PROMISED_CSV, VERIFIED, VERIFIED_JSON
from nasctl.prepare import Problem
from nasctl.records import LEDGER, RunRecords
from nasctl.rundir import OpenRun
from nasctl.runflow import RunRequest, Tracking, carry_out, opened
from nasctl.runlock import RunLock
from nasctl.trial import State
from nasctl.verification.begin import described, settle
from nasctl.verification.checks import (
    check_data,
    check_front,
    check_run,
    finalists_for,
    seeds_for,
)
from nasctl.verification.finalists import finalists_of
from nasctl.verification.handing_out import hand_out
from nasctl.verification.measuring import measure, measure_files
from nasctl.verification.ongoing import Ongoing
from nasctl.verification.openings import SealedSplit
from nasctl.verification.plan import Limit
from nasctl.verification.promised import promised_csv
from nasctl.verification.reading import verified_of
from nasctl.verification.settings import VerifySettings
from nasctl.verification.training import train

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

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
    check_front(source, finalists, request.config, settings, problem)
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
        dataset = problem.dataset
        stored = run.ledger.meta("verification")
        where = str(run.directory / LEDGER)
        self._ongoing = Ongoing(
            source=request.source,
            config=request.config,
            settings=request.settings,
            problem=problem,
            registry=request.registry,
            ledger=run.ledger,
            directory=run.directory,
            finalists=finalists_of(stored["finalists"], request.registry.blocks, where=where),
            limits=[Limit(start=start, seeds=seeds) for start, seeds in stored["limits"]],
            test=SealedSplit(
                run.ledger,
                request.command,
                exists=dataset is not None and dataset.test_labels is not None,
            ),
            display=request.display,
            stop=stop,
            command=request.command,
        )

    def work(self, tracking: Tracking) -> None:
        """Measures, then trains: who gets more seeds depends on measured latencies too."""
        ongoing = self._ongoing
        ongoing.ledger.set_meta(exhausted_at=None)  # more seeds may be allowed now
        executor = running.configured_executor(
            ongoing.config.executor,
            ongoing.registry,
            announce=ongoing.display.phase,
            note=ongoing.display.warning,
        )
        measure(ongoing, executor)
        measure_files(ongoing, executor)
        tracking.start()
        train(ongoing, executor, tracking)
        records = RunRecords(ongoing.directory)
        if not has_results(records):
            failed = [t.error for t in ongoing.ledger.trials() if t.error]
            raise NothingFeasibleError(
                f"no finalist could be trained again; the last one: {failed[-1]}"
            )
        if ongoing.settings.export and ongoing.problem.dataset is not None:
            self.write(records)  # it says which weights are handed out
            with tracking.paused():  # nothing else may use the machine meanwhile
                hand_out(ongoing, ongoing.problem.dataset, executor)

    def write(self, records: RunRecords) -> None:
        """What has come out so far, beside its ledger and in the run's folder."""
        if not has_results(records):
            return
        verified = verified_of(records)
        for folder in (records.directory, records.directory.parent):
            write_json(folder / VERIFIED_JSON, verified)
            write_text(folder / PROMISED_CSV, promised_csv(verified))


def has_results(records: RunRecords) -> bool:
    """Whether any training of a verification has come to its end."""
    return any(t.state is State.COMPLETE for t in records.trials())
