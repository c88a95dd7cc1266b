"""Whether the statistics of ablations keep their promises: simulation with known truth.

    python benchmarks/ablation_statistics.py [--studies 20000] [--seed 0] [--alpha 0.05]

Differences are drawn with a known mean and standard deviation 1: normal ones, for which the t
methods are exact, and two shapes they are not made for, a skewed one (exponential) and one with
heavy tails (Student's t with 4 degrees of freedom). In parentheses: twice the Monte Carlo error.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr, stdtrit
from scipy.stats import bootstrap

from nasctl.effects.multiple import holm
from nasctl.effects.power import detectable_effect
from nasctl.effects.sequential import Looks

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

SHAPES: dict[str, Draw] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "skewed": lambda rng, size: rng.standard_exponential(size) - 1,
    "heavy tails": lambda rng, size: rng.standard_t(4, size) / math.sqrt(2),
}
UNITS = (3, 5, 10, 20)
LOOKS = Looks.every(3, 20)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)))


def share(hits: npt.NDArray[np.bool_]) -> str:
    p = float(hits.mean())
    return f"{100 * p:.2f} % ({200 * math.sqrt(p * (1 - p) / hits.size):.2f})"


def average(values: Array) -> str:
    error = float(values.std()) / math.sqrt(len(values))
    return f"{values.mean():+.3f} ({2 * error:.3f})"


def spread(values: Array) -> tuple[Array, Array]:
    """Means and their standard errors, over the last axis."""
    return values.mean(axis=-1), values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1])


def intervals(rng: np.random.Generator, studies: int, alpha: float) -> None:
    """Coverage at a number of units that was fixed before."""
    rows = []
    few = max(studies // 10, 500)  # the bootstrap is a thousand times the work
    for shape, draw in SHAPES.items():
        for n in UNITS:
            values = draw(rng, (studies, n))
            mean, error = spread(values)
            covers = np.abs(mean) <= -stdtrit(n - 1, alpha / 2) * error
            hits = []
            for start in range(0, few, 250):
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")  # degenerate at n = 3: they count as misses
                    found = bootstrap(
                        (values[start : min(start + 250, few)],),
                        np.mean,
                        axis=-1,
                        confidence_level=1 - alpha,
                        n_resamples=999,
                        method="BCa",
                        rng=rng,
                    ).confidence_interval
                hits.append((found.low <= 0) & (found.high >= 0))
            rows.append((shape, str(n), share(covers), share(np.concatenate(hits))))
    table(
        f"Coverage of {100 * (1 - alpha):g} % intervals",
        ("differences", "units", "Student's t", "BCa"),
        rows,
    )


def families(rng: np.random.Generator, studies: int, alpha: float) -> None:
    """Four comparisons with one baseline (so correlated 0.5), 10 units, two without effect."""
    effects = np.array([0.0, 0.0, 0.7, 2.0])
    n = 10
    baseline = rng.standard_normal((studies, 1, n))
    values = (rng.standard_normal((studies, 4, n)) - baseline) / math.sqrt(2) + effects[:, None]
    mean, error = spread(values)
    p = 2 * stdtr(n - 1, -np.abs(mean / error))
    level, rejected = np.empty_like(p), np.empty(p.shape, dtype=bool)
    for i, row in enumerate(p):
        for j, adjusted in enumerate(holm({str(j): x for j, x in enumerate(row)}, alpha).values()):
            level[i, j], rejected[i, j] = adjusted.level, adjusted.p < alpha
    covers = np.abs(mean - effects) <= -stdtrit(n - 1, level / 2) * error
    null = effects == 0
    table(
        f"A family of 4 comparisons, effects {effects.tolist()}, {n} units, alpha {alpha:g}",
        ("", "unadjusted", "Holm"),
        [
            ("a wrong rejection", *(share(x[:, null].any(1)) for x in (p < alpha, rejected))),
            ("finds 0.7", *(share(x[:, 2]) for x in (p < alpha, rejected))),
            *(
                (f"covers {effect:g}", "", share(covers[:, j]))
                for j, effect in enumerate(effects.tolist())
            ),
            ("covers all", "", share(covers.all(1))),
        ],
    )


def at_looks(values: Array) -> tuple[Array, Array, Array]:
    """Means, standard errors and z statistics at all looks (last axis)."""
    found = [spread(values[..., :n]) for n in LOOKS.schedule]
    mean, error = (np.stack(x, axis=-1) for x in zip(*found, strict=True))
    degrees = np.array(LOOKS.schedule) - 1
    return mean, error, -ndtri(stdtr(degrees, -np.abs(mean / error)))


def known_variance_constant(rng: np.random.Generator, alpha: float) -> float:
    """C(alpha) for z statistics, by simulation: what tables for known variance would give."""
    n = np.array(LOOKS.schedule)
    walks = np.concatenate(
        [rng.standard_normal((50_000, n[-1])).cumsum(axis=1)[:, n - 1] for _ in range(8)]
    )
    scaled = np.abs(walks) / np.sqrt(n) * (n / n[-1]) ** (0.5 - LOOKS.shape)
    return float(np.quantile(scaled.max(axis=1), 1 - alpha))


def peeking(rng: np.random.Generator, studies: int, alpha: float) -> None:
    """Type-I error of looking after every unit; a family of four is Holm's at each look."""
    fraction = np.array(LOOKS.schedule) / LOOKS.schedule[-1]
    constant = known_variance_constant(rng, alpha)
    rows = []
    for shape, draw in SHAPES.items():
        baseline = draw(rng, (studies, 1, LOOKS.schedule[-1]))
        own = draw(rng, (studies, 4, LOOKS.schedule[-1]))
        # A skewed baseline cancels in a difference: the single comparison has the shape itself.
        z = at_looks(own[:, 0])[2]
        four = at_looks((own - baseline) / math.sqrt(2))[2]
        rows.append(
            (
                shape,
                share((z > -ndtri(alpha / 2)).any(1)),
                share((z > constant * fraction ** (LOOKS.shape - 0.5)).any(1)),
                share((z > np.array(LOOKS.critical(alpha))).any(1)),
                share((four > np.array(LOOKS.critical(alpha / 4))).any((1, 2))),
            )
        )
    table(
        f"Chance of a wrong rejection, looks at 3, 4, ..., 20 units, alpha {alpha:g} "
        f"(C = {LOOKS.constant(alpha):.3f}; for known variance {constant:.3f})",
        ("differences", "naive", "C for known variance", "Looks", "Looks and Holm, 4 comparisons"),
        rows,
    )


def unbiased_ratio(alpha: float) -> tuple[Array, Array]:
    """Mean over standard deviation as it is seen, and adjusted: `Looks.adjusted_effect`."""
    pattern = np.arange(LOOKS.schedule[-1], dtype=np.float64)
    pattern = (pattern - pattern.mean()) / pattern.std(ddof=1)
    seen = np.concatenate([np.arange(0, 3, 0.05), np.geomspace(3, 300, 12)])
    return seen, np.array([LOOKS.adjusted_effect(list(s + pattern), alpha) for s in seen])


def stopping(rng: np.random.Generator, studies: int, alpha: float) -> None:
    """Stop at the first look at which 0 is outside the interval, or at the last."""
    levels = np.array(LOOKS.levels(alpha))
    degrees = np.array(LOOKS.schedule) - 1
    grid = unbiased_ratio(alpha)
    rows = []
    for effect in (0.0, 0.5, 1.0, 2.0):
        values = rng.standard_normal((studies, LOOKS.schedule[-1])) + effect
        mean, error, _ = at_looks(values)
        half = -stdtrit(degrees, levels / 2) * error
        crossed = np.abs(mean) > half
        stops = crossed.copy()
        stops[:, -1] = True
        at = stops.argmax(axis=1)
        pick = (np.arange(studies), at)
        n = np.array(LOOKS.schedule)[at]
        naive = -stdtrit(n - 1, alpha / 2) * error[pick]
        sd = error[pick] * np.sqrt(n)
        ratio = np.interp(np.abs(mean[pick]) / sd, *grid)
        adjusted = np.sign(mean[pick]) * sd * ratio
        rows.append(
            (
                f"{effect:g}",
                f"{n.mean():.1f}",
                share(crossed.any(axis=1)),
                share(np.abs(mean[pick] - effect) <= half[pick]),
                share((np.abs(mean - effect) <= half).all(axis=1)),
                share(np.abs(mean[pick] - effect) <= naive),
                average(mean[pick] - effect),
                average(adjusted - effect),
            )
        )
    header = ("effect", "mean units", "rejects", "covers at the stop", "covers at every look")
    table(
        f"Stopped early or at 20 units, normal differences, alpha {alpha:g}",
        (*header, "t interval at the stop", "bias", "bias, adjusted"),
        rows,
    )


def planned(rng: np.random.Generator, studies: int, alpha: float) -> None:
    """Whether the detectable effect is found as often as promised, in one look and in many."""
    rows = []
    for n in UNITS:
        effect = detectable_effect(n=n, sd=1.0, alpha=alpha, target=0.8)
        mean, error = spread(rng.standard_normal((studies, n)) + effect)
        found = np.abs(mean / error) > -stdtrit(n - 1, alpha / 2)
        rows.append((str(n), f"{effect:.3f}", share(found)))
    table(
        "Power of 80 % by plan",
        ("units", "detectable effect", "found"),
        rows,
    )
    levels = LOOKS.levels(alpha)
    print(f"\nNominal levels of the looks: {', '.join(f'{x:.4f}' for x in levels)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alpha", type=float, default=0.05)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    for part in (intervals, families, peeking, stopping, planned):
        part(rng, arguments.studies, arguments.alpha)


if __name__ == "__main__":
    main()
