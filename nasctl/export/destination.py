"""Layer 4: may `nasctl export` write where it is asked to? Looked at before anything is computed.

A file that `nasctl export` has written before is replaced; any other stays, whatever it is.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.formats import METADATA, SUFFIXES
from nasctl.export.source import MADE_BY
from nasctl.files import cannot_be_written
from nasctl.onnx_runtime import metadata_of

_HEADER_LIMIT = 100_000_000
"""Bytes: what the safetensors library takes a header to be at most."""


def check_destination(files: Iterable[Path]) -> tuple[Path, ...]:
    """Whether all files of an export can be written; writes nothing.

    Args:
        files: what it would leave behind.

    Returns:
        Those that are there from an earlier export and would be replaced.

    Raises:
        ConfigError: something else is there.
        EnvironmentProblemError: a folder cannot be written to.
    """
    found = []
    for path in files:
        if (problem := cannot_be_written(path.parent)) is not None:
            raise EnvironmentProblemError(f"{path}: cannot be written: {problem}")
        if path.is_symlink() or path.exists():
            if not path.is_file():
                what = "a folder" if path.is_dir() else "no regular file"
                raise ConfigError(f"{path}: is there, and is {what}; choose another -o FILE")
            if not is_exported(path):
                raise ConfigError(
                    f"{path}: is there, and not written by nasctl export; move it away, or choose "
                    "another -o FILE"
                )
            found.append(path)
    return tuple(found)


def is_exported(path: Path) -> bool:
    """Whether `nasctl export` has written this file, by what is in it."""
    try:
        if path.suffix == SUFFIXES["torch"]:
            with path.open(encoding="utf-8") as file:
                return MADE_BY in file.read(2000)
        if path.suffix == ".safetensors":
            return METADATA in _safetensors_metadata(path)
        if zipfile.is_zipfile(path):  # torch.export
            with zipfile.ZipFile(path) as archive:
                return any(n.endswith(f"extra/{METADATA}.json") for n in archive.namelist())
        return METADATA in metadata_of(path.read_bytes())
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile, EnvironmentProblemError):
        return False  # whatever it is, it is not ours


def _safetensors_metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(size, _HEADER_LIMIT)))
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}
