"""Events between buses over a shared log. Needs the extra `bridge`, for Redis `redis`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._bridge import Bridge, BridgeStatistics, open_bridge
from ._follower import Follower, FollowerStatistics
from ._group import TooManyAttemptsError
from ._log import (
    Claim,
    Entry,
    EventLog,
    GroupState,
    LogRefusedError,
    LogSession,
    LogUnavailableError,
    MemoryLog,
)
from ._sqlite import SqliteLog

if TYPE_CHECKING:
    from ._redis import RedisLog

__all__ = [
    "Bridge",
    "BridgeStatistics",
    "Claim",
    "Entry",
    "EventLog",
    "Follower",
    "FollowerStatistics",
    "GroupState",
    "LogRefusedError",
    "LogSession",
    "LogUnavailableError",
    "MemoryLog",
    "RedisLog",
    "SqliteLog",
    "TooManyAttemptsError",
    "open_bridge",
]


def __getattr__(name: str) -> Any:
    # Not before it is asked for, because it needs coredis, and the other logs don't.
    if name == "RedisLog":
        from ._redis import RedisLog  # noqa: PLC0415

        return RedisLog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
