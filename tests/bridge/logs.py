"""A log in memory that fails as it is told to, and what several tests do with logs."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import trio

from trio_events.bridge import (
    Claim,
    Entry,
    EventLog,
    GroupState,
    LogSession,
    LogUnavailableError,
    MemoryLog,
)


@final
@attrs.define(eq=False)
class ShakyLog:
    """A log in memory whose operations can fail, before or after they have been carried out."""

    inner: MemoryLog = attrs.field(factory=MemoryLog)
    error: Exception | None = None
    """What opening a session raises, and every operation."""

    lost_answers: int = 0
    """How many further appends fail after they have been carried out."""

    hanging: bool = False
    """Whether operations never end."""

    delays: dict[str, float] = attrs.field(factory=dict)
    """How many seconds operations take, by name."""

    opened: int = 0
    """Sessions that were opened."""

    open_sessions: int = 0
    """Sessions that are open."""

    calls: list[str] = attrs.field(factory=list)

    @property
    def label(self) -> str:
        return "shaky"

    def go_away(self) -> None:
        self.error = LogUnavailableError("it is away")

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[LogSession]:
        if self.error is not None:
            raise self.error
        self.opened += 1
        self.open_sessions += 1
        try:
            async with self.inner.open() as session:
                yield _ShakySession(self, session)
        finally:
            self.open_sessions -= 1


@final
@attrs.define(eq=False)
class _ShakySession:
    log: ShakyLog
    inner: LogSession
    broken: bool = False

    async def _before(self, name: str) -> None:
        assert not self.broken, "a session is not used again after an exception"
        self.broken = True
        self.log.calls.append(name)
        await trio.lowlevel.checkpoint()
        await trio.sleep(self.log.delays.get(name, 0))
        if self.log.hanging:
            await trio.sleep_forever()
        if self.log.error is not None:
            raise self.log.error

    async def append(self, writer: str, first: int, events: Sequence[bytes], seen: int) -> int:
        await self._before("append")
        last = await self.inner.append(writer, first, events, seen)
        if events and self.log.lost_answers:
            self.log.lost_answers -= 1
            raise LogUnavailableError("the answer was lost")
        self.broken = False
        return last

    async def read(self, after: int, max_events: int, wait: float) -> list[Entry]:
        await self._before("read")
        entries = await self.inner.read(after, max_events, wait)
        self.broken = False
        return entries

    async def bounds(self) -> tuple[int, int]:
        await self._before("bounds")
        bounds = await self.inner.bounds()
        self.broken = False
        return bounds

    async def join(self, group: str, wants: str, after: int) -> None:
        await self._before("join")
        await self.inner.join(group, wants, after)
        self.broken = False

    async def claim(
        self, group: str, member: str, max_events: int, lease: float, wait: float
    ) -> tuple[int, list[Claim]]:
        await self._before("claim")
        claims = await self.inner.claim(group, member, max_events, lease, wait)
        self.broken = False
        return claims

    async def finish(
        self, group: str, member: str, done: Sequence[int], running: Sequence[int], lease: float
    ) -> None:
        await self._before("finish")
        await self.inner.finish(group, member, done, running, lease)
        self.broken = False

    async def groups(self) -> list[GroupState]:
        return await self.inner.groups()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true that nothing tells."""
    while not condition():  # noqa: ASYNC110  # there is no event for it
        await trio.sleep(0.01)


async def entries_of(log: EventLog, after: int = 0) -> list[Any]:
    """All entries of a log, decoded."""
    async with log.open() as session:
        return [json.loads(entry.event) for entry in await session.read(after, 1_000_000, 0)]


async def paths_in(log: EventLog) -> list[str]:
    """The paths of all events in a log, in order."""
    return [entry["subject"] for entry in await entries_of(log)]


def entry(path: str = "/x", **changes: Any) -> bytes:
    """An entry that somebody else has written."""
    attributes = {
        "specversion": "1.0",
        "id": f"other-{path}",
        "source": "elsewhere",
        "type": "k",
        "subject": path,
        "system": "s",
        "data": None,
    } | changes
    return json.dumps({k: v for k, v in attributes.items() if v is not ...}).encode()


async def write(log: EventLog, *events: bytes, seen: int = 0) -> int:
    """Append entries as somebody else; returns the last position."""
    async with log.open() as session:
        return await session.append(secrets.token_hex(6), 1, events, seen)
