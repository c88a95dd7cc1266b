"""A CSV file of results as a search problem."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nasctl.config import load_config
from nasctl.errors import ConfigError, SpecError
from nasctl.plugins import load_plugins
from nasctl.prepare import check_metrics, load_problem
from nasctl.space import Decision, SearchSpace, measure_space
from nasctl.tables import TableJob
from nasctl.trial import Work
from search_spaces.nearest import Nearest
from search_spaces.table import table
from tests.e2e.command import Desk

RESULTS = """\
op,depth,params,ms on phone,acc
conv,4,400,2.5,70
conv,2,200,1.5,60
skip,2,100,0.5,50
conv,4,400,2.5,72
"""
OPTIONS: dict[str, Any] = {
    "decisions": ["cell", "depth"],
    "costs": {"params": "params", "latency_ms": "ms on phone"},
    "results": {"accuracy": "acc"},
    "percent": ["accuracy"],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    path.write_text(RESULTS.replace("op,", "cell,"))
    return path


def train(file: Path, architecture: Any, seed: int = 0) -> list[tuple[int, dict[str, float]]]:
    work = Work(number=0, attempt=1, architecture=architecture, seed=seed, epochs=7)
    return [(m.epoch, dict(m)) for m in TableJob(options={"file": str(file), **OPTIONS})(work)]


def test_columns_become_decisions_costs_and_results(file: Path) -> None:
    family = table(file=str(file), **OPTIONS)
    assert family.space.decisions == (
        Decision("cell", ("conv", "skip")),
        Decision("depth", (2, 4)),  # numbers, and sorted
    )
    architecture = family.decode({"cell": "conv", "depth": 4})
    assert family.cost is not None
    assert dict(family.cost(architecture)) == {"params": 400, "latency_ms": 2.5}
    assert train(file, architecture, seed=0) == [(7, {"accuracy": 0.7})]
    assert measure_space(family).networks == 3
    assert measure_space(family).networks_exact
    assert family.space.count() == 4


def test_equal_rows_are_the_seeds_of_a_network(file: Path) -> None:
    architecture = table(file=str(file), **OPTIONS).decode({"cell": "conv", "depth": 4})
    values = [train(file, architecture, seed)[0][1]["accuracy"] for seed in (0, 1, 2, 5)]
    assert values == [0.7, 0.72, 0.7, 0.72]


def test_what_is_not_in_the_table_is_rejected_or_the_nearest_is_taken(file: Path) -> None:
    with pytest.raises(SpecError, match="not in the table"):
        table(file=str(file), **OPTIONS).decode({"cell": "skip", "depth": 4})
    family = table(file=str(file), missing="nearest", **OPTIONS)
    assert family.decode({"cell": "skip", "depth": 4}) == family.decode(
        {"cell": "conv", "depth": 4}
    )


@pytest.mark.parametrize(
    ("line", "replacement", "options", "problem"),
    [
        (0, "", {"file": "gone.csv"}, "file: gone.csv: No such file"),
        (0, "", {"decisions": ["cel"]}, "1: unknown column 'cel'; did you mean 'cell'?"),
        (0, "", {"decisions": []}, "decisions: at least one column"),
        (0, "", {"decisions": "cell"}, "decisions: expected a list of columns, got 'cell'"),
        (0, "", {"percent": ["acc"]}, "percent: unknown metric 'acc'; did you mean 'accuracy'?"),
        (0, "", {"percent": []}, ":2: acc: an accuracy is a fraction, 0 to 1, got 70; if it is in"),
        (0, "", {"missing": "nearst"}, "missing: unknown value 'nearst'; did you mean 'nearest'?"),
        (0, "", {"results": {"params": "acc"}, "percent": []}, "results: params is a cost already"),
        (0, "", {"costs": {"params": "size"}}, "costs: .*unknown column 'size'"),
        (0, "", {"decisions": ["cell"]}, ":3: params, latency_ms not as in line 2, which has the"),
        (
            3,
            "conv,2,many,1.5,60",
            {},
            "results.csv:3: params: expected a finite number, got 'many'",
        ),
        (3, "conv,2,nan,1.5,60", {}, "results.csv:3: params: expected a finite number, got 'nan'"),
        (3, "conv,2,200,1.5", {}, "results.csv:3: 4 cells, the heading has 5"),
        (3, ",2,200,1.5,60", {}, "results.csv:3: cell: empty; give the choice a name"),
        (3, '"conv,2,200,1.5,60', {}, "cannot be read as CSV"),
        (3, "conv,2,200,1.5,160", {}, ":3: acc: an accuracy is a fraction, 0 to 1, got 160"),
        (1, "cell,depth,params,cell,acc", {}, "there are several columns 'cell'"),
        (1, "op,depth,params,ms on phone,acc", {"decisions": ["op"]}, "'op' means something else"),
    ],
)
def test_mistakes_name_file_line_and_column(
    file: Path, line: int, replacement: str, options: dict[str, Any], problem: str
) -> None:
    lines = file.read_text().splitlines()
    if line:
        lines[line - 1] = replacement
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=problem):
        table(**{"file": str(file), **OPTIONS, **options})


@pytest.mark.parametrize("content", [b"", b"a,b\n", b"\xff\xfe\x00"])
def test_no_table_at_all_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"results\.csv") as caught:
        table(file=str(path), decisions=["a"], results=["b"])
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_read_again(file: Path) -> None:
    assert len(table(file=str(file), **OPTIONS).space.decisions[1].choices) == 2
    with file.open("a") as stream:
        stream.write("skip,8,800,9,90\n")
    assert len(table(file=str(file), **OPTIONS).space.decisions[1].choices) == 3


def test_nearest_by_hand() -> None:
    space = SearchSpace(
        (
            Decision("kind", ("a", "b", "c")),
            Decision("depth", (1, 2, 8)),
            Decision("width", (1, 2), when={"kind": ("a",)}),
        )
    )
    known: list[dict[str, Any]] = [
        {"kind": "a", "depth": 1, "width": 1},
        {"kind": "a", "depth": 8, "width": 2},
        {"kind": "c", "depth": 2},
    ]
    near = Nearest(space, known)
    assert [near(choices) for choices in known] == [0, 1, 2]
    assert near({"kind": "a", "depth": 2, "width": 1}) == 0  # 0.5 from it, 1.5 from the next
    assert near({"kind": "b", "depth": 8}) == 2  # 1 + 0.5; the width that it lacks counts 1
    assert near({"kind": "a", "depth": 2, "width": 2}) == 1  # 0.5 against 1.5
    with pytest.raises(ValueError, match="no known"):
        Nearest(space, [])


def test_the_nearest_of_random_configurations_by_brute_force() -> None:
    rng = random.Random(0)
    space = SearchSpace(tuple(Decision(f"d{i}", tuple(range(i + 2))) for i in range(4)))
    known = [space.sample(rng) for _ in range(20)]

    def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
        return sum(abs(a[d.name] - b[d.name]) / (len(d.choices) - 1) for d in space.decisions)

    near = Nearest(space, known)
    for _ in range(200):
        choices = space.sample(rng)
        expected = min(range(20), key=lambda i: round(distance(choices, known[i]), 9))
        assert near(choices) == expected


CONFIG = """\
defaults: [search, _self_, override tracking: none, override executor: inline,
           override sampler: random]
name: known
trials: 100
objectives: {accuracy: max, params: min, latency_ms: min}
evaluator: table
space:
  family: table
  options:
    file: results.csv
    decisions: [cell, depth]
    costs: {params: params, latency_ms: ms on phone}
    results: {accuracy: acc}
    percent: [accuracy]
"""


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("evaluator=train", "a table has no networks to train; use evaluator=table"),
        ("space.family=staged", "table gives the results of space.family=table alone"),
        ("evaluator=replay", "which run is to be replayed"),
        ("replay.run=runs/x", "is read by evaluator=replay alone"),
        ("evaluator=tabel", "unknown evaluator 'tabel'; did you mean 'table'?"),
        ("space.options.flie=x", r"space.options: unknown option 'flie'; did you mean 'file'?"),
        ("space.options.decisions=[cel]", "space.options.decisions: .*did you mean 'cell'"),
        (
            "space.options.file=null",
            "space.options.file: expected the path of a CSV file, got None",
        ),
        ("space.options.file=[1]", r"space.options.file: expected the path of a CSV .*got \[1\]"),
        ("space.options.percent=accuracy", "percent: expected a list of metrics, got 'accuracy'"),
        ("space.options.costs=3", "space.options.costs: expected a list of columns, got 3"),
        ("fidelity=halving", "fidelity: a table has only the ends of trainings; use fidelity=full"),
        ("+sampler.startup_trials=-1", r"sampler.startup_trials: unknown option of random"),
        ("objectives.macs=min", "objectives: unknown metric 'macs' .known: accuracy, params"),
    ],
)
def test_a_configuration_that_cannot_be(
    file: Path, monkeypatch: pytest.MonkeyPatch, override: str, problem: str
) -> None:
    monkeypatch.chdir(file.parent)
    Path("known.yaml").write_text(CONFIG)

    def check() -> None:
        config = load_config("known.yaml", [override]).config
        check_metrics(config, load_problem(config, load_plugins([])))

    with pytest.raises(ConfigError, match=problem):
        check()


@pytest.mark.parametrize("value", ["-1", "0", "1e300", "x", "true"])
def test_options_of_a_sampler_are_checked_before_anything_starts(file: Path, value: str) -> None:
    desk = Desk(file.parent, file.parent)
    desk.write("known.yaml", CONFIG)
    options = ("sampler=known_cost", f"sampler.pool_size={value}")
    for more in ((), ("--dry-run",)):
        _, err = desk.run("search", "known.yaml", *options, *more, code=2)
        assert err.startswith("Error: sampler.pool_size: ")
    assert not (desk.folder / "runs").exists()


def test_the_mlflow_line_is_for_a_store_that_is_there(file: Path) -> None:
    desk = Desk(file.parent, file.parent)
    desk.write("known.yaml", CONFIG.replace("override tracking: none, ", ""))
    _, err = desk.run("search", "known.yaml", "tracking.uri=http://127.0.0.1:9")
    assert "nasctl ui" in err
    _, err = desk.run("search", "known.yaml", "name=untracked", "tracking=none")
    assert "nasctl ui" not in err


def test_a_search_of_a_table_finds_its_front(file: Path) -> None:
    desk = Desk(file.parent, file.parent)
    desk.write("known.yaml", CONFIG)
    out, err = desk.run("search", "known.yaml", "--json")
    front = json.loads(out)
    assert front["trials"]["COMPLETE"] == 3
    assert front["trials"]["REJECTED"] == 1  # skip of depth 4 is not in the table
    assert [m["choices"] for m in front["members"]] == [
        {"cell": "conv", "depth": 4},
        {"cell": "conv", "depth": 2},
        {"cell": "skip", "depth": 2},
    ]
    assert "the space is exhausted after 3 of 100 trials" in err


def test_a_search_does_not_go_on_with_other_rows(file: Path) -> None:
    desk = Desk(file.parent, file.parent)
    desk.write("known.yaml", CONFIG)
    run = ("search", "known.yaml", "tracking=none")
    desk.run(*run, "trials=1")
    before = file.read_text()
    file.write_text(before.replace(",60", ",90"))
    _, err = desk.run(*run, "trials=2", code=2)
    assert f"space.options.file: {file} has other rows than this run began with" in err
    file.write_text(before + "\n")  # the same rows
    desk.run(*run, "trials=2")
    # Where they lie is no matter, and the run says where it was.
    assert desk.records("known").config["space"]["options"]["file"] == str(file)
    file.rename(file.with_name("moved.csv"))
    desk.run(*run, "space.options.file=moved.csv", "trials=3")
    # What it says of itself is what continues it now.
    assert desk.records("known").command.endswith("space.options.file=moved.csv trials=3")
    assert len(desk.trials("known")) == 3
