"""A log in a stream of Redis or Valkey."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any, Final, TypeVar, final

import anyio
import coredis
import coredis.exceptions
import trio
from coredis.retry import NoRetryPolicy

from .._handlers.staff import is_cancelled, raise_as_it_was
from .._names.errors import EventBusError
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

# Both begin with `#!lua`, so that a server without memory refuses them before they start. What
# other programs have added under an id that isn't `POSITION-0` is passed over: two entries may not
# have the same position.

_APPEND: Final = """#!lua
local stream, numbers = KEYS[1], KEYS[2]
local first, seen, max_events, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local count = #ARGV - 4
local have = tonumber(redis.call('GET', numbers) or first - 1)
if count == 0 and not redis.acl_check_cmd('XADD', stream, '*', 'e', '') then
  return redis.error_reply('NOPERM this user may not append: XADD')
end
local last = 0
if redis.call('EXISTS', stream) == 1 then
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = tonumber(string.match(info[i + 1], '^%d+')) end
  end
end
local skipped = math.max(0, have + 1 - first)
if skipped < count then
  last = math.max(last, seen)
  for i = skipped + 1, count do
    last = last + 1
    local id = string.format('%.0f-0', last)
    redis.call('XADD', stream, 'MAXLEN', '~', max_events, id, 'e', ARGV[4 + i])
  end
  redis.call('SET', numbers, first + count - 1, 'EX', kept)
end
return string.format('%.0f', last)
"""

# Not XAUTOCLAIM: it forgets entries that were trimmed while a living member handles them.
_CLAIM: Final = """#!lua
local stream, group, member = KEYS[1], ARGV[1], ARGV[2]
local lease, count = ARGV[3], tonumber(ARGV[4])
local claims, missed = {}, 0
for _, pending in ipairs(redis.call('XPENDING', stream, group, 'IDLE', lease, '-', '+', count)) do
  local id = pending[1]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not string.match(id, '-0$') then
    redis.call('XACK', stream, group, id)
  elseif entry then
    redis.call('XCLAIM', stream, group, member, 0, id)
    claims[#claims + 1] = {id, entry[2][2], pending[4] + 1}
  else
    redis.call('XACK', stream, group, id)
    missed = missed + 1
  end
end
local after = 0
if #claims < count then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    if info[2] == group then
      for i = 1, #info, 2 do
        if info[i] == 'last-delivered-id' then
          after = tonumber(string.match(info[i + 1], '^%d+'))
        end
      end
    end
  end
  local new = redis.call(
    'XREADGROUP', 'GROUP', group, member, 'COUNT', count - #claims, 'STREAMS', stream, '>'
  )
  if new then
    local last = after
    for _, entry in ipairs(new[1][2]) do
      local position = tonumber(string.match(entry[1], '^(%d+)-0$'))
      if position then
        missed = missed + position - last - 1
        last = position
        claims[#claims + 1] = {entry[1], entry[2][2], 1}
      else
        redis.call('XACK', stream, group, entry[1])
      end
    end
  end
end
return {missed, claims, string.format('%.0f', after)}
"""

_LAST: Final = 2**64 - 1
"""The highest second number that an id can have."""

_PATIENCE: Final = 5.0
"""Seconds without an answer after which a server is unavailable."""

_WRITER_KEPT: Final = 86_400
"""Seconds for which the last number of a writer is kept."""

_TROUBLE: Final = (
    coredis.exceptions.RedisError,
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)
"""What coredis raises when a server, or the way to it, isn't as it should be."""

_PASSING: Final = (
    coredis.exceptions.ConnectionError,
    coredis.exceptions.ReadOnlyError,
    coredis.exceptions.StreamConsumerGroupError,  # a restored log may not have the group
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)

_GROUP_EXISTS: Final = coredis.exceptions.StreamDuplicateConsumerGroupError

_PASSING_TEXTS: Final = (
    *("OOM", "MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "BUSY "),
    "max number of clients",
)
"""What the errors of a server contain that is well, but can't do it now."""


_is_ours: ContextVar[bool] = ContextVar("_is_ours", default=False)
"""Whether a session uses coredis. What that logs then, with tracebacks, the session raises."""

logging.getLogger("coredis").addFilter(lambda record: not _is_ours.get())


@contextmanager
def _ours(value: bool = True) -> Iterator[None]:
    token = _is_ours.set(value)
    try:
        yield
    finally:
        _is_ours.reset(token)


@final
class RedisLog:
    """A log in a stream of a Redis server from 7.0 on, or of a Valkey server.

    Configure the server to keep events: `maxmemory-policy noeviction`, `appendonly yes`.

    Args:
      host: The host of the server.
      port: The port of the server.
      db: The number of the database.
      log: The name of the log; a server can have several. The keys begin with `te:{log}`.
      username: The name of the user; None is the server's default user.
      password: The password, if there is one.
      ssl_context: The TLS configuration, including a client certificate; None is no TLS.
      max_events: How many events it keeps, or slightly more; the oldest are removed to make room.

    Raises:
      TypeError: If `max_events` is not an int.
      ValueError: If `max_events` is less than 1, or `log` is empty or has braces in it.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 6379,
        *,
        db: int = 0,
        log: str = "events",
        username: str | None = None,
        password: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_events: int = 1_000_000,
    ) -> None:
        check_max_events(max_events)
        if not log or not set("{}").isdisjoint(log):
            raise ValueError(f"log must be a name without braces, not {log!r}")
        scheme = "redis" if ssl_context is None else "rediss"
        address = f"[{host}]" if ":" in host else host
        self._label = f"{scheme}://{address}:{port}/{db}?log={log}"
        self._stream = f"te:{{{log}}}"
        self._max_events = max_events
        # Not max_connections=1: a connection whose command was cancelled still has its place.
        self._options: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": db,
            "username": username,
            "password": password,
            "ssl_context": ssl_context,
            "max_connections": 2,
            "pool_timeout": _PATIENCE,
            "connect_timeout": _PATIENCE,
            "retry_policy": NoRetryPolicy(),
        }

    @property
    def label(self) -> str:
        """What `Source.log` and messages call it: without the password."""
        return self._label

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[LogSession]:
        """A session: a client of its own with one connection. Opening it is a checkpoint.

        Raises:
          LogRefusedError: If the server doesn't let us in.
          LogUnavailableError: If the server can't be reached.
        """
        # A fresh client for each session: coredis 6.9 loses a place in its pool for each blocking
        # command that is cancelled, and for each connection that dies.
        raised: BaseException | None = None  # in the block, and means what it says
        try:
            with _ours():
                async with coredis.Redis(**self._options) as client:
                    try:
                        with _ours(False):
                            yield _RedisSession(self, client)
                    except BaseException as error:
                        raised = error
                        raise
        except BaseException as error:  # noqa: ASYNC103, BLE001  # raised as what it is about
            if raised is None or is_cancelled(raised):
                raise self._translated(_cause(error)) from None  # noqa: ASYNC104  # as above
        if raised is not None:
            try:
                raise_as_it_was(raised)
            finally:
                del raised  # no reference cycle

    def _translated(self, error: BaseException) -> BaseException:
        """What an error of coredis means for a session."""
        if not isinstance(error, _TROUBLE) or isinstance(error, EventBusError):
            return error
        text = str(error)
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):  # it will not pass
            return LogRefusedError(f"{self._label}: {error.__cause__}")
        passing = isinstance(error, _PASSING) or any(code in text for code in _PASSING_TEXTS)
        kind = LogUnavailableError if passing else LogRefusedError
        return kind(f"{self._label}: {text or type(error).__name__}")

    def __repr__(self) -> str:
        return f"<RedisLog {self._label!r}>"


def _cause(error: BaseException) -> BaseException:
    """The error that a group of coredis's own tasks is about."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    # Cancelled is in it because of the others, or because everything is cancelled.
    _, others = error.split(trio.Cancelled)
    return _cause((others or error).exceptions[0])


@final
class _RedisSession:
    def __init__(self, log: RedisLog, client: coredis.Redis[bytes]) -> None:
        self._log = log
        self._stream = log._stream
        self._client = client
        self._append = client.register_script(_APPEND)
        self._claim = client.register_script(_CLAIM)

    async def _call(
        self, command: Callable[..., Awaitable[T]], *args: Any, wait: float = 0, **kwargs: Any
    ) -> T:
        """The answer to a command. `wait` is how many seconds the server may take by itself."""
        try:
            with _ours(), trio.fail_after(wait + _PATIENCE):
                return await command(*args, **kwargs)
        except trio.TooSlowError:
            raise LogUnavailableError(
                f"{self._log.label}: no answer for {wait + _PATIENCE:g} s"
            ) from None
        except _GROUP_EXISTS:
            raise
        except _TROUBLE as error:
            # coredis makes a failed connection of a cancellation that comes while it connects.
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120  # then it was no error
            raise self._log._translated(error) from error

    async def append(self, writer: str, first: int, events: Sequence[bytes], seen: int) -> int:
        last = await self._call(
            self._append,
            keys=[self._stream, f"{self._stream}:{writer}"],
            args=[first, seen, self._log._max_events, _WRITER_KEPT, *events],
        )
        return _position(last)

    async def read(self, after: int, max_events: int, wait: float) -> list[Entry]:
        while True:
            found = await self._call(
                self._client.xread,
                {self._stream: f"{after}-{_LAST}"},
                count=max_events,
                block=_block(wait),
                wait=wait,
            )
            if not found:
                return []
            (answers,) = found.values()
            entries = [
                Entry(_position(each.identifier), _event(each))
                for each in answers
                if _text(each.identifier).endswith("-0")
            ]
            if entries:
                return entries
            after = _position(answers[-1].identifier)

    async def bounds(self) -> tuple[int, int]:
        if not await self._call(self._client.exists, [self._stream]):
            return 0, 0
        info = await self._call(self._client.xinfo_stream, self._stream)
        first, last = info["first-entry"], _position(info["last-generated-id"])
        return (_position(first.identifier) if first else 0), last

    async def join(self, group: str, wants: str, after: int) -> None:
        groups = f"{self._stream}:groups"
        await self._call(self._client.hsetnx, groups, group, wants)
        have = await self._call(self._client.hget, groups, group)
        check_wants(group, wants if have is None else bytes(have).decode(), wants)
        try:
            await self._call(
                self._client.xgroup_create,
                self._stream,
                group,
                identifier=f"{after}-0",
                mkstream=True,
            )
        except _GROUP_EXISTS:
            pass

    async def claim(
        self, group: str, member: str, max_events: int, lease: float, wait: float
    ) -> tuple[int, list[Claim]]:
        deadline = trio.current_time() + wait
        while True:
            missed, claims, after = await self._call(
                self._claim,
                keys=[self._stream],
                args=[group, member, int(lease * 1000), max_events],
            )
            left = deadline - trio.current_time()
            if missed or claims or left <= 0:
                return int(missed), [Claim(_position(p), e, int(n)) for p, e, n in claims]
            # Only to wait: a blocking XREADGROUP doesn't tell what was gone before it got anything.
            await self.read(_position(after), 1, left)

    async def finish(  # noqa: ASYNC910  # nothing to do is no call
        self, group: str, member: str, done: Sequence[int], running: Sequence[int], lease: float
    ) -> None:
        if done:
            await self._call(self._client.xack, self._stream, group, [f"{p}-0" for p in done])
        if running:
            ids = [f"{position}-0" for position in running]
            await self._call(self._client.xclaim, self._stream, group, member, 0, ids, justid=True)

    async def groups(self) -> list[GroupState]:
        wants = await self._call(self._client.hgetall, f"{self._stream}:groups")
        if not wants:
            return []
        found = await self._call(self._client.xinfo_groups, self._stream)
        states = []
        for group in found:
            info = {_text(key): value for key, value in group.items()}
            name = _text(info["name"])
            position = _position(info["last-delivered-id"])
            claims = int(_text(info["pending"]))
            states.append(GroupState(name, _text(wants.get(name.encode(), "")), position, claims))
        return sorted(states, key=attrgetter("name"))


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, bytes) else str(value)


def _position(identifier: Any) -> int:
    """The position in an id of the stream, which is `position-0`."""
    return int(_text(identifier).partition("-")[0])


def _event(entry: Any) -> bytes:
    """The event in an entry; b"", which isn't one, if another program has made the entry."""
    return bytes(entry.field_values.get(b"e", b""))


def _block(wait: float) -> int:
    """How long the server may wait, in milliseconds. 0 would be forever."""
    return max(1, round(wait * 1000))
