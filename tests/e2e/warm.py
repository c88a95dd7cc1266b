"""Commands in processes of their own that need not import torch and all the rest again.

The suite runs hundreds of commands, and half of what most of them cost is importing. So one process
imports what they have in common, and becomes the next command by forking whenever it is asked:
a folder, an environment, standard streams and a session of its own, as a new process has. What is
the same in all of them is the order of sets of strings; tests of reproducibility start afresh.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

IMPORTED = (
    "hydra",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "nasctl.ablate",
    "nasctl.config.ablation",
    "nasctl.config.verification",
    "nasctl.report",
    "nasctl.samplers.known_cost.sampler",
    "nasctl.samplers.optuna_samplers",
    "nasctl.search",
    "nasctl.train",
    "nasctl.verify",
    "onnxruntime",
    "rich.live",
    "sklearn.datasets",
    "torch",
    "torch.fx.experimental.symbolic_shapes",
)
"""What most commands import; not Ray and MLflow, which start threads and servers."""
ROOT = Path(__file__).parent.parent.parent


class Command:
    """Of `subprocess.Popen` what tests use.

    Attributes:
        pid: leader of a session of its own.
        returncode: negative after a signal; None: not over, or not waited for.
    """

    def __init__(self, pid: int, ends: socket.socket, streams: tuple[IO[bytes], ...]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ends = ends
        self._streams = streams
        self._said: list[str] = []

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """stdout and stderr, once it is over.

        Raises:
            TimeoutError: it goes on.
        """
        if self.returncode is None:
            self._ends.settimeout(timeout)
            try:
                self.returncode = _answer(self._ends)
            finally:
                self._ends.settimeout(None)
            for stream in self._streams:
                with stream:
                    stream.seek(0)
                    self._said.append(stream.read().decode())
        out, err = self._said
        return out, err

    def send_signal(self, number: int) -> None:
        """Nothing if it is over, which nobody need have been told yet."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Warm:
    """Starts one command after the other; one for each process of the suite: see `warm`."""

    def __init__(self) -> None:
        self._asks, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._last: Command | None = None
        code = f"from {__name__} import serve; serve({asked.fileno()})"
        with asked:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env={**os.environ, "PYTHONWARNINGS": "default"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[asked.fileno()],
                start_new_session=True,
            )

    def start(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> Command:
        """The process that is now `nasctl ARGUMENTS`, when the last one is over."""
        if self._last is not None:
            self._last.communicate()
        asked = {"arguments": arguments, "folder": str(folder), "environment": dict(environment)}
        streams = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - of the command
        message = json.dumps(asked).encode()
        socket.send_fds(self._asks, [message], [s.fileno() for s in streams])
        self._last = Command(_answer(self._asks), self._asks, streams)
        return self._last


def _answer(server: socket.socket) -> int:
    answer = server.recv(64)
    assert answer, "the process that becomes commands has ended"
    return int(answer)


@functools.cache
def warm() -> Warm:
    """Ends with this process, which closes its end of the socket."""
    return Warm()


def serve(descriptor: int) -> None:
    """Forks whenever it is asked to, until nobody can ask."""
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(fileno=descriptor) as asked_on:
        while True:
            message, streams, _, _ = socket.recv_fds(asked_on, 1 << 20, 2)
            if not message:
                return
            child = os.fork()
            if child == 0:
                asked_on.close()
                _become(json.loads(message), *streams)
            for stream in streams:
                os.close(stream)
            asked_on.send(str(child).encode())
            _, status = os.waitpid(child, 0)
            asked_on.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(asked: Mapping[str, Any], out: int, err: int) -> None:
    """Goes on as `python -m nasctl`."""
    os.setsid()
    for stream, number in ((out, 1), (err, 2)):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["folder"])
    tempfile.tempdir = None  # it is looked for once
    os.environ.clear()
    os.environ.update(asked["environment"])
    more = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in sys.path]
    sys.path[:1] = [asked["folder"], *more]
    main = importlib.import_module("nasctl.__main__")
    sys.modules["__main__"] = main  # what a process that it starts imports first
    sys.argv = [str(main.__file__), *asked["arguments"]]
    main.run()
