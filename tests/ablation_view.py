"""Fabricated ablation studies for the tests of their report: real in form, not in number."""

from __future__ import annotations

import math
import random
import re
from statistics import fmean, stdev
from typing import Any

HOSTILE = "<script>alert('x')</script>\"&<img src=x onerror=alert(1)>|$a_b$"
SEEDS = 5
_T = 2.776  # 97.5 % quantile of Student's t with four degrees of freedom


def _values(rng: random.Random, centre: float, shared: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "replicate": i,
            "seed": i,
            "split": 0,
            "accuracy": round(centre + shared[i] + rng.gauss(0, 0.0012), 4),
            "trial": 7 * i + 3,
            "state": "COMPLETE",
            "error": None,
            "shared_from": None,
        }
        for i in range(len(shared))
    ]


def _interval(values: list[float]) -> list[float]:
    half = _T * stdev(values) / math.sqrt(len(values))
    return [fmean(values) - half, fmean(values) + half]


def _arm(rng: random.Random, name: str, role: str, centre: float, **more: Any) -> dict[str, Any]:
    values = _values(rng, centre, more.pop("shared"))
    known = [v["accuracy"] for v in values]
    epochs = list(range(1, 9))
    mean = [fmean(known) + rng.gauss(0, 0.02 / e) - 0.35 / e**1.4 + 0.35 / 8**1.4 for e in epochs]
    return {
        "name": name,
        "label": name,
        "role": role,
        "levels": {"bottleneck_activation": "linear", "kernel_size": "3"},
        "arch_id": f"{rng.getrandbits(48):012x}",
        "cost": {"params": 48_122, "macs": 3_214_080, "activations": 98_304, "latency_ms": 0.612},
        "width_factor": 1.0,
        "lr": 0.4,
        "lr_search": [
            {"lr": 0.2, "accuracy": 0.861},
            {"lr": 0.4, "accuracy": 0.8745},
            {"lr": 0.8, "accuracy": None},
        ],
        "n": len(known),
        "mean": fmean(known),
        "sd": stdev(known),
        "interval": _interval(known),
        "values": values,
        "curve": {
            "epochs": epochs,
            "mean": mean,
            "low": [m - 0.03 / e for m, e in zip(mean, epochs, strict=True)],
            "high": [m + 0.03 / e for m, e in zip(mean, epochs, strict=True)],
        },
        "failed": 0,
        **more,
    }


def _comparison(
    name: str, kind: str, low: dict[str, Any], high: dict[str, Any], verdict: str, **more: Any
) -> dict[str, Any]:
    differences = more.pop("differences", None) or [
        b["accuracy"] - a["accuracy"] for a, b in zip(low["values"], high["values"], strict=True)
    ]
    effect, sd = fmean(differences), stdev(differences)
    return {
        "name": name,
        "kind": kind,
        "claim": None,
        "factor": "bottleneck_activation",
        "levels": ["relu6", "linear"],
        "metric": "accuracy",
        "n": len(differences),
        "effect": effect,
        "sd": sd,
        "interval": _interval(differences),
        "level": 0.975,
        "p_value": 0.0123,
        "p_adjusted": 0.0246,
        "verdict": verdict,
        "effect_size": effect / sd,
        "superiority": 0.8,
        "sign_flip_p": 0.125,
        "sign_flip_smallest": 0.0625,
        "equivalence_p": 0.31,
        "bootstrap": None,
        "adjusted_effect": effect * 0.93,
        "cost_difference": {
            m: {
                "absolute": high["cost"][m] - low["cost"][m],
                "relative": high["cost"][m] / low["cost"][m] - 1,
            }
            for m in low["cost"]
        },
        "differences": differences,
        "sentence": f"{name}: {verdict} in this setting ({100 * effect:+.2f} points, n = 5).",
        **more,
    }


def study(**changes: Any) -> dict[str, Any]:
    """A finished study of two factors with both controls."""
    rng = random.Random(11)
    shared = [rng.gauss(0, 0.004) for _ in range(SEEDS)]
    linear = _arm(rng, "baseline", "baseline", 0.8812, shared=shared)
    relu = _arm(
        rng, "bottleneck_activation=relu6", "arm", 0.8745, shared=shared, lr=0.2,
        levels={"bottleneck_activation": "relu6", "kernel_size": "3"},
    )  # fmt: skip
    wide = _arm(
        rng, "kernel_size=5", "arm", 0.8816, shared=shared, width_factor=0.93,
        levels={"bottleneck_activation": "linear", "kernel_size": "5"},
        cost={"params": 52_010, "macs": 3_801_600, "activations": 98_304, "latency_ms": 0.744},
    )  # fmt: skip
    both = _arm(
        rng, "bottleneck_activation=relu6, kernel_size=5", "arm", 0.8741, shared=shared,
        levels={"bottleneck_activation": "relu6", "kernel_size": "5"},
        cost={"params": 52_010, "macs": 3_801_600, "activations": 98_304},
    )  # fmt: skip
    broken = _arm(rng, "no_residual_no_norm", "positive_control", 0.71, shared=shared)
    same = _arm(rng, "baseline, other names", "null_control", 0.881, shared=shared)
    both["values"][4] |= {"state": "FAILED", "accuracy": None, "error": "the loss is not finite"}
    both |= {"n": 4, "failed": 1}
    same["values"][0]["shared_from"] = "baseline, seed 0"
    arms = [linear, relu, wide, both, broken, same]
    comparisons = [
        _comparison(
            "relu6 against linear", "effect", relu, linear, "supported",
            claim="accuracy(linear) > accuracy(relu6)",
            sentence="accuracy(linear) > accuracy(relu6): supported in this setting (+0.62 points, "
            "97.5 % interval +0.44 to +0.80, n = 5 seeds, paired t-test, Holm-adjusted p = 0.025).",
        ),
        _comparison(
            "3 against 5", "effect", linear, wide, "equivalent", factor="kernel_size",
            levels=["3", "5"], claim="accuracy(5) > accuracy(3)", p_value=0.62, p_adjusted=0.62,
            sentence="Kernels of 3 and 5: equivalent in this setting: the difference is below 0.50 "
            "points.",
        ),
        _comparison(
            "bottleneck_activation x kernel_size", "interaction", wide, linear, "inconclusive",
            factor="bottleneck_activation x kernel_size", levels=["without", "with"],
            p_value=0.81, p_adjusted=0.81, cost_difference={},
            differences=[-0.006, 0.004, 0.0015, -0.009, 0.003],
            sentence="Whether the two factors interact is open.",
        ),
        _comparison(
            "no_residual_no_norm against baseline", "positive_control", linear, broken, "supported",
            factor="positive_control", levels=["baseline", "no_residual_no_norm"],
            p_value=1e-7, p_adjusted=None,
        ),
        _comparison(
            "baseline against itself", "null_control", linear, same, "equivalent",
            factor="null_control", levels=["baseline", "baseline, other names"], p_adjusted=None,
        ),
    ]  # fmt: skip
    grid = [[relu["mean"], both["mean"]], [linear["mean"], wide["mean"]]]
    made: dict[str, Any] = {
        "name": "linear_bottleneck",
        "command": "nasctl ablate linear_bottleneck",
        "status": "FINISHED",
        "created": 1_790_000_000.0,
        "seconds": 1_203.0,
        "version": "0.1",
        "question": "Does a linear bottleneck help, and does it still with larger kernels?",
        "setting": {
            "data": "fashion_mnist_12k",
            "split": "val",
            "validation_images": 2000,
            "splits": 1,
            "recipe": {"epochs": 8, "batch_size": 64, "optimizer": "sgd", "schedule": "onecycle"},
            "evaluator": "train",
            "environment": {"torch": "2.13.0+cpu", "machine": "Linux x86_64, 2 cores"},
            "learning_rate": "tuned",
            "match": "none",
            "smallest_effect": 0.005,
            "metric": "accuracy",
            "alpha": 0.05,
            "seeds": {"min": 3, "max": 10},
            "design": "factorial",
            "boundary": "Wang-Tsiatis, Delta 0.25",
        },
        "baseline": "baseline",
        "arms": arms,
        "comparisons": comparisons,
        "controls": {
            "positive": {"found": True, "sentence": "The known effect was found: -17 points."},
            "null": {"clear": True, "sentence": "The baseline does not differ from itself."},
        },
        "interactions": [
            {
                "factors": ["bottleneck_activation", "kernel_size"],
                "levels": [["relu6", "linear"], ["3", "5"]],
                "means": grid,
                "low": [[m - 0.004 for m in row] for row in grid],
                "high": [[m + 0.004 for m in row] for row in grid],
            }
        ],
        "power": {
            "sd": 0.0041,
            "correlation": 0.74,
            "detectable": 0.0062,
            "units": 5,
            "source": "the first 3 seeds of this study",
        },
        "looks": [
            {"n": 3, "decided": 0, "open": 3},
            {"n": 4, "decided": 1, "open": 2},
            {"n": 5, "decided": 2, "open": 1},
        ],
        "trainings": {
            "verdict": 29, "learning_rate": 18, "shared": 1, "failed": 1, "seconds": 1_120.0
        },
    }  # fmt: skip
    return made | changes


def interrupted() -> dict[str, Any]:
    """Stopped early: one arm has one value, the others none; no comparison has a number."""
    made = study(status="INTERRUPTED", interactions=[], power=None, looks=[])
    nothing = {"n": 0, "mean": None, "sd": None, "interval": None, "values": [], "curve": None}
    for index, arm in enumerate(made["arms"]):
        if index:
            arm.update(nothing, lr_search=[], lr=None)
    first = made["arms"][0]
    first |= {"n": 1, "sd": None, "interval": None, "mean": math.nan}
    running = {**first["values"][1], "state": "RUNNING", "accuracy": None, "trial": None}
    first["values"] = [first["values"][0], running]
    first["curve"] = {
        "epochs": [1, 2], "mean": [0.5, math.nan], "low": [None, None], "high": [None, None]
    }  # fmt: skip
    empty = dict.fromkeys(
        ("effect", "sd", "interval", "p_value", "p_adjusted", "effect_size", "superiority",
         "sign_flip_p", "sign_flip_smallest", "equivalence_p", "bootstrap", "adjusted_effect")
    )  # fmt: skip
    for comparison in made["comparisons"]:
        comparison.update(empty, n=0, differences=[], verdict="inconclusive")
        comparison["sentence"] = "Not enough seeds yet."
    made["comparisons"][1] |= {"n": 1, "effect": 0.002, "differences": [0.002]}
    made["comparisons"][2] |= {"verdict": None, "sd": math.nan, "effect": math.inf}
    made["controls"] = {"positive": {"found": None, "sentence": "Not decided yet."}, "null": None}
    made["trainings"] = {"verdict": 1, "learning_rate": 0, "shared": 0, "failed": 0, "seconds": 9.0}
    return made


def empty() -> dict[str, Any]:
    """Nothing has started."""
    return study(
        status="RUNNING",
        question=None,
        seconds=0.0,
        arms=[],
        comparisons=[],
        controls={"positive": None, "null": None},
        interactions=[],
        power=None,
        looks=[],
        trainings={"verdict": 0, "learning_rate": 0, "shared": 0, "failed": 0, "seconds": 0.0},
    )


def blind() -> dict[str, Any]:
    """Its positive control was not found, and its null control shows a difference."""
    made = study()
    made["controls"] = {
        "positive": {"found": False, "sentence": "The known effect was not found."},
        "null": {"clear": False, "sentence": "The baseline differs from itself."},
    }
    return made


def hostile() -> dict[str, Any]:
    """Every text that a user or a plugin controls tries to break out of the page."""

    def spoiled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            own = key in {"recipe", "environment", "levels", "cost"}
            return {HOSTILE + k if own else k: spoiled(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoiled(v, key) for v in value]
        fixed = {"kind", "verdict", "status", "state", "role", "learning_rate", "match", "baseline"}
        return HOSTILE + value if isinstance(value, str) and key not in fixed else value

    made: dict[str, Any] = spoiled(study())
    made["baseline"] = made["arms"][0]["name"]
    return made


def many() -> dict[str, Any]:
    """Twelve factors, so that the charts and tables grow."""
    made = study()
    rng = random.Random(2)
    shared = [rng.gauss(0, 0.004) for _ in range(SEEDS)]
    first = made["arms"][0]
    for index in range(12):
        arm = _arm(rng, f"factor_{index}=other", "arm", 0.88 + 0.001 * index, shared=shared)
        made["arms"].append(arm)
        verdict = ("inconclusive", "supported", "refuted", "equivalent")[index % 4]
        name = f"factor_{index}: other against usual, a name that is rather long for a label"
        made["comparisons"].insert(
            index, _comparison(name, "main_effect", first, arm, verdict, factor=f"factor_{index}")
        )
    return made


def in_metric(metric: str) -> dict[str, Any]:
    """The same study of another metric."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {metric if k == "accuracy" else k: renamed(v) for k, v in value.items()}
        if isinstance(value, list):
            return [renamed(v) for v in value]
        return value.replace("points", "units") if isinstance(value, str) else value

    made: dict[str, Any] = renamed(study())
    made["setting"]["metric"] = metric
    for comparison in made["comparisons"]:
        comparison["metric"] = metric
    return made


VIEWS = {
    "finished": study,
    "interrupted": interrupted,
    "empty": empty,
    "blind": blind,
    "hostile": hostile,
    "many": many,
    "other metric": lambda: in_metric("top5_error"),
    "metric that is bad TeX": lambda: in_metric("a$_{b$"),
}


def section(page: str, name: str) -> str:
    """One section of a report's page."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.S)
    assert found, name
    return found[0]


def rows(part: str) -> list[list[str]]:
    """Cells of each row of a table's body, their tags replaced by spaces."""
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [
        [
            " ".join(re.sub(r"<[^>]*>", " ", c.replace("<wbr>", "")).split())
            for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        ]
        for row in re.findall(r"<tr.*?</tr>", body, re.S)
    ]
