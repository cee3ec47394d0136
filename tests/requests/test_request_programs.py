"""Any program of requesters, responders and ends, drawn as data; and every order of small ones."""

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
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    CloseSubscription,
    DeadLetter,
    DeadlockError,
    Event,
    EventBus,
    InvalidEventError,
    Log,
    NoSubscribersError,
    Reject,
    RequestFailedError,
    Retry,
    Subscription,
    open_event_bus,
)
from trio_events._handlers.supervision import OnError

from .. import schedules
from ..core.test_programs import MOMENTS, NEVER, mostly, others_first
from ..observing import assert_balanced, tasks_living
from ..schedules import Schedule
from ..time_limit import TIME_LIMIT


@pytest.fixture(autouse=True, scope="module")
def no_log() -> Iterator[None]:
    """There would be lines for every program."""
    logger = logging.getLogger("trio_events")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


class Failure(Exception):
    """How responders fail."""


class Act(enum.Enum):
    """What a call of a responder does."""

    PAUSE = enum.auto()
    YIELD = enum.auto()
    FAIL = enum.auto()
    REJECT = enum.auto()
    REPLY = enum.auto()
    REPLY_LATER = enum.auto()
    BY_HAND = enum.auto()
    ASK = enum.auto()
    CLOSE = enum.auto()


@attrs.frozen
class Spec:
    """A responder, or a handler that replies."""

    system: str
    size: int
    concurrency: int
    ordered: bool
    policy: OnError
    serves: bool
    calls: list[list[Act]]
    end_after: int | None
    end_by_channel: bool


@attrs.define(eq=False)
class Answering:
    """What is called, and what it has seen."""

    spec: Spec
    run: Run
    subscription: Subscription = attrs.field(init=False)
    calls: int = 0
    running: int = 0
    begun: Counter[int] = attrs.Factory(Counter)

    async def __call__(self, event: Event) -> object:
        self.begun[id(event)] += 1
        self.run.alive.append(event)  # so that no identity is used again
        acts = self.spec.calls[self.calls % len(self.spec.calls)]
        self.calls += 1
        self.running += 1
        assert self.running <= self.spec.concurrency
        try:
            for act in acts:
                await self.do(act, event)
        finally:
            self.running -= 1
        return ("for", event.data)

    async def do(self, act: Act, event: Event) -> None:
        bus = self.run.bus
        match act:
            case Act.PAUSE:
                await trio.sleep(1)
            case Act.YIELD:
                await trio.lowlevel.checkpoint()
            case Act.FAIL:
                raise Failure
            case Act.REJECT:
                raise Reject(("for", event.data))
            case Act.REPLY:
                try:
                    await bus.reply(event, ("for", event.data))
                except InvalidEventError:
                    pass  # there is one
            case Act.REPLY_LATER:
                self.run.late.append(event)
            case Act.BY_HAND:
                await bus.send(event.system, "k.accepted", event.path, "by hand")
            case Act.ASK:
                if self.run.asked < 20:
                    await self.run.ask("ab"[event.system == "a"])
            case Act.CLOSE:
                self.subscription.close()


@attrs.define(eq=False)
class Run:
    """One run of a program."""

    bus: EventBus = attrs.field(init=False)
    asked: int = 0
    ended: int = 0
    alive: list[Event] = attrs.Factory(list)
    late: list[Event] = attrs.Factory(list)
    buried: Counter[int] = attrs.Factory(Counter)

    async def ask(self, system: str, time: float | None = None) -> None:
        """Ask, and check that the reply is to this request."""
        self.asked += 1
        number = self.asked
        try:
            with trio.move_on_after(30 if time is None else time):
                reply = await self.bus.request(system, "k.ask", "/same", number)
                assert reply.data in (("for", number), "by hand")
                assert reply.system == system
                assert reply.path == "/same"
        finally:
            self.ended += 1

    async def ask_all(self, systems: str, time: float | None) -> None:
        for system in systems:
            try:
                await self.ask(system, time)
            except BusClosedError:
                return
            except (NoSubscribersError, RequestFailedError, DeadlockError):
                pass

    async def reply_late(self) -> None:
        """Reply to what was left for later, whether or not it is still waited for."""
        for _ in range(20):
            await trio.sleep(0.75)
            while self.late:
                event = self.late.pop()
                try:
                    await self.bus.reply(event, ("for", event.data))
                except InvalidEventError:
                    pass
                except BusClosedError:
                    return

    def bury(self, letter: DeadLetter) -> None:
        self.buried[id(letter.event)] += 1


@attrs.frozen
class Program:
    specs: list[Spec]
    askers: list[tuple[str, float | None]]
    checkpoint_every: int
    inbox_size: int
    drain_timeout: float
    close: bool
    end_after: int

    async def run(self) -> None:
        run = Run()
        before = tasks_living()
        answering: list[Answering] = []
        with trio.fail_after(TIME_LIMIT):
            async with (
                trio.open_nursery() as nursery,
                open_event_bus(
                    inbox_size=self.inbox_size,
                    checkpoint_every=self.checkpoint_every,
                    drain_timeout=self.drain_timeout,
                    on_dead_letter=run.bury,
                ) as run.bus,
            ):
                for spec in self.specs:
                    each = Answering(spec, run)
                    register = run.bus.serve if spec.serves else run.bus.on
                    each.subscription = await register(
                        each,
                        spec.system,
                        "k.ask",
                        concurrency=spec.concurrency,
                        ordered=spec.ordered,
                        on_error=spec.policy,
                        max_buffer_size=spec.size,
                    )
                    answering.append(each)
                    if spec.end_after is not None:
                        nursery.start_soon(self.end, each)
                nursery.start_soon(run.reply_late)
                for systems, time in self.askers:
                    nursery.start_soon(run.ask_all, systems, time)
                await others_first(self.end_after)
                if self.close:
                    run.bus.close()
                    await others_first(self.end_after)
        assert tasks_living() == before
        assert run.asked == run.ended
        requests = run.bus._router.core.requests
        assert len(requests) == len(requests.waiting) == len(requests.underway) == 0
        for each in answering:
            books = each.subscription.statistics()
            assert_balanced(each.subscription)
            assert books.queued == books.handling == each.running == 0
            assert len(each.begun) == books.delivered
            policy = each.spec.policy
            attempts = policy.attempts if isinstance(policy, Retry) else 1
            assert all(calls <= attempts for calls in each.begun.values())

    async def end(self, each: Answering) -> None:
        assert each.spec.end_after is not None
        await others_first(each.spec.end_after)
        (each.subscription.channel() if each.spec.end_by_channel else each.subscription).close()


SPECS = st.builds(
    Spec,
    system=st.sampled_from(["a", "b", "*"]),
    size=st.integers(1, 4),
    concurrency=mostly(st.just(1), st.integers(2, 3)),
    ordered=st.booleans(),
    policy=st.one_of(
        st.just(Log()),
        st.just(CloseSubscription()),
        st.builds(
            Retry,
            st.integers(1, 3),
            backoff=st.sampled_from([0.0, 0.5]),
            only=st.sampled_from([Exception, Failure]),
            then=st.sampled_from([Log(), CloseSubscription()]),
        ),
    ),
    serves=mostly(st.just(True), st.just(False)),
    calls=st.lists(st.lists(st.sampled_from(Act), max_size=3), min_size=1, max_size=4),
    end_after=mostly(NEVER, MOMENTS),
    end_by_channel=st.booleans(),
)
PROGRAMS = st.builds(
    Program,
    specs=st.lists(SPECS, min_size=1, max_size=3),
    askers=st.lists(
        st.tuples(
            st.text("ab", min_size=1, max_size=4), st.none() | st.sampled_from([0.0, 0.5, 3.0])
        ),
        min_size=1,
        max_size=4,
    ),
    checkpoint_every=mostly(st.just(1000), st.integers(1, 2)),
    inbox_size=st.integers(1, 5),
    drain_timeout=mostly(st.just(5000.0), st.sampled_from([0.0, 1.5])),
    close=st.booleans(),
    end_after=MOMENTS,
)


@given(program=PROGRAMS, scheduler=st.random_module())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_replies_never_cross_and_every_request_ends(program: Program, scheduler: object) -> None:
    trio.run(program.run, clock=MockClock(autojump_threshold=0))


# ------------------------------------------------------------------------------------- every order


@pytest.fixture
def explorable() -> None:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")


async def ask(bus: EventBus, got: list[object], name: str, time: float = 1000) -> None:
    with trio.move_on_after(time):
        got.append(((await bus.request("a", "k", "/same", name)).data, name))


@pytest.mark.usefixtures("explorable")
def test_a_reply_races_a_time_out() -> None:
    async def program(schedule: Schedule) -> None:
        got: list[object] = []
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            requests = await bus.subscribe("a", "k")
            witness = await bus.subscribe("a", "accepted")
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(ask, bus, got, "first")
                    request = await requests.receive()
                    nursery.start_soon(ask, bus, got, "second")
                    other = await requests.receive()

                    async def give_up() -> None:
                        scope.cancel()

                    async with schedule.explored():
                        nursery.start_soon(bus.reply, request, "first")
                        nursery.start_soon(give_up)
                        with trio.CancelScope(shield=True):
                            await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert got in ([], [("first", "first")])
            assert witness.statistics().queued == 1
            await bus.reply(other, "second")
            await wait_all_tasks_blocked()
            assert got[-1] == ("second", "second")

    explored = schedules.explore(program)
    assert explored.complete
    assert explored.schedules > 1


@pytest.mark.usefixtures("explorable")
def test_closing_races_a_request() -> None:
    """Complete up to three swaps: the tasks of a bus that closes have very many orders."""
    ends: Counter[str] = Counter()

    async def program(schedule: Schedule) -> None:
        end = ""

        async def answer(request: Event) -> object:
            return request.data

        async def request() -> None:
            nonlocal end
            try:
                reply = await bus.request("a", "k", "/same", 1)
            except BusClosedError:
                end = "closed"
            else:
                assert reply.data == 1
                end = "replied"

        async with trio.open_nursery() as nursery, open_event_bus() as bus:
            await bus.serve(answer, "a", "k")
            async with schedule.explored():
                nursery.start_soon(request)

                async def close() -> None:
                    bus.close()

                nursery.start_soon(close)
                await trio.sleep(1)
        assert end
        ends[end] += 1

    explored = schedules.explore(program, detours=3)
    assert explored.complete
    assert set(ends) == {"closed", "replied"}


@pytest.mark.usefixtures("explorable")
@pytest.mark.parametrize("drain_timeout", [0.5, 1, 10])
def test_draining_races_the_pause_before_another_attempt(drain_timeout: float) -> None:
    async def program(schedule: Schedule) -> None:
        calls: list[float] = []

        async def fail_once(event: Event) -> None:
            calls.append(trio.current_time())
            if len(calls) == 1:
                raise Failure

        async with open_event_bus(drain_timeout=drain_timeout) as bus:
            subscription = await bus.on(
                fail_once, "a", on_error=Retry(2, backoff=1, jitter=0, then=Log())
            )
            async with schedule.explored():
                await bus.send("a", "k", "/0")
                await bus.send("a", "k", "/1")
                bus.close()
        books = subscription.statistics()
        assert_balanced(subscription)
        assert books.failures == 1
        assert books.queued == books.handling == 0
        if drain_timeout == 10:
            assert len(calls) == 3
            assert (books.delivered, books.discarded) == (2, 0)
        elif drain_timeout < 1:
            assert len(calls) == 1
            assert (books.delivered, books.discarded) == (1, 1)

    explored = schedules.explore(program)
    assert explored.complete
