"""Layer 0: files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nasctl.errors import FULL, EnvironmentProblemError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is fsynced and renamed over `path`.

    Whatever goes wrong, an older `path` stays as it was and the temporary file is gone.

    Raises:
        EnvironmentProblemError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise EnvironmentProblemError(f"{path}: cannot be written: {_reason(error)}") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise EnvironmentProblemError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _reason(error: OSError) -> str:
    """Without the name of a temporary file, which is gone by now."""
    return reason(error) if str(error.filename or "").endswith(".tmp") else str(error)


def reason(error: Exception) -> str:
    """Why a file could not be written, without its name: often that of a temporary one."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or type(error).__name__


@contextlib.contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """A folder that is gone afterwards; where it is too small, that is said of `what`.

    Args:
        what: is made in it, for messages.

    Raises:
        EnvironmentProblemError: there can be none, or something could not be written into it.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="nasctl-")
    except OSError as error:
        raise EnvironmentProblemError(
            f"{what}: cannot be made: {reason(error)}; TMPDIR=... is a folder for temporary files"
        ) from error
    with made as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in FULL and not str(error.filename).startswith(name):
                raise
            raise EnvironmentProblemError(
                f"{what}: cannot be made: {reason(error)}, in the folder for temporary files "
                f"{tempfile.gettempdir()}; TMPDIR=... is another"
            ) from error


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by a UTF-8 text; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Replaces `path` by indented JSON (NaN is refused); see `replacing`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cannot_be_written(folder: Path) -> str | None:
    """Why nothing could be written into a folder, which need not exist yet; None if it could.

    Writes nothing itself.
    """
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written to"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
