"""Events between buses over a shared log."""

from ._log import (
    Claim,
    Entry,
    EventLog,
    LogRefusedError,
    LogSession,
    LogUnavailableError,
    MemoryLog,
)
from ._sqlite import SqliteLog
from ._redis import RedisLog
