"""A reference network that begins with the weights of another run, through the command."""

from __future__ import annotations

import pytest

from nasctl.trial import State
from tests.e2e.command import Desk

SEARCH = ("search", "digits.yaml", "executor=inline", "tracking=none", "latency=none",
          "~objectives.latency_ms", "trials=1", "recipe.epochs=1",
          "reference=[resnet20_cifar]")  # fmt: skip


@pytest.mark.slow  # tests/test_pretrained.py has the parts
def test_what_was_learned_is_there_from_the_first_epoch(desk: Desk) -> None:
    desk.run(*SEARCH, "name=scratch", "recipe.epochs=4")
    (taught,) = desk.records("scratch").references()
    weights = f"runs/scratch/weights/{taught.arch_id}-s0.safetensors"

    out, _ = desk.run(*SEARCH, "name=tuned", f"init.weights={weights}")
    (tuned,) = desk.records("tuned").references()
    assert tuned.state is State.COMPLETE
    first, again = taught.evaluations[0].metrics, tuned.evaluations[0].metrics
    assert again["accuracy"] > first["accuracy"] + 0.1
    assert again["accuracy"] > taught.metrics["accuracy"] - 0.05
    (found,) = desk.records("tuned").front["references"]
    assert found["weights"].startswith(f"{taught.arch_id}-s0.safetensors@")
    assert f"began with {found['weights'][:20]}" in out
    candidates = [desk.trials(run)[0].arch_id for run in ("scratch", "tuned")]
    assert candidates[0] == candidates[1]

    # A verification begins with it, too, on every fresh seed.
    verified = desk.json("verify", "runs/tuned", "verify.seeds=2", "verify.max_seeds=2",
                         "verify.export=false", "executor=inline", "tracking=none")  # fmt: skip
    (shown,) = verified["references"]
    assert len(shown["trainings"]) == 2
    assert shown["metrics"]["accuracy_val"] > first["accuracy"] + 0.1

    # The file is part of what the run is.
    path = desk.folder / weights
    path.write_bytes((desk.folder / "runs" / "tuned" / "weights" / path.name).read_bytes())
    _, err = desk.run(*SEARCH, "name=tuned", f"init.weights={weights}", "trials=2", code=2)
    assert "has changed since this run began" in err
    _, err = desk.run("verify", "runs/tuned", "executor=inline", "tracking=none", code=2)
    assert f"{path.name}: has changed since this run began; put the old file back, or" in err
    _, err = desk.run(*SEARCH, "name=none", "init.weights=gone.pt", code=2)
    assert "init.weights: gone.pt: no such file" in err
    assert not (desk.folder / "runs" / "none").exists()
