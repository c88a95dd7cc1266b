"""Real servers on the loopback for end-to-end tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """`mlflow server` on 127.0.0.1, with its own SQLite store and artifact folder.

    Args:
        folder: for the store, the artifacts and the log.
        allowed_hosts: the host check's list; None is MLflow's default.
    """

    def __init__(self, folder: Path, *, allowed_hosts: str | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"
        self._allowed_hosts = allowed_hosts
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it answers."""
        argv = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.database}"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        if self._allowed_hosts is not None:
            argv += ["--allowed-hosts", self._allowed_hosts]
        env = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_MODEL_CATALOG_URI": "",
        }
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=env, start_new_session=True
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(self.uri + "/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.1)
        raise AssertionError("the MLflow server did not start")

    def kill(self) -> None:
        """SIGKILL to the server and its worker: the process group that `start` made."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


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
