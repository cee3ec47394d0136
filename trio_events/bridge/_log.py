"""The protocol of logs, and a log in memory."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from operator import attrgetter
from typing import Any, Final, Protocol, final

import attrs
import trio

from .._core.buffer import check_count
from .._names.errors import ErrorKind, EventBusError

HIGHEST: Final = 2**53 - 1
"""The highest position, and the most events of a log: Redis counts in floating-point numbers."""


class LogRefusedError(EventBusError):
    """The log will never allow this: a wrong password, no such folder, other patterns."""

    kind = ErrorKind.INVALID


class LogUnavailableError(EventBusError, OSError):
    """The log can't be reached or written to at the moment."""

    kind = ErrorKind.UNAVAILABLE
    retryable = True


@final
@attrs.frozen
class Entry:
    """An event in a log."""

    position: int
    """The position in the log, from 1 on."""

    event: bytes
    """The event, encoded."""


@final
@attrs.frozen
class Claim:
    """An event that was given to a member of a group for the duration of its lease."""

    position: int
    """The position in the log."""

    event: bytes
    """The event, encoded."""

    attempt: int
    """How many times it has been given to a member, including this time."""


@final
@attrs.frozen
class GroupState:
    """The state of a group in a log."""

    name: str
    """The name of the group."""

    wants: str
    """Its patterns."""

    position: int
    """The position up to which entries have been claimed."""

    claims: int
    """How many of these are claimed but not finished."""


class LogSession(Protocol):
    """The connection of one task to a log.

    Every method is a checkpoint. After an exception, including `Cancelled`, the session is closed
    and not used again. A problem that may be temporary raises `LogUnavailableError`, any other one
    `LogRefusedError`.
    """

    async def append(self, writer: str, first: int, events: Sequence[bytes], seen: int) -> int:
        """Append events, all or none.

        Args:
          writer: The identifier of the writer.
          first: The writer's number of the first event; the others have the following numbers.
            Events that this writer has appended before are ignored.
          events: The events. If there are none, the log doesn't change.
          seen: A position; new positions are higher.

        Returns:
          The last position in the log.
        """

    async def read(self, after: int, max_events: int, wait: float) -> list[Entry]:
        """The next entries after a position, or none if none arrive within `wait` seconds."""

    async def bounds(self) -> tuple[int, int]:
        """The first position that the log still has, and the last one; (0, 0) for an empty log."""

    async def join(self, group: str, wants: str, after: int) -> None:
        """Create a group that begins after a position, unless it exists.

        Raises:
          LogRefusedError: If it exists and has other patterns than `wants`.
        """

    async def claim(
        self, group: str, member: str, max_events: int, lease: float, wait: float
    ) -> tuple[int, list[Claim]]:
        """Claim the next entries of a group for a member, for `lease` seconds.

        Entries whose lease has expired come first. Waits at most `wait` seconds if there is none.

        Returns:
          How many entries were removed before a member could handle them, and the claims.
        """

    async def finish(
        self, group: str, member: str, done: Sequence[int], running: Sequence[int], lease: float
    ) -> None:
        """End the claims of a member on some positions, and renew those on others."""

    async def groups(self) -> list[GroupState]:
        """The groups, in the order of their names."""


class EventLog(Protocol):
    """A list of events that only grows, which several processes share."""

    @property
    def label(self) -> str:
        """The name in `Source.log` and messages. It contains no password."""

    def open(self) -> AbstractAsyncContextManager[LogSession]:
        """Connect to it, for one task."""


@attrs.define(eq=False)
class _Lease:
    member: str
    until: float
    attempt: int


@attrs.define(eq=False)
class _Group:
    wants: str
    position: int
    leases: dict[int, _Lease] = attrs.field(factory=dict, init=False)  # by position, in order

    def claim(
        self, log: MemoryLog, member: str, max_events: int, lease: float
    ) -> tuple[int, list[Claim]]:
        now = trio.current_time()
        missed, claims = 0, []
        for position in [p for p, held in self.leases.items() if held.until <= now][:max_events]:
            held = self.leases[position]
            entry = log._at(position)
            if entry is None:
                del self.leases[position]
                missed += 1
            else:
                held.member, held.until, held.attempt = member, now + lease, held.attempt + 1
                claims.append(Claim(position, entry.event, held.attempt))
        for entry in log._after(self.position, max_events - len(claims)):
            missed += entry.position - self.position - 1
            self.position = entry.position
            self.leases[entry.position] = _Lease(member, now + lease, 1)
            claims.append(Claim(entry.position, entry.event, 1))
        return missed, claims


@final
class MemoryLog:
    """A log in memory, which several buses of one trio run can share. For tests.

    It uses trio's clock.

    Args:
      max_events: How many events it keeps.
      label: The name in `Source.log` and messages.
    """

    def __init__(self, *, max_events: int = 1_000_000, label: str = "memory") -> None:
        check_max_events(max_events)
        self.label = label
        self._max_events = max_events
        self._entries: list[Entry] = []
        self._writers: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}
        self._changed = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[LogSession]:
        """Open a session. Opening and closing it are not checkpoints."""
        yield _MemorySession(self)

    def __repr__(self) -> str:
        return f"<MemoryLog {self.label!r} of {len(self._entries)} events>"

    def _index(self, position: int) -> int:
        return bisect_right(self._entries, position, key=attrgetter("position"))

    def _after(self, position: int, max_events: int) -> list[Entry]:
        start = self._index(position)
        return self._entries[start : start + max_events]

    def _at(self, position: int) -> Entry | None:
        found = self._after(position - 1, 1)
        return found[0] if found and found[0].position == position else None

    def _bounds(self) -> tuple[int, int]:
        return (self._entries[0].position, self._entries[-1].position) if self._entries else (0, 0)


@final
@attrs.define(eq=False)
class _MemorySession:
    _log: MemoryLog

    async def append(self, writer: str, first: int, events: Sequence[bytes], seen: int) -> int:
        await trio.lowlevel.checkpoint()
        log = self._log
        have = log._writers.get(writer, first - 1)
        last = log._bounds()[1]
        new = events[max(0, have + 1 - first) :]
        if not new:
            return last
        start = max(last, seen) + 1
        log._entries += [Entry(start + n, bytes(event)) for n, event in enumerate(new)]
        del log._entries[: log._index(start + len(new) - 1 - log._max_events)]
        log._writers[writer] = first + len(events) - 1
        log._changed.unpark_all()
        return start + len(new) - 1

    async def read(self, after: int, max_events: int, wait: float) -> list[Entry]:
        await trio.lowlevel.checkpoint()
        deadline = trio.current_time() + wait
        while self._log._bounds()[1] <= after and trio.current_time() < deadline:
            with trio.move_on_at(deadline):
                await self._log._changed.park()
        return self._log._after(after, max_events)

    async def bounds(self) -> tuple[int, int]:
        await trio.lowlevel.checkpoint()
        return self._log._bounds()

    async def join(self, group: str, wants: str, after: int) -> None:
        await trio.lowlevel.checkpoint()
        check_wants(group, self._log._groups.setdefault(group, _Group(wants, after)).wants, wants)

    async def claim(
        self, group: str, member: str, max_events: int, lease: float, wait: float
    ) -> tuple[int, list[Claim]]:
        await trio.lowlevel.checkpoint()
        log = self._log
        state = log._groups[group]
        deadline = trio.current_time() + wait
        while True:
            missed, claims = state.claim(log, member, max_events, lease)
            if missed or claims or trio.current_time() >= deadline:
                return missed, claims
            over = min((held.until for held in state.leases.values()), default=math.inf)
            with trio.move_on_at(min(deadline, over)):
                await log._changed.park()

    async def finish(
        self, group: str, member: str, done: Sequence[int], running: Sequence[int], lease: float
    ) -> None:
        await trio.lowlevel.checkpoint()
        leases = self._log._groups[group].leases
        for position in (*done, *running):
            held = leases.get(position)
            if held is None or held.member != member:
                continue
            if position in running:
                held.until = trio.current_time() + lease
            else:
                del leases[position]

    async def groups(self) -> list[GroupState]:
        await trio.lowlevel.checkpoint()
        groups = sorted(self._log._groups.items())
        return [GroupState(name, g.wants, g.position, len(g.leases)) for name, g in groups]


def check_max_events(max_events: int) -> None:
    """Require a number of events that a log can keep.

    Raises:
      TypeError: If it isn't an int.
      ValueError: If it is less than 1, or too many.
    """
    check_count("max_events", max_events)
    if max_events > HIGHEST:
        raise ValueError(f"max_events must be at most {HIGHEST}, not {max_events}")


def check_after(after: Any) -> None:
    """Require a position, or None.

    Raises:
      TypeError: If it isn't an int.
      ValueError: If there can't be such a position.
    """
    if after is None:
        return
    if not isinstance(after, int) or isinstance(after, bool):
        raise TypeError(f"after must be an int, not {after!r}")
    if not 0 <= after <= HIGHEST:
        raise ValueError(f"after must be between 0 and {HIGHEST}, not {after}")


def check_wants(group: str, have: str, wants: str) -> None:
    """Require that a group has the patterns with which it is joined.

    Raises:
      LogRefusedError: If it has others.
    """
    if have != wants:
        raise LogRefusedError(
            f"group {group!r} has the patterns {have}, not {wants}: use another group",
            group=group,
        )
