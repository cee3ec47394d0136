"""Logs by URL."""

from __future__ import annotations

import ssl
from typing import Any, Final, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .._extras import extra
from ._log import EventLog
from ._sqlite import SqliteLog, Synchronous

_FORMS: Final = (
    "a log is sqlite:///FILE, sqlite:////ABSOLUTE/FILE, redis://HOST:PORT/DB, or rediss://… for TLS"
)


def open_log(log: str | EventLog) -> EventLog:
    """The log that a URL names, or the log itself. Nothing is opened yet.

    Raises:
      TypeError: If it is neither.
      ValueError: If it doesn't name a log, or an option isn't one. The text has no password in it.
    """
    if not isinstance(log, str):
        if not (hasattr(log, "open") and hasattr(log, "label")):
            raise TypeError(f"log must be a URL or an EventLog, not {log!r}")
        return log
    try:
        parts = urlsplit(log)
        scheme, _port = parts.scheme, parts.port
    except ValueError:  # whose text may have the password in it
        raise ValueError(f"this is not a URL; {_FORMS}") from None
    if "#" in log:  # what follows would be ignored
        raise ValueError(f"write '#' as %23; {_FORMS}")
    if scheme == "sqlite":
        return _sqlite(parts)
    if scheme in {"redis", "rediss"}:
        return _redis(parts)
    raise ValueError(f"{scheme!r} is not a scheme of a log; {_FORMS}")


def _sqlite(parts: SplitResult) -> EventLog:
    options = _options(parts, "max_events", "synchronous")
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        raise ValueError(f"a file comes after three slashes; {_FORMS}")
    if "synchronous" in options:
        synchronous = cast("Synchronous", options["synchronous"])
        return SqliteLog(path, max_events=_max_events(options), synchronous=synchronous)
    return SqliteLog(path, max_events=_max_events(options))


def _redis(parts: SplitResult) -> EventLog:
    with extra("redis", f"a log at {parts.scheme}://"):
        from ._redis import RedisLog  # noqa: PLC0415  # it needs coredis, and SQLite doesn't

    options = _options(parts, "max_events", "log")
    db = parts.path.removeprefix("/")
    if not parts.hostname or not (db.isdecimal() or not db):
        raise ValueError(f"a host, and the number of a database, come after two slashes; {_FORMS}")
    if parts.port == 0:
        raise ValueError("a server can't have port 0")
    return RedisLog(
        parts.hostname,
        parts.port or 6379,
        db=int(db or 0),
        log=options.get("log", "events"),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ssl_context=ssl.create_default_context() if parts.scheme == "rediss" else None,
        max_events=_max_events(options),
    )


def _options(parts: SplitResult, *known: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known or name in options:
            raise ValueError(f"the options of {parts.scheme}:// are {', '.join(known)}, each once")
        options[name] = value
    return options


def _max_events(options: dict[str, Any]) -> int:
    text = options.get("max_events", "1000000")
    if not text.isdecimal():
        raise ValueError(f"max_events must be a number, not {text!r}")
    return int(text)
