"""The report in a real browser: charts are drawn, answer to the mouse, and nothing is fetched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasctl.report import RunView, render_html

from .. import sample_view as sample

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


class Opened:
    """A report opened from its file, with everything that went wrong on the way."""

    def __init__(self, browser: Any, folder: Path, view: RunView) -> None:
        self.path = folder / "report.html"
        self.path.write_text(render_html(view), encoding="utf-8")
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.problems.append(m.text))
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("dialog", lambda d: (self.problems.append(d.message), d.dismiss()))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(self.path.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def close(self) -> None:
        """Closes the page and asserts that it was quiet."""
        self.page.close()
        assert self.problems == []
        assert [u for u in self.requests if not u.startswith(("data:", "blob:"))] == [
            self.path.as_uri()
        ]

    def at(self, panel: int, arch_id: str) -> tuple[float, float]:
        """Where a network is on the screen."""
        x, y = self.page.evaluate(
            """([panel, id]) => {
              const plot = document.getElementById("front" + panel), full = plot._fullLayout;
              const box = plot.getBoundingClientRect();
              for (const trace of plot.data) {
                const at = (trace.customdata || []).indexOf(id);
                if (at < 0 || trace.hoverinfo === "skip") continue;
                return [box.left + full.xaxis._offset + full.xaxis.d2p(trace.x[at]),
                        box.top + full.yaxis._offset + full.yaxis.d2p(trace.y[at])];
              }
            }""",
            [panel, arch_id],
        )
        return x, y


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    report = Opened(browser, tmp_path, sample.view())
    yield report
    report.close()


def test_charts_hold_every_network(opened: Opened) -> None:
    view = sample.view()
    counts = opened.page.evaluate(
        "[0, 1].map((i) => document.getElementById('front' + i).data.map((t) => t.x.length))"
    )
    data = opened.page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    roles = [p["role"] for p in data["points"]]
    for dominated, line, near, members, chosen in counts:
        assert dominated == roles.count("dominated")
        assert near == roles.count("near") == len(view.near_front)
        assert members == len(view.members)
        assert 2 <= line <= 2 * members
        assert chosen == 1
    assert opened.page.locator("#front0 .errorbar").count() > 0
    assert opened.page.locator("#hypervolume .scatterlayer path.js-line").count() == 1
    assert opened.page.locator("#calibration .point").count() == len(view.members) + len(
        view.near_front
    )


def test_hover_tells_the_architecture(opened: Opened) -> None:
    member = sample.view().members[2]
    opened.page.mouse.move(*opened.at(0, member["arch_id"]))
    hover = opened.page.locator("#front0 .hoverlayer .hovertext")
    hover.wait_for()
    text = hover.text_content()
    assert member["arch_id"] in text
    assert "width_multiplier" in text
    assert f"{member['metrics']['accuracy']:.4f}" in text
    assert "latency in search" in text


def test_click_selects_row_and_point(opened: Opened) -> None:
    page = opened.page
    member = sample.view().members[3]["arch_id"]
    page.mouse.click(*opened.at(1, member))
    chosen = page.locator(".members > tbody.chosen")
    assert chosen.count() == 1
    assert chosen.get_attribute("data-id") == member
    assert page.locator("#selected h3").first.text_content() == member
    for panel in (0, 1):  # the mark is in both charts
        marks = page.evaluate(f"document.getElementById('front{panel}').data.at(-1).x.length")
        assert marks == 1
    page.get_by_role("button", name="Show every block").click()
    assert chosen.locator(".blocks").is_visible()


def test_dominated_points_can_be_looked_at_too(opened: Opened) -> None:
    page = opened.page
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    point = next(p for p in data["points"] if p["role"] == "dominated")
    page.mouse.click(*opened.at(0, point["id"]))
    assert "Dominated, trial #" in page.locator("#selected").text_content()
    assert page.locator(".members > tbody.chosen").count() == 0


def test_rows_open_and_sort(opened: Opened) -> None:
    page = opened.page
    rows = page.locator(".members > tbody")
    assert page.locator(".blocks:visible").count() == 0
    rows.nth(1).locator(".row").click()
    assert page.locator(".blocks:visible").count() == 1
    assert rows.nth(1).locator(".open").get_attribute("aria-expanded") == "true"
    rows.nth(1).locator(".open").press("Enter")
    assert page.locator(".blocks:visible").count() == 0

    def accuracies() -> list[float]:
        texts = page.locator(".members > tbody > .row > td:nth-child(3) > span").all_text_contents()
        return [float(t) for t in texts]

    head = page.locator('button[data-sort="accuracy"]')
    head.click()
    assert accuracies() == sorted(accuracies())
    head.click()
    assert accuracies() == sorted(accuracies(), reverse=True)


def test_axes_can_be_chosen(opened: Opened) -> None:
    page = opened.page
    page.locator('[data-panel="0"] .choose button', has_text="MACs").click()
    assert page.evaluate("document.getElementById('front0').layout.xaxis.title.text") == "MACs"
    page.get_by_label("log scale").check()
    assert page.evaluate("document.getElementById('front0').layout.xaxis.type") == "log"
    assert page.evaluate("document.getElementById('front1').layout.xaxis.type") == "log"


@pytest.mark.parametrize("name", ["empty", "one", "no latency", "plugin", "hostile"])
def test_every_kind_of_run_is_drawn_quietly(browser: Any, tmp_path: Path, name: str) -> None:
    views = {
        "empty": sample.empty,
        "one": lambda: sample.view(1),
        "no latency": lambda: sample.view(latency=False),
        "plugin": sample.plugin,
        "hostile": sample.hostile,
    }
    report = Opened(browser, tmp_path, views[name]())
    for width in (800, 1280):
        report.page.set_viewport_size({"width": width, "height": 900})
        assert report.page.evaluate("document.documentElement.scrollWidth") <= width
    points = report.page.locator("#front0 .point")
    assert points.count() == 0 if name == "empty" else points.count() > 0
    if name == "hostile":
        report.page.mouse.move(*report.at(0, sample.hostile().members[0]["arch_id"]))
        report.page.locator("#front0 .hoverlayer .hovertext").wait_for()
        assert report.page.locator("img").count() == 0
        assert "<script>" in report.page.locator("#selected").text_content()
    report.close()


def test_a_label_at_the_edge_of_a_chart_is_drawn_quietly(browser: Any, tmp_path: Path) -> None:
    """The hypervolume of a real search: with room above its top label Plotly went to and fro."""
    grew = [10328, 26807, 27199, 28089, 28543, 28713, 28714, 31955, 32198, 32977, 33036, 33083]
    grew += [33088, 33104, 33306, 33306, 33307, 33307, 33307, 33319, 33351, 33380, 33384, 33384]
    history = tuple((n, float(v)) for n, v in enumerate(grew))
    Opened(
        browser, tmp_path, dataclasses.replace(sample.view(), hypervolume_history=history)
    ).close()


def test_works_in_the_frame_that_mlflow_shows_it_in(browser: Any, tmp_path: Path) -> None:
    """MLflow puts an HTML artifact into a frame with `sandbox="allow-scripts"`."""
    (tmp_path / "report.html").write_text(render_html(sample.view()), encoding="utf-8")
    (tmp_path / "mlflow.html").write_text(
        '<iframe sandbox="allow-scripts" src="report.html" width="1000" height="800"></iframe>'
    )
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text))
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.goto((tmp_path / "mlflow.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for()
    assert frame.locator("#front0 .point").count() > 20
    page.close()
    assert problems == []


def test_a_thousand_trials(browser: Any, tmp_path: Path) -> None:
    report = Opened(browser, tmp_path, sample.view(1000))
    assert report.page.locator("#front0 .point").count() > 700
    assert re.search(
        r"\d+ dominated outside this view", report.page.locator(".outside").first.text_content()
    )
    report.close()


def test_reference_networks_are_hollow_and_named(browser: Any, tmp_path: Path) -> None:
    plain = sample.view()
    member = plain.members[0]
    shown = {
        **{k: member[k] for k in ("arch_id", "architecture", "metrics", "uncertainty")},
        **{"name": "mobilenet_v2", "width": 0.5, "state": "COMPLETE", "error": None},
        **{"violations": {}, "on_front": True},
    }
    opened = Opened(browser, tmp_path, sample.view(front={**plain.front, "references": [shown]}))
    for panel in (0, 1):
        x, y = opened.at(panel, "mobilenet_v2 x0.5")
        assert (x, y) == opened.at(panel, member["arch_id"])  # the same network, drawn as both
        trace = opened.page.evaluate(
            """(panel) => document.getElementById("front" + panel).data
                 .filter((t) => t.mode === "markers+text").map((t) => [t.text, t.marker.color])""",
            panel,
        )
        assert trace == [[["mobilenet_v2 x0.5"], "rgba(255,255,255,.6)"]]
    opened.page.mouse.click(*opened.at(0, "mobilenet_v2 x0.5"))
    opened.page.wait_for_function(
        "document.querySelector('#selected h3').textContent === 'mobilenet_v2 x0.5'"
    )
    assert f"Reference network {member['arch_id']}" in opened.page.inner_text("#selected")
    opened.close()


@pytest.mark.parametrize("times", [1, 100])
def test_references_far_away_do_not_squash_the_front(
    browser: Any, tmp_path: Path, times: int
) -> None:
    plain = sample.view()
    member = plain.members[0]
    shown = {
        **{k: member[k] for k in ("arch_id", "architecture", "uncertainty")},
        "metrics": {**member["metrics"], "params": times * member["metrics"]["params"]},
        **{"name": "vgg16", "width": 1, "state": "COMPLETE", "error": None},
        **{"violations": {}, "on_front": False},
    }
    opened = Opened(browser, tmp_path, sample.view(front={**plain.front, "references": [shown]}))
    assert opened.page.get_by_label("log scale").is_checked() == (times > 1)
    scale = opened.page.evaluate("document.getElementById('front1').layout.xaxis.type")
    assert scale == ("log" if times > 1 else "linear")
    opened.close()
