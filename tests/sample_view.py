"""Fabricated runs for the tests of report and terminal: real in form, meaningless in number."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from nasctl.arch import Architecture, Block, Cost, Opaque
from nasctl.report import BlockRow, RunView
from nasctl.space import Choices
from nasctl.trial import Direction, Evaluation, State, Trial
from search_spaces.blocks import BLOCKS

OBJECTIVES: dict[str, Direction] = {"accuracy": "max", "latency_ms": "min", "params": "min"}
REFERENCE = {"accuracy": 0.6, "latency_ms": 2.5, "params": 400_000.0}


def network(rng: random.Random) -> tuple[Choices, Architecture]:
    """A small network from the packaged blocks, and choices that could have led to it."""
    width = rng.choice([0.5, 0.75, 1.0, 1.5])
    choices: Choices = {"width_multiplier": width, "resolution": 28}

    def make(op: str, **fields: Any) -> Block:
        return BLOCKS[op](**fields)

    def channels(n: int) -> int:
        return max(8, round(n * width / 8) * 8)

    blocks = [make("conv_norm_act", out=channels(16), stride=2, activation="relu6")]
    for stage, (out, depth, stride) in enumerate([(16, 2, 1), (24, 3, 2), (40, 3, 2)], 1):
        n = rng.randint(1, depth)
        choices[f"stage{stage}.depth"] = n
        for index in range(n):
            scope = f"stage{stage}.block{index + 1}"
            op = rng.choice(["inverted_residual"] * 3 + ["depthwise_separable"])
            fields: dict[str, Any] = {
                "out": channels(out),
                "kernel_size": rng.choice([3, 5]),
                "stride": stride if index == 0 else 1,
            }
            if op == "inverted_residual":
                fields["expand_ratio"] = rng.choice([2, 4, 6])
                fields["bottleneck_activation"] = rng.choice(["linear", "relu6"])
            choices[f"{scope}.block_type"] = op
            choices |= {f"{scope}.{k}": v for k, v in fields.items() if k not in {"out", "stride"}}
            blocks.append(make(op, **fields))
    blocks.append(make("global_pool_linear", out=10))
    return choices, Architecture(input_shape=(1, 28, 28), blocks=tuple(blocks), num_classes=10)


def block_rows(architecture: Architecture) -> list[BlockRow]:
    """Plausible costs: params by channels, MACs by channels and pixels."""
    rows = []
    for block, (a, b) in zip(architecture.blocks, pairwise(architecture.shapes), strict=True):
        weights = a[0] * b[0] * float(getattr(block, "expand_ratio", 1)) + 9 * a[0]
        macs = weights * (b[1] * b[2] if len(b) == 3 else 1)
        rows.append(
            BlockRow(
                op=block.op,
                in_shape=a,
                out_shape=b,
                params=weights,
                macs=macs,
                latency_ms=0.012 + macs * 4e-7,
            )
        )
    return rows


def _untimed_rows(architecture: Architecture) -> list[BlockRow]:
    return [replace(row, latency_ms=None) for row in block_rows(architecture)]


def cost(architecture: Architecture) -> Cost:
    rows = block_rows(architecture)
    params = sum(r.params or 0 for r in rows)
    return Cost(
        params=params,
        macs=sum(r.macs or 0 for r in rows),
        activations=params * 2,
        model_bytes=params * 4,
        latency_ms=sum(r.latency_ms or 0 for r in rows),
    )


def trials(n: int, seed: int = 1, *, latency: bool = True) -> tuple[Trial, ...]:
    """`n` trials; every ninth failed, every eleventh pruned, the last one running."""
    rng = random.Random(seed)
    made = []
    for number in range(n):
        choices, architecture = network(rng)
        price = cost(architecture)
        if not latency:
            price = Cost(**{k: v for k, v in price.items() if k != "latency_ms"})
        accuracy = min(0.95, 0.55 + 0.057 * math.log10(price["macs"]) + rng.gauss(0, 0.012))
        state, error = State.COMPLETE, None
        if number % 9 == 5:
            state, error = State.FAILED, "the loss is not finite in epoch 2, step 41"
        elif number % 11 == 7:
            state = State.PRUNED
        elif number == n - 1 and n > 3:
            state = State.RUNNING
        metrics = {"accuracy": accuracy, "loss": 1 - accuracy, **price}
        ms = price.get("latency_ms", 0.0)
        made.append(
            Trial(
                number=number,
                state=state,
                choices=choices,
                architecture=architecture,
                seed=0,
                epochs=5,
                cost=price,
                cost_intervals={"latency_ms": (ms * 0.94, ms * 1.07)} if latency else {},
                evaluations=tuple(
                    Evaluation(epoch=e, metrics={"accuracy": accuracy - 0.2 / e})
                    for e in range(1, 6)
                ),
                metrics=metrics if state is State.COMPLETE else {},
                error=error,
                seconds=rng.uniform(8, 25),
            )
        )
    return tuple(made)


def nondominated(candidates: Sequence[Trial], objectives: Mapping[str, Direction]) -> list[Trial]:
    def losses(t: Trial) -> list[float]:
        return [t.metrics[m] * (-1 if d == "max" else 1) for m, d in objectives.items()]

    def beaten(t: Trial) -> bool:
        mine = losses(t)
        return any(
            all(o <= m for o, m in zip(losses(other), mine, strict=True)) and losses(other) != mine
            for other in candidates
        )

    return [t for t in candidates if not beaten(t)]


def member(trial: Trial, *, measured: bool) -> dict[str, Any]:
    """A front member as front.json has it."""
    metrics = {"accuracy": trial.metrics["accuracy"], **trial.cost}
    accuracy = metrics["accuracy"]
    uncertainty: dict[str, Any] = {
        "accuracy": {
            "interval": [accuracy - 0.013, accuracy + 0.012],
            "n": 1,
            "split": "val",
            "source": "measured",
        }
    }
    for name, value in trial.cost.items():
        exact = {"interval": [value, value], "n": 1, "split": None, "source": "exact"}
        uncertainty[name] = exact
    if measured:
        predicted = metrics["latency_ms"]
        whole = predicted * (1.0 + 0.06 * math.sin(trial.number * 1.7 + 1))
        metrics["latency_ms_measured"] = whole
        uncertainty["latency_ms"] = {
            "interval": [predicted * 0.93, predicted * 1.08],
            "n": 1,
            "split": None,
            "source": "predicted",
        }
        uncertainty["latency_ms_measured"] = {
            "interval": [whole * 0.985, whole * 1.02],
            "n": 20,
            "split": None,
            "source": "measured",
        }
    return {
        "arch_id": trial.arch_id,
        "architecture": trial.architecture.to_json(),
        "choices": trial.choices,
        "metrics": metrics,
        "uncertainty": uncertainty,
    }


def view(n: int = 33, *, latency: bool = True, seed: int = 1, **changes: Any) -> RunView:
    """A run of `n` trials with its front, near-front candidates and everything around it."""
    done = trials(n, seed, latency=latency)
    objectives = {m: d for m, d in OBJECTIVES.items() if latency or m != "latency_ms"}
    complete = [t for t in done if t.state is State.COMPLETE]
    best = nondominated(complete, objectives)
    near = [t for t in complete if t not in best][: n // 12 if latency else 0]
    counts = {s.value: sum(t.state is s for t in done) for s in State}
    counts["REJECTED"] = n // 3
    history = [(t.number, 0.35 - 0.3 / (1 + 0.4 * t.number**0.8)) for t in complete]
    members = [member(t, measured=latency) for t in best]
    values: dict[str, Any] = {
        "name": "mbv2_fashion",
        "command": "nasctl search conf/mbv2_space.yaml trials=33 recipe.epochs=5",
        "run_dir": "runs/mbv2_fashion",
        "config": {
            "name": "mbv2_fashion",
            "seed": 0,
            "trials": n,
            "objectives": dict(objectives),
            "constraints": {"params": 200_000, "latency_ms": None},
            "space": {"family": "staged", "options": {"width_multiplier": [0.5, 0.75, 1.0, 1.5]}},
            "data": {"name": "fashion_mnist_12k"},
            "recipe": {"epochs": 5, "batch_size": 64, "lr": 0.1, "schedule": "onecycle"},
        },
        "trials": done,
        "front": {
            "objectives": objectives,
            "reference_point": {m: v for m, v in REFERENCE.items() if m in objectives},
            "hypervolume": history[-1][1] * 0.97 if history else 0.0,
            "trials": counts,
            "members": members,
        },
        "near_front": tuple(member(t, measured=True) for t in near),
        "hypervolume_history": history,
        "rejections": {"params over 200000": n // 4, "latency_ms over 2.5": n // 3 - n // 4},
        "environment": {
            "nasctl": "0.1.0",
            "git commit": "96ef5e0c1d2b",
            "python": "3.11.2",
            "torch": "2.13.0+cpu",
            "machine": "Linux x86_64, 2 cores",
        },
        "latency": {
            "device": "Intel Xeon, 2 cores",
            "runtime": "onnxruntime 1.23.0",
            "batch": 1,
            "threads": 1,
            "blocks": 143,
            "calibration_error": {"median": 0.011, "worst": 0.043, "networks": 10},
            "held_out_error": {"median": 0.016, "worst": 0.094, "networks": 8},
        }
        if latency
        else None,
        "space_size": {"configurations": 3.1e11, "networks": 2.4e10, "networks_exact": False},
        "seconds": 252.0,
        "block_costs": block_rows if latency else _untimed_rows,
    }
    return RunView(**(values | changes))


HOSTILE = "<script>alert('x')</script>\"&<img src=x onerror=alert(1)>"


def hostile() -> RunView:
    """Every text that a user or a plugin controls tries to break out of the page."""
    base = view(12)
    bad = trials(6, seed=5)
    bad = tuple(
        Trial(
            **{
                **{f: getattr(t, f) for f in t.__dataclass_fields__},
                "choices": {f"{HOSTILE}.k": HOSTILE},
                "error": HOSTILE if t.state is State.FAILED else None,
                "architecture": Architecture(
                    input_shape=(1, 8, 8),
                    blocks=(Opaque(HOSTILE, kernel_size=HOSTILE, n=t.number),),
                    num_classes=2,
                ),
            }
        )
        for t in bad
    )
    complete = [t for t in bad if t.state is State.COMPLETE]
    front = dict(base.front) | {"members": [member(t, measured=True) for t in complete[:2]]}
    return view(
        12,
        name=HOSTILE,
        command=f"nasctl search {HOSTILE}",
        config={HOSTILE: HOSTILE},
        trials=bad,
        front=front,
        near_front=(),
        rejections={HOSTILE: 3},
        environment={HOSTILE: HOSTILE},
        latency={HOSTILE: HOSTILE},
        block_costs=None,
    )


def empty() -> RunView:
    """A run in which nothing has finished."""
    base = view(33)
    return view(
        0,
        front=dict(base.front)
        | {"members": [], "hypervolume": 0.0, "trials": {s.value: 0 for s in State}},
        rejections={},
        seconds=3.0,
        unfinished=True,
    )


def plugin() -> RunView:
    """A table of known results: other objectives, other costs, opaque blocks."""
    rng = random.Random(3)
    made = []
    for number in range(40):
        ops = [rng.choice(["conv3x3", "conv1x1", "maxpool", "none"]) for _ in range(6)]
        energy = sum(len(op) for op in ops) * 0.13 + rng.random()
        architecture = Architecture(
            input_shape=(3, 32, 32),
            blocks=tuple(Opaque(op, edge=i) for i, op in enumerate(ops)),
            num_classes=10,
        )
        price = Cost(energy_mj=energy)
        made.append(
            Trial(
                number=number,
                state=State.COMPLETE,
                choices={f"edge{i}": op for i, op in enumerate(ops)},
                architecture=architecture,
                seed=0,
                epochs=1,
                cost=price,
                metrics={"error_rate": 0.5 / energy + rng.random() * 0.02, **price},
            )
        )
    objectives: dict[str, Direction] = {"error_rate": "min", "energy_mj": "min"}
    best = nondominated(made, objectives)
    members = [
        {
            "arch_id": t.arch_id,
            "architecture": t.architecture.to_json(),
            "choices": t.choices,
            "metrics": dict(t.metrics),
            "uncertainty": {},
        }
        for t in best
    ]
    return view(
        12,
        name="nasbench",
        trials=tuple(made),
        front={
            "objectives": objectives,
            "reference_point": {"error_rate": 1.0, "energy_mj": 9.0},
            "hypervolume": 5.31,
            "trials": {"COMPLETE": 40, "PRUNED": 0, "FAILED": 0, "RUNNING": 0, "REJECTED": 0},
            "members": members,
        },
        near_front=(),
        rejections={},
        latency=None,
        block_costs=None,
    )


VIEWS = {
    "normal": view,
    "no latency": lambda: view(latency=False),
    "one trial": lambda: view(1),
    "empty": empty,
    "plugin": plugin,
    "hostile": hostile,
}
