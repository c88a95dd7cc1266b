"""Layer 5: the setting, the statistics and the effort of a study, in words."""

from __future__ import annotations

from collections.abc import Iterator

from nasctl.ablation.sentences import seeds_raised
from nasctl.report import text
from nasctl.report.ablation.study import (
    ROLES,
    Json,
    asked,
    baseline,
    confidence,
    control_word,
    probability,
    rate,
    unit,
    verdict,
)

_DESIGNS = {
    "one_at_a_time": "one factor at a time, against the baseline",
    "factorial": "full factorial: every combination of levels",
    "fractional": "fractional factorial: a balanced part of the combinations",
}
_BOOTSTRAP_FROM = 20
"""Fewer units than this have too few different resamples for an honest bootstrap interval."""


def warnings(view: Json) -> list[str]:
    """What must be read before any verdict, from failed controls."""
    found = []
    if control_word(view, "positive") == "not found":
        found.append(
            "The positive control was not found: this study did not see an effect that is known "
            "to be there, so its nulls mean nothing."
        )
    if control_word(view, "null") == "not clear":
        found.append(
            "The null control is not clear: this study saw a difference where there can be none, "
            "so its effects may be no more real."
        )
    return [*found, *view.get("failures", ())]


def void(view: Json, comparison: Json) -> str:
    """What takes a null its meaning, or nothing: it is only as good as the positive control."""
    null = verdict(comparison) in {"equivalent", "inconclusive"}
    if not null or control_word(view, "positive") != "not found":
        return ""
    return "This null means nothing: the positive control was not found."


def setting(view: Json) -> Iterator[tuple[str, str]]:
    """Names and values of the setting in which alone the verdicts hold."""
    s = view["setting"]
    if s.get("evaluator", "train") == "train":
        yield "data", str(s.get("data", "–"))
        images, splits = s.get("validation_images"), s.get("splits") or 1
        part = f"{s.get('split', '–')}" + (f", {images:,} images" if images else "")
        yield "measured on", part + (f", {splits} splits" if splits > 1 else "")
    yield "metric", str(s.get("metric", "accuracy"))
    yield "baseline", _baseline_network(view)
    yield "design", _DESIGNS.get(str(s.get("design")), str(s.get("design", "–")))
    matched = str(s.get("match", "none"))
    same = f"widths set so that {text.label(matched)} are equal"
    yield "cost match", "none: arms cost what they cost" if matched == "none" else same
    tuned = s.get("learning_rate") == "tuned"
    yield "learning rate", "tuned for each arm" if tuned else "the same for every arm"
    limits = s.get("seeds") or {}
    yield "seeds per arm", f"{limits.get('min', '–')} to {limits.get('max', '–')}"
    yield "smallest effect", unit(s).size(s.get("smallest_effect"))
    yield "alpha", rate(s.get("alpha"))
    yield "trained by", str(s.get("evaluator", "–"))
    for name, source in (s.get("plugins") or {}).items():
        yield f"plugin {name}", f"source {str(source)[:12]}"
    if s.get("recipe"):
        yield "recipe", ", ".join(f"{k} {text.scalar(v)}" for k, v in s["recipe"].items())
    for name, value in (s.get("environment") or {}).items():
        yield name, str(value)
    for name, value in (s.get("latency_device") or {}).items():
        yield f"latency {name}", str(value)
    if view.get("version") and "nasctl" not in (s.get("environment") or {}):
        yield "nasctl", str(view["version"])


def _baseline_network(view: Json) -> str:
    """Its blocks, those that are alike only once: the network that verdicts are about."""
    parts: list[list[str]] = []
    for line in view.get("baseline_blocks", ()):
        if parts and parts[-1][0] == line:
            parts[-1].append(line)
        else:
            parts.append([line])
    shown = [f"{len(p)} × {p[0]}" if len(p) > 1 else p[0] for p in parts]
    return ", ".join(shown) or str(view["baseline"])


def statistics(view: Json) -> list[str]:
    """How the verdicts were reached: test, correction, looks, and what was left out and why."""
    s = view["setting"]
    u = unit(s)
    smallest = u.size(s.get("smallest_effect"))
    scale = ", in points of accuracy: one image in a hundred" if u.name else ""
    found = [
        "Every comparison is paired: its arms are trained with the same seeds on the same data, "
        "and a unit is one such seed (on one split). The effect is the mean of the differences "
        f"within units, second level minus first{scale}. A training whose loss diverges counts as "
        "chance; one that fails for another reason leaves its unit out.",
        "p is of Student's t test of the paired differences, and the intervals come from the same "
        "test, each at the level that is written beside it. Adjusted p: Holm's correction over the "
        "claims of the study, over its other comparisons, and none for a control, each a family "
        "of its own.",
        "The verdict is read from the interval. Equivalent: all of it is within "
        f"±{smallest}, the smallest effect that matters. Supported: it is above 0 and reaches "
        "beyond that. Refuted: the same below 0. Inconclusive: none of these, which is no evidence "
        "that there is no effect. The equivalence p (two one-sided t tests) stands beside it and "
        "decides nothing.",
    ]
    if s.get("boundary"):
        found.append(
            "The data are looked at while seeds are added, and a comparison may stop early. The "
            f"boundary ({s['boundary']}) keeps the error over all looks together at alpha: the p "
            "and the intervals are the repeated ones, valid at whichever look one stops. Who stops "
            "early stops where the effect looks large: the bias-adjusted effect is corrected for "
            "that."
        )
    found += seeds_raised(s)
    floors = [
        (int(c.get("n") or 0), c["sign_flip_smallest"])
        for c in asked(view)
        if c.get("sign_flip_smallest") is not None
    ]
    if floors:
        n, floor = min(floors)
        found.append(
            "The sign-flip test assumes only that differences are as likely to be positive as "
            f"negative; with {text.plural(n, 'unit')} its p cannot be below {probability(floor)}, "
            "however large the effect."
        )
    largest = max((int(c.get("n") or 0) for c in view["comparisons"]), default=0)
    shown = "" if largest >= _BOOTSTRAP_FROM else f" (here at most {largest})"
    found.append(
        f"A bootstrap interval is shown only from {_BOOTSTRAP_FROM} units on{shown}: with fewer "
        "it is too narrow."
    )
    return found


def effort(view: Json) -> list[str]:
    """Power and trainings, a sentence each."""
    found = []
    power = view.get("power")
    if power and power.get("detectable") is not None:
        found.append(_power(power, view["setting"]))
    t = view.get("trainings") or {}
    counted = [
        (t.get("verdict"), "for the verdicts"),
        (t.get("learning_rate"), "to choose learning rates"),
        (t.get("shared"), "taken over from an identical training"),
        (t.get("failed"), "failed"),
    ]
    parts = ", ".join(f"{n:,} {what}" for n, what in counted if n)
    if parts:
        spent = f"; {text.duration(t['seconds'])} of training" if t.get("seconds") else ""
        found.append(f"Trainings: {parts}{spent}.")
    return found


def _power(power: Json, setting: Json) -> str:
    u, smallest = unit(setting), setting.get("smallest_effect")
    known = [f"standard deviation {u.size(power.get('sd'))}"]
    if power.get("correlation") is not None:
        known.append(f"correlation of the arms within a unit {power['correlation']:.2f}")
    if power.get("source"):
        known.append(f"from {power['source']}")
    sentence = (
        f"With {text.plural(int(power.get('units') or 0), 'unit')} the study detects effects "
        f"from {u.size(power['detectable'])} on ({', '.join(known)})."
    )
    if smallest is not None and power["detectable"] > smallest:
        sentence += (
            f" That is more than the smallest effect that matters, {u.size(smallest)}: an effect "
            "between the two is likely to stay inconclusive."
        )
    return sentence


def levels(comparison: Json) -> str:
    """`bottleneck_activation: linear minus relu6`, or nothing."""
    pair = comparison.get("levels") or []
    if len(pair) != 2:
        return str(comparison.get("factor") or "")
    return f"{comparison.get('factor')}: {pair[1]} minus {pair[0]}"


def arm_note(view: Json, arm: Json) -> str:
    """What an arm is besides its name: its role, its network, its width, its failures."""
    parts = [ROLES.get(arm["role"], ""), str(arm.get("arch_id") or "")]
    if arm.get("failed"):
        parts.append(f"{arm['failed']:,} failed")
    width = arm.get("width_factor")
    if width is not None and width != 1:
        parts.append(f"width × {rate(width)}")
    first = baseline(view)
    if first is not None and arm is not first and arm.get("arch_id") == first.get("arch_id"):
        parts.append("the baseline's network")
    return " · ".join(p for p in parts if p)


def level_name(comparison: Json) -> str:
    """`97.5 % interval`, or `interval`."""
    return f"{confidence(comparison.get('level'))} interval".strip()
