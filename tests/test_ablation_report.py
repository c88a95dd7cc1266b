"""The report of an ablation study: what is on the page and beside it, however the study ended."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from nasctl.report.ablation import render_ablation_html, write_ablation_report
from nasctl.report.ablation.charts import window
from nasctl.report.ablation.study import Unit, cleaned, percent, probability

from . import ablation_view as sample
from .ablation_view import rows, section
from .test_report import _Page as Page
from .test_report import chart_data

ALL = pytest.mark.parametrize("name", sample.VIEWS)


pytestmark = pytest.mark.usefixtures("small_pages")


def visible(view: dict[str, Any]) -> str:
    return " ".join(Page(render_ablation_html(view)).visible().split())


@ALL
def test_nothing_outside_and_no_number_that_json_lacks(name: str) -> None:
    source = render_ablation_html(sample.VIEWS[name]())
    page = Page(source)
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "data", "poster"):
            assert attributes.get(key) in {None, "data:,"}, (tag, attributes)
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "")
    assert not {"nan", "inf", "None", "NaN"} & set(re.findall(r"\w+", page.visible()))
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", json.dumps(chart_data(source))))


@ALL
def test_every_chart_has_its_place(name: str) -> None:
    source = render_ablation_html(sample.VIEWS[name]())
    data = chart_data(source)
    ids = re.findall(r'<div class="plot[^"]*" id="(\w+)"', source)
    expected = ["forest"] if data["rows"] else []
    expected += [f"pairs{i}" for i, row in enumerate(data["rows"]) if row["differences"]]
    expected += ["curves"] if data["curves"] else []
    expected += ["gaps"] if data["gaps"] else []
    expected += [f"interaction{i}" for i in range(len(data["interactions"]))]
    assert ids == expected


def test_verdicts_come_first_in_words() -> None:
    view = sample.study()
    source = render_ablation_html(view)
    part = section(source, "verdicts")
    badges = re.findall(r'class="verdict v-[\w-]+"><i aria-hidden="true">.</i>([\w ]+)<', part)
    assert badges == ["supported", "equivalent", "inconclusive", "found", "clear"]
    shown = Page(part).visible()
    places = [shown.index(c["sentence"]) for c in view["comparisons"][:3]]
    assert places == sorted(places)
    assert view["controls"]["positive"]["sentence"] in shown
    assert (
        source.index(view["question"])
        < source.index("2 of 2 claims decided")
        < source.index('id="verdicts"')
    )
    assert "1 supported, 1 equivalent" in visible(view)


def test_without_claims_all_comparisons_count() -> None:
    view = sample.study()
    for comparison in view["comparisons"]:
        comparison["claim"] = None
    expected = "2 of 3 comparisons decided: 1 supported, 1 equivalent, 1 inconclusive."
    assert expected in visible(view)


def test_a_positive_control_that_was_not_found_takes_the_nulls_their_meaning(
    tmp_path: Path,
) -> None:
    view = sample.blind()
    source = render_ablation_html(view)
    header = source[: source.index('id="verdicts"')]
    assert "The positive control was not found" in header
    assert "its nulls mean nothing" in header
    assert "The null control is not clear" in header
    # Beside the equivalent and the inconclusive verdict, and not beside the supported one.
    assert source.count('<p class="void">') == 2
    items = re.findall(r"<li>.*?</li>", section(source, "verdicts"), re.S)
    assert ["This null means nothing" in item for item in items] == [False, True, True]
    summary = write_ablation_report(view, tmp_path)[3].read_text()
    assert summary.count("This null means nothing") == 2
    fine = render_ablation_html(sample.study())
    assert "mean nothing" not in fine
    assert '<p class="void">' not in fine


def test_setting_is_listed() -> None:
    shown = section(render_ablation_html(sample.study()), "verdicts")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", shown))
    assert facts["data"] == "fashion_mnist_12k"
    assert facts["measured on"] == "val, 2,000 images"
    assert facts["smallest effect"] == "0.50 points"
    assert facts["seeds per arm"] == "3 to 10"
    assert facts["alpha"] == "0.05"
    assert facts["recipe"] == "epochs 8, batch_size 64, optimizer sgd, schedule onecycle"
    assert facts["torch"] == "2.13.0+cpu"


def test_forest_rows_are_in_points_with_controls_last() -> None:
    view = sample.study()
    view["comparisons"] = view["comparisons"][3:] + view["comparisons"][:3]
    data = chart_data(render_ablation_html(view))
    assert [r["control"] for r in data["rows"]] == [False, False, False, True, True]
    first, given = data["rows"][0], view["comparisons"][2]
    assert first["name"] == given["name"] == "relu6 against linear"
    assert first["effect"] == pytest.approx(100 * given["effect"])
    assert first["interval"] == pytest.approx([100 * x for x in given["interval"]])
    assert first["adjusted"] == pytest.approx(93 * given["effect"])
    assert first["differences"] == pytest.approx([100 * d for d in given["differences"]])
    assert first["said"] == f"{100 * given['effect']:+.2f} · supported"
    assert data["rows"][3]["name"].startswith("Positive control: ")
    assert data["smallest"] == pytest.approx(0.5)
    assert data["axis"] == "points of accuracy"


def test_axis_holds_everything_but_a_control_far_away() -> None:
    def row(effect: float | None, *, control: bool = False) -> dict[str, Any]:
        ends = None if effect is None else [effect - 0.2, effect + 0.2]
        return {"control": control, "effect": effect, "interval": ends, "adjusted": None}

    pad = 0.06
    low, high = window([row(0.4), row(-0.1)], 0.5)
    assert (low, high) == pytest.approx((-0.5 - pad * 1.1, 0.6 + pad * 1.1))
    assert window([row(0.4), row(-0.1), row(-17.0, control=True)], 0.5) == (low, high)
    near = window([row(0.4), row(1.0, control=True)], 0.5)
    assert near == pytest.approx((-0.5 - pad * 1.7, 1.2 + pad * 1.7))
    alone = window([row(-17.0, control=True)], 0.5)
    assert alone[0] < -17.2 < 0.5 < alone[1]
    assert window([row(None)], 0.0) == (-0.1, 0.1)


def test_arms_with_costs_against_the_baseline() -> None:
    view = sample.study()
    table = rows(section(render_ablation_html(view), "effects"))
    names = [arm["name"] for arm in view["arms"]]
    assert [row[0].split(" " + arm["arch_id"])[0].startswith(n) for row, n, arm in zip(
        table, names, view["arms"], strict=True)] == [True] * 6  # fmt: skip
    base, wide, failed = table[0], table[2], table[3]
    assert base[4:] == ["48.1 k", "3.21 M", "98.3 k", "0.612"]
    assert wide[4:] == ["52.0 k +8.1 %", "3.80 M +18.3 %", "98.3 k ±0 %", "0.744 +21.6 %"]
    assert failed[7] == "–"
    assert "1 failed" in failed[0]
    assert table[1][3] == "0.2"
    low, high = view["arms"][0]["interval"]
    assert base[1] == f"{view['arms'][0]['mean']:.4f} {low:.3f} – {high:.3f}"
    assert "width × 0.93" in wide[0]


def test_every_number_of_a_comparison() -> None:
    view = sample.study()
    part = section(render_ablation_html(view), "effects")
    table = rows(part[part.index('class="numbers"') :])
    given = view["comparisons"][0]
    low, high = (100 * x for x in given["interval"])
    assert table[0][1] == "supported"
    assert table[0][2] == f"{100 * given['effect']:+.2f} {low:+.2f} to {high:+.2f} (97.5 %)"
    assert table[0][5:9] == ["5", "0.0123", "0.0246", "0.125 lowest: 0.0625"]
    assert "bottleneck_activation: linear minus relu6" in table[0][0]
    assert "cost: parameters +8.1 %, MACs +18.3 %, latency +21.6 %" in table[1][0]
    assert "cost: the same" in table[0][0]
    assert table[3][6:8] == ["&lt; 0.0001", "–"]
    assert "bootstrap" not in part.lower()
    given["bootstrap"] = [0.001, 0.0071]
    part = section(render_ablation_html(view), "effects")
    assert rows(part[part.index('class="numbers"') :])[0][-1] == "+0.10 to +0.71"


def test_statistics_power_and_effort_in_words() -> None:
    shown = visible(sample.study())
    for words in (
        "Student's t test of the paired differences",
        "Holm's correction",
        "within ±0.50 points",
        "Wang-Tsiatis, Delta 0.25",
        "with 5 units its p cannot be below 0.0625",
        "only from 20 units on (here at most 5)",
        "detects effects from 0.62 points on",
        "more than the smallest effect that matters, 0.50 points",
        "29 for the verdicts, 18 to choose learning rates",
        "18 min 40 s of training",
    ):
        assert words in shown, words
    view = sample.study()
    view["power"]["detectable"] = 0.004
    assert "seeds.max was raised" not in render_ablation_html(view)
    view["setting"]["seeds_raised"] = [[5, 10]]
    assert "seeds.max was raised from 5 to 10" in render_ablation_html(view)
    view["setting"]["boundary"] = None
    shown = visible(view)
    assert "more than the smallest effect that matters" not in shown
    assert "Wang-Tsiatis" not in shown


def test_looks_and_learning_rates() -> None:
    source = render_ablation_html(sample.study())
    assert rows(section(source, "method")) == [
        ["1", "3", "0", "3"], ["2", "4", "1", "2"], ["3", "5", "2", "1"],
    ]  # fmt: skip
    rates = rows(section(source, "rates"))
    assert rates[0][1:] == ["0.8610", "0.8745", "–", "0.4"]
    bold = re.findall(r'class="n best">([\d.]+)<', section(source, "rates"))
    assert bold == ["0.8745", "0.8610", *["0.8745"] * 4]  # that of lr 0.2 in the second arm


def test_curves_and_their_difference_to_the_baseline() -> None:
    view = sample.study()
    data = chart_data(render_ablation_html(view))
    base, arm = view["arms"][0]["curve"], view["arms"][1]["curve"]
    assert data["curves"][0]["base"] is True
    assert data["curves"][0]["line"] == [
        [x, y] for x, y in zip(base["epochs"], base["mean"], strict=True)
    ]
    assert [g["name"] for g in data["gaps"]] == [a["name"] for a in view["arms"][1:]]
    gaps = [100 * (a - b) for a, b in zip(arm["mean"], base["mean"], strict=True)]
    assert [gap for _, gap in data["gaps"][0]["line"]] == pytest.approx(gaps)
    partly = chart_data(render_ablation_html(sample.interrupted()))
    assert [(c["line"], c["band"]) for c in partly["curves"]] == [([[1, 0.5]], [])]
    assert partly["gaps"] == []


def test_interactions_have_a_line_per_level() -> None:
    view = sample.study()
    found = view["interactions"][0]
    data = chart_data(render_ablation_html(view))["interactions"]
    assert [(x["by"], x["x"], x["order"]) for x in data] == [
        ("bottleneck_activation", "kernel_size", ["3", "5"])
    ]
    assert [line["name"] for line in data[0]["lines"]] == ["relu6", "linear"]
    assert data[0]["lines"][1]["cells"][0] == ["3", found["means"][1][0], found["low"][1][0],
                                               found["high"][1][0]]  # fmt: skip
    found["means"][0][1] = None
    data = chart_data(render_ablation_html(view))["interactions"]
    assert [len(line["cells"]) for line in data[0]["lines"]] == [1, 2]


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    view = sample.hostile()
    paths = write_ablation_report(view, tmp_path)
    source = paths[0].read_text()
    page = Page(source)
    assert [t for t, _ in page.tags].count("script") == 3  # data, plotly, ours
    assert not [a for t, a in page.tags if t == "img" or "onerror" in a]
    assert "<script>alert" not in source
    for text in (view["name"], view["comparisons"][0]["sentence"], view["baseline"]):
        assert sample.HOSTILE in text
        assert text in page.visible()
    assert chart_data(source)["rows"][0]["name"] == view["comparisons"][0]["name"]
    before_the_command = paths[3].read_text().split("```")[0]
    assert "<script" not in before_the_command
    assert "<img" not in before_the_command
    table = [x for x in before_the_command.splitlines() if x.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert widths == {10}  # nine columns in both tables: no cell was broken by its text


def test_an_interrupted_study(tmp_path: Path) -> None:
    view = sample.interrupted()
    source = render_ablation_html(view)
    assert "This study is unfinished: the same command continues it." in source
    assert "0 of 2 claims decided: 2 inconclusive." in source
    data = chart_data(source)
    assert [r["effect"] for r in data["rows"]] == [None, pytest.approx(0.2), None, None, None]
    assert [r["said"] for r in data["rows"]][:3] == [
        "inconclusive", "+0.20 · inconclusive", "not decided yet",
    ]  # fmt: skip
    arms = rows(section(source, "effects"))
    assert [row[1:3] for row in arms] == [["–", "1"], *[["–", "0"]] * 5]
    paths = write_ablation_report(view, tmp_path)
    found = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert [(r["state"], r["accuracy"], r["trial"]) for r in found] == [
        ("COMPLETE", str(view["arms"][0]["values"][0]["accuracy"]), "3"),
        ("RUNNING", "", ""),
    ]
    summary = paths[3].read_text()
    assert "> This study is unfinished" in summary
    assert "nan" not in summary.lower().replace("finance", "")


def test_an_empty_study(tmp_path: Path) -> None:
    paths = write_ablation_report(sample.empty(), tmp_path)
    page = Page(paths[0].read_text()).visible()
    assert "Nothing has been compared yet." in page
    assert "This study was still running when this page was written." in page
    assert paths[2].read_text().count("\n") == 1
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_a_metric_without_points() -> None:
    view = sample.in_metric("top5_error")
    source = render_ablation_html(view)
    data = chart_data(source)
    assert data["rows"][0]["effect"] == pytest.approx(view["comparisons"][0]["effect"])
    assert data["axis"] == "difference of top5 error"
    assert "points" not in Page(source).visible()
    raw = rows(section(source, "trainings"))
    assert float(raw[0][5]) == pytest.approx(view["arms"][0]["values"][0]["top5_error"], rel=1e-2)


def test_numbers_that_json_lacks_are_unknown() -> None:
    given = {"a": [math.nan, 1.0, (math.inf, 2)], "b": {"c": -math.inf, "d": "nan"}}
    assert cleaned(given) == {"a": [None, 1.0, [None, 2]], "b": {"c": None, "d": "nan"}}


@pytest.mark.parametrize(
    ("metric", "value", "signed", "size"),
    [
        ("accuracy", 0.0042, "+0.42", "0.42 points"),
        ("accuracy", 0.00001, "0.00", "0.00 points"),
        ("accuracy", None, "–", "–"),
        ("loss", 0.00425, "+0.00425", "0.00425"),
        ("loss", 0.0, "0", "0"),
    ],
)
def test_effects_in_their_unit(metric: str, value: float | None, signed: str, size: str) -> None:
    assert Unit(metric=metric).signed(value) == signed
    assert Unit(metric=metric).size(value) == size


def test_a_minus_is_one() -> None:
    assert Unit(metric="accuracy").signed(-0.0042) == "\N{MINUS SIGN}0.42"
    assert Unit(metric="accuracy").signed(-0.00001) == "0.00"
    assert Unit(metric="accuracy").span([-0.01, 0.002]) == "\N{MINUS SIGN}1.00 to +0.20"
    assert Unit(metric="accuracy").span([None, 0.002]) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.123, "+12.3 %"), (-0.05, "−5.0 %"), (0.0004, "±0 %"), (None, "–")],
)
def test_changes_of_cost(value: float | None, expected: str) -> None:
    assert percent(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, "0.500"), (0.0625, "0.0625"), (0.00012, "0.0001"), (1e-7, "< 0.0001"), (None, "–")],
)
def test_probabilities(value: float | None, expected: str) -> None:
    assert probability(value) == expected
