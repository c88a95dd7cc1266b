"""Layer 2: timing many small things against each other on a machine that will not hold still.

Everything is timed in *interleaved rounds*: each round visits every item once, in a new random
order, for a few calls, and a fixed reference network (the canary) every few items. Speed changes
of the machine (40 % between two passes were seen) then hit all items alike and cancel:

1. An observation is the fastest call of a visit: what disturbs a call only ever adds time. A
   timer makes an untimed call first, since the previous item left the caches cold.
2. The session is one time series `v_s = t_item(s) x d_s`: a quantity per item times the speed of
   the moment. `d` starts as the canary's, then both are refined in turn (median polish): `d_s` is
   the median of `v / t` over the neighbouring observations in time, `t` the median of `v / d` over
   an item's rounds. So every item serves as a canary for its neighbours, which is far less noisy
   than the canary alone; and with the drift gone, the median over rounds is better than a low
   quantile, which then only picks lucky moments.
3. The canary's own `t` ties the result to a fixed scale: values are in *canaries*, and become
   milliseconds by the stored reference time of the canary.

Held-out median errors that led here (160 networks of the packaged space, two busy cores, the same
40 rounds throughout): 2.2 % as above, 2.7 % with the lower quartile over rounds, 3.5 % with the
median call of a visit.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasctl.latency_settings import Timer, Timing

Array = NDArray[np.float64]

DRIFT_WINDOW = 31  # neighbouring observations; 15 to 121 gave the same accuracy
POLISH_STEPS = 6
CANARY_QUANTILE = 0.25  # of its raw times: the undisturbed machine, without its lucky moments


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """How long to go on.

    Args:
        calls: consecutive calls per visit.
        most: rounds at most.
        least: rounds before precision or budget may end it.
        precision: stop when 95 % of the items know their median to this relative standard error.
        budget_s: stop when this much time has passed.
        canary_every: items between two visits to the canary.
    """

    calls: int
    most: int
    least: int
    precision: float
    budget_s: float
    canary_every: int = 8


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The outcome of interleaved rounds over n items; times are in canaries, drift-corrected.

    Attributes:
        ratio: per item, the median over `rounds`.
        rounds: per item, the fastest call of every round.
        calls: per item, every single call, without the slowdown common to all items.
        p90: per item, the device's own p90 over rounds (median), None where it gave none.
        canary_ms: the canary's raw time in this session (a low quantile), the scale's origin.
        drift: raw speed of every visit relative to `canary_ms` (1.2: 20 % slower).
    """

    ratio: tuple[float, ...]
    rounds: tuple[tuple[float, ...], ...]
    calls: tuple[tuple[float, ...], ...]
    p90: tuple[float | None, ...]
    canary_ms: float
    drift: tuple[float, ...]


def measure_rounds(
    timers: Sequence[Timer],
    canary: Timer,
    plan: RoundPlan,
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, int], None] | None = None,
) -> Rounds:
    """Times all `timers` in interleaved rounds; see the module's docstring.

    Args:
        timers: the items, warm-up is done here.
        canary: the reference network.
        plan: when to stop.
        seed: of the order within each round.
        clock: seconds, for the budget only.
        progress: called with (finished rounds, planned rounds).
    """
    items: list[int] = []
    timings: list[Timing] = []
    reference = len(timers)

    def visit(item: int) -> None:
        timer = canary if item == reference else timers[item]
        timings.append(timer(plan.calls))
        items.append(item)

    check = plan.least
    if plan.most > 1:  # a single round is a device that warms up by itself
        for timer in (canary, *timers):
            timer(2)
    order = list(range(reference))
    start = clock()
    # A collection in the midst of a visit would be charged to whatever is being timed.
    enabled = gc.isenabled()
    gc.disable()
    try:
        for done in range(1, plan.most + 1):
            random.Random(f"{seed}/{done}").shuffle(order)
            for position, item in enumerate(order):
                if position % plan.canary_every == 0:
                    visit(reference)
                visit(item)
            visit(reference)
            if progress is not None:
                progress(done, plan.most)
            if done >= plan.least and clock() - start > plan.budget_s:
                break
            if done == check:
                check += max(1, check // 2)  # seldom: the check takes as long as some rounds
                if _is_precise(items, timings, reference, plan.precision):
                    break
    finally:
        if enabled:
            gc.enable()
    return _normalise(items, timings, reference)


def _normalise(items: list[int], timings: list[Timing], reference: int) -> Rounds:
    ids = np.asarray(items)
    values = np.asarray([min(t.calls_ms) for t in timings])
    level, drift = polish(ids, values, reference)
    level, drift = level / level[reference], drift * level[reference]
    rounds: list[list[float]] = [[] for _ in range(reference + 1)]
    calls: list[list[float]] = [[] for _ in range(reference + 1)]
    tails: list[list[float]] = [[] for _ in range(reference + 1)]
    for item, timing, speed in zip(items, timings, drift, strict=True):
        corrected = [ms / float(speed) for ms in timing.calls_ms]
        rounds[item].append(min(corrected))
        calls[item].extend(corrected)
        if timing.p90_ms is not None:
            tails[item].append(timing.p90_ms / float(speed))
    # By how much a middling call is slower than the fastest of a visit says how busy the machine
    # is, not how slow a network is. It is taken from all items: the canary alone can flip between
    # two modes, which moved whole sessions by 10 %.
    common = statistics.median(
        statistics.median(c) / float(v) for c, v in zip(calls, level, strict=True)
    )
    canary_ms = float(np.quantile(values[ids == reference], CANARY_QUANTILE))
    return Rounds(
        ratio=tuple(float(v) for v in level[:reference]),
        rounds=tuple(tuple(values) for values in rounds[:reference]),
        calls=tuple(tuple(v / common for v in values) for values in calls[:reference]),
        p90=tuple(statistics.median(v) if v else None for v in tails[:reference]),
        canary_ms=canary_ms,
        drift=tuple(float(v) / canary_ms for v in drift),
    )


def polish(ids: NDArray[np.int_], values: Array, reference: int) -> tuple[Array, Array]:
    """Splits a time series of visits into a level per item and the speed of the moment.

    Args:
        ids: the item of each visit in time order; `reference` is the canary (and the largest id).
        values: the time of each visit.
        reference: the id of the canary.

    Returns:
        `level` (reference + 1,) and `drift` (len(ids),) with values ~ level[ids] x drift.
    """
    time_axis = np.arange(len(ids))
    seen = ids == reference
    drift = _running_median(np.interp(time_axis, time_axis[seen], values[seen]), 5)
    members = [np.flatnonzero(ids == item) for item in range(reference + 1)]
    level = np.asarray([np.median(values[m] / drift[m]) for m in members])
    if len(members[0]) < 3:  # an item seen once or twice says nothing about the drift
        return level, drift
    for _ in range(POLISH_STEPS):
        drift = _running_median(values / level[ids], DRIFT_WINDOW)
        level = np.asarray([np.median(values[m] / drift[m]) for m in members])
    return level, drift


def _running_median(values: Array, window: int) -> Array:
    window = min(window, len(values) - (len(values) + 1) % 2)  # odd, and no longer than the series
    padded = np.pad(values, window // 2, mode="reflect") if window > 1 else values
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1))


def _is_precise(items: list[int], timings: list[Timing], reference: int, precision: float) -> bool:
    """Whether 95 % of the items have 1.2533 x 1.4826 MAD / sqrt(n) (median's s.e.) below it."""
    rounds = _normalise(items, timings, reference).rounds
    errors = []
    for values in rounds:
        v = np.asarray(values)
        middle = float(np.median(v))
        spread = 1.4826 * float(np.median(np.abs(v - middle)))
        errors.append(1.2533 * spread / middle / np.sqrt(len(v)))
    return bool(np.quantile(errors, 0.95) < precision) if errors else True
