"""The rule of successive halving, with numbers that can be checked by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nasctl import fidelity, rungs
from nasctl.fidelity import HalvingSettings
from nasctl.rungs import Past, Predictor, Verdict

SETTINGS = HalvingSettings()
ANYTHING = (-math.inf, (math.inf,))


def past(
    value: float, final: float | None, cost: float = 1.0, *, name: str = "", weight: float = 1.0
) -> Past:
    network = name or f"{value} {cost}"
    return Past(network=network, costs=(cost,), rungs={3: value}, final=final, weight=weight)


def judge(known: Iterable[Past], value: float, cost: float, **settings: object) -> Verdict:
    return rungs.judge(
        list(known),
        rung=3,
        value=value,
        costs=(cost,),
        reference=ANYTHING,
        settings=HalvingSettings(**settings),  # type: ignore[arg-type]
    )


def steady(n: int = 12, cost: float = 1.0) -> list[Past]:
    """Finals are a bit more than a unit above the rung."""
    return [past(i / 10, 1.0 + i / 10 + 0.01 * (-1) ** i, cost) for i in range(n)]


# Rungs and controls


def test_rungs_are_geometric_below_the_top() -> None:
    assert fidelity.rung_epochs(1, 3, 27) == (1, 3, 9)
    assert fidelity.rung_epochs(2, 2, 9) == (2, 4, 8)
    assert fidelity.rung_epochs(3, 3, 3) == ()


def test_a_rung_whose_cooldown_costs_more_than_a_stop_saves_is_left_out() -> None:
    assert fidelity.rung_epochs(1, 3, 30) == (1, 3, 9, 27)
    assert fidelity.rung_epochs(1, 3, 30, 0.3) == (1, 3, 9)
    assert fidelity.rung_epochs(1, 3, 52, 0.3) == (1, 3, 9, 27)
    assert fidelity.rung_epochs(1, 3, 4, 0.3) == (1,)


def test_expected_epochs() -> None:
    settings = HalvingSettings(cooldown=0.5)
    # 1 epoch and half a one; a third of the trials 2 and 1.5; a ninth the other 6.
    assert fidelity.expected_epochs((1, 3), 9, settings) == pytest.approx(1.5 + 3.5 / 3 + 6 / 9)
    assert fidelity.expected_epochs((), 9, settings) == 9


def test_exactly_one_in_ten_is_a_control_and_the_seed_says_which() -> None:
    for seed in range(5):
        controls = [n for n in range(200) if rungs.is_control(seed, n, 10)]
        assert [n // 10 for n in controls] == list(range(20))
        assert len({n % 10 for n in controls}) > 3
    assert not any(rungs.is_control(0, n, 0) for n in range(50))
    assert all(rungs.is_control(0, n, 1) for n in range(50))


# Prediction


def test_many_pairs_recover_a_line_with_its_spread() -> None:
    rng = random.Random(0)
    known = []
    for i in range(400):
        value, cost = rng.uniform(0, 2), math.exp(rng.uniform(0, 5))
        final = 0.7 + 1.2 * value + 0.1 * math.log(cost) + rng.gauss(0, 0.05)
        known.append(past(value, final, cost, name=str(i)))
    model = Predictor.fit(known, 3)
    for value, cost in ((0.5, 2.0), (1.5, 100.0)):
        location, scale = model.predict(value, (cost,))
        assert location == pytest.approx(0.7 + 1.2 * value + 0.1 * math.log(cost), abs=0.02)
        assert scale == pytest.approx(0.05, rel=0.15)


def test_few_pairs_are_shrunk_to_the_common_gain() -> None:
    """Three pairs with a slope of 3 in the gain: the prior halves it, and the scale is wide."""
    known = [past(v, 1.0 + v + g) for v, g in ((0.0, 0.0), (1.0, 3.0), (2.0, 6.0))]
    model = Predictor.fit(known, 3)
    location, scale = model.predict(1.0, (1.0,))
    assert location == pytest.approx(1.0 + 1.0 + 3.0, abs=1e-9)
    outer, _ = model.predict(2.0, (1.0,))
    assert 1.0 + 2.0 + 3.0 < outer < 1.0 + 2.0 + 6.0
    assert scale > 0.5
    assert model.freedom == 2


def test_prediction_is_calibrated_with_few_pairs() -> None:
    """Of statements with probability p, a part p comes true, also from six pairs."""
    rng = np.random.default_rng(3)
    said, came = [], []
    for _ in range(400):
        slope, gain = rng.normal(1, 0.3), rng.normal(1, 0.5)
        values = rng.normal(0, 1, 7)
        finals = gain + slope * values + rng.normal(0, 0.4, 7)
        known = [
            past(v, f, name=str(i)) for i, (v, f) in enumerate(zip(values, finals, strict=True))
        ]
        model = Predictor.fit(known[:6], 3)
        bar = gain + slope * values[6] + rng.normal(0, 1)
        said.append(model.exceeds(bar, values[6], (1.0,)))
        came.append(finals[6] > bar)
    said_array, came_array = np.array(said), np.array(came)
    low, high = said_array < 0.05, said_array > 0.95
    assert low.sum() > 20
    assert came_array[low].mean() < 0.09
    assert came_array[high].mean() > 0.91


def test_a_collapsed_training_does_not_turn_the_line() -> None:
    clean = Predictor.fit(steady(), 3)
    spoiled = Predictor.fit([*steady(), past(0.6, 0.0, name="collapsed")], 3)
    before, _ = clean.predict(0.9, (1.0,))
    after, _ = spoiled.predict(0.9, (1.0,))
    assert after == pytest.approx(before, abs=0.08)


def test_probability_is_students_t() -> None:
    model = Predictor.fit(steady(), 3)
    location, scale = model.predict(0.5, (1.0,))
    expected = scipy_stats.t.sf(1.52, df=11, loc=location, scale=scale)
    assert model.exceeds(1.52, 0.5, (1.0,)) == pytest.approx(expected)


def test_accuracies_are_compared_as_log_errors() -> None:
    assert rungs.scaled(0.9, "accuracy") == pytest.approx(math.log(10))
    assert rungs.scaled(1.0, "accuracy") == rungs.scaled(0.9999, "accuracy")
    assert rungs.scaled(0.9, "loss") == 0.9


# Joining the front


def test_it_has_to_beat_only_what_costs_no_more() -> None:
    model = Predictor.fit(steady(), 3)
    known = [past(0.5, 5.0, cost=10.0)]

    def probability(cost: float) -> float:
        return rungs.joining_probability(model, known, 0.5, (cost,), ANYTHING)

    assert probability(9.0) == 1.0
    assert probability(10.0) < 1e-6


def test_repeated_seeds_count_with_their_mean() -> None:
    model = Predictor.fit(steady(), 3)
    lucky = [past(0.5, 1.9, name="a"), past(0.5, 1.1, name="a")]
    assert rungs.joining_probability(model, lucky, 0.5, (1.0,), ANYTHING) == pytest.approx(
        0.5, abs=0.2
    )
    alone = rungs.joining_probability(model, lucky[:1], 0.5, (1.0,), ANYTHING)
    assert alone < 1e-4


def test_nothing_joins_beyond_the_reference_point() -> None:
    model = Predictor.fit(steady(), 3)
    assert rungs.joining_probability(model, [], 0.5, (3.0,), (0.0, (2.9,))) == 0
    assert rungs.joining_probability(model, [], 0.5, (3.0,), (0.0, (3.0,))) > 0.99
    assert rungs.joining_probability(model, [], 0.5, (3.0,), (9.0, (3.0,))) < 1e-6


# The verdict


def test_nothing_is_stopped_before_there_are_pairs() -> None:
    verdict = judge(steady(5), -9.0, 100.0, min_pairs=6)
    assert (verdict.pairs, verdict.probability, verdict.survives) == (5, None, None)
    assert not verdict.stops(0.05)
    assert judge(steady(6), -9.0, 100.0, min_pairs=6).stops(0.05)


def test_the_hopeless_stop_and_the_good_go_on() -> None:
    known = steady()
    assert judge(known, -0.5, 1.0).stops(0.05)
    assert not judge(known, 1.5, 1.0).stops(0.05)
    assert judge(known, 1.5, 1.0).probability == pytest.approx(1.0, abs=1e-3)


def test_a_survivor_of_the_ranking_goes_on_whatever_is_predicted() -> None:
    """Best so far at this rung, though networks that were stopped have shown nothing better."""
    finished = [past(-1 - i / 10, 3.0 + i / 100, name=str(i)) for i in range(8)]
    verdict = judge(finished, 0.5, 1.0, p_stop=0.9999)
    assert verdict.survives is True
    assert not verdict.stops(0.9999)


def test_crossing_curves_an_expensive_slow_starter_goes_on() -> None:
    """Networks of cost 100 are behind at the rung and ahead at the end: the cost says so."""
    cheap = [past(1.0 + i / 100, 1.5 + i / 100, 1.0, name=f"c{i}") for i in range(8)]
    large = [past(0.5 + i / 100, 2.5 + i / 100, 100.0, name=f"l{i}") for i in range(8)]
    verdict = judge([*cheap, *large], 0.56, 90.0)
    assert verdict.probability is not None
    assert verdict.probability > 0.5
    # A rule of dominance alone would have stopped it: eight cheaper ones are better at the rung.
    assert all(c.rungs[3] > 0.56 and c.costs[0] < 90 for c in cheap)


def test_a_cheap_network_that_nothing_dominates_stops_if_it_cannot_reach_the_reference() -> None:
    known = steady(cost=10.0)
    cheapest = {"value": -3.0, "costs": (1.0,)}
    kept = rungs.judge(known, rung=3, **cheapest, reference=ANYTHING, settings=SETTINGS)  # type: ignore[arg-type]
    assert not kept.stops(0.05)
    assert kept.probability == 1.0, "nothing costs as little"
    hopeless = rungs.judge(known, rung=3, **cheapest, reference=(1.0, (50.0,)), settings=SETTINGS)  # type: ignore[arg-type]
    assert hopeless.survives is False
    assert hopeless.stops(0.05)


def test_only_the_same_rung_counts() -> None:
    other = [Past(network=str(i), costs=(1.0,), rungs={9: 1.0}, final=2.0) for i in range(20)]
    verdict = judge([*steady(8), *other], -0.5, 1.0)
    assert (verdict.cohort, verdict.pairs) == (9, 8)


def test_the_order_of_the_past_does_not_matter() -> None:
    known = [past(v, f, c, name=str(i)) for i, (v, f, c) in enumerate(
        zip(np.random.default_rng(0).normal(size=15), np.random.default_rng(1).normal(size=15),
            range(1, 16), strict=True))]  # fmt: skip
    known += [past(0.1 * i, None, float(i + 1), name=f"s{i}") for i in range(10)]
    want = judge(known, -0.2, 7.5)
    for seed in range(5):
        mixed = list(known)
        random.Random(seed).shuffle(mixed)
        got = judge(mixed, -0.2, 7.5)
        assert (got.cohort, got.pairs, got.survives) == (want.cohort, want.pairs, want.survives)
        assert got.probability == pytest.approx(want.probability, rel=1e-9)


# The surviving part


def test_survivors_come_by_rank() -> None:
    rivals = [
        (5.0, (5.0,)),
        (4.0, (6.0,)),
        (3.0, (3.0,)),
        (2.0, (4.0,)),
        (1.0, (1.0,)),
        (0.0, (9.0,)),
    ]
    # Ranks: 0, 1, 0, 1, 0, 2.
    assert rungs.survivors(rivals, [False] * 6, 2) == {0, 2, 4}
    assert rungs.survivors(rivals, [False] * 6, 6) == {0}
    assert rungs.survivors(rivals, [True, *[False] * 5], 2) == {1, 2, 4}, "the hopeless come last"


def test_of_a_rank_that_does_not_fit_the_spread_is_kept() -> None:
    rivals = [(float(i), (float(i),)) for i in range(9)]
    assert rungs.survivors(rivals, [False] * 9, 3) == {8, 0, 4}


def test_epsilon_net_has_no_units() -> None:
    points = np.array([[-1.0, 1e6], [-2.0, 2e6], [-3.0, 9e6], [-4.0, 9.1e6]])
    small = points * [1.0, 1e-9]
    assert rungs.epsilon_net(points) == rungs.epsilon_net(small) == [3, 0, 1, 2]


# Correlation


def test_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20).round(1)  # ties
    finals = values + rng.normal(size=20)
    known = [past(v, f, name=str(i)) for i, (v, f) in enumerate(zip(values, finals, strict=True))]
    found = rungs.correlation([*known, past(3.0, None)], 3)
    assert found.value == pytest.approx(scipy_stats.spearmanr(values, finals).statistic)
    assert (found.pairs, found.effective) == (20, pytest.approx(20))


def test_weights_undo_what_stopping_hides() -> None:
    """Of the bad half one in ten ends: as it is, the correlation is that of the good half."""
    rng = np.random.default_rng(1)
    estimates, plain, whole = [], [], []
    for _ in range(60):
        values = rng.normal(size=300)
        finals = values + rng.normal(0, 0.7, size=300)
        control = rng.random(300) < 0.1
        known = [
            past(v, f, weight=1.0 if v > 0 else 10.0, name=str(i))
            for i, (v, f) in enumerate(zip(values, finals, strict=True))
            if v > 0 or control[i]
        ]
        bare = [past(p.rungs[3], p.final, name=p.network) for p in known]
        estimates.append(rungs.correlation(known, 3).value)
        plain.append(rungs.correlation(bare, 3).value)
        whole.append(scipy_stats.spearmanr(values, finals).statistic)
    assert np.mean(estimates) == pytest.approx(np.mean(whole), abs=0.03)  # type: ignore[arg-type]
    assert np.mean(plain) < np.mean(whole) - 0.05  # type: ignore[arg-type]


def test_a_correlation_is_low_only_with_confidence() -> None:
    def low(value: float, effective: float) -> bool:
        found = rungs.Correlation(rung=1, pairs=99, effective=effective, value=value)
        return found.is_below(0.5)

    assert not low(0.4, 10)
    assert low(0.4, 100)
    assert low(0.1, 10)
    assert not low(-1.0, 4)
    assert not rungs.Correlation(rung=1, pairs=9, effective=9, value=None).is_below(0.5)


def test_left_out_predictions_are_those_of_the_others() -> None:
    rng = np.random.default_rng(5)
    values, costs = rng.normal(size=30), np.exp(rng.normal(size=30))
    finals = 1 + values + 0.3 * np.log(costs) + rng.normal(0, 0.1, 30)
    known = [past(v, f, c, name=str(i)) for i, (v, f, c) in
             enumerate(zip(values, finals, costs, strict=True))]  # fmt: skip
    left_out = Predictor.fit(known, 3).left_out
    for i in (0, 7, 29):
        others = Predictor.fit([*known[:i], *known[i + 1 :]], 3)
        assert left_out[i] == pytest.approx(others.predict(values[i], (costs[i],))[0], abs=0.02)


def test_slow_learners_turn_the_ranks_around_but_not_the_predictions() -> None:
    """Large networks are behind at the rung and ahead at the end."""
    rng = np.random.default_rng(2)
    logs = rng.uniform(0, 3, 40)
    quality = rng.normal(0, 0.2, 40)
    known = [past(quality[i] - logs[i], quality[i] + logs[i], math.exp(logs[i]), name=str(i))
             for i in range(40)]  # fmt: skip
    assert rungs.correlation(known, 3).is_below(0.5)
    assert rungs.correlation(known, 3, predicted=True).value == pytest.approx(1.0, abs=0.02)


def test_constant_values_have_no_correlation() -> None:
    assert rungs.correlation([past(1.0, float(i)) for i in range(9)], 3).value is None
    assert rungs.correlation([], 3) == rungs.Correlation(rung=3, pairs=0, effective=0.0, value=None)
