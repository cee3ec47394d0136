"""Calling the handler of a subscription with each event."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, assert_never, final

import attrs
import trio

from .._core.actor import SubscriptionActor
from .._core.buffer import Key, key_of
from .._core.notices import HandlerEnded, HandlerFailed, HandlerLasts, WorkLeft
from .._core.pending import Answer, Held, PendingRequest, names_of
from .._errors import EventBusError
from .._event import Event
from .._instruments import Instruments
from .._requests import Outcome, Reject, is_reply
from .._subscription import Subscription
from .quiet import OwnedTask
from .registration import Handler, Registration
from .staff import Staff, is_cancelled, joined, unprotected
from .supervision import (
    CloseSubscription,
    DeadLetter,
    Log,
    Propagate,
    Retry,
    Verdict,
    leaves,
    split,
    text_of,
    verdict_of,
)

_HERE: Final = "the end of its handler"

_LOOK_EVERY: Final = 1.0
"""Seconds between two checks of the running calls, so that a call needn't read the clock."""

DeadLetterHook: TypeAlias = Callable[[DeadLetter], object]
"""A function, async or not, that is called with each dead letter."""

Reply: TypeAlias = Callable[[Event[Any], PendingRequest, Outcome, object], Awaitable[None]]
"""Replies to a request that has no reply yet."""


@final
@attrs.define(eq=False)
class HandlerActor:
    """The part of a subscription's actor that calls the handler.

    There is a task for each call that may run at once. The tasks are children of the supervisor, so
    that an exception leaves as itself, and read the channel in turns: the task that has the turn
    takes the next event, passes the turn on, and begins. So calls begin in the order of events.
    """

    actor: SubscriptionActor
    _subscription: Subscription
    _registration: Registration
    _registered_at: str
    _staff: Staff
    _on_dead_letter: DeadLetterHook | None
    _report_after: float
    _reply: Reply | None = None  # if the handler is a responder
    _instruments: Instruments = attrs.field(init=False)
    # Whether a call is just a call: there is no reply, and no instrument watches.
    _is_direct: bool = attrs.field(init=False)
    handling: int = attrs.field(default=0, init=False)
    """Calls that are running."""

    failures: int = attrs.field(default=0, init=False)
    """Calls that have failed."""

    _taking: bool = attrs.field(default=False, init=False)  # a task has the turn
    _turn: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _tasks: dict[OwnedTask, None] = attrs.field(factory=dict, init=False)
    _calls_cut: int = attrs.field(default=0, init=False)  # calls that were cancelled
    _not_begun: int = attrs.field(default=0, init=False)  # events that had just been taken
    # Whether the actor's task is going to check the calls.
    _will_look: bool = attrs.field(init=False)
    # The systems and paths of the events being handled, with `ordered`.
    _busy: set[Key] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._will_look = self._report_after == math.inf  # then there is nothing to check
        if self._registration.ordered and self._registration.concurrency > 1:
            self._busy = set()
        self._instruments = self.actor.core.instruments
        self.heed_instruments()

    @property
    def handler(self) -> Handler:
        """The handler."""
        return self._registration.handler

    @property
    def name(self) -> str:
        """The name of the handler."""
        return self._registration.name

    @property
    def treatment(self) -> str:
        """The consequence of an event that it could not handle."""
        return type(verdict_of(self._registration.on_error)).__name__

    @property
    def is_over(self) -> bool:
        """Whether all tasks have ended."""
        return not self._tasks

    def takers(self, event: Event[Any]) -> list[trio.lowlevel.Task]:
        """The tasks that could handle an event that has not been handled yet."""
        able = list(self._tasks)
        if self._busy and (key := key_of(event)) in self._busy:
            able = [owned for owned in able if owned.event and key_of(owned.event) == key]
        return [owned.task for owned in able if owned.task is not None]

    def heed_instruments(self) -> None:
        """Find out whether instruments watch the calls."""
        self._is_direct = self._reply is None and not self._instruments.watched_calls

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks in a nursery, with the context variables of the caller."""
        self.actor.worker = self
        name = self.name
        for _ in range(self._registration.concurrency):
            owned = OwnedTask(name, self._turn)
            self._tasks[owned] = None
            self._staff.join(owned)
            nursery.start_soon(self._run, owned, name=f"trio_events handler {name}")

    def look_after_calls(self, now: float) -> None:
        """Report long calls, and check again when the next one is to be reported."""
        if self._report_after == math.inf:
            return
        self._will_look = False
        calls = [(owned, owned.event) for owned in self._tasks if owned.event is not None]
        for owned, event in calls:
            if owned.since is None:
                owned.since, owned.next_report = now, now + self._report_after
            elif now >= owned.next_report:
                lasted = now - owned.since
                notice = HandlerLasts(self.actor, owned.name, names_of(event), lasted)
                self.actor.core.notices.add(notice)
                self.actor.tell("handler_slow", event, lasted)
                owned.next_report = max(now + lasted, math.nextafter(now, math.inf))
        if calls:
            self._will_look = True
            self.actor.set_alarm(min(now + _LOOK_EVERY, *(call.next_report for call, _ in calls)))

    # The tasks

    @trio.lowlevel.enable_ki_protection
    async def _run(self, owned: OwnedTask) -> None:  # noqa: ASYNC910  # it may be cancelled at once
        """Call the handler with one event after the other, until the subscription has ended."""
        # All tasks are noted before one of them has an event, so none is taken for the only reader.
        self.actor.known_readers.note(self._staff.begin(owned))
        try:
            with owned.scope:
                while (event := await self._next()) is not None:
                    if self._staff.cut_short is not None:
                        self._not_begun += 1
                        self.actor.buffer.discarded += 1
                        break
                    if self._busy is None:
                        await self._handle(owned, event)
                    else:
                        await self._handle_in_order(owned, event, self._busy)
                    del event  # or it would live on until the next one comes
        except BaseException as error:  # noqa: ASYNC103  # `Cancelled` is always raised
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
            name = self.name
            self.actor.core.notices.add(WorkLeft(self.actor, name, reason, self._calls_cut, events))

    async def _next(self) -> Event[Any] | None:
        """The next event, or None if there will be no more."""
        await next(self.actor.core.pace.steps)()
        if self._busy is None and not self._taking:
            front = self.actor.buffer.front  # as in `EventIterator`
            event = front.pop() if front and self.actor.is_quick else None
            if event is not None:
                return event
        while self._taking:
            await self._turn.park()
        self._taking = True
        try:
            if self._busy is not None:
                return await self._next_in_order(self._busy)
            return await self.actor.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return None
        except EventBusError as error:  # why the subscription has ended
            if self.actor.buffer.aside:  # the last task that handles these reports it
                return None
            self.actor.discard(_HERE)  # nothing is left, but the other tasks needn't report it
            if isinstance(verdict_of(self._registration.on_error), Propagate):
                raise
            self.actor.core.notices.add(HandlerEnded(error))
            return None
        finally:
            self._taking = False
            self._turn.unpark()

    async def _next_in_order(self, busy: set[Key]) -> Event[Any]:
        """The next event that doesn't have to wait for another one."""
        while True:  # noqa: ASYNC913  # it waits, or takes one
            try:
                event = self.actor.take_free(busy)
            except trio.WouldBlock:
                await self.actor.wait_for_events()
            else:
                busy.add(key_of(event))
                return event  # noqa: ASYNC910  # the caller has had a checkpoint

    async def _handle_in_order(  # noqa: ASYNC910  # as `_handle`
        self, owned: OwnedTask, event: Event[Any], busy: set[Key]
    ) -> None:
        """Handle an event, and then those that were set aside because of it."""
        key = key_of(event)
        following: Event[Any] | None = event
        while following is not None:
            await self._handle(owned, following)
            await next(self.actor.core.pace.steps)()
            following = self.actor.take_aside(key) if self._staff.cut_short is None else None
        busy.remove(key)

    async def _handle(self, owned: OwnedTask, event: Event[Any]) -> None:  # noqa: ASYNC910  # that is up to the handler
        """Call the handler with an event, as often as it takes."""
        known = self.actor.core.requests.known
        request = known.get(id(event)) if known else None
        if request is not None:
            request.note_progress(self.actor, trio.lowlevel.current_task())
        self.handling += 1
        owned.event, owned.since = event, None
        if not self._will_look:  # otherwise the next check notes roughly when it began
            self.look_after_calls(self.actor.core.clock())
        attempt = 1
        try:
            # In one piece: one more coroutine would take 5 % of each call.
            while True:
                reply: tuple[Outcome, object] | None = None
                try:
                    if self._is_direct:
                        await unprotected(self._registration.handler, event)
                    elif self._reply is None:
                        await self._watched(event)
                    elif request is not None or not is_reply(event.kind):
                        reply = await self._respond(event)
                        if request is not None and request.answer is Answer.MISSING:
                            await self._reply(event, request, *reply)
                    break
                except BaseException as error:  # noqa: ASYNC103, BLE001  # `_treat` raises it
                    caught = error
                try:
                    # If only the reply could not be sent, the handler isn't called again.
                    pause = await self._treat(event, caught, attempt if reply is None else math.inf)
                finally:
                    del caught  # no reference cycle
                if pause is None:
                    break
                await trio.sleep(pause)
                attempt += 1
            if self._registration.on_finished is not None:
                self._registration.on_finished(event)
        except BaseException as error:
            self._calls_cut += is_cancelled(error) or self._staff.is_last_word(owned, error)
            raise
        finally:
            self.handling -= 1
            owned.event = None
        if reply is not None:  # if another one is being sent, and fails, this one isn't sent later
            self.actor.core.requests.let_go((event,), self.actor)
        elif request is not None:
            request.note_progress(self.actor, Held.PASSED_ON)

    async def _watched(self, event: Event[Any]) -> object:  # noqa: ASYNC910  # as `_handle`
        """Call the handler, and the hooks of instruments before and after."""
        about = event, self._subscription
        with self._instruments.around("before_handler", "after_handler", *about):
            return await unprotected(self._registration.handler, event)

    async def _treat(  # noqa: ASYNC910  # there may be nothing to wait for
        self, event: Event[Any], caught: BaseException, attempt: float
    ) -> float | None:
        """Handle the exception of a call.

        Returns:
          In how many seconds to call the handler again with the same event, or None.
        """
        failure, rest = split(caught)
        try:
            if failure is None:
                raise caught
            self.failures += 1
            pause = None
            policy = self._registration.on_error
            if isinstance(policy, Retry) and attempt < policy.attempts and policy.covers(failure):
                self.actor.tell("handler_failed", event, failure, type(policy).__name__)
                pause = policy.pause(int(attempt))
                again = f", retrying in {pause:.3g} s" if rest is None else ""
                self._report(event, failure, f"; attempt {attempt} of {policy.attempts}{again}")
            else:
                verdict = verdict_of(policy)
                self.actor.tell("handler_failed", event, failure, self.treatment)
                if isinstance(verdict, Propagate):
                    rest = caught
                try:
                    await self._give_up(event, failure, verdict)
                except BaseException as error:  # noqa: ASYNC103, BLE001  # raised below
                    rest = joined(rest, error)
            if rest is not None:
                raise rest
            return pause  # noqa: ASYNC910  # likewise
        finally:
            del caught, failure, rest  # no reference cycles

    async def _give_up(  # noqa: ASYNC910  # as `_treat`
        self, event: Event[Any], failure: Exception, verdict: Verdict
    ) -> None:
        """Handle the final failure of an event."""
        match verdict:
            case Propagate():
                self._add_note(event, failure)
            case Log():
                self._report(event, failure, "")
            case CloseSubscription():
                self.actor.discard(_HERE)
                self._report(event, failure, "; the subscription was closed")
            case _ as never:
                assert_never(never)
        # An exception that ends the bus must leave alone, without that of the request.
        if not isinstance(verdict, Propagate):
            await self._fail_request(event, failure)
        letter = DeadLetter(event, failure, self._subscription)
        self._instruments.tell("event_failed", letter)
        if self._on_dead_letter is not None:
            await _tell(self._on_dead_letter, letter)

    # Responders

    async def _fail_request(self, event: Event[Any], failure: Exception) -> None:  # noqa: ASYNC910  # there may be no request
        """Reply that the responder has failed, and note that there won't be another reply."""
        request = self.actor.core.requests.known.get(id(event))
        if self._reply and request and request.answer is Answer.MISSING:
            try:
                await self._reply(event, request, "failed", text_of(failure))
            except Exception as error:  # noqa: BLE001  # the failure itself is what matters
                self._report(event, error, "; the reply could not be sent")
        self.actor.core.requests.let_go((event,), self.actor)

    async def _respond(self, event: Event[Any]) -> tuple[Outcome, object]:
        """Call the responder; returns what to reply."""
        try:
            if self._instruments.watched_calls:
                data = await self._watched(event)
            else:
                data = await unprotected(self.handler, event)
        except (Reject, ExceptionGroup) as error:
            rejections = [leaf.data for leaf in leaves(error) if isinstance(leaf, Reject)]
            if len(rejections) < len(list(leaves(error))):
                raise
            return "rejected", rejections[0]  # noqa: ASYNC910  # as `_handle`
        if isinstance(data, Event):
            raise TypeError(f"a responder returns the data of its reply, not an event: {data!r}")
        return "accepted", data

    # For people

    def activity(self) -> str:
        """What the handler is doing."""
        name = self.name
        events = [owned.event for owned in self._tasks if owned.event is not None]
        calls = [*map(names_of, events[:3])]
        if len(events) > len(calls):
            calls.append(f"{len(events) - len(calls)} more")
        return f"{name} is busy with {', '.join(calls)}" if calls else f"{name} is idle"

    def _add_note(self, event: Event[Any], failure: Exception) -> None:
        note = (
            f"{self.name} was handling the event {names_of(event)} of "
            f"{self.actor.description()}, registered at {self._registered_at}"
        )
        with contextlib.suppress(Exception):  # some exceptions are frozen
            failure.add_note(note)

    def _report(self, event: Event[Any], failure: Exception, consequence: str) -> None:
        name = self.name
        self.actor.core.notices.add(
            HandlerFailed(self.actor, name, names_of(event), failure, consequence)
        )


# Ctrl-C can interrupt the application's functions, unlike those that call them.


@trio.lowlevel.disable_ki_protection
async def _tell(hook: DeadLetterHook, letter: DeadLetter) -> None:  # noqa: ASYNC910  # likewise
    result = hook(letter)
    if inspect.isawaitable(result):
        await result
