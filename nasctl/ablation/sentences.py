"""Layer 4: verdicts in words, with everything that they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def points(value: float, *, sign: bool = True) -> str:
    """A difference of fractions in percentage points: `+0.42`."""
    shown = f"{100 * value:{'+' if sign else ''}.2f}"
    return "0.00" if shown in ("+0.00", "-0.00") else shown


def amount(value: float, metric: str, *, sign: bool = True) -> str:
    """A difference in the unit of its metric."""
    if metric == "accuracy":
        return f"{points(value, sign=sign)} points"
    return f"{value:{'+' if sign else ''}.4g}"


def p_text(p: float) -> str:
    """`p = 0.013`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(found: Mapping[str, Any], setting: Mapping[str, Any]) -> str:
    """One comparison: `supported in this setting: ...`."""
    what = _question(found)
    if found["interval"] is None:
        if found["n"] >= _first(setting):
            return (
                f"{what}: no verdict, all {found['n']} differences are equal: too coarse a metric."
            )
        return f"{what}: no verdict yet ({found['n']} of at least {_first(setting)} seeds)."
    metric = found["metric"]
    low, high = found["interval"]
    numbers = (
        f"{amount(found['effect'], metric)}, {100 * found['level']:.3g} % interval "
        f"{_range(low, high, metric)}, n = {found['n']} {_units(setting)}, paired t-test, "
        f"Holm-adjusted {p_text(found['p_adjusted'])}"
    )
    if found["sd"] == 0:
        numbers += "; the results differ by the same in every seed"
    least = amount(setting["smallest_effect"], metric, sign=False)
    conclusion = {
        "supported": "supported in this setting",
        "refuted": "refuted in this setting: the opposite holds",
        "equivalent": f"equivalent in this setting: the difference is below {least}",
        "inconclusive": "inconclusive in this setting",
    }[found["verdict"]]
    return f"{what}: {conclusion} ({numbers}){_costs(found)}."


def failures(arm: Mapping[str, Any], chance: float | None) -> list[str]:
    """What became of the trainings of an arm that did not end well, a sentence each."""
    found, total = [], len(arm["values"])
    if arm["diverged"]:
        found.append(
            f"{arm['label']}: {arm['diverged']} of {total} trainings diverged and count as "
            f"guessing ({chance:.3g})."
        )
    if arm["failed"] > arm["diverged"]:
        found.append(
            f"{arm['label']}: {arm['failed'] - arm['diverged']} of {total} trainings failed: "
            f"{arm['first_error']}."
        )
    return found


def trained_on(setting: Mapping[str, Any]) -> str:
    """What results are of: data and its split, or the evaluator of a plugin."""
    if setting.get("evaluator", "train") != "train":
        return f"results of the evaluator {setting['evaluator']}"
    return f"{setting['data']} ({setting['split']})"


def _question(found: Mapping[str, Any]) -> str:
    if found["claim"]:
        return str(found["claim"])
    before, after = found["levels"]
    if found["kind"] == "interaction":
        return f"{found['factor']} ({before} to {after}): more than the sum of its parts"
    return f"{found['factor']}: {after} better than {before}"


def _range(low: float, high: float, metric: str) -> str:
    if metric == "accuracy":
        return f"{points(low)} to {points(high)}"
    return f"{low:+.4g} to {high:+.4g}"


def _units(setting: Mapping[str, Any]) -> str:
    return "seeds" if setting["splits"] == 1 else "seeds, each with its own split"


def _first(setting: Mapping[str, Any]) -> int:
    return int(setting["seeds"]["min"])


def _costs(found: Mapping[str, Any]) -> str:
    """What the better-claimed side costs more."""
    names = {"params": "parameters", "macs": "MACs", "latency_ms": "latency"}
    changes = found.get("cost_difference") or {}
    shown = [
        f"{100 * changes[key]['relative']:+.1f} % {name}"
        for key, name in names.items()
        if key in changes and found["kind"] != "interaction"
    ]
    return f"; at {', '.join(shown)}" if shown else ""


def seeds_raised(setting: Mapping[str, Any]) -> list[str]:
    """What is to be said where more seeds were allowed after looking; see `Study`."""
    return [
        f"After results had been seen, seeds.max was raised from {before} to {after}: the error "
        "rates are those of a study that had planned so from the start."
        for before, after in setting.get("seeds_raised", ())
    ]


def positive_control(found: Mapping[str, Any], is_found: bool | None) -> str:
    """Whether the study sees what it must see."""
    what = f"positive control ({found['levels'][0]})"
    if is_found is None:
        return f"{what}: not judged yet."
    low, high = found["interval"]
    numbers = (
        f"it costs {amount(found['effect'], found['metric'], sign=False)}, interval "
        f"{_range(low, high, found['metric'])}, n = {found['n']}"
    )
    if is_found:
        return f"{what}: found ({numbers})."
    return (
        f"{what}: NOT found ({numbers}). A study that does not see this harm would miss others: "
        "what it calls inconclusive or equivalent means nothing."
    )


def null_control(found: Mapping[str, Any], clear: bool | None) -> str:
    """Whether the study sees a difference where there is none."""
    what = "null control (the baseline again, on other seeds)"
    if clear is None:
        return f"{what}: not judged yet."
    low, high = found["interval"]
    numbers = f"interval {_range(low, high, found['metric'])}, n = {found['n']}"
    if clear:
        return f"{what}: no difference found, as it should be ({numbers})."
    return (
        f"{what}: DIFFERENT ({numbers}). Either this is one of the rare cases that alpha allows, "
        "or something besides the factors differs: do not trust the verdicts."
    )
