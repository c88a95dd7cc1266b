"""Exported networks as MLflow models: logged once, whole, and loadable where there is no nasctl."""

from __future__ import annotations

import dataclasses
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
from nasctl.export.formats import WRITERS, Card
from nasctl.export.int8 import quantise
from nasctl.export.models import keep_model
from nasctl.kept_files import models
from nasctl.tracking import ProjectionState, TrackingSettings, project, sync
from nasctl.tracking.store import Store
from tests.tracking_records import FakeRecords, make_trial
from tests.tracking_store import contents, rows

SHAPE = (1, 8, 8)
TRIALS = [make_trial(n) for n in range(2)]
ARCH_ID = TRIALS[1].arch_id


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: creating its tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def settings(output_dir: Path, request: pytest.FixtureRequest) -> TrackingSettings:
    """An experiment of its own for each test."""
    return TrackingSettings(output_dir=output_dir, experiment=request.node.name)


def exported(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    card = Card(
        title="x",
        version="0",
        input_shape=SHAPE,
        classes=("a", "b", "c"),
        mean=(0.5,),
        std=(0.25,),
        provenance={"run": "r", "arch_id": ARCH_ID, "data": "d", "seed": seed},
    )
    path = folder / "net.onnx"
    WRITERS["onnx"](flatten(module), card, path)
    return path


def kept(folder: Path, seed: int = 0, *, int8: bool = False) -> FakeRecords:
    """A finished run with an exported network among its models."""
    rng = np.random.default_rng(0)
    path = exported(folder, seed)
    if int8:
        images = rng.integers(0, 256, (32, *SHAPE), dtype=np.uint8)
        quantise(path, images, output=path.with_name("int8.onnx"))
        path = path.with_name("int8.onnx")
    image = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    name = keep_model(folder / "run", path, image)
    assert name == ARCH_ID + ("-int8" if int8 else "")
    return FakeRecords(TRIALS, status="FINISHED", exported=models(folder / "run"))


def logged(settings: TrackingSettings) -> list[tuple[Any, ...]]:
    """(name, id, run, status, artifacts) of models that are not deleted."""
    return rows(
        settings,
        "SELECT m.name, m.model_id, mine.name, m.status, m.artifact_location "
        "FROM logged_models m JOIN mine ON mine.run_uuid = m.source_run_id "
        "WHERE m.lifecycle_stage = 'active' ORDER BY 1",
    )


def test_a_model_is_logged_once_into_the_run_of_its_network(
    settings: TrackingSettings, tmp_path: Path
) -> None:
    records = kept(tmp_path)
    state = ProjectionState()
    first = project(records, settings, state)
    assert (first.pending, first.problem) == (0, None)
    ((name, model_id, run, status, _),) = logged(settings)
    assert (name, run, status) == (ARCH_ID, f"001 {ARCH_ID}", 2)  # READY
    assert first.models == {ARCH_ID: f"models:/{model_id}"}
    before = contents(settings), logged(settings)
    assert project(records, settings, state).sent == 0
    again = sync(records, settings)  # a process that starts anew
    assert (again.sent, again.models) == (0, first.models)
    assert (contents(settings), logged(settings)) == before
    # With another model beside it, only that is new.
    both = kept(tmp_path, int8=True)
    assert sync(both, settings).sent == 1
    (old, new) = logged(settings)
    assert old[:2] == (ARCH_ID, model_id)
    assert new[0] == f"{ARCH_ID}-int8"


LOADING = """
import sys
for name in ("nasctl", "search_spaces", "torch"):
    sys.modules[name] = None  # importing it fails
import json, mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
example, images = model.input_example, numpy.load("images.npy")
schema = model.metadata.signature
print(json.dumps({
    "example": [list(example.shape), str(example.dtype)],
    "answer": model.predict(example)["output"].tolist(),
    "answers": model.predict(images)["output"].tolist(),
    "inputs": [[str(i.type), list(i.shape)] for i in schema.inputs],
    "outputs": [[i.name, str(i.type), list(i.shape)] for i in schema.outputs],
    "card": model.metadata.metadata["nasctl"],
}))
try:
    model.predict(images[:, :, :4])
except mlflow.MlflowException as error:
    assert "Shape of input" in str(error), error
else:
    raise SystemExit("another shape was taken")
"""


def test_it_loads_where_there_is_no_nasctl(settings: TrackingSettings, tmp_path: Path) -> None:
    from nasctl.onnx_runtime import session

    records = kept(tmp_path, int8=True)
    (uri,) = sync(records, settings).models.values()
    images = np.random.default_rng(1).standard_normal((5, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-P", "-c", LOADING, settings.store_uri, uri]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ((path, example),) = records.models()
    runs = session(path.read_bytes(), threads=1)
    for key, given in (("answer", np.load(example)), ("answers", images)):
        (expected,) = runs.run(None, {"input": given})
        assert np.allclose(found[key], expected, atol=1e-6), key
    assert found["example"] == [[1, *SHAPE], "float32"]
    assert found["inputs"] == [["float32", [-1, *SHAPE]]]
    assert found["outputs"] == [["output", "float32", [-1, 3]]]
    assert found["card"]["classes"] == ["a", "b", "c"]
    assert found["card"]["quantisation"]["calibration_images"] == 32
    ((*_, location),) = logged(settings)
    folder = Path(location.removeprefix("file://"))
    assert (folder / "model.onnx").read_bytes() == path.read_bytes()
    required = (folder / "requirements.txt").read_text(encoding="utf-8")
    assert {line.split("==")[0] for line in required.split()} == {"mlflow", "onnx", "onnxruntime"}


def test_other_weights_replace_a_model(settings: TrackingSettings, tmp_path: Path) -> None:
    sync(kept(tmp_path), settings)
    ((_, old, *_),) = logged(settings)
    assert sync(kept(tmp_path, seed=1), settings).sent == 1
    ((name, new, *_),) = logged(settings)
    assert name == ARCH_ID
    assert new != old


def test_what_was_cut_short_or_deleted_is_logged_anew(
    settings: TrackingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    records = kept(tmp_path)

    def lost(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Connection refused")

    state = ProjectionState()
    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "finalize_logged_model", lost)
        cut = project(records, settings, state)
    assert cut.pending == 1
    assert "refused the connection" in str(cut.problem)
    assert cut.models == {}
    assert project(records, settings, state).pending == 0
    ((_, model_id, _, status, _),) = logged(settings)
    assert status == 2
    store = Store(settings.store_uri, settings.experiment, settings.artifact_root, 5)
    client = store.client
    client.delete_logged_model(model_id)
    assert sync(records, settings).sent == 1
    assert len(logged(settings)) == 1
    # With its run it goes, too, and comes back with it.
    for run in client.search_runs([store.experiment_id]):
        client.delete_run(run.info.run_id)
    assert sync(records, settings).pending == 0
    assert [row[2] for row in logged(settings)] == [f"001 {ARCH_ID}"]


def test_without_artifacts_no_model_is_logged(settings: TrackingSettings, tmp_path: Path) -> None:
    bare = dataclasses.replace(settings, artifacts=False)
    found = sync(kept(tmp_path), bare)
    assert (found.pending, found.problem, found.models) == (0, None, {})
    assert logged(bare) == []


def test_a_model_without_its_example_is_not_there_yet(tmp_path: Path) -> None:
    records = kept(tmp_path)
    ((_, example),) = records.models()
    example.unlink()
    assert models(tmp_path / "run") == []


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    path = exported(tmp_path)
    with pytest.raises(ConfigError, match=r"takes images of \[1, 8, 8\], given \[3, 8, 8\]"):
        keep_model(tmp_path / "run", path, np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EnvironmentProblemError, match="cannot be written"):
        keep_model(tmp_path / "file", path, np.zeros(SHAPE, np.uint8))
    assert not (tmp_path / "run").exists()
