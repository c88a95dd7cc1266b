"""Which trainings a study has: rates first, then seed by seed, and no more than are needed."""

from __future__ import annotations

import random
from collections import Counter

from nasctl.ablation.analysis import analyse, chosen_rates
from nasctl.ablation.arms import BASELINE, POSITIVE, SAME
from nasctl.ablation.plan import Planned, StudyPlan, deadline
from nasctl.ablation.study import SAME_SEEDS, TUNING_SEEDS, Rates, Study
from nasctl.trial import State, Trial
from tests.ablation_study import arm, difference, make_study, play

BASE, BETTER, LIKE = arm(BASELINE, "baseline"), arm("better"), arm("like")
CLEAR = difference("better", BASELINE)
OPEN = difference("like", BASELINE)


def values(row: Planned, *, effects: dict[str, float], noise: float = 0.004) -> float:
    own = random.Random(f"{row.arm.name}{row.seed}").gauss(0, noise)
    return 0.8 + effects.get(row.arm.name, 0.0) + own


def study_of_two(**changes: object) -> Study:
    return make_study(CLEAR, OPEN, arms=(BASE, BETTER, LIKE), **changes)  # type: ignore[arg-type]


def seeds_of(trials: list[Trial]) -> Counter[str]:
    return Counter(str(t.choices["arm"]) for t in trials if t.choices["purpose"] == "verdict")


def test_arms_share_seeds_and_come_seed_by_seed() -> None:
    trials = play(study_of_two(last=3), lambda row: values(row, effects={}))
    assert [(t.choices["arm"], t.seed, t.choices["replicate"]) for t in trials] == [
        (name, r, r) for r in range(3) for name in (BASELINE, "better", "like")
    ]


def test_seeds_are_added_only_where_the_answer_is_open() -> None:
    trials = play(study_of_two(), lambda row: values(row, effects={"better": 0.1, "like": 0.004}))
    seeds = seeds_of(trials)
    assert seeds["like"] == seeds[BASELINE] == 10
    assert 3 < seeds["better"] < 7
    found = analyse(study_of_two(), trials)
    assert found.findings[CLEAR.name].decided_at == seeds["better"]
    # Later seeds of the baseline do not change what was decided.
    assert len(found.findings[CLEAR.name].differences) == seeds["better"]
    assert found.findings[OPEN.name].decided_at is None
    assert [(look.n, look.decided) for look in found.looks][-1] == (10, 1)


def test_a_study_stops_when_everything_is_decided() -> None:
    study = make_study(CLEAR, arms=(BASE, BETTER))
    trials = play(study, lambda row: values(row, effects={"better": 0.1}))
    assert max(seeds_of(trials).values()) < 7
    assert analyse(study, trials).arms_to_continue() == set()


def test_claims_decide_and_the_rest_of_the_design_rides_along() -> None:
    claim = difference("better", BASELINE, claim="accuracy(better) > accuracy(baseline)")
    study = make_study(claim, OPEN, arms=(BASE, BETTER, LIKE))
    trials = play(study, lambda row: values(row, effects={"better": 0.1}))
    assert seeds_of(trials)["like"] == 3
    assert analyse(study, trials).arms_to_continue() == set()


def test_controls_have_seeds_as_long_as_something_is_open() -> None:
    positive, same = arm(POSITIVE, "positive_control"), arm(SAME, "null_control")
    controls = (
        difference(BASELINE, POSITIVE, kind="positive_control"),
        difference(SAME, BASELINE, kind="null_control"),
    )
    study = make_study(OPEN, *controls, arms=(BASE, LIKE, positive, same))
    trials = play(study, lambda row: values(row, effects={POSITIVE: -0.1}))
    seeds = seeds_of(trials)
    assert seeds[SAME] == seeds[BASELINE] == seeds["like"]
    assert seeds[POSITIVE] < seeds[BASELINE]
    # The null control is the baseline on other seeds: no training is done twice.
    by_arm = {t.choices["arm"]: t for t in trials if t.choices["replicate"] == 0}
    assert by_arm[SAME].seed == by_arm[BASELINE].seed + SAME_SEEDS
    assert by_arm[SAME].arch_id == by_arm[BASELINE].arch_id


def test_each_variant_chooses_its_rate_on_other_seeds() -> None:
    study = make_study(
        CLEAR,
        difference(SAME, BASELINE, kind="null_control"),
        arms=(BASE, BETTER, arm(SAME, "null_control")),
        rates=Rates(factors=(0.5, 1.0, 2.0), seeds=2),
        last=3,
    )
    best = {BASELINE: 0.05, "better": 0.2}

    def outcome(row: Planned) -> float:
        wanted = best.get(row.arm.name, best[BASELINE])
        return 0.8 - abs(row.lr - wanted) + values(row, effects={}, noise=1e-4) - 0.8

    trials = play(study, outcome)
    tuning = [t for t in trials if t.choices["purpose"] == "learning_rate"]
    assert len(tuning) == 2 * 3 * 2  # the null control takes what the baseline has chosen
    assert {t.seed for t in tuning} == {TUNING_SEEDS, TUNING_SEEDS + 1}
    rates = chosen_rates(study, trials)
    assert rates == {BASE.variant: 0.05, BETTER.variant: 0.2}
    verdict = [t for t in trials if t.choices["purpose"] == "verdict"]
    assert {(t.choices["arm"], t.choices["lr"]) for t in verdict} == {
        (BASELINE, 0.05),
        (SAME, 0.05),
        ("better", 0.2),
    }
    assert not {t.seed for t in tuning} & {t.seed for t in verdict}


def test_of_equal_rates_the_smaller_one_is_taken() -> None:
    study = make_study(CLEAR, arms=(BASE, BETTER), rates=Rates(factors=(2.0, 1.0), seeds=1), last=3)
    trials = play(study, lambda row: 0.5)
    assert chosen_rates(study, trials) == {BASE.variant: 0.1, BETTER.variant: 0.1}


def test_splits_follow_the_seeds_if_there_are_several() -> None:
    study = study_of_two(splits=10, last=3)
    trials = play(study, lambda row: values(row, effects={}))
    assert {(t.choices["replicate"], t.choices["split"]) for t in trials} == {
        (0, 0),
        (1, 1),
        (2, 2),
    }


def test_a_budget_ends_a_study_at_a_look() -> None:
    asked = iter((True, True, False))
    trials = play(
        study_of_two(), lambda row: values(row, effects={}), may_go_on=lambda: next(asked)
    )
    assert seeds_of(trials)["like"] == 5
    assert deadline(None, 1e9)()
    assert deadline(10.0, 5.0)()
    assert not deadline(10.0, 10.0)()


def test_a_training_that_diverged_counts_as_guessing_and_others_are_left_out() -> None:
    def outcome(row: Planned) -> float | str:
        if row.arm.name == "better" and row.replicate == 1:
            return "the loss is not finite: nan in epoch 1, step 3"
        if row.arm.name == "like" and row.replicate == 2:
            return "out of memory"
        return values(row, effects={})

    study = study_of_two(last=4)
    found = analyse(study, play(study, outcome)).findings
    assert found[CLEAR.name].differences[1] < -0.6
    assert len(found[CLEAR.name].differences) == 4
    assert len(found[OPEN.name].differences) == 3  # the pair is gone, not only its half


def test_a_plan_goes_on_from_what_is_there() -> None:
    def outcome(row: Planned) -> float:
        return values(row, effects={"better": 0.02})

    whole = play(study_of_two(), outcome)
    for cut in (1, 8, 14, len(whole) - 1):
        again = play(study_of_two(), outcome, known={t.number: t for t in whole[:cut]})
        assert [(t.choices, t.seed, t.metrics) for t in again] == [
            (t.choices, t.seed, t.metrics) for t in whole
        ]
    plan = StudyPlan(study_of_two(), key=lambda row: "k", shared=lambda key: None)
    assert not plan.has_more({t.number: t for t in whole})
    assert plan.has_more({t.number: t for t in whole[:-1]})


def test_more_seeds_continue_a_finished_study() -> None:
    few, many = study_of_two(last=4), study_of_two(last=6)

    def outcome(row: Planned) -> float:
        return values(row, effects={})

    done = {t.number: t for t in play(few, outcome)}
    assert len(play(many, outcome, known=done)) == len(play(many, outcome)) > len(done)


def test_a_plan_waits_for_what_is_running() -> None:
    study = study_of_two(last=3)
    plan = StudyPlan(study, key=lambda row: "k", shared=lambda key: None)
    trials = {t.number: t for t in play(study, lambda row: values(row, effects={}))}
    running = {**trials, 8: Trial(**{**vars(trials[8]), "state": State.RUNNING})}
    assert plan.is_ready(8, running)
    assert not plan.is_ready(9, running)
    assert plan.is_ready(9, trials)
