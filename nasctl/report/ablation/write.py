"""Layer 5: writes the report of an ablation study: HTML, PNG, CSV and Markdown, all or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasctl.report.ablation.files import study_markdown, trainings_csv
from nasctl.report.ablation.page import page
from nasctl.report.ablation.picture import study_png
from nasctl.report.ablation.study import cleaned
from nasctl.report.write import inlined, page_path, write_together


def render_ablation_html(view: Mapping[str, Any]) -> str:
    """The whole report as one HTML document, like `nasctl.report.render_html`.

    Args:
        view: the object of `ablation.json`; numbers that are not finite count as unknown.
    """
    return page(cleaned(view), **inlined("ablation"))


def write_ablation_report(view: Mapping[str, Any], target: Path) -> list[Path]:
    """Writes the report, and a PNG, a CSV of all trainings and a Markdown summary beside it.

    Args:
        view: the object of `ablation.json`.
        target: the HTML file (`.html`), or a folder, in which it will be `report.html`.

    Returns:
        The files: HTML, PNG, CSV, Markdown, all with the same stem.

    Raises:
        EnvironmentProblemError: they cannot be written; older files of these names are then as
            they were.
    """
    page_file = page_path(target)
    png = page_file.with_suffix(".png")
    known = cleaned(view)
    contents = {
        page_file: render_ablation_html(known).encode(),
        png: study_png(known),
        page_file.with_suffix(".csv"): trainings_csv(known).encode(),
        page_file.with_suffix(".md"): study_markdown(known, png.name).encode(),
    }
    write_together(contents)
    return list(contents)
