"""A log in a SQLite file, shared by the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeVar, final, get_args

import trio

from ._log import (
    Claim,
    Entry,
    GroupState,
    LogRefusedError,
    LogSession,
    LogUnavailableError,
    check_max_events,
    check_wants,
)

T = TypeVar("T")
Synchronous = Literal["full", "normal"]

_APPLICATION_ID: Final = 0x74726576
_VERSION: Final = 1
_SCHEMA: Final = (
    "create table events(position integer primary key, event blob not null) strict",
    "create table writers(writer text primary key, last integer not null, at real not null) strict",
    """create table groups(
        name text primary key, wants text not null, position integer not null
    ) strict""",
    """create table claims(
        name text, position integer, member text not null, since real not null,
        until real not null, attempt integer not null, primary key(name, position)
    ) strict, without rowid""",
    f"pragma application_id={_APPLICATION_ID}",
    f"pragma user_version={_VERSION}",
)

_PATIENCE: Final = 5.0
"""Seconds until a lock that another process has is trouble."""

_BUSY: Final = 0.2
"""Seconds that a thread waits for a lock, and so a cancellation for the thread."""

_PASSING: Final = ("BUSY", "LOCKED", "FULL", "IOERR", "PROTOCOL", "NOMEM", "READONLY_DBMOVED")
"""The error codes of what may pass."""

_POLL: Final = (0.002, 0.02)
"""Seconds between two looks for changes: at first, and at most."""

_WRITER_KEPT: Final = 86_400.0
"""Seconds for which the last number of a writer is kept."""


@final
class SqliteLog:
    """A log in a SQLite file, for the processes of one machine.

    The file is created if it doesn't exist; its folder must exist. It must be on a local file
    system, because SQLite's locks don't work over a network.

    Args:
      path: The file.
      max_events: How many events it keeps; the oldest are removed to make room.
      synchronous: `"full"` writes each append to the disk. With `"normal"`, a power failure,
        but not the death of a process, can remove events that others have already read.

    Raises:
      TypeError: If `max_events` is not an int.
      ValueError: If `max_events` is less than 1, `synchronous` is something else, or `path` is
        `""` or `":memory:"`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_events: int = 1_000_000,
        synchronous: Synchronous = "full",
    ) -> None:
        check_max_events(max_events)
        if synchronous not in get_args(Synchronous):
            raise ValueError(f"synchronous must be 'full' or 'normal', not {synchronous!r}")
        self.path: str = os.fspath(path)
        if self.path in {"", ":memory:"}:  # each connection would have a database of its own
            raise ValueError(f"path must be that of a file, not {self.path!r}; use MemoryLog")
        self._max_events = max_events
        self._synchronous = synchronous

    @property
    def label(self) -> str:
        """What `Source.log` and messages call it."""
        return f"sqlite:///{self.path}"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[LogSession]:
        """A session: one connection, used by one thread at a time. Opening it is a checkpoint.

        Raises:
          LogRefusedError: If the file isn't a log, or can't be opened.
          LogUnavailableError: If the file is locked for 5 s, or the disk is full.
        """
        session = _SqliteSession(self.path, self._max_events)
        try:
            await session.run(session.connect, self._synchronous)
            yield session
        finally:
            with trio.CancelScope(shield=True):  # closing may have to wait for the thread
                await session.close()

    def __repr__(self) -> str:
        return f"<SqliteLog {self.path!r}>"


@final
class _SqliteSession:
    def __init__(self, path: str, max_events: int) -> None:
        self._path = path
        self._max_events = max_events
        self._limiter = trio.CapacityLimiter(1)
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    # The connection

    def connect(self, synchronous: Synchronous) -> None:
        """Open the file, and make the tables if it is new. May be repeated."""
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
        db = self._connection
        with _Transaction(db, "begin"):  # so that it doesn't become one while it is looked at
            is_log = self._is_log(db)
        if not is_log:
            db.execute("pragma journal_mode=wal")
            with _Transaction(db):
                if not self._is_log(db):  # another process was faster
                    for statement in _SCHEMA:
                        db.execute(statement)
        db.execute(f"pragma synchronous={synchronous}")
        self._file = self._identity()

    def _is_log(self, db: sqlite3.Connection) -> bool:
        """Whether the file is a log already; false if it is empty."""
        (application_id,) = db.execute("pragma application_id").fetchone()
        (version,) = db.execute("pragma user_version").fetchone()
        if (application_id, version) == (_APPLICATION_ID, _VERSION):
            return True
        if application_id == _APPLICATION_ID:
            raise LogRefusedError(
                f"{self._path} is a log of version {version}, and this is version {_VERSION}"
            )
        if application_id or version or db.execute("select 1 from sqlite_master").fetchone():
            raise LogRefusedError(f"{self._path} is a database, but not a log of trio_events")
        return False

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _check_file(self) -> None:
        """Require that the open file is the one that others open."""
        if self._identity() != self._file:
            raise LogUnavailableError(f"{self._path} was moved away, or replaced")

    async def close(self) -> None:  # noqa: ASYNC910  # nothing to do is no call
        """Close the connection."""
        if self._connection is not None:
            await trio.to_thread.run_sync(self._connection.close, limiter=self._limiter)

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    # Transactions, in a thread

    async def run(self, operation: Callable[..., T], *args: object) -> T:
        """Run a synchronous operation in a thread; again and again if the file is locked.

        A checkpoint. A cancellation waits for the thread, which waits at most 0.2 s for a lock.
        """
        deadline = trio.current_time() + _PATIENCE
        while True:
            try:
                return await trio.to_thread.run_sync(operation, *args, limiter=self._limiter)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_")
                if code.startswith("BUSY") and trio.current_time() < deadline:
                    continue
                kind = LogUnavailableError if code.startswith(_PASSING) else LogRefusedError
                raise kind(f"{self._path}: {error} ({code or type(error).__name__})") from error

    async def _write(self, operation: Callable[..., T], *args: object) -> T:
        return await self.run(self._transact, operation, *args)

    def _transact(self, operation: Callable[..., T], *args: object) -> T:
        self._check_file()
        with _Transaction(self._db):
            return operation(*args)

    async def _read(self, operation: Callable[..., T], *args: object) -> T:
        return await self.run(self._look, operation, *args)

    def _look(self, operation: Callable[..., T], *args: object) -> T:
        self._check_file()
        return operation(*args)

    # Waiting for other processes

    def _version(self) -> int:
        """A number that changes whenever another connection has changed the file."""
        (version,) = self._db.execute("pragma data_version").fetchone()
        return int(version)

    async def _wait_for_change(  # noqa: ASYNC910  # what follows is a checkpoint
        self, version: int, deadline: float
    ) -> None:
        """Wait until the file has changed, or the deadline on trio's clock. A checkpoint."""
        pause, longest = _POLL
        while trio.current_time() < deadline:
            await trio.sleep(min(pause, deadline - trio.current_time()))
            pause = min(2 * pause, longest)
            try:
                # This takes 3 µs and waits for no lock, so it needs no thread.
                if self._version() != version:
                    return
            except sqlite3.Error:  # the operation that follows finds the reason
                return

    # The operations

    async def append(self, writer: str, first: int, events: Sequence[bytes], seen: int) -> int:
        return await self._write(self._append, writer, first, events, seen)

    def _append(self, writer: str, first: int, events: Sequence[bytes], seen: int) -> int:
        db = self._db
        _, last = self._bounds()
        row = db.execute("select last from writers where writer = ?", (writer,)).fetchone()
        have = first - 1 if row is None else row[0]
        new = events[max(0, have + 1 - first) :]
        if not new:
            return last
        start = max(last, seen) + 1
        last = start + len(new) - 1
        now = time.monotonic()
        db.executemany("insert into events values (?, ?)", enumerate(new, start))
        db.execute("delete from events where position <= ?", (last - self._max_events,))
        db.execute(
            "insert or replace into writers values (?, ?, ?)",
            (writer, first + len(events) - 1, now),
        )
        if row is None:
            # Times in the future are from before the machine was restarted.
            db.execute("delete from writers where at > ? or at < ?", (now, now - _WRITER_KEPT))
        return last

    async def read(self, after: int, max_events: int, wait: float) -> list[Entry]:
        deadline = trio.current_time() + wait
        while True:
            version = await self._read(self._version)
            entries = await self._read(self._entries, after, max_events)
            if entries or trio.current_time() >= deadline:
                return entries
            await self._wait_for_change(version, deadline)

    def _entries(self, after: int, max_events: int) -> list[Entry]:
        rows = self._db.execute(
            "select position, event from events where position > ? order by position limit ?",
            (after, max_events),
        )
        return [Entry(position, event) for position, event in rows]

    async def bounds(self) -> tuple[int, int]:
        return await self._read(self._bounds)

    def _bounds(self) -> tuple[int, int]:
        select = "select coalesce(min(position), 0), coalesce(max(position), 0) from events"
        first, last = self._db.execute(select).fetchone()
        return first, last

    async def join(self, group: str, wants: str, after: int) -> None:
        check_wants(group, await self._write(self._join, group, wants, after), wants)

    def _join(self, group: str, wants: str, after: int) -> str:
        db = self._db
        db.execute(
            "insert into groups values (?, ?, ?) on conflict do nothing", (group, wants, after)
        )
        (have,) = db.execute("select wants from groups where name = ?", (group,)).fetchone()
        return str(have)

    async def claim(
        self, group: str, member: str, max_events: int, lease: float, wait: float
    ) -> tuple[int, list[Claim]]:
        deadline = trio.current_time() + wait
        while True:
            version = await self._read(self._version)
            missed, claims = await self._write(self._claim, group, member, max_events, lease)
            if missed or claims or trio.current_time() >= deadline:
                return missed, claims
            # No file changes when the lease of a member that is gone is over.
            await self._wait_for_change(version, min(deadline, trio.current_time() + lease / 4))

    def _claim(
        self, group: str, member: str, max_events: int, lease: float
    ) -> tuple[int, list[Claim]]:
        db = self._db
        # The same clock for all processes of a machine, until it is restarted. Claims that begin
        # in the future are from before that.
        now = time.monotonic()
        claims, missed = [], 0
        for position, event, attempt in db.execute(
            "select c.position, e.event, c.attempt + 1 from claims c left join events e"
            " using (position) where name = ? and (until <= ? or since > ?)"
            " order by c.position limit ?",
            (group, now, now, max_events),
        ).fetchall():
            if event is None:
                db.execute("delete from claims where name = ? and position = ?", (group, position))
                missed += 1
            else:
                claims.append(Claim(position, event, attempt))
        (after,) = db.execute("select position from groups where name = ?", (group,)).fetchone()
        entries = self._entries(after, max_events - len(claims))
        if entries:
            last = entries[-1].position
            missed += last - after - len(entries)
            db.execute("update groups set position = ? where name = ?", (last, group))
            claims += [Claim(entry.position, entry.event, 1) for entry in entries]
        db.executemany(
            "insert or replace into claims values (?, ?, ?, ?, ?, ?)",
            [(group, claim.position, member, now, now + lease, claim.attempt) for claim in claims],
        )
        return missed, claims

    async def finish(
        self, group: str, member: str, done: Sequence[int], running: Sequence[int], lease: float
    ) -> None:
        await self._write(self._finish, group, member, done, running, lease)

    def _finish(
        self, group: str, member: str, done: Sequence[int], running: Sequence[int], lease: float
    ) -> None:
        of_claim = "where name = ? and position = ? and member = ?"
        self._db.executemany(
            f"delete from claims {of_claim}", [(group, position, member) for position in done]
        )
        now = time.monotonic()
        self._db.executemany(
            f"update claims set since = ?, until = ? {of_claim}",
            [(now, now + lease, group, position, member) for position in running],
        )

    async def groups(self) -> list[GroupState]:
        return await self._read(self._groups)

    def _groups(self) -> list[GroupState]:
        rows = self._db.execute(
            "select name, wants, g.position, count(c.position) from groups g"
            " left join claims c using (name) group by name order by name"
        )
        return [GroupState(*row) for row in rows]


@final
class _Transaction:
    """A transaction: all or nothing. Unless told otherwise, it is about to write."""

    def __init__(self, db: sqlite3.Connection, begin: str = "begin immediate") -> None:
        self._db = db
        self._begin = begin

    def __enter__(self) -> None:
        self._db.execute(self._begin)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self._db.execute("commit")
        if self._db.in_transaction:  # nothing to roll back after some errors
            self._db.execute("rollback")
