"""Stand-ins of a cluster for tests: a server that answers as it is told, and a cluster whose jobs
are processes on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from nasctl.cluster import ClusterJob, JobGoneError

VERSION = "/api/version"


@dataclass
class Site:
    """What answers at an address.

    Attributes:
        answers: path to (status, body).
        asked: (method, path, Authorization header) of every request.
    """

    answers: dict[str, tuple[int, str]]
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def site(answers: Mapping[str, tuple[int, str]]) -> Iterator[Site]:
    """A web server on the loopback; 404 for every other path."""
    made = Site(dict(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.command, self.path, self.headers.get("Authorization")))
            status, body = made.answers.get(self.path, (404, "404: Not Found"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - names of http.server

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def version(ray: str) -> tuple[int, str]:
    return 200, json.dumps({"version": "4", "ray_version": ray, "ray_commit": "", "session": ""})


def details(job_id: str, **values: object) -> dict[str, object]:
    """A job as the Jobs API describes it."""
    return {
        "type": "SUBMISSION",
        "submission_id": job_id,
        "status": "RUNNING",
        "entrypoint": "exec env nasctl search",
        "start_time": 1_700_000_000_000,
        **values,
    }


def job(job_id: str = "nasctl-a-000000", **values: object) -> ClusterJob:
    known: dict[str, object] = {
        "id": job_id,
        "metadata": {},
        "status": "RUNNING",
        "started": 1_700_000_000.0,
        "ended": None,
        "exit_code": None,
        "message": "",
        "entrypoint": "exec env nasctl search",
    }
    return ClusterJob(**{**known, **values})  # type: ignore[arg-type]


class LocalCluster:
    """Jobs are shell commands here: everything of a `Cluster` but Ray.

    Args:
        folder: for logs.
        runs: the head's folder for runs.
        tools: where its commands are; by default those of this Python.

    Attributes:
        sent: the names of the files that came with each job.
        times: when a job began and ended, if that matters.
        deleted: jobs that were.
    """

    url = "http://127.0.0.1:8265"

    def __init__(self, folder: Path, runs: Path, *, tools: Path | None = None) -> None:
        self._tools = tools or Path(sys.executable).parent
        self.sent: dict[str, set[str]] = {}
        self._folder = folder
        self._runs = runs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._entrypoints: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._stopped: set[str] = set()
        self.times: dict[str, tuple[float, float]] = {}
        self.deleted: list[str] = []

    def log_path(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.log"

    def submit(
        self,
        job_id: str,
        entrypoint: str,
        *,
        metadata: Mapping[str, str],
        folder: Path | None = None,
    ) -> None:
        copy = self._folder / "working_dirs" / job_id
        if folder is not None:
            shutil.copytree(folder, copy)
            files = (p for p in copy.rglob("*") if p.is_file())
            self.sent[job_id] = {p.relative_to(copy).as_posix() for p in files}
        copy.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "NASCTL_RUNS": str(self._runs),
            "PATH": f"{self._tools}:{os.environ['PATH']}",
        }
        with open(self.log_path(job_id), "ab") as log:
            log.write(f"Running entrypoint for job {job_id}: {entrypoint}\n".encode())
            log.flush()
            self._processes[job_id] = subprocess.Popen(
                entrypoint, shell=True, stdout=log, stderr=log, cwd=copy, env=environment
            )
        self._entrypoints[job_id] = entrypoint, metadata

    def jobs(self) -> list[ClusterJob]:
        return [self.job(job_id) for job_id in self._processes]

    def job(self, job_id: str) -> ClusterJob:
        if job_id not in self._processes:
            raise JobGoneError(job_id)
        code = self._processes[job_id].poll()
        entrypoint, metadata = self._entrypoints[job_id]
        status = "RUNNING" if code is None else "FAILED" if code else "SUCCEEDED"
        if code is not None and job_id in self._stopped:
            status = "STOPPED"
        started, ended = self.times.get(job_id, (0.0, 0.0))
        return job(
            job_id,
            entrypoint=entrypoint,
            metadata=metadata,
            status=status,
            exit_code=code,
            started=started,
            ended=ended,
        )

    def wait(self, job_id: str) -> None:
        """Until the job is over."""
        self._processes[job_id].wait()

    async def tail(self, job_id: str) -> AsyncGenerator[str, None]:
        with open(self.log_path(job_id), encoding="utf-8") as file:
            while True:
                is_over = self.job(job_id).is_over
                if text := file.read(100_000):
                    yield text
                elif is_over:
                    return
                else:
                    await asyncio.sleep(0.02)

    def stop(self, job_id: str) -> None:
        self._stopped.add(job_id)
        self._processes[job_id].terminate()

    def log(self, job_id: str) -> str:
        return self.log_path(job_id).read_text(encoding="utf-8")

    def delete(self, job_id: str) -> None:
        assert self.job(job_id).is_over
        del self._processes[job_id]
        self.deleted.append(job_id)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
