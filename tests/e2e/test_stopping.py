"""`stop.marginal_gain` through the command: killed, on Ray, and continued."""

from __future__ import annotations

import json

from nasctl.history import history_hash
from tests.e2e.command import Desk, completed

SEARCH = ("search", "toy.yaml", "--plugin", "toy_table", "sampler=random", "trials=25")
STOP = ("stop.marginal_gain=0.02", "stop.window=3")


def test_a_search_ends_after_the_same_trial_killed_on_ray_and_inline(desk: Desk) -> None:
    out, err = desk.run(*SEARCH, *STOP, "name=calm", "executor=inline")
    trials = desk.trials("calm")
    front = desk.records("calm").front
    stopped = front["stopped"]
    assert 10 <= len(trials) < 25
    assert (stopped["after"], stopped["of"]) == (len(trials), 25)
    said = f"stopped after {len(trials)} of 25 trials"
    assert said in out
    assert said in err
    folder = desk.folder / "runs" / "calm"
    assert said[1:] in (folder / "report.html").read_text(encoding="utf-8")
    assert said in (folder / "report.md").read_text(encoding="utf-8")
    assert json.loads((folder / "front.json").read_text())["stopped"] == stopped
    assert desk.records("calm").finished

    process = desk.start(*SEARCH, *STOP, "name=killed", "executor=inline", TOY_SECONDS="0.2")
    desk.wait_for("killed", process, lambda trials: completed(trials) >= 3)
    process.kill()
    process.communicate()
    assert 3 <= len(desk.trials("killed")) < len(trials)
    desk.run(*SEARCH, *STOP, "name=killed", "executor=inline")
    desk.run(*SEARCH, *STOP, "name=ray", "executor=ray", "executor.workers=2", "executor.cpus=0.5")
    for name in ("killed", "ray"):
        assert history_hash(desk.trials(name)) == history_hash(trials)
        assert desk.records(name).front["stopped"] == stopped

    # Without the rule it goes on to its end.
    free, _ = desk.run(*SEARCH, "name=calm", "executor=inline", "price.core_hour=0.1")
    assert len(desk.trials("calm")) == 25
    assert "stopped after" not in free
    assert "Cost" in (folder / "report.md").read_text(encoding="utf-8")
