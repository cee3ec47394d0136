"""Any program of senders, readers, closers and cancellations, drawn as data.

Whatever happens, a `Ledger` checks after each step, when nobody has anything to do, and in the
end what the bus has promised. The order of tasks is drawn, too: hypothesis seeds trio's scheduler.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import BusClosedError, Overflow

from ..schedules import SYSTEMS, Account, Ledger, open_ledger

# ---------------------------------------------------------------------------------------------
# Programs
# ---------------------------------------------------------------------------------------------

T = TypeVar("T")


class End(enum.Enum):
    """What is closed in the end."""

    SUBSCRIPTION = enum.auto()
    CHANNEL = enum.auto()


@attrs.frozen
class Reader:
    start: int
    count: float
    batch: int | None
    pause: int
    cancelled: int | None

    async def run(self, account: Account) -> None:
        await others_first(self.start)
        read = partial(account.receive, self.count, batch=self.batch, pause=self.pause)
        await until_cancelled(self.cancelled, read)


@attrs.frozen
class Subscriber:
    start: int
    system: str
    kind: str | None
    size: int
    overflow: Overflow
    readers: list[Reader]
    end: End
    end_after: int | None

    async def run(self, ledger: Ledger) -> None:
        await others_first(self.start)
        try:
            account = await ledger.subscribe(
                self.system, self.kind, size=self.size, overflow=self.overflow
            )
        except BusClosedError:
            return
        async with trio.open_nursery() as nursery:
            for reader in self.readers:
                nursery.start_soon(reader.run, account)
            if self.end_after is not None:
                await others_first(self.end_after)
                if self.end is End.CHANNEL:
                    account.close_channel()
                else:
                    account.close()


@attrs.frozen
class Sender:
    start: int
    events: list[tuple[str, str]]
    nowait: bool
    pause: int
    cancelled: int | None

    async def run(self, ledger: Ledger, name: str) -> None:
        await others_first(self.start)
        await until_cancelled(self.cancelled, partial(self.send_all, ledger, name))

    async def send_all(self, ledger: Ledger, name: str) -> None:
        for system, kind in self.events:
            if self.nowait:
                ledger.send_nowait(name, system, kind)
            else:
                await ledger.send(name, system, kind)
            await others_first(self.pause)


@attrs.frozen
class Program:
    inbox_size: int
    checkpoint_every: int
    subscribers: list[Subscriber]
    senders: list[Sender]
    end_after: int | None

    async def run(self) -> None:
        async with (
            open_ledger(
                inbox_size=self.inbox_size, checkpoint_every=self.checkpoint_every
            ) as ledger,
            trio.open_nursery() as nursery,
        ):
            for subscriber in self.subscribers:
                nursery.start_soon(subscriber.run, ledger)
            for number, sender in enumerate(self.senders):
                nursery.start_soon(sender.run, ledger, str(number))
            if self.end_after is None:
                await wait_all_tasks_blocked()
                ledger.check_waits()
            else:
                await others_first(self.end_after)
            ledger.close()


async def others_first(turns: int) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()


async def until_cancelled(moment: int | None, do: Callable[[], Awaitable[None]]) -> None:
    """Do something, and cancel it at a moment, or never."""
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            await do()
            nursery.cancel_scope.cancel()

        nursery.start_soon(work)
        if moment is not None:
            await others_first(moment)
            nursery.cancel_scope.cancel()


def mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Three times out of four the usual."""
    return st.integers(0, 3).flatmap(lambda number: other if number == 3 else usual)


# Moments are numbers of turns that others get first.
MOMENTS = st.integers(0, 30)
NEVER: st.SearchStrategy[int | None] = st.none()

READERS = st.builds(
    Reader,
    start=mostly(st.integers(0, 6), MOMENTS),
    count=mostly(st.just(math.inf), st.integers(0, 5)),
    batch=mostly(NEVER, st.integers(1, 3)),
    pause=mostly(st.just(0), st.integers(1, 5)),
    cancelled=mostly(NEVER, MOMENTS),
)
SUBSCRIBERS = st.builds(
    Subscriber,
    start=mostly(st.just(0), MOMENTS),
    system=mostly(st.sampled_from(["a", "**"]), st.sampled_from(sorted(SYSTEMS))),
    kind=mostly(st.none(), st.just("k")),
    size=st.integers(1, 3),
    overflow=st.one_of(st.just(Overflow.BLOCK), st.sampled_from(Overflow)),
    readers=st.lists(READERS, max_size=3),
    end=st.sampled_from(End),
    end_after=mostly(NEVER, MOMENTS),
)
SENDERS = st.builds(
    Sender,
    start=mostly(st.just(0), MOMENTS),
    events=st.lists(
        st.tuples(
            mostly(st.just("a"), st.sampled_from(["b", "a.x"])),
            mostly(st.just("k"), st.just("l")),
        ),
        min_size=1,
        max_size=12,
    ),
    nowait=mostly(st.just(False), st.just(True)),
    pause=mostly(st.just(0), st.integers(1, 3)),
    cancelled=mostly(NEVER, MOMENTS),
)
PROGRAMS = st.builds(
    Program,
    inbox_size=st.integers(1, 5),
    checkpoint_every=mostly(st.just(1000), st.integers(1, 2)),
    subscribers=st.lists(SUBSCRIBERS, min_size=1, max_size=4),
    senders=st.lists(SENDERS, min_size=1, max_size=4),
    end_after=mostly(NEVER, MOMENTS),
)


@pytest.fixture(autouse=True, scope="module")
def no_log() -> Iterator[None]:
    """There would be lines for every program."""
    logger = logging.getLogger("trio_events")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@given(program=PROGRAMS, scheduler=st.random_module())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_program_gets_what_the_bus_promises(program: Program, scheduler: object) -> None:
    trio.run(program.run, clock=MockClock(autojump_threshold=0))


def test_hypothesis_decides_in_which_order_tasks_run() -> None:
    """Or else no failure of the test above could be repeated."""
    orders: list[list[int]] = []

    async def note(number: int) -> None:
        orders[-1].append(number)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(note, number)

    @given(nothing=st.none())
    @settings(max_examples=1, database=None)
    def example(nothing: None) -> None:
        orders.append([])
        trio.run(run)

    example()
    example()
    first, second = orders
    assert first == second
    assert sorted(first) == list(range(20))
    assert first not in (sorted(first), sorted(first, reverse=True))
