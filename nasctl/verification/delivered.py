"""Layer 4: what a finalist delivers: every metric as it is now, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from nasctl.front import accuracy_interval
from nasctl.kept_files import INT8, TEST, TEST_INT8
from nasctl.stats import Interval, PooledSpread
from nasctl.trial import Objectives
from nasctl.verification.finalists import Finalist
from nasctl.verification.fronts import IN_INT8
from nasctl.verification.judging import LATENCY, Judged
from nasctl.verification.single import searched_latency

Split = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What accuracies are judged on: numbers of images, None where nobody says."""

    val: int | None
    test: int | None

    def of(self, split: Split) -> int | None:
        return self.test if split == "test" else self.val


@dataclass(frozen=True, kw_only=True)
class Known:
    """A value and how sure it is; see `nasctl.trial.Uncertainty`."""

    value: float
    interval: Interval
    n: int
    split: Split | None
    source: str

    def uncertainty(self) -> dict[str, Any]:
        """As `front.json` has it."""
        return {
            "interval": list(self.interval),
            "n": self.n,
            "split": self.split,
            "source": self.source,
        }


def delivered(
    judged: Judged,
    measured: Mapping[str, Any] | None,
    *,
    file: Mapping[str, Any] | None = None,
    objectives: Objectives,
    images: Images,
    spreads: Mapping[str, PooledSpread | None],
    confidence: float,
) -> dict[str, Known]:
    """By metric: `accuracy` on the test split if there is one, `accuracy_val`, costs, latencies;
    the same of int8 files, where they are judged, under the names of `fronts.IN_INT8`.

    Args:
        measured: the latency of this verification.
        file: in int8 (`nasctl.verification.int8`), where the front is judged by that.
        images: that accuracies are judged on.
        spreads: between seeds, by metric, pooled over all finalists.
        confidence: of the intervals.
    """
    seeds = judged.values
    wanted: dict[str, tuple[str, Split]] = {m: (m, "val") for m in seeds if m in objectives}
    if "accuracy" in seeds:
        wanted["accuracy"] = (TEST, "test") if TEST in seeds else ("accuracy", "val")
        wanted["accuracy_val"] = ("accuracy", "val")
    if INT8 in seeds:
        wanted[IN_INT8["accuracy"]] = (TEST_INT8, "test") if TEST_INT8 in seeds else (INT8, "val")
        wanted[f"{IN_INT8['accuracy']}_val"] = (INT8, "val")
    found = {}
    for name, (metric, split) in wanted.items():
        values, spread = seeds[metric], spreads[metric]
        ends = _ends(metric, values, images.of(split), spread, confidence)
        found[name] = Known(
            value=fmean(values), interval=ends, n=len(values), split=split, source="measured"
        )
    latencies = _latencies(judged.finalist, measured, confidence)
    return {**found, **_costs(judged.finalist), **latencies, **_file(file or {})}


def _ends(
    metric: str,
    values: Sequence[float],
    images: int | None,
    spread: PooledSpread | None,
    confidence: float,
) -> Interval:
    """Of a mean over seeds; that of an accuracy also says how far its images speak for others."""
    if "accuracy" in metric:
        return accuracy_interval(values, images, spread, confidence)
    half = spread.half_width(len(values), confidence) if spread is not None else 0.0
    return fmean(values) - half, fmean(values) + half


def _costs(finalist: Finalist) -> dict[str, Known]:
    """Those that are no predictions."""
    return {
        name: Known(value=value, interval=(value, value), n=1, split=None, source="exact")
        for name, value in finalist.cost.items()
        if name not in finalist.cost_intervals
    }


def _latencies(
    finalist: Finalist, measured: Mapping[str, Any] | None, confidence: float
) -> dict[str, Known]:
    """Measured in the verification, else what the search knew best."""
    if measured is not None:
        return _timed(measured, LATENCY)
    single = searched_latency(finalist)
    if single is None:
        return {}  # exact, or there is none
    return {
        LATENCY: Known(
            value=single.value,
            interval=single.at(confidence),
            n=single.n,
            split=None,
            source=single.source,
        )
    }


def _timed(measured: Mapping[str, Any], name: str) -> dict[str, Known]:
    """p50 and p90 of some sessions (`timing.combined`)."""
    return {
        metric: Known(
            value=measured[value],
            interval=(measured[ends][0], measured[ends][1]),
            n=int(measured["n"]),
            split=None,
            source="measured",
        )
        for metric, value, ends in (
            (name, "p50_ms", "interval"),
            (f"{name}_p90", "p90_ms", "p90_interval"),
        )
    }


def _file(file: Mapping[str, Any]) -> dict[str, Known]:
    """What an int8 file is worth, whatever its weights."""
    found = _timed(file, IN_INT8[LATENCY]) if "p50_ms" in file else {}
    if "bytes" in file:
        size = float(file["bytes"])
        found[IN_INT8["model_bytes"]] = Known(
            value=size, interval=(size, size), n=1, split=None, source="exact"
        )
    return found
