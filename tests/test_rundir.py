"""The folder of a run: created, continued, refused, moved aside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from nasctl.errors import ConfigError, EnvironmentProblemError
from nasctl.records import RunRecords, find_run
from nasctl.rundir import OpenRun, open_run


def differences(old: Any, new: Any) -> list[str]:
    return [f"{k}: {old.get(k)} -> {new[k]}" for k in new if old.get(k) != new[k]]


def opened(
    directory: Path,
    *,
    fresh: bool = False,
    same_code: bool = False,
    plugins: dict[str, str] | None = None,
    **config: Any,
) -> contextlib.AbstractContextManager[OpenRun]:
    return open_run(
        directory,
        config=config,
        config_text=f"# {config}\n",
        meta={"status": "RUNNING", "plugins": plugins or {}},
        block_types={},
        differences=differences,
        fresh=fresh,
        same_code=same_code,
    )


def test_the_same_configuration_continues(tmp_path: Path) -> None:
    with opened(tmp_path / "runs" / "a", seed=1) as run:
        assert not run.resumed
        uid = run.ledger.meta("uid")
    with opened(tmp_path / "runs" / "a", seed=1) as run:
        assert run.resumed
        assert run.ledger.meta("uid") == uid
    records = RunRecords(tmp_path / "runs" / "a")
    assert records.status == "RUNNING"
    assert (tmp_path / "runs" / "a" / "config.yaml").read_text() == "# {'seed': 1}\n"


def test_another_configuration_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "a", seed=1):
        pass
    with (
        pytest.raises(ConfigError, match=r"seed: 1 -> 2(.|\n)*--fresh"),
        opened(tmp_path / "a", seed=2),
    ):
        pass
    assert RunRecords(tmp_path / "a").config == {"seed": 1}
    assert (tmp_path / "a" / "config.yaml").read_text() == "# {'seed': 1}\n"


def test_other_code_of_a_plugin_is_recorded_or_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "a", plugins={"mine": "1", "same": "1"}) as run:
        assert run.changed_plugins == ()
    now = {"mine": "2", "same": "1"}
    with (
        pytest.raises(ConfigError, match="--plugin mine: its code has changed since the run was"),
        opened(tmp_path / "a", plugins=now, same_code=True),
    ):
        pytest.fail("it was opened")
    with opened(tmp_path / "a", plugins=now) as run:
        assert run.changed_plugins == ("mine",)
        changes = [data for _, kind, data in run.ledger.events() if kind == "plugins_changed"]
        assert changes == [{"names": ["mine"]}]
    with opened(tmp_path / "a", plugins=now, same_code=True) as run:
        assert run.changed_plugins == ()


def test_fresh_moves_the_old_run_aside_each_time(tmp_path: Path) -> None:
    for n in range(3):
        with opened(tmp_path / "a", fresh=True, seed=n) as run:
            assert not run.resumed
            assert (run.moved is None) == (n == 0)
    assert RunRecords(tmp_path / "a").config == {"seed": 2}
    assert RunRecords(tmp_path / "a.old1").config == {"seed": 0}
    assert RunRecords(tmp_path / "a.old2").config == {"seed": 1}


def test_a_second_driver_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with opened(tmp_path / "a", seed=1):
        for fresh in (False, True):
            with (
                pytest.raises(EnvironmentProblemError, match=rf"pid {os.getpid()}\b"),
                opened(tmp_path / "a", fresh=fresh, seed=1),
            ):
                pass


def test_a_folder_that_cannot_be_made_is_an_environment_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentProblemError, match="cannot be created"),
        opened(tmp_path / "file" / "a", seed=1),
    ):
        pass


def test_a_run_is_found_by_its_path_and_guessed_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "runs" / "mbv2_space", seed=1):
        pass
    monkeypatch.chdir(tmp_path)
    assert find_run("runs/mbv2_space") == Path("runs/mbv2_space")
    assert find_run("runs/mbv2_space/ledger.sqlite") == Path("runs/mbv2_space")
    for slip in ("runs/mbv2_spac", "mbv2_space"):
        with pytest.raises(EnvironmentProblemError, match="did you mean runs/mbv2_space"):
            find_run(slip)
    with pytest.raises(EnvironmentProblemError, match="no run here"):
        find_run("/nowhere/at/all")


def test_a_run_of_the_head_is_guessed_by_its_whole_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cluster's container, whose working directory is not the folder for runs."""
    for place in ("head/first", "home/nasctl-runs/second", "desk/runs/firsts"):
        with opened(tmp_path / place, seed=1):
            pass
    monkeypatch.chdir(tmp_path / "desk")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NASCTL_RUNS", str(tmp_path / "head"))

    def said(run: str) -> str:
        with pytest.raises(EnvironmentProblemError) as error:
            find_run(run)
        return str(error.value)

    no_run = "no run here (no ledger.sqlite)"
    assert said("first") == f"first: {no_run}; did you mean {tmp_path}/head/first?"
    assert said("firs").endswith("; did you mean runs/firsts?")
    assert said("elsewhere/first").endswith(f"; did you mean {tmp_path}/head/first?")
    assert str(tmp_path) not in said("second")
    monkeypatch.delenv("NASCTL_RUNS")
    assert said("second").endswith(f"; did you mean {tmp_path}/home/nasctl-runs/second?")
    with opened(tmp_path / "desk" / "runs" / "second", seed=1):
        pass
    assert said("second").endswith("; did you mean runs/second?"), "what is here comes first"
