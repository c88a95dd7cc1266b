"""How far a search can come that knows of every network what all others say of it.

    python benchmarks/ceiling.py --table FILE ...    # the options of samplers.py

One Gaussian process (that of `plain_gp_sampler`) is told a whole table. Of each network it predicts
the accuracy from all the others, in closed form (Rasmussen and Williams 2006, eq. 5.12), and the
searches go by these predictions from their first proposals on. What they miss is what no other
network tells: of a table with one training each, mostly luck. So a search that has to learn can
hardly do better. One trial at a time; 15,625 networks take 5 GiB of memory and a minute or two.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import numpy as np
from plain_gp_sampler import STARTUP, unfitted
from sampler_tables import Table
from samplers import Setting, context_of, declared, main
from scipy.linalg import lapack
from sklearn.exceptions import ConvergenceWarning

from nasctl.samplers import create_sampler
from nasctl.samplers.known_cost.features import GROUPS, Encoder
from nasctl.samplers.known_cost.improvement import expected_improvement, front_of
from nasctl.samplers.known_cost.scale import Scale

FITTED = 1500  # networks that the hyperparameters are fitted to
STARTS = {"told_all": 0, "told_all_started": STARTUP}
"""Trials that are spread over the costs before the predictions decide."""


class Oracle:
    """What all other networks say of each.

    Attributes:
        keys: of the networks, in the order of everything else.
        mean, sd: of each, on the scale.
        costs: in the order of the minimised objectives.
    """

    def __init__(self, table: Table) -> None:
        configurations = list(table.space.enumerate())
        self.keys = [table.key(c) for c in configurations]
        rows = [table.rows[k] for k in self.keys]
        self.scores = np.array([r["accuracy"] for r in rows])
        minimised = [m for m in table.objectives if m != "accuracy"]
        self.costs = np.array([[r[m] for m in minimised] for r in rows])
        self.reference = np.array([table.reference[m] for m in minimised])
        plain = Scale(bound=1.0, low=table.reference["accuracy"])  # what is below is on no front
        values = plain.standardise(self.scores)
        self.scale = Scale(
            bound=1.0, low=plain.low, centre=float(values.mean()), spread=float(values.std())
        )
        sample = [(c, table.price(c).costs) for c in configurations]
        points = Encoder(table.space, sample)(sample)
        features = np.concatenate([points.groups[g] for g in GROUPS], axis=1)
        self.mean, self.sd = _left_out(features, self.scale.standardise(self.scores))

    def best(self, seen: Sequence[int]) -> int:
        """The network that is expected to add most to those that were seen."""
        scores, costs = self.scores[seen], self.costs[seen]
        members = front_of(scores, costs) if len(seen) else np.array([], dtype=np.intp)
        gains = expected_improvement(
            self.mean,
            self.sd,
            self.costs,
            front_scores=scores[members],
            front_costs=costs[members],
            reference_score=self.scale.low,
            reference_costs=self.reference,
            psi=self.scale.psi,
        )
        gains[seen] = -1.0
        return int(np.argmax(gains))


def _left_out(features: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    some = np.random.default_rng(0).permutation(len(y))[:FITTED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of a weak hyperparameter
        kernel = unfitted(features.shape[1], seed=0).fit(features[some], y[some]).kernel_
    inverse, failed = lapack.dpotrf(kernel(features), lower=1, overwrite_a=1)
    if not failed:
        inverse, failed = lapack.dpotri(inverse, lower=1, overwrite_c=1)
    if failed:
        raise SystemExit("the covariance of the table is singular")
    lower = np.tril_indices(len(y), -1)
    inverse.T[lower] = inverse[lower]
    precision = np.diag(inverse)
    return y - inverse @ y / precision, precision**-0.5


_ORACLES: list[Oracle] = []  # of the one table of this process


def search(task: tuple[str, Table, int, Setting]) -> tuple[list[float], list[float]]:
    """One search: hypervolume after every trial of `at`, and seconds of every proposal."""
    name, table, seed, setting = task
    if not _ORACLES:
        _ORACLES.append(Oracle(table))
    (oracle,) = _ORACLES
    options = {"startup_trials": STARTUP, "pool_size": len(oracle.keys)}
    first = create_sampler("known_cost", options, context_of(table, seed, setting))
    seen: list[int] = []
    history, seconds = [], []
    for number in range(setting.trials):
        start = time.perf_counter()
        chosen = None
        if number < STARTS[name] and (proposal := first.ask(number, 0)) is not None:
            chosen = oracle.keys.index(table.key(proposal.choices))
        seen.append(oracle.best(seen) if chosen is None or chosen in seen else chosen)
        seconds.append(time.perf_counter() - start)
        if number + 1 in setting.at:
            history.append(declared(table, {oracle.keys[i]: [oracle.scores[i]] for i in seen}))
    return history, seconds


if __name__ == "__main__":
    main(__doc__, list(STARTS), search)
