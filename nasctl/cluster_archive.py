"""Layer 5: a run's folder as text, so that it can travel in the log of a job, and back.

The Jobs API has no download; a log is what there is. On the head `pack` makes a copy of the run as
it is at one moment and `send` prints it: a line that says what follows, base64 in numbered lines,
and a last line with the checksum. `Receiver` and `unpack` undo it, and trust nothing of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from nasctl.environment import head_runs
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.files import sha256, write_json, write_text
from nasctl.kept_files import OF_VERIFICATION, PROMISED_CSV, VERDICTS, VERIFIED, VERIFIED_JSON
from nasctl.ledger import Ledger
from nasctl.records import LEDGER, RunRecords
from nasctl.runlock import driver
from nasctl.trial import State
from nasctl.verification.exports import FOLDER as EXPORTED
from search_spaces.blocks import BLOCKS

MAX_BYTES = 256 * 2**20
"""Of the compressed archive: it goes through the memory of the head's agent in small pieces, but
stays on its disk, a third larger, until it is fetched."""
MAX_UNPACKED_BYTES = 8 * MAX_BYTES
MAX_FILES = 100_000
CHUNK_BYTES = 48 * 1024  # in base64 64 KiB: a message of the log's stream
BEGIN, END = "nasctl-archive ", "nasctl-archive-end "
FILES = (
    *("config.yaml", "front.json", VERDICTS, "ablation.json", "information_loss.json"),
    *OF_VERIFICATION,
)
FOLDERS = ("weights", EXPORTED)
REPORTS = ("report.html", "report.md", "report.png", "report.csv", "report.compute.json")
TOO_LARGE = (
    "; tracking=mlflow takes its results out of the cluster instead, or copy the folder from the "
    "head's volume"
)


def pack(run: Path, archive: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Writes a run as it is now, also while it is driven, into a compressed archive.

    What is not a result stays: checkpoints, locks, temporary files. Of a run that goes on, the copy
    is what an interrupt at this moment would have left.

    Raises:
        EnvironmentProblemError: no run there, or more than `max_bytes`.
    """
    folder = archive.with_suffix(".d") / run.name
    folder.mkdir(parents=True)
    _copy_ledger(run, folder)
    names: list[str] = []
    for part in _verifications(run):
        (folder / part).mkdir()
        if _copy_ledger(run / part, folder / part) and part == VERIFIED:
            _write_verified(run, folder)
        kept = _written(run / part, folder / part) if part == VERIFIED else [LEDGER]
        names += [f"{part}/{name}" for name in kept]
    names += _written(run, folder)
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for name in sorted(names):
            source = folder / name if (folder / name).exists() else run / name
            try:
                tar.add(source, f"{run.name}/{name}", recursive=False)
            except FileNotFoundError:
                continue  # what replaced it is noted in a later ledger
            if archive.stat().st_size > max_bytes:
                break
    size = archive.stat().st_size
    if size > max_bytes:
        raise EnvironmentProblemError(
            f"{run}: more than {max_bytes / 2**20:.0f} MiB compressed, too much for a log"
            f"{TOO_LARGE}"
        )


def _verifications(run: Path) -> list[str]:
    """Folders of verifications, `verify` last; of those that were moved aside the ledgers say how
    often the test split has been opened."""
    found = (p for p in sorted(run.glob(f"{VERIFIED}*"), reverse=True) if (p / LEDGER).is_file())
    return [p.name for p in found if not p.is_symlink() and not (p / LEDGER).is_symlink()]


def _copy_ledger(run: Path, folder: Path) -> bool:
    """The ledger as of now. One that is being written to becomes that of an interrupted run: True,
    with the files that an interrupt would have written; of a verification see `_write_verified`."""
    # Whoever verifies a run holds its lock too, and changes nothing else of it.
    is_driven = driver(run) is not None and driver(run / VERIFIED) is None
    source = Ledger(run / LEDGER, {}, readonly=True)
    try:
        source.copy_to(folder / LEDGER)
    finally:
        source.close()
    records = RunRecords(folder)
    if records.status != "RUNNING" and not is_driven:
        return False
    ledger = Ledger(folder / LEDGER, BLOCKS)
    try:
        ledger.set_meta(status="INTERRUPTED", artifacts=_weights(run, records))
    finally:
        ledger.close()
    if records.is_ablation:
        from nasctl.ablation.reading import view_of
        from nasctl.ablation.view import verdicts_of

        if records.trials():
            view = view_of(RunRecords(folder))
            write_json(folder / "ablation.json", view)
            write_json(folder / VERDICTS, verdicts_of(view))
    elif records.meta("config") and records.trials() and not records.is_verification:
        write_json(folder / "front.json", RunRecords(folder).front)
    return True


def _write_verified(run: Path, folder: Path) -> None:
    """What a verification that goes on has found so far, as an interrupt would have written it."""
    from nasctl.verification.promised import promised_csv
    from nasctl.verification.reading import verified_of

    copy = folder / VERIFIED
    if not any(t.state is State.COMPLETE for t in RunRecords(copy).trials()):
        return
    if (run / VERIFIED / "weights").is_dir():  # it names those that are there
        (copy / "weights").symlink_to((run / VERIFIED / "weights").resolve())
    verified = verified_of(RunRecords(copy))
    for place in (folder, copy):
        write_json(place / VERIFIED_JSON, verified)
        write_text(place / PROMISED_CSV, promised_csv(verified))


def _weights(run: Path, records: RunRecords) -> dict[str, str]:
    """Those whose digest was noted already: whatever else is noted may be written anew any time."""
    noted = dict(records.meta("artifacts") or {})
    return {n: d for n, d in noted.items() if n.startswith("weights/") and (run / n).is_file()}


def _written(run: Path, folder: Path) -> list[str]:
    """Names of what travels. A symbolic link would bring what is not the run's."""
    names = [LEDGER, *FILES, *REPORTS]
    for inner in FOLDERS:
        if (run / inner).is_dir() and not (run / inner).is_symlink():
            names += [f"{inner}/{p.name}" for p in (run / inner).iterdir() if p.name[0] != "."]
    found = []
    for name in names:
        path = folder / name if (folder / name).exists() else run / name
        if path.is_file() and not path.is_symlink():
            found.append(name)
    return found


def send(archive: Path, name: str, out: IO[str]) -> None:
    """Prints an archive, for a `Receiver`."""
    about = {"run": name, "bytes": archive.stat().st_size, "version": 1}
    out.write(f"{BEGIN}{json.dumps(about)}\n")
    with open(archive, "rb") as file:
        number = 0
        while chunk := file.read(CHUNK_BYTES):
            out.write(f"{number} {base64.b64encode(chunk).decode()}\n")
            number += 1
    out.write(f"{END}{sha256(archive)}\n")
    out.flush()


class Receiver:
    """Takes the lines of a log and writes the archive that is among them.

    Args:
        out: for the archive.

    Attributes:
        run: name of the run, once it is known.
        complete: the whole archive is there, and is what was sent.
        error: the last line that said what went wrong on the head.
    """

    def __init__(
        self, out: IO[bytes], *, progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> None:
        self._out = out
        self._progress = progress
        self._digest = hashlib.sha256()
        self._expected: int | None = None
        self._bytes = 0
        self._number = 0
        self.run: str | None = None
        self.complete = False
        self.error: str | None = None

    def line(self, text: str) -> None:
        """One line of the log.

        Raises:
            EnvironmentProblemError: lines are missing or changed.
        """
        if self._expected is None:
            if text.startswith(BEGIN):
                self._begin(text.removeprefix(BEGIN))
            elif text.startswith("Error: "):
                self.error = text.removeprefix("Error: ").strip()
        elif text.startswith(END):
            digest = text.removeprefix(END).strip()
            if self._bytes != self._expected or self._digest.hexdigest() != digest:
                raise _damaged("its checksum is another one")
            self._out.flush()
            self.complete = True
        elif not self.complete:
            self._chunk(text)

    def _begin(self, text: str) -> None:
        try:
            about: dict[str, Any] = json.loads(text)
            self.run, self._expected = str(about["run"]), int(about["bytes"])
        except (ValueError, LookupError, TypeError):
            raise _damaged("its first line is not understood") from None
        if about.get("version") != 1:
            raise _damaged("it is of another nasctl: use the same here and on the cluster")
        if not 0 <= self._expected <= MAX_BYTES:
            raise _damaged(f"{self._expected} bytes")

    def _chunk(self, text: str) -> None:
        number, _, data = text.strip().partition(" ")
        if number != str(self._number):
            raise _damaged(f"part {self._number} is missing")
        try:
            chunk = base64.b64decode(data, validate=True)
        except ValueError:
            raise _damaged(f"part {number} is not base64") from None
        self._number += 1
        self._bytes += len(chunk)
        assert self._expected is not None
        if self._bytes > self._expected:
            raise _damaged("there is more of it than announced")
        self._digest.update(chunk)
        self._out.write(chunk)
        self._progress(self._bytes, self._expected)


def unpack(archive: Path, name: str, into: Path) -> Path:
    """Unpacks a run into `into/name`; regular files below it and nothing else.

    Raises:
        EnvironmentProblemError: it is damaged, holds anything else, or is unreasonably large.
    """
    from nasctl.config.schema import name_problem

    if name_problem(name) is not None:
        raise _damaged(f"{name!r} is no name of a run")
    target = into / name
    try:
        with tarfile.open(archive, "r:gz") as tar:
            total = 0
            for count, member in enumerate(tar):
                total += member.size
                if count >= MAX_FILES or total > MAX_UNPACKED_BYTES:
                    raise _damaged("unreasonably large")
                path = target / _inner(member, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None, "only regular files get here"
                with open(path, "xb") as file:  # no file twice
                    while chunk := content.read(2**20):
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                mtime = min(max(float(member.mtime), 0.0), time.time())
                os.utime(path, (mtime, mtime))
    except (tarfile.TarError, EOFError, FileExistsError, NotADirectoryError) as error:
        raise _damaged(str(error)) from None
    except OSError as error:
        if error.errno is None:  # of gzip
            raise _damaged(str(error)) from None
        raise EnvironmentProblemError(f"{target}: cannot be written: {error.strerror}") from error
    if not (target / LEDGER).is_file():
        raise _damaged(f"no {LEDGER} in it")
    return target


def _inner(member: tarfile.TarInfo, name: str) -> PurePosixPath:
    """Where a member belongs below the run's folder: names that `pack` gives, nothing else."""
    path = PurePosixPath(member.name)
    parts = path.parts
    inner = parts[1:]
    if len(inner) > 1 and inner[0].startswith(VERIFIED):
        inner = inner[1:]
    is_ours = (
        member.isreg()
        and parts[:1] == (name,)
        and (len(inner) == 1 or (len(inner) == 2 and inner[0] in FOLDERS))
        and not any(part in ("..", ".") or part.startswith(".") for part in parts[1:])
        and not path.is_absolute()
        and "\0" not in member.name
    )
    if not is_ours:
        raise _damaged(f"it holds {member.name!r}, which is no file of a run")
    return PurePosixPath(*parts[1:])


def _damaged(why: str) -> EnvironmentProblemError:
    return EnvironmentProblemError(f"what the cluster sent is no copy of a run: {why}; try again")


# -- which run ------------------------------------------------------------------------------------


def runs_folder(output_dir: str, environment: Mapping[str, str]) -> Path:
    """Where runs of submitted jobs live on the head: as given, else its own folder for them."""
    if output_dir and not output_dir.startswith("/"):
        raise ConfigError(f"--output-dir={output_dir}: expected an absolute path of the head")
    if output_dir:
        return Path(output_dir)
    return head_runs(environment)
