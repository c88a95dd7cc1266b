"""A study read back from its folder, and what stands beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nasctl.ablation.arms import BASELINE
from nasctl.ablation.noise import noise_of
from nasctl.ablation.shared import read_shared
from nasctl.doctor import examine
from nasctl.effects.power import pilot
from nasctl.ledger import Ledger
from nasctl.records import RunRecords
from nasctl.trial import Evaluation, State, Trial
from tests.ablation_study import arm, difference, make_study, play
from tests.e2e.command import Desk
from tests.e2e.test_ablate import PLANTED, PLUGIN, ablate


def write_run(folder: Path, trials: list[Trial], *, study: object = None) -> Ledger:
    folder.mkdir(parents=True)
    ledger = Ledger(folder / "ledger.sqlite", {})
    ledger.set_meta(config={"name": folder.name}, **({} if study is None else {"study": study}))
    for trial in trials:
        ledger.put_trial(dataclasses.replace(trial, evaluations=()))
        ledger.put_evaluation(trial.number, Evaluation(epoch=1, metrics=trial.metrics))
    return ledger


def test_only_finished_trainings_of_other_studies_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(
        difference("better", BASELINE), arms=(arm(BASELINE, "baseline"), arm("better")), last=3
    )
    trials = [
        dataclasses.replace(t, choices={**t.choices, "training": f"key{t.number}"})
        for t in play(study, lambda row: 0.5)
    ]
    trials[1] = dataclasses.replace(trials[1], state=State.FAILED, error="out of memory")
    trials[2] = dataclasses.replace(trials[2], choices={**trials[2].choices, "shared_from": "x"})
    write_run(tmp_path / "other", trials, study=study.to_json()).close()
    write_run(tmp_path / "own", trials, study=study.to_json()).close()
    write_run(tmp_path / "search", trials).close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.sqlite").write_bytes(b"no ledger")
    opened = []
    read = RunRecords.trials
    monkeypatch.setattr(
        RunRecords, "trials", lambda self: (opened.append(self.directory.name), read(self))[1]
    )
    found = read_shared(tmp_path, tmp_path / "own")
    assert set(found.epochs) == {"key0", "key3", "key4", "key5"}
    assert found.epochs["key0"] == ((1, {"accuracy": 0.5}),)
    assert found.places["key3"] == "other #3"
    assert opened == ["other"]  # a search may have ten thousand trials


def test_noise_is_read_from_seeds_that_all_arms_have() -> None:
    study = make_study(
        difference("better", BASELINE),
        arms=(arm(BASELINE, "baseline"), arm("better"), arm("same", "null_control")),
        last=5,
    )
    values = {BASELINE: [0.1, 0.2, 0.3, 0.4, 0.5], "better": [0.2, 0.1, 0.5, 0.3, 0.6]}

    def outcome(row: object) -> float | str:
        name, r = row.arm.name, row.replicate  # type: ignore[attr-defined]
        if (name, r) == (BASELINE, 1):
            return "out of memory"
        return values.get(name, [0.9] * 5)[r]

    kept = {name: [v for r, v in enumerate(vs) if r != 1] for name, vs in values.items()}
    assert noise_of(study, play(study, outcome)) == pilot(kept)  # seed by seed, not place by place
    assert noise_of(study, play(study, outcome)[:3]) is None


def test_doctor_counts_what_the_verdicts_count(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path / "cache")
    desk.write("planted.yaml", PLANTED)
    ablate(desk, "planted.yaml", "seeds=3", *PLUGIN)
    folder = tmp_path / "runs" / "planted"
    assert examine(folder).sound
    path = folder / "verdicts.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    for change, problem in (
        ({"effect": 0.5}, "has the effect 0.5, its trainings say"),
        ({"verdict": "equivalent"}, "equivalent does not follow from its interval"),
        ({"name": "another"}, "is in verdicts.json and was never asked"),
    ):
        path.write_text(json.dumps([{**whole[0], **change}, *whole[1:]]), encoding="utf-8")
        (found,) = [c for c in examine(folder).checks if c.id == "I5"]
        assert found.state == "violated"
        assert any(problem in line for line in found.details), found.details
    path.unlink()
    (found,) = [c for c in examine(folder).checks if c.id == "I5"]
    assert "verdicts.json is missing" in found.details[0]


MINE = '''\
"""A block of one's own, and an accuracy that may not be a number."""
from dataclasses import dataclass
from typing import ClassVar
from nasctl.api import Block

@dataclass(frozen=True, kw_only=True)
class Mine(Block):
    op: ClassVar[str] = "mine"
    power: int = 1

    def out_shape(self, in_shape):
        return in_shape

    def build(self, in_shape):
        from torch import nn
        return nn.Sequential(*[nn.Conv2d(in_shape[0], in_shape[0], 1) for _ in range(self.power)])

def judge(architecture, *, budget, seed):
    power = architecture.blocks[0].power
    noise = 0.001 * (seed * power % 7)
    yield {"accuracy": float("nan") if power == 3 else 0.5 + 0.1 * power + noise}

BLOCKS = {"mine": Mine}
EVALUATORS = {"judge": judge}
'''


def test_a_study_of_blocks_of_ones_own_is_told_to_its_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path / "cache")
    desk.write("mine.py", MINE)
    desk.write(
        "mine.yaml",
        "defaults: [ablate, _self_, override data: digits, override tracking: none,\n"
        "           override executor: inline]\n"
        "baseline: {blocks: [{op: mine}, {op: global_pool_linear, out: 10}]}\n"
        "factors: {power: [1, 2, 3]}\n"
        "controls: {positive: null}\n"
        "seeds: 3\nevaluator: judge\n",
    )
    out, err = desk.run("ablate", "mine.yaml", "--plugin", "mine", code=3)
    assert "power: 2 better than 1: supported" in out
    assert "power: 3 better than 1: no verdict yet (0 of at least 3 seeds)" in out
    assert "power=3: 3 of 3 trainings failed: evaluator 'judge' gave accuracy = nan." in out
    assert "Error: no verdict on power: 1 -> 3: 3 trainings failed; --fresh trains those" in err
    report = (tmp_path / "runs" / "mine" / "report.md").read_text()
    assert "power=3: 3 of 3 trainings failed" in report
    assert "baseline: mine, global_pool_linear(out=10)" in report
    desk.run("ablate", "mine.yaml", "--plugin", "mine", "--fresh", code=3)
    report = (tmp_path / "runs" / "mine" / "report.md").read_text()
    assert "9 taken over from an identical training, 3 failed" in report
    with (tmp_path / "mine.py").open("a") as file:
        file.write("\n# another thought\n")
    _, err = desk.run("ablate", "mine.yaml", "--plugin", "mine", code=2)
    assert "--plugin mine: its code has changed since the run was created" in err
    assert desk.json("doctor", "runs/mine")["ok"]


TABLE = """\
from nasctl.api import Architecture, Family, Opaque, SearchSpace

def cell(*, depth=1):
    blocks = (Opaque("cell", depth=depth),)
    network = Architecture(input_shape=(1, 8, 8), blocks=blocks, num_classes=10)
    return Family(space=SearchSpace(()), decode=lambda choices: network)

def known(architecture, *, budget, seed):
    return {"accuracy": 0.5 + 0.1 * dict(architecture.blocks[0].values)["depth"]}

FAMILIES = {"cell": cell}
EVALUATORS = {"known": known}
"""


def test_networks_of_a_table_have_verdicts_and_no_costs(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path / "cache")
    desk.write("table.py", TABLE)
    desk.write(
        "table.yaml",
        "defaults: [ablate, _self_, override data: digits, override tracking: none,\n"
        "           override executor: inline]\n"
        "baseline: {family: cell, options: {depth: 1}}\n"
        "factors: {depth: {key: baseline.options.depth, levels: [1, 2]}}\n"
        "seeds: 3\nevaluator: known\n",
    )
    study = ("ablate", "table.yaml", "--plugin", "table")
    _, err = desk.run(*study, code=2)
    assert "controls.positive.width: 0.5 changes nothing in these blocks" in err
    blind = "controls.positive=null"
    _, err = desk.run(*study, blind, "match=macs", code=2)
    assert "match: these networks have no macs before training" in err
    _, err = desk.run(*study, blind, "latency=table", code=2)
    assert err == "Error: latency: these networks have no modules to be timed; use latency=none\n"
    out, _ = desk.run(*study, blind)
    # Equal differences of a table are the truth, not a coincidence.
    assert "depth: 2 better than 1: supported in this setting (+10.00 points" in out
