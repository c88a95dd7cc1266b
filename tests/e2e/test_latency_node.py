"""Latency is measured on the node of the cluster that was asked for, alone, and nowhere else.

The device's program writes down on which node it runs, and its latencies are a function of the
model's size that nothing else could know.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasctl.errors import EnvironmentProblemError
from nasctl.executors.base import Announce
from nasctl.executors.ray import RayExecutor
from tests.e2e.command import DIGITS, Desk
from tests.e2e.ray_nodes import Head, Node, head, until

SPACE = """\
defaults: [search, _self_, override data: digits, override tracking: none]
trials: 2
evaluator: wide
recipe: {epochs: 1}
latency: {runtime: command, calibration_networks: 5}
space:
  options:
    stem: {channels: 8}
    stages:
      - {channels: 8, depth: 1, stride: 1}
      - {channels: 16, depth: 1, stride: 2}
    width_multiplier: {choices: [1.0, 2.0], scope: network}
    kernel_size: {choices: [3, 5], scope: stage}
    bottleneck_activation: linear
"""

PLUGIN = """
def wide(architecture, *, budget, seed):
    return {"accuracy": 0.5 + int(architecture.id, 16) % 100 / 1000}

EVALUATORS = {"wide": wide}
"""

PROGRAM = """\
#!/bin/sh
echo "$RAY_TEST_NODE" >> {folder}/asked
while [ -e {folder}/hold ]; do sleep 0.05; done
echo "{{\\"latency_ms\\": $(($(wc -c < "$1") / 64 + 1))}}"
"""
WAIT = """\
import pathlib, sys, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address=sys.argv[1], log_to_driver=False)
(board,) = (n["NodeID"] for n in ray.nodes() if "latency_device:board" in n["Resources"])

@ray.remote(num_cpus=1, scheduling_strategy=NodeAffinitySchedulingStrategy(board, soft=False))
class Training:
    def ready(self): ...

training = Training.remote()
ray.get(training.ready.remote())
pathlib.Path(sys.argv[2]).write_text("trains")
while pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that trains, and one node that is a device."""
    with head(tmp_path_factory.mktemp("cluster"), cpus=1) as found:
        found.worker(cpus=1, resources={"latency_device:board": 1})
        yield found


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.write("small.yaml", SPACE)
    desk.write("wide.py", PLUGIN)
    desk.write("program", PROGRAM.format(folder=desk.folder)).chmod(0o755)
    return Desk(desk.folder, desk.folder / "cache")


def arguments(desk: Desk, cluster: Head, *more: str, node: str = "board") -> list[str]:
    return [
        *("search", "small.yaml", "--plugin", "wide", "--progress", "plain"),
        *(f"executor.address={cluster.address}", f"latency.node={node}"),
        *(f"latency.command=['{desk.folder}/program']", *more),
    ]


def asked(desk: Desk) -> list[str]:
    """The nodes on which the program has run, once for each time."""
    path = desk.folder / "asked"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def test_a_search_is_measured_on_its_node_and_remembered_by_the_driver(
    desk: Desk, cluster: Head
) -> None:
    (board,) = cluster.workers
    _, err = desk.run(*arguments(desk, cluster), **cluster.env)
    assert set(asked(desk)) == {board.name}
    assert "asking board what it is" in err
    assert "networks whole, alone on board" in err
    summary = desk.records("small").latency
    assert summary is not None
    assert summary["node"] == "board"
    assert summary["runtime"].startswith("command program")
    front = json.loads((desk.folder / "runs/small/front.json").read_text(encoding="utf-8"))
    assert front["latency_device"]["device"] == summary["device"]
    assert all(float(m["metrics"]["latency_ms_measured"]) >= 1 for m in front["members"])
    assert "board" in (desk.folder / "runs/small/report.html").read_text(encoding="utf-8")
    # Another run of the same space asks for nothing but its own networks, whole.
    before = len(asked(desk))
    desk.run(*arguments(desk, cluster, "name=again", "trials=1"), **cluster.env)
    assert 0 < len(asked(desk)) - before <= 3 < before
    # A device that does not exist is known before anything trains.
    _, err = desk.run(*arguments(desk, cluster, "name=c", node="bord"), code=4, **cluster.env)
    assert "latency.node: unknown device of the cluster 'bord'; did you mean 'board'?" in err
    assert desk.trials("c") == []
    # A run stays with its device.
    _, err = desk.run(*arguments(desk, cluster, node="phone"), code=2, **cluster.env)
    assert "latency.node: board -> phone" in err


def _alone(tell: Announce) -> tuple[str, dict[str, float]]:
    import ray

    tell("measuring")
    return os.environ["RAY_TEST_NODE"], ray.get_runtime_context().get_assigned_resources()


def _at_once(tell: Announce) -> None:
    os._exit(1)


def test_it_is_alone_there_and_waits_for_whoever_trains(
    desk: Desk, cluster: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    (board,) = cluster.workers
    executor = RayExecutor(workers=1, address=cluster.address)
    busy, said = desk.folder / "busy", list[str]()
    other = subprocess.Popen(
        [sys.executable, str(desk.write("other.py", WAIT)), cluster.address, str(busy)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: busy.exists() or other.poll() is not None, 180)

    def announce(text: str) -> None:
        said.append(text)
        busy.unlink(missing_ok=True)  # the other search ends, once this one says that it waits

    try:
        node, taken = executor.run_exclusive(_alone, "latency_device:board", announce=announce)
    finally:
        busy.unlink(missing_ok=True)
        assert other.wait(60) == 0
    assert said[0].startswith("waiting for board: 1 of 1 CPUs in use by python")
    assert said[0].endswith(f" other.py {cluster.address} busy")
    assert said[-1] == "measuring"
    assert node == board.name
    assert {k: taken[k] for k in ("CPU", "latency_device:board")} == {
        "CPU": 1.0,
        "latency_device:board": 1.0,
    }
    node, taken = executor.run_exclusive(_alone, "latency_device:board", alone=False)
    assert "CPU" not in taken
    with pytest.raises(EnvironmentProblemError, match=r"^latency.node: board: the process .*died"):
        executor.run_exclusive(_at_once, "latency_device:board")


# -- what takes longer ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_that_dies_while_it_measures_ends_the_run_and_its_successor_goes_on(
    desk: Desk, cluster: Head
) -> None:
    first = cluster.worker(cpus=0, resources={"latency_device:frail": 1})
    hold = desk.write("hold", "")
    process = desk.start(*arguments(desk, cluster, node="frail"), **cluster.env)
    until(lambda: asked(desk) or process.poll() is not None, 240)
    first.kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 4, err
    assert "latency.node: frail: the node died" in err
    assert "the same command continues" in err
    assert desk.trials("small") == []
    hold.unlink()
    with cluster.worker(cpus=0, resources={"latency_device:frail": 1}) as second:
        desk.run(*arguments(desk, cluster, node="frail"), **cluster.env)
        assert asked(desk)[-1] == second.name
    assert desk.records("small").finished


@pytest.mark.slow
def test_ctrl_c_leaves_no_program_behind(desk: Desk, cluster: Head) -> None:
    (board, *_) = cluster.workers
    desk.write("hold", "")
    process = desk.start(*arguments(desk, cluster), **cluster.env)
    until(lambda: asked(desk) or process.poll() is not None, 240)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    until(lambda: not _running(board, desk.folder / "program"))


def _running(node: Node, program: Path) -> list[int]:
    found = []
    for pid in node.pids:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # gone meanwhile
        if str(program).encode() in line.split(b"\0"):
            found.append(pid)
    return found


@pytest.mark.slow
def test_what_is_missing_on_the_node_is_one_line(desk: Desk, cluster: Head) -> None:
    command = ["latency.command=[no_such_program]", "name=missing"]
    _, err = desk.run(*arguments(desk, cluster, *command), code=2, **cluster.env)
    assert "latency.node: board: latency.command: no such program: no_such_program" in err
    assert desk.trials("missing") == []


@pytest.mark.slow
def test_two_nodes_of_one_name_that_differ_are_noticed(desk: Desk, cluster: Head) -> None:
    """The one that is asked first leaves; the other has another program of that name."""
    more: list[Node] = []
    for which in ("a", "b"):
        folder = desk.folder / which
        folder.mkdir()
        text = PROGRAM.format(folder=desk.folder) + f"# {which}\n"
        program = folder / "bench"
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        resources = {"latency_device:twin": 1}
        more.append(cluster.worker(cpus=0, resources=resources, environment={"PATH": path}))
    command = arguments(desk, cluster, "latency.command=[bench]", "recipe.epochs=2", node="twin")
    _, err = desk.run(*command, **cluster.env)
    assert "2 nodes declare latency_device:twin" in err
    (name,) = set(asked(desk))
    more.sort(key=lambda node: node.name != name)
    more[0].kill()
    _, err = desk.run(*command, "trials=3", code=4, **cluster.env)
    assert "latency.node: twin: is another device now" in err
    more[1].kill()


@pytest.mark.slow
def test_the_arms_of_a_study_are_measured_there(desk: Desk, cluster: Head) -> None:
    desk.write("digits.yaml", DIGITS)
    study = """\
defaults: [ablate, _self_, override data: digits, override latency: table, override tracking: none]
name: study
evaluator: wide
baseline: {family: staged, options: {stem: {channels: 8}, bottleneck_activation: linear,
  stages: [{channels: 8, depth: 1, stride: 1}]}}
factors: {kernel_size: [3, 5]}
seeds: {min: 3, max: 3}
latency: {runtime: command}
"""
    desk.write("study.yaml", study)
    command = ["ablate", "study.yaml", *arguments(desk, cluster)[2:]]
    desk.run(*command, **cluster.env)
    (board, *_) = cluster.workers
    assert set(asked(desk)) == {board.name}
    found = json.loads((desk.folder / "runs/study/ablation.json").read_text(encoding="utf-8"))
    assert found["setting"]["latency_device"]["node"] == "board"
    assert all(arm["cost"]["latency_ms"] >= 1 for arm in found["arms"])
    assert "board" in (desk.folder / "runs/study/report.html").read_text(encoding="utf-8")
