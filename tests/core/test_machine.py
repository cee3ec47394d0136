"""The synchronous core against a model, without a run loop.

Between two awaits nothing but synchronous code changes the state of a bus, and trio's memory
channels work outside `trio.run` as long as nobody waits. So the whole core can be driven step by
step: the router's wake and the actor's hand-over are just two more rules. The model knows nothing
of lists, memory channels or tries; it is as slow and obvious as we could make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from trio_events import Event, Overflow, SubscriptionOverflowError
from trio_events._core.actor import SubscriptionActor
from trio_events._core.pace import Pace
from trio_events._core.router import Router
from trio_events._names.interest import Interest

from ..observing import wake

INBOX_SIZE = 5
SYSTEMS = ("a", "b", "a.x")
PATTERNS = {  # each pattern with the systems that it matches
    "a": {"a"},
    "b": {"b"},
    "*": {"a", "b"},
    "**": {"a", "b", "a.x"},
    "a.**": {"a", "a.x"},
    "(a|b)": {"a", "b"},
}
KINDS = {None: {"k", "l"}, "k": {"k"}}


@attrs.define(eq=False)
class Model:
    """What one subscription should be like."""

    system: str
    kind: str | None
    size: int
    overflow: Overflow
    in_force: bool = True  # events that are accepted from now on are matched
    ended: bool = False  # the router knows
    overflowed: bool = False
    discarding: bool = False
    buffer: list[Event] = attrs.Factory(list)
    held: list[Event] = attrs.Factory(list)
    books: Counter[str] = attrs.Factory(Counter)

    def wants(self, event: Event) -> bool:
        return event.system in PATTERNS[self.system] and event.kind in KINDS[self.kind]

    def hand_over(self) -> None:
        while self.held and len(self.buffer) < self.size:
            self.buffer.append(self.held.pop(0))

    def prepare_to_be_read(self) -> None:
        if not self.buffer:
            self.hand_over()  # a reader does not wait for the actor's turn

    def settle(self) -> None:
        if 2 * len(self.buffer) <= self.size:  # by many
            self.hand_over()

    def put(self, event: Event) -> None:
        self.books["matched"] += 1
        if self.discarding:
            self.books["discarded"] += 1
        elif self.overflowed:
            self.books["dropped"] += 1
        elif not self.held and len(self.buffer) < self.size:
            self.buffer.append(event)
        elif self.overflow is Overflow.BLOCK:
            self.held.append(event)
        elif self.overflow is Overflow.DROP_OLDEST:
            del self.buffer[0]
            self.buffer.append(event)
            self.books["dropped"] += 1
        elif self.overflow is Overflow.DROP_INCOMING:
            self.books["dropped"] += 1
        elif self.overflow is Overflow.LATEST:
            unread = [*self.buffer, event]
            self.buffer = [
                e for i, e in enumerate(unread) if not any(map(same(e), unread[i + 1 :]))
            ]
            self.books["superseded"] += len(unread) - len(self.buffer)
            if len(self.buffer) > self.size:
                del self.buffer[0]
                self.books["dropped"] += 1
        else:
            self.books["dropped"] += 1
            self.overflowed = True

    @property
    def full(self) -> bool:
        return self.overflow is Overflow.BLOCK and len(self.buffer) + len(self.held) >= self.size


def same(event: Event) -> Callable[[Event], bool]:
    """Whether an event has the system, the kind and the path of this one."""
    key = event.system, event.kind, event.path
    return lambda other: (other.system, other.kind, other.path) == key


def settle(delivered: list[Model]) -> None:
    """Nothing more is delivered to these for now."""
    for model in delivered:
        model.settle()
    delivered.clear()


Pair = tuple[SubscriptionActor, Model]


class Core(RuleBasedStateMachine):
    """One router with its subscriptions, and the model beside it."""

    subscriptions = Bundle("subscriptions")

    def __init__(self) -> None:
        super().__init__()
        self.router = Router.of(INBOX_SIZE, Pace(1), clock=lambda: 0.0)
        self.pairs: list[Pair] = []
        # The inbox of the model: events with those that they go to, and ends of subscriptions.
        self.inbox: list[tuple[Event, list[Model]] | Model] = []
        self.messages = 0
        self.sent = 0
        self.accepted = 0

    @rule(
        target=subscriptions,
        system=st.sampled_from(sorted(PATTERNS)),
        kind=st.sampled_from([None, "k"]),
        size=st.integers(1, 8),
        overflow=st.just(Overflow.BLOCK) | st.sampled_from(Overflow),
    )
    def subscribe(self, system: str, kind: str | None, size: int, overflow: Overflow) -> Pair:
        actor = self.router.make_subscription(Interest.of(system, kind), "test", size, overflow)
        self.router.open(actor)
        self.messages += 1
        pair = actor, Model(system, kind, size, overflow)
        self.pairs.append(pair)
        return pair

    @rule(
        system=st.sampled_from(SYSTEMS),
        kind=st.sampled_from("kl"),
        paths=st.lists(st.sampled_from(["/1", "/2", "/3"]), min_size=1, max_size=INBOX_SIZE),
    )
    def send_nowait(self, system: str, kind: str, paths: list[str]) -> None:
        for path in paths:
            self.send_one(system, kind, path)

    @rule(system=st.sampled_from(SYSTEMS), kind=st.sampled_from("kl"))
    def fill_up(self, system: str, kind: str) -> None:
        for _ in range(2):
            self.send_nowait(system, kind, ["/1"] * INBOX_SIZE)
            self.the_router_wakes()

    def send_one(self, system: str, kind: str, path: str) -> None:
        event = Event(system, kind, path, self.sent)
        self.sent += 1
        matching = [model for _, model in self.pairs if model.in_force and model.wants(event)]
        must_wait = sum(isinstance(m, tuple) for m in self.inbox) >= INBOX_SIZE or any(
            model.full for model in matching
        )
        try:
            assert self.router.offer(event) is None
        except trio.WouldBlock:
            assert must_wait
        else:
            assert not must_wait
        if not must_wait:
            self.accepted += 1
            self.messages += 1
            self.inbox.append((event, matching))

    @rule()
    def the_router_wakes(self) -> None:
        if self.messages:
            wake(self.router)
            self.route_model()

    def route_model(self) -> None:
        inbox, self.inbox, self.messages = self.inbox, [], 0
        delivered: list[Model] = []
        for message in inbox:
            if isinstance(message, Model):
                settle(delivered)
                message.ended = True
                continue
            event, models = message
            for model in models:
                model.put(event)
                delivered.append(model)
        settle(delivered)
        for _, model in self.pairs:
            if model.overflowed and model.in_force:
                self.end_model(model)

    def end_model(self, model: Model) -> None:
        model.in_force = False
        self.inbox.append(model)
        self.messages += 1

    @rule(pair=subscriptions)
    def the_actor_hands_over(self, pair: Pair) -> None:
        actor, model = pair
        if model.in_force:
            actor.buffer.fit_held()
            model.hand_over()

    @rule(pair=subscriptions, count=st.integers(1, 3))
    def receive_nowait(self, pair: Pair, count: int) -> None:
        actor, model = pair
        for _ in range(count):
            model.prepare_to_be_read()
            if model.buffer:
                assert actor.take() == model.buffer.pop(0)
                model.books["delivered"] += 1
                model.settle()
            else:
                with pytest.raises(self.reason_for_nothing(model)):
                    actor.take()

    @rule(pair=subscriptions, max_size=st.none() | st.integers(1, 5))
    def take_a_batch(self, pair: Pair, max_size: int | None) -> None:
        actor, model = pair
        model.prepare_to_be_read()
        if model.buffer:
            expected = model.buffer[:max_size]
            assert actor.take_list(max_size) == expected
            del model.buffer[:max_size]
            model.books["delivered"] += len(expected)
            model.settle()
        else:
            with pytest.raises(self.reason_for_nothing(model)):
                actor.take_list(max_size)

    def reason_for_nothing(self, model: Model) -> type[Exception]:
        if model.discarding:
            return trio.ClosedResourceError
        if model.ended:
            return SubscriptionOverflowError if model.overflowed else trio.EndOfChannel
        return trio.WouldBlock

    @rule(pair=subscriptions)
    def close_the_subscription(self, pair: Pair) -> None:
        actor, model = pair
        actor.close()
        if model.in_force:
            self.end_model(model)

    @rule(pair=consumes(subscriptions))
    def close_the_channel(self, pair: Pair) -> None:
        actor, model = pair
        actor.discard("test")
        model.books["discarded"] += len(model.buffer) + len(model.held)
        model.buffer.clear()
        model.held.clear()
        model.discarding = True
        if model.in_force:
            self.end_model(model)
        with pytest.raises(trio.ClosedResourceError):
            actor.take()

    @invariant()
    def the_books_are_those_of_the_model(self) -> None:
        for actor, model in self.pairs:
            buffer = actor.buffer
            assert buffer.buffered == len(model.buffer)
            assert list(buffer.held) == model.held
            for name in ("matched", "delivered", "dropped", "discarded", "superseded"):
                assert getattr(buffer, name) == model.books[name], name

    @invariant()
    def the_law_holds(self) -> None:
        for actor, _ in self.pairs:
            b = actor.buffer
            gone = b.dropped + b.discarded + b.superseded
            assert b.matched == b.delivered + b.unread + gone
            assert min(b.delivered, b.unread, b.dropped, b.discarded, b.superseded) >= 0

    @invariant()
    def unread_events_are_bounded(self) -> None:
        # Held events are put in by many, so those that are held may for a while be more than the
        # inbox had: there is room for them in the buffer.
        for actor, _ in self.pairs:
            assert actor.buffer.unread <= actor.buffer.max_buffer_size + INBOX_SIZE

    @invariant()
    def the_bus_has_counted_right(self) -> None:
        assert self.router.accepted == self.accepted
        assert len(self.router.core.inbox.messages) == self.messages
        assert self.router.core.inbox.used == sum(isinstance(m, tuple) for m in self.inbox)
        assert len(self.router.subscriptions) == sum(model.in_force for _, model in self.pairs)

    def teardown(self) -> None:
        """Closing the bus ends everything, loses nothing and leaves nothing."""
        for _, model in self.pairs:
            if model.in_force:
                self.end_model(model)
        self.router.close()
        self.route_model()
        for actor, model in self.pairs:
            received = []
            with pytest.raises(self.reason_for_nothing(model)):
                while True:
                    received.append(actor.take())
            assert received == model.buffer + model.held
        assert self.router.table.is_empty
        assert not self.router.subscriptions
        assert not self.router.core.senders.full


Core.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCore = Core.TestCase
