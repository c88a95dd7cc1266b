"""Layer 4: a call on one node of a Ray cluster, alone there. Imports Ray; imported when needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

import ray
from ray import cloudpickle
from ray._private import state
from ray.exceptions import (
    NodeDiedError,
    RayError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nasctl.errors import EnvironmentProblemError, NasctlError, unknown
from nasctl.executors.base import DEVICE_PREFIX, Announce
from nasctl.executors.code import check_version, installed
from nasctl.executors.ray_cluster import CONTINUE, answers, last_line

T = TypeVar("T")

POLL_S = 0.5
LOOK_S = 10.0
"""Between two looks at what keeps the node busy; a process of Ray starts in less."""
CANCEL_S = 5.0
RPC_S = 2.0
NAMESPACE = "nasctl"


@dataclass(frozen=True, kw_only=True)
class _Node:
    id: str
    resources: Mapping[str, float]


def call_there(
    fn: Callable[[Announce], T],
    resource: str,
    *,
    alone: bool,
    announce: Announce,
    check: Callable[[], None],
) -> T:
    """Calls `fn` on the node that declares `resource`, and waits for it; Ray is connected.

    Args:
        alone: nothing else may run on that node meanwhile: its CPUs and GPUs are taken as well as
            the resource.
        announce: told what is waited for, and what `fn` tells; of words in quick succession the
            last.
        check: raises if the cluster is gone.

    Raises:
        EnvironmentProblemError: no node declares it, it died, or nasctl differs there.
        NasctlError: of nasctl's own that `fn` raises, with the node's name.
    """
    node = _find(resource, announce)
    name = resource.removeprefix(DEVICE_PREFIX)
    where = f"latency.node: {name}"
    wanted = {resource: node.resources[resource]}
    if alone:
        wanted |= {k: node.resources.get(k, 0.0) for k in ("CPU", "GPU")}
    call = _Call(node, name, wanted, announce, check)
    try:
        result: T = call(cloudpickle.dumps(fn))
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, NasctlError):
            raise type(cause)(f"{where}: {cause}") from None
        if isinstance(cause, ImportError):  # of what it calls there
            raise EnvironmentProblemError(f"{where}: missing there: {cause}") from None
        if cause is None:  # it could not be sent
            raise EnvironmentProblemError(f"{where}: {last_line(error)}{CONTINUE}") from error
        hint = " (nasctl is missing there, or another version?)" * ("import" in str(cause))
        problem = f"{where}: {type(cause).__name__}: {last_line(cause)}{hint}{CONTINUE}"
        raise EnvironmentProblemError(problem) from cause
    except (NodeDiedError, TaskUnschedulableError):
        raise EnvironmentProblemError(f"{where}: the node died{CONTINUE}") from None
    except WorkerCrashedError:
        raise EnvironmentProblemError(
            f"{where}: the process that measured died there{CONTINUE}"
        ) from None
    except RayError as error:
        raise EnvironmentProblemError(f"{where}: {last_line(error)}{CONTINUE}") from error
    return result


class _Call:
    """One call, watched until it is over."""

    def __init__(
        self,
        node: _Node,
        name: str,
        wanted: Mapping[str, float],
        announce: Announce,
        check: Callable[[], None],
    ) -> None:
        self._node = node
        self._name = name
        self._wanted = wanted
        self._announce = announce
        self._check = check
        self._said = ""
        self._key = f"said/{ray.get_runtime_context().get_job_id()}"

    def __call__(self, data: bytes) -> Any:
        reason = _busy(self._node, self._wanted)
        if reason:
            self._say(f"waiting for {self._name}: {reason}")
        own = {k: v for k, v in self._wanted.items() if k not in ("CPU", "GPU")}
        ref = (
            ray.remote(_serve)
            .options(
                num_cpus=self._wanted.get("CPU", 0),
                num_gpus=self._wanted.get("GPU", 0),
                resources=own,
                max_retries=0,  # it is the driver who decides what comes after a failure
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._node.id, soft=False),
            )
            .remote(data, self._key, installed())
        )
        try:
            self._watch(ref, was_busy=bool(reason))
        except KeyboardInterrupt:  # programs that it started have to be ended as well
            ray.cancel(ref)
            ray.wait([ref], timeout=CANCEL_S)
            raise
        finally:
            self._told(forget=True)
        return ray.get(ref)

    def _watch(self, ref: ray.ObjectRef[Any], *, was_busy: bool) -> None:
        look = time.monotonic() + LOOK_S
        over: list[Any] = []
        while not over:
            over, _ = ray.wait([ref], timeout=POLL_S)
            self._check()
            told = self._told()
            if told:
                self._say(told)
            elif told is None and time.monotonic() > look:
                look = time.monotonic() + LOOK_S
                # What is in use may be in use by this very call, whose process is starting.
                if _others(self._node):
                    self._say(f"waiting for {self._name}: {_busy(self._node, self._wanted)}")
                elif not was_busy:
                    self._say(f"starting a process on {self._name}")

    def _told(self, *, forget: bool = False) -> str | None:
        """What the call has told last; empty: it has begun; None: nothing, or nobody knows."""
        client = ray._private.worker.global_worker.gcs_client
        key, space = self._key.encode(), NAMESPACE.encode()
        try:
            if forget:
                client.internal_kv_del(key, False, space, timeout=RPC_S)
                return None
            found = client.internal_kv_get(key, space, timeout=RPC_S)
        except RayError:  # the head is busy, or gone: `check` knows
            return None
        return None if found is None else str(found.decode())

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._announce(text)


def _busy(node: _Node, wanted: Mapping[str, float]) -> str:
    """What of the node is in use, and by whom; empty if nothing is."""
    free = state.available_resources_per_node().get(node.id, {})
    used = {k: v - free.get(k, 0.0) for k, v in wanted.items()}
    used = {k: v for k, v in used.items() if v > 1e-6}
    parts = [f"{used[k]:g} of {wanted[k]:g} {k}s in use" for k in ("CPU", "GPU") if k in used]
    if len(parts) < len(used):
        parts.append("another measurement is under way")
    others = _others(node) if used else []
    by = f" by {'; '.join(others[:2])}{' and others' if len(others) > 2 else ''}"
    return ", ".join(parts) + (by if others else "")


def _others(node: _Node) -> list[str]:
    """The commands of the other drivers whose trainings are on the node."""
    own = ray.get_runtime_context().get_job_id()
    there = {
        actor["JobID"]
        for actor in state.actors(actor_state_name="ALIVE").values()
        if actor["Address"]["NodeID"] == node.id and actor["JobID"] != own
    }
    return [_short(job["Entrypoint"]) for job in state.jobs() if job["JobID"] in there]


def _short(entrypoint: str) -> str:
    """A command line without the folders of its program; long ones are cut."""
    words = [PurePath(word).name if word.startswith("/") else word for word in entrypoint.split()]
    return " ".join(words)[:80] or "an unnamed job"


def _serve(data: bytes, key: str, version: str) -> Any:
    """What runs on the node."""

    def tell(text: str) -> None:
        internal_kv._internal_kv_put(key, text, namespace=NAMESPACE)

    tell("")  # it has begun
    check_version(version)
    return cloudpickle.loads(data)(tell)


def _find(resource: str, announce: Announce) -> _Node:
    """The node that declares it; of several always the same."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    offering = [n for n in alive if n["Resources"].get(resource, 0.0) > 0]
    if not offering:
        raise EnvironmentProblemError(_missing(resource, [n["Resources"] for n in alive]))
    offering.sort(
        key=lambda n: (
            n["NodeManagerHostname"],
            n["NodeName"],
            n["NodeManagerAddress"],
            n["NodeID"],
        )
    )
    # The head notices only after seconds that a machine is gone.
    offering = [node for node in offering if _lives(node)] or offering
    first = offering[0]
    if len(offering) > 1:
        host = f"{first['NodeManagerHostname']} ({first['NodeManagerAddress']})"
        announce(f"{len(offering)} nodes declare {resource}: {host} is asked")
    return _Node(id=first["NodeID"], resources=first["Resources"])


def _lives(node: Mapping[str, Any]) -> bool:
    port = node.get("NodeManagerPort")
    return not port or answers(f"{node['NodeManagerAddress']}:{port}")


def _missing(resource: str, have: list[dict[str, float]]) -> str:
    name = resource.removeprefix(DEVICE_PREFIX)
    names = {
        r.removeprefix(DEVICE_PREFIX) for one in have for r in one if r.startswith(DEVICE_PREFIX)
    }
    if names:
        return f"latency.node: {unknown('device of the cluster', name, sorted(names))}"
    declare = f"--resources='{{\"{resource}\": 1}}'"
    return (
        f"latency.node: no node of the cluster is {name!r}, nor any other latency device; "
        f"start it there with ray start {declare}"
    )
