"""Configurations that are wrong, careless or malicious: one line each, exit code 2, nothing run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasctl.config import load_config
from nasctl.errors import ConfigError
from tests.hostile_cases import BASED, DEFAULTS, IN_A_FILE, ON_THE_COMMAND_LINE


@pytest.fixture(autouse=True)
def _nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each case runs in its own folder, which afterwards holds what the test wrote and no more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASCTL_SECRET", "hunter2")
    yield
    assert not list(tmp_path.rglob("*canary*"))


def problems(text: str | bytes, *overrides: str, name: str = "my.yaml") -> tuple[str, ...]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    before = sorted(Path().rglob("*"))
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    assert caught.value.exit_code == 2
    assert sorted(Path().rglob("*")) == before
    assert "hunter2" not in str(caught.value)
    for problem in caught.value.problems:
        assert "\n" not in problem, problem
        assert len(problem) < 600, problem
    return caught.value.problems


@pytest.mark.parametrize("case", IN_A_FILE)
def test_in_a_file(case: str) -> None:
    text, expected = IN_A_FILE[case]
    found = problems(BASED + text + "\n")
    assert len(found) == 1 + (case == "target in options"), found  # _target_ and _args_
    assert found[0].startswith(expected), found[0]


@pytest.mark.parametrize(
    "override", ON_THE_COMMAND_LINE, ids=lambda text: text[:30].replace("\0", "0")
)
def test_on_the_command_line(override: str) -> None:
    (found,) = problems(BASED, override)
    if override in ("~sampler", "~seed", "~objectives"):
        found = "command line: " + found.split(": ", 1)[1]
    assert found.startswith(f"command line: {ON_THE_COMMAND_LINE[override]}"), found


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults_lists(case: str) -> None:
    text, expected = DEFAULTS[case]
    (found,) = problems(text + "\n")
    assert found.startswith(expected), found


class TestFilesThatAreDrawnIn:
    """Files beside the configuration are read as carefully as itself."""

    def test_a_group_file(self) -> None:
        Path("sampler").mkdir()
        Path("sampler/evil.yaml").write_text("name: tpe\n_target_: os.system\nx: ${oc.env:HOME}\n")
        found = problems(BASED, "sampler=evil")
        assert [p.split(": ")[0] for p in found] == ["sampler/evil.yaml:2", "sampler/evil.yaml:3"]

    def test_a_bomb_in_a_base_file(self) -> None:
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
        )
        Path("base.yaml").write_text(bomb)
        began = time.monotonic()
        (found,) = problems("defaults: [base, _self_]\n")
        assert found.startswith("base.yaml:")
        assert "more than 5000 values once aliases are expanded" in found
        assert time.monotonic() - began < 30, "it would take minutes, not more or less of a second"

    def test_settings_of_hydra_in_a_base_file(self) -> None:
        Path("base.yaml").write_text(BASED + "hydra: {searchpath: [/]}\n")
        (found,) = problems("defaults: [base, _self_]\n")
        assert found.startswith("base.yaml:2: hydra.searchpath: nasctl only takes")

    def test_a_file_in_the_place_of_hydras_own(self) -> None:
        Path("hydra/callbacks").mkdir(parents=True)
        Path("hydra/callbacks/mine.yaml").write_text("_target_: builtins.open\n")
        (found,) = problems("defaults: [search, {override hydra/callbacks: mine}, _self_]\n")
        assert "mine" in found or "hydra" in found

    def test_a_circle(self) -> None:
        Path("base.yaml").write_text("defaults: [other, _self_]\n")
        Path("other.yaml").write_text("defaults: [base, _self_]\n")
        (found,) = problems("defaults: [base, _self_]\n")
        assert found == "my.yaml: defaults: the files name each other in a circle"

    def test_wrong_values_name_the_file_they_are_in(self) -> None:
        Path("recipe").mkdir()
        Path("recipe/mine.yaml").write_text("defaults: [default, _self_]\n\nepochs: none\n")
        found = problems(BASED, "recipe=mine")
        assert found == ("recipe/mine.yaml:3: recipe.epochs: expected a whole number, got 'none'",)

    def test_symlinks_out_of_the_folder_are_only_read(self, tmp_path: Path) -> None:
        target = tmp_path.parent / f"{tmp_path.name}_secret"
        target.write_text("root:x:0:0\n")
        Path("my.yaml").symlink_to(target)
        with pytest.raises(ConfigError, match="found a single value"):
            load_config("my.yaml")
        assert target.read_text() == "root:x:0:0\n"


class TestWhichFile:
    def expect(self, config: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(config)
        assert str(caught.value).startswith(message), str(caught.value)

    def test_names_and_paths(self, tmp_path: Path) -> None:
        Path("mine.yaml").write_text(BASED)
        Path("old.yml").write_text(BASED)
        Path("notes.txt").write_text("x")
        Path("folder").mkdir()
        Path("folder/inner.yaml").write_text(BASED)
        self.expect("minr.yaml", "minr.yaml: no such file; did you mean mine.yaml?")
        self.expect(
            "folder/iner.yaml", "folder/iner.yaml: no such file; did you mean folder/inner."
        )
        self.expect(
            "conf/mbv2_space.yaml",
            "conf/mbv2_space.yaml: no such file; the packaged one goes by its name, mbv2_space",
        )
        with pytest.raises(ConfigError, match=r"^nowhere/x\.yaml: no such file$"):
            load_config("nowhere/x.yaml")
        with pytest.raises(ConfigError, match=r"^other\.yaml: no such file$"):
            load_config("other.yaml")
        self.expect("mbv2_spaces", "unknown config 'mbv2_spaces'; did you mean 'mbv2_space'?")
        self.expect("min", "unknown config 'min'; did you mean 'mine.yaml'?")
        self.expect("old.yml", "old.yml: config files end in .yaml; rename it to old.yaml")
        self.expect("notes.txt", "notes.txt: config files end in .yaml; rename it to notes.yaml")
        self.expect("folder", "folder: a folder; give a .yaml file (in it: inner.yaml)")
        self.expect("", "config '': expected the path of a .yaml file")
        self.expect("a\0.yaml", "config 'a\\x00.yaml': expected the path")
        self.expect("x" * 300 + ".yaml", "'xxx")
        self.expect("x" * 5000, "config 'xxx")

    def test_unreadable_and_special_files(self) -> None:
        os.mkfifo("pipe.yaml")
        self.expect("pipe.yaml", "pipe.yaml: not a regular file")
        Path("loop.yaml").symlink_to("loop.yaml")
        self.expect("loop.yaml", "")

    def test_a_file_of_zeros_or_noise(self) -> None:
        Path("zeros.yaml").write_bytes(bytes(2 << 20))
        self.expect("zeros.yaml", "zeros.yaml: larger than 1024 KiB")
        Path("noise.yaml").write_bytes(bytes(range(256)))
        self.expect("noise.yaml", "noise.yaml:")


def test_a_list_position_that_does_not_exist() -> None:
    text = BASED + "space: {options: {stages: [{depth: 1}]}}\n"
    (found,) = problems(text, "space.options.stages.7.depth=1")
    assert found == "command line: space.options.stages.7.depth: list index out of range"


def test_all_problems_at_once_file_and_command_line() -> None:
    text = (
        BASED + "n_trails: 3\nrecipe:\n  epochs: 0\n  schedule: cosin\nconstraints: {params: -1}\n"
    )
    found = problems(text, "sampler=tpee", "seeed=3", "objectives.accuracy=min", "lr=1,2")
    assert sorted(p.split(": ")[0] + " " + p.split(": ")[1] for p in found) == [
        "command line lr",
        "command line objectives.accuracy",
        "command line sampler",
        "command line seeed",
        "my.yaml:2 n_trails",
        "my.yaml:4 recipe.epochs",
        "my.yaml:5 recipe.schedule",
        "my.yaml:6 constraints.params",
    ]


def test_a_hostile_file_is_refused_without_importing_what_it_names(tmp_path: Path) -> None:
    Path("canary_module.py").write_text("open('canary', 'w').close()\n")
    text = (
        BASED
        + "space: {_target_: canary_module.run}\nhydra: {searchpath: ['pkg://canary_module']}\n"
    )
    Path("my.yaml").write_text(text)
    code = (
        "import sys\n"
        "from nasctl.config import load_config\n"
        "from nasctl.errors import ConfigError\n"
        "try:\n"
        "    load_config('my.yaml', ['+a._target_=canary_module.run'])\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "assert not {'torch', 'ray', 'mlflow', 'optuna', 'canary_module'} & set(sys.modules)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("my.yaml:2: space._target_: a configuration names things")
    Path("canary_module.py").unlink()


KEYS = st.sampled_from(
    [
        "trials",
        "seed",
        "name",
        "recipe",
        "objectives",
        "constraints",
        "space",
        "options",
        "stages",
        "data",
        "sampler",
        "latency",
        "executor",
        "tracking",
        "defaults",
        "hydra",
        "search",
        "epochs",
        "reference",
        "reference_point",
        "evaluator",
        "output_dir",
        "fidelity",
        "x",
        "accuracy",
        "a.b",
    ]
)
VALUES = st.recursive(
    st.sampled_from(
        [
            r"1",
            r"-1",
            r"0.5",
            r"true",
            r"null",
            r"max",
            r"tpe",
            r"''",
            r"???",
            r".nan",
            r"1e400",
            r'"${seed}"',
            r"${x.y}",
            r"'\'",
            r"search",
            r"_self_",
            r"2024-01-01",
            r"0x1f",
            r"[]",
            r"{}",
            r"none",
            r"a-b",
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(KEYS, inner, max_size=3).map(
            lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}"
        )
    ),
    max_leaves=5,
)
LINES = st.lists(st.tuples(KEYS, VALUES).map(lambda kv: f"{kv[0]}: {kv[1]}\n"), max_size=5)
OVERRIDES = st.lists(
    st.tuples(st.sampled_from(["", "+", "++", "~"]), KEYS, KEYS, VALUES).map(
        lambda t: f"{t[0]}{t[1]}{'.' + t[2] if len(t[3]) % 2 else ''}={t[3]}"
    )
    | st.text(max_size=12),
    max_size=2,
)


@given(LINES.map("".join), OVERRIDES, st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_fuzz_nothing_but_config_errors(text: str, overrides: list[str], based: bool) -> None:
    Path("my.yaml").write_text(BASED * based + text)
    found: tuple[str, ...] = ()
    try:
        load_config("my.yaml", overrides)
    except ConfigError as error:
        found = error.problems
    assert [problem for problem in found if "\n" in problem] == []
