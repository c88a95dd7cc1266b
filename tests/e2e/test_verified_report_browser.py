"""The section of a verification in a real browser: the chart is drawn, the table is readable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nasctl.report import render_html, write_report
from nasctl.verification.delivered import Images
from tests import sample_view
from tests.e2e.test_report_browser import CHROMIUM, FLAGS, Opened
from tests.verify_samples import finalist, trainings, verified

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
HOSTILE = "<img src=x onerror=alert(1)> $x$"


def found() -> dict[str, Any]:
    fast, slow = finalist(1, 0.90, 1.0), finalist(2, 0.95, 2.0)
    near = finalist(3, 0.94, 2.0, "near")
    known = finalist(4, 0.93, 1.5, "reference", name=HOSTILE, choices={})
    trials = trainings(
        [
            (fast, [(0.89, 0.88), (0.90, 0.89)]),
            (slow, [(0.93, 0.92), (0.94, 0.93)]),
            (near, [(0.94, 0.93), (0.942, 0.92)]),
            (known, [(0.91, 0.9), (0.92, 0.9)]),
        ]
    )
    images = Images(val=1000, test=1000)
    made = verified([fast, slow, near, known], trials, images=images)
    made["members"][0]["delivered"] = {"int8_accuracy": 0.9111, "int8_bytes": 12345}
    return made


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    view = dataclasses.replace(sample_view.view(), verified=found())
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        report = Opened(chromium, tmp_path_factory.mktemp("report"), view)
        yield report
        report.close()
        chromium.close()


def test_the_chart_has_surfaces_and_all_finalists(opened: Opened) -> None:
    made = found()
    traces = opened.page.evaluate(
        "document.getElementById('attainment').data.map((t) => [t.mode, t.x.length, t.text || []])"
    )
    worst, best, median, gaps, before, off, on = traces
    assert [t[0] for t in (worst, best, median)] == ["lines"] * 3
    assert median[1] >= 3  # two corners, and on to the edge
    assert on[1] == len(made["members"]) == 2
    assert off[1] == len(made["candidates"]) + len(made["references"]) == 2
    assert before[1] == 4
    assert gaps[1] == 3 * 4
    chances = [m["probability"] for m in made["members"]]
    assert on[2] == [f"{p:.2f}" if 0.05 <= p <= 0.95 else "" for p in chances]
    assert any(on[2])
    assert not all(on[2])
    assert opened.page.locator("#attainment .errorbar").count() > 0


def test_a_log_scale_shows_the_same_points_and_keeps_them_in_view(opened: Opened) -> None:
    read = """() => { const { data, _fullLayout: { xaxis } } =
        document.getElementById('attainment');
        return [xaxis.type, xaxis.range, data.map((t) => t.x.filter((v) => v !== null))] }"""
    _, _, before = opened.page.evaluate(read)
    box = opened.page.locator("#attainment-log")
    box.check()
    kind, (low, high), traces = opened.page.evaluate(read)
    assert kind == "log"
    assert traces[3:] == before[3:]  # surfaces go on to an edge that has moved
    assert all(10**low <= x <= 10**high * (1 + 1e-9) for trace in traces for x in trace)
    box.uncheck()
    assert opened.page.evaluate(read) == ["linear", opened.page.evaluate(read)[1], before]


def test_the_table_says_what_became_of_each(opened: Opened) -> None:
    first, files = opened.page.locator("#verified table").all()
    assert first.locator("tbody tr").count() == 4
    assert files.locator("tbody tr").count() == 1
    text = opened.page.locator("#verified").inner_text()
    assert "1 of 2 members kept their place, 1 fell off, 1 joined" in text
    assert "dominated by" in text
    assert HOSTILE in text
    assert "0.9111" in text
    assert "12.3 k" in text
    box = first.bounding_box()
    assert box is not None
    assert box["width"] <= 1240


def test_the_panel_of_a_network_says_that_it_was_verified(tmp_path: Path) -> None:
    view = sample_view.view()
    made = found()
    made["members"][0]["arch_id"] = view.members[0]["arch_id"]
    page = render_html(dataclasses.replace(view, verified=made))
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    (point,) = [p for p in data["points"] if p["id"] == view.members[0]["arch_id"]]
    said = {row[0]: row[1:] for row in point["rows"]}
    assert said["verified"][0] in ("kept", "joined")
    assert said["verified"][1].endswith(" on the true front")
    assert "test accuracy" in said
    files = write_report(dataclasses.replace(view, verified=made), tmp_path)
    summary = next(f for f in files if f.suffix == ".md").read_text(encoding="utf-8")
    assert "## Verified" in summary
    assert "<img" not in summary
