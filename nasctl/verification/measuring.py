"""Layer 4: what is measured before anything is trained: it decides who gets more seeds.

The latency of all finalists, whole and alone; where the front is judged by int8 files, also how
large those are and how fast.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from nasctl.errors import NothingFeasibleError
from nasctl.executors.base import Executor
from nasctl.export.int8 import file_settings, latencies_of
from nasctl.files import temporary_folder
from nasctl.latency import WholeLatency, measure_networks
from nasctl.pricing import latency_place, latency_settings
from nasctl.resources import note_measuring
from nasctl.verification.exports import Timing
from nasctl.verification.int8 import errors_of, untrained_files
from nasctl.verification.ongoing import Ongoing
from nasctl.verification.timing import combined


def measure(ongoing: Ongoing, executor: Executor) -> None:
    """The latency of all finalists, once for each verification.

    Raises:
        ConfigError, EnvironmentProblemError: see `measure_networks`; nothing is noted then.
    """
    known = ongoing.ledger.measurements()
    todo = [f.architecture for f in ongoing.finalists if f.arch_id not in known]
    table, say = ongoing.source.latency, ongoing.display.phase
    if not todo or table is None or not ongoing.is_timed(todo):
        return
    settings = latency_settings(ongoing.config)
    place = latency_place(ongoing.config, executor, ongoing.registry)
    device: str = table["device"]
    if place.node is not None:
        place.check(settings, device, say)
    found = place.device(settings, say)
    is_same = found.fingerprint == device
    if not is_same:
        ongoing.display.warning(
            f"latency: this is another device than that of the search ({device}), it is: "
            f"{found.fingerprint}; predicted and measured values do not compare"
        )
    build = ongoing.build()
    where = "the machine" if place.node is None else place.node
    count = ongoing.settings.sessions

    def session(number: int) -> Mapping[str, WholeLatency]:
        say(f"measuring {len(todo)} networks whole, alone on {where}, {number + 1} of {count}")
        return measure_networks(
            todo,
            settings,
            build_network=build,
            canary_ms=table["reference_network_ms"] if is_same else None,
            progress=say,
            seed=number,
            place=place,
            device=device if place.node is not None else None,
        )

    began = time.monotonic()
    sessions = [session(number) for number in range(count)]
    of = {"device": found.fingerprint, "runtime": found.runtime, "as_searched": is_same}
    with ongoing.ledger.transaction():
        ongoing.ledger.put_measurements(combined(sessions, ongoing.settings.confidence))
        seconds = time.monotonic() - began
        note_measuring(ongoing.ledger, settings, "networks", len(todo) * count, seconds)
        ongoing.keep(latency_device=of)


def measure_files(ongoing: Ongoing, executor: Executor) -> None:
    """Size and latency of all finalists in int8, once for each verification, if its front is judged
    by that.

    Raises:
        NothingFeasibleError: none of them can be quantised; nothing is noted then.
        ConfigError, EnvironmentProblemError: see `latencies_of`.
    """
    dataset = ongoing.problem.dataset
    if ongoing.settings.front != "int8" or ongoing.files or dataset is None:
        return
    networks = [f.architecture for f in ongoing.finalists]
    began = time.monotonic()
    with temporary_folder("finalists in int8") as folder:
        files, known = untrained_files(
            networks,
            build=ongoing.build(),
            dataset=dataset,
            folder=folder,
            say=ongoing.display.phase,
        )
        errors = errors_of(known)
        if not any(f.is_contender and f.arch_id in files for f in ongoing.finalists):
            arch_id, error = next(iter(errors.items()))
            raise NothingFeasibleError(
                f"verify.front: int8: no finalist can be quantised; {arch_id}: {error}"
            )
        for arch_id, error in errors.items():
            ongoing.display.warning(f"{arch_id} has no int8 file, and is not trained: {error}")
        timing = ongoing.timing(executor, networks)
        if timing is not None:
            for arch_id, latency in _latencies(ongoing, timing, files).items():
                known[arch_id] |= latency
    with ongoing.ledger.transaction():
        if timing is not None:
            seconds = time.monotonic() - began
            count = len(files) * ongoing.settings.sessions
            note_measuring(ongoing.ledger, timing.settings, "files", count, seconds)
        ongoing.keep(files=known)


def _latencies(
    ongoing: Ongoing, timing: Timing, files: Mapping[str, Path]
) -> dict[str, dict[str, object]]:
    """As `combined` has them."""
    say, count = ongoing.display.phase, ongoing.settings.sessions
    place = timing.place
    where = "the machine" if place.node is None else place.node

    def session(number: int) -> Mapping[str, WholeLatency]:
        say(f"measuring {len(files)} int8 files, alone on {where}, {number + 1} of {count}")
        return latencies_of(
            files,
            file_settings(timing.settings),
            canary_ms=timing.canary_ms,
            progress=say,
            seed=number,
            place=place,
            device=timing.device,
        )

    return combined([session(number) for number in range(count)], ongoing.settings.confidence)
