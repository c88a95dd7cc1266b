"""What a search shows while it runs, and its front in a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from nasctl.errors import ConfigError
from nasctl.progress import (
    LiveProgress,
    NoProgress,
    PlainProgress,
    Progress,
    front_picture,
    front_table,
    make_progress,
    print_front,
)
from nasctl.terminal import ansi
from nasctl.trial import Evaluation, State, Trial

from . import sample_view as sample


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def console(width: int = 80, height: int = 24, *, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None
    )


def written(c: Console) -> str:
    assert isinstance(c.file, io.StringIO)
    return c.file.getvalue()


def running(trial: Trial) -> Trial:
    return replace(trial, state=State.RUNNING, metrics={}, error=None)


def search(progress: Progress, trials: tuple[Trial, ...], *, clock: Clock | None = None) -> None:
    """The events of a search with one worker."""
    progress.phase("pricing 143 blocks")
    for done in range(4):
        progress.phase(f"measuring latency of blocks {done}/143")
    progress.started(len(trials), [])
    for trial in trials:
        progress.trial_started(running(trial))
        progress.epoch(running(trial), Evaluation(epoch=1, metrics={"accuracy": 0.5}))
        if clock:
            clock.now += 10
        progress.rejected(trial.number)
        if trial.state is State.COMPLETE:
            progress.front(trial.number + 1, 0.1 * (trial.number // 2 + 1))
        progress.trial_ended(trial)


def test_plain_has_one_line_per_phase_and_per_finished_trial() -> None:
    c, clock = console(), Clock()
    with PlainProgress(c, clock) as progress:
        search(progress, sample.trials(8)[:-1], clock=clock)
        progress.warning("MLflow does not answer")
    lines = written(c).splitlines()
    assert lines[0] == "pricing 143 blocks"
    assert lines[1] == "measuring latency of blocks 0/143"
    assert lines[2] == "searching: 7 trials"
    assert len(lines) == 3 + 7 + 1
    first = sample.trials(8)[0]
    assert lines[3].startswith(f"[1/7] COMPLETE  #0 {first.arch_id}  accuracy 0.8814  0.227 ms")
    assert "front 1+" in lines[3]
    assert "hypervolume 0.1000" in lines[3]
    assert "1 min 00 s left" in lines[3]  # six more at ten seconds each
    assert "front 2 " in lines[4] + " "  # the hypervolume did not grow
    failed = next(line for line in lines if "FAILED" in line)
    assert "the loss is not finite in epoch 2, step 41" in failed
    assert lines[-1] == "warning: MLflow does not answer"
    assert "\x1b" not in written(c)


def test_plain_counts_the_trials_of_earlier_sessions() -> None:
    c = console()
    trials = sample.trials(8)
    with PlainProgress(c, Clock()) as progress:
        progress.started(20, [*trials[:5], running(trials[5])])
        progress.trial_started(running(trials[6]))
        progress.trial_ended(trials[6])
    assert "searching: 20 trials, 5 of them finished before" in written(c)
    assert "[ 6/20] COMPLETE" in written(c)


def test_plain_lines_are_never_broken_nor_read_as_markup() -> None:
    c = console(width=40)
    trial = replace(
        sample.trials(1)[0], state=State.FAILED, metrics={}, error="bad [red]\nvalue[/red] " * 9
    )
    with PlainProgress(c, Clock()) as progress:
        progress.started(1, [])
        progress.trial_ended(trial)
    assert len(written(c).splitlines()) == 2
    assert "bad [red] value[/red] bad" in written(c)


def test_a_trial_handed_back_is_not_finished() -> None:
    c = console()
    with PlainProgress(c, Clock()) as progress:
        progress.started(3, [])
        progress.trial_started(running(sample.trials(1)[0]))
        progress.trial_ended(running(sample.trials(1)[0]))
    assert "[" not in written(c)


def shown(progress: LiveProgress, width: int = 80, height: int = 24) -> list[str]:
    c = console(width, height)
    progress._console = c
    c.print(progress.render())
    return written(c).splitlines()


def live_after(n: int, clock: Clock | None = None) -> LiveProgress:
    clock = clock or Clock()
    progress = LiveProgress(console(terminal=True), clock)
    search(progress, sample.trials(40)[:n], clock=clock)
    progress.trial_started(running(sample.trials(40)[n]))
    progress.epoch(running(sample.trials(40)[n]), Evaluation(epoch=2, metrics={"accuracy": 0.7654}))
    return progress


def test_live_shows_what_matters() -> None:
    text = "\n".join(shown(live_after(8)))
    trials = sample.trials(40)
    best = max(t.metrics["accuracy"] for t in trials[:8] if t.state is State.COMPLETE)
    for expected in (
        "8 of 8",
        f"best accuracy {best:.4f}",
        "front 7 networks",
        "hypervolume 0.4000",
        "6 complete, 1 running, 1 pruned, 1 failed, 7 rejected by cost",
        "2/5",
        "0.7654",
        trials[8].arch_id,
        "failed: the loss is not",
        "● front",
    ):
        assert expected in text, expected


def test_live_estimates_the_time_left_from_this_session() -> None:
    clock = Clock()
    progress = LiveProgress(console(terminal=True), clock)
    trials = sample.trials(20)
    progress.started(10, trials[:4])
    clock.now += 30
    progress.trial_started(running(trials[4]))
    assert "left" not in "\n".join(shown(progress))
    progress.trial_ended(trials[4])
    progress.trial_started(running(trials[5]))
    progress.epoch(running(trials[5]), Evaluation(epoch=2, metrics={}))  # 2 of 5 epochs
    clock.now += 12
    # 1.4 trials in 42 s: 30 s each; 0.6 under way and 4 to come
    assert "about 2 min 18 s left" in "\n".join(shown(progress))


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 15)])
@pytest.mark.parametrize("ended", [0, 3, 30])
def test_live_fits_the_terminal(size: tuple[int, int], ended: int) -> None:
    progress = live_after(ended)
    for number in range(31, 36):
        progress.trial_started(running(sample.trials(40)[number]))
    lines = shown(progress, *size)
    assert len(lines) <= size[1]
    assert all(len(line) <= size[0] for line in lines)


def test_live_draws_fractions_of_a_phase() -> None:
    progress = LiveProgress(console(terminal=True), Clock())
    progress.phase("measuring latency of blocks 40/143")
    assert "40 of 143" in "\n".join(shown(progress))
    progress.phase("starting [workers]")
    assert "starting [workers] ..." in "\n".join(shown(progress))


def test_live_leaves_one_line_and_a_cursor() -> None:
    c = console(terminal=True)
    progress = LiveProgress(c, Clock())

    def interrupted() -> None:
        with progress:
            progress.started(9, [])
            progress.trial_ended(sample.trials(1)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    out = written(c)
    assert out.endswith("1 of 9 trials (1 complete) in 0 s\n")
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 1


def test_modes(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(make_progress("auto", console()), PlainProgress)
    assert isinstance(make_progress("auto", console(terminal=True)), LiveProgress)
    assert isinstance(make_progress("live", console()), LiveProgress)
    assert isinstance(make_progress("plain", console(terminal=True)), PlainProgress)
    with make_progress("none") as silent:
        assert isinstance(silent, NoProgress)
        search(silent, sample.trials(4))
    assert capsys.readouterr() == ("", "")
    silent.warning("careful")
    assert capsys.readouterr() == ("", "warning: careful\n")
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        make_progress("plane")


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with make_progress("auto") as progress:
        search(progress, sample.trials(3))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("COMPLETE") == 3


def test_front_table_lists_members_cheapest_first() -> None:
    view = sample.view()
    lines = front_table(view.front).splitlines()
    assert lines[0].startswith(f"{len(view.members)} networks on the front of 33 trials")
    ids = [line.split()[0] for line in lines[4:]]
    by_latency = sorted(view.members, key=lambda m: m["metrics"]["latency_ms_measured"])
    assert ids == [m["arch_id"] for m in by_latency]
    first = by_latency[0]["metrics"]
    assert f"{first['accuracy']:.4f}" in lines[4]
    assert f"{first['latency_ms_measured']:.3f}" in lines[4]
    assert f"{first['latency_ms']:.3f}" in lines[4]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("name", ["normal", "no latency", "plugin"])
def test_nothing_is_wider_than_the_terminal(width: int, name: str) -> None:
    views = {"normal": sample.view(), "no latency": sample.view(latency=False)}
    view = views.get(name) or sample.plugin()
    table = front_table(view.front, width=width).splitlines()
    assert all(len(line) <= width for line in table[1:])
    picture = front_picture(view.front, view.trials, width=width, height=12)
    assert all(len(line) <= width for line in picture.splitlines())
    assert all(m["arch_id"] in "\n".join(table) for m in view.members)


def test_picture_places_members_above_what_they_dominate() -> None:
    view = sample.view()
    rows = front_picture(view.front, view.trials, width=80, height=16).splitlines()
    assert rows[0].strip() == "accuracy ↑"
    area = [line[line.index(line.lstrip(" 0123456789.")[0]) + 1 :] for line in rows[1:17]]
    top = next(line for line in area if line.strip())
    assert "●" in top
    assert "·" in "".join(area)
    cheapest = [line for line in area if line.strip()][-1]
    assert cheapest.index("●") == min(line.index("●") for line in area if "●" in line)
    assert rows[-2].strip() == "latency (ms)"


@pytest.mark.parametrize("log", [False, True])
def test_picture_ticks_are_round_and_in_place(log: bool) -> None:
    view = sample.view(latency=not log)  # parameters span a factor of 25
    rows = front_picture(view.front, view.trials, width=80, height=16).splitlines()
    assert rows[-2].strip() == ("parameters (log)" if log else "latency (ms)")
    labels = rows[-3].split("  ")
    found = [t.strip() for t in labels if t.strip()]
    assert found == (["2 k", "5 k", "10 k", "20 k"] if log else ["0.2", "0.4", "0.6"])
    left = [m[1] for m in (re.match(r"\s*([\d.]+) ┤", row) for row in rows) if m]
    assert len({len(t) for t in left}) == 1


def test_pictures_of_little() -> None:
    empty = sample.empty()
    assert front_picture(empty.front, empty.trials) == ""
    assert front_table(empty.front) == "0 networks on the front of 0 trials, hypervolume 0"
    one = sample.view(1)
    assert front_picture(one.front, one.trials).count("●") == 2  # the network and the key


class Terminal(io.TextIOWrapper):
    def __init__(self, *, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode(self.encoding)


@pytest.fixture
def _eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("_eighty")
def test_print_front_colours_terminals_only() -> None:
    view = sample.view()
    file = Terminal(tty=True)
    print_front(view.front, view.trials, file)
    assert ansi("●", "front") in file.text()
    plain = Terminal(tty=False)
    print_front(view.front, view.trials, plain)
    assert "\x1b" not in plain.text()
    assert re.sub(r"\x1b\[[\d;]*m", "", file.text()) == plain.text()


@pytest.mark.usefixtures("_eighty")
def test_print_front_respects_no_color_and_narrow_encodings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = sample.view()
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal(tty=True, encoding="ascii")
    print_front(view.front, view.trials, file)
    assert "* on the front   . dominated" in file.text()
    assert "\x1b" not in file.text()
    assert "?" not in file.text()
    assert all(len(line) <= 80 for line in file.text().splitlines())
