"""Finding waits that can never end. Pure: takes a graph of waits and returns a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Final, TypeVar

TaskT = TypeVar("TaskT", bound=Hashable)
PlaceT = TypeVar("PlaceT", bound=Hashable)

_DOUBLES_UNTIL: Final = 64  # seconds
_THEN_EVERY: Final = 60  # seconds

_SOON: Final = 600.0
"""Seconds. A later deadline, such as one around a whole program, is ignored."""


def gives_up(deadline: float, since: float, now: float) -> bool:
    """Whether a wait ends by itself soon enough.

    Args:
      deadline: When it ends by itself.
      since: When it began.
      now: The current time. All three are on the same clock, in seconds.
    """
    # If a deadline has passed without ending the wait, it must have been moved.
    return now <= deadline < since + _SOON


def next_look(waited: float) -> float:
    """The duration of a wait at its next check, in seconds: 1, 2, 4 … 64, then 60 more each time.

    Args:
      waited: How many seconds it has lasted so far.
    """
    if waited < 1:
        return 1
    if waited < _DOUBLES_UNTIL:
        return math.ldexp(1, math.frexp(waited)[1])  # the next power of two
    return _DOUBLES_UNTIL + _THEN_EVERY * ((waited - _DOUBLES_UNTIL) // _THEN_EVERY + 1)


def following_look(since: float, due: float, now: float) -> float:
    """When to check a wait again.

    Args:
      since: When it began.
      due: When the check at `now` was due.
      now: The current time.
    """
    # `due - since` was a whole number of seconds before it was rounded.
    waited = max(round(due - since), now - since)
    return max(since + next_look(waited), math.nextafter(now, math.inf))  # the clock may be coarse


def hopeless_waits(
    waits: Mapping[TaskT, PlaceT],
    enders: Mapping[PlaceT, Collection[TaskT]],
    candidates: Iterable[TaskT],
) -> list[TaskT]:
    """The waits to end, because nothing else will end them.

    A wait is hopeless if every task that could end it is itself waiting hopelessly. The waits to
    end are those of tasks that wait, directly or indirectly, for themselves. When one of them is
    ended, its task resumes and may end others. So the candidates are taken in order, and those that
    may resume after earlier ones were ended are skipped.

    Linear in the number of waits and of enders.

    Args:
      waits: Each task that is waiting and won't give up, with the place where it waits.
      enders: Each place, with the tasks that could end a wait there. If a place is missing or has
        no tasks, these are unknown, so a wait there isn't hopeless.
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
        """Where a wait may end, the tasks waiting there can resume and end other waits."""
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
    """For each place, a representative of its strongly connected component.

    Kosaraju's algorithm. Linear in the number of places and of edges.
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
