"""Any program of senders, late subscribers and forgetters, against the model of a history.

A witness gives the total order of events, so it is known what each subscriber has to get: what the
model keeps at its place in the order, then all that follows.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings

from trio_events import (
    Event,
    EventBus,
    History,
    Overflow,
    Subscription,
    open_event_bus,
)
from trio_events._names.interest import Interest

from .. import schedules
from ..core.test_programs import MOMENTS, NEVER, mostly, others_first
from ..observing import assert_balanced
from ..schedules import Explored, Orders, Schedule
from ..time_limit import run_with_time_limit
from .model import Model

Names = tuple[str, str, str]


@attrs.frozen
class Wanted:
    """What a subscription or a history is about."""

    system: str
    kind: str | None = None
    path: str | None = None

    @property
    def interest(self) -> Interest:
        return Interest.of(self.system, self.kind, self.path)

    def wants(self, event: Event) -> bool:
        return self.interest.matches(event.system, event.kind, event.path)


@attrs.frozen
class Sender:
    start: int
    events: list[Names]
    pause: int


@attrs.frozen
class Subscriber:
    start: int
    wanted: Wanted
    size: int
    batch: int | None
    end_after: int | None


@attrs.frozen
class Forgetter:
    start: int
    path: str


@attrs.define(eq=False)
class Late:
    """A late subscriber, and what is known about it."""

    wanted: Wanted
    subscription: Subscription
    places: range
    """How many events had been accepted when it subscribed: from the call to the return."""

    forgets: int
    """How many calls of `forget` came before it."""

    until: int | None = None
    """How many events had been accepted when it was closed."""

    got: list[Event] = attrs.Factory(list)


@attrs.define(eq=False)
class Run:
    """One run of a program."""

    bus: EventBus
    history: History
    witness: Subscription
    late: list[Late] = attrs.Factory(list)
    forgets: list[tuple[int, str, int]] = attrs.Factory(list)
    """How many events had been routed, the path, and how many events that removed."""

    closed_at: int | None = None
    """How many events had been accepted when the history was closed."""

    sent: int = 0

    @property
    def accepted(self) -> int:
        return self.bus.statistics().accepted

    async def send(self, sender: Sender) -> None:
        await others_first(sender.start)
        for system, kind, path in sender.events:
            self.sent += 1
            await self.bus.send(system, kind, path, self.sent)
            await others_first(sender.pause)

    async def subscribe(self, spec: Subscriber) -> None:
        await others_first(spec.start)
        called = self.accepted
        try:
            subscription = await self.bus.subscribe(
                spec.wanted.system,
                spec.wanted.kind,
                path=spec.wanted.path,
                max_buffer_size=spec.size,
                history=self.history,
            )
        except trio.ClosedResourceError:
            assert self.closed_at is not None
            return
        assert self.closed_at is None
        places = range(called, self.accepted + 1)
        late = Late(spec.wanted, subscription, places, len(self.forgets))
        self.late.append(late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read, late, spec.batch)
            if spec.end_after is not None:
                await others_first(spec.end_after)
                late.until = self.accepted
                subscription.close()

    async def read(self, late: Late, batch: int | None) -> None:
        if batch is None:
            async for event in late.subscription:
                late.got.append(event)
        else:
            async for events in late.subscription.batches(max_size=batch):
                late.got += events

    async def forget(self, forgetter: Forgetter) -> None:
        await others_first(forgetter.start)
        statistics = self.bus.statistics()
        routed = statistics.accepted - statistics.current_inbox_used
        self.forgets.append((routed, forgetter.path, self.history.forget(forgetter.path)))
        self.check_now()

    async def close_history(self, moment: int) -> None:
        await others_first(moment)
        self.closed_at = self.accepted
        self.history.close()

    def check_now(self) -> None:
        books = self.history.statistics()
        assert books.matched == books.kept + books.replaced + books.evicted + books.forgotten
        assert len(self.history.events()) == books.kept <= books.max_events

    def model_at(self, order: list[Event], kept: Wanted, model: Model, forgets: int) -> Model:
        """The history after some events and some calls of `forget`."""
        todo = [(min(at, len(order)), path, n) for at, path, n in self.forgets[:forgets]]
        for place, event in enumerate([*order, None]):
            while todo and todo[0][0] == place:
                _, path, removed = todo.pop(0)
                assert model.forget(path) == removed
            if event is not None and kept.wants(event):
                model.put(event)
        assert not todo
        return model

    def expected(
        self, late: Late, place: int, order: list[Event], kept: Wanted, model: Model
    ) -> list[Event]:
        """What a subscriber gets if it stands at this place of the order."""
        before = self.model_at(order[:place], kept, model, late.forgets)
        return list(filter(late.wanted.wants, [*before.kept, *order[place : late.until]]))

    def check(self, order: list[Event], kept: Wanted, model: Callable[[], Model]) -> None:
        for late in self.late:
            assert_balanced(late.subscription)
            routed = max((routed for routed, _, _ in self.forgets[: late.forgets]), default=0)
            assert any(
                late.got == self.expected(late, place, order, kept, model())
                for place in late.places
                if place >= routed
            )
        final = self.model_at(order[: self.closed_at], kept, model(), len(self.forgets))
        assert self.history.events() == final.kept
        assert self.history.statistics() == final.statistics()
        for event in order:
            assert self.history.last(event.system, event.kind, event.path) == final.last(event)


@attrs.frozen
class Program:
    kept: Wanted
    per_path: int | None
    max_events: int
    inbox_size: int
    senders: list[Sender]
    subscribers: list[Subscriber]
    forgetters: list[Forgetter]
    close_after: int | None

    async def run(self) -> None:
        async with open_event_bus(inbox_size=self.inbox_size) as bus:
            witness = await bus.subscribe("**", max_buffer_size=1000)
            history = await bus.open_history(
                self.kept.system,
                self.kept.kind,
                path=self.kept.path,
                per_path=self.per_path,
                max_events=self.max_events,
            )
            run = Run(bus, history, witness)
            async with trio.open_nursery() as nursery:
                for subscriber in self.subscribers:
                    nursery.start_soon(run.subscribe, subscriber)
                if self.close_after is not None:
                    nursery.start_soon(run.close_history, self.close_after)
                async with trio.open_nursery() as inner:
                    for sender in self.senders:
                        inner.start_soon(run.send, sender)
                    for forgetter in self.forgetters:
                        inner.start_soon(run.forget, forgetter)
                await others_first(60)  # until the latest subscriber, at 30, has subscribed
                bus.close()
        order = [event async for event in witness]
        run.check(order, self.kept, partial(Model, self.per_path, self.max_events))


NAMES = st.tuples(
    mostly(st.just("a"), st.sampled_from(["b", "a.x"])),
    mostly(st.just("k"), st.just("l")),
    st.sampled_from(["/1", "/2", "/3", "/x/1"]),
)
SENDERS = st.builds(
    Sender,
    start=mostly(st.just(0), MOMENTS),
    events=st.lists(NAMES, min_size=1, max_size=12),
    pause=mostly(st.just(0), st.integers(1, 3)),
)
# A history, and what it covers.
COVERED = {
    Wanted("**"): [Wanted("**"), Wanted("a"), Wanted("*", "k"), Wanted("a.**", path="/*")],
    Wanted("a.**"): [Wanted("a"), Wanted("a.x"), Wanted("a.*", "l"), Wanted("a", path="/1")],
    Wanted("*", "k"): [Wanted("*", "k"), Wanted("a", "k"), Wanted("(a|b)", "k", "/(1|2)")],
    Wanted("(a|b)", path="/*"): [Wanted("b", path="/3"), Wanted("(b|a)", "l", "/(1|2)")],
    Wanted("a", path="/1"): [Wanted("a", path="/1"), Wanted("a", "k", "/1")],
}


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program whose subscribers want what the history keeps."""
    kept = draw(st.sampled_from(list(COVERED)))
    subscribers = st.builds(
        Subscriber,
        start=MOMENTS,
        wanted=st.sampled_from(COVERED[kept]),
        size=mostly(st.integers(1, 4), st.just(100)),
        batch=mostly(NEVER, st.integers(1, 3)),
        end_after=mostly(NEVER, MOMENTS),
    )
    return Program(
        kept,
        per_path=draw(st.sampled_from([1, 1, 2, 3, None])),
        max_events=draw(st.integers(1, 6)),
        inbox_size=draw(st.integers(1, 8)),
        senders=draw(st.lists(SENDERS, min_size=1, max_size=3)),
        subscribers=draw(st.lists(subscribers, min_size=1, max_size=3)),
        forgetters=draw(
            st.lists(
                st.builds(Forgetter, start=MOMENTS, path=st.sampled_from(["/1", "/2", "/x/1"])),
                max_size=2,
            )
        ),
        close_after=draw(mostly(NEVER, MOMENTS)),
    )


@pytest.fixture(autouse=True, scope="module")
def no_log() -> Iterator[None]:
    """There would be lines for every program."""
    logger = logging.getLogger("trio_events")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@given(program=programs(), scheduler=st.random_module())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(  # the bus was closed before the subscriber had its turn
    program=Program(
        kept=Wanted("**"),
        per_path=1,
        max_events=1,
        inbox_size=1,
        senders=[Sender(start=0, events=[("a", "k", "/1")], pause=0)],
        subscribers=[Subscriber(30, Wanted("**"), size=100, batch=None, end_after=None)],
        forgetters=[],
        close_after=None,
    ),
    scheduler=None,
)
def test_every_late_subscriber_gets_what_was_kept_and_then_all_that_follows(
    program: Program, scheduler: object
) -> None:
    run_with_time_limit(program.run)


# ---------------------------------------------------------------------------------------------
# Every schedule
# ---------------------------------------------------------------------------------------------


def explore(program: Callable[[Schedule], Awaitable[None]]) -> Explored:
    if reason := schedules.reason_not_to_explore():
        pytest.skip(f"NO SCHEDULE WAS EXPLORED: {reason}; adapt tests/schedules.py")
    explored = schedules.explore(program, orders=Orders.ALL)
    print(explored)
    return explored


@pytest.mark.parametrize(("per_path", "inbox_size"), [(1, 1), (1, 100), (None, 1)])
def test_subscribing_races_sending_under_every_schedule(
    per_path: int | None, inbox_size: int
) -> None:
    everything = Wanted("a")
    places: set[int] = set()

    async def program(schedule: Schedule) -> None:
        async with open_event_bus(inbox_size=inbox_size, checkpoint_every=1) as bus:
            witness = await bus.subscribe("**", max_buffer_size=100)
            run = Run(bus, await bus.open_history("a", per_path=per_path), witness)
            async with schedule.explored(), trio.open_nursery() as nursery:
                for sent in (["/1", "/2"], ["/1"]):
                    sender = Sender(0, [("a", "k", path) for path in sent], pause=0)
                    nursery.start_soon(run.send, sender)
                nursery.start_soon(subscribe, run)
        order = [event async for event in witness]
        for late in run.late:
            late.got += [event async for event in late.subscription]
            places.update(late.places)
        run.check(order, everything, partial(Model, per_path, 1024))

    async def subscribe(run: Run) -> None:
        called = run.accepted
        subscription = await run.bus.subscribe("a", history=run.history)
        among = range(called, run.accepted + 1)
        run.late.append(Late(everything, subscription, among, forgets=0))

    assert explore(program).complete
    assert len(places) > 2


# ---------------------------------------------------------------------------------------------
# Every policy, with more than fits
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overflow", "left"),
    [
        (Overflow.BLOCK, [0, 1, 2, 3, 4, 5, 6]),
        (Overflow.DROP_OLDEST, [4, 5, 6]),
        (Overflow.DROP_INCOMING, [0, 1, 2]),
        (Overflow.CLOSE, [0, 1, 2]),
        (Overflow.LATEST, [4, 5, 6]),
    ],
)
async def test_a_snapshot_larger_than_the_buffer_is_treated_as_the_policy_says(
    overflow: Overflow, left: list[int]
) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("a")
        for number in range(7):
            await bus.send("a", "k", f"/{number}", number)
        subscription = await bus.subscribe(
            "a", history=history, max_buffer_size=3, overflow=overflow
        )
        books = subscription.statistics()
        assert books.queued == len(left)
        assert books.held == max(0, len(left) - 3)
        assert books.dropped == 7 - len(left)
        assert_balanced(subscription)
        assert bus.statistics().open_subscriptions == (overflow is not Overflow.CLOSE)
        subscription.close()
        got = [subscription.receive_nowait().data for _ in left]
        assert got == left
