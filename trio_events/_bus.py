"""The supervisor and the handle that applications hold."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, TypeVar, cast, final, overload

import attrs
import trio

from ._actor import SubscriptionActor
from ._errors import (
    BusClosedError,
    NoBusError,
    NoSubscribersError,
    PolicyDeniedError,
    SubscriptionLimitError,
)
from ._event import Event, EventDraft
from ._handlers import DeadLetterHook, Handler, HandlerActor, HandlerSet, Registration, is_async
from ._names.pattern import Pattern, plain_name, plain_path
from ._names.policy import Action, Policy
from ._no_public_constructor import NoPublicConstructor
from ._overflow import Buffer, Overflow, check_count
from ._pace import Pace
from ._router import Obstacle, Router
from ._subscription import EventChannel, Subscription
from ._supervision import OnError, Propagate, check_seconds
from ._terms import Terms, check_class
from ._waiter import EventWaiter, first_event

DataT = TypeVar("DataT")

ANYBODY: Final = "anybody"
"""The actor on whose behalf a bus acts until `EventBus.for_actor` says another."""

_MAX_REMEMBERED: Final = 4096
"""Pairs of actor and system whose answer is remembered, before all are forgotten."""

_MAX_UNREAD: Final = 256
"""Events that may come unread to somebody who expects one."""

REPLY_KIND: Final = "**.(accept|accepted|reject|rejected)"
"""The kinds of a reply, as the original's await service has them."""

log: Final = logging.getLogger("trio_events")

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

    routes_remembered: int
    """Pairs of system and kind whose route is remembered."""

    tasks_waiting_send: int
    """Tasks that wait in `send`."""


@final
@attrs.define(eq=False, repr=False)
class EventBus(metaclass=NoPublicConstructor):
    """An open event bus, in the name of one actor. Get one from `open_event_bus`."""

    _made_by = "open_event_bus"

    _router: Router
    _nursery: trio.Nursery
    _token: trio.lowlevel.TrioToken
    _pace: Pace
    _max_subscriptions: int
    _drain_timeout: float
    _policy: Policy | None
    _on_dead_letter: DeadLetterHook | None
    _actor: str = ANYBODY
    # Whether the policy lets each actor send to a system. All names of the bus share it.
    _may_send: dict[str, dict[str, bool]] = attrs.field(factory=dict)

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
          DeadlockError: If the send would wait forever, because the room that it waits for could
            only be made by the sender itself, or by a reader that waits for the sender.
        """
        await next(self._pace.steps)()
        stopped = self._offer(system, kind, path, data)
        if stopped is not None:
            await self._router.wait_to_accept(*stopped)

    @trio.lowlevel.enable_ki_protection
    def send_nowait(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Like `send`, but where that would wait, raise `trio.WouldBlock`. Not a checkpoint.

        Raises:
          trio.WouldBlock: If `send` would wait. Nothing was sent.
          NoBusError: If trio is not running in this thread.
        """
        self._router.check_here()
        if self._offer(system, kind, path, data) is not None:
            raise trio.WouldBlock

    def is_here(self) -> bool:
        """Whether the caller is in the run of trio that this bus belongs to.

        False in another thread, where only `send_soon` may be called.
        """
        return self._router.is_here()

    def send_soon(self, system: str, kind: str, path: str, data: object = None) -> None:
        """Send an event from anywhere: another thread, a callback, a signal handler.

        Returns at once; trio sends the event as soon as it gets to it, in the order of the calls
        of one thread. Nobody can be made to wait, so an event is refused if `send` would wait at
        that moment, or raise: that is counted in `statistics().refused` and logged, and never
        ends the run. A thread that can wait should rather use
        `trio.from_thread.run(bus.send, ...)`, with which nothing is refused silently.

        Not a checkpoint.

        Raises:
          TypeError: As `send`.
          InvalidEventError: As `send`.
          BusClosedError: If trio has finished.
        """
        system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        path = plain_path(path)
        try:
            self._token.run_sync_soon(self._send_or_refuse, system, kind, path, data)
        except trio.RunFinishedError:
            raise BusClosedError("the bus is closed: trio has finished") from None

    def _send_or_refuse(self, system: str, kind: str, path: str, data: object) -> None:
        try:
            self.send_nowait(system, kind, path, data)
        except Exception as error:  # noqa: BLE001  # whatever leaves a callback ends the run
            refused = self._router.refused = self._router.refused + 1
            if refused & (refused - 1) == 0:  # the first, second, fourth, eighth ...
                log.warning("send_soon: events refused: %d, the last by %r", refused, error)

    @overload
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | None = None,
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription: ...

    @overload
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | None = None,
        data: type[DataT],
        check_data: bool = False,
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription[DataT]: ...

    @trio.lowlevel.enable_ki_protection
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | None = None,
        data: type[DataT] | None = None,
        check_data: bool = False,
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
            and the same wildcards; None is every path.
          data: What the data of the events is, for type checkers only.
          check_data: Whether to check that. An event whose data is no instance of `data` then
            ends the subscription: what came before stays readable, then `receive` raises
            `EventDataError`.
          max_buffer_size: How many events may wait to be read before the buffer is full.
          overflow: What happens to an event when the buffer is full.

        Raises:
          TypeError: If an argument is not of its type, or `data` is no class to be checked.
          ValueError: If `max_buffer_size` is less than 1.
          InvalidPatternError: If a text is not a pattern.
          NoBusError: If the caller is not in the trio run of the bus.
          PolicyDeniedError: If the policy does not allow to subscribe to this system.
          BusClosedError: If the bus was closed, before or meanwhile.
          SubscriptionLimitError: If `max_subscriptions` are open.
        """
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        if check_data:
            check_class(data)
        await self._arrive("subscribe")
        return self._subscribe(terms, data if check_data else None)

    @trio.lowlevel.enable_ki_protection
    async def on(
        self,
        handler: Handler,
        system: str,
        kind: str | None = None,
        *,
        path: str | None = None,
        concurrency: int = 1,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription:
        """Subscribe, and have an async function called with each event.

        It is called in the subscription's actor, in the context variables of whoever calls this,
        with one event after the other, in order. When the bus is closed, it is still called with
        all that was accepted, for as long as `drain_timeout` allows. The bus holds it strongly.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          handler: The async function.
          system: As in `subscribe`.
          kind: As in `subscribe`.
          path: As in `subscribe`.
          concurrency: How many calls there may be at once. They begin in the order of events.
          on_error: What is to be done when the handler raises an `Exception`; see `Propagate`,
            `Log`, `CloseSubscription` and `Restart`.
          max_buffer_size: As in `subscribe`.
          overflow: As in `subscribe`.

        Raises:
          TypeError: If the handler is not an async function, or an argument not of its type.
          ValueError: If a number is less than 1.
          EventBusError: As `subscribe`.
        """
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)
        registration = Registration(handler, terms, concurrency, on_error)
        await self._arrive("on")
        return self._start(registration)

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
        await self._arrive("include")
        subscriptions: list[Subscription] = []
        try:
            for registration in handlers.registrations:
                subscriptions.append(self._start(registration))
        except BaseException:
            for subscription in subscriptions:
                subscription.channel().close()
            raise
        return tuple(subscriptions)

    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def expect(
        self, system: str, kind: str | None = None, *, path: str | None = None
    ) -> AsyncGenerator[EventWaiter]:
        """Expect events, from before the block is entered until it is left.

        So what the block does cannot be too early: an answer to it is not missed. Each of those
        who expect an event gets it. This makes no sender wait, and does not count as one of the
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
        terms = Terms.of(system, kind, path, _MAX_UNREAD, Overflow.CLOSE)
        await self._arrive("expect")
        self._check_may_subscribe(terms)
        waiter = self._open_waiter(terms)
        try:
            yield EventWaiter._create(EventChannel._create(waiter))
        finally:
            waiter.discard()

    async def wait_for(
        self, system: str, kind: str | None = None, *, path: str | None = None
    ) -> Event:
        """Wait for the next event that matches.

        A checkpoint, always. Cancel-safe: if cancelled, nothing is expected any more. What the
        event answers to may be faster than this: if so, see `expect` and `request`.

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
        system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        path = plain_path(path)
        # The path is taken as it is, also if it looks like a pattern.
        patterns = Pattern.parse(system), Pattern.parse(reply_kind)
        terms = Terms(*patterns, path, _MAX_UNREAD, Overflow.CLOSE)
        await self._arrive("request")
        # First of all, so that who may not ask does not learn whether anybody would listen.
        self._check_may_subscribe(terms)
        if self._policy is not None:
            self._check_may_send(system)
        if not self._router.is_wanted(Event(system, kind, path)):
            raise NoSubscribersError(
                f"nobody has subscribed to {kind!r} of {system!r} with path {path!r}",
                system=system,
                kind=kind,
                path=path,
            )
        waiter = self._open_waiter(terms)
        try:
            await self.send(system, kind, path, data)
            channel = EventChannel._create(waiter)
            while (reply := await first_event(channel)).kind == kind:
                pass  # that is a request, if not this one then another like it
            return reply
        finally:
            waiter.discard()

    async def _arrive(self, method: str) -> None:
        """Make sure that the caller is where it should be, and give others a turn."""
        if not self.is_here():
            raise NoBusError(f"{method} must be called in the trio run of the bus")
        await trio.lowlevel.checkpoint()
        self._pace.restart()

    def _subscribe(self, terms: Terms, data_type: type | None = None) -> Subscription[Any]:
        self._check_may_subscribe(terms)
        if len(self._router.subscriptions) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                f"there are already {self._max_subscriptions} open subscriptions; close some, "
                "or allow more by open_event_bus(max_subscriptions=...)",
                max_subscriptions=self._max_subscriptions,
            )
        actor = self._make_actor(terms, data_type)
        name = f"trio_events subscription {str(terms.system)!r}"
        self._router.open(actor)
        self._nursery.start_soon(actor.run, name=name)
        return Subscription._create(actor, EventChannel._create(actor))

    def _start(self, registration: Registration) -> Subscription:
        subscription = self._subscribe(registration.terms)
        HandlerActor(
            subscription._actor, subscription, registration, self._router, self._on_dead_letter
        ).start(self._nursery)
        return subscription

    def _open_waiter(self, terms: Terms) -> SubscriptionActor:
        waiter = self._make_actor(terms)
        self._router.open_waiter(waiter)
        return waiter

    def _make_actor(self, terms: Terms, data_type: type | None = None) -> SubscriptionActor:
        return SubscriptionActor(
            terms.system,
            terms.kind,
            _caller(),
            Buffer(terms.max_buffer_size, terms.overflow),
            self._pace,
            self._router,
            terms.path,
            data_type,
        )

    def for_actor(self, name: str) -> EventBus:
        """The same bus in the name of an actor, which is what the policy is asked about.

        Raises:
          TypeError: If `name` is not a `str`.
          InvalidEventError: If `name` is not a name in dot-separated segments.
        """
        name = plain_name(name, "actor")
        bus = copy.copy(self)
        bus._actor = name
        return bus

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close the bus. Not a checkpoint. Idempotent.

        Everything that was accepted is routed, and every channel ends after what is in it. Sends
        and subscriptions from now on, and senders that wait, get `BusClosedError`.

        If there are handlers, that comes after they have finished what they have, or after
        `drain_timeout` seconds: until then they, and the tasks that they start, may still use the
        bus, and nobody else.
        """
        router = self._router
        if router.closed or router.draining:
            return
        router.check_here()
        if router.handled:
            router.begin_to_drain(self._nursery)
            self._nursery.start_soon(self._drain, name="trio_events drain")
        else:
            router.close()

    async def _drain(self) -> None:
        with trio.move_on_after(self._drain_timeout):
            await self._router.wait_drained()
        # First of all, or handlers that wait in `send` would fail with BusClosedError.
        for abandon in tuple(self._router.handled.values()):
            abandon()
        self._router.close()

    def statistics(self) -> EventBusStatistics:
        """The state of the bus now. Not a checkpoint."""
        router = self._router
        return EventBusStatistics(
            accepted=router.accepted,
            unmatched=router.unmatched,
            refused=router.refused,
            current_inbox_used=router.inbox_used,
            inbox_size=router.inbox_size,
            open_subscriptions=len(router.subscriptions),
            open_waiters=len(router.waiters),
            routes_remembered=router.table.remembered,
            tasks_waiting_send=router.tasks_waiting_send(),
        )

    def __repr__(self) -> str:
        router = self._router
        state = "closed" if router.closed else f"{len(router.subscriptions)} subscriptions"
        return f"<EventBus for {self._actor!r}, {state}, {router.accepted} events accepted>"

    def _offer(
        self, system: str, kind: str, path: str, data: object
    ) -> tuple[Event, Obstacle] | None:
        """Have an event accepted, or return it with what stops it; or raise."""
        # In one piece, for it is in the way of every event: a call less is 3 % of a delivery.
        router = self._router
        if type(system) is not str or type(kind) is not str:  # equal to a text is not enough
            system, kind = plain_name(system, "system"), plain_name(kind, "kind")
        try:
            router.table.routes[system][kind]  # two names that were checked
        except KeyError:
            router.check_open()  # if it is closed, no route is remembered
            plain_name(system, "system")
            plain_name(kind, "kind")
        if type(path) is not str or not path:
            path = plain_path(path)
        if self._policy is not None:
            self._check_may_send(system)
        draft = EventDraft(system, kind, path, data)
        draft.__class__ = Event  # type: ignore[assignment]  # see EventDraft
        event = cast(Event, draft)
        obstacle = router.offer(event)
        return None if obstacle is None else (event, obstacle)

    def _check_may_send(self, system: str) -> None:
        stable = getattr(self._policy, "stable", False)
        answers = self._may_send.get(self._actor, {}) if stable else {}
        allowed = answers.get(system)
        if allowed is None:
            allowed = self._ask(Action.SEND, system)
            self._router.check_open()  # whatever the policy has done meanwhile
            if stable:
                self._remember(system, allowed)
        if not allowed:
            raise self._denied(Action.SEND, system)

    def _remember(self, system: str, allowed: bool) -> None:
        if sum(map(len, self._may_send.values())) >= _MAX_REMEMBERED:
            self._may_send.clear()
        self._may_send.setdefault(self._actor, {})[system] = allowed

    def _check_may_subscribe(self, terms: Terms) -> None:
        self._router.check_open()
        system = str(terms.system)
        if not self._ask(Action.SUBSCRIBE, system):
            raise self._denied(Action.SUBSCRIBE, system)
        self._router.check_open()  # whatever the policy has done meanwhile

    def _ask(self, action: Action, system: str) -> bool:
        if self._policy is None:
            return True
        allowed: object = self._policy.allows(self._actor, action, system)
        if not isinstance(allowed, bool):  # a coroutine is true, too
            raise TypeError(f"Policy.allows must return a bool, not {allowed!r}")
        return allowed

    def _denied(self, action: Action, system: str) -> PolicyDeniedError:
        return PolicyDeniedError(
            f"the policy does not allow {self._actor!r} the action {action} on {system!r}",
            actor=self._actor,
            action=action,
            system=system,
        )


def _caller() -> str:
    """The file and line of the innermost frame that is not this package's."""
    frame: FrameType | None = sys._getframe(1)
    ours = (__package__, "contextlib")  # the latter calls `expect`
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        frame = frame.f_back
    place = "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return sys.intern(place)  # one text for all subscriptions that come from there


@asynccontextmanager
async def open_event_bus(
    *,
    policy: Policy | None = None,
    inbox_size: int = 256,
    checkpoint_every: int = 32,
    max_subscriptions: int = 4096,
    drain_timeout: float = 10.0,
    on_dead_letter: DeadLetterHook | None = None,
) -> AsyncGenerator[EventBus]:
    """Open an event bus for the block, and for all tasks that are started in it.

    Leaving the block normally closes the bus as `EventBus.close` does: it waits for handlers to
    finish what they have, and does not wait for readers. Leaving it by an exception cancels
    everything that belongs to the bus. A single exception leaves as itself, not wrapped in a
    group. Entering is not a checkpoint, leaving is.

    Args:
      policy: Who may send and subscribe to which systems; None allows everything.
      inbox_size: How many events may wait to be routed before senders wait.
      checkpoint_every: How many operations on the bus there may be before one gives other
        tasks a turn; 1 is trio's usual rule. A checkpoint costs ten times what routing an event
        costs.
      max_subscriptions: How many subscriptions may be open at a time.
      drain_timeout: How many seconds the handlers have to finish what they have when the bus is
        closed. Then they are cancelled, and what is left is counted and logged.
      on_dead_letter: A function that is called with a `DeadLetter` for each event whose handling
        has failed for good. What it raises leaves through the supervisor.

    Raises:
      TypeError: If a number is not one, or `on_dead_letter` not a plain function.
      ValueError: If a number is less than 1, or `drain_timeout` less than 0.
    """
    check_count("inbox_size", inbox_size)
    check_count("checkpoint_every", checkpoint_every)
    check_count("max_subscriptions", max_subscriptions)
    check_seconds("drain_timeout", drain_timeout)
    if on_dead_letter is not None and (not callable(on_dead_letter) or is_async(on_dead_letter)):
        raise TypeError(f"on_dead_letter must be a plain function, not {on_dead_letter!r}")
    pace = Pace(checkpoint_every)
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            trio_token = trio.lowlevel.current_trio_token()
            router = Router(inbox_size, pace, trio_token)
            nursery.start_soon(router.run, name="trio_events router")
            bus = EventBus._create(
                router,
                nursery,
                trio_token,
                pace,
                max_subscriptions,
                drain_timeout,
                policy,
                on_dead_letter,
            )
            token = current_bus.set(bus)
            try:
                yield bus
            except BaseException as error:
                body_error = error
                nursery.cancel_scope.cancel()  # or handlers that wait in `send` would fail, too
                router.close()
                raise
            else:
                bus.close()
            finally:
                current_bus.reset(token)
    except BaseExceptionGroup as group:
        # Cancelled comes from the actors, too, and says nothing beside another exception.
        errors = [error for error in group.exceptions if not _is_cancelled(error)]
        if len(errors) > 1 or (not errors and body_error is None):
            raise
        if errors and (body_error is None or _is_cancelled(body_error)):
            body_error = errors[0]  # otherwise it is that one, but if a group then a copy of it
        assert body_error is not None
        context = body_error.__context__
        try:
            raise body_error
        finally:
            body_error.__context__ = context  # not the group
            del group, errors, body_error, context  # no reference cycles


def _is_cancelled(error: BaseException) -> bool:
    """Whether this is nothing but `Cancelled`, or many of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
