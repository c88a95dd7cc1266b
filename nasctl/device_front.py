"""Layer 4: `nasctl front RUN --device NAME`: the front among what was trained, elsewhere.

Accuracies are those of the run; latencies are measured on another device or runtime, as a search
would: a table of blocks prices every trained network, and those that may be on the front by it are
measured whole. New constraints alone need no measurement. The run's ledger is only read; what was
measured is kept in `devices/NAME.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nasctl import prepare
from nasctl.arch import Architecture
from nasctl.candidates import Priced
from nasctl.device_bounds import excess
from nasctl.device_file import DEVICES, DeviceFile
from nasctl.device_gap import gap_json
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
from nasctl.latency_try import try_runtime
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
    if request.device is None:
        asked = _Asked(records, request, _problem_of(request))
        return asked.issue(asked.own_pricer(), {}, {})
    kept = DeviceFile.read(records.directory, request.device, request.config.latency.model_dump())
    lock = RunLock(records.directory)  # a search beside it would disturb the measurement
    try:
        if kept.table is None:
            _try_out(request)  # before anything that takes long
        problem = _problem_of(request)
        _check_measurable(request, problem)
        return _Asked(records, request, problem).on_device(request.device, kept)
    finally:
        lock.release()


def _problem_of(request: FrontRequest) -> Problem:
    """Nothing is trained: neither pictures nor weights to begin with are needed."""
    return prepare.load_problem(
        request.config, request.registry, allow_no_data=True, read_weights=False
    )


def _try_out(request: FrontRequest) -> None:
    """Raises where what is to measure does not answer."""
    settings = latency_settings(request.config)
    place = latency_place(request.config, request.executor, request.registry)
    if place.node is not None and settings.runtime != "command":
        return  # that a node is there, the first question to it tells
    place.measure(
        functools.partial(try_runtime, settings),
        settings=settings,
        device=None,
        progress=request.announce,
    )


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

    def on_device(self, name: str, kept: DeviceFile) -> dict[str, Any]:
        """Measures what is missing, and issues the front.

        Args:
            kept: what is known of the device; without a table, it was tried out.
        """
        config, is_tried = self._config, kept.table is None
        self._check_constraints()
        price = self._pricer(config, kept.table)
        assert price.latency is not None, "a device has latencies"
        kept = kept.with_table(price.latency.to_json())
        kept.write()  # before hours of measuring more
        others = kept.measurements.keys() | {t.arch_id for t in self._references}
        for _ in itertools.repeat(None, ROUNDS):
            room = self._request.limit - len(kept.measurements.keys() - others)
            todo = self._to_measure(price, kept.measurements, room)
            if not todo:
                break
            place = latency_place(config, self._request.executor, self._request.registry)
            self._check_device(place, name, price.latency.device)
            if not is_tried:
                _try_out(self._request)
                is_tried = True
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
        return excess(entry, self._request.constraints, hopeful=hopeful)

    def _check_constraints(self) -> None:
        """Whether there is something that they can be of; measures nothing."""
        trial = next((t for t in self._trials if t.state is State.COMPLETE), None)
        if trial is None:
            raise NothingFeasibleError(f"{self._records.directory}: nothing is trained yet")
        costs = prepare.cost_metrics(self._config, self._problem)
        known = list(dict.fromkeys((*trial.cost, *costs)))
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
        self._check_constraints()
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
                violations=self._over,
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

    def _gap(self, price: Pricer, reference_point: Mapping[str, float]) -> dict[str, Any] | None:
        """None where nobody asked."""
        if not self._request.proposals:
            return None
        self._request.announce("estimating what a new search might add")
        return gap_json(
            self._problem.family,
            self._config,
            price,
            self._trials,
            objectives=self._objectives,
            constraints=self._request.constraints,
            reference_point=reference_point,
            proposals=self._request.proposals,
        )
