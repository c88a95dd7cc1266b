"""Layer 5: a verification in sentences, the same in the terminal, the report and MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nasctl.report import text
from nasctl.verification.fronts import IN_INT8, front_of


def places_line(verified: Mapping[str, Any]) -> str:
    """`4 of 6 members kept their place, 2 fell off, 1 joined: 5 networks on the verified front`."""
    places, n = verified["places"], len(verified["members"])
    parts = [f"{places['kept']} of {text.plural(places['members'], 'member')} kept their place"]
    if places["members"] == 1:
        parts = [f"the member {'kept its place' if places['kept'] else 'lost its place'}"]
    for status, words in (("fell", "fell off"), ("joined", "joined"), ("failed", "failed")):
        if places[status] and not (status == "fell" and places["members"] == 1):
            parts.append(f"{places[status]} {words}")
    unfinished = places["unfinished"]
    if unfinished:
        parts.append(f"{unfinished} not trained yet")
    return f"{', '.join(parts)}: {text.plural(n, 'network')} on the verified front"


def shrinkage_lines(verified: Mapping[str, Any]) -> Iterator[str]:
    """How much of the searched values was luck, with what the interval counts."""
    found = verified["shrinkage"]
    metric = found["metric"]
    for split, words in (("val", "fresh validation"), ("test", "test")):
        groups = dict(found.get(split) or {})
        if groups and groups["members"]["n"] == groups["finalists"]["n"]:
            del groups["finalists"]  # they are the same
        parts = [
            f"{_amount(metric, group['mean'])} for {who} ({_n(group, found['confidence'], metric)})"
            for name, who in (("members", "members"), ("finalists", "all finalists"))
            if (group := groups.get(name)) and group["mean"] is not None
        ]
        if parts:
            yield f"searched less {words} {text.label(metric)}: {'; '.join(parts)}"
    if not found["same_recipe"]:
        yield "the recipe is another than that of the search: that is in these differences too"


def int8_lines(verified: Mapping[str, Any]) -> Iterator[str]:
    """What the front is judged by, if not by the trained networks, and what int8 costs."""
    if front_of(verified) != "int8":
        return
    *first, last = [text.label(m) for m in verified["objectives"] if m in IN_INT8] or ["nothing"]
    decided = f"{', '.join(first)} and {last}" if first else last
    yield (
        f"the front is that of int8 files: {decided} decided as the files of all seeds have it, on "
        "validation images"
    )
    found = verified.get("quantisation") or {}
    for split, words in (("val", "validation"), ("test", "test")):
        group = found.get(split) or {}
        if group.get("mean") is not None:
            amount = _amount("accuracy", group["mean"])
            note = _n(group, found["confidence"], "accuracy")
            yield f"trained less int8 {words} accuracy: {amount} ({note})"


def _amount(metric: str, value: float) -> str:
    return f"{100 * value:+.2f} points" if "accuracy" in metric else f"{value:+.3g}"


def _n(group: Mapping[str, Any], confidence: float, metric: str) -> str:
    units = text.plural(group["n"], "network")
    if group["interval"] is None:
        return f"{units}, no interval"
    low, high = (_amount(metric, end).removesuffix(" points") for end in group["interval"])
    return f"{text.percent(confidence)} {low} to {high}, {units}"


def openings_line(verified: Mapping[str, Any]) -> str:
    """How often the test split was opened for this run."""
    if verified["split"] != "test":
        return "there is no test split: all accuracies are those of validation"
    times, count = len(verified["test_openings"]), verified["test_evaluations"]
    often = "once" if times == 1 else f"{times} times"
    return (
        f"the test split of this run has been opened {often}, for "
        f"{text.plural(count, 'evaluation')}; members are chosen on validation"
    )
