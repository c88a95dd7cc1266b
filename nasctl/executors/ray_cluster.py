"""Layer 4: a running Ray cluster: where it is, with which token, whether it is there, and what is
wrong if not, in one line."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasctl.errors import EnvironmentProblemError
from nasctl.executors.reaper import children

AUTO = "auto"
CONNECT_S = 10.0
CHECK_S = 5.0
GIVE_UP_S = 35.0
CONTINUE = "; every finished trial is kept, the same command continues"
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


class ClusterGoneError(BaseException):
    """Not an Exception: for those Tune cleans up first, which waits for the dead."""


def host_port(address: str) -> tuple[str, int] | None:
    """Of `host:port`; None: of another form."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        return None
    return host.strip("[]"), int(port)


def resolved(address: str) -> str:
    """`host:port` of an address that may be `auto`: the cluster whose job this process is.

    Raises:
        EnvironmentProblemError: it is `auto`, and this process is no Ray job.
    """
    if address != AUTO:
        return address
    found = os.environ.get("RAY_ADDRESS", "")
    if host_port(found) is None:
        what = f"is {found!r}" if found else "is not set"
        raise EnvironmentProblemError(
            f"executor.address=auto: this process is no Ray job (RAY_ADDRESS {what}); give the "
            "HOST:PORT of the cluster's head"
        )
    return found


def token_environment() -> dict[str, str]:
    """What makes Ray show the token of the environment, if there is one.

    Raises:
        EnvironmentProblemError: the file of the token cannot be read or is empty.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return {"RAY_AUTH_MODE": "token"}
    if not (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        return {}
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise EnvironmentProblemError(f"RAY_AUTH_TOKEN_PATH: {path}: {reason}") from None
    if not token:
        raise EnvironmentProblemError(f"RAY_AUTH_TOKEN_PATH: {path} is empty")
    return {"RAY_AUTH_MODE": "token"}


def check_reachable(address: str) -> None:
    """Ray itself would try for a minute, and say little.

    Raises:
        EnvironmentProblemError: nothing listens there.
    """
    error = _answers(address, timeout_s=CONNECT_S)
    if error is not None:
        raise EnvironmentProblemError(
            f"executor.address: nothing answers at {address} ({error}); is the cluster running?"
        )


def explained(error: Exception, address: str) -> str:
    """Why there is no connection to a cluster that answers, from what Ray says."""
    where = f"executor.address: no connection to the cluster at {address}"
    text = " ".join(str(e) for e in _causes(error))
    versions = _VERSIONS.findall(text)
    if len(versions) == 2:
        (ray, python), (own_ray, own_python) = versions
        return (
            f"{where}: it runs Ray {ray} on Python {python}, this is Ray {own_ray} on Python "
            f"{own_python}; both have to be the same everywhere"
        )
    if "uthenticat" in text or "nauthorized" in text:
        return f"{where}: {_token_problem()}"
    if "node info" in text or "resolve node" in text:
        return f"{where}: no node of it runs on this machine; start the search on one of its nodes"
    return f"{where}: {last_line(error)} (something answers there; is it the GCS of a Ray head?)"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """It and what it came from: Ray says of a refused token in the cause only."""
    while error is not None:
        yield error
        error = error.__cause__


def _token_problem() -> str:
    for name in TOKEN_VARIABLES:
        if value := os.environ.get(name):
            source = f"the file {value} ({name})" if name.endswith("PATH") else name
            return f"it refuses the token in {source}; the head may have another one by now"
    return f"it asks for a token; set {' or '.join(TOKEN_VARIABLES)}"


def last_line(error: BaseException) -> str:
    """Of an error text that may hold a traceback: the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


class LocalCheck:
    """Whether the private cluster on this machine lives; raises `ClusterGoneError` if not."""

    def __init__(self) -> None:
        self._node: Any = importlib.import_module("ray._private.worker")._global_node

    def __call__(self) -> None:
        dead = [kind for kind, _ in self._node.dead_processes()]
        if dead:
            raise ClusterGoneError(f"Ray's {', '.join(dead)} died")


class HeadCheck:
    """Whether the head of a cluster answers; raises `ClusterGoneError` if it does not three times.

    Ray ends a driver that has not heard of the head for a minute, without an exception.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._due = time.monotonic() + CHECK_S
        self._missed = 0

    def __call__(self) -> None:
        if time.monotonic() <= self._due:
            return
        error = _answers(self._address, timeout_s=1.0)
        self._missed = 0 if error is None else self._missed + 1
        self._due = time.monotonic() + CHECK_S
        if self._missed == 3:
            raise ClusterGoneError(
                f"executor.address: the head at {self._address} does not answer any more ({error})"
            )


@contextlib.contextmanager
def last_resort(address: str) -> Iterator[None]:
    """Ends the process some time after the head died, if it is still there.

    Calls of Ray that wait for the head return to no `HeadCheck`; after a minute Ray itself ends the
    process, with 1 and a message about its own log files. What was told is in the ledger.
    """
    over = threading.Event()

    def watch() -> None:
        since: float | None = None
        while not over.wait(CHECK_S):
            error = _answers(address, timeout_s=1.0)
            if error is None:
                since = None
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since >= GIVE_UP_S:
                _end(f"executor.address: the head at {address} does not answer any more ({error})")

    thread = threading.Thread(target=watch, name="nasctl-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _end(problem: str) -> None:
    """At once: nothing that waits for the dead may keep the process."""
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live display had hidden it
    sys.stderr.write(f"{cursor}\nError: {problem}{CONTINUE}\n")
    sys.stderr.flush()
    os._exit(EnvironmentProblemError.exit_code)


def raylet_children() -> list[int]:
    """Ray's two agents, which stay for a minute after a driver that was killed.

    They try to tell the dead head why they end; everything else goes within seconds.
    """
    node: Any = importlib.import_module("ray._private.worker")._global_node
    infos = [] if node is None else node.all_processes.get("raylet", [])
    return [child for info in infos for child in children(info.process.pid)]


@contextlib.contextmanager
def gone_explained(reap: Any) -> Iterator[None]:
    """Turns the end of the cluster into an error for people, and ends what would wait for it."""
    try:
        yield
    except ClusterGoneError as error:
        reap()
        raise EnvironmentProblemError(f"{error}{CONTINUE}") from None


def answers(address: str) -> bool:
    """Whether something listens at `host:port`."""
    return _answers(address, timeout_s=1.0) is None


def _answers(address: str, *, timeout_s: float) -> Exception | None:
    target = host_port(address)
    assert target is not None, "checked before"
    try:
        socket.create_connection(target, timeout=timeout_s).close()
    except (OSError, UnicodeError) as error:  # the latter of what cannot be a host's name
        return error
    return None
