"""Layer 3: names, values and prose that a tracking store accepts. Pure, no MLflow."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

KEY_LENGTH, VALUE_LENGTH, TAG_LENGTH = 250, 6000, 8000
"""MLflow's limits for names, parameter values and tag values, in characters."""

VIEW_KEY = "nasctl"
"""Name of the view of an experiment that the UI is opened with."""


def safe_name(name: str) -> str:
    """A name that MLflow accepts: letters, digits, `_-./: ` and no path tricks."""
    text = re.sub(r"[^\w\-./: ]", "_", name)[:KEY_LENGTH]
    parts = text.split("/")
    if any(part in ("", ".", "..") for part in parts):
        text = text.replace("/", "_")
    return "_" if text in ("", ".", "..") else text


def safe_names(values: Mapping[str, T]) -> dict[str, T]:
    """`values` under safe names; names that become equal get a suffix of their own."""
    result: dict[str, T] = {}
    for name, value in values.items():
        safe = safe_name(name)
        if safe in result:
            suffix = hashlib.sha256(name.encode()).hexdigest()[:6]
            safe = f"{safe[: KEY_LENGTH - 7]}_{suffix}"
        result[safe] = value
    return result


# A password may hold / and @ that nobody escaped: everything up to the last @ counts.
_PASSWORD = r"(?<=://)[^\s/@:]*:[^\s]*@|(?<=[?&])(?P<name>password|sslpassword)=[^&\s'\"]*"
_CREDENTIALS = re.compile(rf"{_PASSWORD}|(?<=://)[^/@\s]+@", re.IGNORECASE)


def has_password(uri: str) -> bool:
    """Whether there is one in an address, in front of the host or in a database's parameters."""
    return re.search(_PASSWORD, uri, re.IGNORECASE) is not None


def redact(text: str) -> str:
    """Text without the credentials of the addresses in it."""
    return _CREDENTIALS.sub(lambda m: f"{m['name']}=***" if m["name"] else "***@", text)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def value_text(value: object, limit: int = VALUE_LENGTH) -> str:
    if isinstance(value, str):
        text = value
    elif value is None or isinstance(value, bool | list | tuple | dict):
        text = json.dumps(value, default=str)
    else:
        text = str(value)
    return cut(redact(text), limit)


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `("a.b", 1)`; lists stay whole."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def finite_only(metrics: Mapping[str, Any]) -> dict[str, float]:
    # An infinity would be stored as 1.797e308 and a NaN breaks sorting: neither is ever sent.
    return {
        k: float(v)
        for k, v in metrics.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    }


def show_number(value: float | None) -> str:
    """Whole numbers with thousands separators, others with four digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"
