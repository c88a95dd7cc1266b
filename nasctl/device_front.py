"""Layer 4: `nasctl front RUN --device NAME`: the front among what was trained, elsewhere.

Accuracies are those of the run; latencies are measured on another device or runtime, as a search
would: a table of blocks prices every trained network, and those that may be on the front by it are
measured whole. New constraints alone need no measurement. The run's ledger is only read; what was
measured is kept in `devices/NAME.json`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl import prepare
from nasctl.arch import Architecture
from nasctl.candidates import CandidateSource, Priced
from nasctl.device_file import DEVICES, DeviceFile
from nasctl.errors import ConfigError, EnvironmentProblemError, NothingFeasibleError, unknown
from nasctl.executors.base import Executor
from nasctl.executors.place import ExecutorPlace
from nasctl.front import (
    Entry,
    collect_entries,
    front_entries,
    front_json,
    near_front_entries,
    seed_spread,
)
from nasctl.latency import measure_networks
from nasctl.plugins import Registry
from nasctl.prepare import Problem
from nasctl.pricing import (
    Pricer,
    Tables,
    latency_place,
    latency_settings,
    make_pricer,
    network_builder,
)
from nasctl.records import RunRecords
from nasctl.references import references_json
from nasctl.runlock import RunLock
from nasctl.samplers.base import Observation, SamplerContext
from nasctl.trial import Direction, State, Trial

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

ROUNDS = 3  # a network measured whole can bring others onto the front


@dataclass(frozen=True, kw_only=True)
class FrontRequest:
    """What is asked of a run.

    Attributes:
        config: of the run, its `latency` that of the device.
        device: its name; None: the latencies of the run.
        constraints: upper bounds that count now, those of the run included.
        limit: networks measured whole at most, per call.
        proposals: trainings that the gap looks ahead; 0: it is not estimated.
        executor: whose machine or cluster measures.
        announce: told what happens.
    """

    config: SearchConfig
    device: str | None
    constraints: Mapping[str, float]
    limit: int
    proposals: int
    executor: Executor
    registry: Registry
    announce: Callable[[str], None]


def device_front(records: RunRecords, request: FrontRequest) -> dict[str, Any]:
    """The object of `front.json` for the networks that were trained, with `among_trained`,
    `device`, `constraints`, `joined` and `left` (against the run's own front), and `gap`.

    Raises:
        ConfigError: the networks have costs of their own and nothing can be measured, a constraint
            on what is no cost, or the device's file is of other settings.
        NothingFeasibleError: no trained network is within the constraints; names the closest.
        EnvironmentProblemError: the device cannot be reached or has changed, or the run is driven.
    """
    problem = prepare.load_problem(request.config, request.registry, allow_no_data=True)
    asked = _Asked(records, request, problem)
    if request.device is None:
        return asked.issue(asked.own_pricer(), {}, {})
    _check_measurable(request, problem)
    lock = RunLock(records.directory)  # a search beside it would disturb the measurement
    try:
        return asked.on_device(request.device)
    finally:
        lock.release()


def _check_measurable(request: FrontRequest, problem: Problem) -> None:
    if problem.family.cost is not None or not problem.has_modules:
        raise ConfigError(
            f"--device {request.device}: the networks of space.family="
            f"{request.config.space.family} have costs of their own and no modules: there is "
            "nothing to measure (--constraint METRIC=VALUE works)"
        )


class _Asked:
    """One request, in steps."""

    def __init__(self, records: RunRecords, request: FrontRequest, problem: Problem) -> None:
        self._records = records
        self._request = request
        self._config = request.config
        self._problem = problem
        self._trials = [self._with_modules(t) for t in records.trials()]
        self._references = [self._with_modules(t) for t in records.references()]

    def _with_modules(self, trial: Trial) -> Trial:
        """A ledger reads blocks of plugins as opaque."""
        if not self._request.registry.sources:
            return trial
        data = trial.architecture.to_json()
        own = Architecture.from_json(data, self._request.registry.blocks)
        return dataclasses.replace(trial, architecture=own)

    # -- prices -------------------------------------------------------------------------------

    def own_pricer(self) -> Pricer:
        """From the tables of the run; measures nothing."""
        latency = self._records.meta("latency_table")
        config = self._config
        if latency is None:
            section = config.latency.model_copy(update={"name": "none", "node": None})
            config = config.model_copy(update={"latency": section})
        return self._pricer(config, latency)

    def _pricer(self, config: SearchConfig, latency: Mapping[str, Any] | None) -> Pricer:
        return make_pricer(
            config,
            self._problem,
            self._sample(),
            self._request.registry,
            stored=Tables(block_costs=self._records.meta("block_costs"), latency_table=latency),
            announce=self._request.announce,
            place=latency_place(config, self._request.executor, self._request.registry),
        )

    def _sample(self) -> list[Architecture]:
        family = self._problem.family
        sample = prepare.sample_architectures(family, seed=self._config.seed)
        if family.blocks is None:  # then the table has the blocks of the sample: these as well
            sample += [t.architecture for t in self._trials]
        return list({a.id: a for a in sample}.values())

    # -- another device -----------------------------------------------------------------------

    def on_device(self, name: str) -> dict[str, Any]:
        """Measures what is missing, and issues the front."""
        config = self._config
        kept = DeviceFile.read(self._records.directory, name, config.latency.model_dump())
        price = self._pricer(config, kept.table)
        assert price.latency is not None, "a device has latencies"
        kept = kept.with_table(price.latency.to_json())
        kept.write()  # before hours of measuring more
        self._check_constraints(price)
        others = kept.measurements.keys() | {t.arch_id for t in self._references}
        for _ in itertools.repeat(None, ROUNDS):
            room = self._request.limit - len(kept.measurements.keys() - others)
            todo = self._to_measure(price, kept.measurements, room)
            if not todo:
                break
            place = latency_place(config, self._request.executor, self._request.registry)
            self._check_device(place, name, price.latency.device)
            where = "here" if place.node is None else f"on {place.node}"
            self._request.announce(f"measuring {len(todo)} networks whole, alone, {where}")
            found = measure_networks(
                todo,
                latency_settings(config),
                canary_ms=price.latency.canary_ms,
                build_network=network_builder(
                    config, self._problem, self._request.registry, with_references=True
                ),
                progress=self._request.announce,
                place=place,
                device=price.latency.device,
            )
            kept = kept.with_measurements({k: v.to_json() for k, v in found.items()})
            kept.write()
        about = {"name": name, **price.latency.summary}
        result = self.issue(price, kept.measurements, about)
        kept.with_front(result).write()
        return result

    def _check_device(self, place: ExecutorPlace, name: str, before: str) -> None:
        """Raises where the table is of another device than this is now."""
        settings, announce = latency_settings(self._config), self._request.announce
        if place.node is not None:
            place.check(settings, before, announce)
            return
        now = place.device(settings, announce).fingerprint
        if now != before:
            raise EnvironmentProblemError(
                f"--device {name}: what was measured under that name is of another device "
                f"({before}) than this one ({now}); choose another name, or remove "
                f"{self._records.directory / DEVICES / name}.json"
            )

    def _to_measure(
        self, price: Pricer, measured: Mapping[str, Mapping[str, Any]], room: int
    ) -> list[Architecture]:
        """Members and near-front networks, by what is known so far, `room` of them at most;
        references in any case."""
        entries = self._entries(price, measured)
        # What may turn out to be within a bound is worth a measurement.
        able = [e for e in entries if not self._over(e, hopeful=True)]
        members = front_entries(able, self._objectives)
        near = near_front_entries(able, members, self._objectives)
        todo = [e.architecture for e in (*members, *near) if e.arch_id not in measured]
        done = [t for t in self._references if t.state is State.COMPLETE]
        return todo[:room] + [t.architecture for t in done if t.arch_id not in measured]

    @property
    def _objectives(self) -> dict[str, Direction]:
        """With a device latency counts, whatever the run was after."""
        extra: dict[str, Direction] = {"latency_ms": "min"} if self._request.device else {}
        return {**self._records.objectives, **extra}

    # -- the front ----------------------------------------------------------------------------

    def _recosted(self, trial: Trial, priced: Priced) -> Trial:
        if self._request.device is None:
            return trial
        return dataclasses.replace(
            trial,
            cost=priced.cost,
            cost_intervals=priced.intervals,
            metrics={**trial.metrics, **priced.cost} if trial.metrics else {},
        )

    def _entries(self, price: Pricer, measured: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
        trials = [
            self._recosted(t, price(t.architecture))
            for t in self._trials
            if t.state is State.COMPLETE
        ]
        summary = price.latency.summary if price.latency is not None else {}
        return collect_entries(
            trials,
            measured=measured if self._request.device else self._records.measurements,
            validation_images=self._records.meta("validation_images"),
            calibration_networks=int(summary.get("calibration_networks", 0)),
        )

    def _over(self, entry: Entry, *, hopeful: bool = False) -> dict[str, float]:
        """How far a network breaks each constraint; a prediction counts with its upper end, or the
        lower one if `hopeful`."""
        found = {}
        for metric, bound in self._request.constraints.items():
            value = entry.decisive.get(metric)
            known = entry.uncertainty.get(metric)
            is_measured = metric == "latency_ms" and "latency_ms_measured" in entry.metrics
            if value is not None and known is not None and not is_measured:
                value = known.interval[0 if hopeful else 1]
            if value is not None and value > bound:
                found[metric] = (value - bound) / (abs(bound) or 1.0)
        return found

    def _check_constraints(self, price: Pricer) -> None:
        trial = next((t for t in self._trials if t.state is State.COMPLETE), None)
        if trial is None:
            raise NothingFeasibleError(f"{self._records.directory}: nothing is trained yet")
        known = {**trial.cost, **price(trial.architecture).cost}
        problems = [
            f"--constraint {metric}={bound:g}: {unknown('cost', metric, known)}"
            for metric, bound in self._request.constraints.items()
            if metric not in known
        ]
        if problems:
            raise ConfigError(problems)

    def issue(
        self, price: Pricer, measured: Mapping[str, Mapping[str, Any]], device: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The front as JSON, from what is known; see `device_front`."""
        self._check_constraints(price)
        records, constraints = self._records, self._request.constraints
        entries = self._entries(price, measured)
        within = [e for e in entries if not self._over(e)]
        if not within:
            closest = min(entries, key=lambda e: sum(self._over(e).values()))
            over = ", ".join(
                f"{m} {closest.decisive[m]:.6g} over {constraints[m]:.6g}"
                for m in self._over(closest)
            )
            raise NothingFeasibleError(
                f"none of the {len(entries)} trained networks is within the constraints; the "
                f"closest is {closest.arch_id}: {over}"
            )
        reference_point = self._reference_point(price)
        front = front_json(
            within,
            objectives=self._objectives,
            reference_point=reference_point,
            counts=records.front["trials"],
            spread=seed_spread(self._trials),
            references=references_json(
                [self._recosted(t, price(t.architecture)) for t in self._references],
                within,
                objectives=self._objectives,
                constraints=dict(constraints),
                measured=measured if device else records.measurements,
                validation_images=records.meta("validation_images"),
                calibration_networks=int(device.get("calibration_networks", 0)),
            ),
        )
        members = [m["arch_id"] for m in front["members"]]
        before = [m["arch_id"] for m in records.front["members"]]
        return {
            **front,
            "among_trained": True,
            "trained": len(entries),
            "within_constraints": len(within),
            "device": dict(device) or None,
            "constraints": dict(constraints),
            "joined": [a for a in members if a not in before],
            "left": [a for a in before if a not in members],
            "gap": self._gap(price, reference_point),
        }

    def _reference_point(self, price: Pricer) -> dict[str, float]:
        """That of the run; of the latency a new one, since another device has another scale."""
        given = {m: v for m, v in self._records.reference_point.items() if m in self._objectives}
        if self._request.device is None:
            return given
        given.pop("latency_ms", None)
        return prepare.resolve_reference_point(
            self._objectives,
            given,
            self._request.constraints,
            [price(a).cost for a in self._sample()],
        )

    # -- what a new search might add -----------------------------------------------------------

    def _gap(self, price: Pricer, reference_point: Mapping[str, float]) -> dict[str, Any] | None:
        """See `samplers.known_cost.outlook`; None where nobody asked."""
        if not self._request.proposals:
            return None
        from nasctl.samplers.known_cost.outlook import expected_gap

        self._request.announce("estimating what a new search might add")
        source = CandidateSource(
            family=self._problem.family,
            price=price,
            constraints=self._request.constraints,
            seed=self._config.seed,
        )
        context = SamplerContext(
            space=self._problem.family.space,
            directions=tuple(self._objectives.values()),
            seed=self._config.seed,
            trials=self._config.trials,
            objectives=tuple(self._objectives),
            reference_point=reference_point,
            price=source.known,
        )
        told = self._observations(price)
        found = expected_gap(context, told, proposals=self._request.proposals)
        if isinstance(found, str):
            return {"expected_gain": None, "reason": found}
        return {
            "expected_gain": found.gain,
            "proposals": found.proposals,
            "candidates": found.candidates,
            "best": dict(found.best),
        }

    def _observations(self, price: Pricer) -> Sequence[Observation]:
        made = []
        for trial in self._trials:
            if trial.state is not State.COMPLETE:
                continue
            metrics = {**trial.metrics, **price(trial.architecture).cost}
            values = tuple(metrics[m] for m in self._objectives)
            made.append(Observation(number=trial.number, choices=trial.choices, values=values))
        return made
