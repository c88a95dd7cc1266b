"""Layer 4: the front of a search on measured latencies: which networks are measured whole, and what
of that is done while the last trainings run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from nasctl.arch import Architecture
from nasctl.executors.place import ExecutorPlace
from nasctl.front import Entry, collect_entries, front_entries, near_front_entries
from nasctl.latency import LatencyTable, prepared_ahead
from nasctl.latency_bench import warm_up
from nasctl.latency_settings import LatencySettings, Timer
from nasctl.ledger import Ledger
from nasctl.runflow import Display, measure_whole
from nasctl.trial import Objectives, Trial

if TYPE_CHECKING:
    from torch import nn

NEAR_FRONT_LIMIT = 24
"""How many networks are measured whole at the end, front members first."""


class MeasuredFront:
    """Measures the front of a search.

    Args:
        table: what the latencies of the search were predicted with.
        settings: what latency means.
        objectives: of the search.
        build_network: makes the module of a network, references among them.
        place: where to measure.
        ledger: of the run; what is measured goes there.
        display: told what happens.
    """

    def __init__(
        self,
        table: LatencyTable,
        settings: LatencySettings,
        *,
        objectives: Objectives,
        build_network: Callable[[Architecture], nn.Module],
        place: ExecutorPlace,
        ledger: Ledger,
        display: Display,
    ) -> None:
        self._table = table
        self._settings = settings
        self._objectives = objectives
        self._build_network = build_network
        self._place = place
        self._ledger = ledger
        self._display = display
        self._ready: dict[str, Timer] = {}

    def ahead(self) -> Iterator[None]:
        """What measuring would begin with, in steps of a fraction of a second after the first.

        Of the front so far: the last trainings may change it. What fails here fails again, and is
        told, when it is its turn.
        """
        if self._place.node is not None:
            return
        with contextlib.suppress(Exception):
            warm_up()
            yield
            prepared = prepared_ahead(
                [e.architecture for e in self._todo()],
                self._settings,
                build_network=self._build_network,
            )
            for arch_id, timer in prepared:
                self._ready[arch_id] = timer
                yield

    def measure(self) -> None:
        """Measures front members, near-front candidates and references whole, until the front
        stands on measured networks: replacing a prediction can bring others onto it.

        Raises:
            EnvironmentProblemError: see `measure_networks`.
        """
        for _ in itertools.repeat(None, 3):
            todo = self._todo()
            if not todo:
                return
            measure_whole(
                [e.architecture for e in todo],
                self._settings,
                canary_ms=self._table.canary_ms,
                build_network=self._build_network,
                place=self._place,
                device=self._table.device,
                ledger=self._ledger,
                display=self._display,
                ready=self._ready,
            )

    def _todo(self) -> list[Entry]:
        entries = self._entries(self._ledger.trials())
        references = self._entries(self._ledger.references())
        members = front_entries(entries, self._objectives)
        near = near_front_entries(entries, members, self._objectives)
        measured = self._ledger.measurements()
        todo = [e for e in (*members, *near) if e.arch_id not in measured][:NEAR_FRONT_LIMIT]
        return todo + [e for e in references if e.arch_id not in measured]

    def _entries(self, trials: Sequence[Trial]) -> list[Entry]:
        return collect_entries(
            trials,
            measured=self._ledger.measurements(),
            validation_images=self._ledger.meta("validation_images"),
        )
