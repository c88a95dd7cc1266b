"""Layer 3: the folder of a run: opening, continuing, moving aside. One driver at a time."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasctl.arch import Block
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.files import cannot_be_written, sha256, write_text
from nasctl.ledger import Ledger
from nasctl.ledger_commits import COPY, LEFT_UNTOUCHED, copy_beside
from nasctl.records import LEDGER
from nasctl.runlock import LOCK, RunLock

CHANGED = "its code has changed since the run was created"

Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]
"""(stored config, new config) -> one line per difference that forbids continuing."""


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that this process drives.

    Attributes:
        moved: where an old run of that name was moved to (`--fresh`), or None.
        resumed: whether the ledger was there before.
        changed_plugins: whose code is not what the run began with.
    """

    directory: Path
    ledger: Ledger
    resumed: bool
    moved: Path | None
    changed_plugins: tuple[str, ...] = ()


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
    same_code: bool = False,
    remedy: str = "--fresh moves it aside, name=... starts another",
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
        same_code: refuse to continue with other code of plugins; else it is recorded.
        remedy: what to do where it is another one.

    Raises:
        EnvironmentProblemError: the folder is not writable or leads elsewhere, the run has a
            driver, or its ledger is damaged.
        ConfigError: the run exists with another configuration.
    """
    check_place(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentProblemError(f"{directory}: cannot be created: {error}") from error
    lock = RunLock(directory)
    try:
        moved = None
        if fresh and any((directory / name).exists() for name in (LEDGER, COPY)):
            moved = _move_aside(directory)
            lock.release()
            directory.mkdir()
            lock = RunLock(directory)
        _remove_torn(directory)
        _check_not_lost(directory / LEDGER)
        resumed = (directory / LEDGER).exists()
        ledger = Ledger(directory / LEDGER, block_types)
        try:
            stored = ledger.meta("config")
            changed = _changed(ledger.meta("plugins", {}), meta.get("plugins", {}))
            if not isinstance(stored, dict) and ledger.trials():
                raise EnvironmentProblemError(
                    f"{ledger.path}: it does not say what its trials were for; {LEFT_UNTOUCHED}"
                )
            if stored is None:
                resumed = False
                ledger.set_meta(config=config, uid=uuid.uuid4().hex, created=time.time(), **meta)
            else:
                different = differences(stored, config)
                if same_code:
                    different = [*different, *(f"--plugin {name}: {CHANGED}" for name in changed)]
                if different:
                    raise ConfigError(
                        [
                            *different,
                            f"the run exists with these other values: {remedy}",
                        ],
                        source=str(directory),
                    )
                ledger.copy_to(directory / COPY)  # as its last driver left it
                # What continues it from now on: an older command may ask for fewer trials.
                now = {k: meta[k] for k in ("command",) if k in meta}
                ledger.set_meta(config=config, **now)
                ledger.add_event("resumed", trials=len(ledger.trials()))
                if changed:
                    ledger.add_event("plugins_changed", names=list(changed))
                    ledger.set_meta(plugins={**ledger.meta("plugins", {}), **meta["plugins"]})
            write_text(directory / "config.yaml", config_text)
            yield OpenRun(
                directory=directory,
                ledger=ledger,
                resumed=resumed,
                moved=moved,
                changed_plugins=changed if resumed else (),
            )
        finally:
            ledger.close()
    finally:
        lock.release()


def _changed(before: object, now: Mapping[str, str]) -> tuple[str, ...]:
    """Plugins that are there again, with other code.

    Args:
        before: as the ledger has it; what is damaged is `nasctl doctor`'s to tell.
    """
    if not isinstance(before, dict):
        return ()
    return tuple(name for name, code in now.items() if before.get(name, code) != code)


def record_artifacts(run: OpenRun, files: Iterable[Path]) -> None:
    """Notes the SHA-256 of what the run has made, for `nasctl doctor`, and copies the ledger.

    Weights are written once: what was noted of them stays, so that later damage shows.
    """
    known: dict[str, str] = run.ledger.meta("artifacts", {})
    found = {path.relative_to(run.directory).as_posix(): path for path in files}
    run.ledger.set_meta(
        artifacts={
            name: known[name] if name in known and name.startswith("weights/") else sha256(path)
            for name, path in found.items()
        }
    )
    run.ledger.copy_to(run.directory / COPY)


def check_place(directory: Path) -> None:
    """Whether a run may live here; writes nothing.

    Raises:
        EnvironmentProblemError: the folder cannot be created or written to, or something in it is
            a symbolic link that writing would follow to a place that is not the run's.
    """
    if (problem := cannot_be_written(directory)) is not None:
        raise EnvironmentProblemError(
            f"{directory}: cannot be created or written to: {problem}; choose another "
            "output_dir=..."
        )
    for path in sorted(directory.glob("*")) if directory.is_dir() else ():
        followed = not path.is_file() or path.name == LOCK or path.name.startswith(LEDGER)
        if path.is_symlink() and followed:
            raise EnvironmentProblemError(
                f"{path}: a symbolic link (to {path.readlink()}); a run writes only into its own "
                "folder: remove the link, or move the whole folder and link that"
            )


def _remove_torn(directory: Path) -> None:
    """Files that a killed driver, or one of its workers, was about to write."""
    for path in directory.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def _check_not_lost(ledger: Path) -> None:
    """A new ledger in the place of one that is gone would take the copy's place, too."""
    is_there = ledger.exists() and ledger.stat().st_size
    is_ours = not ledger.with_name(COPY).is_symlink()  # else it is replaced, never followed
    if not is_there and is_ours and (copy := copy_beside(ledger)):
        what = "there is nothing in it" if ledger.exists() else "it is gone"
        raise EnvironmentProblemError(
            f"{ledger}: {what}{copy}; put the copy in its place, or begin anew with --fresh"
        )


def _move_aside(directory: Path) -> Path:
    for n in range(1, 10_000):
        target = directory.with_name(f"{directory.name}.old{n}")
        if not target.exists():
            directory.rename(target)
            return target
    raise EnvironmentProblemError(f"{directory}: too many old runs beside it")
