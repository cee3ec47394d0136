"""Every order in which tasks can run, and what a bus promises in each of them.

trio runs tasks in batches: all those that can run, each until it waits, then all those that can
run then. Only the order within a batch is left to chance, and all chance comes from one random
source. `explore` takes the place of this source and makes it a path through a tree of choices:
it runs a program again and again, depth first, until there is no other path.

A `Ledger` is a bus that writes down who was promised what, and in the end compares.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, MutableSequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    Overflow,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)

from .observing import assert_balanced, tasks_living

# ---------------------------------------------------------------------------------------------
# The explorer
# ---------------------------------------------------------------------------------------------

TRIO = "trio._core._run"
"""Where trio's one random source is, and the switch that makes everything else certain."""


class Orders(enum.Enum):
    """Which orders of a batch of tasks there are."""

    ALL = "all permutations"
    BOTH_WAYS = "as it is, and reversed"


@final
@attrs.frozen
class Explored:
    """What an exploration came to."""

    schedules: int
    """How many schedules there were. No two were the same."""

    complete: bool
    """Whether that was all of them."""


@final
class Schedule(random.Random):
    """One order of everything: trio's random source, with choices in place of chance."""

    def __init__(self, orders: Orders, detours: float) -> None:
        super().__init__(0)
        self.path: list[tuple[int, int]] = []  # each choice made, and the number of choices
        self._orders = orders
        self._detours = detours
        self._left = detours
        self._length = 0
        self._exploring = False

    @contextmanager
    def explored(self) -> Iterator[None]:
        """Explore the orders of the batches in the block, and of no others."""
        self._exploring = True
        try:
            yield
        finally:
            self._exploring = False

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if not self._exploring or len(x) < 2:
            return
        if self._orders is Orders.BOTH_WAYS:
            if self._choose(2):
                x.reverse()
            return
        for last in range(len(x) - 1, 0, -1):  # Fisher and Yates, who begin with a random number
            chosen = last - self._choose(last + 1)
            x[last], x[chosen] = x[chosen], x[last]

    def _choose(self, choices: int) -> int:
        if not self._left:
            choices = 1
        if self._length == len(self.path):
            self.path.append((0, choices))
        choice, expected = self.path[self._length]
        assert choices == expected, "the program does not depend on the schedule alone"
        self._length += 1
        self._left -= choice > 0
        return choice

    def next(self) -> bool:
        """Turn to the next path; False if this one was the last."""
        assert self._length == len(self.path), "the program does not depend on the schedule alone"
        self._length, self._left, self._exploring = 0, self._detours, False
        while self.path:
            choice, choices = self.path.pop()
            if choice + 1 < choices:
                self.path.append((choice + 1, choices))
                return True
        return False


def explore(
    program: Callable[[Schedule], Awaitable[object]],
    *,
    orders: Orders = Orders.ALL,
    detours: float = math.inf,
    cap: float = math.inf,
) -> Explored:
    """Run a program under each schedule. It must depend on nothing else.

    Args:
      program: Is called with the schedule, and says by `schedule.explored()` what to explore.
      orders: What to try with a batch.
      detours: How many choices of a schedule may be others than the first. Most mistakes need
        only few, and there are far fewer such schedules.
      cap: After how many schedules to give up.
    """
    schedule = Schedule(orders, detours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{TRIO}._r", schedule)
        patch.setattr(f"{TRIO}._ALLOW_DETERMINISTIC_SCHEDULING", True)
        for count in itertools.count(1):
            try:
                trio.run(program, schedule, clock=MockClock(autojump_threshold=0))
            except BaseException as error:
                choices = [choice for choice, _ in schedule.path]
                error.add_note(f"in schedule {count}, with the choices {choices}")
                raise
            if not schedule.next():
                return Explored(count, complete=True)
            if count >= cap:
                return Explored(count, complete=False)
    raise AssertionError("there is always another number")


def reason_not_to_explore() -> str | None:
    """What in trio is not as `explore` needs it; None if it can be used."""
    core = trio._core._run
    for name in ("_r", "_ALLOW_DETERMINISTIC_SCHEDULING", "unrolled_run"):
        if not hasattr(core, name):
            return f"trio {trio.__version__} has no {TRIO}.{name}"
    for line in ("if _ALLOW_DETERMINISTIC_SCHEDULING:", "batch.sort(", "_r.shuffle(batch)"):
        if line not in inspect.getsource(core.unrolled_run):
            return f"trio {trio.__version__} no longer says {line!r} in {TRIO}.unrolled_run"
    return None


# ---------------------------------------------------------------------------------------------
# The ledger
# ---------------------------------------------------------------------------------------------

SYSTEMS = {  # patterns, each with all the systems in use that it matches
    "a": {"a"},
    "b": {"b"},
    "*": {"a", "b"},
    "(a|b)": {"a", "b"},
    "a.**": {"a", "a.x"},
    "**": {"a", "b", "a.x"},
}
KINDS = {None: {"k", "l"}, "k": {"k"}}


@final
@attrs.define(eq=False)
class Account:
    """A subscription, what it was promised, and what was read from it."""

    ledger: Ledger
    subscription: Subscription
    size: int
    since: int
    """How many events had been accepted when it began: none of them is for it."""

    until: int | None = None
    """How many when it was closed: the others are not for it."""

    channel_closed: bool = False
    read: list[list[Event]] = attrs.Factory(list)
    """What each reader got, in its order."""

    def close(self) -> None:
        """Close the subscription."""
        self.note_end()
        self.subscription.close()

    def close_channel(self) -> None:
        """Close the channel."""
        self.note_end()
        self.channel_closed = True
        self.subscription.channel().close()

    def note_end(self) -> None:
        if self.until is None:
            self.until = self.ledger.accepted

    async def receive(self, count: float = math.inf, *, pause: int = 0) -> None:
        """Be a reader until the channel ends, or until so many events were read.

        Args:
          count: How many events to read at most.
          pause: How many times to let others go first after each event.
        """
        got: list[Event] = []
        self.read.append(got)
        try:
            while len(got) < count:
                got.append(await self.subscription.channel().receive())
                for _ in range(pause):
                    await trio.lowlevel.checkpoint()
        except (trio.EndOfChannel, trio.ClosedResourceError, SubscriptionOverflowError) as end:
            self.assert_right_end(end)

    def receive_rest(self) -> None:
        """Read what is left after the bus has ended."""
        got: list[Event] = []
        self.read.append(got)
        try:
            while True:
                got.append(self.subscription.channel().receive_nowait())
        except (trio.EndOfChannel, trio.ClosedResourceError, SubscriptionOverflowError) as end:
            self.assert_right_end(end)

    def assert_right_end(self, end: Exception) -> None:
        if self.channel_closed:
            assert type(end) is trio.ClosedResourceError
        elif self.overflowed:
            assert type(end) is SubscriptionOverflowError
        else:
            assert type(end) is trio.EndOfChannel
            assert self.until is not None or self.ledger.closed, "it ended by itself"

    @property
    def overflowed(self) -> bool:
        books = self.subscription.statistics()
        return self.subscription.overflow is Overflow.CLOSE and books.dropped > 0

    def wants(self, event: Event) -> bool:
        """Whether the patterns match, by the book."""
        subscription = self.subscription
        return event.system in SYSTEMS[subscription.system] and (
            event.kind in KINDS[subscription.kind]
        )

    def look(self) -> None:
        """Check what is true at every instant."""
        books = self.subscription.statistics()
        assert_balanced(self.subscription)
        assert books.delivered >= sum(map(len, self.read))
        assert books.held <= self.ledger.bus.statistics().inbox_size
        used = self.subscription.channel().statistics().current_buffer_used
        assert used + books.held == books.queued
        if self.until is None and not self.ledger.closed:
            assert used <= self.size

    def check(self, order: list[Event]) -> None:
        """Check all that was promised, given the total order of events."""
        place = {event.path: number for number, event in enumerate(order)}
        for got in self.read:
            places = [place[event.path] for event in got]
            assert places == sorted(set(places)), "not a subsequence of the total order"
        received = sorted(
            (event for got in self.read for event in got), key=lambda event: place[event.path]
        )
        expected = [event for event in order[self.since : self.until] if self.wants(event)]
        books = self.subscription.statistics()
        assert books.delivered == len(received)
        assert books.queued == books.held == books.tasks_waiting_send == 0
        if not self.channel_closed:
            assert books.discarded == 0
        if self.overflowed:
            assert len(received) < books.matched <= len(expected)
        else:
            assert books.matched == len(expected)
        match self.subscription.overflow:
            case Overflow.BLOCK:
                assert received == expected[: len(received)]
                assert books.dropped == 0
            case Overflow.CLOSE:
                assert received == expected[: len(received)]
            case Overflow.DROP_OLDEST:
                assert set(paths(received)) <= set(paths(expected))
                if expected and not self.channel_closed:
                    assert received[-1] == expected[-1]
            case Overflow.DROP_INCOMING:
                assert set(paths(received)) <= set(paths(expected))
                if expected and received:
                    assert received[0] == expected[0]


@final
@attrs.define(eq=False)
class Ledger(trio.abc.Instrument):
    """A bus, everything that was asked of it, and an eye on it after every step of every task."""

    bus: EventBus
    fifo: bool
    """Whether a send takes its place in the moment of the call."""

    closed: bool = False
    accounts: list[Account] = attrs.Factory(list)
    calls: dict[str, Event] = attrs.Factory(dict)  # by path, in the order of the calls to `send`
    returned: set[str] = attrs.Factory(set)
    raised: set[str] = attrs.Factory(set)
    complaints: list[AssertionError] = attrs.Factory(list)

    @property
    def accepted(self) -> int:
        """How many events the bus has accepted up to now."""
        return self.bus.statistics().accepted

    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        size: int = 1,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Account:
        """Subscribe, and keep an account of it."""
        subscription = await self.bus.subscribe(
            system, kind, max_buffer_size=size, overflow=overflow
        )
        account = Account(self, subscription, size, self.accepted)
        self.accounts.append(account)
        return account

    async def send(self, sender: str, system: str, kind: str = "k") -> None:
        """Send an event, unless the bus is closed."""
        event = self._new_event(sender, system, kind)
        try:
            await self.bus.send(system, kind, event.path)
        except BusClosedError:
            self.raised.add(event.path)
            assert self.closed
        except BaseException:
            self.raised.add(event.path)
            raise
        else:
            self.returned.add(event.path)

    def send_nowait(self, sender: str, system: str, kind: str = "k") -> None:
        """Send an event, unless that would wait or the bus is closed."""
        event = self._new_event(sender, system, kind)
        try:
            self.bus.send_nowait(system, kind, event.path)
        except BusClosedError:
            self.raised.add(event.path)
            assert self.closed
        except trio.WouldBlock:
            self.raised.add(event.path)
        else:
            self.returned.add(event.path)

    def _new_event(self, sender: str, system: str, kind: str) -> Event:
        path = f"/{sender}/{len(self.calls)}"
        event = self.calls[path] = Event(system, kind, path)
        return event

    async def send_all(self, sender: str, *systems: str) -> None:
        """Send an event to each of the systems."""
        for system in systems:
            await self.send(sender, system)

    def close_bus(self) -> None:
        """Close the bus."""
        self.closed = True
        self.bus.close()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        # An instrument that raises would only be switched off.
        try:
            for account in self.accounts:
                account.look()
        except AssertionError as error:
            self.complaints.append(error)

    def check_quiet(self) -> None:
        """Check that whoever waits has a reason to. For when nobody has anything to do."""
        assert self.bus.statistics().current_inbox_used == 0
        for account in self.accounts:
            books = account.subscription.statistics()
            if account.subscription.channel().statistics().tasks_waiting_receive:
                assert books.queued == 0, "a reader waits, and so does an event"
        waiting = [e for path, e in self.calls.items() if path not in self.returned | self.raised]
        assert self.bus.statistics().tasks_waiting_send == len(waiting)
        for event in waiting:
            assert any(
                account.wants(event) and account.subscription.statistics().queued >= account.size
                for account in self.accounts
                if account.subscription.overflow is Overflow.BLOCK and account.until is None
            ), f"the sender of {event} waits, and nothing is full"

    def check(self, witness: Account) -> None:
        """Check all that was promised. For after the end of the bus."""
        for account in self.accounts:
            account.receive_rest()
        [order] = witness.read
        if self.complaints:
            raise self.complaints[0]

        # All or nothing; and the total order is one that the senders can have made.
        assert self.returned | self.raised == self.calls.keys()
        assert len(order) == len(self.returned)
        assert set(paths(order)) == self.returned - self.raised
        sent = [event for path, event in self.calls.items() if path in self.returned]
        for line in self._lines():
            assert list(filter(line, order)) == list(filter(line, sent))
        for account in self.accounts:
            account.check(order)

        router = self.bus._router
        assert router.table.is_empty
        assert not (router.subscriptions or router.inbox or router.senders)
        assert not (router._full or router._obstacles)

    def _lines(self) -> Iterator[Callable[[Event], bool]]:
        """Who must not overtake each other: events of one sender, and those of one name."""
        for sender in {path.split("/")[1] for path in self.calls}:
            yield lambda event, sender=sender: event.path.split("/")[1] == sender  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
        if self.fifo:
            for name in {(event.system, event.kind) for event in self.calls.values()}:
                yield lambda event, name=name: (event.system, event.kind) == name  # type: ignore[misc]  # as above


def paths(events: list[Event]) -> list[str]:
    return [event.path for event in events]


@asynccontextmanager
async def open_ledger(
    *, inbox_size: int = 256, checkpoint_every: int = 1000
) -> AsyncGenerator[Ledger]:
    """Open a bus, and in the end check all that it promised. Whoever hangs fails at once."""
    before = tasks_living()
    with trio.fail_after(3600):
        async with open_event_bus(
            inbox_size=inbox_size, checkpoint_every=checkpoint_every
        ) as bus:
            ledger = Ledger(bus, fifo=checkpoint_every >= 1000)
            # It sees everything, never is full, and so never makes anybody wait.
            witness = await ledger.subscribe("**", size=100_000)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(ledger)
            yield ledger
            ledger.closed = True
    trio.lowlevel.remove_instrument(ledger)
    assert tasks_living() == before
    ledger.check(witness)
