"""The router actor: one inbox, one routing table, one total order; and the gate before it."""

from __future__ import annotations

import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import TypeAlias, final

import attrs
import trio

from ._errors import BusClosedError
from ._event import Event
from ._routing import RoutingTable
from ._subscription import Sender, SubscriptionActor
from ._waiting import first

Senders: TypeAlias = OrderedDict[Sender, None]


@final
@attrs.frozen(eq=False)
class Subscribe:
    """Route events that come after this message to the subscription, too."""

    subscription: SubscriptionActor


@final
@attrs.frozen(eq=False)
class Unsubscribe:
    """Route no event that comes after this message to the subscription."""

    subscription: SubscriptionActor


Message: TypeAlias = Event | Subscribe | Unsubscribe


@final
class Router:
    """Takes messages in one order and hands each event to every subscription that matches.

    The inbox is a memory channel that carries a list of messages. While the list waits in the
    channel, messages are added to it; so the channel needs room for one list only, and the bound
    counts the events in it. The place of a message in the list is its place in the total order.

    Everything but `run` and `wait_to_accept` is synchronous: nothing else runs meanwhile.
    """

    def __init__(self, inbox_size: int) -> None:
        self.table: RoutingTable[SubscriptionActor] = RoutingTable()
        self.subscriptions: dict[SubscriptionActor, None] = {}  # those that are open
        self.closed = False
        self.accepted = 0
        self.unmatched = 0
        self.inbox_size = inbox_size
        self.inbox: list[Message] = []
        self._tx, self._rx = trio.open_memory_channel[list[Message]](1)
        # Senders wait in the queue of what stops them: the inbox, or one full subscription.
        self._senders: Senders = OrderedDict()
        self._tickets = itertools.count()
        # The subscriptions that stop senders: those without room, and those for whose room
        # somebody already waits, so that no newcomer goes first.
        self._full: set[SubscriptionActor] = set()

    # The actor

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Route what is in the inbox whenever something is."""
        try:
            async for _ in self._rx:
                self.route_inbox()
        finally:
            self.close()

    def route_inbox(self) -> None:
        """Route all that is in the inbox, then let in senders that wait for room in it."""
        # Whoever gets the list from the channel finds the same in `inbox`, or, if `close` was
        # faster, the empty one that replaced it.
        messages, self.inbox = self.inbox, []
        lists: defaultdict[SubscriptionActor, list[Event]] = defaultdict(list)
        # Neighbours with the same route are handed out together: for 100 subscriptions, one
        # list extended by a run of events costs little more than one by a single event.
        route: tuple[SubscriptionActor, ...] = ()
        run: list[Event] = []
        for message in messages:
            if isinstance(message, Event):
                matching = self.table.match(message.system, message.kind)
                if matching is not route:
                    self._spread(run, route, lists)
                    route, run = matching, []
                run.append(message)
            else:
                self._spread(run, route, lists)
                route, run = (), []
                self._deliver(lists)
                self._register(message)
        self._spread(run, route, lists)
        self._deliver(lists)
        self._let_in(self._senders, self.inbox_size)

    def _spread(
        self,
        run: list[Event],
        route: Iterable[SubscriptionActor],
        lists: defaultdict[SubscriptionActor, list[Event]],
    ) -> None:
        if not route:
            self.unmatched += len(run)
        for subscription in route:
            lists[subscription] += run

    def _deliver(self, lists: defaultdict[SubscriptionActor, list[Event]]) -> None:
        for subscription, events in lists.items():
            subscription.deliver(events)
        lists.clear()

    def _register(self, message: Subscribe | Unsubscribe) -> None:
        subscription = message.subscription
        if isinstance(message, Subscribe):
            self.table.add(subscription, subscription.system, subscription.kind)
        else:
            self.table.remove(subscription, subscription.system, subscription.kind)
            subscription.finish()

    # The inbox

    def post(self, message: Message) -> None:
        """Give a message its place in the total order."""
        if not self.inbox:
            self._tx.send_nowait(self.inbox)
        self.inbox.append(message)

    def accept(self, event: Event) -> None:
        """Take in an event that nothing stops."""
        self.post(event)
        self.accepted += 1

    def open(self, subscription: SubscriptionActor) -> None:
        """Take in a subscription: it gets every event that is accepted from now on."""
        self.post(Subscribe(subscription))
        self.subscriptions[subscription] = None

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Route what was accepted, end all subscriptions, and refuse everything from now on."""
        if self.closed:
            return
        self.closed = True
        for queue in (self._senders, *(s.senders for s in self.subscriptions)):
            while queue:
                first(queue).wake(BusClosedError("the bus was closed; this event was not sent"))
        for subscription in tuple(self.subscriptions):
            subscription.close()
        self.route_inbox()
        self._tx.close()

    # The gate

    def obstacle(self, event: Event) -> Senders | None:
        """The queue in which the sender of this event has to wait, or None if it may go on."""
        if len(self.inbox) >= self.inbox_size:
            return self._senders
        if self._full:
            for subscription in self.table.match(event.system, event.kind):
                if subscription in self._full:
                    return subscription.senders
        return None

    async def wait_to_accept(self, event: Event, obstacle: Senders) -> None:
        """Wait until nothing stops the event and it has been accepted.

        A checkpoint, always. Cancel-safe: if cancelled, the event was not accepted.

        Raises:
          BusClosedError: If the bus is closed meanwhile. The event was not accepted.
        """
        error = await Sender(event, next(self._tickets)).wait(obstacle)
        if error is not None:
            raise error

    def tasks_waiting_send(self) -> int:
        """How many senders wait."""
        return len(self._senders) + sum(len(s.senders) for s in self.subscriptions)

    def on_full(self, subscription: SubscriptionActor) -> None:
        """Stop senders of events that the subscription matches."""
        self._full.add(subscription)

    def on_room(self, subscription: SubscriptionActor) -> None:
        """Let in as many of those that wait as there is room for, then newcomers."""
        self._full.discard(subscription)
        room = subscription.buffer.room - subscription.coming
        subscription.coming += self._let_in(subscription.senders, room)
        if subscription.senders:
            self._full.add(subscription)

    def on_close(self, subscription: SubscriptionActor) -> None:
        """Forget the subscription, and let in all that waited for it."""
        self.post(Unsubscribe(subscription))
        del self.subscriptions[subscription]
        self._full.discard(subscription)
        self._let_in(subscription.senders, len(subscription.senders))

    def _let_in(self, queue: Senders, room: int) -> int:
        """Let in at most `room` senders from a queue, first come, first served; returns how many.

        A sender that something else stops moves to the queue of that.
        """
        let_in = 0
        while queue and let_in < room:
            sender = first(queue)
            obstacle = self.obstacle(sender.request)
            if obstacle is queue:
                break
            if obstacle is None:
                self.accept(sender.request)
                sender.wake(None)
                let_in += 1
            else:
                sender.move(obstacle)
        return let_in
