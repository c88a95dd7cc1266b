"""Layer 3: the folder of a run: opening, continuing, moving aside. One driver at a time."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.arch import Block
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.files import write_text
from nasctl.ledger import Ledger, RunLock
from nasctl.records import LEDGER

Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
"""(stored config, new config) -> one line per difference that forbids continuing."""


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that this process drives.

    Attributes:
        moved: where an old run of that name was moved to (`--fresh`), or None.
        resumed: whether the ledger was there before.
    """

    directory: Path
    ledger: Ledger
    resumed: bool
    moved: Path | None


@contextlib.contextmanager
def open_run(
    directory: Path,
    *,
    config: Mapping[str, Any],
    config_text: str,
    meta: Mapping[str, Any],
    block_types: Mapping[str, type[Block]],
    differences: Differences,
    fresh: bool,
) -> Iterator[OpenRun]:
    """Creates the run's folder or continues it; holds its lock meanwhile.

    Args:
        directory: `output_dir/name`.
        config: resolved configuration, stored in the ledger.
        config_text: the same as YAML, written to `config.yaml`.
        meta: what else is stored when the run is created.
        block_types: op name to class.
        differences: what may not change between the stored configuration and this one.
        fresh: move an old run aside first.

    Raises:
        EnvironmentProblemError: the folder is not writable, the run has a driver, or its ledger
            is damaged.
        ConfigError: the run exists with another configuration.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblemError(f"{directory}: cannot be created: {error}") from error
    lock = RunLock(directory)
    try:
        moved = None
        if fresh and (directory / LEDGER).exists():
            moved = _move_aside(directory)
            lock.release()
            directory.mkdir()
            lock = RunLock(directory)
        resumed = (directory / LEDGER).exists()
        ledger = Ledger(directory / LEDGER, block_types)
        try:
            stored = ledger.meta("config")
            if stored is None:
                resumed = False
                ledger.set_meta(config=config, uid=uuid.uuid4().hex, created=time.time(), **meta)
            else:
                different = differences(stored, config)
                if different:
                    raise ConfigError(
                        [
                            *different,
                            "the run exists with these other values: --fresh moves it aside, "
                            "name=... starts another",
                        ],
                        source=str(directory),
                    )
                ledger.set_meta(config=config)
                ledger.add_event("resumed", trials=len(ledger.trials()))
            write_text(directory / "config.yaml", config_text)
            yield OpenRun(directory=directory, ledger=ledger, resumed=resumed, moved=moved)
        finally:
            ledger.close()
    finally:
        lock.release()


def _move_aside(directory: Path) -> Path:
    for n in range(1, 10_000):
        target = directory.with_name(f"{directory.name}.old{n}")
        if not target.exists():
            directory.rename(target)
            return target
    raise EnvironmentProblemError(f"{directory}: too many old runs beside it")
