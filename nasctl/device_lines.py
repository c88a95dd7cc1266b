"""Layer 4: what is said of a front among trained networks (`nasctl.device_front`), in lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 6  # ids in a line


def gap_line(gap: Mapping[str, Any] | None) -> str:
    """What is said of the gap in one sentence; nothing where nobody asked."""
    if gap is None:
        return ""
    if gap["expected_gain"] is None:
        return f"what a new search might add is not known: {gap['reason']}"
    return (
        f"a new search might add up to {gap['expected_gain']:.1%} of hypervolume with "
        f"{gap['proposals']} trainings (the sampler's model, which tends to say too much)"
    )


def among_trained_lines(found: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of such a front, a line each."""
    device, lines = found["device"], []
    where = f" on {device['name']}" if device else ""
    lines.append(
        f"the front among the {found['trained']} trained networks{where}; nothing was trained for "
        "it"
    )
    if device:
        at = f"{device['node']}: " if "node" in device else ""
        lines.append(f"measured on {at}{device['device']}")
    if found["constraints"]:
        bounds = ", ".join(f"{m} at most {v:g}" for m, v in found["constraints"].items())
        lines.append(f"constraints: {bounds}; {found['within_constraints']} networks are within")
    if found["joined"] or found["left"]:
        lines.append(
            f"against the run's own front: joined {_some(found['joined'])}; left "
            f"{_some(found['left'])}"
        )
    else:
        lines.append("the same members as the run's own front")
    return [*lines, line] if (line := gap_line(found["gap"])) else lines


def _some(ids: Sequence[str]) -> str:
    if not ids:
        return "none"
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{', '.join(ids[:SHOWN])}{more}"
