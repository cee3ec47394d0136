"""The router actor: one inbox, one routing table, one total order; and the gate before it."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeAlias, final

import attrs
import trio

from ._actor import Attempt, Sender, SubscriptionActor
from ._errors import BusClosedError, DeadlockError, NoBusError
from ._event import Event
from ._names.interest import Interest
from ._names.routing import RoutingTable
from ._pace import Pace
from ._waiting import Waiter, first


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
    (In a plain class, since attributes that everybody uses are set here in one go.)

    Everything but `run` and `wait_to_accept` is synchronous: nothing else runs meanwhile.
    """

    def __init__(
        self, inbox_size: int, pace: Pace, token: trio.lowlevel.TrioToken | None = None
    ) -> None:
        self.table: RoutingTable[SubscriptionActor] = RoutingTable()
        self.subscriptions: dict[SubscriptionActor, None] = {}  # those that are open
        self.waiters: dict[SubscriptionActor, None] = {}  # the same, for those without a task
        self.closed = False
        # Those whose handlers are at work, with what makes these stop.
        self.handled: dict[SubscriptionActor, Callable[[], None]] = {}
        # While handlers finish what they have, only tasks in this nursery may send.
        self._draining: trio.Nursery | None = None
        self._progress = trio.lowlevel.ParkingLot()
        self._routed = 0
        self.unmatched = 0
        self.refused = 0
        self.inbox_size = inbox_size
        self.pace = pace
        self.inbox: list[Message] = []
        self._controls = 0  # messages in the inbox that are no events
        self._routing = False
        self._token = token  # of the run that this belongs to; None for tests without one
        self._tx, self._rx = trio.open_memory_channel[list[Message]](1)
        # Senders wait at their obstacle: here for room in the inbox, or at a full subscription.
        self.senders: OrderedDict[Sender, None] = OrderedDict()
        self._obstacles: dict[trio.lowlevel.Task, tuple[Sender, Obstacle]] = {}
        self._tickets = itertools.count()
        # The subscriptions that stop senders: those without room, and those for whose room
        # somebody already waits, so that no newcomer goes first.
        self._full: set[SubscriptionActor] = set()
        # The length of the inbox at which a sender has to be looked at.
        self._unhindered = inbox_size

    # The actor

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Route what is in the inbox whenever something is."""
        try:
            async for messages in self._rx:
                self.route_inbox()
                del messages  # or the last events would live on until the next ones come
        finally:
            self.close()

    def route_inbox(self) -> None:
        """Route all that is in the inbox, then let in senders that wait for room in it."""
        if self._routing:  # somebody closes the bus when told of a loss: go on below
            return
        self._routing = True
        try:
            self._route_list()
            while self.closed and self.inbox:
                self._route_list()
        finally:
            self._routing = False
        if self.senders:
            self._let_in(self, self.inbox_size)
        self.note_progress()

    def _route_list(self) -> None:
        # Whoever gets the list from the channel finds the same in `inbox`, or, if `close` was
        # faster, the empty one that replaced it.
        messages, self.inbox = self.inbox, []
        self._controls = 0
        # The pending lists of the subscriptions that match something.
        pending: dict[SubscriptionActor, list[Event]] = {}
        # Neighbours of the same system and kind are looked up and handed out together: for 100
        # subscriptions, lists extended by a run cost little more than lists extended by one.
        run: list[Event] = []
        system = kind = ""
        for message in messages:
            if type(message) is Event:
                if message.system != system or message.kind != kind:
                    self._spread(run, pending)
                    run = []
                    system, kind = message.system, message.kind
                run.append(message)
            else:
                self._spread(run, pending)
                run = []
                self._deliver(pending)
                self._register(message)
        self._spread(run, pending)
        self._deliver(pending)

    def _spread(self, run: list[Event], pending: dict[SubscriptionActor, list[Event]]) -> None:
        """Add events of one system and kind to the lists of those who want them."""
        if run:
            self._routed += len(run)
            route = self.table.match(run[0].system, run[0].kind)
            for subscription in route.items:
                if subscription in pending:
                    pending[subscription] += run
                else:
                    pending[subscription] = run.copy()
            if route.by_path:
                for event in run:
                    found = route.find(event.path)
                    for subscription in found:
                        pending.setdefault(subscription, []).append(event)
                    self.unmatched += not (found or route.items)
            elif not route.items:
                self.unmatched += len(run)

    def _deliver(self, pending: dict[SubscriptionActor, list[Event]]) -> None:
        for subscription, events in pending.items():
            subscription.deliver(events)
        pending.clear()

    def _register(self, message: Subscribe | Unsubscribe) -> None:
        subscription = message.subscription
        interest = Interest(subscription.system, subscription.kind, subscription.path)
        if isinstance(message, Subscribe):
            self.table.add(subscription, interest)
        else:
            self.table.remove(subscription, interest)
            subscription.finish()

    # The inbox

    def is_here(self) -> bool:
        """Whether the caller is in the run of trio that this belongs to."""
        if self._token is None:
            return True
        here = trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token()
        return here is self._token

    def check_here(self) -> None:
        """Refuse what comes from another thread, before anything has happened.

        Raises:
          NoBusError: If so, and the bus is open.
        """
        if not self.closed and not self.is_here():
            raise NoBusError(
                "this must be called in the trio run of the bus; from elsewhere, use send_soon "
                "or trio.from_thread"
            )

    def _post(self, message: Message) -> None:
        """Give a message its place in the total order."""
        if not self.inbox:
            self.check_here()  # before the router is woken: once a batch costs next to nothing
            self._tx.send_nowait(self.inbox)
        self.inbox.append(message)

    def _post_control(self, message: Subscribe | Unsubscribe) -> None:
        self._post(message)
        self._controls += 1

    @property
    def inbox_used(self) -> int:
        """How many events wait to be routed."""
        return len(self.inbox) - self._controls

    def offer(self, event: Event) -> Obstacle | None:
        """Take in an event, unless something stops it: then return that."""
        if self._full or len(self.inbox) >= self._unhindered:
            self.check_open()
            obstacle = self.obstacle(event)
            if obstacle is not None:
                return obstacle
        if not self.inbox:
            self.check_here()  # before the router is woken: once a batch costs next to nothing
            self._tx.send_nowait(self.inbox)
        self.inbox.append(event)  # all this is `_post`, which would be 1 % of a delivery
        return None

    def open(self, subscription: SubscriptionActor) -> None:
        """Take in a subscription: it gets every event that is accepted from now on."""
        self._post_control(Subscribe(subscription))
        self.subscriptions[subscription] = None

    def open_waiter(self, waiter: SubscriptionActor) -> None:
        """Take in a subscription without a task; it must never make a sender wait."""
        self._post_control(Subscribe(waiter))
        self.waiters[waiter] = None

    def is_wanted(self, event: Event) -> bool:
        """Whether somebody would get the event if it were accepted now."""
        registered = self._recipients(event)
        posted = (m.subscription for m in self.inbox if isinstance(m, Subscribe))
        return any(not s.closed for s in registered) or any(
            not s.closed and s.matches(event) for s in posted
        )

    def _recipients(self, event: Event) -> Iterator[SubscriptionActor]:
        # Peek, so that a send that is cancelled leaves no remembered route behind.
        yield from self.table.peek(event.system, event.kind).recipients(event.path)

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Route what was accepted, end all subscriptions, and refuse everything from now on."""
        if self.closed:
            return
        self.check_here()
        self.closed = True
        self._dismiss_senders()
        for subscription in (*self.subscriptions, *self.waiters):
            subscription.close()
        self.route_inbox()
        self.table.forget_routes()
        self._tx.close()

    def check_open(self) -> None:
        """Refuse the running task what it wants if the bus is closed, for it or for all.

        Raises:
          BusClosedError: If so.
        """
        if self.closed or self._is_shut_out(None):
            raise BusClosedError("the bus is closed")

    @property
    def draining(self) -> bool:
        """Whether only handlers may still do something."""
        return self._draining is not None

    def begin_to_drain(self, nursery: trio.Nursery) -> None:
        """Refuse everything from now on but to the tasks in a nursery."""
        self._draining = nursery
        self._unhindered = 0
        self._dismiss_senders()

    async def wait_drained(self) -> None:
        """Wait until no handler has anything left to do. A checkpoint, always."""
        await trio.lowlevel.checkpoint()
        while self.inbox or not all(map(self._is_idle, self.handled)):
            await self._progress.park()

    def note_progress(self) -> None:
        """Have whoever waits for the end of draining look again, after the running task's turn."""
        if self._draining is not None:
            self._progress.unpark_all()

    def _is_idle(self, subscription: SubscriptionActor) -> bool:
        """Whether the handler has nothing left to do. Not to be asked by the handler's task."""
        # Not enough that nothing is queued: an event may be on its way to a task that waited,
        # but then that task does not wait any more.
        return not subscription.handling and any(
            reader.task.parent_nursery is self._draining for reader in subscription.readers
        )

    def _is_shut_out(self, task: trio.lowlevel.Task | None) -> bool:
        """Whether a task, or the running one, is none of those that may send while we drain."""
        if self._draining is None:
            return False
        task = task or trio.lowlevel.current_task()
        while task is not None and task.parent_nursery is not self._draining:
            task = None if task.parent_nursery is None else task.parent_nursery.parent_task
        return task is None

    def _dismiss_senders(self) -> None:
        obstacles: list[Obstacle] = [self, *self.subscriptions]
        for sender in [sender for obstacle in obstacles for sender in obstacle.senders]:
            if self.closed or self._is_shut_out(sender.task):
                sender.wake(BusClosedError("the bus was closed; this event was not sent"))

    # The gate

    def obstacle(self, event: Event, sender: Sender | None = None) -> Obstacle | None:
        """What the sender of this event has to wait for, or None if it may go on."""
        if self.inbox_used >= self.inbox_size:
            return self
        if self._full:
            for subscription in self._recipients(event):
                if subscription in self._full and not _has_passed(sender, subscription):
                    return subscription
        return None

    async def wait_to_accept(  # noqa: ASYNC910  # an error comes only with a checkpoint
        self, event: Event, obstacle: Obstacle
    ) -> None:
        """Wait until nothing stops the event and it has been accepted.

        A checkpoint, always. Cancel-safe: if cancelled, the event was
        not accepted.

        Raises:
          BusClosedError: If the bus is closed meanwhile. The event was not accepted.
          DeadlockError: If the wait could never end. The event was not accepted.
        """
        attempt = Attempt(event, trio.current_time(), trio.current_effective_deadline())
        sender: Sender = Waiter(attempt, next(self._tickets))
        error: Exception | None = self._deadlock(sender, obstacle)
        try:
            if error is not None:
                # Perhaps another reader was started a moment ago, and begins to read now. It has
                # had its turn after the second checkpoint, if not before.
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
                next_obstacle = self.offer(event)
                if next_obstacle is None:
                    return
                obstacle = next_obstacle
                error = self._deadlock(sender, obstacle)
            if error is None:
                self._note_obstacle(sender, obstacle)
                try:
                    error = await sender.wait(obstacle.senders)
                finally:
                    del self._obstacles[sender.task]
                    self.pace.restart()
            if error is not None:
                raise error
        finally:
            del error  # no reference cycle, which would keep the event

    @property
    def accepted(self) -> int:
        """How many events have been accepted."""
        return self._routed + self.inbox_used

    def tasks_waiting_send(self) -> int:
        """How many senders wait."""
        return len(self.senders) + sum(len(s.senders) for s in self.subscriptions)

    def on_full(self, subscription: SubscriptionActor) -> None:
        """Stop senders of events that the subscription matches."""
        self._full.add(subscription)

    def on_room(self, subscription: SubscriptionActor) -> None:
        """Let in as many of those that wait as there is room for, then newcomers."""
        self._full.discard(subscription)
        room = subscription.buffer.room - subscription.coming
        subscription.coming += self._let_in(subscription, room)
        if subscription.senders:
            self._full.add(subscription)
            subscription.watch_senders(first(subscription.senders).request.since)

    def on_stall(self, subscription: SubscriptionActor) -> None:
        """Refuse senders whose wait has become hopeless since it began."""
        for sender in tuple(subscription.senders):
            if deadlock := self._deadlock(sender, subscription, waiting=True):
                sender.wake(deadlock)

    def on_close(self, subscription: SubscriptionActor) -> None:
        """Forget the subscription, and let in all that waited for it."""
        self._post_control(Unsubscribe(subscription))
        self.subscriptions.pop(subscription, None)
        self.waiters.pop(subscription, None)
        self._full.discard(subscription)
        self._let_in(subscription, len(subscription.senders))

    def _let_in(self, obstacle: Obstacle, room: int) -> int:
        """Let in at most `room` waiting senders, first come, first served; returns how many.

        A sender that meets another obstacle goes on waiting there.
        """
        let_in = 0
        while obstacle.senders and let_in < room:
            sender = first(obstacle.senders)
            next_obstacle = self.obstacle(sender.request.event, sender)
            if next_obstacle is None:
                self._post(sender.request.event)
                sender.wake(None)
                let_in += 1
            elif next_obstacle is obstacle:
                break
            elif error := self._deadlock(sender, next_obstacle):
                sender.wake(error)
            else:
                if isinstance(obstacle, SubscriptionActor):
                    sender.request.passed.add(obstacle)
                self._note_obstacle(sender, next_obstacle)
                sender.move(next_obstacle.senders)
        return let_in

    def _note_obstacle(self, sender: Sender, obstacle: Obstacle) -> None:
        self._obstacles[sender.task] = sender, obstacle
        if isinstance(obstacle, SubscriptionActor):
            obstacle.watch_senders(sender.request.since)

    def _deadlock(
        self, sender: Sender, obstacle: Obstacle, *, waiting: bool = False
    ) -> DeadlockError | None:
        """The error to raise if waiting at the obstacle could never end.

        That is so if only the sender itself reads from the subscription, or only a task that
        waits for a subscription of which the same is true, and that will not give up before the
        sender does; nor may the sender, if it waits already, be the one who gives up first. (A
        deadline that has passed must have been moved: then nothing is known of it.)
        """
        last = sender
        now = trio.current_time()
        for _ in range(len(self._obstacles) + 1):  # as many links as a chain can have
            if isinstance(obstacle, Router):
                return None
            gives_up, sender_gives_up = last.request.deadline, sender.request.deadline
            if gives_up >= now and (
                gives_up < sender_gives_up or (waiting and sender_gives_up < gives_up)
            ):
                return None
            reader = obstacle.only_reader
            if reader is sender.task:
                whom = "is the sender itself" if last is sender else "waits for the sender"
                return DeadlockError(
                    f"sending to {sender.request.event.system!r} would wait forever: "
                    f"{obstacle.description()} is full, and its only reader {whom}",
                    system=str(obstacle.system),
                    kind=None if obstacle.kind is None else str(obstacle.kind),
                )
            if reader not in self._obstacles:
                return None
            last, obstacle = self._obstacles[reader]
            if last not in obstacle.senders:
                return None
        return None


def _has_passed(sender: Sender | None, subscription: SubscriptionActor) -> bool:
    """Whether a sender has waited long enough for a subscription that is full again.

    It is when it has had its turn there, and nobody waits there now who came before. Otherwise two
    that are always full could send it to and fro for ever. What does not fit is held.
    """
    if sender is None or subscription not in sender.request.passed:
        return False
    return not subscription.senders or first(subscription.senders).ticket > sender.ticket


Obstacle: TypeAlias = Router | SubscriptionActor
"""What senders wait for: room in the router's inbox, or in a subscription."""
