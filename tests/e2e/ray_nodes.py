"""Ray nodes as separate processes on the loopback, as `ray start` makes them, with a token.

    with head(tmp_path) as cluster, cluster.worker(cpus=1) as node:
        desk.run("search", ..., f"executor.address={cluster.address}", **cluster.env)
        node.kill()

Every node has a folder of its own below `/tmp` (the paths of sockets have to be short), free ports,
and is ended by the ids of its processes. Workers find the name of their node as `RAY_TEST_NODE`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.e2e.servers import free_port

START_SECONDS = 300
MARK = "RAY_TEST_NODE"
STARTS = 3
"""On a busy machine a node takes longer than the half minute that Ray gives it to be known, and a
dashboard longer than its minute."""
AGENT_PORTS = (
    "dashboard-agent-listen",
    "dashboard-agent-grpc",
    "runtime-env-agent",
    "metrics-export",
)
"""Given, so that a node does not wait for its agents to choose them: it gives up after 15 s."""
START = """
import os, time, ray
from pathlib import Path
from ray._private import services
from nasctl.executors.reaper import children

ask, until = services.get_node, time.monotonic() + {seconds}

def has_died(pid):
    return "(raylet) Z" in Path(f"/proc/{{pid}}/stat").read_text()

def patient(*arguments):
    while True:
        try:
            return ask(*arguments)
        except RuntimeError:
            if time.monotonic() > until or any(map(has_died, children(os.getpid()))):
                raise
            time.sleep(0.1)

services.get_node = patient
ray.__version__ = {version} or ray.__version__
from ray.scripts.scripts import main
main()
"""


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns once it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def _start_script(version: str | None) -> str:
    return START.format(seconds=START_SECONDS, version=repr(version))


class Node:
    """One node: `ray start --block` and all that came of it; a context manager.

    Attributes:
        name: unique; in the environment of everything that runs on the node.
        process: `ray start`.
        log: what it printed.
        scratch: its temporary directory.
    """

    def __init__(
        self,
        tmp: Path,
        options: list[str],
        environment: Mapping[str, str],
        version: str | None = None,
    ) -> None:
        self.name = secrets.token_hex(8)
        self.log = tmp / f"ray-{self.name}.log"
        self.folder = Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))
        self._command = [sys.executable, "-c", _start_script(version), "start", *options]
        self.scratch = self.folder / "t"
        own = {"RAY_worker_niceness": "0", "TMPDIR": str(self.scratch)}
        self._environment = {**os.environ, **own, **environment}
        for left in reversed(range(STARTS)):
            self.process = self._start()
            try:
                until(lambda: self._has_started() or self.process.poll() is not None, START_SECONDS)
                assert self._has_started(), self.log.read_text(errors="replace")
                return
            except AssertionError:
                self._note_errors()
                self.kill()
                if not left:
                    raise AssertionError(self.log.read_text(errors="replace")) from None
            except BaseException:
                self.kill()
                raise

    def _start(self) -> subprocess.Popen[bytes]:
        options = [
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--node-name={self.name}",
            "--object-store-memory=80000000",
            "--min-worker-port=0",
            "--max-worker-port=0",
            *(f"--{name}-port={free_port()}" for name in AGENT_PORTS),
            f"--temp-dir={self.folder}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
        ]
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("ab") as log:  # each start says why it failed
            return subprocess.Popen(
                [*self._command, *options],
                env={**self._environment, MARK: self.name},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _note_errors(self) -> None:
        with self.log.open("ab") as log:
            for file in self.folder.glob("session_2*/logs/*.err"):
                log.write(f"-- {file.name}\n".encode() + file.read_bytes()[:2000] + b"\n")

    def _has_started(self) -> bool:
        running = self.process.poll() is None
        return running and "will now block forever" in self.log.read_text(errors="replace")

    @property
    def pids(self) -> list[int]:
        """Everything that runs on this node."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
                if entry.name.isdecimal() and self._is_marked(entry):
                    found.append(int(entry.name))
        return found

    def _is_marked(self, entry: Path) -> bool:
        return f"{MARK}={self.name}".encode() in (entry / "environ").read_bytes()

    def pid_of(self, program: str) -> int:
        """Of `raylet` or `gcs_server`."""
        (found,) = (p for p in self.pids if Path(f"/proc/{p}/exe").resolve().name == program)
        return found

    def kill(self) -> None:
        """The machine loses power: SIGKILL to everything on it, at once."""
        while pids := self.pids:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """SIGTERM, as a container is stopped; then whatever is left goes."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Head(Node):
    """A cluster's head; workers that it started end with it.

    Attributes:
        address: of its GCS, `127.0.0.1:PORT`.
        dashboard_url: of the dashboard and the Jobs API; None: it has none.
        token: that everybody has to show.
        env: for clients: the token and its mode.
    """

    def __init__(
        self,
        tmp: Path,
        *,
        cpus: int,
        token: str,
        dashboard: bool,
        port: int | None,
        version: str | None,
        environment: Mapping[str, str],
    ) -> None:
        port = port or free_port()
        self.tmp = tmp
        self.address = f"127.0.0.1:{port}"
        self.token = token
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self.dashboard_url: str | None = None
        self.workers: list[Node] = []
        options = ["--head", f"--port={port}", f"--num-cpus={cpus}", "--num-gpus=0"]
        options += ["--no-monitor", f"--ray-client-server-port={free_port()}"]
        options += [f"--include-dashboard={str(dashboard).lower()}"]
        if dashboard:
            dashboard_port = free_port()
            options += [f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1"]
            self.dashboard_url = f"http://127.0.0.1:{dashboard_port}"
        super().__init__(tmp, options, {**self.env, **environment}, version)
        if dashboard:
            until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self.dashboard_url}/api/jobs/")
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            assert self.process.poll() is None, self.log.read_text()
            return False

    def worker(
        self,
        *,
        cpus: int = 1,
        gpus: int = 0,
        resources: Mapping[str, float] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Node:
        """Another node of this cluster; ready when it returns. GPUs need not exist."""
        options = [f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        options += [f"--resources={json.dumps(dict(resources or {}))}"]
        node = Node(self.tmp, options, {**self.env, **(environment or {})})
        self.workers.append(node)
        return node

    def __exit__(self, *_: object) -> None:
        for node in (*self.workers, self):
            node.kill()


def head(
    tmp: Path,
    *,
    cpus: int = 0,
    token: str | None = None,
    dashboard: bool = False,
    port: int | None = None,
    version: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Head:
    """Starts a cluster's head; ready when it returns.

    Args:
        tmp: for logs.
        cpus: for trainings; a head usually gives none.
        token: None: a random one.
        dashboard: with the dashboard and the Jobs API.
        port: of the GCS; None: a free one. The one of a head that died, to start it again.
        version: of Ray, as the head tells it; None: the one that is installed.
        environment: of everything on the head, jobs included.
    """
    return Head(
        tmp,
        cpus=cpus,
        token=token or secrets.token_hex(32),
        dashboard=dashboard,
        port=port,
        version=version,
        environment=environment or {},
    )
