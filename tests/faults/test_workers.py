"""What happens to a worker costs its trial, and nothing else: F1, F2, F12, F15, and P6."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasctl.trial import State, Trial
from tests.faults.drive import SEARCH, TOY, Bench, Said, states


@pytest.fixture(scope="module")
def accidents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Said]:
    """One search with one kind of accident for each of its five networks."""
    folder = tmp_path_factory.mktemp("accidents")
    bench = Bench(folder, folder)
    bench.write("toy.yaml", TOY)
    said = bench.call(
        *SEARCH, "evaluator=accidents", "space.options.size=5", "constraints.params=10",
        "executor.timeout_s=5", "executor.workers=2",
    )  # fmt: skip
    return bench, said


def trial(bench: Bench, depth: int) -> Trial:
    (found,) = [t for t in bench.toy.trials() if t.choices["depth"] == depth]
    return found


def test_the_search_ends_well(accidents: tuple[Bench, Said]) -> None:
    bench, said = accidents
    assert said.code == 0, said.err
    assert states(bench) == {"COMPLETE": 2, "FAILED": 3, "REJECTED": 20}
    assert trial(bench, 0).attempts == 1
    bench.assert_sound(seconds=15)


def test_f1_a_killed_worker_is_replaced_and_its_trial_done_again(
    accidents: tuple[Bench, Said],
) -> None:
    bench, _ = accidents
    killed = trial(bench, 1)
    assert (killed.state, killed.attempts) == (State.COMPLETE, 2)
    assert Path(bench.folder, "killed 0").exists()


def test_f2_a_worker_that_always_dies_fails_after_its_retries(
    accidents: tuple[Bench, Said],
) -> None:
    dead = trial(accidents[0], 2)
    assert (dead.state, dead.attempts) == (State.FAILED, 2)
    assert dead.error == "its worker died 2 times: the worker process died"


def test_f15_a_hanging_trial_is_ended(accidents: tuple[Bench, Said]) -> None:
    hung = trial(accidents[0], 3)
    assert (hung.state, hung.attempts) == (State.FAILED, 1)
    assert hung.error == "timed out after 5 s"


def test_f12_out_of_memory_fails_once_with_its_name(accidents: tuple[Bench, Said]) -> None:
    full = trial(accidents[0], 4)
    assert (full.state, full.attempts) == (State.FAILED, 1)
    assert full.error == "out of memory"


def test_f2_too_many_failures_in_a_row_end_the_search_with_3(bench: Bench) -> None:
    said = bench.call(
        *SEARCH, "evaluator=deadly", "executor.workers=1", "executor.retries=0",
        "search.max_failures=2",
    )  # fmt: skip
    assert said.code == 3
    assert said.error == (
        "Error: 2 trials in a row failed; the last one: its worker died: the worker process died"
    )
    assert states(bench) == {"FAILED": 2}
    assert bench.assert_sound(seconds=15).status == "FAILED"
