"""Layer 2: latencies as values: the table of blocks with its correction, and whole networks."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nasctl.arch import Architecture, Block, Shape
from nasctl.errors import NasctlError
from nasctl.latency_cache import pair_key


@dataclass(frozen=True, kw_only=True)
class LatencyEstimate:
    """A predicted latency in milliseconds with its 95 % prediction interval."""

    ms: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class WholeLatency:
    """A whole network, measured.

    Attributes:
        p50_ms: the median on an undisturbed machine: over rounds, of the fastest call of a round,
            drift-corrected. The same statistic as in the table.
        p90_ms: 90th percentile of single calls, drift-corrected, without the slowdown that all
            networks of the session had in common. MLPerf's single-stream figure is
            also a p90 but its run lasts at least 600 s: compare with care. `n` is at least the 64
            queries that its early-stopping rule needs (unless the budget was cut); a command
            reports its own.
        interval: 95 % interval of p50 (order statistics of the rounds).
        p90_interval: of p90 (order statistics of the calls).
        n: calls.
        rounds: rounds.
    """

    p50_ms: float
    p90_ms: float
    interval: tuple[float, float]
    p90_interval: tuple[float, float]
    n: int
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `from_json` reads it back."""
        return dataclasses.asdict(self) | {
            "interval": list(self.interval),
            "p90_interval": list(self.p90_interval),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WholeLatency:
        """The inverse of `to_json`."""
        pairs = {k: (data[k][0], data[k][1]) for k in ("interval", "p90_interval")}
        return cls(**{**data, **pairs})


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Latencies of blocks and their correction to networks; a value, independent of any cache.

    Attributes:
        device: `device_fingerprint` of the settings.
        runtime: with its version.
        settings: as plain JSON.
        canary_ms: the reference time of the canary: the scale of all values.
        drift: p50 and p90 of the machine's speed during measurement, relative to that reference.
        blocks: from the canonical JSON of [block, input shape] to milliseconds, measured alone.
        correction: `latency_fit.Correction` as plain JSON.
        node: the name of the device in the cluster; None: the machine of the driver.
    """

    device: str
    runtime: str
    settings: Mapping[str, Any]
    canary_ms: float
    drift: tuple[float, float]
    blocks: Mapping[str, float]
    correction: Mapping[str, Any]
    node: str | None = None
    _terms: dict[tuple[Block, Shape], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def predict(self, architecture: Architecture) -> LatencyEstimate:
        """The latency of a network, from its blocks alone.

        Raises:
            NasctlError: a block of it is not in the table.
        """
        terms = self._terms
        ms: float = self.correction["intercept"]
        for pair in architecture.deployed():
            term = terms.get(pair)
            ms += self._term(pair) if term is None else term
        # Only far outside the calibrated range can the correction exceed the sum that it corrects.
        ms = max(ms, 1e-3 * self.canary_ms)
        error = self.correction["relative_error"]
        return LatencyEstimate(ms=ms, low=ms * (1 - error), high=ms * (1 + error))

    def _term(self, pair: tuple[Block, Shape]) -> float:
        c = self.correction
        term: float = (
            c["scale"] * self.block_ms(*pair)
            + c["per_block"]
            + c["per_element"] * math.prod(pair[1])
        )
        self._terms[pair] = term
        return term

    def block_ms(self, block: Block, shape: Shape) -> float:
        """The latency of a block measured alone.

        Raises:
            NasctlError: it is not in the table.
        """
        try:
            return self.blocks[pair_key(block, shape)]
        except KeyError:
            raise NasctlError(
                f"latency table: {block.op} on input {shape} was never measured: {block.to_json()}"
            ) from None

    @property
    def summary(self) -> dict[str, Any]:
        """What a report says about the table; keys that end in `_error` are fractions."""
        errors = sorted(abs(e) for e in self.correction["leave_one_out"])
        return {
            **self._named,
            "device": self.device,
            "runtime": self.runtime,
            "batch": self.settings["batch"],
            "threads": self.settings["threads"],
            "dtype": self.settings["dtype"],
            "layout": self.settings["layout"],
            "blocks": len(self.blocks),
            "calibration_networks": len(errors),
            "calibration_error": {"median": statistics.median(errors), "worst": errors[-1]},
            "prediction_interval_error": self.correction["relative_error"],
            "reference_network_ms": self.canary_ms,
            "machine_drift": {"p50": self.drift[0], "p90": self.drift[1]},
        }

    @property
    def _named(self) -> dict[str, str]:
        return {} if self.node is None else {"node": self.node}

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `from_json` reads it back to an equal value."""
        return {
            **self._named,
            "device": self.device,
            "runtime": self.runtime,
            "settings": dict(self.settings),
            "canary_ms": self.canary_ms,
            "drift": list(self.drift),
            "blocks": dict(self.blocks),
            "correction": dict(self.correction),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyTable:
        """The inverse of `to_json`."""
        return cls(**{**data, "drift": (data["drift"][0], data["drift"][1])})
