"""The executor on a Ray cluster that is there already: what it uses, and what it says if not."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import platform
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.executors.code import installed
from nasctl.executors.ray import RayExecutor
from nasctl.executors.ray_cluster import explained, resolved, token_environment
from nasctl.executors.travel import Files, Inbox
from nasctl.plugins import load_plugins
from nasctl.trial import Outcome, OutcomeKind, Work
from tests.e2e.ray_nodes import Head, head, until
from tests.executor_jobs import RecordingEngine, ScriptedJob

DATA = np.arange(1_000_000, dtype=np.float32)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that trains nothing, and a node with two CPUs and a GPU that it only claims."""
    with head(tmp_path_factory.mktemp("cluster")) as found:
        found.worker(cpus=2, gpus=1)
        yield found


@pytest.fixture
def token(cluster: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)


def refusal(cluster: Head | str, **options: object) -> str:
    address = cluster if isinstance(cluster, str) else cluster.address
    executor = RayExecutor(workers=1, address=address, **options)  # type: ignore[arg-type]
    engine = RecordingEngine(["fine"])
    with pytest.raises(EnvironmentProblemError) as caught:
        executor.run(engine, ScriptedJob())
    text = str(caught.value)
    assert "\n" not in text
    assert not engine.flying
    return text


@dataclasses.dataclass(frozen=True)
class _Device(ScriptedJob):
    """Reports which GPU it sees; -1: none."""

    def __call__(self, work: Work) -> Iterator[dict[str, float]]:
        for metrics in super().__call__(work):
            yield {**metrics, "gpu": float(os.environ["CUDA_VISIBLE_DEVICES"] or -1)}


@pytest.mark.usefixtures("token")
def test_a_running_cluster_is_used_and_left_running(cluster: Head) -> None:
    executor = RayExecutor(workers=None, cpus=0.5, address=cluster.address)
    engine = RecordingEngine(["fine", "raise", "fine"])
    executor.run(engine, _Device(payload=DATA))
    kinds = [o.kind.name for _, o in sorted(engine.outcomes.items())]
    assert kinds == ["COMPLETE", "FAILED", "COMPLETE"]
    assert {m["sum"] for r in engine.reports.values() for _, m in r} == {float(DATA.sum())}
    assert {m["gpu"] for r in engine.reports.values() for _, m in r} == {-1.0}


@pytest.mark.usefixtures("token")
def test_fractions_of_a_gpu_are_shared_by_as_many_trainings_as_fit(
    cluster: Head, tmp_path: Path
) -> None:
    engine = RecordingEngine(["meet"] * 8)
    executor = RayExecutor(workers=None, cpus=0.25, gpus=0.25, address=cluster.address)
    executor.run(engine, _Device(folder=str(tmp_path)))
    assert engine.most_flying == 4  # eight by CPUs
    assert {o.kind for o in engine.outcomes.values()} == {OutcomeKind.COMPLETE}
    assert {m["gpu"] for r in engine.reports.values() for _, m in r} == {0.0}


@dataclasses.dataclass(frozen=True)
class _Writing(ScriptedJob):
    """Writes a file in every epoch, and dies once."""

    where: str = ""

    @property
    def folders(self) -> dict[str, str]:
        return {"notes": self.where}

    def with_folders(self, folders: Mapping[str, str]) -> _Writing:
        return dataclasses.replace(self, where=folders["notes"])

    def __call__(self, work: Work) -> Iterator[dict[str, float]]:
        own = Path(self.where, str(work.number))
        own.mkdir(exist_ok=True)
        begins = len(list(own.iterdir()))
        for epoch, metrics in enumerate(super().__call__(work), start=1):
            if work.architecture.blocks[0].op == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            (own / f"{work.attempt}-{epoch}").write_bytes(os.urandom(2_000_000))
            yield {**metrics, "found": float(begins)}


class _Knowing(RecordingEngine):
    """Says that the epochs of an earlier attempt are known, and looks at what has arrived."""

    folder: Path

    def next(self):  # type: ignore[no-untyped-def]
        given = super().next()
        if isinstance(given, Work) and given.attempt > 1:
            given = self.flying[given.number] = dataclasses.replace(given, known_epochs=1)
        return given

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        arrived = self.folder / "notes" / str(work.number) / f"{work.attempt}-{epoch}"
        assert arrived.stat().st_size == 2_000_000, "before the engine hears of the epoch"
        return super().report(work, epoch, metrics)


@pytest.mark.usefixtures("token")
def test_files_of_another_node_arrive_before_their_epoch_and_go_to_the_next_attempt(
    cluster: Head, tmp_path: Path
) -> None:
    engine = _Knowing(["killed_once", "full"])
    engine.folder = tmp_path
    (tmp_path / "notes").mkdir()
    RayExecutor(workers=1, address=cluster.address).run(
        engine, _Writing(where=str(tmp_path / "notes"))
    )
    assert engine.outcomes[0, 1].kind is OutcomeKind.LOST
    assert engine.outcomes[0, 2].kind is OutcomeKind.COMPLETE
    assert [m["found"] for _, m in engine.reports[0, 2]] == [1.0, 1.0]
    there = sorted(p.name for p in (tmp_path / "notes" / "0").iterdir())
    assert there == ["1-1", "2-1", "2-2"]
    full = engine.outcomes[1, 1]
    assert full.kind is OutcomeKind.BROKEN
    assert full.error == f"on the node {platform.node()}: OSError: [Errno 28] {os.strerror(28)}"
    left = cluster.workers[0].scratch.glob("nasctl-*/files/**/*")
    assert not [path for path in left if path.is_file()]


class _Counting(_Knowing):
    """Waits, at each epoch that follows files which travelled, until they take no room any more.

    Attributes:
        sent: ids of what was put into the object store for a worker.
        freed: those that were gone while their training went on.
    """

    sent: list[str]
    freed: list[str]

    def report(self, work: Work, epoch: int, metrics: Mapping[str, float]) -> bool:
        if work.attempt > 1 and self.sent[-1] not in self.freed:
            until(lambda: self.sent[-1] not in _held())
            self.freed.append(self.sent[-1])
        return super().report(work, epoch, metrics)

    def end(self, work: Work, outcome: Outcome) -> None:
        super().end(work, outcome)
        if len(self.outcomes) == 4:
            until(lambda: not set(self.sent) & _held())


def _held() -> set[str]:
    """Ids of all objects that this driver owns and somebody still refers to."""
    worker: Any = importlib.import_module("ray._private.worker").global_worker
    return {key.decode() for key in worker.core_worker.get_all_reference_counts()}


@pytest.mark.usefixtures("token")
def test_files_that_have_arrived_take_no_room(
    cluster: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasctl.executors import ray_tune

    engine = _Counting(["killed_once", "killed_once"])
    engine.folder, engine.sent, engine.freed = tmp_path, [], []

    def noted(files: Files) -> ray_tune.Sent:
        made = Sent(files)
        engine.sent.append(made.ref.hex())
        assert engine.sent[-1] in _held()
        return made

    Sent = ray_tune.Sent  # noqa: N806 - a class
    monkeypatch.setattr(ray_tune, "Sent", noted)
    (tmp_path / "notes").mkdir()
    RayExecutor(workers=1, address=cluster.address).run(
        engine, _Writing(where=str(tmp_path / "notes"))
    )
    assert [o.kind.name for _, o in sorted(engine.outcomes.items())] == ["LOST", "COMPLETE"] * 2
    assert len(engine.sent) == 2
    assert engine.freed == engine.sent


# -- what is wrong --------------------------------------------------------------------------------


ANOTHER_NASCTL = """\
from importlib import metadata

version = metadata.version
metadata.version = lambda name: "9.9.9" if name == "nasctl" else version(name)
"""


@pytest.mark.usefixtures("token")
def test_a_node_with_another_nasctl_or_another_plugin_is_told_with_both(
    cluster: Head, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_NASCTL, encoding="utf-8")

    def broken(cpus: float, plugins: dict[str, str]) -> str:
        engine = RecordingEngine(["fine"])
        executor = RayExecutor(workers=1, cpus=cpus, address=cluster.address, plugins=plugins)
        executor.run(engine, ScriptedJob())
        ((_, outcome),) = engine.outcomes.items()
        assert outcome.kind is OutcomeKind.BROKEN, "the search ends with exit 4"
        return str(outcome.error)

    where = f"on the node {platform.node()}: "
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with cluster.worker(cpus=3, environment={"PYTHONPATH": path}):
        own, there = installed(), installed().replace(metadata.version("nasctl"), "9.9.9")
        assert broken(3, {}) == (
            f"{where}nasctl {there} is installed there, {own} here; both have to be the same"
        )
    source = load_plugins(["tests.faults.plugin"]).sources["tests.faults.plugin"]
    assert broken(1, {"tests.faults.plugin": "f" * 64}) == (
        f"{where}--plugin tests.faults.plugin: another module there ({source[:8]}) than here "
        "(ffffffff); copy it to that node"
    )
    said = broken(1, {"no_such_plugin": "f" * 64})
    assert said.startswith(f"{where}--plugin no_such_plugin: cannot be imported: ModuleNotFound")


@pytest.mark.usefixtures("token")
def test_a_wrong_and_a_missing_token_are_named(
    cluster: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"executor.address: no connection to the cluster at {cluster.address}"
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    expected = f"{where}: it refuses the token in RAY_AUTH_TOKEN; the head may have another one"
    assert refusal(cluster).startswith(expected)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    file = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert refusal(cluster) == f"RAY_AUTH_TOKEN_PATH: {file}: No such file or directory"
    file.write_text(secrets.token_hex(32))  # of yesterday's head
    assert f"it refuses the token in the file {file} (RAY_AUTH_TOKEN_PATH)" in refusal(cluster)
    file.write_text(cluster.token)
    engine = RecordingEngine(["fine"])
    RayExecutor(workers=1, address=cluster.address).run(engine, ScriptedJob())
    assert engine.outcomes[0, 1].kind is OutcomeKind.COMPLETE
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray looks for a token of its own
    said = refusal(cluster)
    assert said == f"{where}: it asks for a token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"


@pytest.mark.usefixtures("token")
def test_a_training_that_fits_nowhere_is_waited_for_and_explained(cluster: Head) -> None:
    said: list[str] = []
    problem = refusal(cluster, gpus=2, wait_s=1.0, announce=said.append)
    assert problem == (
        "executor.cpus, executor.gpus: one training takes 1 CPU and 2 GPU, and no node has 2 GPU; "
        "nodes of the cluster: 1 x (0 CPU, 0 GPU), 1 x (2 CPU, 1 GPU); waited 1 s; every finished "
        "trial is kept, the same command continues"
    )
    assert said[0].startswith("waiting for nodes: ")


def test_something_else_that_answers_is_said_to_be_that() -> None:
    text = explained(RuntimeError("no\nsuch call"), "10.0.0.1:80")
    assert text.endswith(
        "10.0.0.1:80: such call (something answers there; is it the GCS of a Ray head?)"
    )


def test_a_cluster_of_another_version_is_named_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with head(tmp_path, version="2.9.0") as other:
        monkeypatch.setenv("RAY_AUTH_TOKEN", other.token)
        python = platform.python_version()
        assert refusal(other) == (
            f"executor.address: no connection to the cluster at {other.address}: it runs Ray 2.9.0 "
            f"on Python {python}, this is Ray {ray.__version__} on Python {python}; both have to "
            "be the same everywhere"
        )


def test_nothing_that_answers_is_an_environment_problem() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert f"nothing answers at {address}" in refusal(address)
    with pytest.raises(EnvironmentProblemError, match=f"nothing answers at {address}"):
        RayExecutor(workers=1, address=address).preflight()
    with pytest.raises(EnvironmentProblemError, match="nothing answers at head"):
        RayExecutor(workers=1, address=f"head{'d' * 70}.lan:6379").preflight()


def test_auto_is_the_cluster_of_the_job_that_this_process_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    assert resolved("auto") == "10.0.0.7:6379"
    assert resolved("10.0.0.5:6379") == "10.0.0.5:6379"
    for value in ("", "ray://10.0.0.7:10001", "local"):
        monkeypatch.setenv("RAY_ADDRESS", value)
        with pytest.raises(EnvironmentProblemError, match="address=auto: this process"):
            resolved("auto")


def test_a_token_in_the_environment_means_that_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert token_environment() == {}
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("\n")
    with pytest.raises(EnvironmentProblemError, match=r"RAY_AUTH_TOKEN_PATH: .*token is empty"):
        token_environment()
    (tmp_path / "token").write_text("t" * 64)
    assert token_environment() == {"RAY_AUTH_MODE": "token"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 64)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    assert token_environment() == {"RAY_AUTH_MODE": "token"}


def test_inboxes_of_a_job_without_folders_take_nothing() -> None:
    assert Inbox({}).pack(0) == {}
