"""Exported networks: every block and network in every format says what the trained one says."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export.flat import flatten
from nasctl.export.formats import SUFFIXES, WRITERS, Card, default_path, files_of
from nasctl.export.parity import TOLERANCE, Parity, ParityError, compare, spread
from nasctl.onnx_runtime import load_model
from search_spaces.blocks import BLOCKS
from search_spaces.reference import NETWORKS
from tests.export_samples import FIELDS, SHAPE, SMALL, block_module, lived, network_module

CARD = Card(
    title='Network "x" \\ of a """test"""',
    version="0",
    input_shape=SHAPE,
    classes=("ankle boot", "it's", "c"),
    mean=(0.25,) * 8,
    std=(0.5,) * 8,
    provenance={"run": "r", "metrics": {"accuracy": 0.5}, "note": 'a"""b\\n'},
)


def parity(module: nn.Module, shape: tuple[int, int, int], kind: str, folder: Path) -> Parity:
    path = folder / f"net{SUFFIXES[kind]}"
    card = Card(**{**vars(CARD), "input_shape": shape})
    run = WRITERS[kind](flatten(module), card, path)
    images = np.random.default_rng(1).integers(0, 256, (3, *shape), dtype=np.uint8)
    own = ((0.5,) * shape[0], (0.25,) * shape[0])
    return compare(module, run, images, np.zeros(3, np.int64), normalisation=own)


def test_every_block_has_an_example() -> None:
    assert FIELDS.keys() == BLOCKS.keys()


@pytest.mark.parametrize("kind", ["onnx", "torch", pytest.param("pt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", FIELDS)
def test_every_block_says_what_it_said(op: str, kind: str, tmp_path: Path) -> None:
    module, shape = block_module(op)
    assert parity(module, shape, kind, tmp_path).max_error < TOLERANCE


@pytest.mark.parametrize("op", ["conv_norm_act", "inverted_residual", "dense", "inception"])
def test_blocks_in_the_format_of_torch(op: str, tmp_path: Path) -> None:
    module, shape = block_module(op)
    assert parity(module, shape, "pt2", tmp_path).max_error < TOLERANCE


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        *((name, ("onnx", "torch")) for name in SMALL),
        *(pytest.param(name, tuple(WRITERS), marks=pytest.mark.slow) for name in NETWORKS),
    ],
)
def test_networks_of_the_literature_at_reduced_input(
    name: str, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    module, shape = network_module(name)
    for kind in kinds:
        found = parity(module, shape, kind, tmp_path)
        assert found.max_error < TOLERANCE, kind
        assert found.differing == 0


def small() -> nn.Module:
    torch.manual_seed(0)
    return lived(
        nn.Sequential(
            *(nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
        ),
        SHAPE,
    )


def test_batch_norms_are_folded_and_idle_layers_go() -> None:
    module = small()
    traced = flatten(module)
    kinds = [type(m).__name__ for _, m in traced.named_children()]
    assert kinds == ["Conv2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    conv, norm = module[0], module[1]
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
    folded = traced.get_parameter("block0.weight")
    assert torch.allclose(folded, conv.weight * gain.view(-1, 1, 1, 1))
    assert isinstance(module[1], nn.BatchNorm2d), "the trained module is as it was"


def test_a_batch_norm_that_is_not_alone_behind_its_convolution_stays() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return (y + self.norm(y)).flatten(1)

    module = lived(Shared(), SHAPE)
    traced = flatten(module)
    assert any(isinstance(m, nn.BatchNorm2d) for m in traced.modules())
    x = torch.rand(2, *SHAPE)
    assert torch.allclose(traced(x), module(x), atol=1e-6)


def test_a_convolution_that_is_used_twice_is_not_changed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.conv(self.first(self.conv(x)))).flatten(1)

    module = lived(Twice(), SHAPE)
    x = torch.rand(2, *SHAPE)
    assert torch.allclose(flatten(module)(x), module(x), atol=1e-5)


def test_the_python_file_needs_torch_alone_and_says_where_it_comes_from(tmp_path: Path) -> None:
    module = small()
    path = tmp_path / "net.py"
    WRITERS["torch"](flatten(module), CARD, path)
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
for name in ("nasctl", "search_spaces", "safetensors", "onnx", "ray"):
    sys.modules[name] = None  # importing it fails
import json, numpy, torch, net
with torch.no_grad():
    logits = net.load()(net.preprocess(torch.from_numpy(numpy.load("images.npy"))))
print(json.dumps([logits.tolist(), net.PROVENANCE, net.CLASSES]))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits, provenance, classes = json.loads(done.stdout)
    assert provenance == CARD.provenance
    assert classes == list(CARD.classes)
    with torch.no_grad():
        expected = module((torch.from_numpy(images).float() / 255 - 0.25) / 0.5)
    assert np.allclose(logits, expected, atol=1e-5)


def test_metadata_are_inside(tmp_path: Path) -> None:
    traced = flatten(small())
    WRITERS["onnx"](traced, CARD, tmp_path / "n.onnx")
    graph = load_model((tmp_path / "n.onnx").read_bytes())
    (prop,) = graph.metadata_props
    assert (prop.key, json.loads(prop.value)) == ("nasctl", CARD.to_json())
    assert [i.type.tensor_type.shape.dim[0].dim_param for i in graph.graph.input] == ["batch"]
    WRITERS["pt2"](traced, CARD, tmp_path / "n.pt2")
    extra = {"nasctl.json": ""}
    torch.export.load(tmp_path / "n.pt2", extra_files=extra)
    assert json.loads(extra["nasctl.json"]) == CARD.to_json()
    assert CARD.to_json()["preprocessing"]["mean"] == [0.25] * 8


def test_another_network_is_no_parity() -> None:
    module = small()
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    against = functools.partial(compare, normalisation=(CARD.mean, CARD.std))

    def off(by: float) -> Any:
        def run(part: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                found: np.ndarray = module(torch.from_numpy(part)).numpy()
            return found + by

        return run

    labels = np.zeros(5, np.int64)
    same = against(module, off(0.0), images, labels)
    assert (same.max_error, same.differing) == (0.0, 0)
    assert same.accuracy == same.exported_accuracy
    with pytest.raises(ParityError, match=r"differs .* on 5 images, more than 0\.0001; nothing"):
        against(module, off(0.01), images, labels)
    with pytest.raises(ParityError, match="differs"):
        against(module, off(float("nan")), images, labels)
    with pytest.raises(ParityError, match=r"gives \(5, 2\), the trained one \(5, 3\)"):
        against(module, lambda part: off(0.0)(part)[:, :2], images, labels)


def test_large_validation_splits_are_sampled_evenly() -> None:
    assert spread(300).tolist() == list(range(300))
    chosen = spread(50_000)
    assert (len(chosen), chosen[0], chosen[-1]) == (2000, 0, 49_999)
    assert set(np.diff(chosen)) == {25, 26} or set(np.diff(chosen)) == {25}


def test_a_network_that_looks_at_its_image_has_no_one_graph() -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    with pytest.raises(EnvironmentProblemError, match=r"^Sequential: there is no one graph of it"):
        flatten(nn.Sequential(Moody()))


def test_a_layer_that_torch_does_not_have_goes_to_onnx_only(tmp_path: Path) -> None:
    class Own(nn.Conv2d):
        pass

    Own.__module__ = "torch.nn.mine"  # a leaf of the graph, as a compiled extension would be
    traced = flatten(nn.Sequential(Own(8, 3, 1), nn.Flatten()))
    with pytest.raises(EnvironmentProblemError, match="block0: Own is not a layer of PyTorch's"):
        WRITERS["torch"](traced, CARD, tmp_path / "n.py")
    assert not list(tmp_path.iterdir())


def test_a_pytorch_file_ends_in_py() -> None:
    with pytest.raises(ConfigError, match=r"-o m\.pt: a PyTorch file ends in \.py"):
        files_of(Path("m.pt"), "torch")
    for name in ("my-net.py", "62531413a5bc.py", "class.py"):
        with pytest.raises(ConfigError, match=f"-o {name}: .* is no name that Python can import"):
            files_of(Path(name), "torch")
    assert default_path("62531413a5bc", "torch") == Path("net_62531413a5bc.py")
    assert default_path("62531413a5bc", "onnx") == Path("62531413a5bc.onnx")
    assert files_of(Path("m.py"), "torch") == (Path("m.safetensors"), Path("m.py"))
