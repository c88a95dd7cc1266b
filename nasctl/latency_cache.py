"""Layer 2: measured latencies on disk, so that no (block, shape) is measured twice on a device.

One JSON file for all devices. It is derived data: a file that cannot be read, or that another
version wrote, is replaced. `locked` keeps two searches from measuring (and thereby disturbing) each
other at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasctl.arch import Block, Shape
from nasctl.errors import EnvironmentProblemError
from nasctl.fields import canonical_json
from nasctl.files import write_json

VERSION = 1  # of the format, the canary and the protocol: raise it when values change their meaning


def pair_key(block: Block, shape: Shape) -> str:
    """The written form of (block, input shape)."""
    return canonical_json([block.to_json(), list(shape)])


@dataclass(kw_only=True)
class DeviceRecord:
    """What is known about one device under one set of settings.

    Attributes:
        canary_ms: the reference time of the canary, which fixes the scale; None: never measured.
        call_ms: of calling a network that does nothing.
        blocks: from `pair_key` to milliseconds.
        networks: from architecture id to milliseconds, whole networks for calibration.
        corrections: from a calibration's key to the fitted correction.
        drift: p50 and p90 of the machine's speed relative to the reference, last session.
    """

    canary_ms: float | None = None
    call_ms: float = 0.0
    blocks: dict[str, float] = field(default_factory=dict)
    networks: dict[str, float] = field(default_factory=dict)
    corrections: dict[str, dict[str, Any]] = field(default_factory=dict)
    drift: tuple[float, float] = (1.0, 1.0)


def device_key(fingerprint: str, block_types: Iterable[type[Block]]) -> str:
    """The fingerprint and a hash of the files that define the blocks' modules.

    A block's JSON says what was asked for; the code says what was built. So latencies measured
    before an edit are not mistaken for those after it.
    """
    digest = hashlib.sha256()
    for path in sorted({p for t in block_types if (p := _source_file(t)) is not None}):
        digest.update(path.read_bytes())
    return f"{fingerprint}; blocks {digest.hexdigest()[:8]}"


def _source_file(block_type: type[Block]) -> Path | None:
    try:
        return Path(inspect.getfile(block_type))
    except (TypeError, OSError):  # defined in a terminal
        return None


def read_record(path: Path | None, key: str) -> DeviceRecord:
    """The record of a device; empty where there is none."""
    entry = _read(path).get(key)
    return DeviceRecord(**(entry | {"drift": tuple(entry["drift"])})) if entry else DeviceRecord()


def write_record(path: Path | None, key: str, record: DeviceRecord) -> None:
    """Replaces the record of one device and keeps the others.

    Raises:
        EnvironmentProblemError: the file cannot be written.
    """
    if path is not None:
        devices = dict(_read(path)) | {key: vars(record)}
        write_json(path, {"version": VERSION, "devices": devices})


def _read(path: Path | None) -> Mapping[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return data["devices"] if data["version"] == VERSION else {}
    except (ValueError, KeyError, TypeError):
        return {}
    except OSError as error:
        raise EnvironmentProblemError(f"{path}: cannot be read: {error}") from error


@contextlib.contextmanager
def locked(path: Path | None, announce: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of the cache: one measurement at a time on this machine.

    Args:
        announce: told if another process holds it.

    Raises:
        EnvironmentProblemError: the lock file cannot be made.
    """
    if path is None:
        yield
        return
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise EnvironmentProblemError(f"{lock}: cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce("waiting for another process that measures latency")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
