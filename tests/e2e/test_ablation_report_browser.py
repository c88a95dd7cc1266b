"""The report of an ablation study in a real browser: charts are drawn, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasctl.report.ablation import render_ablation_html

from .. import ablation_view as sample
from .test_report_browser import CHROMIUM, FLAGS

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")

VIEWS = {
    "study": sample.study,
    "interrupted": sample.interrupted,
    "empty": sample.empty,
    "hostile": sample.hostile,
    "many": sample.many,
    "other metric": lambda: sample.in_metric("top5_error"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


def opened(browser: Any, folder: Path, view: dict[str, Any], problems: list[str]) -> Any:
    """The page, drawn; `problems` gets what goes wrong and every request."""
    path = folder / "report.html"
    path.write_text(render_ablation_html(view), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda m: problems.append(m.text))
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("dialog", lambda d: (problems.append(d.message), d.dismiss()))

    def asked(request: Any) -> None:
        if not request.url.startswith(("data:", "blob:", path.as_uri())):
            problems.append(request.url)

    page.on("request", asked)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page


@pytest.mark.parametrize("name", VIEWS)
def test_every_kind_of_study_is_drawn_quietly(browser: Any, tmp_path: Path, name: str) -> None:
    problems: list[str] = []
    page = opened(browser, tmp_path, VIEWS[name](), problems)
    plots = page.locator(".plot").count()
    assert page.locator(".plot .main-svg").count() >= plots
    assert (plots == 0) == (name == "empty")
    for width in (420, 800, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("img").count() == 0
    page.close()
    assert problems == []


def test_forest_says_effects_and_verdicts(browser: Any, tmp_path: Path) -> None:
    problems: list[str] = []
    view = sample.study()
    page = opened(browser, tmp_path, view, problems)
    said = page.locator("#forest .annotation").all_text_contents()
    assert [text.split()[-1] for text in said[1::2]] == [c["verdict"] for c in view["comparisons"]]
    drawn = page.evaluate(
        "document.getElementById('forest').data.filter((t) => t.mode === 'markers')"
        ".map((t) => [t.x[0], t.marker.symbol])"
    )
    effects = [x for x, symbol in drawn if symbol == "circle"]
    expected = [100 * c["effect"] for c in view["comparisons"]]
    assert effects == pytest.approx([*expected[:3], expected[4]])
    low, high = page.evaluate("document.getElementById('forest').layout.xaxis.range")
    assert expected[3] < low < high < 2  # the positive control is an arrow at the edge
    assert [symbol for _, symbol in drawn].count("triangle-left") == 1
    assert "beyond this axis" in page.locator("#effects .outside").text_content()
    dots = page.evaluate("document.getElementById('pairs0').data[0].y")
    assert dots == pytest.approx([100 * d for d in view["comparisons"][0]["differences"]])
    assert page.locator("#pairs0 .point").count() == 5
    page.close()
    assert problems == []
