"""Appending to a log what a bus accepts."""

from __future__ import annotations

import datetime
import logging
import secrets
from collections import deque
from functools import partial
from typing import Any, ClassVar, Final, final

import attrs
import trio

from .._core.actor import SubscriptionActor
from .._core.buffer import Overflow
from .._errors import SubscriptionOverflowError
from .._event import Event
from .._handlers.supervision import DeadLetter
from .._names.interest import Interest
from .._subscription import Subscription
from ._envelope import MAX_EVENT_SIZE, encode
from ._line import Line
from ._link import Link
from ._log import LogSession

_MAX_BATCH: Final = 500
"""Events that are taken from the subscription at once."""

_MAX_BATCH_SIZE: Final = 1024 * 1024
"""Bytes that are appended at once."""


@attrs.define(eq=False, repr=False)
class ExportActor(SubscriptionActor):
    """The actor of an export: it ignores what bridges have brought."""

    local_only: ClassVar[bool] = True
    fixed: ClassVar[bool] = True

    def deliver(self, events: list[Event]) -> None:
        """Take in those of the events that were sent in this process."""
        local = [event for event in events if event.source is None]
        if local:
            SubscriptionActor.deliver(self, local)


@final
@attrs.define(eq=False)
class Export:
    """Takes events from a subscription, encodes them, and appends them to the log.

    Events leave the buffer in order, so one number says how far it has come: `settled`, of the
    events that the subscription has matched. Those that were dropped on arrival, or superseded,
    don't count, and those that made room for later ones have left.
    """

    _link: Link
    _subscription: Subscription
    _line: Line
    writer: str = attrs.field(factory=lambda: secrets.token_hex(6), init=False)
    ended: bool = attrs.field(default=False, init=False)
    settled: int = attrs.field(default=0, init=False)
    """Events that are in the log, refused, or gone, in the order in which they were matched."""

    _task: trio.lowlevel.Task | None = attrs.field(default=None, init=False)
    _number: int = attrs.field(default=1, init=False)  # of the writer's next event
    _in_hand: int = attrs.field(default=0, init=False)  # events taken, and not settled
    _stopped: str | None = attrs.field(default=None, init=False)  # why, if it is
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _progress: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    @property
    def actor(self) -> SubscriptionActor:
        """The actor of its subscription."""
        return self._subscription._actor

    @property
    def interest(self) -> Interest:
        """What it exports."""
        return self.actor.interest

    @property
    def is_open(self) -> bool:
        """Whether it exports what is accepted from now on."""
        return not self.actor.closed

    def close(self) -> None:
        """Export what was accepted so far, and no more."""
        self.actor.close()

    @property
    def matched(self) -> int:
        """What `settled` will be when everything that was accepted so far is."""
        buffer = self.actor.buffer
        # What was dropped on arrival was never in front of anything; what was superseded has a
        # successor that counts.
        on_arrival = self._subscription.overflow in (Overflow.DROP_INCOMING, Overflow.CLOSE)
        return buffer.matched - buffer.superseded - (buffer.dropped if on_arrival else 0)

    # For the staff

    @property
    def is_idle(self) -> bool:
        """Whether everything that was accepted so far is settled."""
        return self.settled >= self.matched

    def stop(self, reason: str) -> None:
        """Cancel the task. What is left then is counted and reported."""
        self._stopped = reason
        self._scope.cancel()

    # The task

    async def run(self) -> None:
        """Export until the subscription has ended and everything is stored."""
        self._task = trio.lowlevel.current_task()
        try:
            with self._scope:
                await self._export_all()
        except BaseException:
            self._stopped = self._stopped or "an exception ended the bus"
            raise
        finally:
            self._end()

    async def _export_all(self) -> None:  # noqa: ASYNC910  # iterating is a checkpoint
        try:
            async for events in self._subscription.batches(max_size=_MAX_BATCH):
                await self._store(events)
        except trio.ClosedResourceError:  # its channel was closed
            pass
        except SubscriptionOverflowError as error:
            self._link.reports.add(f"an export has ended: {error}")

    async def _store(  # noqa: ASYNC910  # as above
        self, events: list[Event[Any]]
    ) -> None:
        """Append events that have just been taken; those that can't be are dead letters."""
        taken = self.matched - self.actor.buffer.unread
        remaining = deque(events)
        self._in_hand = len(events)
        time = datetime.datetime.now(datetime.UTC)
        while remaining:
            entries: list[bytes] = []
            size = 0
            while remaining and size <= _MAX_BATCH_SIZE - MAX_EVENT_SIZE:
                event = remaining.popleft()
                number = self._number + len(entries)
                try:
                    entry = encode(
                        event,
                        self.writer,
                        number,
                        self._link.name,
                        time,
                        is_request=self._link.is_request(event),
                    )
                except Exception as error:  # noqa: BLE001  # the data may have code of its own
                    await self._refuse(event, error)
                    continue
                entries.append(entry)
                size += len(entry)
            if entries:
                await self._line.call(partial(self._append, entries))
                self._number += len(entries)
                self._link.counts["exported"] += len(entries)
            self._in_hand = len(remaining)
            self.settled = taken - len(remaining)
            self._progress.unpark_all()

    async def _append(self, entries: list[bytes], session: LogSession) -> None:
        seen = self._link.seen
        self._link.note_seen(await session.append(self.writer, self._number, entries, seen))

    async def _refuse(self, event: Event[Any], error: Exception) -> None:
        which = f"system={event.system!r} kind={event.kind!r} path={event.path!r}"
        self._link.counts["refused"] += 1
        self._link.reports.repeat("refused", f"can't be exported: {which}: {error}")
        await self._link.bury(DeadLetter(event, error, self._subscription))

    def _end(self) -> None:
        buffer = self.actor.buffer
        left = self._in_hand + buffer.unread + buffer.on_the_way
        self.ended = True
        self._line.close()
        self._link.staff.release(self)
        if self._stopped is not None:
            self.actor.discard("the end of its export")
            if left:
                text = f"{self._stopped}; events that were not exported: {left}"
                self._link.reports.add(f"{self.actor.description()}: {text}", logging.WARNING)
        if self._stopped is None or not left:
            del self._link.exports[self]
        self._progress.unpark_all()

    # For those who flush

    def runs_in(self, task: trio.lowlevel.Task) -> bool:
        """Whether this is the task that exports."""
        return task is self._task

    async def wait_settled(self, target: int) -> None:  # noqa: ASYNC910  # `flush` has had one
        """Wait until so many of the events that were matched are settled.

        Raises:
          BusClosedError: If the bus was closed, and it didn't come to that.
        """
        while self.settled < target:
            if self._stopped is not None:
                raise self._link.closed_error("; not everything was exported")
            if self.ended:  # the channel was closed: what is left was discarded, and counted
                break
            await self._progress.park()
