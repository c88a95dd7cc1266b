"""Two thousand trials in one process: F30. Memory, files and threads stay as they are."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nasctl.trial import State
from tests.faults.drive import INLINE, SEARCH, Bench

TRIALS = 2000
ROUNDS = 4


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
def test_f30_soak(bench: Bench) -> None:
    arguments = (
        *SEARCH,
        INLINE,
        "evaluator=chance",
        "space.options.size=60",
        "search.max_failures=0",
    )
    said = [bench.call(*arguments, f"trials={TRIALS // ROUNDS}")]
    before = memory_mb(), descriptors(), threading.active_count()
    for round_ in range(2, ROUNDS + 1):
        said.append(bench.call(*arguments, f"trials={round_ * TRIALS // ROUNDS}"))
    after = memory_mb(), descriptors(), threading.active_count()
    assert [s.code for s in said] == [0] * ROUNDS
    trials = bench.toy.trials()
    assert [t.number for t in trials] == list(range(TRIALS))
    assert {t.state for t in trials} == {State.COMPLETE}
    assert after[1:] == before[1:]
    # The records of the trials themselves take some of it: 2 KB each.
    assert after[0] - before[0] < 40, (before, after)
    bench.assert_sound()
