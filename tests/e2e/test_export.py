"""`nasctl export` of a real run: int8 beside float, and as an MLflow model."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nasctl import outputs, prepare
from nasctl.cli import cli
from nasctl.doctor import examine
from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.export import int8_flow
from nasctl.kept_files import models
from nasctl.onnx_runtime import metadata_of
from tests.e2e.command import DIGITS, Desk

RUN = Path("runs/digits")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Desk:
    """A search of two networks."""
    desk = Desk(tmp_path_factory.mktemp("export"), cache)
    desk.write("digits.yaml", DIGITS)
    desk.run("search", "digits.yaml", "tracking=none", "trials=2", "executor=inline")
    return desk


@pytest.fixture
def arch_id(trained: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a network of a copy of the run, in the folder that a test works in."""
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    front = json.loads((RUN / "front.json").read_text(encoding="utf-8"))
    return str(front["members"][0]["arch_id"])


def nasctl(capsys: Any, *arguments: str) -> tuple[str, str]:
    """stdout and stderr of a command, in this process: another one would load torch anew."""
    cli.main(list(arguments), standalone_mode=False)
    out, err = capsys.readouterr()
    return out, err


def test_int8_is_written_and_compared(arch_id: str, capsys: Any) -> None:
    out, err = nasctl(capsys, "export", str(RUN), arch_id[:6], "--int8")
    path = Path(f"{arch_id}-int8.onnx")
    rows = {line[:14].strip(): line[14:].split() for line in out.splitlines()}
    assert out.startswith(f"{path}  {path.stat().st_size:,} bytes\n")
    assert "of 300 validation images; calibrated on 256 training images" in out
    assert rows["bytes"][1] == f"{path.stat().st_size:,}"
    assert not Path(f"{arch_id}.onnx").exists(), "the float file is not asked for"
    options = ("-o", "out/m.onnx", "--calibration-images", "64", "--json")
    out, err = nasctl(capsys, "export", str(RUN), arch_id, "--int8", *options)
    found = json.loads(out)
    int8, made = found["int8"], Path("out/m.onnx")
    assert found["files"] == {"out/m.onnx": made.stat().st_size} == {"out/m.onnx": int8["bytes"]}
    assert [p.name for p in made.parent.iterdir()] == ["m.onnx"]
    assert int8["float_accuracy"] == found["parity"]["accuracy"]
    assert int8["accuracy"] == pytest.approx(int8["float_accuracy"], abs=0.1)
    assert int8["agreement"] > 0.8
    assert (int8["images"], int8["calibration_images"]) == (300, 64)
    for latency in (int8["latency"], int8["float_latency"]):
        assert 0 < latency["p50_ms"] <= latency["p90_ms"]
    for warning in int8["warnings"]:
        assert f"warning: {warning}" in err
    card = json.loads(metadata_of(made.read_bytes())["nasctl"])
    assert card["provenance"] == found["provenance"]
    assert card["quantisation"]["calibration_images"] == 64


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--int8", "--format", "pt2"), "^--int8: of ONNX files only; leave out --format pt2$"),
        (("--mlflow", "--format", "torch"), "^--mlflow: of ONNX files only; leave out --format"),
        (("--calibration-images", "64"), "^--calibration-images 64: needs --int8$"),
        (("--int8", "--calibration-images", "0"), "^calibration images: 0 are too few; at least 3"),
    ],
)
def test_what_is_refused(arch_id: str, more: tuple[str, ...], said: str, capsys: Any) -> None:
    with pytest.raises(ConfigError, match=said):
        nasctl(capsys, "export", str(RUN), arch_id, *more, "-o", "no.onnx")
    assert capsys.readouterr().out == ""
    assert not Path("no.onnx").exists()
    assert models(RUN) == []


def test_an_mlflow_model_is_logged_once(arch_id: str, capsys: Any) -> None:
    out, _ = nasctl(capsys, "export", str(RUN), arch_id, "--mlflow")
    uri = out.splitlines()[-1].removeprefix("MLflow model ")
    assert uri.startswith("models:/m-")
    ((kept, _),) = models(RUN)
    assert kept.read_bytes() == Path(f"{arch_id}.onnx").read_bytes()
    out, _ = nasctl(capsys, "sync", str(RUN))
    assert out == "0 changes sent, everything is there\n"
    out, _ = nasctl(capsys, "export", str(RUN), arch_id, "--mlflow", "--json")
    assert json.loads(out)["mlflow_model"] == uri, "the same file again"
    with closing(sqlite3.connect("runs/mlflow.db")) as db:
        logged = db.execute("SELECT name, 'models:/' || model_id FROM logged_models").fetchall()
    assert logged == [(arch_id, uri)]
    assert examine(RUN).sound


def test_int8_has_the_ending_of_its_format(arch_id: str, capsys: Any) -> None:
    with pytest.raises(ConfigError, match=r"-o m\.pt2: \.pt2 is the ending of --format pt2"):
        nasctl(capsys, "export", str(RUN), arch_id, "--int8", "-o", "m.pt2")
    assert not Path("m.pt2").exists()


def test_a_store_that_cannot_be_reached_loses_nothing(
    arch_id: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASCTL_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        EnvironmentProblemError,
        match=r"^m\.onnx is written, but not logged: MLflow at http://127\.0\.0\.1:9 refused .*; "
        r"nasctl sync runs/digits logs it later$",
    ):
        nasctl(capsys, "export", str(RUN), arch_id, "-o", "m.onnx", "--mlflow")
    assert Path("m.onnx").is_file()
    assert [p.stem for p, _ in models(RUN)] == [arch_id]


def test_a_store_without_files_takes_no_model(
    arch_id: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = outputs.tracking_settings
    monkeypatch.setattr(
        outputs,
        "tracking_settings",
        lambda section, folder: given({**section, "artifacts": False}, folder),
    )
    with pytest.raises(ConfigError, match=r"tracking\.artifacts=false: .* write the file alone$"):
        nasctl(capsys, "export", str(RUN), arch_id, "-o", "m.onnx", "--mlflow")
    assert not Path("m.onnx").exists()
    assert models(RUN) == []


@pytest.mark.parametrize("more", [(), ("--int8",), ("--format", "torch"), ("--mlflow",)])
def test_what_is_in_the_way_is_told_before_the_data_are_read(
    arch_id: str, more: tuple[str, ...], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "load_problem", never)
    name = "net.safetensors" if "torch" in more else "net.onnx"
    Path(name).write_text("mine")
    output = Path(name).with_suffix(".py" if "torch" in more else ".onnx")
    with pytest.raises(ConfigError, match=rf"^{name}: is there, and not written by nasctl export"):
        nasctl(capsys, "export", str(RUN), arch_id, *more, "-o", str(output))
    assert Path(name).read_text() == "mine"
    assert output.exists() == (str(output) == name)
    with pytest.raises(EnvironmentProblemError, match=r"cannot be written: .* is not a folder$"):
        nasctl(capsys, "export", str(RUN), arch_id, *more, "-o", f"{name}/below/{output}")


def test_too_few_images_and_a_mute_program_are_told_before_networks_run(
    arch_id: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_flow, "export_network", never)
    with closing(sqlite3.connect(RUN / "ledger.sqlite")) as db:
        (stored,) = db.execute("SELECT value FROM meta WHERE key = 'config'").fetchone()
        config = json.loads(stored)
        config["latency"] |= {"name": "table", "runtime": "command", "command": ["true"]}
        db.execute("UPDATE meta SET value = ? WHERE key = 'config'", (json.dumps(config),))
        db.commit()
    with pytest.raises(EnvironmentProblemError, match=r"^latency\.command true: expected {\"lat"):
        nasctl(capsys, "export", str(RUN), arch_id, "--int8", "-o", "m.onnx")
    monkeypatch.setattr(prepare, "load_problem", never)
    with pytest.raises(ConfigError, match=r"^calibration images: 31 are too few; at least 32$"):
        nasctl(capsys, "export", str(RUN), arch_id, "--int8", "--calibration-images", "31")
    assert not Path("m.onnx").exists()


def never(*_: object, **__: object) -> None:
    raise AssertionError("too early")


def test_an_earlier_export_is_replaced_and_that_is_said(arch_id: str, capsys: Any) -> None:
    command = ("export", str(RUN), arch_id, "--format", "torch", "-o", "net.py")
    assert "earlier" not in nasctl(capsys, *command)[0]
    Path("net.safetensors").unlink()
    assert nasctl(capsys, *command)[0].count("in place of an earlier export") == 1
    assert json.loads(nasctl(capsys, *command, "--json")[0])["replaced"] == [
        "net.safetensors",
        "net.py",
    ]


def test_provenance_says_how_each_metric_is_known(arch_id: str, capsys: Any) -> None:
    at = ("--at", "params=100000000")
    found = json.loads(nasctl(capsys, "export", str(RUN), *at, "-o", "m.onnx", "--json")[0])
    assert found["chosen"] == {"at": "params=100000000", "values_of": "search"}
    origin = found["provenance"]
    assert origin["metrics_source"].keys() == origin["metrics"].keys()
    assert origin["metrics_source"]["accuracy"] == "measured"
    assert origin["metrics_source"]["params"] == "exact"
    expected = {
        "latency_ms": "predicted",
        "latency_ms_measured": "measured",
    }
    told = {k: v for k, v in origin["metrics_source"].items() if k.startswith("latency")}
    assert told == {k: v for k, v in expected.items() if k in origin["metrics"]}
    assert (origin["latency_device"] is not None) == bool(told)
