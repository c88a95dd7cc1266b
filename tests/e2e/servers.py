"""Real servers on the loopback for end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """`mlflow server` on 127.0.0.1, with its own artifact folder.

    Args:
        folder: for the artifacts, the log and, without a `database`, the store.
        allowed_hosts: the host check's list; None is MLflow's default.
        database: address of the store; None is a SQLite file.
        admin_password: of the user `admin`, if logins are asked for.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allowed_hosts: str | None = None,
        database: str | None = None,
        admin_password: str | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"
        self._options = ["--allowed-hosts", allowed_hosts] if allowed_hosts is not None else []
        self._environment = {"MLFLOW_BACKEND_STORE_URI": database or f"sqlite:///{self.database}"}
        if admin_password is not None:
            self._options += ["--app-name", "basic-auth"]
            self._environment |= {
                "MLFLOW_AUTH_ADMIN_PASSWORD": admin_password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that `start` made, and of the session of all that it starts."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What all servers of this folder have said, requests included."""
        return (self.folder / "server.log").read_text()

    def start(self) -> None:
        """Returns once it answers."""
        argv = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
            *self._options,
        ]
        env = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_MODEL_CATALOG_URI": "",
            **self._environment,
        }
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=env, cwd=self.folder, start_new_session=True
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(self.uri + "/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, self.log
                time.sleep(0.1)
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        """SIGKILL to the server and its worker: the process group that `start` made."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


class PostgresServer:
    """PostgreSQL on 127.0.0.1 with a password, as an unprivileged user (it refuses root).

    It is stopped by `kill` and goes on with the same data by `start`; `remove` ends it for good.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nasctl-pg-"))  # pytest's are root's alone
        self._user = _unprivileged()
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        password = secrets.token_hex(8)
        self.uri = f"postgresql+psycopg://mlflow:{password}@127.0.0.1:{self.port}/postgres"
        password_file = self._folder / "password"
        password_file.write_text(password)
        if self._user is not None:
            for path in (self._folder, password_file):
                shutil.chown(path, self._user)
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", "mlflow", "--no-sync"),
            *("--pwfile", str(password_file), "--auth", "scram-sha-256", "--no-locale"),
            *("--encoding", "UTF8"),
        ).wait()
        password_file.unlink()

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [str(_postgres_folder() / program), *arguments],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                user=self._user,
                start_new_session=True,
            )

    def start(self) -> None:
        """Returns once it answers a query."""
        import psycopg

        self._process = self._run(
            *("postgres", "-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1"),
            *("-k", "", "-c", "shared_buffers=16MB", "-c", "fsync=off"),  # no power is lost here
        )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.uri.replace("+psycopg", ""), connect_timeout=5).close()
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.1)
        raise AssertionError((self._folder / "log").read_text())

    def kill(self) -> None:
        """SIGKILL to all of its processes, each of which has a session of its own."""
        if self._process is None:
            return
        pids = [*_children(self._process.pid), self._process.pid]
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.02)  # until the kernel has taken the memory that they shared
        self._process = None

    def remove(self) -> None:
        """Ends it, and deletes its data."""
        self.kill()
        shutil.rmtree(self._folder)


def _unprivileged() -> str | None:
    """Whom PostgreSQL runs as; None: ourselves."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _postgres_folder() -> Path:
    """Of the programs of the newest PostgreSQL; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if found:
        return found[-1]
    program = shutil.which("initdb")
    if program is None:
        raise FileNotFoundError("no PostgreSQL; Debian's package is `postgresql`")
    return Path(program).parent


def has_postgres() -> bool:
    """Whether PostgreSQL is installed."""
    try:
        return _postgres_folder().is_dir()
    except FileNotFoundError:
        return False


def _children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(entry.name)


class HangingServer:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._stopped = False
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            self._connections.append(connection)
            if self._stopped:
                return

    @property
    def asked(self) -> int:
        """Connections so far."""
        return len(self._connections)

    def stop(self) -> None:
        self._stopped = True
        socket.create_connection(self._socket.getsockname()[:2]).close()
        self._thread.join()
        for connection in (*self._connections, self._socket):
            connection.close()
