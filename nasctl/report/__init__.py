"""Layer 5: the report of a run: one offline HTML page, with PNG, CSV and Markdown beside it."""

from nasctl.report.view import BlockRow, RunView
from nasctl.report.write import render_html, write_report

__all__ = ["BlockRow", "RunView", "render_html", "write_report"]
