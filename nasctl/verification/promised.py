"""Layer 4: promised against delivered: one row per finalist, for the terminal, CSV and the report.

Columns of later steps (exported, quantised) are there once a verification has them: `EXTRAS` says
which, and each finalist of `verified.json` carries them under `delivered`. They are of one
training, that whose weights are handed out. Where the front is judged by int8 files
(`verify.front=int8`), what those are worth over all seeds has columns of its own.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasctl.verification.finalists import judged_metric
from nasctl.verification.fronts import IN_INT8, deciding, front_of

EXTRAS: tuple[tuple[str, str], ...] = (
    ("exported_accuracy", "accuracy exported"),
    ("int8_accuracy", "accuracy int8"),
    ("exported_latency_ms", "latency exported (ms)"),
    ("int8_latency_ms", "latency int8 (ms)"),
    ("exported_bytes", "size exported (B)"),
    ("int8_bytes", "size int8 (B)"),
)
"""Name in `delivered` and in the CSV file, heading."""

INT8_COLUMNS = {
    "val": "retrained_accuracy_int8",
    "test": "test_accuracy_int8",
    "p50": "latency_p50_ms_int8",
    "p90": "latency_p90_ms_int8",
    "bytes": "model_bytes_int8",
}
"""Of `Promised.int8`: names in the CSV file."""

WORDS = {
    "kept": "kept",
    "fell": "fell off",
    "joined": "joined",
    "near": "off",
    "failed": "failed",
    "unfinished": "unfinished",
    "reference": "reference",
}
"""What became of a finalist, as people say it."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number with its interval."""

    value: float | None
    interval: tuple[float, float] | None = None
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Promised:
    """One finalist: what the search said, what came out.

    Attributes:
        metric: the judged one.
        searched: its value in the search.
        retrained: on validation images, over fresh seeds.
        test: on test images; None where there is no test split.
        latency: `predicted` and `searched` by the search, `p50` and `p90` now; those that are.
        int8: where the front is judged by int8 files, over fresh seeds: `val` and `test` accuracy,
            `p50`, `p90`, `bytes`; those that are.
        decides: the judged metric as it decides, on validation: `retrained`, or `int8["val"]`.
        extras: of `EXTRAS`, those that are.
    """

    arch_id: str
    label: str
    status: str
    reason: str
    on_front: bool
    probability: float | None
    metric: str
    searched: Value
    retrained: Value
    test: Value | None
    latency: Mapping[str, Value]
    int8: Mapping[str, Value]
    decides: Value
    extras: Mapping[str, float]

    @property
    def word(self) -> str:
        return WORDS[self.status]


def promised(verified: Mapping[str, Any]) -> list[Promised]:
    """Members first, then candidates, then references.

    Args:
        verified: the object of `verified.json`.
    """
    entries = [*verified["members"], *verified["candidates"], *verified["references"]]
    return [_row(entry, verified) for entry in entries]


def _row(entry: Mapping[str, Any], verified: Mapping[str, Any]) -> Promised:
    metric, has_test = judged_metric(verified["objectives"]), verified["split"] == "test"
    before = entry["searched"]
    fresh = "accuracy_val" if metric == "accuracy" else metric
    latency = {
        "predicted": _value(before, "latency_ms") if _is_predicted(before) else Value(value=None),
        "searched": _value(before, "latency_ms_measured"),
        "p50": Value(value=None) if _is_kept(entry) else _value(entry, "latency_ms"),
        "p90": _value(entry, "latency_ms_p90"),
    }
    int8 = {
        "val": _value(entry, f"{IN_INT8['accuracy']}_val"),
        "test": _value(entry, IN_INT8["accuracy"]) if has_test else Value(value=None),
        "p50": _value(entry, IN_INT8["latency_ms"]),
        "p90": _value(entry, f"{IN_INT8['latency_ms']}_p90"),
        "bytes": _value(entry, IN_INT8["model_bytes"]),
    }
    files = entry.get("delivered") or {}
    extras = {name: files[name] for name, _ in EXTRAS if files.get(name) is not None}
    return Promised(
        arch_id=entry["arch_id"],
        label=entry.get("name") or entry["arch_id"],
        status=entry["status"],
        reason=entry["reason"],
        on_front=entry["on_front"],
        probability=entry["probability"],
        metric=metric,
        searched=_value(before, metric),
        retrained=_value(entry, fresh),
        test=_value(entry, "accuracy") if has_test and _is_tested(entry) else None,
        latency={k: v for k, v in latency.items() if v.value is not None},
        int8={k: v for k, v in int8.items() if v.value is not None},
        decides=_value(entry, deciding(metric, front_of(verified))),
        extras=extras,
    )


def _is_tested(entry: Mapping[str, Any]) -> bool:
    """Not where a trainer ended before its last epoch: then there is no test accuracy."""
    known: Mapping[str, Any] = entry["uncertainty"].get("accuracy") or {}
    return known.get("split") == "test"


def _is_kept(entry: Mapping[str, Any]) -> bool:
    """Whether its latency is what the search had of it (`verify.latency=search`)."""
    known: Mapping[str, Any] = entry["uncertainty"].get("latency_ms") or {"source": "exact"}
    is_measured = "latency_ms_p90" in entry["metrics"] or known.get("split") is not None
    return known["source"] != "exact" and not is_measured


def _is_predicted(before: Mapping[str, Any]) -> bool:
    known: Mapping[str, Any] = before["uncertainty"].get("latency_ms") or {}
    return bool(known.get("source") == "predicted")


def _value(entry: Mapping[str, Any], name: str) -> Value:
    value = entry["metrics"].get(name)
    known = entry["uncertainty"].get(name)
    if known is None:
        return Value(value=value)
    low, high = known["interval"]
    is_exact = math.isclose(low, high, rel_tol=1e-9)  # also of seeds that all say the same
    ends = None if is_exact else (float(low), float(high))
    return Value(value=value, interval=ends, n=int(known["n"]))


def promised_csv(verified: Mapping[str, Any]) -> str:
    """The same as a file: one line per finalist, intervals in columns of their own."""
    rows = [dict(_cells(row)) for row in promised(verified)]
    names = list(dict.fromkeys(n for row in rows for n in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _cells(row: Promised) -> Iterator[tuple[str, Any]]:
    yield "arch_id", row.arch_id
    yield "name", row.label if row.label != row.arch_id else ""
    yield "status", row.status
    yield "on_front", int(row.on_front)
    yield "probability", "" if row.probability is None else row.probability
    yield from _numbers(f"searched_{row.metric}", row.searched)
    yield from _numbers(f"retrained_{row.metric}", row.retrained)
    if row.test is not None:
        yield from _numbers("test_accuracy", row.test)
    for name in ("predicted", "searched", "p50", "p90"):
        if name in row.latency:
            yield from _numbers(f"latency_{name}_ms", row.latency[name])
    for name, column in INT8_COLUMNS.items():
        if name in row.int8:
            yield from _numbers(column, row.int8[name])
    for name, _ in EXTRAS:
        if name in row.extras:
            yield name, row.extras[name]
    yield "reason", row.reason


def _numbers(name: str, value: Value) -> Iterator[tuple[str, Any]]:
    yield name, "" if value.value is None else value.value
    low, high = value.interval or ("", "")
    yield f"{name}_low", low
    yield f"{name}_high", high
    yield f"{name}_n", "" if value.n is None else value.n


def has_extras(rows: Sequence[Promised]) -> list[tuple[str, str]]:
    """Those of `EXTRAS` that any finalist has."""
    return [extra for extra in EXTRAS if any(extra[0] in row.extras for row in rows)]
