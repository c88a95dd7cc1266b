"""Layer 4: the trainings of a verification: which, by whom, and until when."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nasctl import prepare, running
from nasctl.engine import Engine, EngineSettings
from nasctl.evaluate import CHECKPOINTS
from nasctl.executors.base import Executor, Job
from nasctl.planned import NoSampler
from nasctl.resources import note_resources
from nasctl.runflow import Announcer, Tracking, check_end, drive
from nasctl.trial import Trial
from nasctl.verification.checks import seeds_for
from nasctl.verification.job import Opened, VerificationJob
from nasctl.verification.judging import judge
from nasctl.verification.ongoing import Ongoing
from nasctl.verification.plan import VerificationPlan

MAX_FAILURES = 20
"""Failed trainings in a row after which a verification gives up."""


def train(ongoing: Ongoing, executor: Executor, tracking: Tracking) -> None:
    """Trains what the plan still asks for.

    Raises:
        InterruptedSearchError: a signal stopped it.
        NasctlError: what ended the trainings.
    """
    settings, config, ledger = ongoing.settings, ongoing.config, ongoing.ledger
    finalists = ongoing.trainable()
    limit = ongoing.limits[-1].seeds
    references = sum(not f.is_contender for f in finalists)
    most = (len(finalists) - references) * limit + references * settings.seeds
    plan = VerificationPlan(
        finalists,
        seeds=seeds_for(finalists, config, settings, ongoing.problem),
        first=settings.seeds,
        limits=ongoing.limits,
        epochs=config.recipe.epochs,
        open_ids=lambda trials: _open_ids(ongoing, trials),
    )
    checkpoints = ongoing.directory / CHECKPOINTS
    engine = Engine(
        ledger=ledger,
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
        observer=Announcer(ongoing.display, tracking),
        checkpoints=checkpoints,
        warn=ongoing.display.warning,
    )
    ongoing.display.started(most, engine.trials, at_most=limit > settings.seeds)
    if plan.has_more({t.number: t for t in engine.trials}):
        ongoing.test.open()
        note_resources(ledger, running.resources(config, ongoing.problem))
        ongoing.display.phase("starting workers")
        drive(
            engine,
            executor,
            _job(ongoing),
            ledger=ledger,
            checkpoints=checkpoints,
            stop=ongoing.stop,
        )
    check_end(engine, ongoing.stop, ongoing.command)


def _open_ids(ongoing: Ongoing, trials: Sequence[Trial]) -> set[str]:
    found = judge(
        ongoing.finalists,
        trials,
        ongoing.ledger.measurements(),
        objectives=ongoing.config.objectives,
        settings=ongoing.settings,
        seed=ongoing.config.seed,
        files=ongoing.files,
    )
    return found.open_ids(ongoing.settings)


def _job(ongoing: Ongoing) -> Job:
    config, problem, registry = ongoing.config, ongoing.problem, ongoing.registry
    if problem.dataset is None:
        return running.make_job(config, problem, registry, ongoing.directory)
    inner = prepare.training_job(config, problem, registry, ongoing.directory)
    published = frozenset(f.arch_id for f in ongoing.finalists if not f.is_contender)
    return VerificationJob(
        inner=dataclasses.replace(inner.with_payload(None), published=published),
        data=Opened.of(problem.dataset, inner.starts),
        int8=ongoing.settings.front == "int8",
    )
