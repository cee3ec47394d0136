"""Relations between patterns: a name that two of them match, or that some of them don't cover.

Each answer considers all names, of any number of segments, and is exact unless a budget of steps
runs out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, final

from .pattern import FRESH, MANY, WILDCARDS, Pattern, Segment, literals_of

_STEPS_OF_A_NODE: Final = 4
"""The number of steps for comparing one pair of segments."""


@final
class BudgetExhaustedError(Exception):
    """The search took more steps than its budget allows."""


@final
class Budget:
    """The steps left for one search, or for several together.

    A step is about a microsecond.

    Args:
      steps: The number of steps at the beginning.
    """

    __slots__ = ("left",)

    def __init__(self, steps: float = math.inf) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take steps from the budget.

        Raises:
          BudgetExhaustedError: If fewer are left.
        """
        self.left -= steps
        if self.left < 0:
            raise BudgetExhaustedError


def common_name(one: Pattern, other: Pattern, budget: Budget | None = None) -> str | None:
    """A name that both patterns match, or None if there is none.

    It is often short, but may have more segments than an event can have. The number of steps is
    proportional to the product of the two numbers of segments.

    Raises:
      BudgetExhaustedError: If the budget is too small.
    """
    if not _common_symbols(one.segments[0], other.segments[0]):
        return None  # true for most rules of a policy, and too cheap to count
    budget = budget or Budget()
    # A node is a state of each pattern, and whether the name has begun.
    start, goal = (0, 0, False), (len(one.segments), len(other.segments), True)
    names: dict[tuple[int, int, bool], tuple[str, ...]] = {start: ()}  # that lead to a node
    todo = [start]
    while todo and goal not in names:
        budget.spend(_STEPS_OF_A_NODE)
        i, j, begun = node = todo.pop()
        ours = one.segments[i] if i < goal[0] else None
        theirs = other.segments[j] if j < goal[1] else None
        following = []
        if ours is not None and theirs is not None:
            after = (i if ours == MANY else i + 1, j if theirs == MANY else j + 1, True)
            for symbol in _common_symbols(ours, theirs):
                if begun or (one._may_begin(symbol) and other._may_begin(symbol)):
                    following.append((after, (*names[node], symbol)))
                    break
        # These come last, to be tried first: they add nothing to the name.
        if ours == MANY:
            following.append(((i + 1, j, begun), names[node]))
        if theirs == MANY:
            following.append(((i, j + 1, begun), names[node]))
        for after, name in following:
            if after not in names:
                names[after] = name
                todo.append(after)
    return _spelt(names[goal], [one, other]) if goal in names else None


_Trail: TypeAlias = "tuple[str, _Trail] | None"
"""The segments of a name from the last one back, so that all names share their beginnings."""


def uncovered_name(
    patterns: Sequence[Pattern], other: Pattern, budget: Budget | None = None
) -> str | None:
    """A name that the other pattern matches and none of the patterns does.

    Returns:
      The name, often a short one, which may have more segments than an event can have; or None if
      there is none.

    Raises:
      BudgetExhaustedError: If the budget is too small. Following one segment in one pattern is
        a step.
    """
    budget = budget or Budget()
    # Look for a name of `other` that is in none of the patterns, following `other` along one path
    # at a time (its state is a number) and the patterns along all paths at once (each has a set of
    # states). Where `other` has a wildcard it is enough to try FRESH: a segment that a pattern
    # knows as a literal could only help the patterns.
    start = (0, tuple(pattern._closed(1) for pattern in patterns), False)
    names: dict[tuple[int, tuple[int, ...], bool], _Trail] = {start: None}  # that lead to a node
    todo = [start]
    while todo:
        state, sets, begun = node = todo.pop()
        if state == len(other.segments):
            if begun and not any(
                p._accepts(states) for p, states in zip(patterns, sets, strict=True)
            ):
                return _spelt(_symbols(names[node]), [*patterns, other])
            continue
        segment = other.segments[state]
        after = state if segment == MANY else state + 1
        following: list[tuple[tuple[int, tuple[int, ...], bool], _Trail]] = []
        for symbol in (FRESH,) if segment in WILDCARDS else sorted(literals_of(segment)):
            budget.spend(1 + len(patterns))
            if begun:
                next_sets = tuple(
                    p._next(states, symbol) for p, states in zip(patterns, sets, strict=True)
                )
            elif other._may_begin(symbol):
                next_sets = tuple(p._first(symbol) for p in patterns)
            else:
                continue
            following.append(((after, next_sets, True), (symbol, names[node])))
        if segment == MANY:  # last, to be tried first: it adds nothing to the name
            following.append(((state + 1, sets, begun), names[node]))
        for after_node, trail in following:
            if after_node not in names:
                names[after_node] = trail
                todo.append(after_node)
    return None


def _symbols(trail: _Trail) -> list[str]:
    symbols = []
    while trail is not None:
        symbol, trail = trail
        symbols.append(symbol)
    return symbols[::-1]


def _spelt(symbols: Iterable[str], patterns: Iterable[Pattern]) -> str:
    """The name of these segments, FRESH being one that none of the patterns mentions."""
    literals = set[str]().union(*(pattern._literals for pattern in patterns))
    fresh = "x"
    while fresh in literals:
        fresh += "x"
    return ".".join(fresh if symbol == FRESH else symbol for symbol in symbols)


def _common_symbols(a: Segment, b: Segment) -> Iterable[str]:
    """Segments of a name that both match; for two wildcards, FRESH stands for any."""
    if a in WILDCARDS:
        return (FRESH,) if b in WILDCARDS else sorted(literals_of(b))
    if b in WILDCARDS:
        return sorted(literals_of(a))
    return sorted(set(literals_of(a)).intersection(literals_of(b)))
