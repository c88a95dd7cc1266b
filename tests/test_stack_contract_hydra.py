"""What Hydra 1.3 and OmegaConf 2.3 do that `config.compose` relies on or protects against."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException


def plain_hydra(folder: Path, overrides: Sequence[str] = (), **files: str) -> Any:
    """The files composed by Hydra alone, without any of our guards."""
    for name, text in {"base": "trials: 3\nrecipe: {epochs: 2}\n", **files}.items():
        (folder / f"{name}.yaml").write_text(text)
    with (
        warnings.catch_warnings(action="ignore"),
        initialize_config_dir(str(folder), version_base="1.3"),
    ):
        return OmegaConf.to_container(compose("my", list(overrides)), resolve=True)


BASED = "defaults: [base, _self_]\n"


def test_a_typo_in_a_file_is_merged_silently(tmp_path: Path) -> None:
    assert plain_hydra(tmp_path, my=BASED + "trails: 5\n")["trails"] == 5


def test_a_typo_on_the_command_line_names_the_full_key_in_the_cause(tmp_path: Path) -> None:
    with pytest.raises(HydraException, match=r"Could not override 'recipe\.epohcs'") as caught:
        plain_hydra(tmp_path, ["recipe.epohcs=3"], my=BASED)
    assert isinstance(caught.value.__cause__, OmegaConfBaseException)
    assert caught.value.__cause__.full_key == "recipe.epohcs"


def test_types_are_not_checked(tmp_path: Path) -> None:
    assert plain_hydra(tmp_path, ["trials=abc"], my=BASED)["trials"] == "abc"


def test_without_self_there_is_only_a_warning(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("trials: 3\n")
    (tmp_path / "my.yaml").write_text("defaults: [base]\ntrials: 5\n")
    with (
        initialize_config_dir(str(tmp_path), version_base="1.3"),
        pytest.warns(UserWarning, match="missing `_self_`"),
    ):
        assert compose("my").trials == 5


def test_self_before_base_lets_the_base_win(tmp_path: Path) -> None:
    assert plain_hydra(tmp_path, my="defaults: [_self_, base]\ntrials: 5\n")["trials"] == 3


def test_the_environment_is_resolved_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NASCTL_SECRET", "hunter2")
    text = BASED + "seed: ${oc.env:NASCTL_SECRET}\n"
    assert plain_hydra(tmp_path, my=text)["seed"] == "hunter2"


def test_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    found = plain_hydra(tmp_path, base="a: {x: 1}\nb: [1, 2]\n", my=BASED + "a: {y: 2}\nb: [3]\n")
    assert found == {"a": {"x": 1, "y": 2}, "b": [3]}


def test_a_folder_beside_the_file_turns_a_key_into_a_group(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    with pytest.raises(ValueError, match="must be a string or a list"):
        plain_hydra(tmp_path, ["trials=5"], my=BASED)


def test_a_list_of_options_is_merged(tmp_path: Path) -> None:
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "a.yaml").write_text("name: a\nx: 1\n")
    (tmp_path / "sampler" / "b.yaml").write_text("name: b\n")
    text = "defaults: [{sampler: a}, _self_]\n"
    found = plain_hydra(tmp_path, ["sampler=[a,b]"], my=text)
    assert found["sampler"] == {"name": "b", "x": 1}


def test_files_that_name_each_other_end_in_a_recursion_error(tmp_path: Path) -> None:
    with pytest.raises(RecursionError):
        plain_hydra(tmp_path, my="defaults: [other, _self_]\n", other="defaults: [my, _self_]\n")


def test_values_with_an_equals_sign_do_not_parse() -> None:
    with pytest.raises(HydraException):
        OverridesParser.create().parse_override("uri=http://x/?a=b")
    quoted = OverridesParser.create().parse_override('uri="http://x/?a=b"')
    assert quoted.value() == "http://x/?a=b"


def test_commas_and_ranges_are_sweeps() -> None:
    for text in ("lr=0.1,0.2", "lr=range(1,3)", "lr=choice(1,2)", "lr=glob(*)"):
        assert OverridesParser.create().parse_override(text).is_sweep_override(), text


def test_a_failing_initialisation_needs_no_entering_but_exiting(tmp_path: Path) -> None:
    context = initialize_config_dir(str(tmp_path), version_base="1.3")
    try:
        assert GlobalHydra.instance().is_initialized(), "the constructor has done it already"
    finally:
        context.__exit__(None, None, None)
    assert not GlobalHydra.instance().is_initialized()


def test_three_question_marks_do_not_replace_a_default(tmp_path: Path) -> None:
    found = plain_hydra(tmp_path, my=BASED + "trials: ???\nnew: ???\n")
    assert found["trials"] == 3
    assert found["new"] == "???"
