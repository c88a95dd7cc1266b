"""A search on a cluster of several Ray nodes, each of them a process tree of its own (F4, F5)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nasctl.ledger import Ledger
from nasctl.trial import State, Trial
from search_spaces.blocks import BLOCKS
from tests.e2e.command import Desk, completed, history
from tests.e2e.ray_nodes import Head, Node, head, until

HOLDING = '''\
"""Trainings that stand still on a node while a file says so."""
import os, time
from pathlib import Path

NODE = os.environ.get("RAY_TEST_NODE")

def hold(*_):
    while NODE and Path(__file__).with_name("hold-" + NODE).exists():
        time.sleep(0.02)

def formula(architecture, *, budget, seed):
    hold()
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    values = dict(architecture.blocks[0].values)
    return {"accuracy": 0.5 + 0.04 * values["depth"] + 0.02 * values["width"]}

EVALUATORS = {"held": formula}
'''
HOLDING_NETWORKS = '''\
"""The same for networks: before each layer."""
import torch
from holding import NODE, hold

if NODE:
    torch.nn.modules.module.register_module_forward_pre_hook(hold)

EVALUATORS = {}
'''
TOY = ("toy.yaml", "--plugin", "toy_table", "--plugin", "holding", "evaluator=held")
DIGITS = (
    *("digits.yaml", "--plugin", "holding_networks", "trials=3", "recipe.epochs=6"),
    *("latency=none", "tracking=none", "fidelity.checkpoint_s=0.001"),
)


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.write("holding.py", HOLDING)
    desk.write("holding_networks.py", HOLDING_NETWORKS)
    return desk


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Head]:
    with head(tmp_path) as found:
        yield found


def search(*arguments: str, cluster: Head) -> tuple[str, ...]:
    address = f"executor.address={cluster.address}"
    return ("search", *arguments, "executor=ray", address, "--progress", "plain")


@contextlib.contextmanager
def held(desk: Desk, node: Node) -> Iterator[None]:
    """Trainings on the node stand still."""
    file = desk.write(f"hold-{node.name}", "")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def trained(trials: list[Trial], number: int, epochs: int) -> bool:
    return len(trials) > number and len(trials[number].evaluations) >= epochs


def wait_for(
    desk: Desk, run: str, process: subprocess.Popen[str], condition: Callable[[list[Trial]], bool]
) -> None:
    desk.wait_for(run, process, condition, seconds=600)


def _events(desk: Desk, run: str) -> list[tuple[str, dict[str, Any]]]:
    ledger = Ledger(desk.folder / "runs" / run / "ledger.sqlite", BLOCKS, readonly=True)
    with contextlib.closing(ledger):
        return [(kind, data) for _, kind, data in ledger.events()]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    return err


def test_f4_a_node_joins_another_dies_and_its_trial_goes_on_from_what_had_travelled(
    desk: Desk, cluster: Head
) -> None:
    first = cluster.worker()
    process = desk.start(*search(*DIGITS, cluster=cluster), **cluster.env)
    wait_for(desk, "digits", process, lambda t: trained(t, 0, 2))
    with held(desk, first):
        second = cluster.worker()
        wait_for(desk, "digits", process, lambda t: trained(t, 1, 1))  # on the node that joined
        checkpoints = desk.folder / "runs" / "digits" / "checkpoints" / "0"
        assert list(checkpoints.glob("*.ckpt")), "nothing has travelled"
        first.kill()
        wait_for(desk, "digits", process, lambda t: t[0].attempts == 2)
    finish(process)
    trials = desk.trials("digits")
    assert [t.state for t in trials] == [State.COMPLETE] * 3
    assert [[e.epoch for e in t.evaluations] for t in trials] == [list(range(1, 7))] * 3
    events = _events(desk, "digits")
    lost = {"number": 0, "attempt": 1, "reason": "its node left the cluster", "node": True}
    (told,) = (data for kind, data in events if kind == "lost")
    assert told.pop("seconds") > 0
    assert told == lost
    (resumed,) = (data for kind, data in events if kind == "resumed")
    assert resumed["number"] == 0
    assert resumed["epoch"] > 1
    weights = {p.name for p in (desk.folder / "runs" / "digits" / "weights").iterdir()}
    assert {f"{t.arch_id}-s{t.seed}.safetensors" for t in trials} <= weights
    assert not (desk.folder / "runs" / "digits" / "checkpoints" / "0").exists()
    assert second.pids


def test_f5_a_head_that_dies_ends_the_search_and_the_same_command_goes_on_with_another(
    desk: Desk, cluster: Head, tmp_path: Path
) -> None:
    node = cluster.worker(environment={"TOY_SECONDS": "0.5"})
    process = desk.start(*search(*TOY, cluster=cluster), **cluster.env)
    wait_for(desk, "toy", process, lambda t: completed(t) >= 3)
    with held(desk, node):
        os.kill(cluster.pid_of("gcs_server"), 9)
        err = finish(process, 4)
    assert f"the head at {cluster.address} does not answer any more" in err
    assert "every finished trial is kept, the same command continues" in err
    before = history([t for t in desk.trials("toy") if t.state is State.COMPLETE])
    assert 3 <= len(before) < 12
    with head(tmp_path) as another:
        another.worker()
        desk.run(*search(*TOY, cluster=another), timeout=900, **another.env)
    after = history(desk.trials("toy"))
    assert set(before) <= set(after)
    desk.run("search", *TOY, "name=undisturbed", "executor=inline")
    assert after == history(desk.trials("undisturbed"))


def test_two_searches_share_a_cluster_and_the_one_without_room_says_that_it_waits(
    desk: Desk, cluster: Head
) -> None:
    node = cluster.worker()
    with held(desk, node):
        first = desk.start(*search(*TOY, "name=first", cluster=cluster), **cluster.env)
        wait_for(desk, "first", first, bool)
        until(lambda: b"ray::Worker" in _titles(node), 300)
        second = desk.start(*search(*TOY, "name=second", cluster=cluster), **cluster.env)
        assert second.stderr is not None
        lines = iter(second.stderr.readline, "")
        assert any("waiting for room: others use the cluster" in line for line in lines)
    finish(first)
    finish(second)
    assert history(desk.trials("first")) == history(desk.trials("second"))
    assert completed(desk.trials("second")) == 12


def _titles(node: Node) -> bytes:
    found = b""
    for pid in node.pids:
        with contextlib.suppress(OSError):  # gone meanwhile
            found += Path(f"/proc/{pid}/cmdline").read_bytes()
    return found


def test_auto_outside_of_a_job_is_an_environment_problem_and_the_run_can_go_on(desk: Desk) -> None:
    auto = ("search", *TOY, "executor=ray", "executor.address=auto")
    _, err = desk.run(*auto, code=4, RAY_ADDRESS="")
    assert "executor.address=auto: this process is no Ray job (RAY_ADDRESS is not set)" in err
    assert "Traceback" not in err
    assert "searching" not in err, "said before anything is priced or measured"
    desk.run("search", *TOY, "executor=inline")
    assert completed(desk.trials("toy")) == 12
