"""Layer 3: what trainings and measurements are given to run on, as events of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nasctl.latency_settings import LatencySettings
from nasctl.ledger import Ledger

Events = Sequence[tuple[float, str, Mapping[str, Any]]]
"""Of a ledger: time (seconds since 1970), kind and data."""

RESOURCES = "resources"
"""Event: `cores`, `gpus` of one training, from now on."""
MEASURED = "measured"
"""Event: `what` (`table` or `networks`), `n`, `seconds`, `cores`, `gpus`."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one training is given, or what one measurement uses."""

    cores: float
    gpus: float = 0.0


def configured_resources(config: Mapping[str, Any]) -> Resources:
    """What a training is given, by the `executor` and `recipe` sections of a configuration."""
    executor = config.get("executor") or {}
    if executor.get("name") == "inline":
        threads = (config.get("recipe") or {}).get("threads", 1)
        return Resources(cores=float(threads if config.get("evaluator") == "train" else 1))
    return Resources(cores=float(executor.get("cpus", 1)), gpus=float(executor.get("gpus", 0)))


def resources_at(events: Events, otherwise: Resources) -> Callable[[float], Resources]:
    """What a training was given that began at a time (seconds since 1970).

    Args:
        events: of the ledger.
        otherwise: where nothing was recorded.
    """
    known = [
        (at, Resources(cores=data["cores"], gpus=data["gpus"]))
        for at, kind, data in events
        if kind == RESOURCES
    ]

    def find(began: float) -> Resources:
        before = [r for at, r in known if at <= began]
        return before[-1] if before else known[0][1] if known else otherwise

    return find


def note_measuring(
    ledger: Ledger, settings: LatencySettings, what: str, n: int, seconds: float
) -> None:
    """What a measurement took, for the compute ledger.

    Args:
        settings: of the measurement.
        what: was measured: `table` or `networks`, `n` of its entries.
    """
    used = {"cores": settings.threads, "gpus": int(settings.device != "cpu")}
    ledger.add_event(MEASURED, what=what, n=n, seconds=seconds, **used)


def note_resources(ledger: Ledger, given: Resources) -> None:
    """What every training is given from now on, for the compute ledger."""
    told = [data for _, kind, data in ledger.events() if kind == RESOURCES]
    if not told or told[-1] != asdict(given):
        ledger.add_event(RESOURCES, **asdict(given))
