"""Layer 3: the view of the MLflow UI that a search is first seen in."""

from __future__ import annotations

import json
from typing import Any


def saved_view() -> str:
    """The table and charts that people see first, as the UI itself would save them.

    MLflow 3 keeps shared views in experiment tags. A version that does not know this form says
    so above its default view; nothing else depends on it.
    """
    metrics = ("accuracy", "latency_ms", "params", "hypervolume", "best_accuracy")
    tags = ("state", "pareto")
    section = "nasctl-section"
    view: dict[str, Any] = {
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in metrics),
            *(f"tags.`{name}`" for name in tags),
        ],
        "compareRunSections": [
            {"uuid": section, "name": "Search", "display": True, "isReordered": False}
        ],
        "compareRunCharts": [
            *(
                {
                    "uuid": f"nasctl-{cost}",
                    "type": "SCATTER",
                    "metricSectionId": section,
                    "deleted": False,
                    "isGenerated": False,
                    "xaxis": {"key": cost, "type": "METRIC"},
                    "yaxis": {"key": "accuracy", "type": "METRIC"},
                    "runsCountToCompare": 100,
                }
                for cost in ("latency_ms", "params")
            ),
            *(
                {
                    "uuid": f"nasctl-{name}",
                    "type": "LINE",
                    "metricSectionId": section,
                    "deleted": False,
                    "isGenerated": False,
                    "metricKey": name,
                    "selectedMetricKeys": [name],
                    "xAxisKey": "step",
                    "useGlobalLineSmoothing": False,
                    "lineSmoothness": 0,
                }
                for name in ("hypervolume", "accuracy")
            ),
        ],
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "runsHiddenMode": "SHOW_ALL",
    }
    return json.dumps(view)
