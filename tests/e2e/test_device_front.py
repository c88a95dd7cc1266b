"""`nasctl front RUN --device` and `--constraint`: other circumstances, without training."""

from __future__ import annotations

import hashlib
import json

import pytest

from nasctl.history import history_hash
from tests.e2e.command import DIGITS, Desk

PLUGIN = '''\
"""Judges a network by its number of parameters, so that nothing has to be trained."""
def by_size(architecture, *, budget, seed):
    from search_spaces import network
    params = sum(p.numel() for p in network.build(architecture).parameters())
    return {"accuracy": 1 - 30 / (100 + params)}

EVALUATORS = {"by_size": by_size}
'''
BENCH = '''\
"""A device on which the larger of two networks is the faster one."""
import json, os, sys
with open("calls", "a") as file:
    file.write(sys.argv[1] + "\\n")
print(json.dumps({"latency_ms": 1e4 / os.path.getsize(sys.argv[1])}))
'''
SEARCH = ("search", "digits.yaml", "--plugin", "by_size", "evaluator=by_size", "latency=none",
          "~objectives.latency_ms", "executor=inline", "tracking=none", "trials=8")  # fmt: skip
BOARD = ("front", "runs/digits", "--plugin", "by_size", "--device", "board", "--latency",
         "runtime=command", "--latency", "command=[python, bench.py, '{model}']")  # fmt: skip


@pytest.mark.slow  # it measures; tests/test_device_front.py has what needs no device
def test_another_device_has_another_front_among_the_same_networks(desk: Desk) -> None:
    desk.write("digits.yaml", DIGITS)
    desk.write("by_size.py", PLUGIN)
    desk.run(*SEARCH)
    folder = desk.folder / "runs" / "digits"

    desk.write("bench.py", "print('no JSON')")
    _, err = desk.run(*BOARD, code=4)
    assert "Traceback" not in err
    assert not (folder / "devices" / "board.json").exists()  # nothing half-written

    desk.write("bench.py", BENCH)
    before = history_hash(desk.trials("digits"))
    ledger = hashlib.sha256((folder / "ledger.sqlite").read_bytes()).hexdigest()
    found = desk.json(*BOARD)
    assert found["among_trained"] is True
    assert found["objectives"] == {"accuracy": "max", "params": "min", "latency_ms": "min"}
    assert found["device"]["name"] == "board"
    trained = {t.arch_id for t in desk.trials("digits")}
    assert {m["arch_id"] for m in found["members"]} <= trained
    assert found["trained"] == len(trained)
    for member in found["members"]:
        assert member["uncertainty"]["latency_ms_measured"]["source"] == "measured"
        assert member["metrics"]["latency_ms_measured"] > 0
    # Size buys accuracy here, and now speed as well: what has the best two is on the front.
    best = max(desk.trials("digits"), key=lambda t: t.metrics["accuracy"]).arch_id
    assert best in {m["arch_id"] for m in found["members"]}
    gap = found["gap"]
    assert gap["expected_gain"] >= 0
    assert gap["proposals"] >= 1

    kept = json.loads((folder / "devices" / "board.json").read_text(encoding="utf-8"))
    assert kept["front"] == found
    assert history_hash(desk.trials("digits")) == before
    assert hashlib.sha256((folder / "ledger.sqlite").read_bytes()).hexdigest() == ledger
    assert "latency_ms" not in desk.records("digits").front["objectives"]

    # What was measured is not measured again, and the bounds are free.
    (desk.folder / "calls").unlink()
    limit = sorted(m["metrics"]["params"] for m in found["members"])[1]
    out, _ = desk.run(*BOARD, "--constraint", f"params={limit}", "--no-gap")
    assert not (desk.folder / "calls").exists()
    assert "the front among the" in out
    assert "nothing was trained for it" in out
    assert f"params at most {limit:g}" in out
    assert "a new search" not in out

    _, err = desk.run(*BOARD, "--latency", "threads=2", code=2)
    assert "was measured with other settings (latency.threads: 1 -> 2)" in err
    _, err = desk.run(*BOARD, "--constraint", "params=1", "--no-gap", code=3)
    assert "none of the" in err
    assert "the closest is" in err

    # Another device under the same name is noticed before anything is added to its figures.
    path = folder / "devices" / "board.json"
    other = json.loads(path.read_text(encoding="utf-8"))
    other["table"]["device"], other["measurements"] = "another board", {}
    path.write_text(json.dumps(other), encoding="utf-8")
    _, err = desk.run(*BOARD, "--no-gap", code=4)
    assert "what was measured under that name is of another device (another board)" in err
    assert json.loads(path.read_text(encoding="utf-8"))["measurements"] == {}
