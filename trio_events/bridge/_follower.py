"""Followers: sending events of a log on a bus."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Final, final

import attrs
import trio

from .._errors import BusClosedError, DeadlockError
from .._event import Event
from .._names.interest import Interest
from .._no_public_constructor import NoPublicConstructor
from ._envelope import MalformedError, Types, decode
from ._line import Line
from ._link import Link
from ._log import Entry, LogSession

WAIT: Final = 5.0
"""Seconds that one call of the log waits for entries."""

_MAX_ENTRIES: Final = 100
"""The most entries that a follower reads ahead."""


@final
@attrs.frozen
class FollowerStatistics:
    """passed = imported + own + unwanted + denied + malformed + missed, at every instant."""

    start: int
    """The position after which it began."""

    position: int
    """The position up to which the follower has passed everything."""

    passed: int
    """Positions that have been passed."""

    imported: int
    """Events among them that were sent on the bus."""

    own: int
    """Events among them that this bus had exported itself."""

    unwanted: int
    """Events among them that the patterns don't match."""

    denied: int
    """Events among them that the policy of the bus doesn't allow."""

    malformed: int
    """Entries among them that aren't events, or whose data can't be converted."""

    missed: int
    """Positions among them that the log had removed."""


@final
@attrs.define(eq=False, repr=False)
class Follower(metaclass=NoPublicConstructor):
    """Reads a log, and sends matching events on a bus. Get one from `Bridge.follow`."""

    _made_by: ClassVar = "Bridge.follow"
    _link: Link
    _line: Line
    _interest: Interest
    _types: Types
    _start: int
    _target: int  # the end of the log when it began
    _closed: bool = attrs.field(default=False, init=False)
    _position: int = attrs.field(init=False)
    _highest: int = attrs.field(init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _checked: LogSession | None = attrs.field(default=None, init=False)  # whose end is plausible
    _progress: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def __attrs_post_init__(self) -> None:
        self._position = self._highest = self._start

    @property
    def position(self) -> int:
        """The position up to which all events have been sent or skipped."""
        return self._position

    async def wait_caught_up(self) -> None:
        """Wait until all events that were in the log when `follow` was called have been sent.

        A checkpoint, always. Several tasks may call this at once.

        Raises:
          trio.ClosedResourceError: If the follower was closed before that.
          BusClosedError: If the bus was closed before that.
          NoBusError: If this is called from another thread.
        """
        self._link.bus._core.door.check_here()
        await trio.lowlevel.checkpoint()
        while self._highest < self._target:
            if self._closed:
                self._link.check_open()
                raise trio.ClosedResourceError("the follower was closed before it had caught up")
            await self._progress.park()

    def close(self) -> None:
        """Stop sending. Not a checkpoint. Idempotent. To resume later, keep `position`.

        Raises:
          NoBusError: If this is called from another thread.
        """
        self._link.bus._core.door.check_here()
        self._closed = True
        self._scope.cancel()
        self._progress.unpark_all()

    def statistics(self) -> FollowerStatistics:
        """The counters now. Not a checkpoint."""
        counts = self._counts
        return FollowerStatistics(
            start=self._start,
            position=self._position,
            passed=counts["passed"],
            imported=counts["imported"],
            own=counts["own"],
            unwanted=counts["unwanted"],
            denied=counts["denied"],
            malformed=counts["malformed"],
            missed=counts["missed"],
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"at {self._position}"
        return f"<Follower of {self._interest} in {self._link.log.label}, {state}>"

    async def _run(self) -> None:  # noqa: ASYNC910  # it may have been closed before it began
        """Follow until it is closed, or the bus is."""
        try:
            with self._scope:
                while True:
                    for entry in await self._line.call(self._read):
                        event = self._opened(entry)
                        if event is not None:
                            await self._send(event)
                            self._count("imported", 1, entry.position)
        except BusClosedError:  # it is, and everything that is part of it ends
            pass
        finally:
            self.close()
            self._line.close()
            del self._link.followers[self]

    async def _read(self, session: LogSession) -> list[Entry]:
        if session is not self._checked:  # meanwhile, the log may have been restored from a copy
            self._note_end_of_log((await session.bounds())[1])
            self._checked = session
        entries = await session.read(self._position, _MAX_ENTRIES, WAIT)
        if not entries:
            self._checked = None
        return entries

    def _note_end_of_log(self, last: int) -> None:
        if last < self._position:
            self._link.counts["rewound"] += 1
            self._link.reports.add(
                f"its end went back from {self._position} to {last}, as if it had been restored "
                "from an older copy"
            )
            self._position = last
        self._target = min(self._target, last)
        self._progress.unpark_all()

    def _opened(self, entry: Entry) -> Event | None:
        """The event in an entry; None if it is not to be sent, which is counted."""
        # What the log has lost, but was here before, isn't missed.
        missed = entry.position - 1 - max(self._position, self._highest)
        if missed > 0:
            self._count("missed", missed, entry.position - 1)
            first = entry.position - missed
            text = f"entries {first} to {entry.position - 1} are gone, unread by a follower"
            self._link.reports.repeat("missed", text)
        outcome = self._open(entry)
        if isinstance(outcome, Event):
            return outcome
        self._count(outcome, 1, entry.position)
        return None

    def _open(self, entry: Entry) -> Event | str:
        link = self._link
        try:
            envelope = decode(entry.event)
            if link.is_own(envelope.writer):
                return "own"
            if not self._interest.matches(envelope.system, envelope.type, envelope.subject):
                return "unwanted"
            event = self._types.event(envelope, link.log.label, entry.position, attempt=1)
            link.check_names(event)
        except MalformedError as error:
            link.reports.repeat("malformed", f"entry {entry.position} is malformed: {error}")
            return "malformed"
        try:
            link.check_send(event.system)
        except Exception as error:  # noqa: BLE001  # a policy may raise what it likes
            link.reports.repeat("denied", f"entry {entry.position} is not allowed: {error}")
            return "denied"
        link.adopt(event, envelope)
        return event

    async def _send(self, event: Event) -> None:
        while True:  # noqa: ASYNC913  # sending is a cancellation point
            try:
                await self._link.send(event)
                return
            except DeadlockError:  # its readers wait for themselves, and get this error, too
                pass

    def _count(self, outcome: str, number: int, position: int) -> None:
        self._counts[outcome] += number
        self._counts["passed"] += number
        self._link.counts[outcome] += number
        self._link.note_seen(position)
        self._position = position
        self._highest = max(self._highest, position)
        self._progress.unpark_all()
