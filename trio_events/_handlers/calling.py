"""Subscriptions whose actor calls a handler with each event."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, assert_never, final

import attrs
import trio

from .._core.actor import SubscriptionActor
from .._core.notices import HandlerEnded, HandlerFailed, HandlerLasts, WorkLeft
from .._errors import EventBusError
from .._event import Event
from .._subscription import Subscription
from .quiet import OwnedTask
from .registration import Handler, Registration, name_of
from .staff import Staff, is_cancelled, unprotected
from .supervision import (
    CloseSubscription,
    DeadLetter,
    Log,
    OnError,
    Propagate,
    Restart,
    split,
)

_HERE: Final = "the end of its handler"

_LOOK_EVERY: Final = 1.0
"""Seconds from one look at the running calls to the next, so that none has to ask for the time."""

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
    _report_after: float
    handling: int = attrs.field(default=0, init=False)
    """Calls that are running."""

    failures: int = attrs.field(default=0, init=False)
    """Calls that have failed."""

    _taking: bool = attrs.field(default=False, init=False)  # a task has the turn
    _turn: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _tasks: dict[OwnedTask, None] = attrs.field(factory=dict, init=False)
    _calls_cut: int = attrs.field(default=0, init=False)  # calls that were cancelled
    _not_begun: int = attrs.field(default=0, init=False)  # events that had just been taken
    # Whether the actor's task is going to look after the calls.
    _will_look: bool = attrs.field(init=False)
    # When the handler was restarted, on trio's clock; only what still counts.
    _restarts: deque[float] = attrs.field(factory=deque, init=False)

    def __attrs_post_init__(self) -> None:
        self._will_look = self._report_after == math.inf  # then it need not ask for it

    @property
    def handler(self) -> Handler:
        """What is called."""
        return self._registration.handler

    @property
    def is_over(self) -> bool:
        """Whether all tasks have ended."""
        return not self._tasks

    def start(self, nursery: trio.Nursery) -> None:
        """Begin, in tasks of a nursery that have the context variables of the caller."""
        self.actor.worker = self
        name = name_of(self.handler)
        for _ in range(self._registration.concurrency):
            owned = OwnedTask(name, self._turn)
            self._tasks[owned] = None
            self._staff.join(owned)
            nursery.start_soon(self._run, owned, name=f"trio_events handler {name}")

    def look_after_calls(self, now: float) -> None:
        """Report the calls that last, and look again when the next one is to be reported."""
        if self._report_after == math.inf:
            return
        self._will_look = False
        calls = [(owned, owned.event) for owned in self._tasks if owned.event is not None]
        for owned, event in calls:
            if owned.since is None:
                owned.since, owned.next_report = now, now + self._report_after
            elif now >= owned.next_report:
                lasted = now - owned.since
                notice = HandlerLasts(self.actor, owned.name, _which(event), lasted)
                self.actor.core.notices.add(notice)
                owned.next_report = max(now + lasted, math.nextafter(now, math.inf))
        if calls:
            self._will_look = True
            self.actor.set_alarm(min(now + _LOOK_EVERY, *(call.next_report for call, _ in calls)))

    # The tasks

    @trio.lowlevel.enable_ki_protection
    async def _run(self, owned: OwnedTask) -> None:  # noqa: ASYNC910  # it may be cancelled at once
        """Call the handler with one event after the other, until the subscription has ended."""
        # All do so before one of them has an event, so that none is taken for the only reader.
        self.actor.known_readers.note(self._staff.begin(owned))
        try:
            with owned.scope:
                while (event := await self._next()) is not None:
                    if self._staff.cut_short is not None:
                        self._not_begun += 1
                        self.actor.buffer.discarded += 1
                        break
                    await self._handle(owned, event)
                    del event  # or it would live on until the next one comes
        except BaseException as error:  # noqa: ASYNC103  # what is not raised is no `Cancelled`
            self._staff.note_exception(error)
            if not self._staff.is_last_word(owned, error):
                raise
        finally:
            del self._tasks[owned]
            if not self._tasks:
                self._finish()
            self._staff.leave(owned)

    def _finish(self) -> None:
        reason = self._staff.cut_short
        if reason is None:
            return
        self._staff.route_accepted()
        events = self.actor.buffer.unread + self._not_begun
        self.actor.discard(_HERE)
        if events or self._calls_cut:
            name = name_of(self.handler)
            self.actor.core.notices.add(WorkLeft(self.actor, name, reason, self._calls_cut, events))

    async def _next(self) -> Event[Any] | None:
        """The next event, or None if there will be none any more."""
        await next(self.actor.core.pace.steps)()
        while self._taking:
            await self._turn.park()
        self._taking = True
        try:
            front = self.actor.buffer.front
            event = front.pop() if front and not self.actor.must_settle else None
            return await self.actor.receive() if event is None else event
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

    async def _handle(self, owned: OwnedTask, event: Event[Any]) -> None:  # noqa: ASYNC910  # that is up to the handler
        """Call the handler with an event, as often as it takes."""
        self.handling += 1
        owned.event, owned.since = event, None
        if not self._will_look:  # otherwise that will find out when it began, more or less
            self.look_after_calls(self.actor.core.clock())
        try:
            while await self._call(event):
                pass
        except BaseException as error:
            self._calls_cut += is_cancelled(error) or self._staff.is_last_word(owned, error)
            raise
        finally:
            self.handling -= 1
            owned.event = None

    async def _call(self, event: Event[Any]) -> bool:
        """Call the handler once; returns whether to call it again with the same event."""
        policy = self._registration.on_error
        try:
            await unprotected(self.handler, event)
        except BaseException as error:  # noqa: ASYNC103, BLE001  # `rest` is raised, whatever it is
            failure, rest = split(error)
            try:
                if failure is None:
                    raise
                self.failures += 1
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
        if self._on_dead_letter is not None:
            self._on_dead_letter(DeadLetter(event, failure, self._subscription))
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
        name = name_of(self.handler)
        notice = HandlerFailed(self.actor, name, _which(event), failure, consequence)
        self.actor.core.notices.add(notice)


def _which(event: Event[Any]) -> str:
    return f"system={event.system!r} kind={event.kind!r} path={event.path!r}"
