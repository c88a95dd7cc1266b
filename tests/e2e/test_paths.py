"""Files that a configuration names: the same ones, from wherever a run is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasctl.cli import cli
from nasctl.config import load_config
from nasctl.data import digits
from nasctl.errors import ConfigError
from nasctl.plugins import load_plugins
from nasctl.prepare import load_problem
from nasctl.records import RunRecords
from tests.e2e.command import DIGITS

SETTINGS = ("executor=inline", "tracking=none", "latency=none", "~objectives.latency_ms",
            "trials=1", "recipe.epochs=1", "data=npz")  # fmt: skip


def nasctl(capsys: Any, *arguments: str) -> str:
    cli.main(list(arguments), standalone_mode=False)
    return str(capsys.readouterr().out)


def write_data(path: Path, *, shift: int = 0) -> None:
    """400 of scikit-learn's digits, `shift` of them with another label."""
    data = digits()
    labels = data.train_labels[:400].copy()
    labels[:shift] = (labels[:shift] + 1) % 10
    np.savez(path, train_images=data.train_images[:400], train_labels=labels)


def test_a_run_can_be_used_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "digits.yaml").write_text(DIGITS)
    write_data(first / "x.npz")
    monkeypatch.setenv("NASCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(first)
    runs = tmp_path / "runs"
    search = ("search", "digits.yaml", *SETTINGS, "data.path=x.npz", f"output_dir={runs}")
    found = json.loads(nasctl(capsys, *search, "--json"))
    (member,) = found["members"]
    assert RunRecords(runs / "digits").config["data"]["path"] == str(first / "x.npz")

    # A file of the same name lies in the other folder; the run means its own.
    monkeypatch.chdir(second)
    write_data(second / "x.npz", shift=200)
    among = nasctl(capsys, "front", str(runs / "digits"), "--constraint", "params=1e9", "--no-gap",
                   "--json")  # fmt: skip
    assert json.loads(among)["members"][0]["arch_id"] == member["arch_id"]
    said = nasctl(capsys, "export", str(runs / "digits"), member["arch_id"], "-o", "n.onnx")
    assert said.startswith("n.onnx")

    # It does not go on with other images, ...
    status = RunRecords(runs / "digits").status
    with pytest.raises(ConfigError, match="data: npz has changed since this run began: other im"):
        nasctl(capsys, *search, "trials=2")
    assert RunRecords(runs / "digits").status == status == "FINISHED"
    # ... and with the same ones wherever they are.
    (second / "x.npz").unlink()
    shutil.move(first / "x.npz", second / "x.npz")
    assert json.loads(nasctl(capsys, *search, "trials=2", "--json"))["trials"]["COMPLETE"] == 2
    assert RunRecords(runs / "digits").config["data"]["path"] == str(second / "x.npz")


def test_weights_to_begin_with_are_read_where_something_is_trained() -> None:
    given = ["reference=[resnet20_cifar]", "init.weights=gone.pt", "data=digits"]
    config = load_config("mbv2_space", given).config
    registry = load_plugins([])
    (reference,) = load_problem(config, registry, read_weights=False).references
    assert reference.start is None
    with pytest.raises(ConfigError, match=r"init\.weights: gone\.pt: no such file"):
        load_problem(config, registry)
