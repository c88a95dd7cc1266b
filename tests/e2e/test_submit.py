"""`nasctl submit` and its companions against the Jobs API of a real head, with its token."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasctl.files import sha256
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from search_spaces.blocks import BLOCKS
from tests.e2e.ray_nodes import Head, head
from tests.faults.drive import Bench, Said

GATED = '''\
"""Trainings that wait, from the third on, until a gate is open."""
import os, time
from nasctl.api import Architecture, Cost, Decision, Family, Opaque, SearchSpace
import gated_help

def family():
    numbers = tuple(range(5))
    space = SearchSpace((Decision("depth", numbers), Decision("width", numbers)))
    def decode(choices):
        block = Opaque("cell", depth=choices["depth"], width=choices["width"])
        return Architecture(input_shape=(1, 8, 8), blocks=(block,), num_classes=10)
    def cost(architecture):
        depth, width = gated_help.values(architecture)
        return Cost(latency_ms=1.0 + depth, params=10.0 + width)
    return Family(space=space, decode=decode, cost=cost)

def wait(architecture, *, budget, seed):
    folder = os.environ["GATE_FOLDER"]
    finished = os.path.join(folder, "finished")
    while not os.path.exists(os.path.join(folder, "gate")):
        if not os.path.exists(finished) or len(open(finished).read().split()) < 2:
            break
        time.sleep(0.05)
    with open(finished, "a") as log:
        log.write(architecture.id + "\\n")
    depth, width = gated_help.values(architecture)
    return {"accuracy": 0.5 + 0.04 * depth + 0.02 * width}

FAMILIES = {"gated": family}
EVALUATORS = {"wait": wait}
'''
HELP = """\
def values(architecture):
    values = dict(architecture.blocks[0].values)
    return values["depth"], values["width"]
"""
CONFIG = """\
defaults: [search, _self_, override tracking: none]
name: gated
trials: 5
space: {family: gated}
evaluator: wait
search: {window: 2}
executor: {workers: 1, cpus: 0.5}
"""


STUDY = """\
defaults: [ablate, _self_, override data: digits, override latency: none, override tracking: none]
name: study
evaluator: wide
baseline: {family: staged, options: {stem: {channels: 8}, bottleneck_activation: linear,
  stages: [{channels: 8, depth: 1, stride: 1}]}}
factors: {kernel_size: [3, 5]}
seeds: {min: 3, max: 3}
executor: {workers: 1, cpus: 0.5}
"""
STUDY_PLUGIN = """\
def wide(architecture, *, budget, seed):
    kernel_size = max(getattr(block, "kernel_size", 0) for block in architecture.blocks)
    return {"accuracy": 0.5 + 0.05 * kernel_size + seed % 7 / 1000}

EVALUATORS = {"wide": wide}
"""
OWN = """\
defaults: [search, _self_, override data: npz, override latency: none, override tracking: none]
name: own
trials: 1
data: {path: own.npz, val_size: 15}
objectives: {accuracy: max, params: min}
recipe: {epochs: 1, batch_size: 16, pad_crop: 0}
reference: [lenet5_modern]
init: {weights: sub/start.pt}
executor: {workers: 1, cpus: 0.5}
space:
  options:
    stem: {channels: 4}
    stages: [{channels: 4, depth: 1, stride: 2}]
    block_type: depthwise_separable
    bottleneck_activation: linear
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that trains too, with the Jobs API."""
    tmp = tmp_path_factory.mktemp("cluster")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NASCTL_RUNS": str(tmp / "runs"),
        "NASCTL_CACHE": str(tmp / "cache"),
        "GATE_FOLDER": str(tmp),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    }
    with head(tmp, cpus=1, dashboard=True, environment=environment) as node:
        yield node


@pytest.fixture
def bench(tmp_path: Path, cluster: Head, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A user's desk; commands go to the cluster, with its token."""
    made = Bench(tmp_path, tmp_path / "cache")
    made.write("gated.yaml", CONFIG)
    made.write("gated_plugin.py", GATED)
    made.write("gated_help.py", HELP)
    monkeypatch.setenv("NASCTL_ADDRESS", str(cluster.dashboard_url))
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    for name in ("gate", "finished"):
        (cluster.tmp / name).unlink(missing_ok=True)
    return made


SUBMIT = ("submit", "gated.yaml", "--plugin", "gated_plugin")


def seen(process: subprocess.Popen[str], text: str) -> None:
    """Reads what a client says until it has said that."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))


def status(bench: Bench, job: str) -> str:
    listed = json.loads(bench.call("jobs", "--json").out)
    return next(entry["status"] for entry in listed if entry["job"] == job)


def test_a_search_outlives_its_client_and_is_stopped_fetched_and_continued(
    bench: Bench, cluster: Head
) -> None:
    client = bench.start(*SUBMIT)
    seen(client, "[2/5]")
    client.send_signal(signal.SIGKILL)
    client.communicate()
    listed = json.loads(bench.call("jobs", "--json").out)
    job = [entry["job"] for entry in listed if entry["run"] == "gated"][-1]
    assert job.startswith("nasctl-gated-")
    assert status(bench, job) == "RUNNING"

    refused = bench.call(*SUBMIT)
    assert refused.code == 4
    assert f"is being driven by the job {job}" in refused.error

    came = bench.call("fetch", "gated")
    assert (came.code, came.out) == (0, "runs/gated\n"), came.err
    here = RunRecords(bench.folder / "runs" / "gated")
    assert sum(t.state.is_final for t in here.trials()) == 2
    checks = bench.diagnosis("gated").checks
    # The processes of the run that goes on are on this machine too, where I9 sees them.
    assert [c.to_line() for c in checks if c.state == "violated" and c.id != "I9"] == []
    assert status(bench, job) == "RUNNING", "the copy changed nothing"

    there = cluster.tmp / "runs" / "gated"
    stopped = bench.call("stop", "gated")
    assert stopped.code == 0, stopped.err
    assert f"{job}: STOPPED" in stopped.err
    assert RunRecords(there).status == "INTERRUPTED", "SIGTERM, and time to store what there is"
    assert "stopped; everything finished is kept" in bench.call("logs", job).out

    (cluster.tmp / "gate").touch()
    done = bench.call(*SUBMIT, "--json")
    assert done.code == 0, done.err
    records = RunRecords(there)
    assert json.loads(done.out) == records.front
    assert records.front["trials"]["COMPLETE"] == 5
    assert records.trials()[:2] == [t for t in here.trials() if t.state.is_final]
    trained = (cluster.tmp / "finished").read_text().split()
    assert len(trained) == len(set(trained)) == 5, "nothing was trained twice"


def test_the_token_opens_the_door_and_nothing_else_does(
    bench: Bench, cluster: Head, tmp_path: Path
) -> None:
    def jobs(*arguments: str, token: str) -> Said:
        said = bench.call("jobs", *arguments, RAY_AUTH_TOKEN=token)
        assert cluster.token not in said.out + said.err
        return said

    wrong = jobs(token="0123456789abcdef" * 4)
    assert wrong.code == 4
    assert wrong.error == f"Error: {cluster.dashboard_url}: the cluster does not know this token"
    missing = jobs(token="")
    assert missing.code == 4
    assert "the cluster wants a token: set RAY_AUTH_TOKEN, or --token-file FILE" in missing.error
    file = tmp_path / "token"
    file.write_text(f"{cluster.token}\n")
    assert jobs("--token-file", str(file), token="").code == 0


def test_a_study_runs_there_too(bench: Bench, cluster: Head) -> None:
    bench.write("study.yaml", STUDY)
    bench.write("study_plugin.py", STUDY_PLUGIN)
    done = bench.call("submit", "study.yaml", "--ablate", "--plugin", "study_plugin", "--json")
    assert done.code == 0, done.err
    there = cluster.tmp / "runs" / "study"
    verdicts = json.loads(done.out)
    assert verdicts == RunRecords(there).verdicts
    assert (verdicts[0]["factor"], verdicts[0]["n"]) == ("kernel_size", 3)
    assert verdicts[0]["effect"] == pytest.approx(0.1, abs=0.01)
    assert bench.call("fetch", "study").code == 0
    here = bench.folder / "runs" / "study"
    assert (here / "verdicts.json").read_bytes() == (there / "verdicts.json").read_bytes()
    assert (here / "report.html").is_file()


@pytest.mark.slow
def test_a_run_is_verified_where_it_is_and_comes_home(bench: Bench, cluster: Head) -> None:
    (cluster.tmp / "gate").touch()
    assert bench.call(*SUBMIT, "name=judged").code == 0
    plugin = ("--plugin", "gated_plugin")
    settings = ("verify.seeds=2", "verify.max_seeds=2", "verify.near=0")
    wrong = bench.call("submit", "judged", "--verify", *plugin, "verify.seads=2")
    assert wrong.code == 2
    assert "did you mean 'verify.seeds'" in wrong.error
    unknown = bench.call("submit", "jugded", "--verify", *plugin)
    assert unknown.code == 4
    assert "did you mean" in unknown.error
    done = bench.call("submit", "judged", "--verify", *plugin, *settings, "--json")
    assert done.code == 0, done.err
    verified = json.loads(done.out)
    assert all(len(m["trainings"]) == 2 for m in verified["members"])
    assert verified["command"].startswith("nasctl submit judged --verify ")
    assert bench.call("fetch", "judged").code == 0
    here = bench.folder / "runs" / "judged"
    assert json.loads((here / "verified.json").read_text()) == verified
    assert (here / "promised.csv").is_file()
    for folder in ("judged", "judged/verify"):
        checks = bench.diagnosis(folder).checks
        assert [c.to_line() for c in checks if c.state == "violated" and c.id != "I9"] == []


@pytest.mark.slow
def test_weights_and_data_travel_with_the_job(bench: Bench, cluster: Head) -> None:
    import numpy as np
    import torch

    from search_spaces import network
    from search_spaces.reference import reference_network

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)
    np.savez(bench.folder / "own.npz", train_images=images, train_labels=np.arange(60) % 3)
    lenet = reference_network("lenet5_modern", input_shape=(1, 16, 16), num_classes=3)
    file = bench.folder / "sub" / "start.pt"
    file.parent.mkdir()
    torch.save(network.build(lenet).state_dict(), file)
    bench.write("own.yaml", OWN)
    done = bench.call("submit", "own.yaml")
    assert done.code == 0, done.err
    place = cluster.tmp / "runs" / "own"
    assert RunRecords(place).config["init"]["weights"] == "sub/start.pt"
    with contextlib.closing(Ledger(place / "ledger.sqlite", BLOCKS, readonly=True)) as ledger:
        assert ledger.meta("init_weights") == {"lenet5_modern": sha256(file)}
    far = bench.call("submit", "own.yaml", "name=far", "init.weights=/nowhere/start.pt")
    assert far.code == 2
    assert "init.weights: /nowhere/start.pt: no such file" in far.error


@pytest.mark.slow
def test_the_client_ends_as_the_job_does(bench: Bench, cluster: Head) -> None:
    impossible = bench.call(*SUBMIT, "name=impossible", "constraints.params=1")
    assert impossible.code == 3
    assert "params" in impossible.error
    unknown = bench.call(*SUBMIT, "name=unknown", "evaluator=wiat")
    assert unknown.code == 2
    assert "did you mean 'wait'" in unknown.error

    client = bench.start(*SUBMIT, "name=stopped")
    seen(client, "[2/5]")
    assert bench.call("stop", "stopped").code == 0
    _, err = client.communicate(timeout=120)
    assert client.returncode == 143
    assert err.count("Error: ") == 1


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_which_can_be_followed_again(bench: Bench, cluster: Head) -> None:
    client = bench.start(*SUBMIT, "name=left")
    seen(client, "[2/5]")
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 130
    assert "the job goes on: nasctl logs nasctl-left-" in err
    (cluster.tmp / "gate").touch()
    followed = bench.call("logs", "left")
    assert followed.code == 0, followed.err
    assert "[5/5]" in followed.out


@pytest.mark.slow
def test_a_head_that_is_gone_ends_the_client_with_a_hint(bench: Bench, tmp_path: Path) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NASCTL_RUNS": str(tmp_path / "runs"),
        "GATE_FOLDER": str(tmp_path),
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    }
    with head(tmp_path, cpus=1, dashboard=True, environment=environment) as node:
        at = {"NASCTL_ADDRESS": str(node.dashboard_url), "RAY_AUTH_TOKEN": node.token}
        client = bench.start(*SUBMIT, "name=lost", **at)
        seen(client, "[2/5]")
        node.kill()
        _, err = client.communicate(timeout=180)
    assert client.returncode == 4
    assert "nothing answers there" in err
    assert "nasctl logs nasctl-lost-" in err
