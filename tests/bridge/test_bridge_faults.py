"""What may go wrong, with real servers and real processes. Counts are asserted, times are not."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_events import Event, open_event_bus
from trio_events.bridge import (
    Bridge,
    EventLog,
    LogRefusedError,
    LogUnavailableError,
    RedisLog,
    SqliteLog,
    open_bridge,
)
from trio_events.bridge._sqlite import _SqliteSession
from trio_events.bridge._urls import open_log

from ..handlers.handling import Recorder
from ..observing import drain
from .conftest import program_or_skip
from .logs import entries_of, entry, paths_in, until, write
from .servers import Server, running, valkey_program

PROGRAM = Path(__file__).with_name("program.py")


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `program.py` that is killed at the end of the block, if it lives."""
    child = subprocess.Popen([sys.executable, PROGRAM, *words], stderr=subprocess.PIPE)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.communicate()


def lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def has_lines(file: Path, number: int) -> bool:
    return len(lines(file)) >= number


@asynccontextmanager
async def bridge_to(log: EventLog | str, **options: Any) -> AsyncGenerator[Bridge]:
    async with open_event_bus(**options) as bus:
        yield await open_bridge(bus, log)


@pytest.fixture(params=["sqlite", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh log that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    server: Server = request.getfixturevalue("valkey")
    return f"{server.url}?log={tmp_path.name}"


# ---------------------------------------------------------------------------------------------
# Processes are killed
# ---------------------------------------------------------------------------------------------


async def test_what_a_killed_writer_had_flushed_is_there_once_and_in_order(
    url: str, tmp_path: Path
) -> None:
    file, first = tmp_path / "flushed", 1
    with trio.fail_after(120):
        for _ in range(3):
            enough = len(lines(file)) + 8
            with process("write", url, str(file), str(first)):
                await until(partial(has_lines, file, enough))
            last = int(lines(file)[-1][0])
            stored = [int(path[1:]) for path in await paths_in(open_log(url))]
            assert stored == list(range(1, len(stored) + 1))
            assert last <= len(stored)
            first = len(stored) + 1


async def send_jobs(url: str, *paths: str) -> None:
    await write(open_log(url), *[entry(path, system="jobs") for path in paths])


async def test_what_killed_members_had_not_finished_is_handled_by_others(
    url: str, tmp_path: Path
) -> None:
    file, jobs = tmp_path / "done", [f"/{n}" for n in range(150)]
    work = partial(process, "work", url, str(file), "2", "3", "answer")
    killed: set[str] = set()
    with trio.fail_after(120), work(), work():
        await until(lambda: len(lines(file)) == 2)
        for round_ in range(3):
            with work() as child:
                await until(lambda: ["ready", str(child.pid)] in lines(file))
                await send_jobs(url, *jobs[50 * round_ : 50 * (round_ + 1)])
                await until(lambda: begun_by(child, file) >= 5)
                killed.add(str(child.pid))
        await until(lambda: ended(file) == set(jobs))
        await until_answered(url, set(jobs))
    begun: dict[str, list[str]] = {}
    for line in lines(file):
        if line[0] == "begin":
            begun.setdefault(line[1], []).append(line[3])
    assert set(begun) == set(jobs)
    # Only what a killed member had begun, and not acknowledged, was begun again.
    assert {pid for pids in begun.values() for pid in pids[:-1]} <= killed
    again = sum(map(len, begun.values())) - len(jobs)
    answers = Counter(await answers_in(url))
    assert set(answers) == set(jobs)
    assert sum(answers.values()) - len(jobs) <= again


def begun_by(child: subprocess.Popen[bytes], file: Path) -> int:
    return sum(line[0] == "begin" and line[3] == str(child.pid) for line in lines(file))


def ended(file: Path) -> set[str]:
    return {line[1] for line in lines(file) if line[0] == "end"}


def buried(file: Path) -> list[list[str]]:
    return [line[1:] for line in lines(file) if line[0] == "bury"]


async def answers_in(url: str) -> list[str]:
    entries = await entries_of(open_log(url))
    return [entry["subject"] for entry in entries if entry["system"] == "answers"]


async def until_answered(url: str, jobs: set[str]) -> None:
    while set(await answers_in(url)) != jobs:  # noqa: ASYNC110  # nothing tells
        await trio.sleep(0.05)


async def test_an_event_that_kills_its_process_is_given_up(url: str, tmp_path: Path) -> None:
    file = tmp_path / "done"
    others = [f"/{n}" for n in range(10)]
    await send_jobs(url, *others[:5], "/deadly", *others[5:])
    deaths = 0
    work = partial(process, "work", url, str(file), "0.3", "1", "")
    with trio.fail_after(120):
        while True:
            with work() as child:
                await until(
                    lambda: (
                        child.poll() is not None or (buried(file) and ended(file) == set(others))
                    )
                )
                if child.poll() is None:
                    break
                deaths += 1
    assert deaths == 3
    assert buried(file) == [["/deadly", "TooManyAttemptsError"]]


async def freeze(child: subprocess.Popen[bytes], log: EventLog) -> None:
    """Stop a process, but not in the middle of a transaction: it would lock the file for all."""
    stop(child)
    while isinstance(log, SqliteLog) and is_locked(log.path):
        child.send_signal(signal.SIGCONT)
        await trio.sleep(0.002)
        stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Stop all threads of a process; on a busy machine, this takes a while."""
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)


def is_locked(path: str) -> bool:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.2)) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError:
            return True
        return False


async def test_a_member_that_is_frozen_beyond_its_lease_loses_its_events_to_another(
    url: str, tmp_path: Path
) -> None:
    file, jobs = tmp_path / "done", [f"/{n}" for n in range(60)]
    await send_jobs(url, *jobs)
    with trio.fail_after(120), process("work", url, str(file), "2", "3", "") as frozen:
        await until(lambda: begun_by(frozen, file) >= 5)
        await freeze(frozen, open_log(url))
        with process("work", url, str(file), "2", "3", ""):
            await until(lambda: ended(file) == set(jobs))
            os.kill(frozen.pid, signal.SIGCONT)
            await send_jobs(url, "/more")
            await until(lambda: "/more" in ended(file))
    begun: dict[str, list[str]] = {}
    for line in lines(file):
        if line[0] == "begin":
            begun.setdefault(line[1], []).append(line[3])
    # What was begun again is what the frozen member had begun, and not acknowledged.
    assert all(len(pids) == len(set(pids)) for pids in begun.values())
    assert frozen.poll() is not None


class _Rival(sqlite3.Connection):
    """A connection beside which another process makes a log of the file, in a bad moment."""

    moment: str

    def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
        if statement == self.moment:
            (_, _, path) = super().execute("pragma database_list").fetchone()
            session = _SqliteSession(path, 10)
            with suppress(sqlite3.OperationalError):  # it has to wait
                session.connect("normal")
            if session._connection is not None:
                session._connection.close()
        return super().execute(statement, *args)


@pytest.mark.parametrize("moment", ["pragma user_version", "pragma journal_mode=wal"])
async def test_two_processes_may_make_the_same_file_a_log(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, log = sqlite3.connect, SqliteLog(tmp_path / "events.db")

    def connect_first(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        monkeypatch.undo()  # the rival's own connection is an ordinary one
        _Rival.moment = moment
        return connect(*args, factory=_Rival, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", connect_first)
    with trio.fail_after(30):
        await write(log, entry("/1"))
        assert await paths_in(log) == ["/1"]


# ---------------------------------------------------------------------------------------------
# The server is killed, frozen, full, restored
# ---------------------------------------------------------------------------------------------


async def flood(
    server: Server, faults: Any, count: int = 2_000
) -> tuple[Bridge, Bridge, list[str]]:
    """Send events from one bus to another over a server to which something happens meanwhile."""
    got: list[str] = []
    sent = [f"/{n}" for n in range(count)]
    with trio.fail_after(120):
        async with open_event_bus() as one, open_event_bus() as other:
            exporting = await open_bridge(one, server.url)
            following = await open_bridge(other, server.url)
            await exporting.export("s", max_buffer_size=100)
            subscription = await other.subscribe("s")
            await following.follow("s")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(faults)

                @nursery.start_soon
                async def _() -> None:
                    for path in sent:
                        await one.send("s", "k", path)
                        await trio.sleep(0.0005)

                while len(got) < count:
                    got.append((await subscription.receive()).path)
            assert got == sent
            assert await paths_in(open_log(server.url)) == sent
    return exporting, following, got


async def test_nothing_is_lost_when_the_server_is_killed_under_load(own_valkey: Server) -> None:
    async def faults() -> None:
        for _ in range(3):
            await trio.sleep(0.3)
            own_valkey.kill()
            await trio.sleep(0.1)
            await trio.to_thread.run_sync(own_valkey.start)

    exporting, following, _ = await flood(own_valkey, faults)
    assert exporting.statistics().reconnects >= 1
    assert following.statistics().reconnects >= 1


async def test_nothing_is_lost_when_the_server_is_frozen(
    own_valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_events.bridge._redis._PATIENCE", 0.5)
    monkeypatch.setattr("trio_events.bridge._follower.WAIT", 0.5)

    async def faults() -> None:
        await trio.sleep(0.3)
        own_valkey.freeze()
        await trio.sleep(1.5)
        own_valkey.thaw()

    exporting, _, _ = await flood(own_valkey, faults)
    assert exporting.statistics().reconnects >= 1


async def test_a_server_without_memory_makes_senders_wait_until_it_has_more(
    own_valkey: Server,
) -> None:
    told: list[str | None] = []

    async def faults() -> None:
        await trio.sleep(0.1)
        own_valkey.ask("CONFIG", "SET", "maxmemory", "1")
        await trio.sleep(1)
        told.append(bridges[0].statistics().error)
        own_valkey.ask("CONFIG", "SET", "maxmemory", "0")

    bridges: list[Bridge] = []
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, own_valkey.url)
        bridges.append(bridge)
        await bridge.export("s", max_buffer_size=10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(faults)
            for number in range(1_500):
                await bus.send("s", "k", f"/{number}")
                await trio.sleep(0.0002)
        await bridge.flush()
        assert await paths_in(open_log(own_valkey.url)) == [f"/{n}" for n in range(1_500)]
        assert bridge.statistics().connected
    assert "OOM" in str(told[0]) or "memory" in str(told[0])


async def test_answers_that_are_cut_off_make_no_event_come_twice(
    valkey: Server, tmp_path: Path
) -> None:
    """Between the bridge and the server is a proxy that breaks off before it passes an answer."""
    cuts, appends = 8, 0

    async def serve(client: trio.SocketStream) -> None:
        nonlocal cuts, appends
        server = await trio.open_tcp_stream("127.0.0.1", valkey.port)
        async with client, server, trio.open_nursery() as nursery:
            appending = False

            @nursery.start_soon
            async def _() -> None:
                nonlocal appending
                async for data in client:
                    appending = appending or b"trio-cut" in data
                    await server.send_all(data)
                nursery.cancel_scope.cancel()

            async for data in server:
                appends += appending
                if appending and cuts and appends % 2:
                    cuts -= 1
                    break
                appending = False
                await client.send_all(data)
            nursery.cancel_scope.cancel()

    log_name = tmp_path.name
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            async with bridge_to(RedisLog(port=port, log=log_name)) as bridge:
                await bridge.export("s")
                for number in range(30):
                    await bridge._link.bus.send("s", "k", f"/{number}", "trio-cut")
                    await bridge.flush()
                assert bridge.statistics().retries >= 8
            nursery.cancel_scope.cancel()
    assert cuts == 0
    assert await paths_in(RedisLog(port=valkey.port, log=log_name)) == [f"/{n}" for n in range(30)]


async def test_a_log_restored_from_an_older_copy_loses_exactly_what_a_reader_counts(
    own_valkey: Server, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    got = Recorder()
    with trio.fail_after(120):
        async with open_event_bus() as one, open_event_bus() as other:
            bridge = await open_bridge(one, own_valkey.url)
            following = await open_bridge(other, own_valkey.url)
            await bridge.export("s")
            await other.on(got, "s")
            follower = await following.follow("s")
            for number in range(200):
                if number == 100:
                    await bridge.flush()
                    shutil.copytree(tmp_path / "appendonlydir", copy)
                await one.send("s", "k", f"/{number}")
            await bridge.flush()
            await until(lambda: follower.position == 200)
            own_valkey.kill()
            shutil.rmtree(tmp_path / "appendonlydir")
            shutil.copytree(copy, tmp_path / "appendonlydir")
            own_valkey.start()
            for number in range(200, 250):
                await one.send("s", "k", f"/{number}")
            await bridge.flush()
            await until(lambda: follower.position == 250)
            assert follower.statistics().missed == 0
            assert follower.statistics().imported == 250
            anew = await following.follow("other", after=0)
            await anew.wait_caught_up()
            assert anew.statistics().missed == 100
            assert anew.statistics().passed == 250
    assert got.seen == [f"/{n}" for n in range(250)]


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
async def test_readers_and_groups_behind_a_small_log_miss_what_they_count(
    kind: str, valkey: Server, tmp_path: Path
) -> None:
    count, got = 3_000, Recorder()
    log: EventLog = RedisLog(port=valkey.port, log=tmp_path.name, max_events=50)
    if kind == "sqlite":
        log = SqliteLog(tmp_path / "small.db", max_events=50, synchronous="normal")

    async def slow(event: Event) -> None:
        await got(event)
        await trio.sleep(0.001)

    with trio.fail_after(120):
        async with open_event_bus() as bus, open_event_bus() as writing:
            bridge = await open_bridge(bus, log)
            subscription = await bus.subscribe("s", max_buffer_size=10)
            follower = await bridge.follow("s")
            await bridge.on(slow, "s", group="g", after=0, concurrency=5)
            exporting = await open_bridge(writing, log)
            await exporting.export("s")
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    async for _ in subscription:
                        await trio.sleep(0.001)

                for number in range(count):
                    await writing.send("s", "k", f"/{number}")
                await exporting.flush()
                await until(lambda: follower.position == count)
                missed = bridge.statistics().missed - follower.statistics().missed
                await until(
                    lambda: (
                        len(got.seen) + bridge.statistics().missed - follower.statistics().missed
                        == count
                    )
                )
                nursery.cancel_scope.cancel()
            statistics = follower.statistics()
            assert statistics.imported + statistics.missed == count
            assert statistics.missed > 0
            assert bridge.statistics().missed - statistics.missed >= missed
            assert len(set(got.seen)) == len(got.seen)


# ---------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are trouble after half a second."""
    monkeypatch.setattr("trio_events.bridge._sqlite._PATIENCE", 0.5)
    monkeypatch.setattr("trio_events.bridge._sqlite._BUSY", 0.02)


@pytest.mark.parametrize("how", ["immediate", "exclusive"])
@pytest.mark.parametrize("seconds", [0.2, 1.5])
async def test_a_file_that_is_locked_for_a_while_loses_nothing(
    how: str, seconds: float, tmp_path: Path, impatient: None
) -> None:
    path = tmp_path / "events.db"
    with trio.fail_after(30):
        async with bridge_to(SqliteLog(path)) as bridge:
            bus = bridge._link.bus
            await bridge.export("s")
            await bridge.follow("other")
            await bus.send("s", "k", "/before")
            await bridge.flush()
            lock = sqlite3.connect(path, isolation_level=None)
            lock.execute(f"begin {how}")
            for number in range(10):
                await bus.send("s", "k", f"/{number}")
            await trio.sleep(seconds)
            assert bridge.statistics().connected is (seconds < 1)
            lock.execute("rollback")
            lock.close()
            await bridge.flush()
            assert bridge.statistics().reconnects == (seconds > 1)
    assert await paths_in(SqliteLog(path)) == ["/before", *[f"/{n}" for n in range(10)]]


async def test_a_lock_that_lasts_is_unavailable_at_the_call(
    tmp_path: Path, impatient: None
) -> None:
    path = tmp_path / "events.db"
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("begin exclusive")
    with pytest.raises(LogUnavailableError, match="locked"):
        async with SqliteLog(path).open():
            pass
    lock.close()
    assert await paths_in(SqliteLog(path)) == []


async def test_a_full_disk_makes_senders_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = [1_073_741_823]
    original = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = original(*args, **options)
        connection.execute(f"pragma max_page_count={limit[0]}")
        return connection

    monkeypatch.setattr("trio_events.bridge._sqlite.sqlite3.connect", connect)
    log = SqliteLog(tmp_path / "events.db", synchronous="normal")
    with trio.fail_after(30):
        async with bridge_to(log) as bridge:
            await bridge.flush()
            limit[0] = 20
            await bridge.export("s")
            for number in range(50):
                await bridge._link.bus.send("s", "k", f"/{number}", "x" * 10_000)
            await until(lambda: not bridge.statistics().connected)
            assert "FULL" in str(bridge.statistics().error)
            limit[0] = 1_073_741_823
            await bridge.flush()
    assert await paths_in(log) == [f"/{n}" for n in range(50)]


def database(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def not_a_log(path: Path, what: str) -> None:
    match what:
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("not a database, " * 100)
        case "other database":
            database(path, "create table t(x)")
        case "other application":
            database(path, "pragma application_id=7")
        case "other version":
            database(path, f"pragma application_id={0x74726576}", "pragma user_version=99")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("folder", "unable to open"),
        ("text", "not a database"),
        ("other database", "not a log of trio_events"),
        ("other application", "not a log of trio_events"),
        ("other version", "version 99"),
        ("no folder", "unable to open"),
    ],
)
async def test_a_file_that_is_not_a_log_is_refused_at_once(
    what: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / ("nowhere/events.db" if what == "no folder" else "events.db")
    not_a_log(path, what)
    async with open_event_bus() as bus:
        with pytest.raises(LogRefusedError, match=message):
            await open_bridge(bus, f"sqlite:///{path}")


async def test_a_file_that_is_cut_off_is_trouble_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = SqliteLog(path)
    await write(log, *[entry(f"/{n}", data="x" * 5_000) for n in range(50)])
    with trio.fail_after(30):
        async with bridge_to(log) as bridge:
            await bridge.export("a")
            await bridge.flush()
            good = path.read_bytes()
            os.truncate(path, len(good) // 2)
            await bridge._link.bus.send("a", "k", "/last")
            await until(lambda: not bridge.statistics().connected)
            path.write_bytes(good)
            await bridge.flush()
    assert await paths_in(log) == [*[f"/{n}" for n in range(50)], "/last"]


async def test_a_file_that_is_moved_away_or_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with trio.fail_after(30):
        async with bridge_to(SqliteLog(path)) as bridge:
            await bridge.export("s")
            follower = await bridge.follow("other")
            await bridge._link.bus.send("s", "k", "/1")
            await bridge.flush()
            for suffix in ("", "-wal", "-shm"):
                os.rename(f"{path}{suffix}", tmp_path / f"moved{suffix}")
            await bridge._link.bus.send("s", "k", "/2")
            await bridge.flush()  # into a new file
            assert bridge.statistics().retries >= 1
            await until(lambda: follower.position == 2)
    assert await paths_in(SqliteLog(path)) == ["/2"]
    assert await paths_in(SqliteLog(tmp_path / "moved")) == ["/1"]


async def test_a_file_that_has_gone_and_whose_folder_too_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with trio.fail_after(30):
        async with bridge_to(SqliteLog(folder / "events.db")) as bridge:
            await bridge.export("s")
            shutil.rmtree(folder)
            await bridge._link.bus.send("s", "k", "/1")
            await until(lambda: not bridge.statistics().connected)
            folder.mkdir()
            await bridge.flush()
    assert await paths_in(SqliteLog(folder / "events.db")) == ["/1"]


# ---------------------------------------------------------------------------------------------
# Rights
# ---------------------------------------------------------------------------------------------

HELLO = "+ping +hello +client|id +client|setname +client|setinfo +client|no-touch"
WRITER = "~te:{shop} ~te:{shop}:* +evalsha +eval +script|load +xadd +xinfo|stream +exists +get +set"
READER = "%R~te:{shop} +xread +xinfo|stream +exists"
WORKER = (
    "~te:{shop} ~te:{shop}:groups +evalsha +eval +script|load +xread +xreadgroup +xack +xclaim "
    "+xpending +xrange +xinfo|groups +xinfo|stream +exists +xgroup|create +hsetnx +hget"
)
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = program_or_skip("valkey", valkey_program())
    with running(program, tmp_path_factory.mktemp("guarded")) as server:
        for user, rights in [
            ("writer", WRITER),
            ("reader", READER),
            ("worker", WORKER),
            ("nobody", ""),
            ("half-a-writer", WRITER.replace("+xadd ", "")),
        ]:
            words = f"ACL SETUSER {user} reset on {HELLO} {rights}".split()
            assert server.ask(*words, f">{PASSWORD}") == "+OK\r\n"
        yield server


@pytest.mark.parametrize(
    ("user", "log", "allowed"),
    [
        ("writer", "shop", {"open", "export"}),
        ("reader", "shop", {"open", "follow"}),
        ("worker", "shop", {"open", "on", "follow"}),
        ("nobody", "shop", set[str]()),
        ("half-a-writer", "shop", {"open"}),
        ("writer", "other", set[str]()),
        ("reader", "other", set[str]()),
    ],
)
async def test_a_user_may_do_what_the_server_allows_and_learns_it_at_the_call(
    user: str, log: str, allowed: set[str], guarded: Server
) -> None:
    async def may(operation: Any) -> bool:
        try:
            await operation()
        except LogRefusedError as error:
            messages.append(str(error))
            return False
        return True

    messages: list[str] = []

    there = RedisLog(port=guarded.port, log=log, username=user, password=PASSWORD)
    with trio.fail_after(30):
        async with open_event_bus() as bus:
            done = {"open"} if await may(partial(open_bridge, bus, there)) else set()
            if done:
                bridge = await open_bridge(bus, there)
                for name, operation in {
                    "export": partial(bridge.export, "s"),
                    "follow": partial(bridge.follow, "s", after=0),
                    "on": partial(bridge.on, Recorder(), "s", group="g", after=0),
                }.items():
                    if await may(operation):
                        done.add(name)
            assert done == allowed
    assert PASSWORD not in "".join(messages)


async def test_each_user_can_do_all_of_its_work(guarded: Server) -> None:
    def log(user: str) -> RedisLog:
        return RedisLog(port=guarded.port, log="shop", username=user, password=PASSWORD)

    seen = Recorder()
    with trio.fail_after(30):
        async with open_event_bus() as bus, open_event_bus() as other:
            writer = await open_bridge(bus, log("writer"))
            await writer.export("s")
            worker = await open_bridge(other, log("worker"))
            await worker.on(seen, "s", group="work", lease=0.2)
            reader = await open_bridge(other, log("reader"))
            follower = await reader.follow("s")
            for number in range(20):
                await bus.send("s", "k", f"/{number}")
            await until(lambda: worker.statistics().handled == follower.position == 20)
            await trio.sleep(0.3)  # idle members look for claims of others
            assert worker.statistics().retries == writer.statistics().retries == 0
    assert seen.seen == [f"/{n}" for n in range(20)]


@pytest.mark.parametrize("password", [None, "wrong horse"])
async def test_a_wrong_password_is_refused_at_once_and_not_shown(
    password: str | None, guarded: Server
) -> None:
    log = RedisLog(port=guarded.port, username="writer", password=password or "")
    async with open_event_bus() as bus:
        with pytest.raises(LogRefusedError) as caught:
            await open_bridge(bus, log)
    assert "horse" not in str(caught.value)


async def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
        async with open_event_bus() as bus:
            await open_bridge(bus, "redis://127.0.0.1:1")


async def test_a_stream_of_another_program_is_refused(valkey: Server, tmp_path: Path) -> None:
    key = f"te:{{{tmp_path.name}}}"
    valkey.ask("SET", key, "a text")
    async with open_event_bus() as bus:
        with pytest.raises(LogRefusedError, match=r"WRONGTYPE|wrong kind"):
            await open_bridge(bus, f"{valkey.url}?log={tmp_path.name}")


async def test_entries_that_others_put_into_the_stream_are_malformed(
    valkey: Server, tmp_path: Path
) -> None:
    key = f"te:{{{tmp_path.name}}}"
    valkey.ask("XADD", key, "1-0", "field", "value")
    valkey.ask("XADD", key, "2-0", "e", "nonsense", "more", "fields")
    with trio.fail_after(30):
        async with bridge_to(f"{valkey.url}?log={tmp_path.name}") as bridge:
            follower = await bridge.follow("**", after=0)
            await follower.wait_caught_up()
            assert follower.statistics().malformed == 2


async def test_entries_under_an_id_that_is_no_position_are_passed_over(
    valkey: Server, tmp_path: Path
) -> None:
    key, seen = f"te:{{{tmp_path.name}}}", Recorder()
    for identifier in ("1-0", "1-1", "1-2", "2-1", "3-0", "3-1"):
        valkey.ask("XADD", key, identifier, "e", entry(f"/{identifier}").decode())
    with trio.fail_after(30):
        async with bridge_to(f"{valkey.url}?log={tmp_path.name}") as bridge:
            subscription = await bridge._link.bus.subscribe("s")
            follower = await bridge.follow("s", after=0)
            await follower.wait_caught_up()
            await bridge.on(seen, "s", group="g", after=0, lease=0.1, max_attempts=2)
            await until(lambda: len(seen.seen) == 2)
            await trio.sleep(0.3)  # time enough for what isn't acknowledged to come again
            assert drain(subscription.channel()) == seen.seen == ["/1-0", "/3-0"]
            assert follower.statistics().passed == 3
            assert follower.statistics().missed == 1
            assert bridge.statistics().buried == 0
    assert valkey.ask("XPENDING", key, "g").startswith("*4\r\n:0")


async def test_an_error_that_is_not_about_the_log_is_not_taken_for_one(url: str) -> None:
    with trio.fail_after(30), pytest.raises(BrokenPipeError, match="it has gone"):
        async with open_log(url).open() as session:
            await session.bounds()
            raise BrokenPipeError("it has gone")
    with trio.fail_after(30), pytest.RaisesGroup(BrokenPipeError, KeyError):
        async with open_log(url).open() as session:
            await session.bounds()
            raise ExceptionGroup("two", [BrokenPipeError("it has gone"), KeyError("another")])


async def test_coredis_logs_nothing_besides(
    own_valkey: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_events.bridge._redis._PATIENCE", 0.2)
    own_valkey.freeze()
    try:
        with trio.fail_after(30):
            async with open_event_bus() as bus, trio.open_nursery() as nursery:
                nursery.start_soon(open_bridge, bus, RedisLog(port=own_valkey.port))
                await until(lambda: bool(caplog.records))
                await trio.sleep(1)  # for some more attempts
                nursery.cancel_scope.cancel()
    finally:
        own_valkey.thaw()
    assert [record.name for record in caplog.records] == ["trio_events.bridge"]


# ---------------------------------------------------------------------------------------------
# Cancellation
# ---------------------------------------------------------------------------------------------


async def test_cancelled_100_times_nothing_is_left(
    url: str, valkey: Server, tmp_path: Path
) -> None:
    def connections() -> int:
        return valkey.ask("CLIENT", "LIST").count("laddr=")

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def use(log: EventLog) -> None:
        async with open_event_bus(drain_timeout=0) as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("a")
            await bridge.follow("b", after=0)
            await bridge.on(Recorder(), "c", group="g", concurrency=2)
            while True:
                for system in "abc":
                    await bus.send(system, "k", "/x")
                await bridge.flush()

    await trio.to_thread.run_sync(lambda: None)
    log = open_log(url)
    with trio.move_on_after(0.05):
        await use(log)
    tasks, open_files = trio.lowlevel.current_statistics().tasks_living, descriptors()
    for number in range(100):
        with trio.move_on_after(number * 0.0004) as scope:
            await use(log)
        assert scope.cancelled_caught
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    with trio.fail_after(10):
        await until(lambda: descriptors() <= open_files)
        await until(lambda: connections() == 1)


# ---------------------------------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------------------------------


async def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        session._db.execute("insert into events values (1, x'00')")
        raise ZeroDivisionError

    session: Any
    async with SqliteLog(tmp_path / "events.db").open() as session:
        with pytest.raises(ZeroDivisionError):
            await session._write(fail)
        assert await session.bounds() == (0, 0)
        assert await session.append("w", 1, [b"a"], 0) == 1


async def test_a_look_for_changes_that_fails_is_left_to_the_read_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [sqlite3.OperationalError("locked"), 1]

    def version(_: object) -> int:
        answer = answers.pop()
        if isinstance(answer, Exception):
            monkeypatch.undo()
            raise answer
        return int(answer)

    async with SqliteLog(tmp_path / "events.db").open() as session:
        monkeypatch.setattr(_SqliteSession, "_version", version)
        assert await session.read(0, 1, 0.05) == []
    assert answers == []


async def test_what_is_raised_in_a_session_leaves_it_as_itself(valkey: Server) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with RedisLog(port=valkey.port).open() as session:
                await session.bounds()
                raise ZeroDivisionError
