"""Layer 4: files that a training writes on another machine, on their way to the run's folder.

A worker that does not see the run's folder writes into a scratch folder. Whatever is in it after an
epoch goes along with the message of that epoch, and is forgotten there; the driver puts it in its
place before the engine hears of the epoch. The other way go the checkpoints of an earlier attempt.

Files are named `FOLDER/NAME` or `FOLDER/TRIAL/NAME`, with the names of `WritingJob.folders`, and
travel as arrays of bytes, which Ray neither pickles nor copies on arrival.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nasctl import checkpoints
from nasctl.checkpoints import SUFFIX
from nasctl.errors import NasctlError
from nasctl.evaluate import CHECKPOINTS
from nasctl.files import replacing

Files = Mapping[str, Any]
"""By name: one-dimensional `uint8` arrays of NumPy."""


class RefusedFileError(NasctlError):
    """A worker sent a file under a name that is not of its training."""


class Outbox:
    """The worker's side: folders out of sight of the run's, empty but for what is being written.

    Args:
        root: a folder for nothing else.
        names: of the folders in it.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root = root
        self.folders = {name: str(root / name) for name in names}
        self._arrived: dict[str, tuple[int, int]] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._arrived = {}
        for folder in self.folders.values():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
            Path(folder).mkdir(parents=True)

    def unpack(self, files: Files) -> None:
        """Puts files of an earlier attempt where the training looks for them."""
        for name, data in files.items():
            path = self._root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            self._arrived[name] = _version(path)

    def collect(self) -> dict[str, Any]:
        """Takes what has been written since the last time."""
        import numpy

        found = {}
        for path in sorted(self._root.rglob("*")):
            name = path.relative_to(self._root).as_posix()
            if path.is_symlink() or not path.is_file() or path.name.startswith("."):
                continue
            if self._arrived.get(name) != _version(path):
                found[name] = numpy.fromfile(path, dtype=numpy.uint8)
            path.unlink()  # one that had arrived has been read by now
        return found


class Inbox:
    """The driver's side.

    Args:
        folders: of the run, by name.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = {name: Path(folder) for name, folder in folders.items()}

    def store(self, number: int, files: Files) -> None:
        """Writes the files of a trial, each whole or not at all; its last two checkpoints stay.

        Raises:
            RefusedFileError: a name that is not of this trial; nothing has been written.
            EnvironmentProblemError: a file cannot be written.
        """
        places = {name: self._place(number, name) for name in files}
        for name, path in places.items():
            folder = self._folders[PurePosixPath(name).parts[0]]
            if folder.is_symlink() or (path.parent != folder and path.parent.is_symlink()):
                continue  # as in a worker that sees it: nothing is written through a link
            with replacing(path) as temporary:
                temporary.write_bytes(files[name])
            if path.suffix == SUFFIX:
                checkpoints.drop_old(path.parent)

    def pack(self, number: int) -> dict[str, Any]:
        """Everything there is of a trial in folders of its own: its checkpoints."""
        import numpy

        found = {}
        for name, folder in self._folders.items():
            own = folder / str(number)
            if own.is_symlink() or not own.is_dir():
                continue
            for path in sorted(own.iterdir()):
                if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                    data = numpy.fromfile(path, dtype=numpy.uint8)
                    found[f"{name}/{number}/{path.name}"] = data
        return found

    def _place(self, number: int, name: str) -> Path:
        parts = name.split("/")
        of_trial = parts[0] == CHECKPOINTS  # what is there belongs to trials, in folders of theirs
        fits = (len(parts) == 3 and parts[1] == str(number)) or (len(parts) == 2 and not of_trial)
        plain = all(part and not part.startswith(".") and "\0" not in part for part in parts)
        if not (fits and plain and "\\" not in name and parts[0] in self._folders):
            raise RefusedFileError(f"its worker sent a file by the name {name!r}, which is refused")
        return self._folders[parts[0]].joinpath(*parts[1:])


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
