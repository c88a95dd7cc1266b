"""Layer 4: what a verified front is judged by: the trained networks, or their int8 files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Front = Literal["trained", "int8"]

IN_INT8 = {
    "accuracy": "accuracy_int8",
    "latency_ms": "latency_ms_int8",
    "model_bytes": "model_bytes_int8",
}
"""Metrics of a network that its int8 file has values of its own for, and their names in
`verified.json`. Operations and parameters stay as many."""


def shown(metric: str, front: Front) -> str:
    """The name, in an entry of `verified.json`, of an objective's value; accuracy is that of the
    test split, where there is one."""
    return IN_INT8.get(metric, metric) if front == "int8" else metric


def deciding(metric: str, front: Front) -> str:
    """The same, of the value that decides: accuracy is that of validation."""
    return f"{shown(metric, front)}_val" if metric == "accuracy" else shown(metric, front)


def front_of(verified: Mapping[str, Any]) -> Front:
    """Of a result, as `verified.json` has it; older ones do not say so."""
    return "int8" if verified.get("front") == "int8" else "trained"
