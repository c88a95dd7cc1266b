"""One history, whatever the executor and the timing; repeated networks; through the command."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from nasctl.history import history_hash
from nasctl.trial import State
from tests.e2e.command import TABLE, Desk

DELAYED = (
    TABLE
    + '''
import random

def delayed(architecture, *, budget, seed):
    """Sleeps as long as it likes; the result knows nothing of it."""
    depth, width = values(architecture)
    time.sleep(random.SystemRandom().random() * 0.3)
    noise = ((7 * depth + 3 * width + 5 * seed) % 11 - 5) / 200
    return {"accuracy": 0.5 + 0.04 * depth + 0.02 * width + noise}

EVALUATORS["delayed"] = delayed
'''
)


def test_random_delays_on_ray_change_nothing_and_duplicates_become_seeds(desk: Desk) -> None:
    desk.write("delayed_table.py", DELAYED)
    search = (
        "search", "toy.yaml", "--plugin", "delayed_table", "evaluator=delayed", "trials=20",
        "search.duplicates=repeat", "constraints.params=13",
        "sampler=tpe",  # which knows no constraints and proposes what it has seen
    )  # fmt: skip
    out, _ = desk.run(*search, "name=inline", "executor=inline")
    desk.run_afresh(*search, "name=ray", "executor=ray", "executor.workers=2", "executor.cpus=0.5")
    trials = desk.trials("ray")
    assert {t.state for t in trials} == {State.COMPLETE}
    assert history_hash(trials) == history_hash(desk.trials("inline"))
    seeds: dict[str, list[int]] = {}
    for t in trials:
        seeds.setdefault(t.arch_id, []).append(t.seed)
    assert max(map(len, seeds.values())) > 1
    assert all(found == list(range(len(found))) for found in seeds.values())

    front = desk.json("front", "runs/ray")
    assert front == desk.json("front", "runs/inline")
    accuracies: dict[str, list[float]] = {}
    for t in trials:
        accuracies.setdefault(t.arch_id, []).append(t.metrics["accuracy"])
    for member in front["members"]:
        own = accuracies[member["arch_id"]]
        assert member["uncertainty"]["accuracy"]["n"] == len(own)
        assert abs(member["metrics"]["accuracy"] - sum(own) / len(own)) < 1e-12
    repeats = sum(n - 1 for n in Counter(t.arch_id for t in trials).values())
    assert front["seed_spread"]["accuracy"]["df"] == repeats
    rejected = front["trainings_avoided"]["rejected"]
    assert rejected == front["trials"]["REJECTED"] > 0
    assert re.search(rf"trainings? avoided: {rejected} rejected by constraints", out)
    report = Path(desk.folder, "runs", "ray", "report.html").read_text(encoding="utf-8")
    assert "pooled within networks" in report
