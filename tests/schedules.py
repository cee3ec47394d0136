"""Every order in which tasks can run, and what a bus promises in each of them.

trio runs tasks in batches: all those that can run, each until it waits; then all those that can
run then. Only the order within a batch is left to chance, and all chance comes from one random
source. `explore` puts a path through a tree of choices in the place of this source, and runs a
program again and again, depth first, until there is no other path.

A `Ledger` is a bus that writes down who was promised what, and compares in the end.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableSequence
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    Overflow,
    Subscription,
    SubscriptionOverflowError,
    SubscriptionStatistics,
    open_event_bus,
)

from .observing import assert_balanced, paths, tasks_living

# ---------------------------------------------------------------------------------------------
# The explorer
# ---------------------------------------------------------------------------------------------

TRIO = "trio._core._run"
"""Where trio has its random source, and the switch that leaves nothing else to chance."""


class Orders(enum.Enum):
    """Which orders of a batch of tasks are explored."""

    ALL = "all permutations"
    BOTH_WAYS = "as it is, and reversed"


@final
@attrs.frozen
class Explored:
    """What an exploration came to."""

    schedules: int
    """How many schedules there were, no two of them the same."""

    complete: bool
    """Whether these were all."""


@final
class Schedule(random.Random):
    """One order of everything: trio's random source, with choices in place of chance."""

    def __init__(self, orders: Orders, detours: float) -> None:
        super().__init__(0)
        self.path: list[tuple[int, int]] = []  # each choice that was made, and out of how many
        self._length = 0  # of the part of the path that is behind us
        self._orders = orders
        self._detours = self._detours_left = detours
        self._exploring = False

    @asynccontextmanager
    async def explored(self) -> AsyncGenerator[None]:
        """Explore the orders from now until the block has ended and all tasks wait."""
        await wait_all_tasks_blocked()
        self._exploring = True
        yield
        await wait_all_tasks_blocked()
        self._exploring = False

    def choose(self, choices: int) -> int:
        """A number below `choices`: each of them, in one schedule or another."""
        if self._length == len(self.path):
            self.path.append((0, choices))
        choice, expected = self.path[self._length]
        self._length += 1
        assert choices == expected, "the program depends on more than its schedule"
        return choice

    def shuffle(self, x: MutableSequence[Any]) -> None:
        if not self._exploring or len(x) < 2:
            return
        if self._orders is Orders.BOTH_WAYS:
            if self._detour(2):
                x.reverse()
            return
        for last in range(len(x) - 1, 0, -1):  # as Fisher and Yates do it, but for the chance
            chosen = last - self._detour(last + 1)
            x[last], x[chosen] = x[chosen], x[last]

    def _detour(self, choices: int) -> int:
        choice = self.choose(choices if self._detours_left else 1)
        self._detours_left -= choice > 0
        return choice

    def turn_to_next(self) -> bool:
        """Turn to the next path. False if there is none."""
        assert self._length == len(self.path), "the program depends on more than its schedule"
        self._length, self._detours_left, self._exploring = 0, self._detours, False
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
    """Run a program under each schedule. Nothing else may make it run differently.

    Args:
      program: It says by `async with schedule.explored()` what is to be explored.
      orders: What to try with a batch of tasks.
      detours: How often a schedule may decide for another order than the first. Most mistakes
        need few such decisions, and schedules with few are few.
      cap: How many schedules to run at most.
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
            if not schedule.turn_to_next():
                return Explored(count, complete=True)
            if count >= cap:
                return Explored(count, complete=False)
    raise AssertionError("there is always another number")


def reason_not_to_explore() -> str | None:
    """What in trio is not as `explore` needs it; None if it all is."""
    core = trio._core._run
    for name in ("_r", "_ALLOW_DETERMINISTIC_SCHEDULING", "unrolled_run"):
        if not hasattr(core, name):
            return f"trio {trio.__version__} has no {TRIO}.{name}"
    for line in ("if _ALLOW_DETERMINISTIC_SCHEDULING:", "batch.sort(", "_r.shuffle(batch)"):
        if line not in inspect.getsource(core.unrolled_run):
            return f"trio {trio.__version__} does not say {line!r} in {TRIO}.unrolled_run"
    return None


# ---------------------------------------------------------------------------------------------
# The ledger
# ---------------------------------------------------------------------------------------------

SYSTEMS = {  # the patterns in use, and what systems in use they match
    "a": {"a"},
    "b": {"b"},
    "*": {"a", "b"},
    "(a|b)": {"a", "b"},
    "a.**": {"a", "a.x"},
    "**": {"a", "b", "a.x"},
}
KINDS = {None: {"k", "l"}, "k": {"k"}}

ENDS = trio.EndOfChannel, trio.ClosedResourceError, SubscriptionOverflowError
"""How a channel can end."""


@final
@attrs.define(eq=False)
class Account:
    """A subscription, what it was promised, and what was read from it."""

    ledger: Ledger
    subscription: Subscription
    size: int
    since: int
    """How many events had been accepted when it began. It gets none of these."""

    until: int | None = None
    """How many had been accepted when it was closed. It gets none of the others."""

    channel_closed: bool = False
    batches: bool = False
    """Whether a reader reads in batches, and so may let others go first."""

    reads: list[list[Event]] = attrs.Factory(list)
    """What each read got, in the order in which they began to wait."""

    readers: list[list[Event]] = attrs.Factory(list)
    """What each reader got, in its order."""

    _books: SubscriptionStatistics | None = None

    def close(self) -> None:
        """Close the subscription."""
        self._note_end()
        self.subscription.close()

    def close_channel(self) -> None:
        """Close the channel."""
        self._note_end()
        self.channel_closed = True
        self.subscription.channel().close()

    def _note_end(self) -> None:
        if self.until is None:
            self.until = self.ledger.accepted

    async def receive(
        self, count: float = math.inf, *, batch: int | None = None, pause: int = 0
    ) -> None:
        """Be a reader until the channel ends.

        Args:
          count: How many times to read at most.
          batch: How many events to read at a time; None: read without batches.
          pause: How many times to give other tasks a turn after each read.
        """
        channel = self.subscription.channel()
        batches = channel.batches(max_size=batch)
        self.batches |= batch is not None
        got: list[Event] = []
        self.readers.append(got)
        try:
            while count > 0:
                self.reads.append(read := [])
                read += [await channel.receive()] if batch is None else await anext(batches)
                got += read
                count -= 1
                for _ in range(pause):
                    await trio.lowlevel.checkpoint()
        except (*ENDS, StopAsyncIteration) as end:
            self._check_end(end)

    def receive_nowait(self, count: float = math.inf) -> None:
        """Read what is there, without waiting, but not more than so many events."""
        got: list[Event] = []
        self.readers.append(got)
        try:
            while len(got) < count:
                got.append(self.subscription.channel().receive_nowait())
                self.reads.append(got[-1:])
        except trio.WouldBlock:
            assert not self.subscription.channel().statistics().current_buffer_used
        except ENDS as end:
            self._check_end(end)

    def _check_end(self, end: Exception) -> None:
        if self.channel_closed:
            assert type(end) is trio.ClosedResourceError
        elif self.overflowed:
            assert type(end) is SubscriptionOverflowError
        else:
            assert type(end) in (trio.EndOfChannel, StopAsyncIteration)
            assert self.until is not None or self.ledger.closed, "it ended by itself"

    @property
    def overflowed(self) -> bool:
        books = self.subscription.statistics()
        return self.subscription.overflow is Overflow.CLOSE and books.dropped > 0

    def wants(self, event: Event) -> bool:
        """Whether the patterns match."""
        systems, kinds = SYSTEMS[self.subscription.system], KINDS[self.subscription.kind]
        return event.system in systems and event.kind in kinds

    def look(self) -> None:
        """Check what is true at every instant."""
        books = self.subscription.statistics()
        if books == self._books:
            return
        self._books = books
        assert_balanced(self.subscription)
        assert books.delivered >= sum(map(len, self.readers))
        assert books.held <= self.ledger.inbox_size
        used = self.subscription.channel().statistics().current_buffer_used
        assert used + books.held <= books.queued  # the rest is on its way to a reader
        if self.until is None and not self.ledger.closed:
            assert used <= self.size

    def check(self, order: list[Event]) -> None:
        """Check what was promised, given the total order of events. For after the end."""
        place = {event.path: number for number, event in enumerate(order)}
        for events in self.readers:
            places = [place[path] for path in paths(events)]
            assert places == sorted(places)
        got = [path for events in self.reads for path in paths(events)]
        in_order = sorted(got, key=place.__getitem__)
        if self.ledger.fifo and not self.batches:
            assert got == in_order
        got, expected = in_order, paths(filter(self.wants, order[self.since : self.until]))
        books = self.subscription.statistics()
        assert len(got) == len(set(got)) == books.delivered
        assert books.queued == books.held == books.tasks_waiting_send == 0
        assert not books.discarded or self.channel_closed
        if self.overflowed:
            assert len(got) < books.matched <= len(expected)
        else:
            assert books.matched == len(expected)

        # Which events were lost depends on the policy.
        match self.subscription.overflow:
            case Overflow.BLOCK:
                assert not books.dropped
                assert got == expected[: len(got)]
            case Overflow.CLOSE:
                assert got == expected[: len(got)]
            case Overflow.DROP_OLDEST | Overflow.LATEST:  # which are the same if all paths differ
                assert not books.superseded
                assert set(got) <= set(expected)
                assert self.channel_closed or got[-1:] == expected[-1:]
            case Overflow.DROP_INCOMING:
                assert set(got) <= set(expected)
                assert not got or got[0] == expected[0]


@final
@attrs.define(eq=False)
class Ledger(trio.abc.Instrument):
    """A bus, all that was asked of it, and an eye on it after every step of every task."""

    bus: EventBus
    inbox_size: int
    fifo: bool
    """Whether whoever sends or receives takes a place in the moment of the call."""

    closed: bool = False
    accounts: list[Account] = attrs.Factory(list)
    calls: dict[str, Event] = attrs.Factory(dict)
    """What was to be sent, by path, in the order of the calls."""

    returned: set[str] = attrs.Factory(set)
    raised: set[str] = attrs.Factory(set)
    complaints: list[AssertionError] = attrs.Factory(list)

    @property
    def accepted(self) -> int:
        """How many events the bus has accepted."""
        return self.bus.statistics().accepted

    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        size: int = 1,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Account:
        """Subscribe, and open an account."""
        subscription = await self.bus.subscribe(
            system, kind, max_buffer_size=size, overflow=overflow
        )
        account = Account(self, subscription, size, since=self.accepted)
        self.accounts.append(account)
        return account

    async def send(self, sender: str, system: str, kind: str = "k") -> None:
        """Send an event, or find that the bus is closed."""
        event = self._call(sender, system, kind)
        try:
            await self.bus.send(event.system, event.kind, event.path)
        except BusClosedError:
            self.raised.add(event.path)
            assert self.closed
        except BaseException:
            self.raised.add(event.path)
            raise
        else:
            self.returned.add(event.path)

    def send_nowait(self, sender: str, system: str, kind: str = "k") -> None:
        """Send an event, or find that this would wait or that the bus is closed."""
        event = self._call(sender, system, kind)
        try:
            self.bus.send_nowait(event.system, event.kind, event.path)
        except trio.WouldBlock:
            self.raised.add(event.path)
        except BusClosedError:
            self.raised.add(event.path)
            assert self.closed
        else:
            self.returned.add(event.path)

    async def send_all(self, sender: str, systems: str) -> None:
        """Send an event to each of the systems, which have names of one letter."""
        for system in systems:
            await self.send(sender, system)

    def _call(self, sender: str, system: str, kind: str) -> Event:
        path = f"/{sender}/{len(self.calls)}"
        event = self.calls[path] = Event(system, kind, path)
        return event

    def close(self) -> None:
        """Close the bus."""
        self.closed = True
        self.bus.close()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        # trio would only switch off an instrument that raises.
        try:
            for account in self.accounts:
                account.look()
        except AssertionError as error:
            self.complaints.append(error)

    def check_waits(self) -> None:
        """Check that those who wait have a reason. For when nobody has anything to do."""
        assert self.bus.statistics().current_inbox_used == 0
        for account in self.accounts:
            waiting_readers = account.subscription.channel().statistics().tasks_waiting_receive
            assert not (waiting_readers and account.subscription.statistics().queued)
        waiting = [event for path, event in self.calls.items() if path not in self.finished]
        assert self.bus.statistics().tasks_waiting_send == len(waiting)
        for event in waiting:
            assert any(
                account.wants(event) and account.subscription.statistics().queued >= account.size
                for account in self.accounts
                if account.subscription.overflow is Overflow.BLOCK and account.until is None
            ), f"{event} waits, and nothing that it matches is full"

    @property
    def finished(self) -> set[str]:
        """The paths of all that was sent, or not, and does not wait."""
        return self.returned | self.raised

    def check(self, witness: Account) -> None:
        """Check all that was promised. For after the end of the bus."""
        for account in self.accounts:
            account.receive_nowait()
        if self.complaints:
            raise self.complaints[0]

        # All or nothing, and nobody overtakes.
        [order] = witness.readers
        assert self.finished == self.calls.keys()
        assert not self.returned & self.raised
        assert sorted(paths(order)) == sorted(self.returned)
        sent = [event for path, event in self.calls.items() if path in self.returned]
        for line in [sender_of, name_of] if self.fifo else [sender_of]:
            for who in set(map(line, sent)):
                assert [e for e in order if line(e) == who] == [e for e in sent if line(e) == who]

        for account in self.accounts:
            account.check(order)
        router = self.bus._router
        assert router.table.is_empty
        senders = router.core.senders
        for left in (router.subscriptions, router.core.inbox.messages, senders.full):
            assert not left
        assert not len(senders)


def sender_of(event: Event) -> str:
    return event.path.split("/")[1]


def name_of(event: Event) -> str:
    return f"{event.system} {event.kind}"


@asynccontextmanager
async def open_ledger(
    *, inbox_size: int = 256, checkpoint_every: int = 1000
) -> AsyncGenerator[Ledger]:
    """Open a bus, and check in the end all that it promised. Whoever hangs fails at once."""
    before = tasks_living()
    with trio.fail_after(3600):
        async with open_event_bus(inbox_size=inbox_size, checkpoint_every=checkpoint_every) as bus:
            ledger = Ledger(bus, inbox_size, fifo=checkpoint_every >= 1000)
            # It sees everything, and is never full, so nobody waits for it.
            witness = await ledger.subscribe("**", size=100_000)
            trio.lowlevel.add_instrument(ledger)
            yield ledger
            ledger.closed = True
    trio.lowlevel.remove_instrument(ledger)
    assert tasks_living() == before
    ledger.check(witness)
