"""Which waits can never end. Pure: a graph of waits in, a verdict out."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Final, TypeVar

TaskT = TypeVar("TaskT", bound=Hashable)
PlaceT = TypeVar("PlaceT", bound=Hashable)

_DOUBLES_UNTIL: Final = 64  # seconds
_THEN_EVERY: Final = 60  # seconds

_SOON: Final = 600.0
"""Seconds. A deadline beyond that, such as one around a whole program, is as good as none."""


def gives_up(deadline: float, since: float, now: float) -> bool:
    """Whether a wait ends by itself, and soon enough to wait for that.

    Args:
      deadline: When it ends by itself.
      since: When it began.
      now: The time. All three are on the same clock, in seconds.
    """
    # A deadline that has passed and did not end it must have been moved.
    return now <= deadline < since + _SOON


def next_look(waited: float) -> float:
    """How long a wait has lasted when it is looked at next: 1, 2, 4 … 64 seconds, then 60 more.

    Args:
      waited: How many seconds it has lasted.
    """
    if waited < 1:
        return 1
    if waited < _DOUBLES_UNTIL:
        return math.ldexp(1, math.frexp(waited)[1])  # the next power of two
    return _DOUBLES_UNTIL + _THEN_EVERY * ((waited - _DOUBLES_UNTIL) // _THEN_EVERY + 1)


def hopeless_waits(
    waits: Mapping[TaskT, PlaceT],
    enders: Mapping[PlaceT, Collection[TaskT]],
    candidates: Iterable[TaskT],
) -> list[TaskT]:
    """Which waits to end, because nothing else will.

    A wait is hopeless if every task that could end it waits itself, and is hopeless, too. Those to
    be ended are those that wait, by whatever detours, for themselves. When one of them is ended,
    its task goes on and may end others. So the candidates are taken in order, and those that may go
    on after the ones before them were ended are left alone.

    Linear in the number of waits and of enders.

    Args:
      waits: Each task that waits and won't give up, with the place where it does.
      enders: Each place, with the tasks that could end a wait there. If a place is missing, or has
        none, that is not known: then there is hope.
      candidates: Tasks whose waits may be ended.
    """
    waiting: dict[PlaceT, list[TaskT]] = {}
    for task, place in waits.items():
        waiting.setdefault(place, []).append(task)
    ended_by: dict[TaskT, list[PlaceT]] = {}
    hopeful = []
    for place in waiting:
        tasks = enders.get(place, ())
        if not tasks or any(task not in waits for task in tasks):
            hopeful.append(place)
        for task in tasks:
            ended_by.setdefault(task, []).append(place)

    def spread() -> None:
        """Where a wait may end, those who wait there can go on and end others."""
        while hopeful:
            for task in waiting.pop(hopeful.pop(), ()):
                hopeful.extend(ended_by.pop(task, ()))

    spread()
    if not waiting:  # nearly always
        return []
    rings = _rings({place: [waits[task] for task in enders[place]] for place in waiting})
    in_rings = {
        task for place in waiting for task in enders[place] if rings[place] == rings[waits[task]]
    }
    verdict = []
    for task in candidates:
        if task in in_rings and waits[task] in waiting:
            verdict.append(task)
            hopeful.extend(ended_by.pop(task, ()))
            spread()
    return verdict


def _rings(following: Mapping[PlaceT, Collection[PlaceT]]) -> dict[PlaceT, PlaceT]:
    """For each place, one that stands for all those that lead to it and that it leads to.

    After Kosaraju. Linear in the number of places and of steps between them.
    """
    finished: list[PlaceT] = []
    seen: set[PlaceT] = set()
    for start in following:
        trail = [] if start in seen else [(start, iter(following[start]))]
        seen.add(start)
        while trail:
            place, others = trail[-1]
            other = next((other for other in others if other not in seen), None)
            if other is None:
                finished.append(place)
                trail.pop()
            else:
                seen.add(other)
                trail.append((other, iter(following[other])))
    preceding: dict[PlaceT, list[PlaceT]] = {}
    for place, others_of in following.items():
        for other in others_of:
            preceding.setdefault(other, []).append(place)
    rings: dict[PlaceT, PlaceT] = {}
    for ring in reversed(finished):
        members = [ring]
        while members:
            place = members.pop()
            if place not in rings:
                rings[place] = ring
                members += preceding.get(place, ())
    return rings
