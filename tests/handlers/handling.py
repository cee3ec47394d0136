"""Handlers that several tests use: one that notes what it gets, and one that waits to be told."""

from __future__ import annotations

from collections import defaultdict
from typing import final

import attrs
import trio

from trio_events import CloseSubscription, Event, Log, Propagate, Retry

POLICIES = (Propagate(), Log(), CloseSubscription(), Retry(jitter=0), Retry(1, then=Log()))
"""What can be done about a handler that fails."""

GOING_ON = POLICIES[1:]
"""Those that do not end the bus at the first failure."""


@final
@attrs.define(eq=False)
class Recorder:
    """Notes the paths of the events that it is called with."""

    seen: list[str] = attrs.field(factory=list)

    async def __call__(self, event: Event) -> None:
        self.seen.append(event.path)


@final
@attrs.define(eq=False)
class Workers:
    """Notes when its calls begin and how they end. Each runs until it is released, by path."""

    begun: list[str] = attrs.field(factory=list)
    finished: list[str] = attrs.field(factory=list)
    cancelled: list[str] = attrs.field(factory=list)
    most: int = 0
    """The most calls that have been running at once."""

    _running: int = 0
    _released: defaultdict[str, trio.Event] = attrs.field(factory=lambda: defaultdict(trio.Event))

    async def __call__(self, event: Event) -> None:
        self.begun.append(event.path)
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            await self._released[event.path].wait()
        except trio.Cancelled:
            self.cancelled.append(event.path)
            raise
        else:
            self.finished.append(event.path)
        finally:
            self._running -= 1

    def release(self, *paths: str) -> None:
        """Let the calls with these paths finish, those to come as well."""
        for path in paths:
            self._released[path].set()
