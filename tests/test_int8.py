"""Exported networks in int8: what is kept, how near they come, and what is refused."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nasctl.dataset import Dataset
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export import int8
from nasctl.export.flat import flatten
from nasctl.export.formats import WRITERS, Card, default_path
from nasctl.export.int8 import (
    Agreement,
    Quantised,
    accuracy_of,
    agreement_of,
    calibration_images,
    file_settings,
    latencies_of,
    quantise,
)
from nasctl.export.int8_flow import _warnings
from nasctl.latency_settings import LatencySettings
from nasctl.latency_table import WholeLatency
from nasctl.onnx_int8 import quantise_graph
from nasctl.onnx_runtime import export_onnx, load_model, metadata_of, session

SHAPE = (3, 16, 16)
CARD = Card(
    title="Network x of a test",
    version="0",
    input_shape=SHAPE,
    classes=("a", "b", "c", "d"),
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.3, 0.2),
    provenance={"run": "r", "arch_id": "0123456789ab", "data": "d", "seed": 1},
)


def network(activation: type[nn.Module] = nn.ReLU6) -> nn.Module:
    """A depthwise separable one whose channels differ by orders of magnitude once its batch norms
    are folded: those of trained networks do."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16)
    norm.running_var = torch.logspace(-5, 2, 16)
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), activation()),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), norm, activation()),
        *(nn.Conv2d(16, 32, 1), activation(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(32, 4)),
    ).eval()
    with torch.no_grad():  # so that it names all classes
        module[-1].bias -= module(normalised(some_images(200))).mean(0)
    return module


def normalised(images: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (CARD.mean, CARD.std))
    return (torch.from_numpy(images).float() / 255 - mean) / std


def some_images(count: int, seed: int = 0) -> np.ndarray:
    """Patches of colour: plain noise would give all images the same class."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


def written(folder: Path, module: nn.Module | None = None) -> Path:
    path = folder / "float.onnx"
    WRITERS["onnx"](flatten(module or network()), CARD, path)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantised]:
    path = written(tmp_path_factory.mktemp("int8"))
    return path, quantise(path, some_images(64), output=path.with_name("int8.onnx"))


def test_it_says_nearly_what_the_float_file_says(pair: tuple[Path, Quantised]) -> None:
    path, quantised = pair
    images = some_images(500, seed=1)
    labels = np.arange(500) % 4
    found = agreement_of(path, quantised.path, images, labels)
    assert found.agreement > 0.9, "an untrained network is undecided about many"
    assert 0 < found.mean_error < 0.03, "on processors that saturate as well"
    assert 0 <= found.agreement_here <= 1
    assert found.images == 500
    for file, accuracy in ((path, found.float_accuracy), (quantised.path, found.accuracy)):
        assert accuracy_of(file, images, labels).accuracy == accuracy
    # The labels that the float file gives: preprocessing is that of the trained network.
    with torch.no_grad():
        own = network()(normalised(images)).argmax(1).numpy()
    assert len(np.unique(own)) == 4
    assert accuracy_of(path, images, own).correct == 500


def test_accuracies_are_of_the_file_and_not_of_the_processor(
    pair: tuple[Path, Quantised], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the default kernels saturate they are not the ones that are asked."""
    asked = []

    def noting(model: bytes, **given: Any) -> Any:
        asked.append(given["exact_int8"])
        return session(model, **given)

    monkeypatch.setattr(int8, "session", noting)
    path, quantised = pair
    images, labels = some_images(40, seed=1), np.zeros(40, int)
    accuracy_of(quantised.path, images, labels)
    assert asked == [True]
    agreement_of(path, quantised.path, images, labels)
    assert asked[1:] == [True, True, False], "the last one is what users get by default"
    entry = "session.x64quantprecision"
    opened = session(quantised.path.read_bytes(), threads=1, exact_int8=True)
    assert opened.get_session_options().get_session_config_entry(entry) == "1"


def test_weights_are_int8_with_one_scale_per_channel_and_activations_uint8(
    pair: tuple[Path, Quantised],
) -> None:
    path, quantised = pair
    graph = load_model(quantised.path.read_bytes()).graph
    kinds = {n.op_type for n in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm"} <= kinds
    tensors = {t.name: t for t in graph.initializer}
    weights = [t for t in tensors.values() if t.data_type == 3 and len(t.dims) == 4]  # INT8
    assert sorted(t.dims[0] for t in weights) == [16, 16, 32]
    by_weight = {n.input[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    for weight in weights:
        assert list(tensors[by_weight[weight.name].input[1]].dims) == [weight.dims[0]]
    zeros = [tensors[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert {z.data_type for z in zeros} == {2}  # UINT8
    model = load_model(quantised.path.read_bytes())
    assert {o.domain for o in model.opset_import} == {""}, "other runtimes know no others"
    assert quantised.float_bytes == path.stat().st_size
    assert quantised.bytes == quantised.path.stat().st_size
    assert quantised.float_operators == ()


def test_metadata_go_along(pair: tuple[Path, Quantised]) -> None:
    path, quantised = pair
    before, after = (metadata_of(p.read_bytes()) for p in (path, quantised.path))
    assert after.keys() == before.keys() == {"nasctl"}
    card = json.loads(after["nasctl"])
    assert card.pop("quantisation")["calibration_images"] == 64
    assert card == CARD.to_json() == json.loads(before["nasctl"])


def test_the_same_images_give_the_same_file(pair: tuple[Path, Quantised], tmp_path: Path) -> None:
    path, quantised = pair
    again = quantise(path, some_images(64), output=tmp_path / "again.onnx")
    assert again.path.read_bytes() == quantised.path.read_bytes()
    other = quantise(path, some_images(64, seed=7), output=tmp_path / "other.onnx")
    assert other.path.read_bytes() != quantised.path.read_bytes()


def test_what_stays_in_float_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, network(nn.Hardswish))
    found = quantise(path, some_images(32), output=tmp_path / "int8.onnx")
    assert found.float_operators == ("HardSwish",)
    labels = np.zeros(50, np.int64)
    assert agreement_of(path, found.path, some_images(50, 1), labels).agreement > 0.9


def test_nothing_is_logged_and_no_handler_is_left(tmp_path: Path, caplog: Any) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    quantise(written(tmp_path), some_images(32), output=tmp_path / "int8.onnx")
    assert (list(root.handlers), root.level) == before
    assert caplog.records == []


class TestCalibrationImages:
    def test_depend_on_the_seed_alone_and_keep_the_shares_of_classes(self, digits: Dataset) -> None:
        first = calibration_images(digits, (8, 8), count=100)[:]
        assert first.shape == (100, 1, 8, 8)
        assert first.dtype == np.uint8
        assert np.array_equal(first, calibration_images(digits, (8, 8), count=100)[:])
        assert not np.array_equal(first, calibration_images(digits, (8, 8), count=100, seed=1)[:])
        of_training = {i.tobytes(): c for i, c in zip(digits.train_images, digits.train_labels)}  # noqa: B905
        classes = [of_training[image.tobytes()] for image in first]
        assert set(np.bincount(classes)) <= {9, 10, 11}

    def test_have_the_size_of_the_network(self, digits: Dataset) -> None:
        assert calibration_images(digits, (12, 16), count=32).shape == (32, 1, 12, 16)

    def test_are_all_if_there_are_no_more(self, digits: Dataset) -> None:
        count = len(digits.train_labels)
        assert len(calibration_images(digits, (8, 8), count=count + 5)) == count

    def test_too_few_are_refused(self, digits: Dataset, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^calibration images: 5 are too few; at least 32$"):
            calibration_images(digits, (8, 8), count=5)
        few = Dataset(
            name="few",
            train_images=digits.train_images[:20],
            train_labels=digits.train_labels[:20],
            val_images=digits.val_images,
            val_labels=digits.val_labels,
            num_classes=10,
        )
        with pytest.raises(ConfigError, match=r"^few has 20 training images: too few to calib"):
            calibration_images(few, (8, 8))
        with pytest.raises(ConfigError, match=r"^31 images: too few to calibrate int8 with"):
            quantise(written(tmp_path), some_images(31), output=tmp_path / "int8.onnx")
        assert not (tmp_path / "int8.onnx").exists()


class TestRefusals:
    def test_an_operator_that_the_runtime_lacks_is_named(self, tmp_path: Path) -> None:
        path = written(tmp_path)
        graph = load_model(path.read_bytes())
        graph.graph.node[1].op_type = "Fold"
        graph.graph.node[1].domain = "mine"
        graph.opset_import.add(domain="mine", version=1)
        path.write_bytes(graph.SerializeToString())
        with pytest.raises(EnvironmentProblemError, match=r"lacks the operator mine:Fold$"):
            quantise(path, some_images(32), output=tmp_path / "int8.onnx")
        with pytest.raises(EnvironmentProblemError, match=r"lacks the operator mine:Fold$"):
            latencies_of({"float": path}, LatencySettings())
        with pytest.raises(EnvironmentProblemError, match=r"lacks the operator mine:Fold$"):
            accuracy_of(path, some_images(3), np.zeros(3, np.int64))
        assert [p.name for p in tmp_path.iterdir()] == ["float.onnx"]

    def test_an_operator_that_cannot_be_quantised_is_named(self, monkeypatch: Any) -> None:
        from onnxruntime.quantization.operators.conv import QDQConv

        def refuses(self: Any) -> None:
            raise ValueError("Conv node 3: weight is no initializer")

        monkeypatch.setattr(QDQConv, "quantize", refuses)
        model = export_onnx(nn.Conv2d(3, 4, 3), SHAPE, dynamic_batch=True)
        with pytest.raises(
            EnvironmentProblemError,
            match=r"^int8: the operator Conv cannot be quantised: ValueError: Conv node 3",
        ):
            quantise_graph(model, [np.zeros((32, *SHAPE), np.float32)])

    def test_a_graph_without_weights_has_nothing_to_quantise(self) -> None:
        model = export_onnx(nn.Sequential(nn.ReLU(), nn.Flatten()), SHAPE, dynamic_batch=True)
        with pytest.raises(EnvironmentProblemError, match=r"no linear layer .* Flatten, Relu$"):
            quantise_graph(model, [np.zeros((32, *SHAPE), np.float32)])

    def test_other_files_are_refused(self, pair: tuple[Path, Quantised], tmp_path: Path) -> None:
        path, quantised = pair
        target = tmp_path / "new.onnx"
        with pytest.raises(ConfigError, match=r"int8\.onnx: is in int8 already$"):
            quantise(quantised.path, some_images(32), output=target)
        with pytest.raises(EnvironmentProblemError, match=r"none\.onnx: cannot be read: "):
            quantise(tmp_path / "none.onnx", some_images(32), output=target)
        plain = tmp_path / "plain.onnx"
        plain.write_bytes(export_onnx(network(), SHAPE, dynamic_batch=True))
        torn = tmp_path / "torn.onnx"
        torn.write_bytes(path.read_bytes()[:-20])
        for wrong in (plain, torn):
            with pytest.raises(EnvironmentProblemError, match="not written by nasctl export"):
                quantise(wrong, some_images(32), output=target)
        with pytest.raises(ConfigError, match=r"takes images of \[3, 16, 16\], given \[3, 8, 8\]$"):
            quantise(path, some_images(32)[:, :, :8, :8], output=target)
        with pytest.raises(EnvironmentProblemError, match="cannot be written"):
            quantise(path, some_images(32), output=plain / "below" / "a file.onnx")
        assert not target.exists()


class TestLatency:
    def test_both_are_timed_in_the_same_rounds(self, pair: tuple[Path, Quantised]) -> None:
        path, quantised = pair
        settings = LatencySettings(rounds=1, budget_s=0.01, batch=2)
        found = latencies_of({"float": path, "int8": quantised.path}, settings)
        assert found.keys() == {"float", "int8"}
        assert found["float"].n == found["int8"].n >= 64
        assert all(0 < f.p50_ms <= f.p90_ms for f in found.values())
        scaled = latencies_of({"int8": quantised.path}, settings, canary_ms=1e6)
        assert scaled["int8"].p50_ms > 1e3, "on the scale of a run's table"
        assert latencies_of({}, settings) == {}

    def test_a_program_is_given_the_files(
        self, pair: tuple[Path, Quantised], tmp_path: Path
    ) -> None:
        path, quantised = pair
        program = tmp_path / "device.py"
        program.write_text(
            "import json, sys, onnx\n"
            "graph = onnx.load(sys.argv[1]).graph\n"
            "assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3\n"
            "quantised = any(n.op_type == 'QuantizeLinear' for n in graph.node)\n"
            "print(json.dumps({'latency_ms': 2.0 if quantised else 5.0, 'p90_ms': 7.0}))\n"
        )
        command = (sys.executable, str(program))
        settings = LatencySettings(runtime="command", command=command, batch=3)
        found = latencies_of({"float": path, "int8": quantised.path}, settings)
        # The program times the canary as well: as long as a float network, by its account.
        assert [round(found[k].p50_ms, 6) for k in ("float", "int8")] == [5.0, 2.0]

    def test_torch_runs_no_such_files(self, pair: tuple[Path, Quantised]) -> None:
        settings = LatencySettings(runtime="torch", threads=2, dtype="bfloat16", batch=4)
        with pytest.raises(ConfigError, match=r"^latency\.runtime=torch runs no ONNX files"):
            latencies_of({"float": pair[0]}, settings)
        instead = file_settings(settings)
        assert (instead.runtime, instead.threads, instead.batch) == ("onnxruntime", 2, 4)
        assert file_settings(instead) is instead


def whole(p50: float) -> WholeLatency:
    near = (0.95 * p50, 1.05 * p50)
    return WholeLatency(
        p50_ms=p50, p90_ms=2 * p50, interval=near, p90_interval=near, n=64, rounds=16
    )


def test_users_are_warned_of_what_int8_costs_them() -> None:
    good = Agreement(
        images=1000,
        float_accuracy=0.9,
        accuracy=0.9,
        agreement=0.99,
        agreement_here=0.98,
        max_error=0.1,
        mean_error=0.01,
    )
    bad = Agreement(**{**vars(good), "accuracy": 0.17, "agreement": 0.174})
    smaller = Quantised(
        path=Path("x"), bytes=50, float_bytes=100, images=64, float_operators=("HardSwish",)
    )
    larger = Quantised(**{**vars(smaller), "bytes": 200, "float_operators": ()})
    assert list(_warnings(good, smaller, whole(2.0), whole(1.0))) == []
    assert list(_warnings(good, smaller, whole(2.0), whole(2.1))) == [], "intervals overlap"
    assert list(_warnings(bad, larger, whole(1.0), whole(2.0))) == [
        "int8 and float name the same class on 17.4% of 1,000 validation images, less than 97%: "
        "this network does not bear int8",
        "int8 is slower than float here, 2 against 1 ms: the network is too small to gain",
        "the int8 file is larger: what describes its scales outweighs so few weights",
    ]
    saturating = Agreement(**{**vars(good), "agreement_here": 0.748})
    assert list(_warnings(saturating, smaller, whole(2.0), whole(1.0))) == [
        "on this processor ONNX Runtime lets sums of int8 products saturate: the same class on "
        "74.8% of 1,000 validation images, and on 99.0% with its session option "
        "session.x64quantprecision=1"
    ]
    (slow,) = _warnings(good, smaller, whole(1.0), whole(2.0))
    assert slow.endswith("2 against 1 ms: HardSwish stay in float, with conversions around them")


def test_names_of_files() -> None:
    assert default_path("62531413a5bc", "onnx", int8=True) == Path("62531413a5bc-int8.onnx")
