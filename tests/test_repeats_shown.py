"""What people are shown of repeated networks and of trainings that were not needed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nasctl.cli import _show_front
from nasctl.errors import SpecError
from nasctl.ledger import Ledger
from nasctl.outputs import report_view
from nasctl.records import RunRecords
from nasctl.report import render_html
from nasctl.report.files import markdown
from nasctl.report.view import RunView
from nasctl.terminal import front_table
from nasctl.tracking.note import search_note
from nasctl.trial import State, Trial
from tests import toy

NETWORKS = {"a": {"depth": 1, "width": 0}, "b": {"depth": 2, "width": 0}}


def trials(*results: tuple[str, float]) -> list[Trial]:
    """COMPLETE trials of (network, accuracy), with the next seed each time."""
    made: list[Trial] = []
    for number, (name, accuracy) in enumerate(results):
        architecture = toy.decode(NETWORKS[name])
        cost = toy.cost(architecture)
        made.append(
            Trial(
                number=number,
                state=State.COMPLETE,
                choices=NETWORKS[name],
                architecture=architecture,
                seed=sum(t.arch_id == architecture.id for t in made),
                epochs=1,
                cost=cost,
                metrics={"accuracy": accuracy, **cost},
            )
        )
    return made


def records(folder: Path, found: list[Trial], **meta: Any) -> RunRecords:
    """A run with these trials."""
    folder.mkdir()
    ledger = Ledger(folder / "ledger.sqlite", {})
    values = {
        "uid": "u",
        "status": "FINISHED",
        "config": {"name": "n", "objectives": toy.OBJECTIVES},
        "reference_point": {"accuracy": 0.0, "params": 1000.0},
    }
    ledger.set_meta(**(values | meta))
    for trial in found:
        ledger.put_trial(trial)
    ledger.close()
    return RunRecords(folder)


@pytest.fixture
def repeated(tmp_path: Path) -> RunRecords:
    """Network a is corrected by its second seed; b was trained four times."""
    found = trials(("a", 0.9), ("b", 0.85), ("a", 0.7), ("b", 0.86), ("b", 0.87), ("b", 0.86))
    return records(tmp_path / "run", found, duplicates=5)


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", " ", page)


def table(page: str) -> str:
    found = re.search(r'<section id="members">.*?</section>', page, re.S)
    assert found
    return text_of(found[0])


def test_the_front_shows_how_many_seeds_are_behind_a_mean(repeated: RunRecords) -> None:
    lines = front_table(repeated.front).splitlines()
    head = next(line for line in lines if "network " in line and "seeds" in line)
    rows = {line.split()[0]: line for line in lines if line[: len(head)].strip()}
    ids = [t.arch_id for t in repeated.trials()]
    assert rows[ids[0]].split()[-1] == "2"
    assert rows[ids[1]].split()[-1] == "4"
    assert "0.8000" in rows[ids[0]]
    assert "0.8600" in rows[ids[1]]


def test_nothing_is_said_of_seeds_where_every_network_has_one(tmp_path: Path) -> None:
    once = records(tmp_path / "run", trials(("a", 0.8), ("b", 0.9)))
    view = report_view(once)
    shown = [front_table(once.front), table(render_html(view)), markdown(view, "x.png")]
    assert not [s for s in shown if "seeds" in s.lower()]
    assert "avoided" not in "".join([*shown, render_html(view)])
    assert once.front["trainings_avoided"] == {"rejected": 0, "duplicates": 0}
    assert once.front["seed_spread"] == {}


def test_the_report_shows_seeds_their_spread_and_why_the_hypervolume_falls(
    repeated: RunRecords,
) -> None:
    view = report_view(repeated)
    page = render_html(view)
    assert "Seeds" in table(page)
    assert '<td class="n">4</td>' in page
    visible = " ".join(text_of(page).split())
    assert "it falls where another seed corrected a lucky value" in visible
    # Squares about the means: .02 and .0002, over 1 + 3 degrees of freedom.
    assert (
        "2 networks trained more than once: from seed to seed accuracy has a standard " in visible
    )
    assert "standard deviation of 0.0711 (4 degrees of freedom, pooled within networks)." in visible
    assert "5 trainings avoided: 5 proposals of known networks." in visible
    assert re.search(r"\| network .*\| seeds \|", markdown(view, "x.png"))
    assert repeated.front["seed_spread"]["accuracy"]["df"] == 4
    history = [value for _, value in repeated.hypervolume_history()]
    assert history[2] < history[1]
    assert history[-1] == pytest.approx(repeated.front["hypervolume"])


def test_no_fall_is_explained_where_there_is_none(tmp_path: Path) -> None:
    rising = records(tmp_path / "run", trials(("a", 0.7), ("b", 0.8), ("a", 0.75)))
    assert "it falls where" not in render_html(report_view(rising))


def test_trainings_avoided_end_the_search_and_are_in_front_json(
    repeated: RunRecords, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _show_front(repeated, as_json=False)
    assert "5 trainings avoided: 5 proposals of known networks" in capsys.readouterr().out
    _show_front(repeated, as_json=True)
    front = json.loads(capsys.readouterr().out)
    assert front["trainings_avoided"] == {"rejected": 0, "duplicates": 5}


def test_both_reasons_for_an_avoided_training_are_counted(tmp_path: Path) -> None:
    engine = toy.make_engine(
        tmp_path / "ledger.sqlite", constraints={"params": 1500}, trials=30, sampler="random"
    )
    toy.run(engine)
    rejected = len(engine._ledger.rejections())
    engine._ledger.set_meta(uid="u", config={"name": "n", "objectives": toy.OBJECTIVES})
    engine._ledger.set_meta(reference_point={"accuracy": 0.0, "params": 1e4})
    engine._ledger.close()
    found = RunRecords(tmp_path)
    assert rejected > 0
    assert engine.duplicates > 0
    assert found.trainings_avoided == {"rejected": rejected, "duplicates": engine.duplicates}
    line = front_table(found.front, width=200).splitlines()[1]
    total = rejected + engine.duplicates
    assert line.startswith(f"{total} trainings avoided: {rejected} rejected by constraints, ")


def test_what_cannot_be_built_is_no_training_that_was_avoided(tmp_path: Path) -> None:
    def decode(choices: dict[str, Any]) -> Any:
        if choices["depth"] > 3:
            raise SpecError("too deep")
        return toy.decode(choices)

    family = dataclasses.replace(toy.toy_family(), decode=decode)
    engine = toy.make_engine(tmp_path / "ledger.sqlite", family=family, trials=15)
    toy.run(engine)
    assert engine._ledger.rejections()
    engine._ledger.close()
    assert RunRecords(tmp_path).trainings_avoided["rejected"] == 0


def test_the_tracking_store_shows_means(repeated: RunRecords) -> None:
    note = search_note(repeated, repeated.trials(), repeated.front_ids())
    assert "| 0, 2 | 0.8 |" in note
    assert "| 1, 3, 4, 5 | 0.86 |" in note


def test_a_view_without_the_new_keys_is_shown_as_before(repeated: RunRecords) -> None:
    old = {k: v for k, v in repeated.front.items() if k not in {"trainings_avoided", "seed_spread"}}
    view: RunView = dataclasses.replace(report_view(repeated), front=old)
    assert "avoided" not in render_html(view)
    assert "avoided" not in front_table(old)
