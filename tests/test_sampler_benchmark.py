"""The command line of `benchmarks/samplers.py`: samplers that need what nasctl does not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def samplers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("samplers")


def refusal(
    samplers: ModuleType,
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    monkeypatch.setattr(sys, "argv", ["samplers.py", *argv])
    with pytest.raises(SystemExit) as stopped:
        samplers.command()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    return printed.err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["botorch", "botorch_hamming"])
def test_botorch_is_named_where_it_is_not_installed(
    name: str,
    samplers: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    baselines = sys.modules["sampler_baselines"]
    monkeypatch.setattr(baselines, "find_spec", lambda library: None)
    said = refusal(samplers, ["--samplers", f"random,{name}"], monkeypatch, capsys)
    assert said.endswith(f"--samplers {name}: not installed; pip install botorch")


def test_botorch_is_offered_where_it_is_installed_and_never_by_default(
    samplers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baselines = sys.modules["sampler_baselines"]
    monkeypatch.setattr(baselines, "find_spec", lambda library: SimpleNamespace(name=library))
    said = refusal(samplers, ["--samplers", "bottorch"], monkeypatch, capsys)
    offered = said.partition("one of ")[2].split(", ")
    assert {"known_cost", "local_search", "botorch", "botorch_hamming"} <= set(offered)
    said = refusal(samplers, ["--versus", "botorch"], monkeypatch, capsys)
    assert "--versus botorch: not among --samplers known_cost," in said


def test_without_botorch_the_other_names_are_offered(
    samplers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baselines = sys.modules["sampler_baselines"]
    monkeypatch.setattr(baselines, "find_spec", lambda library: None)
    said = refusal(samplers, ["--samplers", "bottorch"], monkeypatch, capsys)
    assert "botorch" not in said.partition("one of ")[2]


@pytest.mark.parametrize("window", [2, 12])
def test_the_plain_process_knows_the_costs_and_never_repeats_itself(
    window: int, samplers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = samplers.synthetic_table(0)
    setting = samplers.Setting(trials=20, window=window, noise=0.0, at=[20], options={})
    everything = samplers.hypervolume(list(table.rows.values()), table.objectives, table.reference)
    asked: list[tuple[int, str]] = []
    plain = samplers.BASELINES["plain_gp"]

    def watched(context: object) -> object:
        sampler = plain(context)
        ask = sampler.ask

        def recorded(number: int, attempt: int, pending: tuple[object, ...]) -> object:
            proposal = ask(number, attempt, pending)
            asked.append((attempt, str(proposal.choices)))
            return proposal

        monkeypatch.setattr(sampler, "ask", recorded)
        return sampler

    monkeypatch.setitem(samplers.BASELINES, "watched", watched)
    (found,) = samplers.run("watched", table, 0, setting)[0]
    assert found / everything > 0.85  # random search: .70 to .78
    assert {attempt for attempt, _ in asked} == {0}
    assert len({choices for _, choices in asked}) == len(asked) == 20


def test_a_large_space_is_searched_and_compared_with_the_first_sampler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    large_spaces = importlib.import_module("large_spaces")
    argv = ["resnet_space", "--samplers", "known_cost,random", "--trials", "25", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["large_spaces.py", *argv])
    large_spaces.main()
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["known_cost"][1:3] == ["1.000", "(0.000)"]
    ratio = float(lines["random"][1])
    assert 0.5 < ratio < 1.2
    assert ratio != 1.0


def test_a_search_that_was_told_all_others_needs_few_trials(samplers: ModuleType) -> None:
    ceiling = importlib.import_module("ceiling")
    table = importlib.import_module("sampler_tables").synthetic_table(0, decisions=3)
    setting = samplers.Setting(trials=14, window=0, noise=0.0, at=[7, 14], options={})
    whole = samplers.hypervolume(list(table.rows.values()), table.objectives, table.reference)
    told, started = (ceiling.search((n, table, 0, setting))[0] for n in ceiling.STARTS)
    by_chance = samplers.run("random", table, 0, setting)[0]
    assert 0.95 * whole < told[0] < told[1] <= whole
    assert started[0] < 0.9 * whole  # ten trials that it has not chosen, then four that it has
    assert started[1] > 1.1 * by_chance[1]
