"""Subscriptions whose actor calls a handler with each event."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar, assert_never, final

import attrs
import trio

from ._actor import SubscriptionActor
from ._errors import EventBusError
from ._event import Event
from ._overflow import Overflow, check_count
from ._router import Router
from ._subscription import Subscription
from ._supervision import (
    CloseSubscription,
    DeadLetter,
    Log,
    OnError,
    Propagate,
    Restart,
    split,
)
from ._terms import Terms

Handler: TypeAlias = Callable[[Event[Any]], Awaitable[object]]
"""An async function that is called with an event."""

HandlerT = TypeVar("HandlerT", bound=Handler)

DeadLetterHook: TypeAlias = Callable[[DeadLetter], object]

log: Final = logging.getLogger("trio_events")


def is_async(function: object) -> bool:
    """Whether calling this gives something to await."""
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  # not whether, but what
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


@final
@attrs.frozen
class Registration:
    """A handler and the terms on which it is called, all of them checked.

    Raises:
      TypeError: If something is of the wrong type; a plain function is no handler.
      ValueError: If `concurrency` is less than 1.
    """

    handler: Handler
    terms: Terms
    concurrency: int
    on_error: OnError

    def __attrs_post_init__(self) -> None:
        if not is_async(self.handler):
            raise TypeError(f"a handler must be an async function, not {self.handler!r}")
        check_count("concurrency", self.concurrency)
        on_error: object = self.on_error
        if not isinstance(on_error, OnError):
            hint = ", with parentheses" if isinstance(on_error, type) else ""
            raise TypeError(
                "on_error must be Propagate(), Log(), CloseSubscription() or Restart(), "
                f"not {on_error!r}{hint}"
            )


@final
@attrs.define(eq=False, repr=False)
class HandlerSet:
    """Handlers that are declared before there is a bus. `EventBus.include` puts them to work.

    A set may be included in several buses, and in one bus several times.
    """

    registrations: list[Registration] = attrs.field(factory=list, init=False)
    """What was declared, in this order."""

    def on(
        self,
        system: str,
        kind: str | None = None,
        *,
        path: str | None = None,
        concurrency: int = 1,
        on_error: OnError = Propagate(),  # noqa: B008  # a frozen value
        max_buffer_size: int = 256,
        overflow: Overflow = Overflow.BLOCK,
    ) -> Callable[[HandlerT], HandlerT]:
        """Declare the decorated async function a handler; it stays what it is.

        Not a checkpoint. The arguments are those of `EventBus.on`, which are checked at once.

        Raises:
          TypeError: As `EventBus.on`.
          ValueError: As `EventBus.on`.
          InvalidPatternError: As `EventBus.on`.
        """
        terms = Terms.of(system, kind, path, max_buffer_size, overflow)

        def declare(handler: HandlerT) -> HandlerT:
            self.registrations.append(Registration(handler, terms, concurrency, on_error))
            return handler

        return declare

    def __repr__(self) -> str:
        names = ", ".join(name_of(r.handler) for r in self.registrations)
        return f"<HandlerSet of {names or 'no handlers'}>"


@final
@attrs.define(eq=False)
class HandlerActor:
    """The part of a subscription's actor that calls the handler.

    There are as many tasks as there may be calls at once. They are children of the supervisor, so
    that an exception leaves as itself, and read the channel in turns: whoever has the turn takes
    the next event, passes the turn on, and begins. So events are begun with in order.
    """

    actor: SubscriptionActor
    _subscription: Subscription
    _registration: Registration
    _router: Router
    _on_dead_letter: DeadLetterHook | None
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _scopes: list[trio.CancelScope] = attrs.field(factory=list, init=False)  # one a task
    # How many calls were running when there was no more time for them.
    _abandoned: int | None = attrs.field(default=None, init=False)
    # When the handler was restarted, on trio's clock; only what still counts.
    _restarts: deque[float] = attrs.field(factory=deque, init=False)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin, in tasks of a nursery that have the context variables of the caller."""
        self._router.handled[self.actor] = self.abandon
        name = f"trio_events handler {name_of(self._registration.handler)}"
        self._scopes += [trio.CancelScope() for _ in range(self._registration.concurrency)]
        for scope in self._scopes:
            nursery.start_soon(self._run, scope, name=name)

    def abandon(self) -> None:
        """Stop. What is left then is counted and logged."""
        self._abandoned = self.actor.handling
        for scope in self._scopes:
            scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        """Call the handler with one event after the other, until the subscription has ended."""
        # All do so before one of them has an event, so that none is taken for the only reader.
        self.actor.note_reader()
        try:
            with scope:
                while (event := await self._next()) is not None:
                    await self._handle(event)
                    del event  # or it would live on until the next one comes
        finally:
            self._scopes.remove(scope)
            if not self._scopes:
                self._finish()
            self._router.note_progress()

    def _finish(self) -> None:
        del self._router.handled[self.actor]
        if self._abandoned is None:
            return
        left = self.actor.buffer.queued
        self.actor.discard()
        if left or self._abandoned:
            log.warning(
                "%s: the time to finish is over; calls of %s cancelled: %d, events discarded: %d",
                self.actor.description(),
                name_of(self._registration.handler),
                self._abandoned,
                left,
            )

    async def _next(self) -> Event | None:
        """The next event, or None if there will be none any more."""
        try:
            if self._registration.concurrency == 1:
                return await self._take()
            async with self._turn:
                return await self._take()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return None  # noqa: ASYNC910  # `_take` had one
        except EventBusError as error:  # why the subscription has ended
            if isinstance(self._registration.on_error, Propagate):
                raise
            log.error("%s", error)
            self.actor.discard()  # nothing; but the other tasks need not say so again
            return None  # noqa: ASYNC910  # `_take` had one

    @trio.lowlevel.enable_ki_protection
    async def _take(self) -> Event:
        """As `EventChannel.receive`, and tells the router when there is nothing."""
        await next(self.actor.pace.steps)()
        if not self.actor.buffer.queued:
            self._router.note_progress()  # the last event may have gone to another reader
        return await self.actor.receive()

    async def _handle(self, event: Event) -> None:  # noqa: ASYNC910  # that is up to the handler
        """Call the handler with an event, as often as it takes."""
        self.actor.handling += 1
        try:
            again = True
            while again:
                again = await self._call(event)
        finally:
            self.actor.handling -= 1
            self._router.note_progress()

    async def _call(self, event: Event) -> bool:
        """Call the handler once; returns whether to call it again with the same event."""
        policy = self._registration.on_error
        try:
            await self._registration.handler(event)
        except BaseException as error:  # noqa: ASYNC103, BLE001  # `rest` is raised, whatever it is
            failure, rest = split(error)
            try:
                if failure is None:
                    raise
                self.actor.failures += 1
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

    def _treat(self, policy: OnError, event: Event, failure: Exception) -> float | None:
        """Do what the policy says about a failure.

        Returns:
          In how many seconds to go on, or None if what the handler raised is to leave.
        """
        pause: float | None = 0
        match policy:
            case Propagate():
                pause = None
            case Log():
                self._log(event, failure, "")
            case CloseSubscription():
                self._log(event, failure, "; the subscription is closed")
                self.actor.discard()
            case Restart():
                pause = self._restart(policy)
                if pause is not None:
                    self._log(event, failure, f"; it goes on in {pause:g} s")
                    if policy.retry:
                        return pause
            case _ as never:
                assert_never(never)
        self._bury(event, failure)
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

    def _log(self, event: Event, failure: Exception, consequence: str) -> None:
        log.error(
            "%s: %s failed for system=%r kind=%r path=%r%s",
            self.actor.description(),
            name_of(self._registration.handler),
            event.system,
            event.kind,
            event.path,
            consequence,
            exc_info=failure,
        )

    def _bury(self, event: Event, failure: Exception) -> None:
        if self._on_dead_letter is not None:
            self._on_dead_letter(DeadLetter(event, failure, self._subscription))


def name_of(handler: object) -> str:
    """What to call a handler in a message."""
    return getattr(handler, "__qualname__", None) or repr(handler)
