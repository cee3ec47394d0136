"""The pure look for waits that can never end, against one that follows every detour."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from trio_events._core.deadlock import hopeless_waits, next_look

from ..steps import count_lines

TASKS, PLACES = range(6), "pqrs"


def doomed(waits: dict[int, str], enders: dict[str, list[int]]) -> set[int]:
    """Those that wait where only such tasks could end it as wait themselves, and so on."""
    left = set(waits)
    while True:
        hopeful = {
            task for task in left if not enders.get(waits[task]) or set(enders[waits[task]]) - left
        }
        if not hopeful:
            return left
        left -= hopeful


def wait_for(task: int, waits: dict[int, str], enders: dict[str, list[int]]) -> set[int]:
    """The tasks that a task waits for, by whatever detours."""
    found: set[int] = set()
    todo = [task]
    while todo:
        for other in enders[waits[todo.pop()]]:
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def expected(waits: dict[int, str], enders: dict[str, list[int]], order: list[int]) -> list[int]:
    waits = waits.copy()
    first = doomed(waits, enders)
    themselves = {task for task in first if task in wait_for(task, waits, enders)}
    verdict = []
    for task in order:
        if task in themselves & doomed(waits, enders):
            verdict.append(task)
            del waits[task]
    return verdict


@given(
    waits=st.dictionaries(st.sampled_from(TASKS), st.sampled_from(PLACES), max_size=6),
    enders=st.dictionaries(
        st.sampled_from(PLACES), st.lists(st.sampled_from(TASKS), unique=True, max_size=3)
    ),
    order=st.permutations(TASKS),
    old_enough=st.sets(st.sampled_from(TASKS)),
)
@settings(max_examples=500, deadline=None)
def test_any_graph_has_the_verdict_that_following_every_detour_has(
    waits: dict[int, str], enders: dict[str, list[int]], order: list[int], old_enough: set[int]
) -> None:
    candidates = [task for task in order if task in old_enough]
    verdict = hopeless_waits(waits, enders, candidates)
    assert verdict == expected(waits, enders, candidates)
    if set(candidates) >= set(waits):  # then all can go on in the end
        left = {task: place for task, place in waits.items() if task not in verdict}
        assert not doomed(left, enders)


def test_a_task_that_only_waits_for_a_ring_is_left_alone() -> None:
    waits = {0: "p", 1: "q", 2: "r"}
    enders = {"p": [1], "q": [2], "r": [1]}
    assert hopeless_waits(waits, enders, [0, 1, 2]) == [1]
    assert hopeless_waits(waits, enders, [0]) == []


def test_the_look_is_linear() -> None:
    def look(size: int) -> int:
        waits = {task: f"place {task}" for task in range(size)}
        ring = {f"place {task}": [(task + 1) % size] for task in range(size)}
        return count_lines(lambda: hopeless_waits(waits, ring, list(waits)), at_most=1_000_000)

    assert look(2_000) <= 2.1 * look(1_000)


@pytest.mark.parametrize(
    ("waited", "at"),
    [(0, 1), (0.9, 1), (1, 2), (1.9, 2), (2, 4), (63, 64), (64, 124), (123, 124), (124, 184)],
)
def test_a_wait_is_checked_after_1_2_4_seconds_up_to_64_and_then_every_minute(
    waited: float, at: float
) -> None:
    assert next_look(waited) == at
