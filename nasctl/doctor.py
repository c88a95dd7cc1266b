"""Layer 5: `nasctl doctor`: the invariants of a run, checked on its files; changes none of them.

Works on any run: finished, interrupted, killed, or running right now. What an invariant is worth
is that it is recomputed here in another way than it was made: fronts by comparing every pair,
identities from the stored networks, artifacts from their bytes.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasctl import doctor_outside, doctor_study, doctor_verified, pareto
from nasctl.candidates import Priced
from nasctl.doctor_outside import NotCheckedError, Patient
from nasctl.errors import EmptyLedgerError, EnvironmentProblemError
from nasctl.front import Entry, count_states
from nasctl.halving import recorded
from nasctl.ledger import Ledger
from nasctl.records import LEDGER, RunRecords
from nasctl.runlock import driver
from nasctl.trial import Objectives, State, Trial

SHOWN = 5
"""Details of one invariant that are shown; more are counted."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What became of one invariant.

    Attributes:
        id: `I0` to `I9`.
        invariant: in a few words.
        state: `not_checked` where it does not apply or cannot be seen; the details say why.
        details: what is violated, or remarks.
    """

    id: str
    invariant: str
    state: Literal["ok", "violated", "not_checked"]
    details: tuple[str, ...] = ()

    def to_line(self) -> str:
        word = {"ok": "ok", "violated": "VIOLATED", "not_checked": "not checked"}[self.state]
        shown = "; ".join(self.details[:SHOWN])
        if len(self.details) > SHOWN:
            shown += f"; and {len(self.details) - SHOWN} more"
        return f"{self.id}  {word:<11}  {self.invariant}" + (f": {shown}" if shown else "")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was found; the run is sound if nothing is violated."""

    run: str
    status: str
    driver: str | None
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        return all(c.state != "violated" for c in self.checks)

    def to_json(self) -> dict[str, Any]:
        """`run`, `status`, `driver` (pid or null), `ok`, and `checks` with `id`, `state`, ..."""
        return {**asdict(self), "ok": self.sound, "checks": [asdict(c) for c in self.checks]}


def examine(directory: Path) -> Diagnosis:
    """Checks every invariant of the run in `directory`; damage is a finding, never an error."""
    holder = driver(directory)
    try:
        damage = _damage(directory)
        records = RunRecords(directory)
        status = records.status  # reads everything, at one moment
    except EmptyLedgerError as error:
        if made := _made_by_a_run(directory):
            return _unread(
                directory, holder, f"{LEDGER}: there is nothing in it, but {made} is there"
            )
        return _unread(directory, holder, str(error), state="not_checked")
    except EnvironmentProblemError as error:
        return _unread(directory, holder, str(error))
    holder = holder or driver(directory)  # it may have begun, or ended, meanwhile
    patient = Patient(directory=directory, records=records, driver=holder)
    first = Check(
        id="I0",
        invariant=_SOUND,
        state="violated" if damage else "ok",
        details=tuple(damage),
    )
    return Diagnosis(
        run=str(directory),
        status=status,
        driver=holder,
        checks=(first, *(_check(patient, *invariant) for invariant in _INVARIANTS)),
    )


def _unread(
    directory: Path,
    holder: str | None,
    why: str,
    state: Literal["violated", "not_checked"] = "violated",
) -> Diagnosis:
    """Without a ledger nothing else can be checked."""
    rest = "the ledger cannot be read" if state == "violated" else "there is no trial yet"
    others = [
        Check(id=name, invariant=text, state="not_checked", details=(rest,))
        for name, text, _ in _INVARIANTS
    ]
    first = Check(id="I0", invariant=_SOUND, state=state, details=(why,))
    return Diagnosis(run=str(directory), status="UNKNOWN", driver=holder, checks=(first, *others))


def _made_by_a_run(directory: Path) -> str | None:
    """Something in the folder that is only written once the ledger has its content."""
    found = sorted(p.name for p in directory.iterdir() if not p.name.startswith((LEDGER, ".")))
    return found[0] if found else None


def _damage(directory: Path) -> list[str]:
    ledger = Ledger(directory / LEDGER, {}, readonly=True)
    try:
        return ledger.damage()
    finally:
        ledger.close()


def _check(patient: Patient, name: str, text: str, find: Find) -> Check:
    remarks: list[str] = []
    try:
        problems = tuple(find(patient, remarks.append))
    except NotCheckedError as reason:
        return Check(id=name, invariant=text, state="not_checked", details=(str(reason),))
    except EnvironmentProblemError as error:
        problems = (str(error),)
    except OSError as error:  # a file of somebody else, or a disk that does not answer
        path = Path(os.fsdecode(error.filename or patient.directory))
        if path.is_relative_to(patient.directory):
            path = path.relative_to(patient.directory)
        problems = (f"{path} cannot be read: {error.strerror}",)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # Somebody else wrote into the file; every reader of ours would stumble over it.
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        problems = (f"the ledger has something that is not nasctl's: {what}",)
    if problems:
        return Check(id=name, invariant=text, state="violated", details=problems)
    return Check(id=name, invariant=text, state="ok", details=tuple(remarks))


Find = Callable[[Patient, Callable[[str], None]], Iterator[str]]
"""(patient, what takes remarks) -> one line per violation."""


# -- what the ledger says of itself ---------------------------------------------------------------


def _numbers(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I1."""
    trials, references = patient.records.trials(), patient.records.references()
    for kind, numbers in (
        ("trial", [t.number for t in trials]),
        ("reference", [-1 - t.number for t in references]),
    ):
        missing = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
        for number in missing:
            yield f"{kind} {number if kind == 'trial' else -1 - number} is missing"
    remark(f"{len(trials)} trials")


def _unique(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I2: within a search recipe and data are the same for all; fidelity is the budget in epochs.
    Trainings of a study have keys that say recipe and data too."""
    trials = [t for t in patient.records.trials() if t.state is not State.FAILED]
    seen: dict[tuple[str, int, int, str], Trial] = {}
    for trial in trials:
        key = trial.arch_id, trial.seed, trial.epochs, str(trial.choices.get("training", ""))
        if key in seen:
            yield (
                f"trials {seen[key].number} and {trial.number} are both {trial.arch_id} with seed "
                f"{trial.seed} for {trial.epochs} epochs"
            )
        seen.setdefault(key, trial)
    repeats = len(trials) - len({t.arch_id for t in trials})
    if repeats:
        remark(f"{repeats} repeats with seeds of their own")


def _complete(patient: Patient, _remark: Callable[[str], None]) -> Iterator[str]:
    """I3."""
    records = patient.records
    bounds = {
        k: float(v) for k, v in records.config.get("constraints", {}).items() if v is not None
    }
    for trial in (*records.trials(), *records.references()):
        if trial.state is State.FAILED and not trial.error:
            yield f"{trial.label} FAILED without a reason"
        if trial.state is State.COMPLETE:
            yield from _values(trial, records.objectives, bounds)
    stopped = _stopped(patient.directory)
    for trial in records.trials():
        if trial.state is State.PRUNED and trial.number not in stopped:
            yield f"{trial.label} is PRUNED, but nothing stopped it"
        elif trial.state.is_final and trial.state is not State.PRUNED and trial.number in stopped:
            yield f"{trial.label} is {trial.state.value}, but was stopped at a rung"


def _values(trial: Trial, objectives: Objectives, bounds: Mapping[str, float]) -> Iterator[str]:
    """Of a COMPLETE trial: they are those of its last epoch with its costs, and can be."""
    last = trial.evaluations[-1].metrics if trial.evaluations else {}
    expected = {**last, **trial.cost}
    for metric in sorted(trial.metrics.keys() | expected.keys()):
        if trial.metrics.get(metric) != expected.get(metric):
            yield (
                f"{trial.label} has {metric} {trial.metrics.get(metric)}, but its last epoch and "
                f"its costs say {expected.get(metric)}"
            )
    for metric in objectives:
        value = trial.metrics.get(metric)
        if value is None or not math.isfinite(value):
            yield f"{trial.label} is COMPLETE, but its {metric} is {value}"
    if not -1e-6 <= trial.metrics.get("accuracy", 0.0) <= 1 + 1e-6:
        yield f"{trial.label} has an accuracy of {trial.metrics['accuracy']:g}"
    if trial.is_reference:
        return  # compared with, whatever it costs
    for metric in Priced(cost=trial.cost, intervals=trial.cost_intervals).violations(bounds):
        yield f"{trial.label} breaks constraints.{metric}={bounds[metric]:g}"


def _stopped(directory: Path) -> set[int]:
    """Trials that a decision at a rung ended; it is in the ledger before its trial is PRUNED."""
    ledger = Ledger(directory / LEDGER, {}, readonly=True)
    try:
        decisions, _ = recorded(ledger.events())
    finally:
        ledger.close()
    return {d.number for d in decisions.values() if d.stops}


def _owned(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I4: a driver that stops gives its trials back and says so; one that died leaves them."""
    records = patient.records
    running = [t.label for t in (*records.trials(), *records.references()) if not t.state.is_final]
    if patient.driver is not None:
        remark(f"{len(running)} running, driven by process {patient.driver}")
    elif running and records.status in ("INTERRUPTED", "FAILED"):
        remark(f"{', '.join(running)} given back when the search stopped, to be done again")
    elif running:
        what = "the run is finished" if records.finished else "its driver died"
        remedy = f"the same command continues: {records.command}"
        yield f"{', '.join(running)} RUNNING, but {what}; {remedy}"


# -- what was made of it --------------------------------------------------------------------------


def _front(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I5: every pair of networks is compared."""
    records = patient.records
    if records.is_ablation:
        yield from doctor_study.verdicts(patient, remark)
        return
    if records.is_verification:
        yield from doctor_verified.result(patient, remark)
        return
    patient.needs_an_end("front.json is written at the end")
    if not records.trials():
        raise NotCheckedError("no trial was ever begun")
    stored = _front_json(patient)
    members = {str(m.get("arch_id")): m for m in stored["members"]}
    expected = {e.arch_id: e for e in non_dominated(records.entries, records.objectives)}
    again = f"run the same command again: {records.command}"
    for arch_id in sorted(expected.keys() - members.keys()):
        yield f"{arch_id} belongs to the front and is not in front.json; {again}"
    for arch_id in sorted(members.keys() - expected.keys()):
        yield f"{arch_id} is in front.json and does not belong to the front; {again}"
    for arch_id in sorted(members.keys() & expected.keys()):
        if members[arch_id].get("metrics") != dict(expected[arch_id].metrics):
            yield f"{arch_id} has other metrics in front.json than in the ledger"
    if stored.get("trials") != count_states(records.trials(), records.rejected_count):
        yield f"front.json counts {stored.get('trials')}"
    volume = pareto.hypervolume(
        [e.decisive for e in expected.values()], records.objectives, records.reference_point
    )
    told = stored.get("hypervolume")
    if not isinstance(told, int | float) or not math.isclose(told, volume, rel_tol=1e-9):
        yield f"front.json has hypervolume {told}, its members have {volume:.9g}"
    remark(f"{len(expected)} of {len(records.entries)} networks")


def _front_json(patient: Patient) -> dict[str, Any]:
    stored = patient.stored("front.json")
    members = stored.get("members") if isinstance(stored, dict) else None
    if not isinstance(members, list) or not all(isinstance(m, dict) for m in members):
        raise EnvironmentProblemError("front.json is not a front")
    found: dict[str, Any] = stored
    return found


def non_dominated(entries: Sequence[Entry], objectives: Objectives) -> list[Entry]:
    """Entries that no other one is at least as good as in everything and better in something."""
    usable = [e for e in entries if all(m in e.decisive for m in objectives)]
    costs = np.array(
        [
            [-e.decisive[m] if d == "max" else e.decisive[m] for m, d in objectives.items()]
            for e in usable
        ],
        dtype=np.float64,
    ).reshape(len(usable), len(objectives))
    return [
        e
        for e, own in zip(usable, costs, strict=True)
        if not ((costs <= own).all(axis=1) & (costs < own).any(axis=1)).any()
    ]


def _hypervolume(patient: Patient, remark: Callable[[str], None]) -> Iterator[str]:
    """I8: a repeat counts with the mean of its seeds, so it may take back what luck had given."""
    records = patient.records
    if records.is_ablation:
        raise NotCheckedError("a study has no front")
    if records.is_verification:
        raise NotCheckedError("a verification does not search")
    if not records.trials():  # perhaps stopped before there was a reference point
        raise NotCheckedError("no trial was ever begun")
    by_number = {t.number: t for t in records.trials()}
    seen: Counter[str] = Counter()
    corrected: list[int] = []
    best = 0.0
    for number, volume in records.hypervolume_history():
        arch_id = by_number[number].arch_id
        if volume < best * (1 - 1e-12):
            if seen[arch_id]:
                corrected.append(number)
            else:
                yield f"it falls from {best:.9g} to {volume:.9g} at trial {number}"
        seen[arch_id] += 1
        best = volume
    values = _means(records.trials(), records.objectives)
    whole = pareto.hypervolume(values, records.objectives, records.reference_point)
    if seen and not math.isclose(best, whole, rel_tol=1e-9, abs_tol=1e-12):
        yield f"it ends at {best:.9g}, the hypervolume of all results is {whole:.9g}"
    if corrected:
        numbers = ", ".join(map(str, corrected))
        remark(f"fell at trial {numbers}, where another seed corrected a lucky value")


def _means(trials: Sequence[Trial], objectives: Objectives) -> list[Mapping[str, float]]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state is State.COMPLETE and all(m in trial.metrics for m in objectives):
            groups.setdefault(trial.arch_id, []).append(trial)
    return [
        {m: math.fsum(t.metrics[m] for t in group) / len(group) for m in objectives}
        for group in groups.values()
    ]


_SOUND = "the ledger is whole, and every network in it is the one that it is named after"
_INVARIANTS: tuple[tuple[str, str, Find], ...] = (
    ("I1", "trial numbers are 0, 1, 2, ... without gaps", _numbers),
    ("I2", "no network is trained twice with one seed and budget", _unique),
    ("I3", "complete trials have finite objectives within the constraints", _complete),
    ("I4", "nothing is running without a driver", _owned),
    ("I5", "front.json, verdicts.json or verified.json is what the ledger says", _front),
    ("I6", "artifacts are there and unchanged (SHA-256)", doctor_outside.artifacts),
    ("I7", "MLflow has every training once, with its status", doctor_outside.tracked),
    ("I8", "hypervolume never falls, but where seeds correct it", _hypervolume),
    ("I9", "no process, socket or temporary file is left", doctor_outside.leftovers),
)
