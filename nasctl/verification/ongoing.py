"""Layer 4: what the steps of a verification share: its search, its settings, its ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.arch import Architecture
from nasctl.executors.base import Executor
from nasctl.export.int8 import file_settings
from nasctl.interrupt import StopRequest
from nasctl.ledger import Ledger
from nasctl.plugins import Registry
from nasctl.prepare import Problem
from nasctl.pricing import latency_place, latency_settings, network_builder
from nasctl.records import RunRecords
from nasctl.runflow import Display
from nasctl.verification.checks import is_timed
from nasctl.verification.exports import Timing
from nasctl.verification.finalists import Finalist
from nasctl.verification.int8 import errors_of
from nasctl.verification.openings import SealedSplit
from nasctl.verification.plan import Limit
from nasctl.verification.settings import VerifySettings

if TYPE_CHECKING:
    from torch import nn

    from nasctl.config.schema import SearchConfig


@dataclass(frozen=True, kw_only=True)
class Ongoing:
    """A verification at work; everything that changes is in its ledger.

    Attributes:
        source: the search, of which only what it has found is read.
        config: its configuration, with what this call changes.
        directory: of the verification.
        finalists: all of them, in order.
        limits: of seeds, as the ledger has them.
        test: its test split, closed until something asks for it.
        command: as typed.
    """

    source: RunRecords
    config: SearchConfig
    settings: VerifySettings
    problem: Problem
    registry: Registry
    ledger: Ledger
    directory: Path
    finalists: Sequence[Finalist]
    limits: Sequence[Limit]
    test: SealedSplit
    display: Display
    stop: StopRequest
    command: str

    def kept(self) -> dict[str, Any]:
        """What the ledger keeps of the verification beside trainings and latencies."""
        return dict(self.ledger.meta("verification"))

    def keep(self, **changed: Any) -> None:
        """Adds to that, in one step."""
        self.ledger.set_meta(verification={**self.kept(), **changed})

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Of finalists in int8 (`nasctl.verification.int8`), where the front is judged by that."""
        return self.kept().get("files") or {}

    def trainable(self) -> list[Finalist]:
        """Finalists that are trained: not those that are known to have no int8 file."""
        without = errors_of(self.files)
        return [f for f in self.finalists if f.arch_id not in without]

    def build(self) -> Callable[[Architecture], nn.Module]:
        """What makes the module of a network, as it is trained."""
        return network_builder(self.config, self.problem, self.registry, with_references=True)

    def is_timed(self, networks: Sequence[Architecture]) -> bool:
        """See `checks.is_timed`."""
        return is_timed(self.source, self.settings, self.problem, networks)

    def timing(self, executor: Executor, networks: Sequence[Architecture]) -> Timing | None:
        """How files are timed; on the scale of the search if it measured with the same runtime."""
        table = self.source.latency
        if table is None or not self.is_timed(networks):
            return None
        settings = latency_settings(self.config)
        place = latency_place(self.config, executor, self.registry)
        device = place.device(file_settings(settings), self.display.phase).fingerprint
        return Timing(
            settings=settings,
            place=place,
            device=device if place.node is not None else None,
            canary_ms=table["reference_network_ms"] if table["device"] == device else None,
        )
