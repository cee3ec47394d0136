"""Small programs, each in every order in which its tasks can run.

Whatever happens, a `Ledger` checks in the end of each schedule what the bus has promised. The
tests say how many schedules they explored: `pytest -rP tests/core/test_schedules.py`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import Overflow

from .. import schedules
from ..schedules import TRIO, Account, Explored, Ledger, Orders, Schedule, open_ledger

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
    assert sorted(found) == ["abc", "bca", "cab", "cba"]


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
# Senders, subscriptions, readers
# ---------------------------------------------------------------------------------------------

SHAPES = [
    pytest.param(("a", "*"), ("aa", "a"), id="both subscriptions match"),
    pytest.param(("a", "b"), ("ab", "a"), id="one subscription matches"),
]


def fan_out(
    patterns: tuple[str, str],
    sent: tuple[str, str],
    overflow: Overflow,
    *,
    turns: bool,
    orders: set[tuple[str, ...]],
) -> Program:
    """Where operations give turns, there is enough to explore once the readers wait."""

    async def program(schedule: Schedule) -> None:
        async with open_ledger(checkpoint_every=1 if turns else 1000) as ledger:
            accounts = [await ledger.subscribe(p, overflow=overflow) for p in patterns]
            async with trio.open_nursery() as readers:
                if turns:
                    for account in accounts:
                        readers.start_soon(account.receive)
                async with schedule.explored(), trio.open_nursery() as senders:
                    if not turns:
                        for account in accounts:
                            readers.start_soon(account.receive)
                    for sender, systems in zip("12", sent, strict=True):
                        senders.start_soon(ledger.send_all, sender, systems)
                ledger.check_waits()
                ledger.close()
        orders.add(tuple(ledger.calls))

    return program


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize(("patterns", "sent"), SHAPES)
def test_two_senders_two_subscriptions_two_readers_and_three_events(
    explore: Explore, patterns: tuple[str, str], sent: tuple[str, str], overflow: Overflow
) -> None:
    """Complete; but with CLOSE or LATEST, where both match, complete up to two swaps."""
    orders: set[tuple[str, ...]] = set()
    many = overflow in {Overflow.CLOSE, Overflow.LATEST} and "*" in patterns
    program = fan_out(patterns, sent, overflow, turns=False, orders=orders)
    explored = explore(program, detours=2 if many else math.inf)
    assert explored.complete
    assert explored.schedules > len(orders) > 1


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize(("patterns", "sent"), SHAPES)
def test_two_senders_two_subscriptions_and_two_events_when_each_operation_gives_a_turn(
    explore: Explore, patterns: tuple[str, str], sent: tuple[str, str], overflow: Overflow
) -> None:
    """Complete from when the readers wait."""
    orders: set[tuple[str, ...]] = set()
    sent = sent[0][-1], sent[1]
    explored = explore(fan_out(patterns, sent, overflow, turns=True, orders=orders))
    assert explored.complete
    assert explored.schedules > len(orders) > 1


def test_held_events_come_before_newer_ones(explore: Explore) -> None:
    """Complete. A reader makes room for a newer event before the actor hands over the held one."""

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a", size=2)
            async with trio.open_nursery() as nursery:
                await ledger.send_all("1", "aaa")
                await wait_all_tasks_blocked()
                assert account.subscription.statistics().held == 1
                nursery.start_soon(ledger.send, "2", "a")
                async with schedule.explored():
                    nursery.start_soon(account.receive, 2 + schedule.choose(2))
                account.receive_nowait()

    explored = explore(program)
    assert explored.complete
    assert explored.schedules > 1


def test_as_many_senders_go_in_as_there_is_room_and_no_newcomer_overtakes(
    explore: Explore,
) -> None:
    """Complete."""

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a", size=2)
            await ledger.send_all("1", "aa")
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                for sender in "234":
                    nursery.start_soon(ledger.send, sender, "a")
                    await wait_all_tasks_blocked()
                async with schedule.explored():
                    nursery.start_soon(partial(account.receive, 2, pause=schedule.choose(2)))
                    nursery.start_soon(partial(ledger.send, "newcomer", "a"))
                ledger.check_waits()
                books = account.subscription.statistics()
                assert (books.queued, books.held, books.tasks_waiting_send) == (2, 0, 2)
                ledger.close()

    explored = explore(program)
    assert explored.complete
    assert explored.schedules > 1


def test_senders_that_wait_for_the_inbox_and_for_a_subscription(explore: Explore) -> None:
    """Complete up to two swaps."""

    async def program(schedule: Schedule) -> None:
        async with open_ledger(inbox_size=1) as ledger:
            account = await ledger.subscribe("a")
            async with trio.open_nursery() as nursery:
                async with schedule.explored():
                    for sender in "123":
                        nursery.start_soon(ledger.send_all, sender, "a")
                    nursery.start_soon(account.receive)
                ledger.check_waits()
                ledger.close()

    explored = explore(program, detours=2)
    assert explored.complete
    assert explored.schedules > 1


# ---------------------------------------------------------------------------------------------
# Races
# ---------------------------------------------------------------------------------------------

Close = Callable[[Ledger, Account], None]

CLOSES = [  # with how many swaps at most: the more is closed, the more has to be done
    pytest.param(lambda ledger, account: account.close(), math.inf, id="the subscription"),
    pytest.param(lambda ledger, account: account.close_channel(), 2, id="the channel"),
    pytest.param(lambda ledger, account: ledger.close(), 2, id="the bus"),
]


async def sometime(schedule: Schedule, turns: int, do: Callable[[], object]) -> None:
    """Give others none or more turns, less than so many, and then do something."""
    for _ in range(schedule.choose(turns)):
        await trio.lowlevel.checkpoint()
    do()


@pytest.mark.parametrize(("close", "swaps"), CLOSES)
def test_send_racing_close(explore: Explore, close: Close, swaps: float) -> None:
    """Complete, or complete up to two swaps. The third event may have to wait for the close."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a")
            async with schedule.explored(), trio.open_nursery() as nursery:
                nursery.start_soon(ledger.send_all, "s", "aaa")
                nursery.start_soon(account.receive, 1)
                nursery.start_soon(sometime, schedule, 3, lambda: close(ledger, account))
            outcomes.add(account.until)
            outcomes.add(len(ledger.returned))

    explored = explore(program, detours=swaps)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1


@pytest.mark.parametrize(("close", "swaps"), CLOSES)
def test_close_racing_receive(explore: Explore, close: Close, swaps: float) -> None:
    """Complete, or complete up to two swaps."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a", size=2)
            async with schedule.explored(), trio.open_nursery() as nursery:
                nursery.start_soon(account.receive)
                nursery.start_soon(ledger.send_all, "s", "aa")
                nursery.start_soon(sometime, schedule, 3, lambda: close(ledger, account))
            outcomes.add(len(account.readers[0]))

    explored = explore(program, detours=swaps)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1


@pytest.mark.parametrize("batch", [None, 2])
def test_two_readers_racing_on_one_channel(explore: Explore, batch: int | None) -> None:
    """Complete. One of them may read in batches."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a", size=2)
            async with trio.open_nursery() as readers:
                async with schedule.explored():
                    readers.start_soon(account.receive)
                    readers.start_soon(partial(account.receive, batch=batch))
                    await ledger.send_all("s", "aaaa")
                ledger.check_waits()
                account.close()
        outcomes.add(tuple(map(len, account.readers)))

    explored = explore(program)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1


def test_cancel_racing_a_waiting_send(explore: Explore) -> None:
    """Complete up to two swaps. Who is cancelled was first; the next one must get the room."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a")
            ledger.send_nowait("s", "a")
            scope = trio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await ledger.send("1", "a")

            async with trio.open_nursery() as nursery:
                await wait_all_tasks_blocked()
                nursery.start_soon(cancelled)
                await wait_all_tasks_blocked()
                nursery.start_soon(ledger.send, "2", "a")
                async with schedule.explored():
                    nursery.start_soon(sometime, schedule, 3, scope.cancel)
                    nursery.start_soon(partial(account.receive, 2, pause=schedule.choose(2)))
                account.receive_nowait()
        outcomes.add(len(ledger.returned))

    explored = explore(program, detours=2)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1


def test_cancel_racing_a_waiting_receive(explore: Explore) -> None:
    """Complete up to two swaps."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            account = await ledger.subscribe("a")
            scope = trio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await account.receive()

            async with trio.open_nursery() as readers:
                readers.start_soon(cancelled)
                await wait_all_tasks_blocked()
                readers.start_soon(account.receive)
                async with schedule.explored(), trio.open_nursery() as nursery:
                    nursery.start_soon(sometime, schedule, 3, scope.cancel)
                    nursery.start_soon(ledger.send_all, "1", "aa")
                    nursery.start_soon(ledger.send_all, "2", "a")
                ledger.check_waits()
                account.close()
        outcomes.add(tuple(map(len, account.readers)))

    explored = explore(program, detours=2)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1


@pytest.mark.parametrize(("close", "swaps"), CLOSES)
def test_two_waiting_senders_and_a_closing_subscription(
    explore: Explore, close: Close, swaps: float
) -> None:
    """Complete up to one swap. The senders may then wait for the other one."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger() as ledger:
            closing = await ledger.subscribe("a")
            other = await ledger.subscribe("*")
            ledger.send_nowait("s", "a")
            async with trio.open_nursery() as nursery:
                for sender in "12":
                    await wait_all_tasks_blocked()
                    nursery.start_soon(ledger.send, sender, "a")
                async with schedule.explored():
                    nursery.start_soon(sometime, schedule, 2, lambda: close(ledger, closing))
                    nursery.start_soon(other.receive)
                ledger.check_waits()
                ledger.close()
        outcomes.add(closing.until)
        outcomes.add(len(ledger.returned))

    explored = explore(program, detours=1)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1


def test_subscribe_racing_send(explore: Explore) -> None:
    """Complete up to two swaps. The newcomer gets exactly what is accepted afterwards."""
    outcomes = set()

    async def program(schedule: Schedule) -> None:
        async with open_ledger(checkpoint_every=1) as ledger:
            await ledger.subscribe("a", size=9)

            async def newcomer() -> None:
                account = await ledger.subscribe("*", size=9)
                outcomes.add(account.since)
                await account.receive(1)
                account.close()

            async with schedule.explored(), trio.open_nursery() as nursery:
                nursery.start_soon(newcomer)
                nursery.start_soon(ledger.send_all, "1", "aa")
                nursery.start_soon(ledger.send_all, "2", "aaaa")

    explored = explore(program, detours=2)
    assert explored.complete
    assert explored.schedules > len(outcomes) > 1
