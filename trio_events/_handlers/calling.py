"""Subscriptions whose actor calls a handler with each event."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, assert_never, final

import attrs
import trio

from .._core.actor import SubscriptionActor
from .._core.notices import HandlerEnded, HandlerFailed, WorkLeft
from .._errors import EventBusError
from .._event import Event
from .._instruments import Instruments
from .._subscription import Subscription
from .registration import Handler, Registration, name_of
from .staff import Staff
from .supervision import (
    CloseSubscription,
    DeadLetter,
    Log,
    OnError,
    Propagate,
    Restart,
    is_cancelled,
    split,
)

_HERE: Final = "the end of its handler"

DeadLetterHook: TypeAlias = Callable[[DeadLetter], object]


@final
@attrs.define(eq=False)
class HandlerActor:
    """The part of a subscription's actor that calls the handler.

    There are as many tasks as there may be calls at once. They are children of the supervisor, so
    that an exception leaves as itself, and read the channel in turns: whichever has the turn takes
    the next event, passes the turn on, and begins. So calls begin in the order of events.
    """

    actor: SubscriptionActor
    _subscription: Subscription
    _registration: Registration
    _staff: Staff
    _on_dead_letter: DeadLetterHook | None
    _instruments: Instruments = attrs.field(init=False)  # one look-up less for each call
    handling: int = attrs.field(default=0, init=False)
    """Calls that are running."""

    failures: int = attrs.field(default=0, init=False)
    """Calls that have failed."""

    _taking: bool = attrs.field(default=False, init=False)  # a task has the turn
    _turn: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _scopes: dict[trio.CancelScope, trio.lowlevel.Task | None] = attrs.field(
        factory=dict, init=False
    )  # one a task
    _stopped: str | None = attrs.field(default=None, init=False)  # why, if it is
    _calls_cut: int = attrs.field(default=0, init=False)  # calls that were cancelled by that
    _not_begun: int = attrs.field(default=0, init=False)  # events that had just been taken
    # When the handler was restarted, on trio's clock; only what still counts.
    _restarts: deque[float] = attrs.field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self._instruments = self.actor.core.instruments

    @property
    def handler(self) -> Handler:
        """What is called."""
        return self._registration.handler

    @property
    def name(self) -> str:
        """What it is called."""
        return name_of(self.handler)

    @property
    def treatment(self) -> str:
        """What is done when it fails."""
        return type(self._registration.on_error).__name__

    def start(self, nursery: trio.Nursery) -> None:
        """Begin, in tasks of a nursery that have the context variables of the caller."""
        self.actor.worker = self
        self._staff.join(self)
        for _ in range(self._registration.concurrency):
            scope = trio.CancelScope()
            self._scopes[scope] = None
            nursery.start_soon(
                self._run, scope, name=f"trio_events handler {name_of(self.handler)}"
            )

    # For the staff

    @property
    def is_idle(self) -> bool:
        """Whether the handler has nothing left to do."""
        # Not enough that nothing is queued: an event may be on its way to a task that waited,
        # but then that task doesn't wait any more.
        tasks = self._scopes.values()
        return not self.handling and any(reader.task in tasks for reader in self.actor.readers)

    def stop(self, reason: str) -> None:
        """Cancel the tasks. What is left then is counted and reported."""
        self._stopped = reason
        for scope in self._scopes:
            scope.cancel()

    def note_change(self) -> None:
        """Events have been delivered, or a task has nothing to do."""
        self._staff.note_change(self)

    # The tasks

    @trio.lowlevel.enable_ki_protection
    async def _run(self, scope: trio.CancelScope) -> None:
        """Call the handler with one event after the other, until the subscription has ended."""
        self._scopes[scope] = task = trio.lowlevel.current_task()
        # All do so before one of them has an event, so that none is taken for the only reader.
        self.actor.known_readers.note(task)
        try:
            with scope:
                while (event := await self._next()) is not None:
                    if self._stopped is not None:
                        self._not_begun += 1
                        self.actor.buffer.discarded += 1
                        break
                    await self._handle(event)
                    del event  # or it would live on until the next one comes
        except BaseException:
            self._stopped = self._stopped or "the bus was ended by an exception"
            raise
        finally:
            del self._scopes[scope]
            if not self._scopes:
                self._finish()
            self.note_change()

    def _finish(self) -> None:
        self._staff.leave(self)
        if self._stopped is None:
            return
        self._staff.route_accepted()
        events = self.actor.buffer.unread + self._not_begun
        self.actor.discard(_HERE)
        if events or self._calls_cut:
            name = name_of(self.handler)
            self.actor.core.notices.add(
                WorkLeft(self.actor, name, self._stopped, self._calls_cut, events)
            )

    async def _next(self) -> Event[Any] | None:
        """The next event, or None if there will be none any more."""
        await next(self.actor.core.pace.steps)()
        while self._taking:
            await self._turn.park()
        self._taking = True
        try:
            front = self.actor.buffer.front
            if front and not self.actor.must_settle:  # as in `EventIterator`
                return front.pop()
            self.note_change()  # if there is nothing, this task waits to read when others look
            return await self.actor.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return None
        except EventBusError as error:  # why the subscription has ended
            if isinstance(self._registration.on_error, Propagate):
                raise
            self.actor.discard(_HERE)  # nothing; but the other tasks need not say so again
            self.actor.core.notices.add(HandlerEnded(error))
            return None
        finally:
            self._taking = False
            self._turn.unpark()

    async def _handle(self, event: Event[Any]) -> None:  # noqa: ASYNC910  # that is up to the handler
        """Call the handler with an event, as often as it takes."""
        self.handling += 1
        try:
            while await self._call(event):
                pass
        except BaseException as error:
            self._calls_cut += is_cancelled(error)
            raise
        finally:
            self.handling -= 1
            self.note_change()

    async def _call(self, event: Event[Any]) -> bool:
        """Call the handler once; returns whether to call it again with the same event."""
        policy = self._registration.on_error
        try:
            if self._instruments.watched_calls:
                await self._watched(event)
            else:
                await _unprotected(self.handler, event)
        except BaseException as error:  # noqa: ASYNC103, BLE001  # `rest` is raised, whatever it is
            failure, rest = split(error)
            try:
                if failure is None:
                    raise
                self.failures += 1
                self.actor.tell("handler_failed", event, failure, self.treatment)
                pause = self._treat(policy, event, failure)
                if pause is None:
                    raise
                if rest is not None:
                    raise rest  # noqa: ASYNC104  # what is left of the error
            finally:
                del failure, rest  # no reference cycles
        else:
            return False
        if not isinstance(policy, Restart):
            return False  # noqa: ASYNC910  # the handler may have had no checkpoint
        await trio.sleep(pause)
        return policy.retry

    async def _watched(self, event: Event[Any]) -> None:  # noqa: ASYNC910  # as `_handle`
        about = event, self._subscription
        with self._instruments.around("before_handler", "after_handler", *about):
            await _unprotected(self.handler, event)

    def _treat(self, policy: OnError, event: Event[Any], failure: Exception) -> float | None:
        """Do what the policy says about a failure.

        Returns:
          In how many seconds to go on, or None if what the handler raised is to leave.
        """
        pause: float | None = 0
        match policy:
            case Propagate():
                pause = None
            case Log():
                self._report(event, failure, "")
            case CloseSubscription():
                self.actor.discard(_HERE)
                self._report(event, failure, "; the subscription is closed")
            case Restart():
                pause = self._restart(policy)
                if pause is not None:
                    self._report(event, failure, f"; it goes on in {pause:g} s")
                    if policy.retry:
                        return pause
            case _ as never:
                assert_never(never)
        letter = DeadLetter(event, failure, self._subscription)
        self._instruments.tell("event_failed", letter)
        if self._on_dead_letter is not None:
            self._on_dead_letter(letter)
        return pause

    def _restart(self, policy: Restart) -> float | None:
        """In how many seconds to restart, or None if there have been too many restarts."""
        now = trio.current_time()
        while self._restarts and self._restarts[0] <= now - policy.within:
            self._restarts.popleft()
        if len(self._restarts) == policy.max_restarts:
            return None
        pause = math.ldexp(policy.backoff, len(self._restarts))  # a power would overflow
        self._restarts.append(now)
        return pause

    def _report(self, event: Event[Any], failure: Exception, consequence: str) -> None:
        which = f"system={event.system!r} kind={event.kind!r} path={event.path!r}"
        name = name_of(self.handler)
        self.actor.core.notices.add(HandlerFailed(self.actor, name, which, failure, consequence))


@trio.lowlevel.disable_ki_protection
async def _unprotected(handler: Handler, event: Event[Any]) -> None:  # noqa: ASYNC910  # as `_handle`
    """Call a handler so that Ctrl-C can interrupt it, unlike what calls it."""
    await handler(event)
