"""Registries: what plugins bring, and what is said when they are wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nasctl.errors import ConfigError
from nasctl.plugins import call_factory, load_plugins


def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> str:
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_module_of_the_current_folder_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(
        tmp_path,
        monkeypatch,
        "plugin_good",
        "EVALUATORS = {'mine': print}\nFAMILIES = {'f': print}",
    )
    registry = load_plugins([name, name])
    assert registry.evaluators == {"mine": print}
    assert {"f", "staged"} <= set(registry.families)
    assert len(registry.sources[name]) == 64
    assert registry.lookup("evaluators", "evaluator", "mine") is print


def test_the_code_of_a_plugin_is_all_that_it_imports_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    helper, deep = tmp_path / "plugin_helper.py", tmp_path / "deep" / "plugin_deep.py"
    helper.write_text("import math\nfrom deep.plugin_deep import value\n")
    deep.write_text("def value(): return 1\n")
    text = "import json\nfrom plugin_helper import value\nEVALUATORS = {'deep': value}\n"

    def source() -> str:
        for name in ("plugin_deeper", "plugin_helper", "deep", "deep.plugin_deep"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        write(tmp_path, monkeypatch, "plugin_deeper", text)
        return load_plugins(["plugin_deeper"]).sources["plugin_deeper"]

    before = source()
    assert source() == before
    deep.write_text("def value(): return 2  # as long\n")
    assert source() != before
    deep.write_text("def value(): return 1\n")
    assert source() == before
    (tmp_path / "stranger.py").write_text("x = 1\n")
    assert source() == before


def test_a_name_that_does_not_exist_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^space\.family: unknown family 'stagd'; did you mean"):
        load_plugins([]).lookup("families", "space.family", "stagd")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plugin_broken", "1 / 0", "plugin_broken: cannot be imported: ZeroDivisionError"),
        ("plugin_empty", "x = 1", "defines none of the dicts BLOCKS, FAMILIES"),
        ("plugin_slip", "EVALUATOR = {}", "did you mean 'EVALUATORS'"),
        ("plugin_twice", "FAMILIES = {'staged': print}", r"FAMILIES\['staged'\] exists already"),
        ("plugin_list", "EVALUATORS = ['a']", "EVALUATORS is a list, expected a dict"),
        ("plugin_train", "EVALUATORS = {'train': print}", r"EVALUATORS\['train'\] exists already"),
    ],
)
def test_a_wrong_module_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    write(tmp_path, monkeypatch, name, text)
    with pytest.raises(ConfigError, match=message):
        load_plugins([name])


BLOCK = """
from dataclasses import dataclass
from nasctl.api import Block
@dataclass(frozen=True, kw_only=True)
class Mine(Block):
    op = "{op}"
class Plain(Block):
    op = "plain"
BLOCKS = {blocks}
"""


@pytest.mark.parametrize(
    ("op", "blocks", "message"),
    [
        ("skip", "{'mine': Mine}", r"BLOCKS\['mine'\]: Mine\.op is 'skip', expected 'mine'"),
        ("skip", "{'skip': Mine}", r"BLOCKS\['skip'\] exists already"),
        ("mine", "{'mine': int}", r"BLOCKS\['mine'\]: expected a subclass of nasctl\.api\.Block"),
        ("mine", "{'plain': Plain}", r"BLOCKS\['plain'\]: Plain needs @dataclass\(frozen=True"),
    ],
)
def test_an_op_is_the_name_of_its_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str, blocks: str, message: str
) -> None:
    name = f"plugin_op_{abs(hash((op, blocks)))}"
    write(tmp_path, monkeypatch, name, BLOCK.format(op=op, blocks=blocks))
    with pytest.raises(ConfigError, match=message):
        load_plugins([name])


def test_a_missing_module_is_one_line() -> None:
    with pytest.raises(ConfigError, match="--plugin no_such_module: cannot be imported"):
        load_plugins(["no_such_module"])


@pytest.mark.parametrize("name", ["plug.py", "./plug.py", "./plug"])
def test_a_file_is_answered_with_the_name_of_its_module(name: str) -> None:
    with pytest.raises(ConfigError, match=r"give the name of a module: --plugin plug$"):
        load_plugins([name])


def test_options_are_checked_against_the_signature() -> None:
    def factory(*, path: str, size: int = 3, input_shape: tuple[int, ...] | None = None) -> Any:
        return path, size, input_shape

    extras = {"input_shape": (1, 2, 2), "num_classes": 10}
    made = call_factory(factory, {"path": "x"}, key="data", extras=extras)
    assert made == ("x", 3, (1, 2, 2))
    with pytest.raises(ConfigError) as caught:
        call_factory(factory, {"pth": "x"}, key="data", extras=extras)
    assert caught.value.problems == (
        "data: unknown option 'pth'; did you mean 'path'? (known: path, size)",
        "data.path: missing",
    )
