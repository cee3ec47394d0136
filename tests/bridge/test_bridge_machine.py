"""Any sequence of appends, repetitions, deaths and expiries, against a list as the oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import attrs
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trio_events.bridge import EventLog, LogSession, MemoryLog, SqliteLog

T = TypeVar("T")

KEPT = 8
LEASE = 10.0
WRITERS = st.sampled_from("wxy")
MEMBERS = st.sampled_from("mno")


@attrs.define
class Claimed:
    member: str
    until: float
    attempt: int


class LogMachine(RuleBasedStateMachine):
    """Drives a session of a log, and a list of all that was ever appended."""

    log: EventLog

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.entries: dict[int, bytes] = {}
        self.last = 0
        self.written: dict[str, list[bytes]] = {}
        self.position = 0  # of the group
        self.claimed: dict[int, Claimed] = {}
        self.counter = 0
        self.run(lambda session: session.join("g", "**", 0))

    def run(self, operation: Callable[[LogSession], Awaitable[T]]) -> T:
        """Do something in a session of its own, at the machine's time."""

        async def main() -> T:
            async with self.log.open() as session:
                return await operation(session)

        with (
            patch("trio_events.bridge._sqlite.time.monotonic", lambda: self.now),
            patch("trio_events.bridge._log.trio.current_time", lambda: self.now),
        ):
            return trio.run(main)

    @property
    def kept(self) -> list[int]:
        return sorted(position for position in self.entries if position > self.last - KEPT)

    def append(self, writer: str, first: int, events: list[bytes], seen: int) -> None:
        have = self.written.setdefault(writer, [])
        new = events[len(have) + 1 - first :]
        last = self.run(lambda session: session.append(writer, first, events, seen))
        if new:
            start = max(self.last, seen) + 1
            self.entries |= dict(enumerate(new, start))
            self.last = start + len(new) - 1
            have += new
        assert last == self.last

    @rule(writer=WRITERS, count=st.integers(1, 4), seen=st.integers(0, 30))
    def append_new(self, writer: str, count: int, seen: int) -> None:
        first = len(self.written.get(writer, [])) + 1
        self.counter += 1
        events = [f"{writer}{self.counter}.{n}".encode() for n in range(count)]
        self.append(writer, first, events, seen)

    @rule(writer=WRITERS, back=st.integers(1, 5), more=st.integers(0, 2))
    def append_again(self, writer: str, back: int, more: int) -> None:
        have = self.written.get(writer, [])
        first = max(1, len(have) + 1 - back)
        self.counter += 1
        events = have[first - 1 :] + [f"{writer}{self.counter}+{n}".encode() for n in range(more)]
        self.append(writer, first, events, 0)

    @rule(after=st.integers(0, 40), limit=st.integers(1, 5))
    def read(self, after: int, limit: int) -> None:
        found = self.run(lambda session: session.read(after, limit, 0))
        expected = [(p, self.entries[p]) for p in self.kept if p > after][:limit]
        assert [(entry.position, entry.event) for entry in found] == expected

    @rule(member=MEMBERS, limit=st.integers(1, 4))
    def claim(self, member: str, limit: int) -> None:
        missed, found = self.run(lambda session: session.claim("g", member, limit, LEASE, 0))
        gone, expected = 0, []
        over = [p for p, c in sorted(self.claimed.items()) if c.until <= self.now][:limit]
        for position in over:
            if position not in self.kept:
                del self.claimed[position]
                gone += 1
                continue
            expected.append(position)
        for position in [p for p in self.kept if p > self.position][: limit - len(expected)]:
            gone += position - self.position - 1
            self.position = position
            expected.append(position)
        for position in expected:
            before = self.claimed.get(position)
            attempt = 1 if before is None else before.attempt + 1
            self.claimed[position] = Claimed(member, self.now + LEASE, attempt)
        assert missed == gone
        assert [(c.position, c.event, c.attempt) for c in found] == [
            (p, self.entries[p], self.claimed[p].attempt) for p in expected
        ]

    @rule(member=MEMBERS, done=st.sets(st.integers(1, 30)), running=st.sets(st.integers(1, 30)))
    def finish(self, member: str, done: set[int], running: set[int]) -> None:
        running -= done
        self.run(lambda session: session.finish("g", member, sorted(done), sorted(running), LEASE))
        for position, held in list(self.claimed.items()):
            if held.member == member and position in done:
                del self.claimed[position]
            elif held.member == member and position in running:
                held.until = self.now + LEASE

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_bounds_are_those_of_the_list(self) -> None:
        bounds = self.run(lambda session: session.bounds())
        assert bounds == ((self.kept[0], self.kept[-1]) if self.kept else (0, 0))


class MemoryMachine(LogMachine):
    def __init__(self) -> None:
        self.log = MemoryLog(max_events=KEPT)
        super().__init__()


class SqliteMachine(LogMachine):
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "events.db"
        self.log = SqliteLog(path, max_events=KEPT, synchronous="normal")
        super().__init__()

    def teardown(self) -> None:
        self._folder.cleanup()


def few(examples: int) -> Any:
    return settings(max_examples=examples, stateful_step_count=20, deadline=None)


TestMemoryLog = MemoryMachine.TestCase
TestMemoryLog.settings = few(25)
TestSqliteLog = SqliteMachine.TestCase
TestSqliteLog.settings = few(6)
