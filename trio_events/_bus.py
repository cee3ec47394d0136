"""The handle that applications hold."""

from __future__ import annotations

import copy
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, ClassVar, Final, TypeVar, cast, final, overload

import attrs
import trio

from ._advisories import Advisories
from ._core.actor import Core
from ._core.buffer import Overflow
from ._core.notices import SendsRefused
from ._core.router import Router
from ._errors import SubscriptionLimitError
from ._event import Event, EventDraft
from ._handlers.calling import DeadLetterHook, HandlerActor
from ._handlers.registration import Handler, HandlerSet, Registration, place_of
from ._handlers.staff import Staff
from ._handlers.supervision import OnError, Propagate
from ._instruments import Instrument, check_instrument
from ._names.interest import Interest
from ._names.pattern import ExactPath, plain_name, plain_path
from ._names.permits import Permits
from ._no_public_constructor import NoPublicConstructor
from ._origin import caller
from ._requests import REPLY_KIND, EventWaiter, Expecting, request
from ._subscription import Subscription, make_subscription
from ._terms import Terms

DataT = TypeVar("DataT")

ANYBODY: Final = "anybody"
"""The actor on whose behalf a bus acts until `EventBus.for_actor` says another."""

current_bus: ContextVar[EventBus] = ContextVar("trio_events.current_bus")
"""The bus of the innermost `open_event_bus` around the running task."""


@final
@attrs.frozen
class EventBusStatistics:
    """The state of a bus."""

    accepted: int
    """Events that were accepted since the bus was opened."""

    unmatched: int
    """Events among them that no subscription matched."""

    refused: int
    """Events that `send_soon` took and the bus could not accept."""

    current_inbox_used: int
    """Events among them that the router has not routed yet."""

    inbox_size: int
    """Events in the inbox at which senders begin to wait."""

    open_subscriptions: int
    """Subscriptions that are open."""

    open_waiters: int
    """Blocks of `expect`, and calls of `wait_for` and `request`, that are open."""

    advisories_lost: int
    """The bus's own events that found no room in the inbox."""

    routes_remembered: int
    """Pairs of system and kind whose route is remembered."""

    tasks_waiting_send: int
    """Tasks that wait in `send`."""


@final
@attrs.define
class _Refused:
    """The events that `send_soon` could not send, counted for all names of a bus."""

    count: int = 0


@final
@attrs.define(eq=False, repr=False)
class EventBus(metaclass=NoPublicConstructor):
    """An open event bus, in the name of one actor. Get one from `open_event_bus`."""

    _made_by: ClassVar = "open_event_bus"
    _router: Router
    _core: Core
    _nursery: trio.Nursery
    _staff: Staff
    _permits: Permits
    _token: trio.lowlevel.TrioToken
    _max_subscriptions: int
    _on_dead_letter: DeadLetterHook | None
    _advisories: Advisories
    _refused: _Refused = attrs.field(factory=_Refused, init=False)

    @trio.lowlevel.enable_ki_protection
    async def send(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Send an event to every subscription that matches it.

        When this returns, every matching subscription in force gets the event, or has its loss
        counted. It does not mean that anybody has read it.

        A cancellation point always; a schedule point if it waits, and at least every
        `checkpoint_every` calls. It waits while a matching subscription with `Overflow.BLOCK` is
        full, and while the inbox is full; senders that wait go on first come, first served.
        Cancel-safe: if cancelled, nothing was sent.

        Args:
          system: What it is about: a name in dot-separated segments.
          kind: What happened: a name in dot-separated segments.
          path: Which thing it happened to: any text but the empty one.
          data: Anything; subscribers get this very object.

        Raises:
          TypeError: If `system`, `kind` or `path` is not a `str`.
          InvalidEventError: If one of them is not what it should be.
          PolicyDeniedError: If the policy does not allow to send to this system.
          BusClosedError: If the bus was closed, before or meanwhile.
          NoBusError: If this is called in another thread. Nothing was sent.
          DeadlockError: If the send has waited for a second and would wait forever: every task
            that has read from the full subscription waits itself, by whatever detours, for the
            sender. A send that has a deadline is left alone.
        """
        self._core.door.check_here()
        await next(self._core.pace.steps)()
        event = self._post(system, kind, path, data)
        if event is not None:
            if self._core.instruments.watched_sends:
                with self._core.instruments.around("before_send", "after_send", event):
                    await self._offer(event)
            elif (sender := self._router.offer(event, wait=True)) is not None:
                await sender.wait()
                self._core.pace.restart()

    async def _offer(self, event: Event) -> None:  # noqa: ASYNC910  # `send` has had a checkpoint
        if (sender := self._router.offer(event, wait=True)) is not None:
            await sender.wait()
            self._core.pace.restart()

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Like `send`, but where that would wait, raise `trio.WouldBlock`. Not a checkpoint.

        Raises:
          trio.WouldBlock: If `send` would wait. Nothing was sent.
          EventBusError: As `send`.
        """
        self._core.door.check_here()
        event = self._post(system, kind, path, data)
        if event is not None:
            if self._core.instruments.watched_sends:
                with self._core.instruments.around("before_send", "after_send", event):
                    self._router.offer(event)
            else:
                self._router.offer(event)

    def is_here(self) -> bool:
        """Whether the caller is in the run of trio that this bus belongs to.

        False in another thread, where only `send_soon` may be called.
        """
        here = trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token()
        return here is self._token

    def is_wanted(self, system: str, kind: str, path: str) -> bool:
        """Whether a subscription would get such an event if it were sent now. Not a checkpoint.

        Use it to save the work of making `data` that nothing needs.

        Args:
          system: As in `send`.
          kind: As in `send`.
          path: As in `send`.

        Raises:
          TypeError: As `send`.
          InvalidEventError: As `send`.
          NoBusError: If this is called in another thread.
        """
        system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        path = plain_path(path)
        self._core.door.check_here()
        return self._router.is_wanted(system, kind, path)

    def send_soon(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Send an event from anywhere: another thread, a callback, a signal handler.

        Returns at once. Trio sends the event soon afterwards; calls from one thread keep their
        order. Nothing can wait there, so an event is refused if a subscription would make `send`
        wait at that moment, or if `send` would raise. That is counted in `statistics().refused`
        and logged, and never ends the run. A full inbox is no reason: the router works first. A
        thread that can wait should rather use `trio.from_thread.run(bus.send, ...)`, with which
        nothing is refused silently.

        Not a checkpoint.

        Raises:
          TypeError: As `send`.
          InvalidEventError: As `send`.
          BusClosedError: If the bus was closed.
        """
        system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        path = plain_path(path)
        self._core.door.check_unlocked()
        if not self._core.door.is_open:
            raise self._core.door.closed_error()
        send = partial(self._send_or_refuse, system, kind, path, data)
        if self._core.instruments.watched_sends:  # called in the context variables of the sender
            send = partial(copy_context().run, send)
        self._token.run_sync_soon(send)

    @trio.lowlevel.enable_ki_protection
    def _send_or_refuse(self, system: str, kind: str, path: str, data: object) -> None:
        try:
            event = self._post(system, kind, path, data)
            if event is not None:
                with self._core.instruments.around("before_send", "after_send", event):
                    self._router.offer_now(event)
        except Exception as error:  # noqa: BLE001  # an error that leaves a callback ends the run
            refused = self._refused.count = self._refused.count + 1
            if refused & (refused - 1) == 0:  # the first, second, fourth, eighth …
                self._core.notices.add(SendsRefused(refused, error))
                self._core.instruments.tell("sends_refused", error, refused)

    @overload
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription: ...

    @overload
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[DataT],
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription[DataT]: ...

    @trio.lowlevel.enable_ki_protection
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        data: type[DataT] | None = None,
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription[DataT]:
        """Subscribe to the events whose system and kind match two patterns.

        Every event that is accepted after this returned is received, until the subscription or
        the bus is closed. Subscribe twice to receive everything twice.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          system: A pattern for the system of events.
          kind: A pattern for the kind of events; None matches every kind.
          path: The one path that is wanted, or a pattern for it, with `/` between the segments
            and the same wildcards; None is every path. `ExactPath` takes any text as it is.
          data: The type of the events' data, for type checkers only. Nothing is checked.
          max_buffer_size: How many events may wait to be read before the buffer is full.
          overflow: What happens to an event when the buffer is full.

        Raises:
          TypeError: If an argument is not of its type.
          ValueError: If `max_buffer_size` is less than 1, or `overflow` is `Overflow.BLOCK` and the
            pattern matches the bus's own events.
          InvalidPatternError: If a text is not a pattern.
          NoBusError: If the caller is not in the trio run of the bus.
          PolicyDeniedError: If the policy does not allow to subscribe to this system.
          BusClosedError: If the bus was closed, before or meanwhile.
          SubscriptionLimitError: If `max_subscriptions` are open.
        """
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        origin = caller()
        await self._arrive()
        return self._subscribe(terms, origin)

    def on(
        self,
        handler: Handler,
        system: str | None = None,
        kind: str | None = None,
        *,
        path: str | ExactPath | None = None,
        concurrency: int = 1,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Coroutine[Any, Any, Subscription]:
        """Subscribe, and have an async function called with each event.

        By default it is called with one event after the other, in order. It runs in the context
        variables of the caller, with this very bus as the one around it: a handler that was
        registered through `bus.for_actor("plugin")` acts as the plugin. When the bus is closed,
        it is still called with all that was accepted, for as long as `drain_timeout` allows. The
        bus holds it strongly.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          handler: The async function.
          system: As in `subscribe`; it is required.
          kind: As in `subscribe`.
          path: As in `subscribe`.
          concurrency: How many calls there may be at once. They begin in the order of events.
          on_error: What is to be done when the handler raises an `Exception`; see `Propagate`,
            `Log`, `CloseSubscription` and `Restart`.
          max_buffer_size: As in `subscribe`.
          overflow: As in `subscribe`.

        Raises:
          TypeError: If the handler is not an async function that can be called with one argument,
            or another argument not of its type.
          ValueError: If a number is less than 1.
          EventBusError: As `subscribe`.
        """
        if system is None:
            raise TypeError(
                "`on` is no decorator: write `await bus.on(handler, system, ...)`, or declare the "
                "handler with `@handlers.on(system, ...)` on a HandlerSet"
            )
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        return self._on(Registration(handler, terms, concurrency, on_error), caller())

    @trio.lowlevel.enable_ki_protection
    async def _on(self, registration: Registration, origin: str) -> Subscription:
        await self._arrive()
        return self._start(registration, origin)

    @trio.lowlevel.enable_ki_protection
    async def include(self, handlers: HandlerSet) -> tuple[Subscription, ...]:
        """Put the handlers of a set to work, all or none of them, as `on` does for one.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Returns:
          Their subscriptions, in the order in which the handlers were declared.

        Raises:
          TypeError: If that is no `HandlerSet`.
          EventBusError: As `subscribe`.
        """
        if not isinstance(handlers, HandlerSet):
            raise TypeError(f"handlers must be a HandlerSet, not {handlers!r}")
        origin = caller()
        await self._arrive()
        self._core.door.check_open()
        subscriptions: list[Subscription] = []
        try:
            for registration in tuple(handlers.registrations):
                subscriptions.append(self._start(registration, origin))
        except BaseException:
            for subscription in subscriptions:
                subscription.channel().close()
            raise
        return tuple(subscriptions)

    def expect(
        self, system: str, kind: str | None = None, *, path: str | ExactPath | None = None
    ) -> AbstractAsyncContextManager[EventWaiter]:
        """Expect events, from before the block is entered until it is left.

        It is in force before the first schedule point of entering, so an event triggered inside
        the block, or sent by another task meanwhile, is never missed. Each of those who expect an
        event gets it. This makes no sender wait, and does not count as one of the
        `max_subscriptions`.

        Entering is a checkpoint, always; leaving is not. Cancel-safe: if cancelled, nothing is
        expected any more.

        Args:
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`. To expect one path costs the same, however many are expected.

        Raises:
          TypeError: If an argument is not of its type.
          EventBusError: As `subscribe`, but for the limit.
        """
        return Expecting(self._router, self._permits, Interest.of(system, kind, path))

    async def wait_for(
        self, system: str, kind: str | None = None, *, path: str | ExactPath | None = None
    ) -> Event:
        """Wait for the next event that matches.

        An event that is sent after this was called is not missed: it is in force before its first
        schedule point. If your own code triggers the event before that, see `expect` and `request`.

        A checkpoint, always. Cancel-safe: if cancelled, nothing is expected any more.

        Args:
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`.

        Raises:
          BusClosedError: If the bus was closed, before or meanwhile.
          EventBusError: As `expect`.
        """
        async with self.expect(system, kind, path=path) as waiter:
            return await waiter.event()

    @trio.lowlevel.enable_ki_protection
    async def request(
        self,
        system: str,
        kind: str,
        path: str,
        data: object = None,
        *,
        reply_kind: str = REPLY_KIND,
    ) -> Event:
        """Send an event, and wait for the reply to it.

        The reply is the first event of the same system and the same path that is accepted after
        this was called and whose kind matches `reply_kind`, and is not that of the request itself.
        `reply.accepted` tells yes from no.

        A checkpoint, always. Waits as `send` does, then for the reply. Cancel-safe: if cancelled,
        nobody waits for the reply any more, but the request may have been sent.

        Args:
          system: As in `send`.
          kind: As in `send`.
          path: As in `send`; which request the reply is to. Two requests that wait for the same
            path at the same time get the same reply.
          data: As in `send`.
          reply_kind: A pattern for the kind of replies.

        Raises:
          NoSubscribersError: If nobody would receive the request. Nothing was sent.
          TypeError: As `send`.
          InvalidPatternError: If `reply_kind` is not a pattern.
          EventBusError: As `send`, and as `subscribe`, but for the limit.
        """
        event = Event(
            plain_name(system, "system"), plain_name(kind, "kind"), plain_path(path), data
        )
        return await request(self._router, self._permits, self.send, event, reply_kind)

    def subscriptions(self) -> tuple[Subscription, ...]:
        """The open subscriptions, in the order of opening, including those of handlers.

        Not a checkpoint.
        """
        return tuple(self._router.subscriptions.values())

    @trio.lowlevel.enable_ki_protection
    def add_instrument(self, instrument: Instrument) -> None:
        """Have an instrument watch the bus from now on. Not a checkpoint. Idempotent.

        It is first told of the subscriptions that are open. See `Instrument`.

        Raises:
          TypeError: If it is not an `Instrument`.
          NoBusError: If this is called in another thread.
        """
        check_instrument(instrument)
        self._core.door.check_here()
        instruments = self._core.instruments
        if instrument in instruments:
            return
        instruments.add(instrument)
        for actor in (*self._router.subscriptions, *self._router.waiters):
            instruments.tell_one(instrument, "subscription_opened", actor.handle)

    @trio.lowlevel.enable_ki_protection
    def remove_instrument(self, instrument: Instrument) -> None:
        """Have an instrument watch the bus no longer. Not a checkpoint.

        None of its methods is called again, not even `after_send` of a send that is waiting.

        Raises:
          KeyError: If it does not watch this bus, for example because a method has raised.
          NoBusError: If this is called in another thread.
        """
        self._core.door.check_here()
        if instrument not in self._core.instruments:
            raise KeyError(instrument)
        self._core.instruments.remove(instrument)

    def for_actor(self, name: str) -> EventBus:
        """The same bus in the name of an actor, which is what the policy is asked about.

        Raises:
          TypeError: If `name` is not a `str`.
          InvalidEventError: If `name` is not a name in dot-separated segments.
        """
        bus = copy.copy(self)
        bus._permits = self._permits.for_actor(plain_name(name, "actor"))
        return bus

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close the bus. Not a checkpoint. Idempotent.

        Everything that was accepted is routed, and every channel ends after what is in it. Sends
        and subscriptions from now on, and senders that wait, get `BusClosedError`.

        If there are handlers, that comes after they have finished what they have, or after
        `drain_timeout` seconds: until then they, and the tasks that they start, may still use the
        bus, and nobody else.

        If a destructor calls this while the bus is in the middle of a step, it takes effect at the
        end of that step.

        Raises:
          NoBusError: If this is called in another thread, and the bus is open.
        """
        if not self._core.door.closed:
            self._core.door.check_here()
            reason = f"close() was called at {caller()}"
            self._core.notices.after_step(partial(self._staff.close, reason))

    def statistics(self) -> EventBusStatistics:
        """The state of the bus now. Not a checkpoint."""
        router = self._router
        return EventBusStatistics(
            accepted=router.accepted,
            unmatched=router.unmatched,
            refused=self._refused.count,
            current_inbox_used=self._core.inbox.used,
            inbox_size=self._core.inbox.size,
            open_subscriptions=len(router.subscriptions),
            open_waiters=len(router.waiters),
            advisories_lost=self._advisories.lost,
            routes_remembered=router.table.remembered,
            tasks_waiting_send=len(self._core.senders),
        )

    def __repr__(self) -> str:
        router = self._router
        state = "closed" if self._core.door.closed else f"{len(router.subscriptions)} subscriptions"
        return f"<EventBus for {self._permits.actor!r}, {state}, {router.accepted} events accepted>"

    def _post(self, system: str, kind: str, path: str, data: object) -> Event | None:
        """Have an event accepted if it is clear that nothing stops it; otherwise return it."""
        # In one piece, because it is in the way of every event: a call is 3 % of a delivery.
        router, core = self._router, self._core
        if system is not router.last_system or kind is not router.last_kind:
            system, kind = router.checked_names(system, kind)
        if type(path) is not str or not path:
            path = plain_path(path)
        if self._permits.policy is not None:
            self._permits.check_send(system)
        draft = EventDraft()
        draft.system = system
        draft.kind = kind
        draft.path = path
        draft.data = data
        draft.__class__ = Event  # type: ignore[assignment]  # see EventDraft
        event = cast(Event, draft)
        inbox = core.inbox
        # No call may come between the checks and `append`, where a destructor could close the bus.
        if (
            len(inbox.messages) < inbox.direct_size
            and (messages := inbox.messages)
            and core.door.is_open
            and not core.senders.full
        ):
            messages.append(event)
            return None
        return event

    async def _arrive(self) -> None:
        """Make sure that the caller is where it should be, and give others a turn."""
        self._core.door.check_run()
        await trio.lowlevel.checkpoint()
        self._core.pace.restart()

    def _subscribe(
        self, terms: Terms, origin: str, registration: Registration | None = None
    ) -> Subscription[Any]:
        router = self._router
        self._core.door.check_open()
        self._permits.check_subscribe(terms.interest.system)
        self._core.door.check_open()  # whatever the policy has done
        if len(router.subscriptions) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                f"there are already {self._max_subscriptions} open subscriptions; close some, "
                "or allow more by open_event_bus(max_subscriptions=...)",
                max_subscriptions=self._max_subscriptions,
            )
        interest, max_buffer_size = terms.interest, terms.max_buffer_size
        with self._core.notices:
            actor = router.make_subscription(interest, origin, max_buffer_size, terms.overflow)
            subscription = make_subscription(actor, router, self._permits)
            router.open(actor, subscription)
            name = f"trio_events subscription {str(interest.system)!r}"
            self._nursery.start_soon(actor.run, router.close, name=name)
            if registration is not None:
                self._put_to_work(registration, subscription)
            actor.tell("subscription_opened")
            return subscription

    def _start(self, registration: Registration, origin: str) -> Subscription:
        origin = place_of(registration.handler) or origin
        return self._subscribe(registration.terms, origin, registration)

    def _put_to_work(self, registration: Registration, subscription: Subscription) -> None:
        token = current_bus.set(self)  # handlers act in the name of the actor that registered them
        try:
            HandlerActor(
                subscription._actor, subscription, registration, self._staff, self._on_dead_letter
            ).start(self._nursery)
        finally:
            current_bus.reset(token)
