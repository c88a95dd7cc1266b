"""The report: what is on the page and beside it, whatever the run looks like."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from nasctl.arch import Architecture, Opaque
from nasctl.report import RunView, render_html, text
from nasctl.report import write as report
from nasctl.report.network import colours, drawing, settings, silhouette
from nasctl.report.sections import setup
from nasctl.report.view import charted, median_error, points, primary, staircase, tabled
from nasctl.trial import State
from search_spaces.blocks import BLOCKS

from . import sample_view as sample

pytestmark = pytest.mark.usefixtures("small_pages")


class _Page(HTMLParser):
    """Tags with their attributes, and the text of each script."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def visible(self) -> str:
        return " ".join(t for tag, t in self.texts if tag not in {"script", "style"})


def chart_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.parametrize("name", sample.VIEWS)
def test_page_refers_to_nothing_outside(name: str) -> None:
    page = _Page(render_html(sample.VIEWS[name]()))
    for tag, attributes in page.tags:
        for key in ("src", "href", "action", "data", "poster"):
            assert attributes.get(key) in {None, "data:,"}, (tag, attributes)
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "")


def test_hostile_texts_stay_texts() -> None:
    view = sample.hostile()
    source = render_html(view)
    page = _Page(source)
    assert [t for t, _ in page.tags].count("script") == 3  # data, plotly, ours
    assert not [a for t, a in page.tags if t == "img" or "onerror" in a]
    assert sample.HOSTILE in page.visible()
    assert "<script>alert" not in source
    assert any(
        sample.HOSTILE in json.dumps(p["choices"], ensure_ascii=False).replace('\\"', '"')
        for p in chart_data(source)["points"]
    )


def test_headline_names_the_cheapest_and_the_best() -> None:
    view = sample.view()
    members = [p for p in points(view) if p.role == "member"]
    cheapest = min(members, key=lambda p: p.values["latency_ms"])
    best = max(members, key=lambda p: p.values["accuracy"])
    expected = (
        f"{len(members)} networks are on the Pareto front, "
        f"from accuracy {cheapest.values['accuracy']:.4f} at "
        f"{text.quantity('latency_ms', cheapest.values['latency_ms'])} to "
        f"{best.values['accuracy']:.4f} at "
        f"{text.quantity('latency_ms', best.values['latency_ms'])}."
    )
    assert expected in _Page(render_html(view)).visible()
    assert "No network has reached the front yet." in render_html(sample.empty())
    assert "One network is on the Pareto front" in render_html(sample.view(1))


def test_every_trial_is_drawn_unless_it_failed_or_was_pruned() -> None:
    view = sample.view(60)
    data = chart_data(render_html(view))
    drawn = [n for p in data["points"] for n in p["trials"]]
    assert sorted(drawn) == [t.number for t in view.trials if t.state is State.COMPLETE]
    roles = {p["id"]: p["role"] for p in data["points"]}
    assert {i for i, r in roles.items() if r == "member"} == {m["arch_id"] for m in view.members}
    assert {i for i, r in roles.items() if r == "near"} == {m["arch_id"] for m in view.near_front}
    assert [x["key"] for x in data["xs"]] == ["latency_ms", "params", "macs"]


def test_measured_latency_is_shown_and_the_searched_one_beside_it() -> None:
    view = sample.view()
    member = view.members[0]
    found = next(p for p in points(view) if p.arch_id == member["arch_id"])
    metrics = member["metrics"]
    assert found.values["latency_ms"] == metrics["latency_ms_measured"] != metrics["latency_ms"]
    assert found.predicted["latency_ms"] == metrics["latency_ms"]
    assert found.intervals["latency_ms"] == tuple(
        member["uncertainty"]["latency_ms_measured"]["interval"]
    )
    row = _row_of(render_html(view), member["arch_id"])
    assert text.number("latency_ms", metrics["latency_ms_measured"]) in row
    assert text.number("latency_ms", metrics["latency_ms"]) in row


def test_members_without_a_measurement_keep_their_columns() -> None:
    view = sample.view()
    members = [dict(m) for m in view.members]
    members[0]["metrics"] = {
        k: v for k, v in members[0]["metrics"].items() if k != "latency_ms_measured"
    }
    page = render_html(replace(view, front={**view.front, "members": members}))
    rows = [_row_of(page, m["arch_id"]) for m in members]
    assert len({row.count("<td") for row in rows}) == 1
    assert rows[0].count("<span>–</span>") == 1


def _row_of(page: str, arch_id: str) -> str:
    found = re.search(rf'<tbody data-id="{arch_id}".*?</tr>', page, re.S)
    assert found
    return found[0]


def test_errors_of_the_latency_table() -> None:
    view = sample.view()
    measured = [p for p in points(view) if p.predicted]
    errors = sorted(abs(p.predicted["latency_ms"] / p.values["latency_ms"] - 1) for p in measured)
    found = median_error(points(view), "latency_ms")
    assert found is not None
    median, worst, n = found
    assert n == len(errors) == len(view.members) + len(view.near_front)
    assert worst == pytest.approx(errors[-1])
    assert errors[(n - 1) // 2] - 1e-12 <= median <= errors[n // 2] + 1e-12
    page = _Page(render_html(view)).visible()
    assert f"median error {median * 100:.1f} %" in page
    assert "median 1.6 %, worst 9.4 %, networks 8" in page
    assert median_error(points(sample.view(latency=False)), "latency_ms") is None


def test_without_latency_there_is_no_trace_of_it() -> None:
    page = render_html(sample.view(latency=False))
    members = page[page.index('<section id="members">') : page.index("<h2>Search</h2>")]
    assert "atency" not in _Page(members).visible()
    assert 'id="calibration"' not in page


def test_objectives_of_a_plugin() -> None:
    view = sample.plugin()
    assert primary(view.objectives) == "error_rate"
    assert charted(view) == ["energy_mj"]
    assert tabled(view) == ["error_rate", "energy_mj"]
    data = chart_data(render_html(view))
    assert data["y"]["direction"] == "min"
    assert len(data["points"]) == 40


def test_repeated_seeds_are_one_point_with_their_mean() -> None:
    view = sample.view()
    dominated = next(p for p in points(view) if p.role == "dominated")
    first = view.trials[dominated.numbers[0]]
    again = replace(
        first,
        number=99,
        seed=1,
        metrics={**first.metrics, "accuracy": first.metrics["accuracy"] - 0.02},
    )
    found = next(
        p
        for p in points(replace(view, trials=(*view.trials, again)))
        if p.arch_id == dominated.arch_id
    )
    assert found.numbers == (first.number, 99)
    assert found.values["accuracy"] == pytest.approx(first.metrics["accuracy"] - 0.01)


def test_staircase_skips_what_both_metrics_beat() -> None:
    def at(x: float, y: float) -> Any:
        return replace(points(sample.view(1))[0], values={"latency_ms": x, "accuracy": y})

    found = staircase([at(3, 0.9), at(1, 0.7), at(2, 0.6)], "latency_ms", "accuracy", "min", "max")
    assert found == [(1, 0.7), (3, 0.7), (3, 0.9)]
    found = staircase([at(3, 0.1), at(1, 0.7)], "latency_ms", "accuracy", "min", "min")
    assert found == [(1, 0.7), (3, 0.7), (3, 0.1)]


def test_drawing_has_a_line_per_block_and_shares_that_add_up() -> None:
    _, architecture = sample.network(__import__("random").Random(4))
    rows = sample.block_rows(architecture)
    table = drawing(architecture, colours([architecture]), rows)
    assert table.count("<tr") == len(architecture.blocks) + 2  # head and input
    widths = [
        float(w) for w in re.findall(r'class="bar"><i class="[^"]*" style="width:([\d.]+)', table)
    ]
    assert sum(widths) == pytest.approx(300, abs=0.1 * len(widths))  # MACs, parameters, latency
    biggest = max(range(len(rows)), key=lambda i: rows[i].macs or 0)
    assert text.si(rows[biggest].macs or 0) in table
    assert "1 × 28 × 28" in table
    without = drawing(architecture, colours([architecture]), None)
    assert "MACs" not in without


def test_settings_say_what_the_name_does_not() -> None:
    block = BLOCKS["inverted_residual"].from_json(
        {"op": "inverted_residual", "out": 24, "kernel_size": 5, "stride": 2, "expand_ratio": 4}
    )
    assert settings(block) == "5×5, stride 2, expand 4, relu6, bottleneck linear"
    assert settings(Opaque("conv", kernel_size=3, edge=2)) == "edge 2, 3×3"


def test_strips_share_a_scale_and_colours_tell_ops_apart() -> None:
    small = Architecture(input_shape=(4, 8, 8), blocks=(Opaque("a"),), num_classes=2)
    large = Architecture(input_shape=(4, 8, 8), blocks=(Opaque("a"), Opaque("b")), num_classes=2)
    colour = colours([small, large])
    assert len(set(colour.values())) == 2

    def width(a: Architecture) -> float:
        strip = silhouette(a, colour, longest=4.0)
        return sum(
            float(w) for w in re.findall(r'rect class="\S+" x="\S+" y="\S+" width="([\d.]+)', strip)
        )

    assert width(large) == pytest.approx(2 * width(small), rel=0.02)
    many = Architecture(
        input_shape=(4, 8, 8), blocks=tuple(Opaque(f"conv{i}") for i in range(30)), num_classes=2
    )
    assert len(colours([many])) == 30


def test_plotly_is_the_published_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of plotly.js-basic-dist-min 4.1.1; and nothing in it can end its script element."""
    monkeypatch.undo()
    bundle = report._asset("plotly-basic.min.js")
    assert hashlib.sha256(bundle.encode()).hexdigest() == (
        "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
    )
    assert "</script" not in bundle
    assert "plotly.js (basic - minified) v4.1.1" in bundle[:200]
    assert bundle in render_html(sample.view(1))


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("accuracy", 0.90421, "0.9042"),
        ("latency_ms", 0.61234, "0.612 ms"),
        ("latency_ms", 12.345, "12.3 ms"),
        ("params", 48_123, "48.1 k"),
        ("params", 912.0, "912"),
        ("macs", 3_214_000, "3.21 M"),
        ("params", 999_999, "1.00 M"),
        ("model_bytes", 192_492, "192 kB"),
        ("model_bytes", 12, "12 B"),
        ("energy_mj", 0.000012, "1.20e-05"),
        ("loss", 0.0, "0"),
        ("loss", float("nan"), "–"),
        ("loss", None, "–"),
    ],
)
def test_quantities(metric: str, value: float | None, expected: str) -> None:
    assert text.quantity(metric, value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (3900, "1 h 05 min"), (-3, "0 s")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_choices_by_scope() -> None:
    choices = {"width_multiplier": 0.5, "stage1.block1.kernel_size": 3, "stage1.block1.se": True}
    assert text.choice_groups(choices) == [
        ("network", "width_multiplier 0.5"),
        ("stage1.block1", "kernel_size 3, se true"),
    ]
    shuffled = {"stage1.block1.kernel_size": 3, "width_multiplier": 0.5}
    assert text.choices_summary(shuffled).startswith("width_multiplier 0.5 · ")


def test_front_json_alone_is_enough() -> None:
    """Members whose trials are not given are drawn from their canonical JSON."""
    view: RunView = replace(sample.view(), trials=(), block_costs=None)
    page = render_html(view)
    assert all(m["arch_id"] in page for m in view.members)


@pytest.mark.parametrize(("name", "shown"), [("mlflow", True), ("none", False)])
def test_mlflow_is_pointed_to_where_it_was_told(name: str, shown: bool) -> None:
    view = sample.view(1, config={"tracking": {"name": name}})
    assert ("nasctl ui" in setup(view)) is shown
