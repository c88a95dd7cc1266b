"""Layer 5: the report of an ablation study: one offline HTML page, PNG, CSV and Markdown."""

from nasctl.report.ablation.write import render_ablation_html, write_ablation_report

__all__ = ["render_ablation_html", "write_ablation_report"]
