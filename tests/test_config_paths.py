"""Paths in a configuration: recorded whole, compared by what they hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasctl.ablate import _differences
from nasctl.config import config_diff, load_config, with_whole_paths
from nasctl.config.paths import whole_path
from nasctl.errors import ConfigError
from nasctl.ledger import Ledger
from nasctl.prepare import check_data

pytestmark = pytest.mark.usefixtures("own_folder")


def test_what_is_here_begins_at_the_root() -> None:
    here = Path.cwd()
    Path("x.npz").touch()
    Path("below").mkdir()
    assert whole_path("x.npz") == whole_path("below/../x.npz") == str(here / "x.npz")
    assert whole_path("below") == str(here / "below")


@pytest.mark.parametrize("text", ["none.npz", "s3://bucket/x", "~/x.npz", "/data/x.npz", "a\0b"])
def test_anything_else_stays_as_it_was_given(text: str) -> None:
    assert whole_path(text) == text


def loaded(*overrides: str) -> Any:
    return load_config("mbv2_space", ["reference=[lenet5]", *overrides]).config


def test_data_and_weights_of_a_search() -> None:
    for name in ("x.npz", "a.pt", "b.pt"):
        Path(name).touch()
    here = Path.cwd()
    found = with_whole_paths(loaded("data=npz", "data.path=x.npz", "init.weights={lenet5: a.pt}"))
    assert found.data.options["path"] == str(here / "x.npz")
    assert found.data.name == "npz"
    assert found.init.weights == {"lenet5": str(here / "a.pt")}
    assert with_whole_paths(loaded("init.weights=b.pt")).init.weights == str(here / "b.pt")
    plain = loaded()
    assert with_whole_paths(plain) == plain
    other = loaded("data=npz", "data.path=x.npz", "data.val_size=0.2")
    assert with_whole_paths(other).data.options["val_size"] == 0.2


def test_the_file_of_a_table_and_of_nothing_else() -> None:
    Path("x.csv").touch()
    here = Path.cwd()
    table = ("evaluator=table", "space.family=table", "space.options.file=x.csv")
    options = with_whole_paths(loaded("reference=[]", *table)).space.options
    assert options["file"] == str(here / "x.csv")
    mine = with_whole_paths(loaded("reference=[]", "space.family=mine", *table[2:]))
    assert mine.space.options["file"] == "x.csv"


def plain(**changes: Any) -> dict[str, Any]:
    values = {
        "evaluator": "train",
        "data": {"name": "npz", "path": "/a/x.npz", "val_size": 0.1},
        "init": {"weights": "/a/w.pt"},
    }
    return {**values, **changes}


def test_where_they_lie_may_change_when_a_search_continues() -> None:
    moved = plain(
        data={"name": "npz", "path": "/b/x.npz", "val_size": 0.1}, init={"weights": "/b/w.pt"}
    )
    assert config_diff(plain(), moved) == []
    assert config_diff(plain(), plain(init={"weights": None})) == ["init.weights: /a/w.pt -> None"]
    other = plain(data={"name": "npz", "path": "/a/x.npz", "val_size": 0.2})
    assert config_diff(plain(), other) == ["data.val_size: 0.1 -> 0.2"]


def test_of_what_is_not_compared_by_content_only_the_spelling_may_change() -> None:
    def judged(path: str) -> dict[str, Any]:
        return plain(evaluator="mine", data={"name": "npz", "path": path})

    whole = str(Path.cwd() / "x.npz")
    assert config_diff(judged("x.npz"), judged(whole)) == []
    assert config_diff(judged("/a/x.npz"), judged(whole)) == [f"data.path: /a/x.npz -> {whole}"]
    study = {"factors": {}, **plain()}
    moved = {**study, "data": {"name": "npz", "path": "/b/x.npz", "val_size": 0.1}}
    assert config_diff(study, moved) == ["data.path: /a/x.npz -> /b/x.npz"]


@pytest.mark.parametrize(
    ("evaluator", "family", "may_move"),
    [("table", "table", True), ("replay", "table", False), ("train", "mine", False)],
)
def test_a_table_may_move_where_its_results_are_compared(
    evaluator: str, family: str, may_move: bool
) -> None:
    before, after = (
        plain(
            evaluator=evaluator,
            space={"family": family, "options": {"file": f"/{folder}/x.csv"}},
            replay={"run": f"/{folder}/toy"},
        )
        for folder in "ab"
    )
    table, recording = "space.options.file: /a/x.csv -> /b/x.csv", "replay.run: /a/toy -> /b/toy"
    expected = [] if may_move else [table]
    assert config_diff(before, after) == expected + [recording] * (evaluator != "replay")


def test_other_images_are_refused_and_no_images_are_not_compared() -> None:
    problem: Any = SimpleNamespace(dataset=SimpleNamespace(name="npz", fingerprint="b"))
    check_data(problem, "b")
    check_data(problem, None)
    check_data(SimpleNamespace(dataset=None), "a")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^data: npz has changed since this run began: other im"):
        check_data(problem, "a")


def test_a_study_does_not_go_on_with_other_images() -> None:
    ledger = Ledger(Path("ledger.sqlite"), {})
    ledger.set_meta(data="a-b")
    ledger.close()
    config = SimpleNamespace(data=SimpleNamespace(name="npz"))
    request: Any = SimpleNamespace(differences=lambda before, now: ["seed: 0 -> 1"], config=config)
    assert _differences(request, Path(), "a-b", {}, {}) == ["seed: 0 -> 1"]
    (_, line) = _differences(request, Path(), "a-c", {}, {})
    assert line.startswith("data: npz has changed since this study began: other images")
