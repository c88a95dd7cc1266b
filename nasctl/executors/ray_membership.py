"""Layer 4: how many trainings a Ray cluster has room for, while nodes join and leave it."""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RECOUNT_S = 3.0
BUSY_S = 5.0
MOST_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A node that is alive, and all that it has, used or not.

    Attributes:
        address: `host:port` of its raylet; empty: not known.
    """

    id: str
    resources: Mapping[str, float]
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one training takes."""

    cpus: float
    gpus: float

    def fits(self, have: Mapping[str, float]) -> int:
        """Trainings that run on one node at a time. A fraction of a GPU is of one GPU."""
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        fit = math.floor(cpus / self.cpus + 1e-9)
        if self.gpus >= 1:
            fit = min(fit, math.floor(gpus / self.gpus + 1e-9))
        elif self.gpus > 0:
            fit = min(fit, math.floor(gpus) * math.floor(1 / self.gpus + 1e-9))
        return fit

    def missing(self, nodes: Sequence[ClusterNode]) -> str:
        """Why none of the nodes runs one, and what they have."""
        each = [(n.resources.get("CPU", 0.0), n.resources.get("GPU", 0.0)) for n in nodes]
        # Ray lists its nodes in any order: the most frequent first, then by what they have.
        kinds = sorted(Counter(each).items(), key=lambda kind: (-kind[1], kind[0]))
        shown = [
            f"{count} x ({cpus:g} CPU, {gpus:g} GPU)" for (cpus, gpus), count in kinds[:MOST_SHOWN]
        ]
        if len(kinds) > MOST_SHOWN:
            shown.append("...")
        wanted = [f"{self.cpus:g} CPU"] + ([f"{self.gpus:g} GPU"] if self.gpus else [])
        short = [
            text
            for text, amount, column in zip(wanted, (self.cpus, self.gpus), (0, 1), strict=False)
            if all(have[column] + 1e-9 < amount for have in each)
        ]
        what = f"no node has {' or '.join(short)}" if short else "no node has both"
        keys = "executor.cpus" if not self.gpus else "executor.cpus, executor.gpus"
        return (
            f"{keys}: one training takes {' and '.join(wanted)}, and {what}; "
            f"nodes of the cluster: {', '.join(shown) or 'none'}"
        )


class Membership:
    """Counts the nodes of the cluster every few seconds.

    Args:
        need: of one training.
        cap: of trainings at a time; None: as many as fit.
        wait_s: how long a cluster may have no node that can run a training: nodes come back, and
            some clusters grow only once something waits.
        window: how many trainings the search has out at most; None: any number.
        announce: told what is being waited for.
        note: told once what the user may want to change.
        nodes: those that are alive; None: not known at the moment.
        answers: whether something listens at an address.
        clock: monotonic seconds.

    Attributes:
        workers: trainings to have out; at least one, so that a cluster that grows on demand does.
        problem: why there is no point in waiting any longer; None: there is.
    """

    def __init__(
        self,
        *,
        need: Need,
        cap: int | None,
        wait_s: float,
        window: int | None = None,
        announce: Callable[[str], None],
        note: Callable[[str], None],
        nodes: Callable[[], Sequence[ClusterNode] | None],
        answers: Callable[[str], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._need = need
        self._cap = cap
        self._wait_s = wait_s
        self._window = window
        self._announce = announce
        self._note = note
        self._nodes = nodes
        self._answers = answers
        self._clock = clock
        self._alive: dict[str, ClusterNode] = {}
        self._fits = 0
        self._due = -math.inf
        self._none_since: float | None = None
        self._busy_since: float | None = None
        self._said = ""
        self.workers = 1
        self.problem: str | None = None
        self.recount()

    def recount(self, *, now: bool = False) -> bool:
        """Looks at the cluster, now or if the last look is a few seconds old; whether it did."""
        if self._clock() < self._due and not now:
            return False
        nodes = self._nodes()
        self._due = self._clock() + RECOUNT_S
        if nodes is None:
            return False
        self._count(nodes)
        return True

    def _count(self, nodes: Sequence[ClusterNode]) -> None:
        self._alive = {node.id: node for node in nodes}
        self._fits = sum(self._need.fits(node.resources) for node in nodes)
        self.workers = max(1, self._fits if self._cap is None else min(self._cap, self._fits))
        self._warn_of_window()
        if self._fits:
            self._none_since = None
            return
        if self._none_since is None:
            self._none_since = self._clock()
        missing = self._need.missing(nodes)
        if self._clock() - self._none_since >= self._wait_s:
            self.problem = f"{missing}; waited {self._wait_s:g} s"
        else:
            self._say(f"waiting for nodes: {missing}")

    def has(self, node: str) -> bool:
        """Whether the node was alive at the last look."""
        return node in self._alive

    def lives(self, node: str) -> bool:
        """Whether the node is there now: the head notices a dead machine only after seconds."""
        found = self._alive.get(node)
        return found is not None and (not found.address or self._answers(found.address))

    def note_waiting(self, waiting: bool) -> None:
        """Says so when everything that is out has waited for room for a while.

        Args:
            waiting: something is out, and no worker could be started for any of it.
        """
        if not waiting or not self._fits:
            self._busy_since = None
            return
        now = self._clock()
        if self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since >= BUSY_S:
            self._say("waiting for room: others use the cluster")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._announce(text)

    def _warn_of_window(self) -> None:
        window = self._window
        if window is not None and self._cap is None and self.workers > window:
            self._window = None  # once
            self._note(
                f"the cluster has room for {self.workers} trainings, search.window={window}: the "
                f"others wait; use search.window={3 * self.workers} or search.order=async"
            )


def alive_nodes() -> list[ClusterNode] | None:
    """Of the cluster that this process is connected to; None if it does not say."""
    import ray

    worker: Any = importlib.import_module("ray._private.worker").global_worker
    protocol: Any = importlib.import_module("ray.core.generated.gcs_pb2").GcsNodeInfo.GcsNodeState
    try:
        found = worker.gcs_client.get_all_node_info(timeout=2.0, state_filter=protocol.ALIVE)
    except ray.exceptions.RayError:
        return None
    return [
        ClusterNode(
            id=node.node_id.hex(),
            resources=dict(node.resources_total),
            address=f"{node.node_manager_address}:{node.node_manager_port}",
        )
        for node in found.values()
    ]
