"""Layer 5: paths of files in a configuration, which begin where the command is given.

A run records them whole, so that whatever reads it later, from wherever, means the same files. When
it continues they may have moved: what they hold is compared then (`prepare.check_data`,
`prepare.check_results`, `references.check_weights`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasctl.config.guard import Key

if TYPE_CHECKING:
    from nasctl.config.schema import SearchConfig

DATA, RECORDING, TABLE = ("data", "path"), ("replay", "run"), ("space", "options", "file")


def whole_path(text: str) -> str:
    """From the root of the file system, if there is such a file here; else as it was given.

    What is not here may mean something else: to a data set of a plugin, or on a cluster.
    """
    path = Path(text)
    if path.is_absolute() or "\0" in text or not path.exists():
        return text
    return os.path.abspath(path)  # Path.absolute() leaves `..` in it


def with_whole_paths(config: SearchConfig) -> SearchConfig:
    """The configuration with `data.path`, `init.weights`, `replay.run` and the file of a table, all
    from the root."""
    options = config.data.options
    update: dict[str, Any] = {}
    if isinstance(given := options.get("path"), str):
        values = {"name": config.data.name, **options, "path": whole_path(given)}
        update["data"] = type(config.data)(**values)
    weights = config.init.weights
    if weights is not None:
        whole = (
            whole_path(weights)
            if isinstance(weights, str)
            else {name: whole_path(file) for name, file in weights.items()}
        )
        update["init"] = config.init.model_copy(update={"weights": whole})
    if config.replay.run is not None:
        run = whole_path(config.replay.run)
        update["replay"] = config.replay.model_copy(update={"run": run})
    table = config.space.options.get("file")
    if config.space.family == "table" and isinstance(table, str):
        options = {**config.space.options, "file": whole_path(table)}
        update["space"] = config.space.model_copy(update={"options": options})
    return config.model_copy(update=update)


def is_path(key: Key, config: Mapping[str, Any]) -> bool:
    """Whether the value of a key is the path of something whose content decides results."""
    if key == TABLE:
        return bool(config["space"]["family"] == "table")
    return key in (DATA, RECORDING) or key[:2] == ("init", "weights")


def is_compared_by_content(key: Key, config: Mapping[str, Any]) -> bool:
    """Whether a run notices other content behind a path when it continues: a search that makes its
    results of it. The trainings of a study are known by their settings as they were given, so
    those may not change."""
    uses = "replay" if key == RECORDING else "table" if key == TABLE else "train"
    return "factors" not in config and config.get("evaluator") == uses


def same_place(was: object, now: object) -> bool:
    """Whether two values are one path: older runs recorded it as it was given."""
    if not (isinstance(was, str) and isinstance(now, str)) or "\0" in was + now:
        return False
    return os.path.abspath(was) == os.path.abspath(now)
