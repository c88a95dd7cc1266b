"""How many trainings a cluster has room for, while its nodes come and go; on a clock of its own."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nasctl.executors.ray_membership import BUSY_S, RECOUNT_S, ClusterNode, Membership, Need


class _Cluster:
    """Nodes, a clock, and what was said."""

    def __init__(self, *nodes: Mapping[str, float], **options: object) -> None:
        self.nodes: tuple[Mapping[str, float], ...] | None = nodes
        self.now = 0.0
        self.said: list[str] = []
        self.noted: list[str] = []
        settings: dict[str, object] = {
            "need": Need(cpus=1.0, gpus=0.0),
            "cap": None,
            "wait_s": 60.0,
            **options,
        }
        self.membership = Membership(
            **settings,  # type: ignore[arg-type]
            announce=self.said.append,
            note=self.noted.append,
            nodes=self._alive,
            clock=lambda: self.now,
        )

    def _alive(self) -> list[ClusterNode] | None:
        if self.nodes is None:
            return None
        return [ClusterNode(id=f"n{i}", resources=have) for i, have in enumerate(self.nodes)]

    def later(self, seconds: float = RECOUNT_S) -> Membership:
        self.now += seconds
        self.membership.recount()
        return self.membership


@pytest.mark.parametrize(
    ("cpus", "gpus", "have", "fit"),
    [
        (1, 0, {"CPU": 4}, 4),
        (1, 0, {"memory": 1e9}, 0),  # a head that trains nothing
        (3, 0, {"CPU": 8}, 2),
        (0.1, 0, {"CPU": 1}, 10),
        (1, 0.25, {"CPU": 16, "GPU": 2}, 8),
        (1, 0.3, {"CPU": 16, "GPU": 2}, 6),  # the rest of one GPU is of no use beside another's
        (1, 0.25, {"CPU": 3, "GPU": 2}, 3),
        (1, 2, {"CPU": 16, "GPU": 5}, 2),
        (1, 1, {"CPU": 16}, 0),
    ],
)
def test_trainings_that_fit_on_a_node(
    cpus: float, gpus: float, have: Mapping[str, float], fit: int
) -> None:
    assert Need(cpus=cpus, gpus=gpus).fits(have) == fit


def test_nodes_that_join_and_leave_are_followed_and_cpus_of_two_nodes_are_not_added_up() -> None:
    cluster = _Cluster({"CPU": 0}, {"CPU": 3}, {"CPU": 3}, need=Need(cpus=2.0, gpus=0.0))
    assert cluster.membership.workers == 2
    cluster.nodes = ({"CPU": 0}, {"CPU": 3}, {"CPU": 3}, {"CPU": 8})
    assert cluster.later(RECOUNT_S / 2).workers == 2
    assert cluster.later().workers == 6
    assert cluster.membership.has("n3")
    cluster.nodes = ({"CPU": 0}, {"CPU": 3})
    assert cluster.membership.has("n3"), "as far as was known at the last look"
    cluster.membership.recount(now=True)
    assert not cluster.membership.has("n3")
    assert cluster.membership.workers == 1


def test_a_number_is_a_cap() -> None:
    assert _Cluster({"CPU": 8}, cap=3).membership.workers == 3
    assert _Cluster({"CPU": 2}, cap=3).membership.workers == 2


def test_a_head_that_does_not_say_changes_nothing() -> None:
    cluster = _Cluster({"CPU": 4})
    cluster.nodes = None
    assert cluster.later(1000).workers == 4
    assert cluster.membership.problem is None


def test_a_cluster_without_a_fitting_node_is_waited_for_and_then_explained() -> None:
    cluster = _Cluster({"CPU": 2}, {"CPU": 2}, {"CPU": 4}, need=Need(cpus=1.0, gpus=1.0))
    what = (
        "executor.cpus, executor.gpus: one training takes 1 CPU and 1 GPU, and no node has 1 GPU; "
        "nodes of the cluster: 2 x (2 CPU, 0 GPU), 1 x (4 CPU, 0 GPU)"
    )
    assert cluster.later(59).problem is None
    assert cluster.said == [f"waiting for nodes: {what}"]
    assert cluster.membership.workers == 1  # so that a cluster that grows on demand does
    assert cluster.later().problem == f"{what}; waited 60 s"


def test_a_node_that_comes_in_time_ends_the_waiting_and_the_next_wait_is_as_long() -> None:
    cluster = _Cluster()
    assert "nodes of the cluster: none" in cluster.said[0]
    cluster.nodes = ({"CPU": 2},)
    assert cluster.later(50).workers == 2
    cluster.nodes = ()
    assert cluster.later(50).problem is None
    assert cluster.later(59).problem is None
    assert cluster.later(3).problem is not None


def test_resources_that_are_there_but_not_on_one_node_are_said_to_be() -> None:
    cluster = _Cluster({"CPU": 4}, {"CPU": 0, "GPU": 1}, need=Need(cpus=1.0, gpus=1.0), wait_s=0.0)
    assert "and no node has both; nodes of the cluster" in str(cluster.membership.problem)


def test_others_who_use_the_cluster_are_named_once_after_a_while() -> None:
    cluster = _Cluster({"CPU": 1})
    for _ in range(3):
        cluster.membership.note_waiting(True)
        assert cluster.said == []
        cluster.now += BUSY_S / 2 - 0.1
    cluster.membership.note_waiting(False)
    for _ in range(3):
        cluster.membership.note_waiting(True)
        cluster.now += BUSY_S
    assert cluster.said == ["waiting for room: others use the cluster"]


def test_a_cluster_larger_than_the_window_is_noted_once() -> None:
    cluster = _Cluster({"CPU": 4}, window=8)
    assert cluster.noted == []
    cluster.nodes = ({"CPU": 12},)
    cluster.later()
    cluster.nodes = ({"CPU": 24},)
    cluster.later()
    assert cluster.noted == [
        "the cluster has room for 12 trainings, search.window=8: the others wait; "
        "use search.window=36 or search.order=async"
    ]
    assert _Cluster({"CPU": 12}, window=8, cap=12).noted == []  # said when the config was read


def test_a_node_that_does_not_answer_is_gone_before_the_head_knows() -> None:
    asked: list[str] = []

    def answers(address: str) -> bool:
        asked.append(address)
        return address.endswith(":1")

    membership = Membership(
        need=Need(cpus=1, gpus=0),
        cap=None,
        wait_s=60,
        announce=lambda _: None,
        note=lambda _: None,
        nodes=lambda: [
            ClusterNode(id="a", resources={"CPU": 1}, address="10.0.0.1:1"),
            ClusterNode(id="b", resources={"CPU": 1}, address="10.0.0.2:2"),
        ],
        answers=answers,
    )
    assert membership.recount(now=True)
    assert not membership.recount(), "a moment later there is nothing to look at"
    assert membership.lives("a")
    assert membership.has("b")
    assert not membership.lives("b")
    assert not membership.lives("c")
    assert asked == ["10.0.0.1:1", "10.0.0.2:2"]
