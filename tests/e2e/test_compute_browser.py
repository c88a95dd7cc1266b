"""The compute section of the report in a real browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasctl.compute import compute_json

from .. import sample_view as sample
from .test_report_browser import CHROMIUM, Opened, browser

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
__all__ = ["browser"]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    view = sample.view()
    compute = compute_json(
        config={**view.config, "price": {"core_hour": 0.04}},
        trials=view.trials,
        references=(),
        events=(),
        history=view.hypervolume_history,
        avoided={"duplicates": 3},
        halving=None,
        has_table=True,
        measured=7,
        wall_seconds=view.seconds,
    )
    report = Opened(browser, tmp_path, dataclasses.replace(view, compute=compute))
    yield report
    report.close()


def test_the_marginal_hypervolume_is_drawn_and_answers_to_the_mouse(opened: Opened) -> None:
    plot = opened.page.locator("#marginal")
    assert plot.locator(".scatterlayer path.js-line").count() == 1
    ended = sum(t.state.is_final for t in sample.view().trials)
    assert opened.page.evaluate("document.getElementById('marginal').data[0].x.length") == ended
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.page.wait_for_selector("#marginal .hoverlayer .hovertext")
    said = opened.page.locator("#marginal .hoverlayer").text_content()
    assert "per core-hour" in (said or "")


def test_the_table_says_what_was_not_recorded(opened: Opened) -> None:
    rows = opened.page.locator("#compute tbody tr").all_inner_texts()
    (latency,) = (row for row in rows if row.startswith("latency"))
    assert "not recorded" in latency
    assert rows[-1].startswith("total")
    assert "of what was recorded" in rows[-1]
