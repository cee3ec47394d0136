"""Small programs, each in every order in which its tasks can run.

Whatever happens, a `Ledger` checks in the end of each schedule what the bus has promised. The
tests say how many schedules they explored: `pytest -rP tests/test_schedules.py`.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest
import trio
import trio.testing

from trio_events import Overflow

from . import schedules
from .schedules import TRIO, Account, Explored, Ledger, Orders, Schedule, open_ledger

# ---------------------------------------------------------------------------------------------
# The explorer
# ---------------------------------------------------------------------------------------------

Program = Callable[[Schedule], Awaitable[object]]


class Explore(Protocol):
    def __call__(
        self,
        program: Program,
        *,
        orders: Orders = ...,
        detours: float = ...,
        cap: float = ...,
    ) -> Explored: ...


@pytest.fixture
def explore(
    record_property: Callable[[str, object], None], caplog: pytest.LogCaptureFixture
) -> Explore:
    """The explorer, if it works with this trio; it reports how many schedules there were."""
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")
    caplog.set_level(logging.CRITICAL, "trio_events")  # or there were lines for each schedule

    def explore_and_report(program: Program, **options: object) -> Explored:
        explored = schedules.explore(program, **options)  # type: ignore[arg-type]  # as in Explore
        print(explored)
        record_property("schedules", explored.schedules)
        return explored

    return explore_and_report


def orders_of(names: str, found: list[str]) -> Program:
    """A program with a task for each name, that finds in which order they run."""

    async def program(schedule: Schedule) -> None:
        order = []

        async def task(name: str) -> None:
            order.append(name)

        async with schedule.explored(), trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(task, name)
        found.append("".join(order))

    return program


def test_the_explorer_finds_both_orders_of_two_tasks(explore: Explore) -> None:
    found: list[str] = []
    assert explore(orders_of("ab", found)) == Explored(2, complete=True)
    assert sorted(found) == ["ab", "ba"]


def test_the_explorer_finds_each_order_once(explore: Explore) -> None:
    found: list[str] = []
    assert explore(orders_of("abcd", found)) == Explored(24, complete=True)
    assert sorted(found) == ["".join(order) for order in itertools.permutations("abcd")]


def test_the_explorer_finds_a_batch_and_its_reverse(explore: Explore) -> None:
    found: list[str] = []
    assert explore(orders_of("abcd", found), orders=Orders.BOTH_WAYS).schedules == 2
    assert sorted(found) == ["abcd", "dcba"]


def test_the_explorer_finds_what_one_swap_can_do(explore: Explore) -> None:
    found: list[str] = []
    assert explore(orders_of("abc", found), detours=1) == Explored(4, complete=True)
    assert sorted(found) == ["acb", "bac", "cab", "cba"] or len(set(found)) == 4


def test_the_explorer_stops_at_the_cap(explore: Explore) -> None:
    found: list[str] = []
    assert explore(orders_of("abc", found), cap=5) == Explored(5, complete=False)
    assert len(set(found)) == 5
    assert explore(orders_of("abc", found), cap=6) == Explored(6, complete=True)


def test_a_task_alone_is_no_choice(explore: Explore) -> None:
    async def program(schedule: Schedule) -> None:
        async with schedule.explored():
            for _ in range(10):
                await trio.lowlevel.checkpoint()

    assert explore(program) == Explored(1, complete=True)


def test_a_program_can_have_choices_of_its_own(explore: Explore) -> None:
    found = []

    async def program(schedule: Schedule) -> None:
        found.append((schedule.choose(2), schedule.choose(3)))

    assert explore(program).schedules == 6
    assert sorted(found) == list(itertools.product(range(2), range(3)))


def test_the_explorer_puts_everything_back_and_says_which_schedule_failed(
    explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = object()
    monkeypatch.setattr(f"{TRIO}._r", source)
    monkeypatch.setattr(f"{TRIO}._ALLOW_DETERMINISTIC_SCHEDULING", False)

    async def program(schedule: Schedule) -> None:
        assert schedule.choose(4) != 2

    with pytest.raises(AssertionError) as caught:
        explore(program)
    assert caught.value.__notes__[-1] == "in schedule 3, with the choices [2]"
    assert trio._core._run._r is source
    assert not trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING


def test_the_explorer_notices_what_it_does_not_control(explore: Explore) -> None:
    numbers = itertools.count(2)

    async def program(schedule: Schedule) -> None:
        schedule.choose(next(numbers))

    with pytest.raises(AssertionError, match="more than its schedule"):
        explore(program)


@pytest.mark.parametrize("name", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING", "unrolled_run"])
def test_the_explorer_says_what_it_misses_in_trio(
    name: str, explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(f"{TRIO}.{name}")
    assert f"has no {TRIO}.{name}" in str(schedules.reason_not_to_explore())


def test_the_explorer_says_what_has_changed_in_trio(
    explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unrolled_run() -> None:
        """if _ALLOW_DETERMINISTIC_SCHEDULING: batch.sort(key) or something newer"""

    monkeypatch.setattr(f"{TRIO}.unrolled_run", unrolled_run)
    assert "does not say '_r.shuffle(batch)'" in str(schedules.reason_not_to_explore())


# ---------------------------------------------------------------------------------------------
# Events to everybody
# ---------------------------------------------------------------------------------------------

BOTH_MATCH, EACH_ONE = ("a", "*"), ("a", "b")


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize(
    ("patterns", "first", "second"),
    [
        (BOTH_MATCH, "a", "a"),
        (BOTH_MATCH, "aa", "a"),
        (EACH_ONE, "a", "b"),
        (EACH_ONE, "ab", "a"),
    ],
)
@pytest.mark.parametrize("checkpoint_every", [1000, 1])
def test_two_senders_two_subscriptions_and_two_readers(
    explore: Explore,
    overflow: Overflow,
    patterns: tuple[str, str],
    first: str,
    second: str,
    checkpoint_every: int,
) -> None:
    """Complete while senders do not give each other turns: all permutations.

    Except for three events and Overflow.CLOSE: there, all with at most two swaps. If everybody
    gives everybody a turn each time: all batches as they are or reversed.
    """
    outcomes: set[object] = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger(checkpoint_every=checkpoint_every) as ledger:
            accounts = [await ledger.subscribe(p, overflow=overflow) for p in patterns]
            async with schedule.explored(), trio.open_nursery() as readers:
                for account in accounts:
                    readers.start_soon(account.receive)
                async with trio.open_nursery() as senders:
                    senders.start_soon(ledger.send_all, "one", first)
                    senders.start_soon(ledger.send_all, "two", second)
                ledger.close()
        outcomes.add(tuple(sender for sender in map(str, ledger.calls)))

    many = overflow is Overflow.CLOSE and len(first + second) > 2
    if checkpoint_every == 1:
        explored = explore(program, orders=Orders.BOTH_WAYS)
    else:
        explored = explore(program, detours=2 if many else 100)
    assert explored.schedules > 1
    assert explored.complete
    assert len(outcomes) > 1


def test_nobody_reads_and_senders_wait_only_for_what_is_full(explore: Explore) -> None:
    """Complete."""

    async def program(schedule: Schedule) -> None:
        async with open_ledger(inbox_size=2) as ledger, trio.open_nursery() as nursery:
            for pattern in ("a", "b", "*"):
                await ledger.subscribe(pattern, size=len(pattern) + (pattern == "*"))
            async with schedule.explored():
                nursery.start_soon(ledger.send_all, "one", "aa")
                nursery.start_soon(ledger.send_all, "two", "bb")
                await trio.testing.wait_all_tasks_blocked()
            ledger.check_waits()
            ledger.close()

    explored = explore(program)
    assert explored.schedules > 1
    assert explored.complete
