"""Rows of the map: subscriptions made on one line with the same patterns share a row."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, final

import attrs
import trio

from .._subscription import Subscription
from ._parties import running_task

_COUNTERS = ("matched", "delivered", "queued", "held", "dropped", "discarded", "superseded")


@final
@attrs.define(eq=False)
class Watched:
    """A subscription that is open."""

    subscription: Subscription
    since: float
    reader: str
    """The handler or task that reads it; empty until one has."""

    is_handled: bool
    """Whether it has a handler."""

    was_read: bool = False
    _task: weakref.ref[trio.lowlevel.Task] | None = None  # which read last
    is_losing: bool = False
    routed: dict[tuple[str, str], int] = attrs.field(factory=dict)
    """The number of matched events of each system and kind."""

    def is_read_here(self) -> bool:
        """Whether the running task is the one that called this before."""
        task = running_task()
        if task is None:
            return False
        if self._task is not None and self._task() is task:
            return True
        self._task = weakref.ref(task)
        return False

    @property
    def key(self) -> tuple[object, ...]:
        """The key that the subscriptions of one row have in common."""
        subscription = self.subscription
        path = subscription.path if subscription.handler is not None else None
        return self.reader, subscription.system, subscription.kind, path, subscription.origin


@final
@attrs.define(eq=False)
class Row:
    """The subscriptions of one line, with the same patterns and reader."""

    number: int
    _first: Watched
    members: list[Watched] = attrs.field(factory=list)
    """The open subscriptions."""

    latest: float = 0.0
    """When there last was an open one."""

    _was_read: bool = False  # one that has been closed
    _gone: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(_COUNTERS, 0))
    _routed: dict[tuple[str, str], int] = attrs.field(factory=dict)

    @property
    def origin(self) -> str:
        """The line."""
        return self._first.subscription.origin

    @property
    def party(self) -> str:
        """The reader."""
        return self._first.reader

    def take_over(self, watched: Watched) -> None:
        """Keep the counters of a subscription that has been closed, so that sums don't shrink."""
        books = watched.subscription.statistics()
        self._was_read |= watched.was_read
        for name in ("matched", "delivered", "dropped", "discarded", "superseded"):
            self._gone[name] += getattr(books, name)
        for kind, count in watched.routed.items():
            self._routed[kind] = self._routed.get(kind, 0) + count

    def all_routed(self) -> dict[tuple[str, str], int]:
        """The number of matched events of each system and kind."""
        sums = dict(self._routed)
        for watched in self.members:
            for kind, count in watched.routed.items():
                sums[kind] = sums.get(kind, 0) + count
        return sums

    def show(
        self, waiting: Callable[[Subscription], list[dict[str, Any]]], now: float
    ) -> dict[str, Any]:
        """The row as strings, numbers, lists and dictionaries: sums, and the fullest buffer."""
        first = self._first.subscription
        sums = dict(self._gone)
        used = peak = handling = failures = 0
        size = first.channel().statistics().max_buffer_size
        senders: list[dict[str, Any]] = []
        for watched in self.members:
            books = watched.subscription.statistics()
            for name in _COUNTERS:
                sums[name] += getattr(books, name)
            handling += books.handling
            failures += books.failures
            channel = watched.subscription.channel().statistics()
            peak = max(peak, channel.peak_buffer_used)
            if channel.current_buffer_used * size >= used * channel.max_buffer_size:
                used, size = channel.current_buffer_used, channel.max_buffer_size
            if books.tasks_waiting_send:
                senders += waiting(watched.subscription)
        return {
            "id": self.number,
            "party": self.party,
            "open": len(self.members),
            "system": first.system,
            "kind": first.kind,
            "path": first.path if first.handler is not None or len(self.members) == 1 else None,
            "origin": self.origin,
            "overflow": first.overflow.value,
            "is_handler": first.handler is not None,
            "was_read": self._was_read or any(watched.was_read for watched in self.members),
            "age": max((now - watched.since for watched in self.members), default=0.0),
            **sums,
            "used": used,
            "size": size,
            "fill": used / size,
            "peak": peak,
            "waiting": senders,
            "losing": any(watched.is_losing for watched in self.members),
            "handling": handling,
            "failures": failures,
        }
