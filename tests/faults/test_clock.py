"""The wall clock jumps: F20. Only what is shown to people comes from it."""

from __future__ import annotations

import itertools
import time

import pytest

from nasctl.history import history_hash
from tests.faults.drive import INLINE, SEARCH, Bench

HOUR = 3600.0


def test_f20_nothing_is_decided_by_the_wall_clock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*SEARCH, INLINE, "sampler=tpe", "sampler.startup_trials=4")
    assert bench.call(*arguments, "name=calm").code == 0
    real = time.time
    jumps = itertools.cycle((0.0, HOUR, -HOUR, 25 * HOUR, -1e9))
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    # A limit of a minute that the wall clock passes with every jump.
    for trials in (5, 12):
        said = bench.call(*arguments, f"trials={trials}", "executor.timeout_s=60")
        assert said.code == 0, said.err
    trials = bench.toy.trials()
    assert history_hash(trials) == history_hash(bench.trials("calm"))
    assert all(0 <= t.seconds < 60 for t in trials)
    began = [t.started_at for t in trials]
    assert began != sorted(began)  # the clock did jump
    assert 0 <= bench.toy.meta("seconds") < 120
    bench.assert_sound()
    assert bench.call("front", "runs/toy").code == 0
