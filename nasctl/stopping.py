"""Layer 3: `stop.marginal_gain`, the end of a search that brings too little.

What counts is the expected gain of the next training, as a fraction of the present hypervolume:

    (G + g) / ((w + 1) H),

H the hypervolume, G what the last w trainings added to it and g the largest gain of a single one of
the last 2 w: the mean over the last w, had one more gain of that size come with them. A front grows
in rare jumps, so w trainings without any say little; with g the rule believes a streak only if it
is long against what came before it. Nothing is stopped before 2 w trainings are told.

The unit is the training and not the hour: the rule is then a function of the told history, in the
order in which the sampler hears it, and a search ends after the same trial on every executor, with
any timing and after any crash. Failed and stopped trainings count as trainings that gained nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from nasctl.front import FrontSoFar
from nasctl.ledger import Ledger
from nasctl.stop_settings import StopSettings
from nasctl.trial import Objectives, Trial


class MarginalGain:
    """See the module; is told of trials in the order in which the sampler is.

    Args:
        settings: of the rule.
        objectives: metric to direction.
        reference_point: of the hypervolume.
        since: trials with smaller numbers are no evidence: the user asked for more after them.
        decided: what it came to before, with the same settings and trials; that stands.
    """

    def __init__(
        self,
        settings: StopSettings,
        *,
        objectives: Objectives,
        reference_point: Mapping[str, float],
        since: int = 0,
        decided: dict[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.decided = decided
        self._front = FrontSoFar(objectives, reference_point)
        self._since = since
        self._gains: list[float] = []

    def tell(self, trial: Trial) -> None:
        """Counts a trial that has ended."""
        before = self._front.hypervolume
        self._front.add(trial)
        if trial.number >= self._since:
            self._gains.append(self._front.hypervolume - before)

    @property
    def expected(self) -> float | None:
        """The expected gain of the next training; None: too few are told, or nothing to compare
        with."""
        window, present = self.settings.window, self._front.hypervolume
        if len(self._gains) < 2 * window or present <= 0:
            return None
        recent = self._gains[-2 * window :]
        # Below 0 where a repeat corrected a lucky value: that is no loss of the search.
        gained = max(0.0, sum(recent[window:])) + max(0.0, *recent)
        return gained / ((window + 1) * present)

    @property
    def is_enough(self) -> bool:
        """Whether the search is to end."""
        expected = self.expected
        return expected is not None and expected < self.settings.marginal_gain


def stopped_json(rule: MarginalGain, *, after: int, of: int) -> dict[str, Any]:
    """What the ledger keeps of an early end, and `front.json` shows under `stopped`: `after` trials
    `of` so many, the `expected_gain` and the settings."""
    return {"after": after, "of": of, "expected_gain": rule.expected, **asdict(rule.settings)}


def stopped_line(stopped: Mapping[str, Any] | None) -> str:
    """The same in a sentence; nothing where the search was not stopped."""
    if not stopped:
        return ""
    return (
        f"stopped after {stopped['after']:,} of {stopped['of']:,} trials: another is expected to "
        f"add {stopped['expected_gain']:.2g} of the hypervolume, less than "
        f"stop.marginal_gain={stopped['marginal_gain']:g}"
    )


def continued(
    settings: StopSettings | None,
    ledger: Ledger,
    *,
    objectives: Objectives,
    trials: int,
) -> MarginalGain | None:
    """The rule of a run that begins or goes on; None: it is off.

    Where the run was stopped and more trials are asked for now, the rule looks at new ones only;
    the ledger keeps from which on, so that what follows is again a function of what it holds.

    Args:
        settings: as configured now.
        ledger: of the run, with its reference point.
        objectives: metric to direction.
        trials: as configured now.
    """
    stopped = ledger.meta("stopped")
    # Results that were on their way when it decided change nothing about that.
    stands = stopped is not None and stopped["of"] == trials and _settings_of(stopped) == settings
    if stopped is not None and not stands:
        since = {"stop_since": len(ledger.trials())} if trials > stopped["of"] else {}
        ledger.set_meta(stopped=None, **since)
    if settings is None:
        return None
    return MarginalGain(
        settings,
        objectives=objectives,
        reference_point=ledger.meta("reference_point"),
        since=ledger.meta("stop_since", 0),
        decided=stopped if stands else None,
    )


def _settings_of(stopped: Mapping[str, Any]) -> StopSettings:
    return StopSettings(**{f.name: stopped[f.name] for f in fields(StopSettings)})
