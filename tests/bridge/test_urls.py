"""Logs by URL, and what a log calls itself."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

import trio_events.bridge
from trio_events.bridge import MemoryLog, RedisLog, SqliteLog
from trio_events.bridge._redis import _cause
from trio_events.bridge._urls import open_log

SECRET = "s3cret/?#"


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("sqlite:///events.db", "sqlite:///events.db"),
        ("sqlite:////var/lib/shop/events.db", "sqlite:////var/lib/shop/events.db"),
        ("sqlite:///a%20b.db?max_events=7&synchronous=normal", "sqlite:///a b.db"),
        ("redis://localhost", "redis://localhost:6379/0?log=events"),
        ("redis://[::1]:7000/3?log=shop", "redis://[::1]:7000/3?log=shop"),
        ("rediss://user:s3cret%2F%3F%23@host/2", "rediss://host:6379/2?log=events"),
        ("redis://:s3cret%2F%3F%23@host?max_events=5", "redis://host:6379/0?log=events"),
    ],
)
def test_a_url_names_a_log(url: str, label: str) -> None:
    log = open_log(url)
    assert log.label == label
    assert SECRET not in label + repr(log)


def test_the_parts_of_a_url_are_those_of_the_log() -> None:
    log = open_log("sqlite:///a%20b.db?max_events=7&synchronous=normal")
    assert isinstance(log, SqliteLog)
    assert (log.path, log._max_events, log._synchronous) == ("a b.db", 7, "normal")
    assert repr(log) == "<SqliteLog 'a b.db'>"
    log = open_log("rediss://us%40er:s3cret%2F%3F%23@host:1/2?log=shop&max_events=9")
    assert isinstance(log, RedisLog)
    assert repr(log) == "<RedisLog 'rediss://host:1/2?log=shop'>"
    options = log._options
    assert isinstance(options.pop("ssl_context"), ssl.SSLContext)
    expected = {"host": "host", "port": 1, "db": 2, "username": "us@er", "password": SECRET}
    assert expected.items() <= options.items()
    assert (log._stream, log._max_events) == ("te:{shop}", 9)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "events.db",
        "http://host",
        "sqlite://events.db",
        "sqlite:///",
        "sqlite:///events.db?max_events=many",
        "sqlite:///events.db?max_events=0",
        "sqlite:///events.db?synchronous=off",
        "sqlite:///events.db?log=shop",
        "sqlite:///events.db?max_events=1&max_events=2",
        "redis://",
        "redis://host/name",
        "redis://host?synchronous=normal",
        "redis://host?log=",
        "redis://host?log=a}b",
        f"redis://user:{SECRET}@host:port",
        f"redis://user:{SECRET}@[host",
        f"redis://user:{SECRET}@host?nonsense=1",
        "redis://user:s3cret@host:99999",
        "redis://user:s3cret@host:port",
        "redis://user:s3cret@host/zero",
        "redis://user:s3cret@host?max_events=-1",
        "redis://user:s3cret@host?nonsense=1",
        "redis://user:s3cret@host:0",
        "redis://user:1#s3cret@host",
        "sqlite:///events.db#1",
        "sqlite:///:memory:",
        f"sqlite:///events.db?max_events={2**53}",
        f"redis://host?max_events={2**53}",
    ],
)
def test_an_invalid_url_of_a_log_is_refused_and_no_password_is_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        open_log(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_log_is_its_own() -> None:
    log = MemoryLog(label="mine")
    assert open_log(log) is log
    assert repr(log) == "<MemoryLog 'mine' of 0 events>"
    wrong: Any = 7
    with pytest.raises(TypeError, match="a URL or an EventLog"):
        open_log(wrong)


def test_the_options_of_logs_are_checked(tmp_path: Path) -> None:
    wrong: Any = "many"
    for log in (MemoryLog, RedisLog, lambda **options: SqliteLog(tmp_path / "x", **options)):
        with pytest.raises(ValueError, match="max_events"):
            log(max_events=0)
        with pytest.raises(TypeError, match="max_events"):
            log(max_events=wrong)
    with pytest.raises(ValueError, match="synchronous"):
        SqliteLog("x", synchronous=wrong)


def test_the_package_has_no_other_names() -> None:
    missing: Any = "nothing"
    with pytest.raises(AttributeError, match="nothing"):
        getattr(trio_events.bridge, missing)


def test_a_group_of_the_tasks_of_the_client_is_about_its_first_error() -> None:
    error = OSError("the connection was lost")
    assert _cause(error) is error
    assert _cause(ExceptionGroup("outer", [ExceptionGroup("inner", [error]), KeyError()])) is error
