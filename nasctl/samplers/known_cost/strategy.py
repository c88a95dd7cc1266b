"""The search strategy: what to train next, where all objectives but one are known before training.

Used through nasctl's ask/tell interface (`sampler`) and as an Optuna sampler (`optuna_sampler`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasctl.samplers.base import Known, Observation, Proposal, derive_seed
from nasctl.samplers.known_cost.acquisition import (
    Look,
    Target,
    candidate_gains,
    fresh_gain,
    possible_members,
    repeat_gains,
)
from nasctl.samplers.known_cost.aim import Aim
from nasctl.samplers.known_cost.features import Encoder
from nasctl.samplers.known_cost.gp import Array, Points
from nasctl.samplers.known_cost.pool import (
    ENUMERATED,
    Candidate,
    Price,
    PriceList,
    build_pool,
    feasible_relatives,
)
from nasctl.samplers.known_cost.surrogate import Result, Surrogate, repeat_noise
from nasctl.space import Choices, SearchSpace

FEWEST = 3  # results without which there is no model
POINTS = 150  # trained networks at most that are considered for the front
PASSING = 10_000_000  # numbers of candidates that are forgotten after the proposal begin here
PARENTS = 24
STARTERS = 1_000  # candidates that the first trials are chosen from
ROUNDING = 1e-20  # a variance of standardised values that differ by rounding only
RANKED = 25  # proposals kept for attempts that are turned away
SD_FACTORS = 0.5, 1.0  # of candidates, in turn: see docs/known_cost.md


@dataclass(frozen=True, kw_only=True)
class Options:
    """How hard to try.

    Attributes:
        startup: trials spread over the costs before the model decides.
        pool: random candidates, unless the space is small enough to have all.
        relatives: of good networks, added to the pool for each proposal.
        samples: of the front.
        max_seeds: trainings of one network at most.
    """

    startup: int = 10
    pool: int = 10_000
    relatives: int = 100
    samples: int = 8
    max_seeds: int = 1


class KnownCostStrategy:
    """Proposals are pure functions of (seed, number, attempt, pending, told observations).

    Args:
        space: the decisions.
        price: what is known of a configuration.
        aim: see `Aim`.
        seed: of everything random.
        options: see `Options`.
    """

    def __init__(
        self, space: SearchSpace, price: Price, aim: Aim, *, seed: int, options: Options
    ) -> None:
        self._space = space
        self._price = PriceList(price)
        self._aim = aim
        self._seed = seed
        self._options = options
        self._is_enumerated = space.count() <= ENUMERATED
        self._starters: list[Candidate] | None = None
        self._found: list[Candidate] = []  # the first ones, where none is found at random
        self._said: list[tuple[Choices, Known, float | None, Mapping[int, float]]] = []
        self._scores: list[float] = []  # final ones, in the order told
        self._told: dict[str, list[float]] = {}  # the same by network
        self._results: list[Result] = []  # of what was said, as far as the model was asked
        self._choices: list[Choices] = []
        self._ids: set[str] = set()
        self._trainings: dict[str, int] = {}
        self._early: list[Observation] = []  # told since the last proposal
        self._ranked: tuple[object, list[Proposal]] = (None, [])

    # -- the pool ------------------------------------------------------------------------------

    def _pool_of(self, size: int) -> list[Candidate]:
        """The first `size` candidates; prices of a smaller pool are remembered for a larger one."""
        rng = random.Random(derive_seed(self._seed, "pool"))
        return build_pool(self._space, self._price, size, rng, self._found)

    def _start(self) -> list[Candidate]:
        """What the first trials are chosen from: a part is enough, and workers wait for it.

        Empty where nothing feasible is drawn, until others have found the first networks.
        """
        if self._starters is None:
            self._starters = self._pool_of(min(STARTERS, self._options.pool))
            self._starters = self._starters or self._pool_of(self._options.pool)
        if not self._starters and len(self._scores) >= FEWEST:
            told = [(c, k) for c, k, score, _ in self._said if score is not None]
            first = {k.id: Candidate(c, k) for c, k in told[:FEWEST] if k.feasible}
            self._found = list(first.values())
            self._starters = self._pool_of(self._options.pool) if first else []
        return self._starters

    def _prepare(self) -> None:
        """Builds the pool at the first proposal of the model."""
        if hasattr(self, "_pool"):
            return
        self._pool = self._pool_of(self._options.pool)
        sample = [(c.choices, c.known.costs) for c in self._pool]
        self._encoder = Encoder(self._space, sample)
        self._numbers = {c.known.id: i for i, c in enumerate(self._pool)}
        self._in_pool = dict(self._numbers)
        self._features = self._points([(c.choices, c.known) for c in self._pool])
        self._costs = self._cost_matrix(self._pool)
        self._reference = self._reference_costs()
        self._surrogate = Surrogate(
            self._features,
            seed=self._seed,
            first=FEWEST,
            bound=self._aim.bound,
            reference=(self._reference_score(), self._reference),
        )

    def _cost_matrix(self, candidates: Sequence[Candidate]) -> Array:
        return np.stack([self._aim.cost_vector(c.known) for c in candidates])

    def _points(
        self, networks: Sequence[tuple[Choices, Known]], *, passing: bool = False
    ) -> Points:
        """Their features, and a number for each network; `passing` ones are unlike all others."""
        features = self._encoder([(choices, known.costs) for choices, known in networks])
        if passing:
            numbers = list(range(PASSING, PASSING + len(networks)))
        else:
            numbers = [self._numbers.setdefault(k.id, len(self._numbers)) for _, k in networks]
        own = np.array(numbers, dtype=np.float64)[:, None]
        return Points({**features.groups, "network": own})

    def _reference_costs(self) -> Array:
        given = self._aim.reference
        worst = self._costs.max(axis=0)
        default = worst + 0.1 * np.abs(worst)
        return np.array(
            [
                self._aim.sign(m) * given[m] if m in given else default[i]
                for i, m in enumerate(self._aim.costs)
            ]
        )

    # -- telling -------------------------------------------------------------------------------

    def tell(self, observation: Observation) -> None:
        """See `Sampler.tell`."""
        self._early.append(observation)

    def _learn(self) -> None:
        """Who is known, and whose results say something."""
        at = list(self._aim.objectives).index(self._aim.unknown)
        for o in self._early:
            known = self._price(dict(o.choices))
            if known is None:
                continue
            self._ids.add(known.id)
            if o.rejected:
                continue
            self._trainings[known.id] = self._trainings.get(known.id, 0) + 1
            score = None
            if o.values is not None:
                score = self._aim.score(o.values[at])
                self._scores.append(score)
                self._told.setdefault(known.id, []).append(score)
            rungs = {e: self._aim.score(v) for e, v in o.rungs.items()}
            if score is not None or rungs:
                self._said.append((dict(o.choices), known, score, rungs))
        self._early.clear()

    def _encode(self) -> None:
        """Results for the model, of what was said since."""
        for choices, known, score, rungs in self._said[len(self._results) :]:
            self._choices.append(choices)
            self._results.append(
                Result(
                    network=known.id,
                    features=self._points([(choices, known)]),
                    costs=self._aim.cost_vector(known),
                    score=score,
                    rungs=rungs,
                )
            )

    # -- asking --------------------------------------------------------------------------------

    def ask(
        self, number: int, attempt: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> Proposal | None:
        """See `Sampler.ask`; None when every network of a small space is known."""
        self._learn()
        if not self._start():
            return self._anything(number, attempt)
        key = (number, len(self._said), len(self._ids), [list(p.items()) for p in pending])
        if self._ranked[0] != key:
            waiting = [(dict(p), k) for p in pending if (k := self._price(dict(p))) is not None]
            self._ranked = key, self._rank(number, waiting)
        ranked = self._ranked[1]
        if attempt < len(ranked):
            return ranked[attempt]
        return self._anything(number, attempt)

    def _anything(self, number: int, attempt: int) -> Proposal:
        rng = random.Random(derive_seed(self._seed, "random", number, attempt))
        return Proposal(choices=self._space.sample(rng))

    def _rank(self, number: int, waiting: Sequence[tuple[Choices, Known]]) -> list[Proposal]:
        taken = self._ids | {k.id for _, k in waiting}
        if number < self._options.startup or len(self._scores) < FEWEST:
            return self._spread(number, taken)
        self._prepare()
        self._encode()
        return self._best(number, waiting, taken)

    def _spread(self, number: int, taken: set[str]) -> list[Proposal]:
        """Random networks, one from each part of the cost axis in turn.

        The parts hold equally many candidates; with several costs, the mean of their ranks orders
        them.
        """
        parts = max(self._options.startup, 1)
        starters = self._start()
        costs = self._cost_matrix(starters)
        order = np.arange(len(starters))
        if costs.shape[1]:
            ranks = costs.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
            order = ranks.mean(axis=1).argsort(kind="stable")
        round_, place = divmod(number, parts)
        turns = list(range(parts))
        random.Random(derive_seed(self._seed, "turns", round_)).shuffle(turns)
        part = np.array_split(order, parts)[turns[place]]
        rng = np.random.default_rng(derive_seed(self._seed, "spread", number))
        free = [i for i in rng.permutation(part) if starters[i].known.id not in taken]
        return [Proposal(choices=starters[i].choices) for i in free[:RANKED]]

    def _look(
        self,
        number: int,
        trained: Sequence[int],
        waiting: Sequence[tuple[Choices, Known]],
        taken: set[str],
        *,
        stream: str,
        sd_factor: float = 1.0,
    ) -> Look:
        """The candidates, and what each is expected to add to what is trained and waiting.

        Args:
            number, stream: of the proposal and its use, for what is random.
            trained: results that may be on the front.
            waiting: networks that are believed to turn out as expected.
            taken: ids that are no candidates.
            sd_factor: see `candidate_gains`.
        """
        points = [self._results[i].features for i in trained]
        costs_at = [self._results[i].costs for i in trained]
        pending = None
        if waiting:
            pending = self._points(waiting)
            points.append(pending)
            costs_at += [self._aim.cost_vector(k) for _, k in waiting]
        local = self._relatives(number, trained, taken)
        prediction = self._surrogate.predict(
            pending=pending,
            local=(
                self._points([(c.choices, c.known) for c in local], passing=True) if local else None
            ),
            contenders=Points.joined(points) if points else self._features[:0],
        )
        costs = self._costs
        if local:
            costs = np.concatenate([costs, self._cost_matrix(local)])
        at = np.array(costs_at).reshape(len(costs_at), costs.shape[1])
        target = self._target(trained, len(waiting))
        index, gains = candidate_gains(
            prediction,
            costs,
            at,
            known=[i for n in taken if (i := self._in_pool.get(n)) is not None],
            target=target,
            samples=self._options.samples,
            rng=np.random.default_rng(derive_seed(self._seed, stream, number)),
            sd_factor=sd_factor,
        )
        return Look(
            candidates=[*self._pool, *local],
            index=index,
            gains=gains,
            prediction=prediction,
            costs=costs,
            at=at,
            target=target,
        )

    def _target(self, trained: Sequence[int], others: int) -> Target:
        """Of the trained networks, and `others` without a told value."""
        scores = (self._told[self._results[i].network] for i in trained)
        means = (sum(s) / len(s) for s in scores)
        told = [m if m < self._surrogate.scale.low else math.nan for m in means]
        return Target(
            score=self._reference_score(),
            costs=self._reference,
            scale=self._surrogate.scale,
            told=np.array([*told, *[math.nan] * others]),
        )

    def _best(
        self, number: int, waiting: Sequence[tuple[Choices, Known]], taken: set[str]
    ) -> list[Proposal]:
        self._surrogate.update(self._results)
        trained = self._contenders()
        factor = SD_FACTORS[number % len(SD_FACTORS)]
        look = self._look(number, trained, waiting, taken, stream="front", sd_factor=factor)
        order = np.argsort(-look.gains, kind="stable")
        fresh = [Proposal(choices=look.candidates[look.index[i]].choices) for i in order[:RANKED]]
        repeats = self._repeats(trained, waiting)
        if not repeats:
            return fresh
        prediction, at, target = look.prediction, look.at, look.target
        members, worth = repeat_gains(prediction, at, among=repeats, target=target)
        if not len(members):
            return fresh
        again = members[np.argmax(worth)]
        if len(order):  # the first of them, be it chosen with its deviation taken for half
            top = int(look.index[order[0]])
            if worth.max() <= fresh_gain(prediction, top, look.costs[top], at, target=target):
                return fresh
        choices = self._choices[trained[again]]
        return [Proposal(choices=choices, repeat=True), *fresh]

    def _repeats(
        self, trained: Sequence[int], waiting: Sequence[tuple[Choices, Known]]
    ) -> list[int]:
        """Positions in `trained` of networks that may be trained again."""
        if self._options.max_seeds < 2:
            return []
        noise, freedom = repeat_noise(self._results, self._surrogate.scale)
        if freedom and noise < ROUNDING:  # a table: asking again tells nothing
            return []
        out = {k.id for _, k in waiting}
        out |= {n for n, times in self._trainings.items() if times >= self._options.max_seeds}
        return [at for at, i in enumerate(trained) if self._results[i].network not in out]

    def _reference_score(self) -> float:
        given = self._aim.reference.get(self._aim.unknown)
        if given is not None:
            return self._aim.score(given)
        return min(self._scores[:FEWEST])

    def _contenders(self, among: Callable[[int], bool] = lambda _: True) -> list[int]:
        """The results that may be on the front, one for each network: the believed members first,
        then the best of the rest."""
        smoothed, noise = self._surrogate.smoothed()
        index = self._surrogate.index
        kept: dict[str, int] = {}
        for at in possible_members(
            smoothed,
            np.stack([self._results[i].costs for i in index]),
            doubt=3.0 * noise**0.5,
            among=np.array([among(i) for i in index]),
            final=np.array([self._results[i].score is not None for i in index]),
        ):
            kept.setdefault(self._results[index[at]].network, index[at])
            if len(kept) == POINTS:
                break
        return list(kept.values())

    def _relatives(self, number: int, trained: Sequence[int], taken: set[str]) -> list[Candidate]:
        """Feasible relatives of the believed front that are neither trained nor in the pool."""
        if self._is_enumerated:
            return []
        rng = random.Random(derive_seed(self._seed, "relatives", number))
        parents = [self._choices[i] for i in trained[:PARENTS]]
        found = feasible_relatives(self._space, self._price, parents, rng, self._options.relatives)
        return [c for c in found if c.known.id not in taken and c.known.id not in self._in_pool]
