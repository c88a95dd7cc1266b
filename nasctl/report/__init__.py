"""Layer 5: the report of a run: one offline HTML page, with PNG, CSV and Markdown beside it."""

from nasctl.report.view import BlockRow, RunView
from nasctl.report.write import draw_report, render_html, write_report

__all__ = ["BlockRow", "RunView", "draw_report", "render_html", "write_report"]
