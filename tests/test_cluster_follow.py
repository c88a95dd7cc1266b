"""Following a job's log: nothing twice, nothing lost, whatever the connection does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import pytest

from nasctl.cluster import ClusterJob, JobGoneError, LostContactError
from nasctl.cluster_follow import Lines, exit_code, follow, reason
from tests.jobs_api import job

BROKEN = LostContactError("the connection broke")


class Log:
    """A job's log whose connections do what a script says.

    Args:
        connections: of each the pieces that come, an exception where it breaks; a number n stands
            for a silence during which the cluster is asked n times. The last one repeats.
        statuses: of the job, each time it is asked for; an exception where nobody answers. The last
            one repeats.
    """

    def __init__(
        self,
        connections: Sequence[Sequence[str | int | Exception]],
        statuses: Sequence[str | Exception],
    ) -> None:
        self._connections = list(connections)
        self._statuses = list(statuses)
        self.asked = 0
        self._waiting: Callable[[], bool] = lambda: True

    def job(self, job_id: str) -> ClusterJob:
        self.asked += 1
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if isinstance(status, Exception):
            raise status
        return job(job_id, status=status)

    async def tail(self, job_id: str) -> AsyncGenerator[str, None]:
        script = self._connections.pop(0) if len(self._connections) > 1 else self._connections[0]
        for piece in script:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, int):
                until = self.asked + piece
                while self.asked < until:
                    await asyncio.sleep(0.001)
            else:
                yield piece


def read(log: Log, *, patience_s: float = 60.0) -> tuple[str, ClusterJob]:
    pieces: list[str] = []
    end = follow(log, "a", pieces.append, patience_s=patience_s, pause_s=0.001, look_s=0.005)
    return "".join(pieces), end


def test_a_log_is_read_to_the_end_of_the_job() -> None:
    text, end = read(Log([["one\ntw", "o\n"]], ["SUCCEEDED"]))
    assert text == "one\ntwo\n"
    assert end.status == "SUCCEEDED"


def test_after_a_broken_connection_nothing_comes_twice() -> None:
    log = Log(
        [["one\nt", BROKEN], [BROKEN], ["on", "e\ntwo\n", BROKEN], ["one\ntwo\nthree\n"]],
        ["RUNNING", BROKEN, "RUNNING", "SUCCEEDED"],
    )
    assert read(log)[0] == "one\ntwo\nthree\n"


def test_a_log_that_ends_before_its_job_is_read_again() -> None:
    log = Log([["one\n"], ["one\n"], ["one\ntwo\n"]], ["RUNNING", "RUNNING", "FAILED"])
    assert read(log)[0] == "one\ntwo\n"


def test_patience_ends_when_nobody_answers() -> None:
    log = Log([["one\n", BROKEN], [BROKEN]], [BROKEN])
    with pytest.raises(LostContactError):
        read(log, patience_s=0.02)
    assert log.asked


def test_as_long_as_somebody_answers_patience_does_not_end() -> None:
    log = Log([[BROKEN]], [*["RUNNING"] * 60, "STOPPED"])
    assert read(log, patience_s=0.02) == ("", job("a", status="STOPPED"))


def test_silence_is_asked_about_and_a_dead_connection_is_noticed() -> None:
    # Nothing comes any more, and the cluster does not answer either: the connection is dead.
    log = Log([["one\n", 1000], ["one\ntwo\n"]], ["RUNNING", BROKEN, "RUNNING", "SUCCEEDED"])
    assert read(log)[0] == "one\ntwo\n"
    assert log.asked < 10, "not the end of the silence"


def test_a_silent_connection_of_a_job_that_is_over_is_left() -> None:
    log = Log([["one\n", 1000]], ["RUNNING", "FAILED"])
    assert read(log)[0] == "one\n"
    assert log.asked < 10, "not the end of the silence"


def test_a_log_that_cannot_be_read_does_not_hide_the_end() -> None:
    log = Log([["one\n", BROKEN], [BROKEN]], ["RUNNING", "FAILED"])
    text, end = read(log)
    assert (text, end.status) == ("one\n", "FAILED")


def test_a_job_that_the_cluster_forgot_is_no_connection_problem() -> None:
    with pytest.raises(JobGoneError):
        read(Log([["one\n", BROKEN]], [JobGoneError("gone")]))


def test_who_has_enough_leaves() -> None:
    log = Log([["one\n", "two\n", "three\n"]], ["RUNNING"])
    pieces: list[str] = []

    def take(text: str) -> bool:
        pieces.append(text)
        return text == "two\n"

    assert follow(log, "a", take).status == "RUNNING"
    assert pieces == ["one\n", "two\n"]


def test_lines_are_whole_and_ray_s_own_are_left_out() -> None:
    lines: list[str] = []
    one = job("a", entrypoint="exec env 'X=two\nlines' nasctl")
    cut = Lines(one, lines.append)
    for piece in ("2026 INFO -- Runtime env is", " setting up.\nRunning entrypoint for job a: ",
                  "exec env 'X=two\nlines' nasctl\nfi", "rst\n\nsecond\nrest"):  # fmt: skip
        cut.feed(piece)
    assert lines == ["first", "", "second"]
    cut.close()
    cut.close()
    assert lines == ["first", "", "second", "rest"]


def test_of_a_job_that_never_began_everything_is_shown_at_the_end() -> None:
    lines: list[str] = []
    cut = Lines(job(), lines.append)
    cut.feed("Runtime env is setting up.\nfailed")
    assert lines == []
    cut.close()
    assert lines == ["Runtime env is setting up.", "failed"]


def test_without_a_job_no_line_is_left_out() -> None:
    lines: list[str] = []
    whole = Lines(None, lines.append)
    whole.feed("Runtime env is setting up.\nfai")
    assert lines == ["Runtime env is setting up."]
    whole.feed("led")
    whole.close()
    assert lines == ["Runtime env is setting up.", "failed"]


@pytest.mark.parametrize(
    ("status", "of_process", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("STOPPED", None, 143),
        *[("FAILED", code, code) for code in (1, 2, 3, 4, 129, 130, 143)],
        ("FAILED", -15, 143),
        ("FAILED", -2, 130),
        ("FAILED", -9, 4),
        ("FAILED", 127, 4),
        ("FAILED", 0, 4),
        ("FAILED", None, 4),
    ],
)
def test_the_exit_status_is_the_job_s(status: str, of_process: int | None, expected: int) -> None:
    assert exit_code(job(status=status, exit_code=of_process)) == expected


@pytest.mark.parametrize(
    ("of_process", "message", "said"),
    [
        (127, "", "no `nasctl` on its PATH"),
        (-9, "", "signal 9"),
        (77, "", "exit status 77"),
        (None, "one\n\n  last \n", "last"),
        (None, "", "status FAILED"),
    ],
)
def test_a_job_that_said_nothing_has_a_reason(
    of_process: int | None, message: str, said: str
) -> None:
    assert said in reason(job(status="FAILED", exit_code=of_process, message=message))
