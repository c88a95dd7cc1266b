"""Gaussian processes against scikit-learn and themselves: same numbers, however they come about."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import norm

from nasctl.samplers.known_cost import gp, surrogate
from nasctl.samplers.known_cost.gp import Points, Term
from nasctl.samplers.known_cost.posterior import At, New, Place, Posterior
from nasctl.samplers.known_cost.scale import Scale
from nasctl.samplers.known_cost.surrogate import Result, Surrogate, fitted_at, read, repeat_noise

FROM = (0.0, np.ones(1))  # reference point
GROUPS = ("choices", "totals", "costs")
THETA = {
    "rbf": (Term("rbf", GROUPS, tied=True),),
    "matern": (Term("matern", GROUPS),),
    "sum": (Term("rbf", ("costs",)), Term("linear", GROUPS), Term("constant")),
    "own": (Term("rbf", GROUPS, tied=True), Term("same", ("network",))),
}


def points(n: int, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    groups = {g: rng.normal(size=(n, w)) for g, w in zip(GROUPS, (4, 2, 3), strict=True)}
    return Points({**groups, "network": np.arange(n)[:, None] + 1000.0 * seed})


def target(at: Points) -> np.ndarray:
    x = np.concatenate([at.groups[g] for g in GROUPS], axis=1)
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 4] + 0.3 * x[:, 7]
    return (y - y.mean()) / y.std()


def parameters(kernel: gp.Kernel) -> np.ndarray:
    size = sum(1 + t.scales for t in kernel) + 1
    return np.random.default_rng(3).normal(-1.0, 0.3, size)


@pytest.mark.parametrize("name", THETA)
def test_the_posterior_is_that_of_the_textbook_however_it_is_built(name: str) -> None:
    kernel, pool, seen = THETA[name], points(50, 1), points(12)
    theta, y = parameters(kernel), target(seen)
    extra = np.linspace(0, 0.2, 12)
    built = Posterior(kernel, theta, pool)
    built.add(New(seen[:7], seen[:0], pool, extra[:7]))
    for i in range(7, 12):
        built.add(New(seen[i : i + 1], seen[:i], pool, extra[i : i + 1]))
    at = At(local=Place(points(5, 2), seen, None), contenders=Place(seen, seen, None))
    found = built.predict(y, None, at)

    k = gp.covariance(kernel, theta, gp.Pairs(seen, seen))
    noisy = k + np.diag(math.exp(theta[-1]) + extra + gp.JITTER)
    everywhere = Points.joined([pool, points(5, 2)])
    cross = gp.covariance(kernel, theta, gp.Pairs(seen, everywhere))
    mean = cross.T @ np.linalg.solve(noisy, y)
    variance = gp.variance(kernel, theta, everywhere) - np.einsum(
        "ij,ij->j", cross, np.linalg.solve(noisy, cross)
    )
    assert found.mean == pytest.approx(mean, abs=1e-4)
    assert found.sd**2 == pytest.approx(variance, abs=1e-4)
    assert found.mean_at == pytest.approx(k @ np.linalg.solve(noisy, y))
    assert found.covariance_at == pytest.approx(k - k @ np.linalg.solve(noisy, k), abs=1e-9)
    assert built.smoothed(y, extra) == pytest.approx(found.mean_at)


def test_what_is_a_networks_own_is_shared_by_its_trainings_only() -> None:
    kernel, seen = (Term("same", ("network",)),), points(3)
    twice = Points.joined([seen, seen[:1]])
    found = gp.covariance(kernel, np.array([math.log(0.5), 0.0]), gp.Pairs(twice, twice))
    assert found == pytest.approx(0.5 * np.array(_SAME))


_SAME = [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]


def test_pending_points_narrow_the_variance_and_leave_the_mean() -> None:
    kernel, pool, seen = THETA["rbf"], points(30, 1), points(8)
    posterior = Posterior(kernel, parameters(kernel), pool)
    posterior.add(New(seen, seen[:0], pool, np.zeros(8)))
    y = target(seen)
    waiting = pool[:2]
    before = posterior.predict(y, None, At(local=None, contenders=Place(pool[:3], seen, None)))
    after = posterior.predict(
        y,
        New(waiting, seen, pool, np.zeros(2)),
        At(local=None, contenders=Place(pool[:3], seen, waiting)),
    )
    assert after.mean == pytest.approx(before.mean)
    assert (after.sd <= before.sd + 1e-6).all()
    assert (after.sd[:2] < 0.8 * before.sd[:2]).all()
    assert np.sqrt(np.diag(after.covariance_at)) == pytest.approx(after.sd[:3], abs=1e-3)


@pytest.mark.parametrize("kernel", [*THETA.values(), *surrogate.KERNELS.values()])
def test_the_gradient_of_the_fit_is_right(kernel: gp.Kernel, monkeypatch) -> None:
    seen = points(15)
    y, prior = target(seen), gp.weak_prior(kernel, seen, (-3.0, 1.0))
    caught = {}
    monkeypatch.setattr(gp, "minimize", lambda f, x, **_: caught.update(f=f) or _Found(x))
    gp.fit(kernel, seen, y, np.zeros(15), prior)
    at = prior.mean + 0.3
    error = check_grad(lambda t: caught["f"](t)[0], lambda t: caught["f"](t)[1], at)
    assert error < 1e-4 * max(1.0, float(np.linalg.norm(caught["f"](at)[1])))


class _Found:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x


def test_leave_one_out_densities_are_those_of_leaving_one_out() -> None:
    kernel, seen = THETA["sum"], points(10)
    theta, y, extra = parameters(kernel), target(seen), np.full(10, 0.05)
    found = gp.loo_log_densities(kernel, theta, seen, y, extra)
    for i in range(10):
        rest = np.delete(np.arange(10), i)
        k = gp.covariance(kernel, theta, gp.Pairs(seen, seen))
        noise = math.exp(theta[-1]) + 0.05 + gp.JITTER
        noisy = k[np.ix_(rest, rest)] + noise * np.eye(9)
        mean = k[i, rest] @ np.linalg.solve(noisy, y[rest])
        variance = k[i, i] + noise - k[i, rest] @ np.linalg.solve(noisy, k[rest, i])
        assert found[i] == pytest.approx(norm.logpdf(y[i], mean, variance**0.5))


def test_the_kernel_that_predicts_gets_the_weight() -> None:
    seen = points(40)
    x = np.concatenate([seen.groups[g] for g in GROUPS], axis=1)
    y = x @ np.arange(1.0, x.shape[1] + 1)
    y = (y - y.mean()) / y.std()
    kernels = [(Term("linear", GROUPS), Term("constant")), (Term("rbf", GROUPS, tied=True),)]
    densities = []
    for kernel in kernels:
        prior = gp.weak_prior(kernel, seen, (-4.0, 2.0))
        theta = gp.fit(kernel, seen, y, np.zeros(40), prior)
        densities.append(gp.loo_log_densities(kernel, theta, seen, y, np.zeros(40)))
    weights = gp.weights(densities, np.random.default_rng(0))
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] > 0.99


def results(n: int, at: Points, scores: np.ndarray) -> list[Result]:
    return [
        Result(network=str(i), features=at[i : i + 1], costs=np.zeros(1), score=float(scores[i]))
        for i in range(n)
    ]


def test_it_predicts_unseen_networks_and_knows_how_well() -> None:
    at = points(200)
    truth = 0.9 + 0.02 * target(at)
    noise = np.random.default_rng(5).normal(0, 0.001, 200)
    model = Surrogate(at, seed=0, first=3, bound=1.0, reference=FROM)
    model.update(results(80, at, truth + noise))
    best = model.predict(pending=None, local=None, contenders=at[:1])
    assert max(model.weights.values()) > 0.2
    assert sum(model.weights.values()) == pytest.approx(1.0)
    wanted = model.scale.standardise(truth[80:])
    z = (wanted - best.mean[80:]) / best.sd[80:]
    assert np.corrcoef(wanted, best.mean[80:])[0, 1] > 0.7
    assert 0.4 < z.std() < 2.0


def test_a_surrogate_that_begins_anew_is_the_same_to_the_bit() -> None:
    at = points(60)
    told = results(40, at, 0.9 + 0.02 * target(at))
    lived, anew = (Surrogate(at, seed=1, first=3, bound=1.0, reference=FROM) for _ in range(2))
    for n in range(3, 41):
        lived.update(told[:n])
    anew.update(told)
    asked = {"pending": at[50:52], "local": at[55:], "contenders": at[:4]}
    a, b = lived.predict(**asked), anew.predict(**asked)
    assert lived.weights == anew.weights
    assert (a.mean == b.mean).all()
    assert (a.sd == b.sd).all()
    assert (a.covariance_at == b.covariance_at).all()


def test_results_are_taken_in_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    at = points(60)
    told = results(40, at, 0.9 + 0.02 * target(at))
    whole, parts = (Surrogate(at, seed=1, first=3, bound=1.0, reference=FROM) for _ in range(2))
    asked = {"pending": at[50:52], "local": at[55:], "contenders": at[:4]}
    whole.update(told)
    monkeypatch.setattr(surrogate, "BLOCK", 7)
    parts.update(told)
    a, b = whole.predict(**asked), parts.predict(**asked)
    assert b.mean == pytest.approx(a.mean, abs=1e-4)
    assert b.sd == pytest.approx(a.sd, abs=1e-4)


def test_fits_happen_at_geometric_counts() -> None:
    counts = sorted({fitted_at(n, 3) for n in range(3, 300)})
    assert counts[:6] == [3, 4, 5, 6, 7, 9]
    gaps = [b / a for a, b in itertools.pairwise(counts[8:])]
    assert 1.14 < min(gaps) <= max(gaps) < 1.25
    assert all(fitted_at(n, 3) <= n for n in range(3, 300))


def test_rungs_say_what_they_have_said_before() -> None:
    at = points(12)
    finals = 1 - np.exp(-np.linspace(1.0, 2.0, 12))
    early = 1 - np.exp(-(np.linspace(1.0, 2.0, 12) - 0.1))  # a tenth of log error behind
    told = [
        Result(
            network=str(i),
            features=at[i : i + 1],
            costs=np.zeros(1),
            score=float(finals[i]) if i < 8 else None,
            rungs={2: float(early[i])},
        )
        for i in range(12)
    ]
    readings = read(told, 1.0, FROM)
    assert readings.index == tuple(range(12))
    assert readings.y[8:] == pytest.approx(readings.scale.standardise(finals[8:]), abs=1e-6)
    assert (readings.extra[:8] == 0).all()
    assert readings.extra[8:].max() < 1e-6  # the pairs agree to the digit
    assert read(told[5:], 1.0, FROM).index == tuple(range(3))  # three pairs say nothing


def test_noise_comes_from_networks_that_were_trained_again() -> None:
    rng = np.random.default_rng(0)
    at = points(300)
    told = [
        Result(
            network=str(i // 3),
            features=at[i // 3 : i // 3 + 1],
            costs=np.zeros(1),
            score=0.8 + 0.1 * (i // 3) / 100 + float(rng.normal(0, 0.004)),
        )
        for i in range(300)
    ]
    plain = Scale(bound=None, low=-math.inf)
    noise, freedom = repeat_noise(told, plain)
    assert freedom == 200
    assert noise**0.5 == pytest.approx(0.004, rel=0.15)


def test_the_low_tail_counts_no_more_than_its_cut() -> None:
    scores = np.array([0.1, 0.5, 0.9, 0.91, 0.92, 0.93, 0.94, 0.92, 0.93, 0.9])
    scale = Scale.of(scores, 1.0)
    values = scale.standardise(scores)
    assert values[0] == values[1] < values[2]
    assert scale.scores(values[2:]) == pytest.approx(scores[2:])
    assert values.mean() == pytest.approx(0.0)
    assert values.std() == pytest.approx(1.0)
    assert np.isfinite(scale.standardise(np.array([1.0, 1.2]))).all()
