"""Layer 3: from the ledger's records to a tracking store: the one code path, replayable."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from nasctl.fields import canonical_json
from nasctl.tracking.address import VARIABLE, check_uri
from nasctl.tracking.client import sqlite_path
from nasctl.tracking.models import LAYOUT, LoggedModel, ModelFile, log_missing
from nasctl.tracking.store import GoneError, ProjectionState, Store
from nasctl.tracking.text import has_password, redact
from nasctl.tracking.view import RunRecords, RunView, view_run

_LIVE_ARTIFACT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where a run is shown.

    Args:
        kind: `mlflow` or `none`.
        output_dir: holds the default store, so that its runs can be compared.
        uri: of an MLflow server or database; None is `mlflow.db` in `output_dir`.
        experiment: name under which the searches appear.
        artifacts: also store reports, the configuration and the weights of front members.
        timeout_s: of one HTTP request.

    Raises:
        ConfigError: an address that MLflow cannot write to.
    """

    kind: Literal["mlflow", "none"] = "mlflow"
    output_dir: Path
    uri: str | None = None
    experiment: str = "nasctl"
    artifacts: bool = True
    timeout_s: int = 5

    def __post_init__(self) -> None:
        if self.uri is not None:
            check_uri(self.uri)

    @property
    def store_uri(self) -> str:
        """The address, with the default filled in."""
        return self.uri or f"sqlite:///{self.output_dir.absolute() / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Where `mlartifacts` lies if the store is a database: beside a SQLite file."""
        path = sqlite_path(self.store_uri)
        return path.parent if path is not None else self.output_dir


@dataclass(frozen=True, kw_only=True)
class ProjectionResult:
    """What one projection achieved.

    Attributes:
        sent: runs and files written now.
        pending: runs and files still to be written.
        problem: one line with the cause, None if everything went well.
        models: by name, what MLflow loads each logged model by.
    """

    sent: int
    pending: int
    problem: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Upload:
    run_key: str
    path: Path
    folder: str
    sha256: str

    @property
    def place(self) -> tuple[str, str]:
        return self.run_key, f"{self.folder}/{self.path.name}"


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What the store should have of a run."""

    uid: str
    views: list[RunView]
    uploads: list[_Upload]
    models: list[ModelFile]


def project(
    records: RunRecords,
    settings: TrackingSettings,
    state: ProjectionState,
    *,
    deadline: float | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> ProjectionResult:
    """Writes whatever the store does not have yet; doing it again changes nothing.

    Args:
        records: a snapshot of the run.
        settings: the store.
        state: what this process knows to be there; a fresh one is filled from the store.
        deadline: `time.monotonic()` after which no further call is made.
        interrupted: asked between calls; True ends the projection early.

    Returns:
        What was written and what is left. Never raises for a fault of the store.
    """
    views = view_run(records)
    wanted = _Wanted(
        uid=records.uid,
        views=views,
        uploads=list(_uploads(records, views, state)) if settings.artifacts else [],
        models=list(_models(records, views, state)) if settings.artifacts else [],
    )

    def out_of_time() -> bool:
        return interrupted() or (deadline is not None and time.monotonic() > deadline)

    sent = 0
    problem: str | None = None
    # Twice: a store that has lost what we know of (restored, emptied) is filled anew.
    for _ in range(2):
        try:
            problem = None
            for count in _steps(wanted, settings, state):
                sent += count
                if out_of_time():
                    break
            break
        except GoneError as error:
            state.forget()
            problem = explain(error, settings)
        except Exception as error:
            problem = explain(error, settings)
            break
    pending = sum(not _is_there(view, state) for view in views)
    pending += sum(state.artifacts.get(u.place) != u.sha256 for u in wanted.uploads)
    pending += sum(not _is_logged(model, state) for model in wanted.models)
    uris = {name: model.uri for name, model in (state.models or {}).items()}
    return ProjectionResult(sent=sent, pending=pending, problem=problem, models=uris)


def _is_there(view: RunView, state: ProjectionState) -> bool:
    known = state.runs.get(view.key)
    return known is not None and known.view == view


def _is_logged(model: ModelFile, state: ProjectionState) -> bool:
    known, run = (state.models or {}).get(model.name), state.runs.get(model.run_key)
    return known is not None and run is not None and known.is_of(model, run.run_id)


def _steps(wanted: _Wanted, settings: TrackingSettings, state: ProjectionState) -> Iterator[int]:
    """One write after the other; yields 1 after each, so that the caller may stop between."""
    views, uploads = wanted.views, wanted.uploads
    if state.store is None:
        state.store = Store(
            settings.store_uri, settings.experiment, settings.artifact_root, settings.timeout_s
        )
        yield 0
    store = state.store
    if not state.adopted:
        _adopt(wanted.uid, views, uploads, state, store)
        yield 0
    parent_key = views[0].key
    for view in views:
        if not _is_there(view, state):
            parent = state.runs[parent_key].run_id if view.key != parent_key else None
            before = store.writes
            try:
                state.runs[view.key] = store.write(view, state.runs.get(view.key), parent)
            except BaseException:
                # Unknown how far it came (a timed-out call may still be done): look again.
                state.adopted = False
                raise
            yield int(store.writes > before)
    for upload in uploads:
        if state.artifacts.get(upload.place) != upload.sha256:
            store.upload(state.runs[upload.run_key], upload.path, upload.folder)
            state.artifacts[upload.place] = upload.sha256
            yield 1
    if uploads:
        store.mark_artifacts(state.runs[parent_key], _uploads_digest(uploads))
    yield from _log_models(wanted, state, store)


def _log_models(wanted: _Wanted, state: ProjectionState, store: Store) -> Iterator[int]:
    if all(_is_logged(model, state) for model in wanted.models):
        return
    state.models = None  # until it is known how far this came
    known: dict[str, LoggedModel] = {}
    files = [(model, state.runs[model.run_key]) for model in wanted.models]
    for model, is_new in log_missing(store, wanted.uid, files):
        known[model.name] = model
        yield int(is_new)
    state.models = known


def _adopt(
    uid: str,
    views: list[RunView],
    uploads: list[_Upload],
    state: ProjectionState,
    store: Store,
) -> None:
    """Learns from the store what an earlier process has written; ends orphaned runs."""
    found = store.find(uid)
    wanted = {view.key: view for view in views}
    for key, sent in found.items():
        view = wanted.get(key)
        if view is None:
            store.retire(sent)
        elif sent.tags.get("nasctl.digest") == view.digest() and sent.status == view.status:
            sent.view, sent.points = view, len(view.points)
    parent = found.get(uid)
    if parent is not None:
        # A parent deleted by hand leaves its children behind: they move to the new one.
        for key, sent in found.items():
            if key != uid and sent.tags.get("mlflow.parentRunId") != parent.run_id:
                sent.view = None
        if parent.tags.get("nasctl.artifacts") == _uploads_digest(uploads):
            state.artifacts = {u.place: u.sha256 for u in uploads}
    else:
        for sent in found.values():
            sent.view = None
    state.runs = {key: sent for key, sent in found.items() if key in wanted}
    state.adopted = True


# -- files ----------------------------------------------------------------------------------------


def _uploads(
    records: RunRecords, views: list[RunView], state: ProjectionState
) -> Iterator[_Upload]:
    """Files with the run that they belong to; while a search runs only the small ones."""
    owners = _owners(views)
    live = views[0].status == "RUNNING"
    for path, folder in records.artifacts():
        try:
            stat = path.stat()
            if live and stat.st_size > _LIVE_ARTIFACT_BYTES:
                continue
            sha256 = _sha256(path, (stat.st_mtime_ns, stat.st_size), state)
        except FileNotFoundError:
            continue  # being replaced at this moment; the next projection sees it
        owner = owners.get(_network_of(path.name), views[0].key)
        yield _Upload(owner, path, folder.strip("/"), sha256)


def _owners(views: list[RunView]) -> dict[str, str]:
    """By network, the key of the run that its files belong to."""
    owners: dict[str, str] = {}
    for view in views[1:]:
        if view.status == "FINISHED":
            owners.setdefault(view.params["arch_id"], view.key)
    return owners


def _models(
    records: RunRecords, views: list[RunView], state: ProjectionState
) -> Iterator[ModelFile]:
    owners = _owners(views)
    for path, example in records.models():
        try:
            stamps = [(p, p.stat()) for p in (path, example)]
            hashes = [_sha256(p, (s.st_mtime_ns, s.st_size), state) for p, s in stamps]
        except FileNotFoundError:
            continue  # being replaced at this moment; the next projection sees it
        yield ModelFile(
            run_key=owners.get(_network_of(path.name), views[0].key),
            path=path,
            example=example,
            digest=hashlib.sha256(canonical_json([LAYOUT, *hashes]).encode()).hexdigest()[:16],
        )


def _network_of(name: str) -> str:
    """The id in front of a file name: `ID.json`, `ID-s0.safetensors`."""
    return name.partition(".")[0].partition("-")[0]


def _sha256(path: Path, stamp: tuple[int, int], state: ProjectionState) -> str:
    known = state.hashes.get(path)
    if known is None or known[0] != stamp:
        known = stamp, hashlib.sha256(path.read_bytes()).hexdigest()
        state.hashes[path] = known
    return known[1]


def _uploads_digest(uploads: Iterable[_Upload]) -> str:
    content = sorted([*u.place, u.sha256] for u in uploads)
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


# -- what went wrong ------------------------------------------------------------------------------


def explain(error: BaseException, settings: TrackingSettings) -> str:
    """One line: which store, what is wrong with it, and what mends it."""
    where = f"MLflow at {redact(settings.store_uri)}"
    text = " ".join(redact(_innermost(error)).split())
    host = urlsplit(settings.store_uri).netloc.rpartition("@")[2]
    causes = (
        (
            ("Invalid Host header",),
            f"refuses the host name {host!r} (403); start it with --allowed-hosts {host}",
        ),
        (("code 401", "401 !="), _login_hint(settings.store_uri)),
        (("code 403", "403 !="), "forbids it (403); check the user's permissions"),
        *(
            (
                (f"too many {code} error responses", f"code {code}"),
                f"has a fault of its own ({code}); is its database running?",
            )
            for code in (500, 502, 503, 504)
        ),
        (
            ("no password supplied", "password authentication failed"),
            "wants a password, or another one; PostgreSQL's is looked for in ~/.pgpass, PGPASSWORD "
            f"and the address in {VARIABLE}",
        ),
        (
            ("No module named 'psycopg",),
            "needs the Python package psycopg: pip install 'nasctl[cluster]'",
        ),
        (("Connection refused",), "refused the connection; is the server running?"),
        (
            ("RemoteDisconnected", "Connection reset", "Connection aborted", "IncompleteRead"),
            "broke the connection; is the server still running?",
        ),
        (
            ("timeout exception", "timed out", "Read timed out"),
            f"does not answer within {settings.timeout_s} s",
        ),
        (
            ("Name or service not known", "Temporary failure in name resolution", "getaddrinfo"),
            f"cannot be reached: unknown host {host!r}",
        ),
        (("out-of-date database schema",), "needs `mlflow db upgrade` (other MLflow version)"),
        (("database is locked",), "is locked by another process"),
        (("disk is full",), "has no space left on its disk"),
        (("readonly database", "unable to open database"), "cannot be written to"),
    )
    for signs, meaning in causes:
        if any(sign in text for sign in signs):
            return f"{where} {meaning}"
    return f"{where}: {type(error).__name__}: {text[:300]}"


def _login_hint(uri: str) -> str:
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if has_password(uri):
        return f"refuses the login of its address (401); that is in {VARIABLE}"
    if os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return f"refuses the login of {names} (401)"
    return f"wants a login (401); set {names}"


def _innermost(error: BaseException) -> str:
    """The messages of an error and its causes: MLflow wraps what matters."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 5:
        parts.append(str(seen))
        original = getattr(seen, "orig", None)
        if isinstance(original, sqlite3.Error):
            parts.append(str(original))
        seen = seen.__cause__ or seen.__context__
    return " | ".join(parts)
