"""`nasctl profile` as a user runs it: names, networks of a run, errors, streams."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.command import Desk


def test_a_published_network_as_text_and_as_json(desk: Desk) -> None:
    command = ("profile", "mobilenet_v2", "--width", "1.0", "--input", "3,224,224")
    out, err = desk.run(*command, "--classes", "1000", COLUMNS="100")
    assert err == ""
    assert "3,504,872" in out
    assert "300,774,272" in out
    assert max(map(len, out.splitlines())) <= 100
    data = desk.json(*command)
    assert data["network"] == "mobilenet_v2"
    assert data["input_shape"] == [3, 224, 224]
    assert data["totals"]["macs"] == 300_774_272
    assert len(data["blocks"]) == 20


def test_two_networks(desk: Desk) -> None:
    data = desk.json(
        "profile", "mobilenet_v2@0.5", "--compare", "mobilenet_v1", "--input", "3,96,96"
    )
    assert data["input_shape"] == data["compare"]["input_shape"] == [3, 96, 96]
    assert data["network"] == "mobilenet_v2@0.5"
    assert data["compare"]["network"] == "mobilenet_v1"
    assert data["totals"]["params"] < data["compare"]["totals"]["params"]


def test_the_list_needs_no_torch(desk: Desk) -> None:
    out, err = desk.run("profile", "--list")
    assert err == ""
    assert any(line.startswith("mobilenet_v2 ") for line in out.splitlines())
    names = {n["name"]: n for n in json.loads(desk.run("profile", "--list", "--json")[0])}
    assert names["resnet20_cifar"]["input_shape"] == [3, 32, 32]
    code = (
        "import sys; from nasctl.cli import main; sys.argv[1:] = ['profile', '--list']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=desk.folder, check=False, stdout=subprocess.DEVNULL
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("mobilenet_v22",),
            "Error: unknown network 'mobilenet_v22'; did you mean 'mobilenet_v2'?",
        ),
        (("mobilenet_v2", "--input", "3,224"), "Error: --input 3,224: expected channels,height"),
        (("resnet18", "--width", "0.5"), "Error: width 0.5: resnet18 has no width multiplier"),
        (("resnet18", "--input", "3,1,1"), "Error: resnet18 on 3x1x1 input: block 0"),
        ((), "Error: NETWORK: missing"),
        (("--list", "resnet18"), "Error: --list takes no network, got 'resnet18'"),
        (("conf",), "Error: conf is a run: give one of its networks, conf:ARCH_ID"),
        (("conf:",), "Error: conf:: expected RUN:ARCH_ID"),
        (("resnet18", "--input", "3,10000000,224"), "Error: input 3x10000000x224: expected at"),
    ],
)
def test_what_cannot_be_is_one_line(desk: Desk, arguments: tuple[str, ...], message: str) -> None:
    (desk.folder / "conf").mkdir()
    out, err = desk.run("profile", *arguments, code=2)
    assert out == ""
    assert err.startswith(message)
    assert len(err.splitlines()) == 1


def test_a_reader_that_goes_is_no_error(desk: Desk) -> None:
    nasctl = f"{sys.executable} -m nasctl"
    script = f"set -o pipefail; {nasctl} profile --list --json | true"
    done = subprocess.run(
        ["bash", "-c", script], cwd=desk.folder, env=desk.environment, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_networks_of_a_run(desk: Desk) -> None:
    quick = ("trials=1", "recipe.epochs=1", "latency=none", "tracking=none", "executor=inline")
    desk.run("search", "digits.yaml", "~objectives.latency_ms", *quick)
    (trial,) = desk.trials("digits")
    data = desk.json("profile", f"runs/digits:{trial.arch_id[:6]}")
    assert data["network"] == f"runs/digits:{trial.arch_id}"
    assert data["arch_id"] == trial.arch_id
    for name in ("params", "macs", "activations"):
        assert data["totals"][name] == trial.metrics[name]
    wrong = trial.arch_id[:-1] + ("0" if trial.arch_id[-1] != "0" else "1")
    _, err = desk.run("profile", f"runs/digits:{wrong}", code=2)
    assert f"did you mean {trial.arch_id}?" in err
    _, err = desk.run("profile", "runs/digit:1", code=4)
    assert "did you mean" in err


def test_networks_of_a_table_have_nothing_to_look_into(desk: Desk) -> None:
    desk.run("search", "toy.yaml", "trials=2", "--plugin", "toy_table", "executor=inline")
    trial = desk.trials("toy")[0]
    _, err = desk.run("profile", f"runs/toy:{trial.arch_id}", code=2)
    assert err.startswith(f"Error: runs/toy:{trial.arch_id}: block 'cell' has no module here")
    assert len(err.splitlines()) == 1
    _, err = desk.run("profile", f"runs/toy:{trial.arch_id}", "--plugin", "toy_table", code=2)
    assert "block 'cell' has no module here" in err


OWN = """\
from dataclasses import dataclass
from typing import ClassVar
from nasctl.api import Architecture, Block, Decision, Family, SearchSpace
from search_spaces.blocks import GlobalPoolLinear

@dataclass(frozen=True, kw_only=True)
class Blur(Block):
    op: ClassVar[str] = "blur"
    size: int

    def out_shape(self, in_shape):
        return in_shape

    def build(self, in_shape):
        from torch import nn
        return nn.Conv2d(in_shape[0], in_shape[0], self.size, padding=self.size // 2, groups=2)

def family():
    space = SearchSpace((Decision("size", (3, 5)),))
    def decode(choices):
        blocks = (Blur(size=choices["size"]), GlobalPoolLinear(out=10))
        return Architecture(input_shape=(2, 8, 8), blocks=blocks, num_classes=10)
    return Family(space=space, decode=decode)

def judge(architecture, *, budget, seed):
    return {"accuracy": 0.5}

BLOCKS = {"blur": Blur}
FAMILIES = {"own": family}
EVALUATORS = {"judge": judge}
"""

CONFIG = """\
defaults: [search, _self_, override tracking: none, override latency: none]
name: own
trials: 1
objectives: {accuracy: max, params: min}
space: {family: own}
evaluator: judge
"""


def test_blocks_of_a_plugin_are_looked_into_with_the_plugin(desk: Desk) -> None:
    desk.write("own_blocks.py", OWN)
    desk.write("own.yaml", CONFIG)
    desk.run("search", "own.yaml", "--plugin", "own_blocks", "executor=inline")
    (trial,) = desk.trials("own")
    name = f"runs/own:{trial.arch_id}"
    _, err = desk.run("profile", name, code=2)
    assert f"Error: {name}: block 'blur' has no module here to look into" in err
    data = desk.json("profile", name, "--plugin", "own_blocks")
    size = data["blocks"][0]["block"]["size"]
    assert data["arch_id"] == trial.arch_id
    assert data["blocks"][0]["kernel"] == data["blocks"][0]["receptive_field"] == [size, size]
    assert data["blocks"][0]["macs"] == size * size * 2 * 64
