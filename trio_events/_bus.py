"""The supervisor and the handle that applications hold."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Final, cast, final

import attrs
import trio

from ._actor import SubscriptionActor
from ._errors import BusClosedError, NoBusError, PolicyDeniedError, SubscriptionLimitError
from ._event import Event, EventDraft
from ._no_public_constructor import NoPublicConstructor
from ._overflow import Buffer, Overflow, check_count
from ._pace import Pace
from ._pattern import Pattern, check_name, check_path
from ._policy import Action, Policy
from ._router import Obstacle, Router
from ._subscription import EventChannel, Subscription

ANYBODY: Final = "anybody"
"""The actor on whose behalf a bus acts until `EventBus.for_actor` says another."""

_MAX_REMEMBERED: Final = 4096
"""Pairs of actor and system that are remembered as allowed, before all are forgotten."""

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
    """Messages that the router has not routed yet."""

    inbox_size: int
    """Messages in the inbox at which senders begin to wait."""

    open_subscriptions: int
    """Subscriptions that are open."""

    routes_remembered: int
    """Pairs of system and kind whose route is remembered."""

    tasks_waiting_send: int
    """Tasks that wait in `send`."""


@final
@attrs.define(eq=False, repr=False)
class EventBus(metaclass=NoPublicConstructor):
    """An open event bus, in the name of one actor. Get one from `open_event_bus`."""

    _router: Router
    _nursery: trio.Nursery
    _token: trio.lowlevel.TrioToken
    _pace: Pace
    _max_subscriptions: int
    _policy: Policy | None
    _actor: str = ANYBODY
    # Systems to which a stable policy lets each actor send. All names of the bus share it.
    _may_send: dict[str, set[str]] = attrs.field(factory=dict, repr=False)

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
        if not self.is_here():
            raise NoBusError("send_nowait must be called in the trio run of the bus; see send_soon")
        if self._offer(system, kind, path, data) is not None:
            raise trio.WouldBlock

    def is_here(self) -> bool:
        """Whether the caller is in the run of trio that this bus belongs to.

        False in another thread, where only `send_soon` may be called.
        """
        return trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token

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
        check_name(system, "system")
        check_name(kind, "kind")
        check_path(path)
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
                log.warning("send_soon: %d events refused, the last by %r", refused, error)

    @trio.lowlevel.enable_ki_protection
    async def subscribe(
        self,
        system: str,
        kind: str | None = None,
        *,
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Subscription:
        """Subscribe to the events whose system and kind match two patterns.

        Every event that is accepted after this returned is received, until the subscription or
        the bus is closed. Subscribe twice to receive everything twice.

        A checkpoint, always. Cancel-safe: if cancelled, there is no subscription.

        Args:
          system: A pattern for the system of events.
          kind: A pattern for the kind of events; None matches every kind.
          max_buffer_size: How many events may wait to be read before the buffer is full.
          overflow: What happens to an event when the buffer is full.

        Raises:
          TypeError: If a pattern is not a `str`, `max_buffer_size` not an `int` or `overflow`
            not an `Overflow`.
          ValueError: If `max_buffer_size` is less than 1.
          InvalidPatternError: If a text is not a pattern.
          NoBusError: If the caller is not in the trio run of the bus.
          PolicyDeniedError: If the policy does not allow to subscribe to this system.
          BusClosedError: If the bus was closed, before or meanwhile.
          SubscriptionLimitError: If `max_subscriptions` are open.
        """
        patterns = Pattern.parse(system), None if kind is None else Pattern.parse(kind)
        check_count("max_buffer_size", max_buffer_size)
        if not isinstance(overflow, Overflow):
            raise TypeError(f"overflow must be an Overflow, not {overflow!r}")
        if not self.is_here():
            raise NoBusError("subscribe must be called in the trio run of the bus")
        await trio.lowlevel.checkpoint()
        if self._router.closed:
            raise _closed()
        self._check_allowed(Action.SUBSCRIBE, str(patterns[0]))
        if len(self._router.subscriptions) >= self._max_subscriptions:
            raise SubscriptionLimitError(
                f"there are already {self._max_subscriptions} open subscriptions; close some, "
                "or allow more by open_event_bus(max_subscriptions=...)",
                max_subscriptions=self._max_subscriptions,
            )
        buffer = Buffer(max_buffer_size, overflow)
        actor = SubscriptionActor(*patterns, _caller(), buffer, self._pace, self._router)
        self._nursery.start_soon(actor.run, name=f"trio_events subscription {system!r}")
        self._router.open(actor)
        return Subscription._create(actor, EventChannel._create(actor))

    def for_actor(self, name: str) -> EventBus:
        """The same bus in the name of an actor, which is what the policy is asked about.

        Raises:
          TypeError: If `name` is not a `str`.
          InvalidEventError: If `name` is not a name in dot-separated segments.
        """
        check_name(name, "actor")
        return EventBus._create(
            self._router,
            self._nursery,
            self._token,
            self._pace,
            self._max_subscriptions,
            self._policy,
            name,
            self._may_send,
        )

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Close the bus. Not a checkpoint. Idempotent.

        Everything that was accepted is routed, and every channel ends after what is in it. Sends
        and subscriptions from now on, and senders that wait, get `BusClosedError`.
        """
        self._router.close()

    def statistics(self) -> EventBusStatistics:
        """The state of the bus now. Not a checkpoint."""
        router = self._router
        return EventBusStatistics(
            accepted=router.accepted,
            unmatched=router.unmatched,
            refused=router.refused,
            current_inbox_used=len(router.inbox),
            inbox_size=router.inbox_size,
            open_subscriptions=len(router.subscriptions),
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
        try:
            router.table.routes[system][kind]  # noqa: B018  # two names that were checked
        except (KeyError, TypeError):  # the latter for what cannot be a key
            if router.closed:  # then no route is remembered
                raise _closed() from None
            check_name(system, "system")
            check_name(kind, "kind")
        if type(path) is not str or not path:
            check_path(path)
        if self._policy is not None:
            self._check_may_send(system)
        draft = EventDraft(system, kind, path, data)
        draft.__class__ = Event  # type: ignore[assignment]  # see EventDraft
        event = cast(Event, draft)
        obstacle = router.offer(event)
        return None if obstacle is None else (event, obstacle)

    def _check_may_send(self, system: str) -> None:
        if system in self._may_send.get(self._actor, ()):
            return
        self._check_allowed(Action.SEND, system)
        if getattr(self._policy, "stable", False):
            if sum(map(len, self._may_send.values())) >= _MAX_REMEMBERED:
                self._may_send.clear()
            self._may_send.setdefault(self._actor, set()).add(system)

    def _check_allowed(self, action: Action, system: str) -> None:
        if self._policy is not None and not self._policy.allows(self._actor, action, system):
            raise PolicyDeniedError(
                f"the policy does not allow {self._actor!r} the action {action} on {system!r}",
                actor=self._actor,
                action=action,
                system=system,
            )


def _closed() -> BusClosedError:
    return BusClosedError("the bus is closed")


def _caller() -> str:
    """The file and line of the innermost frame that is not this package's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
    return "unknown" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@asynccontextmanager
async def open_event_bus(
    *,
    policy: Policy | None = None,
    inbox_size: int = 256,
    checkpoint_every: int = 32,
    max_subscriptions: int = 4096,
) -> AsyncGenerator[EventBus]:
    """Open an event bus for the block, and for all tasks that are started in it.

    Leaving the block normally closes the bus as `EventBus.close` does, and does not wait for
    readers. Leaving it by an exception cancels everything that belongs to the bus. A single
    exception leaves as itself, not wrapped in a group. Entering is not a checkpoint, leaving is.

    Args:
      policy: Who may send and subscribe to which systems; None allows everything.
      inbox_size: How many events may wait to be routed before senders wait.
      checkpoint_every: How many operations on the bus there may be before one gives other
        tasks a turn; 1 is trio's usual rule. A checkpoint costs ten times what routing an event
        costs.
      max_subscriptions: How many subscriptions may be open at a time.

    Raises:
      TypeError: If a number is not an `int`.
      ValueError: If a number is less than 1.
    """
    check_count("inbox_size", inbox_size)
    check_count("checkpoint_every", checkpoint_every)
    check_count("max_subscriptions", max_subscriptions)
    pace = Pace(checkpoint_every)
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            router = Router(inbox_size, pace)
            nursery.start_soon(router.run, name="trio_events router")
            trio_token = trio.lowlevel.current_trio_token()
            bus = EventBus._create(router, nursery, trio_token, pace, max_subscriptions, policy)
            token = current_bus.set(bus)
            try:
                yield bus
            except BaseException as error:
                body_error = error
                raise
            finally:
                bus.close()
                current_bus.reset(token)
    except BaseExceptionGroup as group:
        # Cancelled comes from the actors, too, and says nothing beside another exception.
        errors = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)]
        if len(errors) != 1:
            raise
        if body_error is None or isinstance(body_error, trio.Cancelled):
            body_error = errors[0]  # otherwise it is that one, but if a group then a copy of it
        context = body_error.__context__
        try:
            raise body_error
        finally:
            body_error.__context__ = context  # not the group
            del group, errors, body_error, context  # no reference cycles
