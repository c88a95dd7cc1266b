"""Ids of networks of staged spaces: the same tomorrow, elsewhere, and without torch."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nasctl.arch import Architecture
from search_spaces.blocks import BLOCKS
from tests.staged_spaces import (
    GOLDEN,
    ROOT,
    SPACES,
    family,
    packaged_family,
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_ids_survive_json_yaml_and_the_way_back(seed: int) -> None:
    f = FAMILY
    choices = f.space.sample(random.Random(seed))
    a = f.decode(choices)
    assert f.decode(yaml.safe_load(yaml.safe_dump(choices))).id == a.id
    assert f.decode(json.loads(json.dumps(choices))).id == a.id
    as_floats = {n: float(v) if isinstance(v, int) else v for n, v in choices.items()}
    assert f.decode(as_floats).id == a.id
    assert Architecture.from_json(yaml.safe_load(yaml.safe_dump(a.to_json())), BLOCKS) == a


FAMILY = packaged_family()


def golden_networks() -> dict[str, Architecture]:
    drawn = {f"packaged {seed}": (FAMILY, seed) for seed in range(8)}
    drawn |= {name: (family(**options), 0) for name, options in SPACES.items()}
    return {n: f.decode(f.space.sample(random.Random(seed))) for n, (f, seed) in drawn.items()}


def test_ids_are_those_of_yesterday() -> None:
    """Recorded by `python tests/test_staged.py`; a changed id forgets every past result."""
    recorded = json.loads(GOLDEN.read_text())
    assert {n: a.id for n, a in golden_networks().items()} == recorded["ids"]
    read = Architecture.from_json(recorded["example"], BLOCKS)
    assert read.id == recorded["ids"]["packaged 0"]


def test_ids_do_not_depend_on_the_process() -> None:
    command = [sys.executable, __file__, "--print"]
    outputs = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert json.loads(outputs.pop()) == json.loads(GOLDEN.read_text())["ids"]


def test_validation_and_decoding_do_not_import_torch() -> None:
    code = (
        "import sys; from search_spaces import FAMILIES;"
        "f = FAMILIES['staged'](input_shape=(1, 8, 8), num_classes=2, stages=[{'channels': 8}]);"
        "f.decode({}).id; list(f.blocks()); f.count_networks();"
        "sys.exit('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


if __name__ == "__main__":
    ids = {n: a.id for n, a in golden_networks().items()}
    if "--print" in sys.argv:
        print(json.dumps(ids))
    else:
        example = golden_networks()["packaged 0"].to_json()
        GOLDEN.write_text(json.dumps({"ids": ids, "example": example}, indent=1) + "\n")
