"""Training: reproducible, blind to test data, and failing in ways that a search can survive."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from nasctl import augment, precision, train
from nasctl.data import Dataset, load_dataset
from nasctl.errors import NasctlError, SpecError
from nasctl.recipe import Recipe
from tests.small_network import network

CPU = torch.device("cpu")
RECIPES = Path(__file__).parent.parent / "conf" / "recipe"
QUICK = Recipe(epochs=2, batch_size=32, lr=0.1, amp="off", pad_crop=1, flip=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    augment.clear_cache()


def fit(data: Dataset, recipe: Recipe = QUICK, seed: int = 0, **kw: Any) -> list[dict[str, float]]:
    return list(train.train(network(**kw), data, recipe, seed))


def results(epochs: list[dict[str, float]]) -> list[tuple[float, float, float]]:
    return [(e["accuracy"], e["loss"], e["val_loss"]) for e in epochs]


# Reproducibility


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_same_seed_same_bits(digits: Dataset, amp: Any) -> None:
    recipe = dataclasses.replace(QUICK, amp=amp)
    first, second = network(), network()
    torch.manual_seed(1)
    before = results(list(train.train(first, digits, recipe, 7)))
    torch.manual_seed(2)
    np.random.seed(3)
    torch.rand(5)
    assert results(list(train.train(second, digits, recipe, 7))) == before
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_leaves_the_global_random_state_alone(digits: Dataset) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    fit(digits, dataclasses.replace(QUICK, epochs=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_another_seed_is_another_result(digits: Dataset) -> None:
    assert results(fit(digits, seed=0)) != results(fit(digits, seed=1))


def test_learns(digits: Dataset) -> None:
    epochs = fit(digits, dataclasses.replace(QUICK, epochs=6, lr=0.2))
    losses = [e["loss"] for e in epochs]
    assert losses[-1] < 0.6 * losses[0]
    assert epochs[-1]["accuracy"] > 0.85
    assert epochs[-1]["val_loss"] < 0.8
    assert set(epochs[0]) == {"accuracy", "loss", "val_loss", "images_per_second", "seconds"}


def test_test_images_are_never_looked_at(digits: Dataset) -> None:
    assert digits.test_images is None
    with_test = load_dataset("digits", {})
    assert results(fit(with_test)) == results(fit(digits))


def test_bfloat16_and_layouts_agree_roughly(digits: Dataset) -> None:
    want = fit(digits)[-1]["loss"]
    for change in ({"amp": "bf16"}, {"channels_last": False}):
        got = fit(digits, dataclasses.replace(QUICK, **change))[-1]["loss"]  # type: ignore[arg-type]
        assert got == pytest.approx(want, rel=0.03)


def test_threads_are_those_of_the_recipe(digits: Dataset) -> None:
    torch.set_num_threads(2)
    fit(digits, dataclasses.replace(QUICK, epochs=1))
    assert torch.get_num_threads() == 1


# The optimizer


def test_learning_rate_schedules() -> None:
    recipe = Recipe(lr=0.4, schedule="onecycle", warmup=0.25)
    rates = [train.learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 / 25)
    assert max(rates) == rates[25] == pytest.approx(0.4)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert rates[12] == pytest.approx(0.4 * (1 / 25 + 24 / 25 * 12 / 25)), "linear"
    cosine = dataclasses.replace(recipe, schedule="cosine")
    rates = [train.learning_rate(cosine, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.4)
    assert rates[50] == pytest.approx(0.2)
    everything = dataclasses.replace(recipe, warmup=1.0)
    assert train.learning_rate(everything, 99, 100) < 0.4


def test_steps_are_those_of_nesterov_sgd_on_the_smoothed_loss(digits: Dataset) -> None:
    """The same epoch by hand: v = m v + g, w -= lr (g + m v), Sutskever et al. 2013 as in torch."""
    recipe = dataclasses.replace(
        QUICK, epochs=1, label_smoothing=0.2, weight_decay=0.01, grad_clip=0.0, lr=0.05
    )
    ours, by_hand = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    by_hand.load_state_dict(ours.state_dict())
    (epoch,) = train.train(ours, digits, recipe, 3)
    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    data = augment.prepared(digits, (8, 8), recipe.pad_crop, CPU)
    parts = augment.batches(
        data, batch_size=32, flip=True, seed=3, epoch=0, channels_last=recipe.channels_last
    )
    losses = []
    for step, (images, labels) in enumerate(parts):
        log_p = by_hand(images).log_softmax(1)
        true = log_p.gather(1, labels[:, None])[:, 0]
        loss = -(0.8 * true + 0.2 * log_p.mean(1)).mean()
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        rate = train.learning_rate(recipe, step, 1197 // 32)
        with torch.no_grad():
            for p, v, g in zip(by_hand.parameters(), velocity, gradients, strict=True):
                g = g + (0.01 * p if p.ndim == 2 else 0)  # noqa: PLW2901 - as in the formula
                v.mul_(0.9).add_(g)
                p.sub_(rate * (g + 0.9 * v))
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert epoch["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_validation_runs_in_evaluation_mode_without_gradients(digits: Dataset) -> None:
    model = network()
    seen = []
    model.register_forward_pre_hook(
        lambda m, inputs: seen.append((m[1].training, torch.is_grad_enabled(), len(inputs[0])))
    )
    list(train.train(model, digits, QUICK, 0))
    steps = 1197 // 32
    assert seen == ([(True, True, 32)] * steps + [(False, False, 300)]) * 2


def test_weight_decay_spares_norms_and_biases(digits: Dataset) -> None:
    """With a decay that halves the weights each step, only those of rank 2 and more shrink."""
    recipe = dataclasses.replace(QUICK, epochs=1, lr=1e-3, momentum=0.0, weight_decay=500.0)
    model = network()
    list(train.train(model, digits, recipe, 0))
    sizes = {p.ndim: p.detach().norm().item() for p in model.parameters()}
    assert sizes[4] < 0.2
    assert sizes[2] < 0.2
    assert model[1].weight.mean().item() > 0.9


def test_gradients_are_clipped(digits: Dataset) -> None:
    def moved(grad_clip: float) -> float:
        model = network()
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        recipe = dataclasses.replace(
            QUICK, epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0, grad_clip=grad_clip
        )
        list(train.train(model, digits, recipe, 0))
        after = nn.utils.parameters_to_vector(model.parameters())
        return float((after - before).detach().norm())

    steps = len(digits.train_labels) // 32
    assert moved(1e-4) <= steps * 1e-4
    assert moved(0) > 0.1


def test_images_are_resized_to_what_the_model_wants(digits: Dataset) -> None:
    model = network()
    model.input_shape = (1, 12, 10)  # type: ignore[assignment]
    shapes = []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[1:])))
    list(train.train(model, digits, dataclasses.replace(QUICK, epochs=1), 0))
    assert set(shapes) == {(1, 12, 10)}
    resized = augment.resize(digits.val_images, (4, 4))
    assert resized.dtype == np.uint8
    assert resized.mean() == pytest.approx(digits.val_images.mean(), rel=0.05)
    assert augment.resize(digits.val_images, (8, 8)) is digits.val_images
    large = np.repeat(digits.val_images[:1], 2500, axis=0)  # more than one chunk
    chunks = augment.resize(large, (5, 5))
    assert (chunks == chunks[0]).all()


def test_wrong_number_of_channels(digits: Dataset) -> None:
    model = network()
    model.input_shape = (3, 8, 8)  # type: ignore[assignment]
    with pytest.raises(SpecError, match="takes 3 channels, digits has 1"):
        list(train.train(model, digits, QUICK, 0))


# Failing


def test_divergence_is_noticed_within_the_epoch(digits: Dataset) -> None:
    recipe = dataclasses.replace(QUICK, lr=1e18, grad_clip=0.0, warmup=0.0)
    with pytest.raises(train.DivergedError, match=r"the loss .* in epoch 1, step [2-5]\b"):
        fit(digits, recipe)


def test_explosion_is_divergence_even_if_finite(digits: Dataset) -> None:
    model = network()
    with torch.no_grad():
        model[-1].bias[0] = 1e6
    with pytest.raises(train.DivergedError, match=r"exploded: .* in epoch 1, step 1"):
        list(train.train(model, digits, dataclasses.replace(QUICK, lr=1e-9), 0))


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
        RuntimeError("not enough memory: you tried to allocate 99 bytes"),
    ],
)
def test_out_of_memory_is_a_trial_error_and_clears_the_cache(
    digits: Dataset, error: Exception
) -> None:
    before = augment.prepared(digits, (8, 8), QUICK.pad_crop, CPU)
    with pytest.raises(train.OutOfMemoryTrialError, match="out of memory: ") as caught:
        list(train.train(Failing(error), digits, QUICK, 0))
    assert isinstance(caught.value, NasctlError)
    assert caught.value.__context__ is None, "a traceback would keep the tensors alive"
    assert augment.prepared(digits, (8, 8), QUICK.pad_crop, CPU) is not before
    assert len(fit(digits)) == 2, "the next training works"


def test_really_out_of_memory(digits: Dataset) -> None:
    class Greedy(Failing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.empty(1 << 52, dtype=torch.uint8)

    with pytest.raises(train.OutOfMemoryTrialError):
        list(train.train(Greedy(ValueError()), digits, QUICK, 0))


def test_other_errors_pass(digits: Dataset) -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(train.train(Failing(RuntimeError("shapes do not match")), digits, QUICK, 0))


# Precision


def test_auto_means_bfloat16_only_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "may_have_amx", lambda: True)
    for flags, pays in (({"amx_bf16": True}, True), ({"avx512_bf16": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=flags: f, raising=False)
        assert precision.bf16_pays(CPU) is pays
        said = precision.effective("auto", may_use_gpu=False)
        assert said == ("bfloat16" if pays else "float32")
        assert precision.effective("bf16", may_use_gpu=False) == "bfloat16"
        assert precision.effective("off", may_use_gpu=False) == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(precision, "may_have_amx", lambda: False)  # the kernel keeps it back
    assert precision.bf16_pays(CPU) is False
    assert precision.effective("auto", may_use_gpu=False) == "float32"
    monkeypatch.setattr(precision, "may_have_amx", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.bf16_pays(CPU) is False


def test_amx_as_linux_tells_it(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("flags\t\t: fpu avx512_bf16 amx_tile amx_bf16 amx_int8\n")
    assert precision.may_have_amx(told)
    told.write_text("flags\t\t: fpu avx512_bf16 amx_tile\n")
    assert not precision.may_have_amx(told)
    assert precision.may_have_amx(tmp_path / "none")  # not Linux: torch knows


def test_the_precision_is_known_without_torch_where_there_is_no_amx() -> None:
    """Importing it takes seconds, in which no training begins."""
    code = (
        "import sys; from nasctl import precision; precision.may_have_amx = lambda: False;"
        "print(precision.effective('auto', may_use_gpu=False), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float32", "False"]


@pytest.mark.parametrize(
    ("groups", "stride", "kernel_size", "in_float32"),
    [(8, 2, 3, True), (8, 1, 5, True), (8, 1, 3, False), (1, 2, 3, False), (1, 1, 5, False)],
)
def test_only_slow_depthwise_convolutions_run_in_float32(
    groups: int, stride: int, kernel_size: int, in_float32: bool
) -> None:
    layer = nn.Conv2d(8, 8, kernel_size, stride, 1, groups=groups)
    images = torch.rand(2, 8, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = layer(images)
        with precision.slow_convolutions_in_float32():
            out = layer(images)
    exact = layer(images)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.to(torch.bfloat16)) is in_float32
    assert torch.equal(out, plain) is not in_float32


def test_gradients_pass_the_float32_detour() -> None:
    layer = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
    images = torch.rand(2, 8, 6, 6).to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), precision.slow_convolutions_in_float32():
        out = layer(images)
    got = torch.autograd.grad(out.float().square().sum(), (layer.weight, images))
    exact = layer(images.float())
    want = torch.autograd.grad(exact.square().sum(), (layer.weight, images))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_strided_depthwise_networks_train_in_bfloat16(digits: Dataset) -> None:
    epochs = fit(digits, dataclasses.replace(QUICK, amp="bf16", epochs=3), depthwise_stride=2)
    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]


# Evaluation and weights


def test_evaluate_gives_what_training_reported(digits: Dataset) -> None:
    model = network()
    last = list(train.train(model, digits, QUICK, 0))[-1]
    images, labels = digits.val_images, digits.val_labels
    got = train.evaluate(model, images, labels, QUICK, normalisation=digits.normalisation)
    assert got == (last["accuracy"], pytest.approx(last["val_loss"]))


# Configuration


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_packaged_recipes_have_every_field(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    recipe = Recipe(**values)
    assert list(values) == [f.name for f in dataclasses.fields(Recipe)]
    if file.stem == "default":
        assert recipe == Recipe()
    assert recipe.trainer in train.TRAINERS
    assert math.isfinite(recipe.lr)
