"""How many distinct networks a staged space has: exact, without listing them.

A network is a word whose letters are canonical blocks. The words are those of an acyclic
non-deterministic automaton: its states are positions with the choices made so far that still
matter, an identity is a move without a letter, and several states may read the same letter (a
depth of 2 with a skip and a depth of 1). Determinised (Rabin and Scott's subset construction),
every word has one path, so paths can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

from nasctl.arch import Block, Scalar, Shape
from search_spaces.staged_reach import network_widths

if TYPE_CHECKING:
    from search_spaces.staged import StagedSpace

Values = tuple[Scalar | None, ...]  # of the dimensions, in order; None: open

MAX_STEPS = 500_000
"""Transitions of the determinised automaton that are followed: some seconds."""


class _State(NamedTuple):
    stage: int  # one past the last: the head comes next
    block: int  # from 1
    shape: Shape
    base: float  # multiplier of stem and head
    network: Values
    within: Values  # of the stage


class _Within(NamedTuple):
    """Between the blocks that one choice expands to."""

    letters: tuple[Block, ...]  # still to come
    target: _State


_Place = _State | _Within


def _after(letters: tuple[Block, ...], target: _State) -> _Place:
    return _Within(letters, target) if letters else target


def count_networks(space: StagedSpace, *, max_steps: int = MAX_STEPS) -> int | None:
    """The exact number of distinct networks; None if that takes more than `max_steps`."""
    automaton = _Automaton(space)
    total = 0
    for input_shape in space.options.input_shapes:
        starts: dict[tuple[Block, ...], set[_Place]] = {}
        for width in network_widths(space.options):
            base = space.base_width(width)
            stem = space.stem(input_shape, base)
            state = _State(0, 1, stem.shape, base, (width, *automaton.open[1:]), automaton.open)
            starts.setdefault(stem.blocks, set()).add(state)
        # Stems of different width lead to different states.
        ways = {automaton.closure(states): 1 for states in starts.values()}
        while ways:
            after: dict[frozenset[_Place], int] = {}
            for subset, n in ways.items():
                ends, letters = automaton.step(subset)
                total += n * ends
                for target in letters:
                    after[target] = after.get(target, 0) + n
            if automaton.steps > max_steps:
                return None
            ways = after
    return total


class _Automaton:
    def __init__(self, space: StagedSpace) -> None:
        self.space = space
        self.stages = space.options.stages
        self.open: Values = (None,) * len(space.options.names)
        self.steps = 0
        self._moves: dict[_Place, list[tuple[Block | None, _Place]]] = {}
        self._known: dict[frozenset[_Place], tuple[int, list[frozenset[_Place]]]] = {}

    def closure(self, states: set[_Place]) -> frozenset[_Place]:
        """With the states that identities lead to."""
        found, queue = set(states), list(states)
        while queue:
            for letter, target in self.moves(queue.pop()):
                if letter is None and target not in found:
                    found.add(target)
                    queue.append(target)
        return frozenset(found)

    def step(self, subset: frozenset[_Place]) -> tuple[int, list[frozenset[_Place]]]:
        """How many words end after the head here, and where each letter leads."""
        if subset not in self._known:
            heads = {
                self.space.head(state.shape, state.base).blocks
                for state in subset
                if isinstance(state, _State) and state.stage == len(self.stages)
            }
            targets: dict[Block, set[_Place]] = {}
            for state in subset:
                for letter, target in self.moves(state):
                    self.steps += 1
                    if letter is not None:
                        targets.setdefault(letter, set()).add(target)
            self._known[subset] = len(heads), [self.closure(t) for t in targets.values()]
        return self._known[subset]

    def moves(self, state: _Place) -> list[tuple[Block | None, _Place]]:
        """(letter, next state); the letter is None for an identity."""
        if state not in self._moves:
            found: dict[tuple[Block | None, _Place], None] = {}
            if isinstance(state, _Within):
                found[state.letters[0], _after(state.letters[1:], state.target)] = None
            elif state.stage < len(self.stages):
                for values, network, within in self._open(state):
                    placed = self.space.place(state.stage, state.block == 1, state.shape, values)
                    letter = placed.blocks[0] if placed.blocks else None
                    for target in self._targets(state, placed.shape, network, within):
                        found[letter, _after(placed.blocks[1:], target)] = None
            self._moves[state] = list(found)
        return self._moves[state]

    def _open(self, state: _State) -> Iterator[tuple[Values, Values, Values]]:
        """The block's values, with what network and stage are bound to by choosing them.

        A choice that blocks share is made when the first of them needs it, not before.
        """
        dimensions = self.stages[state.stage].dimensions
        alternatives = self.space.options.alternatives
        pending: list[tuple[Values, Values, Values]] = [((), state.network, state.within)]
        for i, name in enumerate(self.space.options.names):
            dimension = dimensions[name]
            after: list[tuple[Values, Values, Values]] = []
            for values, network, within in pending:
                if i > 1 and name not in alternatives[cast(str, values[1])].dimensions:
                    after.append(((*values, None), network, within))
                    continue
                shared = {"network": network, "stage": within}.get(dimension.scope, self.open)
                bound = shared[i]
                for value in dimension.choices if bound is None else (bound,):
                    binding = network, within
                    if not dimension.fixed and dimension.scope == "network":
                        binding = (*network[:i], value, *network[i + 1 :]), within
                    elif not dimension.fixed and dimension.scope == "stage":
                        binding = network, (*within[:i], value, *within[i + 1 :])
                    after.append(((*values, value), *binding))
            pending = after
        yield from pending

    def _targets(
        self, state: _State, shape: Shape, network: Values, within: Values
    ) -> Iterator[_State]:
        """The next block of the stage, and the next stage where this block may be the last."""
        stage = self.stages[state.stage]
        if state.block < stage.depths[-1]:
            yield _State(state.stage, state.block + 1, shape, state.base, network, within)
        if state.block in stage.depths:
            later = self.stages[state.stage + 1 :]
            open_again = tuple(
                value if any(s.dimensions[name].scope == "network" for s in later) else None
                for name, value in zip(self.space.options.names, network, strict=True)
            )
            yield _State(state.stage + 1, 1, shape, state.base, open_again, self.open)
