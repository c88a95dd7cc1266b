"""Layer 2: the state of unfinished trainings on disk, so that a lost worker costs little.

    checkpoints/<trial>/<epoch>.ckpt    of the last two checkpoints of each unfinished trial

One file is a line with the SHA-256 of what follows, and safetensors: no pickle is ever read. A
file appears whole (temporary name, fsync, rename); one that is damaged all the same is passed over
for the one before it, or for a start from the beginning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nasctl.errors import EnvironmentProblemError
from nasctl.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"nasctl checkpoint 1 "
KEPT = 2
SUFFIX = ".ckpt"


class DamagedCheckpointError(Exception):
    """The file is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state after `epoch` epochs: tensors by name, on the CPU."""

    epoch: int
    tensors: dict[str, Tensor]


class Checkpoints:
    """Of one training.

    Args:
        folder: of this trial. The folder above it must be there: without the run's folder no
            checkpoints are kept, instead of filling a disk that nobody looks at.
        identity: what else the state depends on (network, recipe, data, seed); a file with
            another one is not used.
        every_s: seconds of training after which an epoch that is no rung is kept too; None: never.
    """

    def __init__(
        self, folder: Path, *, identity: Mapping[str, object], every_s: float | None
    ) -> None:
        self._folder = folder
        self._identity = json.dumps(dict(identity), sort_keys=True)
        self._every_s = every_s

    def is_due(self, saved: float) -> bool:
        """Whether the last one was kept long enough ago, at `saved` on the monotonic clock."""
        return self._every_s is not None and time.monotonic() - saved >= self._every_s

    def save(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes a checkpoint and drops the one before the last.

        One that cannot be written is left out: it only saves time if something goes wrong, and a
        disk that is full ends the search anyway, by its ledger.
        """
        above = self._folder.parent
        if not above.is_dir() or above.is_symlink() or self._folder.is_symlink():
            return
        from safetensors.torch import save

        flat = {k: v.cpu().contiguous() for k, v in tensors.items()}
        data = save(flat, metadata={"epoch": str(epoch), "identity": self._identity})
        with contextlib.suppress(EnvironmentProblemError, OSError):
            with replacing(self._folder / f"{epoch}{SUFFIX}") as temporary:
                temporary.write_bytes(MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n")
                with temporary.open("ab") as file:
                    file.write(data)
            drop_old(self._folder)

    def latest(self, at_most: int) -> Checkpoint | None:
        """The newest intact one of at most `at_most` epochs; None: start from the beginning."""
        for path in _newest_first(self._folder):
            if _epoch_of(path) <= at_most:
                with contextlib.suppress(DamagedCheckpointError):
                    return self._load(path)
        return None

    def _load(self, path: Path) -> Checkpoint:
        from safetensors import SafetensorError
        from safetensors.torch import load

        data = _intact(path)
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = header["__metadata__"]
            if metadata["identity"] != self._identity:
                raise DamagedCheckpointError(f"{path}: of another training")
            return Checkpoint(epoch=int(metadata["epoch"]), tensors=load(data))
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DamagedCheckpointError(f"{path}: {error}") from error


def drop_old(folder: Path) -> None:
    """Keeps the last two checkpoints of a trial."""
    for path in _newest_first(folder)[KEPT:]:
        path.unlink(missing_ok=True)


def damaged(folder: Path) -> Iterator[str]:
    """Removes the checkpoints of a trial that are not intact, and names them, one line each."""
    for path in _newest_first(folder):
        try:
            _intact(path)
        except DamagedCheckpointError as error:
            path.unlink(missing_ok=True)
            yield str(error)


def remove(folder: Path) -> None:
    """Drops the checkpoints of a trial that is final; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)


def _intact(path: Path) -> bytes:
    """What follows the first line.

    Raises:
        DamagedCheckpointError: it is not what was written, or cannot be read.
    """
    try:
        line, newline, data = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise DamagedCheckpointError(f"{path}: {error.strerror}") from error
    if not newline or line != MAGIC + hashlib.sha256(data).hexdigest().encode():
        raise DamagedCheckpointError(f"{path}: damaged")
    return data


def _newest_first(folder: Path) -> list[Path]:
    try:
        found = [p for p in folder.iterdir() if p.suffix == SUFFIX and p.stem.isdecimal()]
    except OSError:
        return []
    return sorted(found, key=_epoch_of, reverse=True)


def _epoch_of(path: Path) -> int:
    return int(path.stem)
