"""Any program of handlers, consumers and senders, closed at any point: each event is accounted for.

A program is drawn as data. The order of tasks is drawn, too: hypothesis seeds trio's scheduler.
"""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Iterator

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from trio.testing import MockClock

import trio_events as events
from trio_events import BusClosedError, DeadlockError, Event, EventBus, open_event_bus

from ..observing import tasks_living
from .accounts import Account, Accounts

MOST_SENT = 25
"""By handlers and consumers: or those that feed each other never ended."""


class End(enum.Enum):
    """How the block is left."""

    NORMALLY = enum.auto()
    CLOSED = enum.auto()
    CLOSED_BY_ANOTHER = enum.auto()
    BY_BUS_CLOSED_ERROR = enum.auto()
    BY_EXCEPTION = enum.auto()
    BY_CANCELLATION = enum.auto()


class Outside(enum.Enum):
    """What a task outside does meanwhile."""

    WAIT_IDLE = enum.auto()
    DRAIN = enum.auto()
    CLOSE = enum.auto()
    ADD = enum.auto()
    REMOVE = enum.auto()


class Leaving(Exception):
    """How the block is left by an exception."""


@attrs.frozen
class Stage:
    """A handler, or a consumer."""

    is_handler: bool
    system: str
    crew: int
    size: int
    pause: float | None
    """Seconds; None is a checkpoint."""

    targets: str
    waits: bool
    """Whether it waits for another event when it has sent its own."""


@attrs.define(eq=False)
class Run:
    """A bus, and what has happened."""

    bus: EventBus
    accounts: Accounts
    sent_inside: int = 0
    closed_at: float = math.inf
    left_at: float = 0

    def close(self) -> None:
        self.closed_at = min(self.closed_at, trio.current_time())
        self.bus.close()

    async def work(self, stage: Stage) -> None:
        """Work on an event, which sends others."""
        if stage.pause is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(stage.pause)
        for target in stage.targets:
            if self.sent_inside < MOST_SENT:
                self.sent_inside += 1
                try:
                    await events.send(target, "k", f"/inside/{self.sent_inside}")
                except DeadlockError:
                    pass
        if stage.waits:
            with trio.move_on_after(1):
                await events.wait_for(stage.system)

    async def send(self, number: int, systems: str) -> None:
        """Send events from outside."""
        try:
            for i, system in enumerate(systems):
                await self.bus.send(system, "k", f"/{number}/{i}")
        except (BusClosedError, DeadlockError):
            pass

    async def act(self, seconds: float, what: Outside, account: Account) -> None:
        """Do something from outside."""
        await trio.sleep(seconds)
        subscription = account.subscription
        try:
            match what:
                case Outside.WAIT_IDLE:
                    await self.bus.wait_idle()
                case Outside.DRAIN:
                    await subscription.drain()
                    statistics = subscription.statistics()
                    assert statistics.queued == statistics.handling == 0
                case Outside.CLOSE:
                    subscription.close()
                case Outside.ADD:
                    subscription.add("*")
                case Outside.REMOVE:
                    subscription.remove(subscription.system)
        except (BusClosedError, trio.ClosedResourceError, ValueError):
            pass


@attrs.frozen
class Program:
    stages: list[Stage]
    senders: list[str]
    outside: list[tuple[float, Outside, int]]
    inbox_size: int
    drain_timeout: float
    end: End
    end_after: float

    async def run(self) -> None:
        before = tasks_living()
        raised: BaseException | None = None
        with trio.fail_after(1000), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                try:
                    async with open_event_bus(
                        inbox_size=self.inbox_size, drain_timeout=self.drain_timeout
                    ) as bus:
                        run = Run(bus, Accounts(bus))
                        await self.body(run, nursery)
                        if self.end is End.BY_CANCELLATION:
                            scope.cancel()
                            await trio.sleep_forever()
                        run.left_at = trio.current_time()
                        run.close()
                except (Leaving, BusClosedError) as error:
                    raised = error
                ended = trio.current_time()
                nursery.cancel_scope.cancel()
        assert tasks_living() == before
        assert isinstance(raised, Leaving) == (self.end is End.BY_EXCEPTION)
        assert isinstance(raised, BusClosedError) == (self.end is End.BY_BUS_CLOSED_ERROR)
        if self.end is End.BY_CANCELLATION:
            run.accounts.check(consumers_are_named=False)
        elif self.end is End.BY_EXCEPTION:
            run.accounts.check()
        else:
            over = run.closed_at + self.drain_timeout
            assert ended <= max(run.left_at, over)
            run.accounts.check(complete=ended < over)

    async def body(self, run: Run, nursery: trio.Nursery) -> None:
        for stage in self.stages:

            async def work(_: Event, stage: Stage = stage) -> None:
                await run.work(stage)

            make = run.accounts.handle if stage.is_handler else run.accounts.consume
            await make(stage.system, work, size=stage.size, crew=stage.crew)
        for number, systems in enumerate(self.senders):
            nursery.start_soon(run.send, number, systems)
        for seconds, what, number in self.outside:
            accounts = run.accounts.accounts
            nursery.start_soon(run.act, seconds, what, accounts[number % len(accounts)])
        if self.end is End.CLOSED_BY_ANOTHER:

            async def close() -> None:
                await trio.sleep(self.end_after)
                run.close()

            nursery.start_soon(close)
            await trio.sleep(self.end_after + 1)
        await trio.sleep(self.end_after)
        if self.end in (End.CLOSED, End.BY_BUS_CLOSED_ERROR):
            run.close()
            await trio.lowlevel.checkpoint()
        if self.end is End.BY_BUS_CLOSED_ERROR:
            await run.bus.send("a", "k", "/late")
        if self.end is End.BY_EXCEPTION:
            raise Leaving


PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
MOMENTS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])
STAGES = st.builds(
    Stage,
    is_handler=st.booleans(),
    system=st.sampled_from("abc"),
    crew=st.integers(1, 2),
    size=st.integers(1, 3),
    pause=st.sampled_from([None, 0.0, 0.5, 1.0]),
    targets=st.text("abc", max_size=2),
    waits=st.sampled_from([False, False, False, True]),
)
PROGRAMS = st.builds(
    Program,
    stages=st.lists(STAGES, min_size=1, max_size=4),
    senders=st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=3),
    outside=st.lists(st.tuples(MOMENTS, st.sampled_from(Outside), st.integers(0, 3)), max_size=2),
    inbox_size=st.integers(1, 5),
    drain_timeout=st.sampled_from([100.0, 100.0, 0.0, 1.5]),
    end=st.sampled_from(End),
    end_after=MOMENTS,
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
@settings(
    max_examples=300, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow]
)
def test_every_event_is_handled_or_counted_or_named(program: Program, scheduler: object) -> None:
    trio.run(program.run, clock=MockClock(autojump_threshold=0))
