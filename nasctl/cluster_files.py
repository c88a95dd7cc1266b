"""Layer 5: the files that a configuration names, on their way to a cluster with a job.

A relative path is of this machine: the file goes along, to the same place below the job's working
directory. An absolute path is of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nasctl.data import DATASETS
from nasctl.errors import ConfigError

MAX_BYTES = 200 * 2**20
"""Of all files of a job: the head keeps them in memory, and Ray takes 512 MiB at most."""
_REMEDY = "put it on the cluster and give its absolute path there"


def named_files(resolved: Mapping[str, Any], root: Path) -> dict[PurePosixPath, Path]:
    """The files that travel, by their place in the job's working directory.

    Args:
        resolved: a checked configuration, as plain values.
        root: the current directory: where relative paths begin.

    Raises:
        ConfigError: one that cannot travel: not there, a folder, not below `root`; a line each.
    """
    found: dict[PurePosixPath, Path] = {}
    problems = []
    for key, text, is_needed in _named(resolved):
        path = root / text
        where = f"{key}={text}: a relative path is of this machine, and"
        if path.is_dir():
            problems.append(f"{where} folders do not travel; {_REMEDY}")
        elif not path.is_file():
            if is_needed:
                problems.append(f"{where} there is no such file below {root}; if it is on the "
                                "cluster, give its absolute path there")  # fmt: skip
        elif ".." in PurePosixPath(text).parts:
            problems.append(f"{where} only files below {root} travel; copy it there")
        else:
            found[PurePosixPath(text)] = path
    problems += _lost_stores(resolved)
    if problems:
        raise ConfigError(problems)
    return found


def check_size(files: Mapping[PurePosixPath, Path], *, max_bytes: int = MAX_BYTES) -> None:
    """Whether they are not too much for a job.

    Raises:
        ConfigError: they are; names the largest.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) > max_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(
            f"{largest}: {sizes[largest] / 2**20:.0f} MiB; with a job travel "
            f"{max_bytes / 2**20:.0f} MiB at most; {_REMEDY}"
        )


def _named(resolved: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Key, relative path, and whether there has to be a file."""
    given: list[tuple[str, Any, bool]] = []
    weights = (resolved.get("init") or {}).get("weights")
    by_name = weights if isinstance(weights, dict) else {"": weights}
    given += [("init.weights", file, True) for file in by_name.values()]
    data = resolved.get("data") or {}
    # What `path` means to a dataset of a plugin is not known here.
    given.append(("data.path", data.get("path"), data.get("name") in DATASETS))
    space = resolved.get("space") or {}
    if space.get("family") == "table":
        given.append(("space.options.file", (space.get("options") or {}).get("file"), True))
    for key, text, is_needed in given:
        if isinstance(text, str) and text and not text.startswith(("/", "~")):
            yield key, text, is_needed


def _lost_stores(resolved: Mapping[str, Any]) -> Iterator[str]:
    """A database in the job's working directory would go with the job."""
    tracking = resolved.get("tracking") or {}
    uri = str(tracking.get("uri") or "")
    scheme, _, place = uri.partition("://")
    is_file = scheme.split("+")[0] == "sqlite" and not place.startswith("//")
    if is_file and tracking.get("name") != "none":
        yield (
            f"tracking.uri={uri}: a file in the folder of the job, which is deleted with it; give "
            "an absolute path of the cluster (sqlite:////...) or the address of a server"
        )
