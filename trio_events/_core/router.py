"""The router actor: one inbox, one routing table, one total order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container
from operator import attrgetter
from typing import Any, Final, final

import attrs
import trio

from .._event import Event
from .._instruments import Instruments
from .._names.interest import BUS, Interest
from .._names.pattern import plain_name
from .._names.routing import Route, RoutingTable
from .actor import Core, SubscriptionActor
from .buffer import Buffer, Overflow
from .door import Admits, Door
from .inbox import Inbox, Message, Recipient, Source, Subscribe, Unsubscribe
from .notices import Notices
from .pace import Pace
from .pending import PendingRequests
from .senders import Sender, Senders

LEFT: Final = "its `async with open_event_bus()` block was left"
"""The default reason why a bus is closed."""


@final
@attrs.define(eq=False)
class Router:
    """Takes messages in one order and passes each event to every subscription that matches.

    Everything but `run` is synchronous, so no other task runs meanwhile.
    """

    core: Core
    table: RoutingTable[Recipient]
    subscriptions: dict[SubscriptionActor, Any] = attrs.field(factory=dict, init=False)
    """The open subscriptions, in the order of opening, with their public objects."""

    waiters: dict[SubscriptionActor, Any] = attrs.field(factory=dict, init=False)
    """The open waiters, which are subscriptions without a task, likewise."""

    histories: dict[Recipient, None] = attrs.field(factory=dict, init=False)
    """The open histories, in the order of opening."""

    last_system: str | None = attrs.field(default=None, init=False)
    last_kind: str | None = attrs.field(default=None, init=False)
    """The names of the latest event. If the same objects are sent again, they aren't checked."""

    unmatched: int = attrs.field(default=0, init=False)
    _routed: int = attrs.field(default=0, init=False)
    _is_routing: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.core.instruments.on_change = self._heed_instruments

    @staticmethod
    def of(
        inbox_size: int,
        pace: Pace,
        token: trio.lowlevel.TrioToken | None = None,
        clock: Callable[[], float] = trio.current_time,
        make_handle: Callable[[SubscriptionActor], Any] = lambda actor: actor,
    ) -> Router:
        """Make a router and everything that belongs to it, for the running thread."""
        notices, door, table = Notices(), Door(token), RoutingTable[Recipient]()
        instruments = Instruments(notices, door)
        inbox = Inbox(inbox_size)
        requests = PendingRequests(clock, notices, door, instruments)
        senders = Senders(inbox, table, clock, requests, instruments)
        core = Core(inbox, door, senders, notices, pace, clock, requests, instruments, make_handle)
        return Router(core, table)

    # The actor

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:  # noqa: ASYNC910  # it waits before it ends
        """Route the inbox whenever it has messages."""
        try:
            while True:
                await self.core.inbox.wait()
                self.route_inbox()
        except trio.EndOfChannel:
            pass
        finally:
            self.close()

    def route_inbox(self) -> None:
        """Route everything in the inbox, then let in senders that are waiting for room in it."""
        if self._is_routing:  # for example, a destructor has called `is_wanted`
            return
        with self.core.notices:
            self._is_routing = True
            try:
                self._route(self.core.inbox.take())
            finally:
                self._is_routing = False
            senders = self.core.senders
            if senders.for_inbox.length:
                senders.let_in(senders.for_inbox, self.core.inbox.size)

    def _route(self, messages: list[Message]) -> None:
        if len(messages) == 1 and type(messages[0]) is Event:  # nearly always if the bus is idle
            self._route_one(messages[0])
            return
        # The pending lists of the subscriptions that match something.
        pending: dict[Recipient, list[Event]] = {}
        # Consecutive events that have the same route are distributed together. With 100
        # subscriptions, extending the lists by a run costs little more than by one event.
        run: list[Event] = []
        route: Route[Recipient] | None = None
        system = kind = ""
        for message in messages:
            if type(message) is Event:
                if message.system != system or message.kind != kind:
                    system, kind = message.system, message.kind
                    next_route = self.table.match(system, kind)
                    if route is None or not route.is_same_as(next_route):
                        self._spread(run, route, pending)
                        run = []
                        route = next_route
                run.append(message)
            else:
                self._spread(run, route, pending)
                run = []
                route, system, kind = None, "", ""  # the route may have changed
                self._deliver(pending)
                self._register(message)
        self._spread(run, route, pending)
        self._deliver(pending)

    def _route_one(self, event: Event) -> None:
        self._routed += 1
        route = self.table.match(event.system, event.kind)
        recipients = route.recipients(event.path) if route.by_path else route.items
        requests = self.core.requests
        answers = (requests.underway or requests.waiting) and requests.see(event, route)
        if not recipients and not answers:
            self.unmatched += 1
        if self.core.instruments.watched_routes:
            self._tell_routed([event], route, {id(event)} if answers else ())
        for recipient in recipients:
            recipient.deliver([event])

    def _spread(
        self,
        run: list[Event],
        route: Route[Recipient] | None,
        pending: dict[Recipient, list[Event]],
    ) -> None:
        """Add events that have the same route to the lists of the matching recipients."""
        if route is None:
            return
        self._routed += len(run)
        for recipient in route.items:
            if recipient in pending:
                pending[recipient] += run
            else:
                pending[recipient] = run.copy()
        if route.by_path:
            for event in run:
                found = route.find(event.path)
                for recipient in found:
                    pending.setdefault(recipient, []).append(event)
                if not found and not route.items:
                    self.unmatched += 1
        elif not route.items:
            self.unmatched += len(run)
        requests = self.core.requests
        answers: set[int] = set()  # the identities of events that answer requests
        if requests.underway or requests.waiting:
            for event in run:
                if requests.see(event, route):
                    answers.add(id(event))
                    if not route.recipients(event.path):
                        self.unmatched -= 1
        if self.core.instruments.watched_routes:
            self._tell_routed(run, route, answers)

    def _tell_routed(
        self, events: list[Event], route: Route[Recipient], answers: Container[int]
    ) -> None:
        """Report to instruments which subscriptions get these events, except the bus's own."""
        tell = self.core.instruments.tell
        for (system, _), group in itertools.groupby(events, attrgetter("system", "kind")):
            if system == BUS:
                continue
            run = tuple(group)
            # One by one if they don't all go to the same subscriptions.
            differ = route.by_path or any(r.local_only for r in route.items)
            for some in [(event,) for event in run] if differ else [run]:
                found, is_local = route.recipients(some[0].path), some[0].source is None
                takers = [r.holder for r in found if is_local or not r.local_only]
                tell("events_routed", some, tuple(r.handle for r in takers if r is not None))
                if not found and (rest := tuple(e for e in some if id(e) not in answers)):
                    tell("events_unmatched", rest)

    def _deliver(self, pending: dict[Recipient, list[Event]]) -> None:
        for recipient, events in pending.items():
            recipient.deliver(events)
        pending.clear()

    def _register(self, message: Subscribe | Unsubscribe) -> None:
        if isinstance(message, Subscribe):
            if message.source is not None:
                self._hand_on(message.source.matching(message.interest), message.recipient)
            self.table.add(message.recipient, message.interest)
            return
        for interest in message.interests:
            self.table.remove(message.recipient, interest)
        if message.final:
            message.recipient.finish()

    def _hand_on(self, events: list[Event], recipient: Recipient) -> None:
        """Deliver events that were sent before the recipient was added."""
        if events:
            self.core.requests.hand_on(events, recipient.holder)
            recipient.deliver(events)

    # For the rest of the bus

    def checked_names(self, system: str, kind: str) -> tuple[str, str]:
        """Validate the names of an event, and return them as plain strings.

        Raises:
          TypeError: If one of them isn't a `str`.
          InvalidEventError: If one of them isn't valid.
        """
        kinds = self.table.routes.get(system) if type(system) is str else None
        if kinds is None:
            system = plain_name(system, "system")
        if kinds is None or type(kind) is not str or kind not in kinds:
            kind = plain_name(kind, "kind")
        self.last_system, self.last_kind = system, kind
        return system, kind

    def make_subscription(
        self,
        interest: Interest,
        origin: str,
        max_buffer_size: int,
        overflow: Overflow,
        actor_type: type[SubscriptionActor] = SubscriptionActor,
    ) -> SubscriptionActor:
        """Make a subscription that isn't open yet."""
        buffer = Buffer(max_buffer_size, overflow)
        return actor_type(interest, origin, buffer, self.core, self.subscriptions)

    def open_waiter(
        self, interest: Interest, origin: str, max_unread: int, source: Source | None = None
    ) -> SubscriptionActor:
        """Open a subscription without a task, which never makes a sender wait."""
        buffer = Buffer(max_unread, Overflow.CLOSE)
        waiter = SubscriptionActor(interest, origin, buffer, self.core, self.waiters)
        with self.core.notices:
            self.open(waiter, source=source)
            waiter.tell("subscription_opened")
            if source is not None:
                self.route_inbox()
        return waiter

    def offer(self, event: Event, *, wait: bool = False) -> Sender | None:
        """Accept an event.

        Args:
          event: The event.
          wait: Whether to return a waiting sender if something stops the event.

        Raises:
          BusClosedError: If the running task may not use the bus.
          trio.WouldBlock: If something stops the event, and `wait` is false.
        """
        with self.core.notices:
            if not self.core.door.is_open and not self.core.requests.admits(event):
                self.core.door.check_open()
            queue = self.core.senders.obstacle(event)
            if queue is None:
                self.core.inbox.post(event)
                return None
            if not wait:
                raise trio.WouldBlock
            return self.core.senders.line_up(event, queue)

    def offer_now(self, event: Event) -> None:
        """Accept an event. A full inbox doesn't stop it, because it is routed first.

        Raises:
          BusClosedError: If the running task may not use the bus.
          trio.WouldBlock: If a subscription stops the event.
        """
        with self.core.notices:
            while self.core.senders.obstacle(event) is self.core.senders.for_inbox:
                self.route_inbox()
            self.offer(event)

    def open(
        self,
        subscription: SubscriptionActor,
        handle: object = None,
        source: Source | None = None,
    ) -> None:
        """Open a subscription: it gets every event that is accepted from now on.

        If there is a source, its matching events come first. Then the caller must route the inbox
        in the same step, before the source can forget anything, and after `subscription_opened`.
        """
        with self.core.notices:
            for interest in subscription.interests:
                self.core.inbox.post(Subscribe(subscription, interest, source))
            subscription.open_among[subscription] = handle
            subscription.is_quick = not self.core.instruments.watched_reads
            self.core.instruments.on_interests(subscription)

    def open_history(self, history: Recipient, interest: Interest) -> None:
        """Open a history: it keeps every event that is accepted from now on."""
        with self.core.notices:
            self.core.inbox.post(Subscribe(history, interest))
            self.histories[history] = None
            self.core.instruments.on_interests(history)

    def add_interest(self, subscription: SubscriptionActor, interest: Interest) -> None:
        """Let a subscription match more, from now on."""
        with self.core.notices:
            subscription.change_interests()[interest] = None
            self.core.inbox.post(Subscribe(subscription, interest))
            self.core.instruments.on_interests(subscription)
            self.route_inbox()  # so that senders of newly matching events notice if it is full

    def remove_interest(self, subscription: SubscriptionActor, interest: Interest) -> None:
        """Let a subscription match less, from now on."""
        with self.core.notices:
            del subscription.change_interests()[interest]
            self.core.inbox.post(Unsubscribe(subscription, (interest,), final=False))
            self.core.instruments.on_interests(subscription)
            self.route_inbox()
            self.core.senders.reconsider(subscription)

    def is_wanted(self, system: str, kind: str, path: str) -> bool:
        """Whether such an event would be received or kept if it were accepted now."""
        return any(not recipient.closed for recipient in self._recipients(system, kind, path))

    def has_subscriber(self, system: str, kind: str, path: str) -> bool:
        """Whether a subscription would get such an event if it were accepted now."""
        recipients = self._recipients(system, kind, path)
        return any(not r.closed for r in recipients if r.holder is not None)

    def _recipients(self, system: str, kind: str, path: str) -> list[Recipient]:
        if self.core.inbox.controls:
            self.route_inbox()
        # Peek, so that asking leaves no cached route behind.
        return self.table.peek(system, kind).recipients(path)

    def _heed_instruments(self) -> None:
        """Choose between fast paths and those that call instruments, as these need."""
        instruments, inbox = self.core.instruments, self.core.inbox
        inbox.direct_size = 0 if instruments.watched_sends else inbox.size
        for subscription in (*self.subscriptions, *self.waiters, *self.core.unfinished_now()):
            subscription.is_quick = not (subscription.must_settle or instruments.watched_reads)
            if subscription.worker is not None:
                subscription.worker.heed_instruments()

    @property
    def accepted(self) -> int:
        """The number of events that have been accepted."""
        return self._routed + self.core.inbox.used

    def restrict(self, admits: Admits, reason: str) -> None:
        """From now on, admit only certain tasks, and replies to their requests."""
        with self.core.notices:
            self.core.door.restrict(admits, reason)
            self.core.senders.dismiss(self.core.door)

    @trio.lowlevel.enable_ki_protection
    def close(self, reason: str = LEFT) -> None:
        """Route what was accepted, end all subscriptions, and refuse everything from now on."""
        if self.core.door.closed:
            return
        with self.core.notices:
            self.core.instruments.tell("bus_closing")
            self.core.door.close(reason)
            self.core.senders.dismiss(self.core.door)
            self.core.senders.full.clear()
            # All at once: removing 100,000 from the table one by one would take seconds.
            ending: list[Recipient] = [*self.subscriptions, *self.waiters, *self.histories]
            for recipient in ending:
                recipient.closed = True
            if self.core.instruments.active:
                for subscription in (*self.subscriptions, *self.waiters):
                    subscription.leave()
                for recipient in ending:
                    self.core.instruments.on_interests(recipient)
            self.subscriptions.clear()
            self.waiters.clear()
            self.histories.clear()
            self.route_inbox()
            self.core.requests.close()
            self.table.clear()
            for recipient in ending:
                recipient.end()
            self.core.inbox.close()
            self.core.instruments.tell("bus_closed")
