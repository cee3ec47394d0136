"""Events between buses over a shared log.

Needs the extra `bridge`, or `redis` for logs in Redis or Valkey.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._extras import extra
from .._public import show_under

with extra("bridge", __name__):
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

show_under(__name__, [globals()[name] for name in __all__ if name != "RedisLog"])


def __getattr__(name: str) -> Any:
    # Only when it is used, because it needs coredis, and the other logs don't.
    if name == "RedisLog":
        with extra("redis", f"{__name__}.RedisLog"):
            from ._redis import RedisLog  # noqa: PLC0415

        show_under(__name__, [RedisLog])
        return RedisLog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
