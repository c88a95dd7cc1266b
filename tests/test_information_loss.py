"""What ReLU loses: closed forms of figure 1, and read-outs of blocks whose R^2 is known."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasctl.ablation.information_loss import (
    ROWS,
    InformationLossSettings,
    affine_read_out,
    bottleneck_network,
    estimate,
    lost_probability,
    lost_standard_error,
    measure_spiral,
    run_information_loss,
    spiral,
)
from nasctl.ablation.read_back import BlockReadBack, held_out_r2, read_back
from nasctl.arch import Architecture
from nasctl.errors import ConfigError, NasctlError
from nasctl.report.information_loss import information_loss_files, information_loss_markdown
from search_spaces.blocks import GlobalPoolLinear, InvertedResidual

RELU_R2 = 0.25 / (0.5 - 1 / (2 * math.pi))
"""Of a standard normal variable from its ReLU: covariance 1/2, variance 1/2 - 1/(2 pi)."""


# Figure 1


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_lost_points_agree_with_the_closed_form(n: int) -> None:
    lost = measure_spiral(n, draws=2000, points=40, seed=3)["lost"]
    assert lost["expected"] == pytest.approx((n + 1) / 2**n)
    assert abs(lost["mean"] - lost["expected"]) <= 4 * lost["standard_error"] + 1e-12
    assert lost["standard_error"] < 0.005


def test_a_third_sign_always_loses_half() -> None:
    """With n = 3, opposite points have k and 3 - k positive signs: exactly one of them is lost."""
    for seed in range(3):
        lost = measure_spiral(3, draws=50, points=40, seed=seed)["lost"]
        assert lost["mean"] == 0.5
        assert lost["interval"] == [0.5, 0.5]
        assert lost["standard_error"] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("n", [2, 5, 6])
def test_the_standard_error_is_that_of_many_draws(n: int) -> None:
    x = spiral(30)
    embeddings = np.random.default_rng(0).standard_normal((40_000, n, 2))
    lost = ((embeddings @ x.T > 0).sum(axis=1) < 2).mean(axis=1)
    assert lost_standard_error(x, n, draws=1) == pytest.approx(lost.std(), rel=0.03)
    assert lost_standard_error(x, n, draws=100) == pytest.approx(lost.std() / 10, rel=0.03)


def test_lost_points_share_their_image_and_others_do_not() -> None:
    """Fewer than two active rows leave a direction in which nothing changes; two do not."""
    rng = np.random.default_rng(5)
    lost_seen = 0
    for embedding in rng.standard_normal((40, 3, 2)):
        for x in spiral(16):
            active = embedding[embedding @ x > 0]
            _, values, directions = np.linalg.svd(np.vstack([active, np.zeros((2, 2))]))
            step = 1e-6 * directions[-1]
            change = np.maximum(embedding @ (x + step), 0) - np.maximum(embedding @ x, 0)
            lost = len(active) < 2
            assert (np.abs(change).max() < 1e-12) == lost
            assert lost == (values[-1] < 1e-9)
            lost_seen += lost
    assert lost_seen == 40 * 16 / 2


def test_the_affine_read_out_gets_better_with_n_and_the_pseudo_inverse_stops_at_a_quarter() -> None:
    rows = [measure_spiral(n, draws=40, points=100, seed=0) for n in (2, 5, 15, 200)]
    errors = [row["affine_error"]["mean"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.25
    assert errors[2] < 0.01
    assert errors[-1] < 1e-5
    # ReLU(T x) = (T x + |T x|) / 2 and T^+ |T x| vanishes for large n: x / 2 is left.
    x = spiral(100)
    limit = 0.25 * np.square(x).sum() / np.square(x - x.mean(axis=0)).sum()
    medians = [row["pinv_error"]["median"] for row in rows]
    assert medians[-1] == pytest.approx(limit, rel=0.05)
    assert medians[0] > medians[-1]


def test_an_affine_read_out_is_exact_where_the_map_is_affine_and_the_mean_where_nothing_is() -> (
    None
):
    x = spiral(40)
    assert affine_read_out(x @ np.array([[2.0, 1.0], [0.5, 3.0]]) + 4, x) == pytest.approx(x)
    nothing = affine_read_out(np.zeros((40, 3)), x)
    assert nothing == pytest.approx(np.tile(x.mean(axis=0), (40, 1)))


def test_the_spiral_has_two_turns() -> None:
    x = spiral(400)
    angle = np.unwrap(np.arctan2(x[:, 1], x[:, 0]))
    assert angle[-1] - angle[0] == pytest.approx(4 * math.pi * 399 / 400)
    radius = np.linalg.norm(x, axis=1)
    assert (np.diff(radius) > 0).all()
    assert 0 < radius[0] < 0.01
    assert radius[-1] < 1


def test_one_value_has_no_interval() -> None:
    assert estimate([0.5]) == {"mean": 0.5, "interval": None, "n": 1}
    assert estimate([1, 2, 3, 4, 5])["interval"] == pytest.approx([1.0368, 4.9632], abs=1e-4)


# Reading back


def test_held_out_r2_is_that_of_relu_and_not_of_the_fit() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40_000, 1))
    held_out = np.arange(40_000) % 2 == 1
    assert held_out_r2(np.maximum(x, 0), x, held_out) == pytest.approx(RELU_R2, abs=0.01)
    few = np.arange(60) % 2 == 1  # 25 features without meaning: a good fit, worse than the mean
    assert held_out_r2(rng.standard_normal((60, 25)), x[:60], few) < 0
    dead = np.zeros((40_000, 2))
    assert held_out_r2(dead, x, held_out) == pytest.approx(0, abs=1e-3)
    mixed = np.hstack([dead, 1e-4 * x + 7])  # features of any scale, beside dead ones
    assert held_out_r2(mixed, x, held_out) == pytest.approx(1, abs=1e-5)


def test_targets_count_by_their_variance() -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 2)) * [3, 1]
    held_out = np.arange(20_000) % 2 == 1
    assert held_out_r2(x[:, :1], x, held_out) == pytest.approx(0.9, abs=0.01)


def known_block(
    *, bottleneck_activation: str, stride: int = 1, residual: bool = False, images: Any = None
) -> BlockReadBack:
    """The read-out of a block that computes f(x), or x + f(x), from normal pixels: its
    convolutions copy, or average a cell of input pixels scaled to variance 1, and f is the
    bottleneck's activation."""
    import torch

    from search_spaces.network import build

    block = InvertedResidual(
        out=2, stride=stride, expand_ratio=1, activation="linear", residual=residual,
        bottleneck_activation=bottleneck_activation,
    )  # fmt: skip
    architecture = Architecture(
        input_shape=(2, 6, 6), blocks=(block, GlobalPoolLinear(out=3)), num_classes=3
    )
    assert isinstance(architecture.blocks[0], InvertedResidual)
    model: Any = build(architecture)
    with torch.no_grad():
        kernel = torch.zeros(3, 3)
        kernel[1 : 1 + stride, 1 : 1 + stride] = 1 / stride
        model[0].depthwise.conv.weight.copy_(kernel.expand(2, 1, 3, 3))
        model[0].pointwise.conv.weight.copy_(torch.eye(2)[:, :, None, None])
    if images is None:
        images = torch.randn(1200, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    (found,) = read_back(model, architecture, images, positions=12, seed=0)
    assert torch.equal(images, before)
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []
    assert found.samples == len(images) * 12
    return found


def test_relu_bottlenecks_lose_what_relu_loses() -> None:
    found = known_block(bottleneck_activation="relu")
    assert not found.shortcut
    assert found.projection == pytest.approx(1, abs=1e-4)
    assert found.branch == pytest.approx(RELU_R2, abs=0.015)
    assert found.output == pytest.approx(found.branch)
    assert found.silent == 0


def test_a_shortcut_brings_the_input_back_but_not_into_the_branch() -> None:
    found = known_block(bottleneck_activation="relu", residual=True)
    assert found.shortcut
    assert found.branch == pytest.approx(RELU_R2, abs=0.015)
    # x + ReLU(x): covariance 3/2 with x, variance 2 + Var(ReLU(x)).
    assert found.output == pytest.approx(2.25 / (2.5 - 1 / (2 * math.pi)), abs=0.01)


def test_a_linear_bottleneck_loses_nothing() -> None:
    found = known_block(bottleneck_activation="linear", residual=True)
    assert min(found.projection, found.branch, found.output) > 1 - 1e-4


def test_where_a_block_strides_the_mean_of_its_cell_is_read_back() -> None:
    found = known_block(bottleneck_activation="relu", stride=2)
    assert found.stride == 2
    assert found.projection == pytest.approx(1, abs=1e-4)
    assert found.branch == pytest.approx(RELU_R2, abs=0.015)


def test_channels_that_never_speak_are_counted() -> None:
    import torch

    images = torch.randn(300, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    images[:, 1] = -images[:, 1].abs()
    found = known_block(bottleneck_activation="relu", images=images)
    assert found.silent == 0.5
    shortcut = known_block(bottleneck_activation="relu", residual=True, images=images)
    assert shortcut.silent == 0.5


def test_a_constant_input_has_nothing_to_read_back() -> None:
    import torch

    with pytest.raises(NasctlError, match="block 0 has a constant input"):
        known_block(bottleneck_activation="relu", images=torch.ones(10, 2, 6, 6))


# The study

TINY = InformationLossSettings(
    dimensions=(2, 5), draws=20, points=40, seeds=2, epochs=1, images=60, positions=3,
    dataset="digits",
)  # fmt: skip


def test_the_arms_differ_in_the_bottlenecks_activation_alone() -> None:
    linear, relu6 = (bottleneck_network(arm, (1, 28, 28), 10) for arm in ("linear", "relu6"))
    changed = 0
    for (a, shape), b in zip(linear.placed(), relu6.blocks, strict=True):
        if isinstance(a, InvertedResidual):
            assert dataclasses.replace(a, bottleneck_activation="relu6") == b
            changed += 1
            assert a.has_shortcut(shape) == (a.stride == 1 and shape[0] == a.out)
        else:
            assert a == b
    assert changed == len(ROWS)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    folder, said = tmp_path_factory.mktemp("study") / "run", []
    found = run_information_loss(TINY, folder, said.append, information_loss_files)
    return folder, found, said


def test_the_study_writes_what_it_returns(study: Any) -> None:
    folder, found, said = study
    assert {p.name for p in folder.iterdir()} == {
        "information_loss.json", "report.png", "report.md", "report.html",
    }  # fmt: skip
    assert json.loads((folder / "information_loss.json").read_text()) == found
    assert [row["n"] for row in found["spiral"]] == [2, 5]
    assert len(said) == 1 + 2 * 2
    assert found["settings"]["draws"] == 20


def test_the_study_compares_both_arms_by_seed(study: Any) -> None:
    _, found, _ = study
    trained = found["trained"]
    assert trained["seeds"] == [0, 1]
    assert 0.1 < trained["accuracy"]["linear"]["mean"] <= 1
    assert len(trained["blocks"]) == len(ROWS)
    assert [b["shortcut"] for b in trained["blocks"]] == [False, True, False, True, False, True]
    for block in trained["blocks"]:
        for part in ("projection", "branch", "output"):
            both = block[part]
            pairs = zip(both["linear"]["values"], both["relu6"]["values"], strict=True)
            assert both["difference"]["mean"] == pytest.approx(np.mean([a - b for a, b in pairs]))
            assert both["difference"]["n"] == 2
        # Nothing comes between the projection and the branch of a linear bottleneck.
        assert block["branch"]["linear"] == block["projection"]["linear"]
        assert block["branch"]["relu6"] != block["projection"]["relu6"]
        if not block["shortcut"]:
            assert block["output"] == block["branch"]
        else:
            assert block["output"]["relu6"] != block["branch"]["relu6"]
        cost = np.subtract(*(block[p]["relu6"]["values"] for p in ("projection", "branch")))
        assert block["relu6_cost"]["mean"] == pytest.approx(cost.mean())


def test_the_report_shows_the_figures(study: Any) -> None:
    folder, found, _ = study
    text = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG\r\n")
    for shown in (text, page):
        assert f"{100 * found['spiral'][1]['lost']['mean']:.3g} % (" in shown
        assert "18.8 %" in shown
        assert f"{found['trained']['blocks'][2]['branch']['relu6']['mean']:.3f}" in shown
        assert "nasctl ablate relu_information_loss" in shown
        assert "3: 12 to 16, stride 2" in shown
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page


def test_the_same_seed_gives_the_same_study(study: Any, tmp_path: Path) -> None:
    _, found, _ = study
    one = dataclasses.replace(TINY, seeds=1)
    again = run_information_loss(one, tmp_path, lambda _: None, information_loss_files)
    assert again["spiral"] == found["spiral"]
    assert again["picture"] == found["picture"]
    assert (
        again["trained"]["accuracy"]["relu6"]["mean"]
        == (found["trained"]["accuracy"]["relu6"]["values"][0])
    )
    first = [b["branch"]["linear"]["values"][0] for b in found["trained"]["blocks"]]
    assert [b["branch"]["linear"]["mean"] for b in again["trained"]["blocks"]] == first
    assert "one seed has no interval" in (tmp_path / "report.md").read_text()


def test_without_trainings_only_the_spiral_is_measured(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, trained=False, seed=1)
    found = run_information_loss(settings, tmp_path, lambda _: None, information_loss_files)
    assert found["trained"] is None
    assert found["spiral"][0] == measure_spiral(2, draws=20, points=40, seed=1)
    assert found["spiral"][0] != measure_spiral(2, draws=20, points=40, seed=0)
    assert "Trained networks" not in (tmp_path / "report.md").read_text()


def test_settings_that_cannot_be_measured_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        InformationLossSettings(draws=1, epochs=0, dimensions=(0, 2))
    assert [p.split(":")[0] for p in caught.value.problems] == ["draws", "epochs", "dimensions"]


def test_the_probability_needs_two_signs() -> None:
    assert [lost_probability(n) for n in (1, 2, 3, 5)] == [1.0, 0.75, 0.5, 0.1875]


def test_the_report_counts_intervals_on_either_side_of_zero(study: Any) -> None:
    found = copy.deepcopy(study[1])
    intervals = [[0.1, 0.2], [0.1, 0.3], [-0.1, 0.2], [-0.2, -0.1], [-1, 1], [-1, 1]]
    for block, interval in zip(found["trained"]["blocks"], intervals, strict=True):
        block["relu6_cost"]["interval"] = interval
    text = information_loss_markdown(found, "a.png")
    assert "activation is lower in 2 of 6 blocks, higher in 1, undecided in 3." in text
    assert "(<a.png>)" in text
