"""`init.weights`: what a file may hold, how it is fitted to a network, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nasctl.config import load_config
from nasctl.dataset import Dataset
from nasctl.errors import ConfigError
from nasctl.evaluate import FineTuning, TrainingJob
from nasctl.pretrained import Pretrained, load_pretrained
from nasctl.recipe import Recipe
from nasctl.references import ReferenceNetwork, check_weights, load_references, with_weights
from nasctl.tracking.view import view_run
from nasctl.trial import Work
from search_spaces import network
from search_spaces.reference import reference_network
from tests.tracking_records import FakeRecords, make_trial

NAME = "lenet5_modern"


def lenet(classes: int = 10, channels: int = 1) -> Any:
    return reference_network(NAME, input_shape=(channels, 28, 28), num_classes=classes)


def state(classes: int = 10, channels: int = 1) -> dict[str, torch.Tensor]:
    architecture = lenet(classes, channels)
    model = network.build(architecture)
    network.initialise(model, architecture, seed=5)
    return model.state_dict()


def fit(path: Path, classes: int = 10) -> Pretrained:
    return load_pretrained(str(path), NAME, lenet(classes))


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        fit(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"init.weights: {path}: ")
    return message.removeprefix(f"init.weights: {path}: ")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {k: v.double() for k, v in s.items()},
    ],
    ids=["plain", "wrapped", "parallel", "float64"],
)
def test_every_tensor_arrives(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    known = state()
    torch.save(wrap(known), tmp_path / "w.pt")
    found = fit(tmp_path / "w.pt")
    assert found.fresh == ()
    model = network.build(lenet())
    network.initialise(model, lenet(), seed=0)
    found.put_into(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, known[name]), name


def test_safetensors_are_the_same(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    torch.save(state(), tmp_path / "w.pt")
    one, other = fit(tmp_path / "w.safetensors"), fit(tmp_path / "w.pt")
    assert all(np.array_equal(a, other.arrays[n]) for n, a in one.arrays.items())
    assert one.sha256 != other.sha256
    assert one.label == f"w.safetensors@{one.sha256[:12]}"


def test_a_classifier_of_other_classes_begins_anew(tmp_path: Path) -> None:
    torch.save(state(classes=100), tmp_path / "w.pt")
    found = fit(tmp_path / "w.pt")
    assert len(found.fresh) == 2
    assert all(name.endswith(("weight", "bias")) for name in found.fresh)
    model = network.build(lenet())
    network.initialise(model, lenet(), seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found.put_into(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in found.fresh), name


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class TestRefusals:
    def test_no_file(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "none.pt") == "no such file"
        assert refused(tmp_path) == "is a folder"

    def test_code_is_never_run(self, tmp_path: Path) -> None:
        torch.save({"0.weight": Harmful(tmp_path / "harm")}, tmp_path / "w.pt")
        assert "could run code; save the weights alone" in refused(tmp_path / "w.pt")
        assert not (tmp_path / "harm").exists()

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"nothing that anybody reads", bytes(100)])
    def test_damage(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        assert "cannot be read" in refused(tmp_path / name) or "could run code" in refused(
            tmp_path / name
        )

    @pytest.mark.parametrize("data", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)])
    def test_no_state_dict(self, tmp_path: Path, data: Any) -> None:
        torch.save(data, tmp_path / "w.pt")
        assert refused(tmp_path / "w.pt") == "is no state dict (names and tensors)"

    def test_names_of_another_network(self, tmp_path: Path) -> None:
        other = reference_network("resnet20_cifar", input_shape=(1, 28, 28), num_classes=10)
        torch.save(network.build(other).state_dict(), tmp_path / "w.pt")
        message = refused(tmp_path / "w.pt")
        assert message.startswith(f"not the weights of {NAME}: missing ")
        assert " more; unknown " in message
        assert message.endswith("it looks like the weights of resnet20_cifar")

    def test_one_name_too_few(self, tmp_path: Path) -> None:
        known = state()
        name = next(iter(known))
        torch.save({k: v for k, v in known.items() if k != name}, tmp_path / "w.pt")
        assert f"missing {name}" in refused(tmp_path / "w.pt")

    def test_shapes(self, tmp_path: Path) -> None:
        torch.save(state(channels=3), tmp_path / "w.pt")
        message = refused(tmp_path / "w.pt")
        assert f"other shapes than {NAME} has here: 0." in message
        assert "x3x5x5 there" in message
        assert "x1x5x5 here" in message

    def test_numbers_that_are_none(self, tmp_path: Path) -> None:
        known = state()
        name = next(iter(known))
        known[name][0] = float("nan")
        torch.save(known, tmp_path / "w.pt")
        assert refused(tmp_path / "w.pt") == f"not finite: {name}"


class TestSetting:
    def networks(self, *entries: tuple[str, list[float]]) -> tuple[ReferenceNetwork, ...]:
        return load_references(entries, input_shape=(1, 28, 28), num_classes=10)

    def test_one_file_for_one_network(self, tmp_path: Path) -> None:
        torch.save(state(), tmp_path / "w.pt")
        networks = self.networks((NAME, [1]))
        (found,) = with_weights(networks, str(tmp_path / "w.pt"))
        assert found.start is not None
        both = self.networks((NAME, [1]), ("lenet5", [1]))
        first, second = with_weights(both, {NAME: str(tmp_path / "w.pt")})
        assert first.start is not None
        assert first.start.sha256 == found.start.sha256
        assert second.start is None

    def test_mistakes_are_one_line_each(self, tmp_path: Path) -> None:
        both = self.networks((NAME, [1]), ("mobilenet_v2", [0.25, 0.5]))
        with pytest.raises(ConfigError, match=f"for which of {NAME}, mobilenet_v2 x0.25"):
            with_weights(both, "w.pt")
        with pytest.raises(ConfigError, match="'mobilenet_v2' has several widths"):
            with_weights(both, {"mobilenet_v2": "w.pt"})
        with pytest.raises(ConfigError, match=f"did you mean '{NAME}'"):
            with_weights(both, {"lenet5_modem": "w.pt"})

    def test_a_file_that_changed_stops_the_run(self, tmp_path: Path) -> None:
        torch.save(state(), tmp_path / "w.pt")
        networks = with_weights(self.networks((NAME, [1])), str(tmp_path / "w.pt"))
        assert networks[0].start is not None
        check_weights(networks, {NAME: networks[0].start.sha256})
        check_weights(networks, None)  # a run of before there was such a thing
        with pytest.raises(ConfigError, match=r"w\.pt: has changed since this run began"):
            check_weights(networks, {NAME: "0" * 64})

    def test_in_a_configuration(self) -> None:
        reference = f"reference=[{NAME}]"
        one = load_config("mbv2_space", [reference, "init.weights=w.pt"]).config.init
        assert one.weights == "w.pt"
        many = load_config("mbv2_space", [reference, f"init.weights={{{NAME}: w.pt}}"]).config
        assert many.init.weights == {NAME: "w.pt"}
        with pytest.raises(ConfigError, match=r"init\.weights: is for reference networks"):
            load_config("mbv2_space", ["init.weights=w.pt"])
        with pytest.raises(ConfigError, match=r"init\.lr: must be more than 0"):
            load_config("mbv2_space", [reference, "init.weights=w.pt", "init.lr=0"])


def test_the_tracking_store_shows_the_recipe_that_it_was_trained_with() -> None:
    published = [
        make_trial(-1, choices={"reference": NAME, "width": 1.0, "weights": "w.pt@0"}),
        make_trial(-2, choices={"reference": "lenet5", "width": 1.0}),
    ]
    records = FakeRecords([make_trial(0)], published=published)
    records.config["init"] = {"weights": "w.pt", "lr": 0.04, "warmup": 0.1}
    _, candidate, tuned, scratch = view_run(records)  # type: ignore[arg-type]
    assert tuned.params["recipe.lr"] == "0.04"
    assert tuned.params["weights"] == "w.pt@0"
    assert candidate.params["recipe.lr"] == scratch.params["recipe.lr"] == "0.1"


def test_only_references_begin_with_them_and_they_travel_with_the_data(
    tmp_path: Path, small: Dataset
) -> None:
    torch.save(state(), tmp_path / "w.pt")
    start = fit(tmp_path / "w.pt")
    job = TrainingJob(
        recipe=Recipe(epochs=1, lr=0.4),
        starts={lenet().id: start},
        fine_tuning=FineTuning(lr=1e-9, warmup=0.5),
        weights=str(tmp_path / "out"),
        dataset=small,
    )
    assert job.with_payload(None).starts == {}
    assert job.with_payload(None).with_payload(job.payload) == job
    for number, same in ((-1, True), (0, False)):
        work = Work(number=number, attempt=1, architecture=lenet(), seed=0, epochs=1)
        assert len(list(job(work))) == 1
        (path,) = (tmp_path / "out").iterdir()
        trained = load_pretrained(str(path), NAME, lenet())
        path.unlink()
        # With hardly any learning rate it is still what it began with.
        known = [n for n in start.arrays if "running" not in n]
        near = all(np.allclose(trained.arrays[n], start.arrays[n], atol=1e-4) for n in known)
        assert near is same


@pytest.fixture
def small() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (80, 1, 28, 28), dtype=np.uint8)
    labels = np.arange(80) % 10
    return Dataset(
        name="small",
        train_images=images[:60],
        train_labels=labels[:60],
        val_images=images[60:],
        val_labels=labels[60:],
        num_classes=10,
    )
