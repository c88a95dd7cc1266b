"""Random access to the configurations of a conditional space, without listing them."""

from __future__ import annotations

from nasctl.arch import Scalar
from nasctl.samplers.base import derive_seed
from nasctl.space import Choices, SearchSpace

_State = tuple[tuple[str, Scalar], ...]
_ROUNDS = 4


class Ranking:
    """`ranking[i]` is the i-th configuration in the order of `SearchSpace.enumerate`.

    The number of completions is memoised by what later conditions still refer to, as in
    `SearchSpace.count`, so spaces of any size have random access.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._decisions = space.decisions
        needed: set[str] = set()
        self._kept: list[set[str]] = [set()]
        for d in reversed(self._decisions):
            needed = (needed - {d.name}).union(*d.conditions())
            self._kept.append(set(needed))
        self._kept.reverse()
        self._ways: list[dict[_State, int]] = [{} for _ in self._kept]
        self._ways[-1][()] = 1
        self.count = self._completions(0, {})

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rank: int) -> Choices:
        """The configuration at `rank` in [0, count).

        Raises:
            IndexError: there is none.
        """
        if not 0 <= rank < self.count:
            raise IndexError(f"rank {rank} of {self.count} configurations")
        chosen: Choices = {}
        for index, d in enumerate(self._decisions):
            if not d.is_active(chosen):
                continue
            for choice in d.choices:
                ways = self._completions(index + 1, {**chosen, d.name: choice})
                if rank < ways:
                    chosen[d.name] = choice
                    break
                rank -= ways
        return chosen

    def _state(self, index: int, chosen: Choices) -> _State:
        kept = self._kept[index]
        return tuple((name, value) for name, value in chosen.items() if name in kept)

    def _completions(self, index: int, chosen: Choices) -> int:
        """Forward over the states reachable from here, then summed backwards."""
        levels: list[dict[_State, list[_State]]] = []
        frontier = {self._state(index, chosen)}
        for at in range(index, len(self._decisions)):
            missing = [s for s in frontier if s not in self._ways[at]]
            if not missing:
                break
            levels.append({s: self._successors(at, s) for s in missing})
            frontier = {after for states in levels[-1].values() for after in states}
        for offset in range(len(levels) - 1, -1, -1):
            after = self._ways[index + offset + 1]
            for state, states in levels[offset].items():
                self._ways[index + offset][state] = sum(after[s] for s in states)
        return self._ways[index][self._state(index, chosen)]

    def _successors(self, index: int, state: _State) -> list[_State]:
        d = self._decisions[index]
        chosen = dict(state)
        if not d.is_active(chosen):
            return [self._state(index + 1, chosen)]
        return [self._state(index + 1, {**chosen, d.name: choice}) for choice in d.choices]


def permuted(rank: int, count: int, seed: int) -> int:
    """Where a seeded pseudo-random permutation of range(count) sends `rank`.

    A balanced Feistel network over the next even number of bits with cycle walking (Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002): no list of `count` entries.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    if half > 256:
        raise ValueError(f"a space of more than 2**512 configurations: {count.bit_length()} bits")
    mask = (1 << half) - 1
    while True:
        left, right = rank >> half, rank & mask
        for turn in range(_ROUNDS):
            # Text, because JSON integers of more than 53 bits are not portable.
            key = derive_seed("feistel", str(seed), turn, str(right), bits=256)
            left, right = right, left ^ (key & mask)
        rank = (left << half) | right
        if rank < count:
            return rank
