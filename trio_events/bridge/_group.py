"""Groups: handlers in several processes that share the events of a log."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any, ClassVar, Final, final

import attrs
import trio

from .._core.actor import SubscriptionActor
from .._errors import BusClosedError
from .._event import Event
from .._handlers.supervision import DeadLetter
from .._names.errors import ErrorKind, EventBusError
from .._names.interest import Interest
from .._subscription import Subscription
from ._envelope import MalformedError, Types, decode
from ._follower import WAIT
from ._line import Line
from ._link import Link
from ._log import Claim, LogSession

_MAX_UNREPORTED: Final = 1000
"""Events that may be handled, and not acknowledged, before no more are claimed."""


class TooManyAttemptsError(EventBusError):
    """An event was delivered `max_attempts` times, and never finished.

    This is the error of a dead letter; it is never raised.

    Details: `attempts`, `position`.
    """

    kind = ErrorKind.UNAVAILABLE


@attrs.define(eq=False, repr=False)
class GroupActor(SubscriptionActor):
    """The actor of a group's handler: it gets its events from the log, not from the router."""

    fixed: ClassVar[bool] = True

    group: Group = attrs.field(init=False)
    """Who delivers to it."""

    @property
    def interests(self) -> Collection[Interest]:
        """Nothing that the router should route to it."""
        return ()

    def close(self) -> None:
        """Claim no more events."""
        SubscriptionActor.close(self)
        self.group.note_closed()

    def end(self) -> None:
        """The same at the end of the bus."""
        SubscriptionActor.end(self)
        self.group.note_closed()

    def discard(self, where: str) -> None:
        """Let others have the events for which the handler has not been called yet."""
        before = self.buffer.discarded
        SubscriptionActor.discard(self, where)
        self.group.give_back(self.buffer.discarded - before)

    def _patterns(self) -> str:
        return f"{self.interest} of group {self.group.name!r}"


@final
@attrs.define(eq=False)
class Group:
    """A member of a group: claims events, hands them to the handler, acknowledges them."""

    _link: Link
    name: str
    _interest: Interest
    _after: int
    _concurrency: int
    _lease: float
    _max_attempts: int
    _types: Types
    subscription: Subscription = attrs.field(init=False)
    _claiming: Line = attrs.field(init=False)
    _reporting: Line = attrs.field(init=False)
    _member: str = attrs.field(factory=lambda: secrets.token_hex(6), init=False)
    # All by position: what the handler has, in the order of delivery; what has been claimed and
    # is about to be handed over or buried; and what is finished and not acknowledged yet.
    _running: dict[int, None] = attrs.field(factory=dict, init=False)
    _in_hand: dict[int, None] = attrs.field(factory=dict, init=False)
    _done: list[int] = attrs.field(factory=list, init=False)
    _joined: LogSession | None = attrs.field(default=None, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _room: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _claims: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _reports: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    @property
    def actor(self) -> SubscriptionActor:
        """The actor of the handler's subscription."""
        return self.subscription._actor

    def start(self, subscription: Subscription) -> None:
        """Begin to work for a handler whose subscription this is."""
        self.subscription = subscription
        assert isinstance(subscription._actor, GroupActor)
        subscription._actor.group = self
        self._claiming, self._reporting = self._link.open_line(), self._link.open_line()
        self._link.groups[self] = None
        self._link.staff.enlist(self)
        for task in (self.claim_all, self.report_all):
            name = f"trio_events {task.__name__} of group {self.name!r}"
            self._link.bus._nursery.start_soon(task, name=name)

    # For the staff

    @property
    def is_idle(self) -> bool:
        """Whether everything that is finished is acknowledged."""
        return not self._done

    def stop(self, _: str) -> None:
        """Cancel the tasks. Other members get what isn't acknowledged."""
        self._reports.cancel()
        self.stop_claiming()

    def stop_claiming(self) -> None:
        """Take nothing new."""
        self._claims.cancel()

    def close(self) -> None:
        """Take nothing new, and end when the handler has finished what it has."""
        self.actor.close()

    # For the actor and the handler

    def note_closed(self) -> None:
        """The handler gets nothing more than it has."""
        self.stop_claiming()
        self._changed.set()

    def give_back(self, number: int) -> None:
        """The handler won't be called with the last so many events that it got."""
        for _ in range(number):
            self._running.popitem()
        self._changed.set()

    def note_finished(self, event: Event[Any]) -> None:
        """The handler has finished with an event, or has failed for good."""
        assert event.source is not None
        self._link.counts["handled"] += 1
        self._finish(event.source.position)

    def _finish(self, position: int) -> None:
        self._running.pop(position, None)
        self._done.append(position)
        self._changed.set()
        self._room.unpark_all()

    # The task that claims

    async def claim_all(self) -> None:
        """Claim events while the handler has room for them, and hand them over in order."""
        try:
            with self._claims:
                while True:
                    while not self._room_left():
                        await self._room.park()
                    missed, claims = await self._claiming.call(self._claim)
                    if missed:
                        self._link.counts["missed"] += missed
                        text = f"entries that were gone before group {self.name!r} handled them"
                        self._link.reports.repeat("missed", f"{text}: {missed}")
                    await self._take_all(claims)
        finally:
            self._in_hand.clear()
            self._claiming.close()

    def _room_left(self) -> int:
        if len(self._done) >= _MAX_UNREPORTED:
            return 0
        return self._concurrency - len(self._running)

    async def _claim(self, session: LogSession) -> tuple[int, list[Claim]]:
        if session is not self._joined:  # a log that was restored from a copy may lack the group
            await session.join(self.name, str(self._interest), self._after)
            self._joined = session
        wait = min(WAIT, self._lease / 2)
        return await session.claim(self.name, self._member, self._room_left(), self._lease, wait)

    async def _take_all(  # noqa: ASYNC910  # `call` has had a checkpoint
        self, claims: list[Claim]
    ) -> None:
        # Not those whose lease was over while this process couldn't renew it.
        known = {*self._running, *self._done}
        new = {claim.position: claim for claim in claims if claim.position not in known}
        self._in_hand |= dict.fromkeys(new)
        for position, claim in new.items():
            await self._take(claim)
            del self._in_hand[position]

    async def _take(self, claim: Claim) -> None:  # noqa: ASYNC910  # as above
        event = self._opened(claim)
        if event is None:
            return  # noqa: ASYNC910  # as above
        # It may have ended a process, so what is finished is acknowledged first.
        while claim.attempt > 1 and self._done:
            await self._room.park()
        if claim.attempt > self._max_attempts:
            await self._bury(event, claim)
            return
        self._link.counts["repeated"] += claim.attempt > 1
        self._running[claim.position] = None
        with self.actor.core.notices:
            self.actor.deliver([event])

    def _opened(self, claim: Claim) -> Event[Any] | None:
        """The event of a claim; None if there is nothing to be done with it."""
        link, position = self._link, claim.position
        link.note_seen(position)
        self._after = max(self._after, position)
        try:
            envelope = decode(claim.event)
            if not self._interest.matches(envelope.system, envelope.type, envelope.subject):
                link.counts["unwanted"] += 1
                self._finish(position)
                return None
            event = self._types.event(envelope, link.log.label, position, claim.attempt)
            link.check_names(event)
            link.adopt(event, envelope)
        except MalformedError as error:
            link.counts["malformed"] += 1
            link.reports.repeat("malformed", f"entry {position} is malformed: {error}")
            self._finish(position)
            return None
        return event

    async def _bury(self, event: Event[Any], claim: Claim) -> None:
        attempts = claim.attempt - 1
        text = f"entry {claim.position} was given up by group {self.name!r}: attempts: {attempts}"
        error = TooManyAttemptsError(text, attempts=attempts, position=claim.position)
        self._link.counts["buried"] += 1
        self._link.reports.repeat("buried", text)
        await self._link.bury(DeadLetter(event, error, self.subscription))
        self._finish(claim.position)

    # The task that acknowledges

    async def report_all(self) -> None:  # noqa: ASYNC910  # the handler may have ended already
        """Acknowledge what is finished, and renew the leases of what isn't."""
        try:
            with self._reports:
                while not self.actor.closed or self._running or self._done:
                    with trio.move_on_after(self._lease / 3):
                        await self._changed.wait()
                    self._changed = trio.Event()
                    await self._report()
        except BusClosedError:  # it was closed by force, and others get what isn't acknowledged
            pass
        finally:
            self.stop_claiming()
            self._reporting.close()
            self._link.staff.release(self)
            self._link.leave_group(self)

    async def _report(self) -> None:  # noqa: ASYNC910  # `report_all` has waited
        done, stored = tuple(self._done), False
        if done:
            # What the handler has sent must not be lost when its event isn't handed out again.
            with trio.move_on_after(self._lease / 3):
                await self._link.flush()
                stored = True
        running = (*self._running, *self._in_hand, *(() if stored else done))

        async def finish(session: LogSession) -> None:
            finished = done if stored else ()
            await session.finish(self.name, self._member, finished, running, self._lease)

        if stored or running:
            await self._reporting.call(finish)
        if stored:
            del self._done[: len(done)]
            self._room.unpark_all()
        elif done:
            self._changed.set()
