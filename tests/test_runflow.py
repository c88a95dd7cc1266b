"""How a run of trainings ends, whatever ends it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasctl.errors import InterruptedSearchError, NothingFeasibleError
from nasctl.interrupt import StopRequest
from nasctl.records import RunRecords
from nasctl.rundir import open_run
from nasctl.runflow import carry_out


class Untracked:
    def start(self) -> None: ...

    def poke(self) -> None: ...

    def paused(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self, flush_seconds: float) -> bool:
        return False


def carry(
    directory: Path,
    error: Exception | None,
    signal: int,
    warn: Callable[[str], None] = print,
    *,
    stop: StopRequest | None = None,
    tracking: Untracked | None = None,
) -> None:
    """A run whose work ends so, after a signal (0: there was none)."""
    stop = stop or StopRequest()

    def work(tracking: object) -> None:
        stop.exit_code = signal
        if error is not None:
            raise error

    request: Any = SimpleNamespace(
        display=SimpleNamespace(phase=print, warning=warn),
        track=lambda _: tracking or Untracked(),
        command="nasctl search x",
    )
    with open_run(
        directory,
        config={},
        config_text="",
        meta={},
        block_types={},
        differences=lambda old, new: [],
        fresh=False,
    ) as run:
        carry_out(request, run, stop, work=work, write=print, publish=print, flush_s=0.0)


def test_a_signal_within_an_import_is_an_interrupt(tmp_path: Path) -> None:
    error = ImportError("initialization failed")
    with pytest.raises(InterruptedSearchError, match="To continue: nasctl search x") as caught:
        carry(tmp_path / "a", error, 143)
    assert caught.value.exit_code == 143
    assert RunRecords(tmp_path / "a").status == "INTERRUPTED"
    with pytest.raises(ImportError):
        carry(tmp_path / "b", error, 0)


def test_a_signal_while_the_rest_is_sent_leaves_a_finished_run(tmp_path: Path) -> None:
    stop = StopRequest()

    class Slow(Untracked):
        def close(self, flush_seconds: float) -> bool:
            stop.handle(signal.SIGTERM, None)
            raise AssertionError("unreachable")

    with pytest.raises(InterruptedSearchError) as caught:
        carry(tmp_path / "a", None, 0, stop=stop, tracking=Slow())
    assert caught.value.exit_code == 143
    rest = f"for MLflow: nasctl sync {tmp_path / 'a'}"
    assert str(caught.value) == f"stopped; there was nothing left to do; {rest}"
    assert RunRecords(tmp_path / "a").status == "FINISHED"


def test_where_nothing_was_trained_the_tracking_store_lacks_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(NothingFeasibleError, match="no candidate"):
        carry(tmp_path / "a", NothingFeasibleError("no candidate"), 0, told.append)
    assert told == []


@pytest.mark.parametrize(("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_sigterm_changes_nothing(first: signal.Signals, code: int) -> None:
    calls: list[str] = []
    stop = StopRequest(lambda: calls.append("said"))
    stop.on_stop(lambda: calls.append("stop"))
    stop.handle(first, None)
    stop.handle(signal.SIGTERM, None)
    stop.on_stop(None)  # training is over, what is left is being written
    stop.handle(signal.SIGTERM, None)
    assert (stop.exit_code, calls) == (code, ["said", "stop"])


def test_what_is_held_comes_to_its_end() -> None:
    stop = StopRequest()
    with stop.held():
        stop.handle(signal.SIGINT, None)
        assert stop.exit_code == 130
    fresh = StopRequest()
    with fresh.held():
        pass
    with pytest.raises(KeyboardInterrupt):
        fresh.handle(signal.SIGTERM, None)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>"),
        BrokenPipeError(),
        ValueError("I/O operation on closed file"),
    ],
)
def test_a_signal_that_nobody_can_be_told_of_stops_all_the_same(error: Exception) -> None:
    def say() -> None:
        raise error

    stop = StopRequest(say)
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)
