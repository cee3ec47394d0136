"""Any program of failing handlers, senders and closers, drawn as data.

A `Witness` for each subscription notes every call and how it ended; in the end that is compared
with the books, with the dead letters, and with what has left the bus. The order of tasks is drawn,
too: hypothesis seeds trio's scheduler.
"""

from __future__ import annotations

import enum
import logging
from collections import Counter
from collections.abc import Iterator

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock

from trio_events import (
    BusClosedError,
    CloseSubscription,
    DeadLetter,
    DeadlockError,
    Event,
    EventBus,
    Log,
    Overflow,
    Propagate,
    Retry,
    Subscription,
    SubscriptionOverflowError,
    open_event_bus,
)
from trio_events._handlers.supervision import OnError, verdict_of

from ..core.test_programs import MOMENTS, NEVER, mostly, others_first
from ..observing import assert_balanced, tasks_living
from ..time_limit import TIME_LIMIT

MAX_SENT = 60
"""Events that handlers may send in a program: then it ends without being cut off."""


class Failure(Exception):
    """How handlers fail, one object a call."""


class Leaving(Exception):
    """How the block is left by an exception."""


class Act(enum.Enum):
    """What a call does."""

    PAUSE = enum.auto()
    YIELD = enum.auto()
    SEND = enum.auto()
    FAIL = enum.auto()
    FAIL_IN_GROUP = enum.auto()
    CLOSE = enum.auto()
    CLOSE_CHANNEL = enum.auto()


class End(enum.Enum):
    """How the block is left."""

    NORMALLY = enum.auto()
    CLOSED = enum.auto()
    BY_EXCEPTION = enum.auto()
    BY_CANCELLATION = enum.auto()


@attrs.frozen
class Spec:
    """A subscription with a handler."""

    system: str
    size: int
    overflow: Overflow
    concurrency: int
    ordered: bool
    policy: OnError
    calls: list[list[Act]]
    """What the first, second, third ... call does, and then again from the first."""

    end_after: int | None
    end_by_channel: bool


@attrs.define(eq=False)
class Witness:
    """The handler of one subscription, and all that it has seen."""

    spec: Spec
    program: Run
    subscription: Subscription = attrs.field(init=False)
    running: int = 0
    failures: int = 0
    calls: int = 0
    begun: list[Event] = attrs.Factory(list)
    done: list[Event] = attrs.Factory(list)
    cut_off: list[Event] = attrs.Factory(list)
    buried: list[Event] = attrs.Factory(list)
    last_error: dict[str, BaseException] = attrs.Factory(dict)
    closed_channel: bool = False

    async def __call__(self, event: Event) -> None:
        if event.path not in self.last_error:
            self.begun.append(event)
        acts = self.spec.calls[self.calls % len(self.spec.calls)]
        self.calls += 1
        self.running += 1
        assert self.running <= self.spec.concurrency
        assert self.subscription.statistics().handling >= self.running
        try:
            for act in acts:
                await self.do(act)
        except Exception as error:
            self.failures += 1
            self.last_error[event.path] = error
            raise
        except BaseException:
            self.cut_off.append(event)
            raise
        else:
            self.done.append(event)
        finally:
            self.running -= 1

    async def do(self, act: Act) -> None:
        match act:
            case Act.PAUSE:
                await trio.sleep(1)
            case Act.YIELD:
                await trio.lowlevel.checkpoint()
            case Act.SEND:
                await self.program.send_from_handler()
            case Act.FAIL:
                raise Failure
            case Act.FAIL_IN_GROUP:
                raise ExceptionGroup("", [Failure(), ExceptionGroup("", [Failure()])])
            case Act.CLOSE:
                self.subscription.close()
            case Act.CLOSE_CHANNEL:
                self.close_channel()

    def close_channel(self) -> None:
        self.closed_channel = True
        self.subscription.channel().close()

    def check(self, *, drained: bool) -> None:
        """Every event was handled, is dead, or was counted."""
        books = self.subscription.statistics()
        assert_balanced(self.subscription)
        assert books.handling == self.running == 0
        assert books.failures == self.failures
        # They begin in order: those of each sender, and so in one total order for all of them.
        begun = [event.path for event in self.begun]
        assert len(begun) == len(set(begun)) == books.delivered
        for sender in {path.partition(".")[0] for path in begun}:
            numbers = [int(p.partition(".")[2]) for p in begun if p.partition(".")[0] == sender]
            assert numbers == sorted(numbers)
        done, buried, cut_off = map(
            set, (paths(self.done), paths(self.buried), paths(self.cut_off))
        )
        assert len(done) == len(self.done)
        assert len(buried) == len(self.buried)
        assert not done & buried
        paused = set(begun) - done - buried - cut_off  # or cancelled before it was called again
        if drained:
            assert not cut_off
            assert not paused
            assert books.queued == 0
            if books.discarded:
                assert self.closed_channel or (
                    isinstance(verdict_of(self.spec.policy), CloseSubscription) and self.failures
                )
        if paused:
            assert isinstance(self.spec.policy, Retry)
            assert all(path in self.last_error for path in paused)
        if books.dropped:
            assert self.spec.overflow is not Overflow.BLOCK


def paths(events: list[Event]) -> list[str]:
    return [event.path for event in events]


@attrs.define(eq=False)
class Run:
    """One run of a program."""

    bus: EventBus = attrs.field(init=False)
    witnesses: list[Witness] = attrs.Factory(list)
    sent: int = 0

    async def send_from_handler(self) -> None:
        if self.sent < MAX_SENT:
            self.sent += 1
            await self.bus.send("ab"[self.sent % 2], "k", f"{self.name()}.{self.sent}")

    def name(self) -> str:
        return f"task{id(trio.lowlevel.current_task())}"

    def bury(self, letter: DeadLetter) -> None:
        [witness] = [w for w in self.witnesses if w.subscription is letter.subscription]
        assert letter.error is witness.last_error[letter.event.path]
        witness.buried.append(letter.event)


@attrs.frozen
class Program:
    specs: list[Spec]
    senders: list[list[str]]
    checkpoint_every: int
    inbox_size: int
    drain_timeout: float
    end: End
    end_after: int

    async def run(self) -> None:
        run = Run()
        before = tasks_living()
        errors: list[BaseException] = []
        start = trio.current_time()
        left = False
        with trio.fail_after(TIME_LIMIT), trio.CancelScope() as scope:
            try:
                async with (
                    trio.open_nursery() as nursery,
                    open_event_bus(
                        inbox_size=self.inbox_size,
                        checkpoint_every=self.checkpoint_every,
                        drain_timeout=self.drain_timeout,
                        on_dead_letter=run.bury,
                    ) as run.bus,
                ):
                    try:
                        await self.body(run, nursery)
                    finally:
                        left = True
                    start = trio.current_time()
                    if self.end is End.BY_EXCEPTION:
                        raise Leaving
                    if self.end is End.BY_CANCELLATION:
                        scope.cancel()
            except BaseExceptionGroup as group:  # of the nursery around it
                _, rest = group.split(trio.Cancelled)
                errors = [] if rest is None else leaves(rest)
        assert tasks_living() == before
        assert run.bus.statistics().open_subscriptions == 0
        self.check_errors(run, errors)
        drained = left and not errors and self.end in (End.NORMALLY, End.CLOSED)
        if drained:
            assert trio.current_time() - start <= self.drain_timeout
            drained = trio.current_time() - start < self.drain_timeout
        for witness in run.witnesses:
            witness.check(drained=drained)

    async def body(self, run: Run, nursery: trio.Nursery) -> None:
        for spec in self.specs:
            witness = Witness(spec, run)
            witness.subscription = await run.bus.on(
                witness,
                spec.system,
                concurrency=spec.concurrency,
                ordered=spec.ordered,
                on_error=spec.policy,
                max_buffer_size=spec.size,
                overflow=spec.overflow,
            )
            run.witnesses.append(witness)
            if spec.end_after is not None:
                nursery.start_soon(self.close, witness)
        for number, systems in enumerate(self.senders):
            nursery.start_soon(self.send, run.bus, number, systems)
        await others_first(self.end_after)
        if self.end is End.CLOSED:
            run.bus.close()
            await others_first(self.end_after)

    async def close(self, witness: Witness) -> None:
        assert witness.spec.end_after is not None
        await others_first(witness.spec.end_after)
        if witness.spec.end_by_channel:
            witness.close_channel()
        else:
            witness.subscription.close()

    async def send(self, bus: EventBus, number: int, systems: list[str]) -> None:
        try:
            for i, system in enumerate(systems):
                await bus.send(system, "k", f"sender{number}.{i}")
        except BusClosedError:
            pass

    def check_errors(self, run: Run, errors: list[BaseException]) -> None:
        """What has left the bus is what should have, and nothing else."""
        raised = [
            e for w in run.witnesses for error in w.last_error.values() for e in leaves(error)
        ]
        for error in errors:
            if isinstance(error, SubscriptionOverflowError):
                assert any(
                    isinstance(verdict_of(w.spec.policy), Propagate)
                    and w.spec.overflow is Overflow.CLOSE
                    for w in run.witnesses
                )
            elif isinstance(error, Leaving):
                assert self.end is End.BY_EXCEPTION
            else:
                assert isinstance(error, Failure | DeadlockError)
                assert error in raised
        for witness in run.witnesses:
            if isinstance(witness.spec.policy, Propagate):
                assert witness.failures <= len(errors)
            if isinstance(verdict_of(witness.spec.policy), Log | CloseSubscription):
                mine = {e for error in witness.last_error.values() for e in leaves(error)}
                assert not mine & set(errors)
        counted = Counter(map(type, errors))
        assert counted[Leaving] <= 1


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaves(member)]
    return [error]


SPECS = st.builds(
    Spec,
    system=st.sampled_from(["a", "b", "*"]),
    size=st.integers(1, 4),
    overflow=mostly(st.just(Overflow.BLOCK), st.sampled_from(Overflow)),
    concurrency=mostly(st.just(1), st.integers(2, 3)),
    ordered=st.booleans(),
    policy=st.one_of(
        st.just(Log()),
        st.just(CloseSubscription()),
        st.just(Propagate()),
        st.builds(
            Retry,
            st.integers(1, 4),
            backoff=st.sampled_from([0.0, 0.5]),
            only=st.sampled_from([Exception, Failure]),
            then=st.sampled_from([Log(), CloseSubscription(), Propagate()]),
        ),
    ),
    calls=st.lists(st.lists(st.sampled_from(Act), max_size=3), min_size=1, max_size=5),
    end_after=mostly(NEVER, MOMENTS),
    end_by_channel=st.booleans(),
)
PROGRAMS = st.builds(
    Program,
    specs=st.lists(SPECS, min_size=1, max_size=3),
    senders=st.lists(
        st.lists(st.sampled_from("ab"), min_size=1, max_size=10), min_size=1, max_size=3
    ),
    checkpoint_every=mostly(st.just(1000), st.integers(1, 2)),
    inbox_size=st.integers(1, 5),
    drain_timeout=mostly(st.just(1000.0), st.sampled_from([0.0, 1.5])),
    end=mostly(st.sampled_from([End.NORMALLY, End.CLOSED]), st.sampled_from(End)),
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
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_event_is_handled_or_a_dead_letter_or_counted(
    program: Program, scheduler: object
) -> None:
    trio.run(program.run, clock=MockClock(autojump_threshold=0))
