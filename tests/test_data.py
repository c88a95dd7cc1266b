"""Data sets: every reader on small fabricated files, and what is said about broken ones."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import yaml

from nasctl.ablation.build import prepare_study
from nasctl.config import load_ablation, load_config
from nasctl.data import (
    DATASETS,
    FASHION_MNIST_CLASSES,
    _digits_of_sklearn,
    check_dataset_options,
    load_dataset,
    stratified_split,
)
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.plugins import load_plugins
from nasctl.prepare import load_problem
from tests.data_samples import IDX, ROOT, rng, tiny

# The value


def test_arrays_are_read_only_and_the_given_ones_stay_as_they_were() -> None:
    images = np.zeros((3, 1, 4, 4), np.uint8)
    data = tiny(val_images=images)
    with pytest.raises(ValueError, match="read-only"):
        data.val_images[0] = 1
    images[0] = 1
    assert data.val_labels.dtype == np.int64
    assert data.class_names == ("0", "1", "2")
    assert data.input_shape == (1, 4, 4)


def test_without_test_hides_the_test_split_and_keeps_the_fingerprint() -> None:
    data = tiny()
    seen = data.without_test()
    assert (seen.test_images, seen.test_labels, seen.test_fingerprint) == (None, None, None)
    assert seen.fingerprint == data.fingerprint
    assert len(data.fingerprint) == 16
    copy = pickle.loads(pickle.dumps(seen))
    assert copy.__dict__["fingerprint"] == data.fingerprint, "workers must not hash again"


def test_fingerprint_is_of_the_content() -> None:
    data = tiny()
    assert dataclasses.replace(data, name="other").fingerprint == data.fingerprint
    for field in ("train_images", "train_labels", "val_images", "val_labels"):
        changed = getattr(data, field).copy()
        changed.flat[0] = (changed.flat[0] + 1) % 3
        assert dataclasses.replace(data, **{field: changed}).fingerprint != data.fingerprint
    changed = dataclasses.replace(data, test_images=data.test_images * 0)  # type: ignore[operator]
    assert changed.fingerprint == data.fingerprint
    assert changed.test_fingerprint != data.test_fingerprint


def test_normalisation_is_that_of_the_training_split() -> None:
    colours = rng.integers(0, 256, (9, 3, 4, 4), dtype=np.uint8)
    splits = {"train_images": colours[:6], "val_images": colours[6:]}
    data = tiny(**splits, test_images=None, test_labels=None)
    mean, deviation = data.normalisation
    pixels = data.train_images / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)))
    np.testing.assert_allclose(deviation, pixels.std((0, 2, 3)))
    constant = tiny(train_images=np.full((6, 1, 4, 4), 51, np.uint8)).normalisation
    assert constant == ((pytest.approx(0.2),), (1.0,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((6, 1, 4, 4), np.float32)}, "train_images: must be uint8"),
        ({"train_images": np.zeros((6, 4, 4), np.uint8)}, r"train_images: must be \(N, C, H, W\)"),
        ({"val_images": np.zeros((3, 1, 5, 4), np.uint8)}, r"val_images: \(1, 5, 4\), but"),
        ({"val_images": np.zeros((0, 1, 4, 4), np.uint8), "val_labels": np.zeros(0, int)}, "N > 0"),
        ({"val_labels": np.array([0, 1])}, "val: 3 images but 2 labels"),
        ({"val_labels": np.array([0, 1, 3])}, "val_labels: 0 to 3 are not in 0 to 2"),
        ({"train_labels": np.array([-1, 1, 2, 0, 1, 2])}, "train_labels: -1 to 2"),
        ({"test_labels": np.array([0.0, 1.0])}, "test_labels: must be whole numbers"),
        ({"test_labels": None}, "test: images and labels must both be NumPy arrays"),
        ({"class_names": ("a", "b")}, "class_names: 2 names for 3 classes"),
    ],
)
def test_bad_arrays_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"data tiny: {message}|{message}"):
        tiny(**changes)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(val_labels=np.array([9, 9, 9]), class_names=("a",))
    assert len(caught.value.problems) == 2


# Splitting


def test_split_keeps_class_shares_and_loses_nothing() -> None:
    labels = np.repeat(np.arange(4), [100, 50, 30, 20])
    rest, chosen = stratified_split(labels, 20, seed=1)
    assert sorted([*rest, *chosen]) == list(range(200))
    assert np.bincount(labels[chosen]).tolist() == [10, 5, 3, 2]
    assert list(chosen) == sorted(chosen)


def test_split_depends_on_the_seed_alone() -> None:
    labels = rng.integers(0, 10, 300)
    first = stratified_split(labels, 37, seed=5)[1]
    np.testing.assert_array_equal(first, stratified_split(labels, 37, seed=5)[1])
    assert len(first) == 37
    assert not np.array_equal(first, stratified_split(labels, 37, seed=6)[1])


@pytest.mark.parametrize("count", [0, 4, 9])
def test_split_needs_something_on_both_sides(count: int) -> None:
    with pytest.raises(ConfigError, match=r"data.val_size"):
        stratified_split(np.array([0, 1, 0, 1]), count, seed=0)


# The packaged subset


def test_packaged_subset() -> None:
    data = load_dataset("fashion_mnist_12k", {})
    assert data.train_images.shape == (10_000, 1, 28, 28)
    assert data.val_images.shape == (2_000, 1, 28, 28)
    assert data.test_images is not None
    assert data.test_images.shape == (5_000, 1, 28, 28)
    assert data.test_labels is not None
    for labels in (data.train_labels, data.val_labels, data.test_labels):
        assert len(set(np.bincount(labels, minlength=10))) == 1, "every class equally often"
    assert data.class_names == FASHION_MNIST_CLASSES
    assert data.fingerprint == "c58abea18f95906e"
    images = np.concatenate([data.train_images, data.val_images]).reshape(12_000, -1)
    assert len(np.unique(images, axis=0)) > 11_990, "no image is in both splits"


def test_packaged_subset_is_what_the_script_draws_from_the_original_files() -> None:
    if not IDX.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist (.ci/run installs it)")
    spec = spec_from_file_location("make", ROOT / "scripts" / "make_fashion_mnist_12k.py")
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    drawn = script.draw(IDX)
    with np.load(script.ASSET) as asset:
        assert sorted(asset) == sorted(drawn)
        for key, array in drawn.items():
            np.testing.assert_array_equal(asset[key], array)


def test_licence_travels_with_the_images() -> None:
    text = (ROOT / "nasctl" / "assets" / "LICENSE.fashion_mnist").read_text()
    assert "Zalando SE" in text
    assert "Permission is hereby granted, free of charge" in text


def test_loading_imports_no_torch() -> None:
    code = (
        "import sys; from nasctl.data import load_dataset; load_dataset('fashion_mnist_12k', {});"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Digits, and choosing by name


def test_digits() -> None:
    data = load_dataset("digits", {})
    assert data.train_images.shape == (1197, 1, 8, 8)
    assert len(data.val_labels) == 300
    assert data.test_labels is not None
    assert len(data.test_labels) == 300
    assert data.train_images.max() == 255


def test_digits_are_those_of_scikit_learn() -> None:
    """Read from its file, without importing it."""
    from sklearn.datasets import load_digits

    table = _digits_of_sklearn()
    bunch = load_digits()
    np.testing.assert_array_equal(table[:, :-1].reshape(-1, 8, 8), bunch.images)
    np.testing.assert_array_equal(table[:, -1], bunch.target)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblemError, match=r"data=digits: scikit-learn's .*gz"):
        load_dataset("digits", {})


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("fashion_mnist_12k", {"path": "/data"},
         "data.path: unknown option of fashion_mnist_12k 'path' (it takes none)"),
        ("digits", {"splitseed": 1}, "data.splitseed: unknown option of digits 'splitseed'; did "
         "you mean 'split_seed'? (known: split_seed)"),
        ("cifar10", {}, "data.path: missing (required by cifar10)"),
        ("digit", {}, "data.name: unknown data set 'digit'; did you mean 'digits'? (known: "),
        ("mine", {"any": 1}, "data.num: missing (required by mine)"),
    ],
)  # fmt: skip
def test_options_are_checked_without_reading(
    name: str, options: dict[str, object], problem: str
) -> None:
    def mine(num: int, **rest: object) -> object:
        pytest.fail("read")

    with pytest.raises(ConfigError) as error:
        check_dataset_options(name, options, {**DATASETS, "mine": mine})  # type: ignore[dict-item]
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(problem)


def test_a_search_and_a_study_name_the_data_set_that_does_not_take_an_option() -> None:
    said = "data.path: unknown option of digits 'path'"
    wrong = ["data=digits", "data.path=/x"]
    nothing = load_plugins([])
    with pytest.raises(ConfigError, match=said):
        load_problem(load_config("mbv2_space", wrong).config, nothing, allow_no_data=True)
    with pytest.raises(ConfigError, match=said):
        prepare_study(load_ablation("linear_bottleneck", wrong).config, nothing, lambda *_: [])


def test_plugin_data_sets() -> None:
    def mine(num: int, **rest: object) -> object:
        return tiny(name=f"mine {num}") if num else "nothing"

    assert load_dataset("mine", {"num": 3, "any": 1}, {"mine": mine}).name == "mine 3"  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="mine gave str, expected a Dataset"):
        load_dataset("mine", {"num": 0}, {"mine": mine})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", DATASETS)
def test_packaged_configs_name_every_option(name: str) -> None:
    import inspect

    config = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())
    assert config.pop("name") == name
    parameters = inspect.signature(DATASETS[name]).parameters
    defaults = {k: "???" if p.default is p.empty else p.default for k, p in parameters.items()}
    assert config == defaults
