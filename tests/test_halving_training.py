"""Training in branches and from checkpoints: bit by bit what it would have been without."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nasctl import augment, checkpoints, train
from nasctl.arch import Architecture
from nasctl.checkpoints import Checkpoints, DamagedCheckpointError
from nasctl.data import Dataset
from nasctl.evaluate import TrainingJob
from nasctl.executors.attempt import Attempt
from nasctl.recipe import Recipe
from nasctl.schedule import cooldown, learning_rate
from nasctl.trial import OutcomeKind, Work
from search_spaces.blocks import ConvNormActivation, GlobalPoolLinear

RECIPE = Recipe(
    epochs=4, batch_size=64, lr=0.1, schedule="wsd", warmup=0.1, decay=0.25, amp="off", pad_crop=1,
    flip=True,
)  # fmt: skip
TIMES = ("seconds", "images_per_second", "cooldown_seconds")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    augment.clear_cache()


def network() -> nn.Module:
    """With everything that has a state: batch norm, dropout, momentum, channels-last weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 10)),
        )


def plain(epochs: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in e.items() if k not in TIMES} for e in epochs]


def without_branch(epochs: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in e.items() if not k.startswith("rung_")} for e in plain(epochs)]


# The schedule


def test_wsd_warms_up_stays_and_decays() -> None:
    rates = [learning_rate(RECIPE, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert all(b > a for a, b in itertools.pairwise(rates[:11]))
    assert rates[10:76] == [0.1] * 66
    assert all(b < a for a, b in itertools.pairwise(rates[75:]))
    assert rates[-1] == pytest.approx(0.1 * (1 - math.sqrt(24 / 25)))


def test_a_cooldown_is_one_minus_a_root() -> None:
    assert [cooldown(p) for p in (-1.0, 0.0, 0.25, 1.0, 2.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]


# Branches


def test_a_branch_leaves_the_trunk_as_it_was(digits: Dataset) -> None:
    models = [network(), network()]
    branches = train.Branches(rungs=(1, 3), fraction=0.3)
    whole = list(train.train(models[0], digits, RECIPE, 0))
    branched = list(train.train(models[1], digits, RECIPE, 0, branches=branches))
    assert without_branch(branched) == plain(whole)
    for (name, a), b in zip(
        models[0].state_dict().items(), models[1].state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert ["rung_accuracy" in e for e in branched] == [True, False, True, False]
    assert branched[0]["cooldown_seconds"] > 0


def test_a_branch_is_a_training_that_ends_there(digits: Dataset) -> None:
    """One epoch and a cool-down of one more: the wsd schedule of two with a decay over half."""
    branches = train.Branches(rungs=(1,), fraction=1.0)
    recipe = dataclasses.replace(RECIPE, epochs=4, warmup=0.0)
    branch = next(train.train(network(), digits, recipe, 0, branches=branches))
    short = dataclasses.replace(recipe, epochs=2, decay=0.5)
    last = list(train.train(network(), digits, short, 0))[-1]
    assert branch["rung_accuracy"] == last["accuracy"]
    assert branch["rung_val_loss"] == pytest.approx(last["val_loss"], rel=1e-5)


def test_a_cooldown_longer_than_an_epoch(digits: Dataset) -> None:
    branches = train.Branches(rungs=(2,), fraction=0.8)
    epochs = list(train.train(network(), digits, RECIPE, 0, branches=branches))
    assert without_branch(epochs) == plain(list(train.train(network(), digits, RECIPE, 0)))
    assert epochs[1]["rung_val_loss"] < epochs[1]["val_loss"]


def test_dropout_is_a_function_of_seed_and_epoch(digits: Dataset) -> None:
    torch.manual_seed(1)
    before = plain(list(train.train(network(), digits, RECIPE, 7)))
    torch.manual_seed(2)
    torch.rand(100)
    state = torch.get_rng_state()
    assert plain(list(train.train(network(), digits, RECIPE, 7))) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_out_of_memory_before_the_first_step(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError("no room for the model")

    monkeypatch.setattr(train.Setup, "place", full)
    with pytest.raises(train.OutOfMemoryTrialError, match="no room"):
        next(train.train(network(), digits, RECIPE, 0))


# From a checkpoint


def folder(tmp_path: Path, *, every_s: float | None = 0.0, recipe: Recipe = RECIPE) -> Checkpoints:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    return Checkpoints(
        tmp_path / "checkpoints" / "3", identity={"recipe": recipe.to_json()}, every_s=every_s
    )


def files(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "checkpoints" / "3").iterdir())


def cut(digits: Dataset, kept: Checkpoints, epochs: int, **options: Any) -> None:
    """Trains until `epochs` were reported and the next is under way; then the worker is lost."""
    training = train.train(network(), digits, RECIPE, 0, checkpoints=kept, **options)
    for _ in range(epochs + 1):
        next(training)
    training.close()


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_training_goes_on_bit_by_bit(
    digits: Dataset, tmp_path: Path, done: int, amp: Any
) -> None:
    recipe = dataclasses.replace(RECIPE, amp=amp)
    expected_model = network()
    expected = plain(list(train.train(expected_model, digits, recipe, 0)))
    kept = folder(tmp_path)
    training = train.train(network(), digits, recipe, 0, checkpoints=kept)
    for _ in range(done + 1):
        next(training, None)
    resume = kept.latest(done)
    assert resume is not None
    assert resume.epoch == done
    model = network()
    torch.manual_seed(99)
    rest = plain(list(train.train(model, digits, recipe, 0, resume=resume)))
    assert rest == expected[done:]
    for (name, a), b in zip(
        model.state_dict().items(), expected_model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_two_are_kept_and_none_of_the_last_epoch(digits: Dataset, tmp_path: Path) -> None:
    list(train.train(network(), digits, RECIPE, 0, checkpoints=folder(tmp_path)))
    assert files(tmp_path) == ["2.ckpt", "3.ckpt"]


def test_rungs_are_kept_however_short(digits: Dataset, tmp_path: Path) -> None:
    branches = train.Branches(rungs=(1,), fraction=0.2)
    kept = folder(tmp_path, every_s=None)
    list(train.train(network(), digits, RECIPE, 0, branches=branches, checkpoints=kept))
    assert files(tmp_path) == ["1.ckpt"]


def test_a_trial_that_is_stopped_at_a_rung_writes_nothing(digits: Dataset, tmp_path: Path) -> None:
    branches = train.Branches(rungs=(1,), fraction=0.2)
    kept = folder(tmp_path)
    training = train.train(network(), digits, RECIPE, 0, branches=branches, checkpoints=kept)
    next(training)
    training.close()
    assert not (tmp_path / "checkpoints" / "3").exists()


def test_epochs_that_the_engine_does_not_know_are_trained_again(
    digits: Dataset, tmp_path: Path
) -> None:
    kept = folder(tmp_path)
    cut(digits, kept, 3)
    found = kept.latest(2)
    assert found is not None
    assert found.epoch == 2
    assert kept.latest(1) is None


def test_without_the_runs_folder_nothing_is_written(digits: Dataset, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "elsewhere" / "3", identity={}, every_s=0.0)
    cut(digits, kept, 2)
    assert list(tmp_path.iterdir()) == []
    assert kept.latest(9) is None


def test_links_out_of_the_run_are_not_followed(digits: Dataset, tmp_path: Path) -> None:
    kept = folder(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "checkpoints" / "3").symlink_to(tmp_path / "outside")
    cut(digits, kept, 2)
    checkpoints.remove(tmp_path / "checkpoints" / "3")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    epochs = list(train.train(network(), digits, RECIPE, 0, checkpoints=folder(tmp_path)))
    assert len(epochs) == RECIPE.epochs
    assert files(tmp_path) == []


DAMAGES = {
    "truncated": lambda data: data[:-100],
    "empty": lambda data: b"",
    "cut in the first line": lambda data: data[:20],
    "a bit flipped": lambda data: data[:-500] + bytes([data[-500] ^ 1]) + data[-499:],
    "a bit of the hash flipped": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(digits: Dataset, tmp_path: Path, damage: Any) -> None:
    kept = folder(tmp_path)
    cut(digits, kept, 3)
    path = tmp_path / "checkpoints" / "3" / "3.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    found = kept.latest(3)
    assert found is not None
    assert found.epoch == 2
    assert list(checkpoints.damaged(path.parent)) == [f"{path}: damaged"]
    assert files(tmp_path) == ["2.ckpt"]
    path.with_name("2.ckpt").write_bytes(b"")
    assert kept.latest(3) is None


def test_the_state_of_another_training_is_not_used(digits: Dataset, tmp_path: Path) -> None:
    cut(digits, folder(tmp_path), 2)
    assert folder(tmp_path).latest(2) is not None
    other = dataclasses.replace(RECIPE, lr=0.2)
    assert folder(tmp_path, recipe=other).latest(2) is None


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    """Also if it carries the right hash."""
    kept = folder(tmp_path)
    data = pickle.dumps(_Canary(tmp_path / "canary"))
    path = tmp_path / "checkpoints" / "3" / "1.ckpt"
    path.parent.mkdir()
    digest = hashlib.sha256(data).hexdigest().encode()
    for content in (data, checkpoints.MAGIC + digest + b"\n" + data):
        path.write_bytes(content)
        assert kept.latest(5) is None
        assert not (tmp_path / "canary").exists()
    with pytest.raises(DamagedCheckpointError):
        kept._load(path)


# As a job


ARCHITECTURE = Architecture(
    input_shape=(1, 8, 8),
    num_classes=10,
    blocks=(ConvNormActivation(out=8, kernel_size=3, stride=2), GlobalPoolLinear(out=10)),
)


def job(digits: Dataset, tmp_path: Path) -> TrainingJob:
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    return TrainingJob(
        recipe=RECIPE,
        cooldown=0.3,
        checkpoints=str(tmp_path / "checkpoints"),
        checkpoint_s=0.0,
        dataset=digits,
    )


def test_a_job_reports_the_epoch_it_goes_on_with(digits: Dataset, tmp_path: Path) -> None:
    work = Work(number=3, attempt=1, architecture=ARCHITECTURE, seed=0, epochs=4, rungs=(1,))
    whole = Attempt(job(digits, tmp_path), work)
    messages = [whole.step() for _ in range(4)]
    assert [m.epoch for m in messages] == [1, 2, 3, 4]
    assert messages[-1].outcome is not None
    assert messages[-1].outcome.kind is OutcomeKind.COMPLETE
    again = Attempt(job(digits, tmp_path), dataclasses.replace(work, attempt=2, known_epochs=3))
    last = again.step()
    assert last.epoch == 4
    assert last.outcome == messages[-1].outcome
    assert plain([dict(last.metrics)]) == plain([dict(messages[-1].metrics)])
    afresh = Attempt(job(digits, tmp_path), dataclasses.replace(work, attempt=2))
    first = afresh.step()
    assert first.epoch == 1
    assert plain([dict(first.metrics)]) == plain([dict(messages[0].metrics)])
    afresh.close()


def test_a_checkpoint_of_another_network_is_not_continued(digits: Dataset, tmp_path: Path) -> None:
    work = Work(number=3, attempt=1, architecture=ARCHITECTURE, seed=0, epochs=4)
    whole = Attempt(job(digits, tmp_path), work)
    for _ in range(3):
        whole.step()
    whole.close()
    other = dataclasses.replace(work, seed=1, known_epochs=3)
    step = Attempt(job(digits, tmp_path), other).step()
    assert step.epoch == 1
    assert step.outcome is None
