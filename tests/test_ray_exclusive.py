"""Which node of a cluster is a latency device, and what is said of those that are not, or busy."""

from __future__ import annotations

import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.executors import ray_exclusive
from nasctl.executors.ray_exclusive import _busy, _find, _Node, _short

BOARD = "latency_device:board"


def node(host: str, number: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {
        "NodeID": number,
        "Alive": alive,
        "NodeName": host,
        "NodeManagerHostname": host,
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {"CPU": 4.0, **resources},
    }


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any]) -> None:
    monkeypatch.setattr(ray_exclusive.ray, "nodes", lambda: list(nodes))


def test_of_several_nodes_always_the_same_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        node("a", "3"),
        node("c", "1", **{BOARD: 1.0}),
        node("b", "2", **{BOARD: 1.0}),
        node("0", "0", alive=False, **{BOARD: 1.0}),
    ]
    for order in (nodes, nodes[::-1]):
        said: list[str] = []
        cluster(monkeypatch, *order)
        assert _find(BOARD, said.append).id == "2"
        assert said == [f"2 nodes declare {BOARD}: b (10.0.0.1) is asked"]
    said = []
    cluster(monkeypatch, *nodes[:2])
    assert _find(BOARD, said.append).id == "1"
    assert said == []


def test_one_that_is_dead_and_not_yet_known_to_be_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead, lives = node("a", "1", **{BOARD: 1.0}), node("b", "2", **{BOARD: 1.0})
    with socket.create_server(("127.0.0.1", 0)) as server, closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))  # nobody listens
        for one, place in ((dead, free), (lives, server)):
            one |= {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": place.getsockname()[1]}
        cluster(monkeypatch, dead, lives)
        assert _find(BOARD, print).id == "2"
        cluster(monkeypatch, dead)
        assert _find(BOARD, print).id == "1", "whoever asks it learns that it is dead"


def test_a_name_that_nobody_has_is_answered_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = {"latency_device:phone": 1.0, BOARD: 1.0}
    cluster(monkeypatch, node("a", "1", **others), node("b", "2", alive=False))
    with pytest.raises(
        EnvironmentProblemError,
        match=r"^latency.node: unknown device of the cluster 'bord'; did you mean 'board'\? "
        r"\(known: board, phone\)$",
    ):
        _find("latency_device:bord", print)
    cluster(monkeypatch, node("a", "1"), node("b", "2", alive=False, **others))
    with pytest.raises(EnvironmentProblemError, match=r"no node .*--resources='{\"latency_device:"):
        _find(BOARD, print)


@pytest.mark.parametrize(
    ("free", "actors", "said"),
    [
        ({"CPU": 4.0, "GPU": 1.0, BOARD: 1.0}, {}, ""),
        ({"GPU": 1.0, BOARD: 1.0}, {}, "4 of 4 CPUs in use"),
        (
            {"CPU": 1.0, BOARD: 1.0},
            {"7": ("here", "02")},
            "3 of 4 CPUs in use, 1 of 1 GPUs in use by nasctl search a.yaml",
        ),
        ({"CPU": 3.0, "GPU": 1.0, BOARD: 1.0}, {"7": ("else", "02")}, "1 of 4 CPUs in use"),
        ({"CPU": 3.0, "GPU": 1.0, BOARD: 1.0}, {"7": ("here", "01")}, "1 of 4 CPUs in use"),
        ({"CPU": 4.0, "GPU": 1.0}, {}, "another measurement is under way"),
    ],
)
def test_what_keeps_a_node_busy_is_named(
    monkeypatch: pytest.MonkeyPatch,
    free: dict[str, float],
    actors: dict[str, tuple[str, str]],
    said: str,
) -> None:
    jobs = [
        {"JobID": "01", "Entrypoint": "this search"},
        {"JobID": "02", "Entrypoint": "/opt/venv/bin/nasctl search a.yaml"},
    ]
    alive = {k: {"Address": {"NodeID": n}, "JobID": job} for k, (n, job) in actors.items()}
    state = SimpleNamespace(
        available_resources_per_node=lambda: {"here": free},
        actors=lambda actor_state_name: alive,
        jobs=lambda: jobs,
    )
    monkeypatch.setattr(ray_exclusive, "state", state)
    context = SimpleNamespace(get_job_id=lambda: "01")
    monkeypatch.setattr(ray_exclusive.ray, "get_runtime_context", lambda: context)
    found = _Node(id="here", resources={})
    assert _busy(found, {BOARD: 1.0, "CPU": 4.0, "GPU": 1.0}) == said


def test_commands_are_shown_without_folders() -> None:
    assert _short("/opt/bin/python -m nasctl search /a/b.yaml") == "python -m nasctl search b.yaml"
    assert len(_short("x" * 200)) == 80
    assert _short("") == "an unnamed job"
