"""Histories: the latest events, kept for later subscriptions."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import MutableMapping, MutableSequence
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, Final, TypeAlias, final

import attrs
import trio

from ._closing import ClosingAnywhere
from ._core.actor import QUIET, Core
from ._core.inbox import Recipient, Unsubscribe
from ._core.notices import EvictionBegan, LossEnded
from ._event import Event
from ._names.interest import Interest
from ._names.pattern import plain_name, plain_path
from ._no_public_constructor import NoPublicConstructor

_Key: TypeAlias = tuple[str, str, str] | None
"""The system, kind and path of events; None if these don't matter."""

_Line: TypeAlias = MutableSequence[tuple[int, Event]]
"""Kept events with the same key, each with its number in the order of sending."""

_MAX_LIST: Final = 64
"""The longest line that is a list; a deque takes 0.7 KiB even for one event."""


@final
@attrs.frozen
class HistoryStatistics:
    """The counters of a history. matched = kept + replaced + evicted + forgotten."""

    matched: int
    """Events that match the history and that the router has delivered to it."""

    kept: int
    """Events in the history."""

    replaced: int
    """Events replaced by newer ones of the same path, because of `per_path`."""

    evicted: int
    """Events removed to make room, because `max_events` were kept."""

    forgotten: int
    """Events removed by `forget`."""

    max_events: int
    """The most events that the history keeps."""


@final
@attrs.define(eq=False)
class HistoryActor:
    """The recipient of events on behalf of a history.

    It needs no task, because it never waits. It changes only within steps, so that destructors of
    events find a complete state.
    """

    holder: ClassVar[None] = None  # nothing answers requests here
    local_only: ClassVar[bool] = False
    interest: Interest
    per_path: int | None
    max_events: int
    origin: str
    core: Core
    open_among: MutableMapping[Recipient, Any]
    """The open histories, from which it removes itself."""

    closed: bool = attrs.field(default=False, init=False)
    matched: int = attrs.field(default=0, init=False)
    kept: int = attrs.field(default=0, init=False)
    evicted: int = attrs.field(default=0, init=False)
    forgotten: int = attrs.field(default=0, init=False)
    # The key that was sent to least recently is the first. No line is empty.
    _lines: OrderedDict[_Key, _Line] = attrs.field(factory=OrderedDict, init=False)
    _latest_eviction: float | None = attrs.field(default=None, init=False)  # of this episode
    _evicted_before: int = attrs.field(default=0, init=False)  # that episode

    @property
    def interests(self) -> tuple[Interest]:
        """What it matches."""
        return (self.interest,)

    @property
    def replaced(self) -> int:
        """The number of events that newer ones of the same path replaced."""
        return self.matched - self.kept - self.evicted - self.forgotten

    # For the router

    def deliver(self, events: list[Event]) -> None:
        """Keep events that match, and remove others to make room."""
        # In one piece, because every event passes here.
        lines, per_path = self._lines, self.per_path
        limit = self.max_events if per_path is None else per_path
        gone: list[object] = []
        evicted = self.evicted
        for number, event in enumerate(events, self.matched + 1):
            self.matched = number  # at each event, so that the counters are right at any instant
            key = None if per_path is None else (event.system, event.kind, event.path)
            line = lines.get(key)
            if line is None:
                line = lines[key] = [] if limit <= _MAX_LIST else deque()
            else:
                lines.move_to_end(key)
            line.append((number, event))
            if len(line) > limit:
                gone.append(line[0])
                del line[0]
            elif self.kept < self.max_events:
                self.kept += 1
            else:
                gone.append(self._pop_oldest())
                self.evicted += 1
        self.core.notices.keep(gone)
        if self.evicted > evicted:
            self._note_eviction(evicted)

    def _pop_oldest(self) -> object:
        """Remove the oldest event of the key that has been quiet for longest."""
        key = next(iter(self._lines))
        line = self._lines[key]
        oldest = line[0]
        del line[0]
        if not line:
            del self._lines[key]
        return oldest

    def finish(self) -> None:
        """Finish: no more events will be delivered."""
        self._end_episode()

    def end(self) -> None:
        """Finish at the end of the bus."""
        self.finish()

    # For subscriptions

    def matching(self, interest: Interest) -> list[Event]:
        """The kept events that match an interest, in the order in which they were sent."""
        entries = [entry for line in list(self._lines.values()) for entry in line]
        entries.sort(key=itemgetter(0))
        events = [event for _, event in entries]
        if interest == self.interest:
            return events
        names = {(event.system, event.kind) for event in events}
        wanted = {pair for pair in names if interest.matches_names(*pair)}
        return [
            event
            for event in events
            if (event.system, event.kind) in wanted and interest.matches_path(event.path)
        ]

    # For applications

    def last(self, key: tuple[str, str, str]) -> Event | None:
        """The newest event of a system, a kind and a path."""
        line = self._lines.get(None if self.per_path is None else key, ())
        for _, event in reversed(line):
            if (event.system, event.kind, event.path) == key:
                return event
        return None

    def forget(self, path: str) -> None:
        """Remove the events of this path that have been routed."""
        with self.core.notices:
            gone: list[object] = []
            for key, line in list(self._lines.items()):
                kept = [entry for entry in line if entry[1].path != path]
                if len(kept) == len(line):
                    continue
                gone += line
                self.forgotten += len(line) - len(kept)
                self.kept -= len(line) - len(kept)
                line.clear()
                line.extend(kept)
                if not kept:
                    del self._lines[key]
            self.core.notices.keep(gone)
            latest = self._latest_eviction
            if (
                latest is not None
                and 2 * self.kept <= self.max_events
                and self.core.clock() >= latest + QUIET
            ):
                self._end_episode()

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Stop keeping events that are accepted from now on."""
        if not self.closed:
            with self.core.notices:
                self.closed = True
                self.core.inbox.post(Unsubscribe(self, (self.interest,), final=True))
                self.open_among.pop(self, None)
                self.core.instruments.on_interests(self)

    # For people

    def description(self) -> str:
        """The patterns of the history, and the line that opened it."""
        return f"history {self.interest} (opened at {self.origin})"

    def _note_eviction(self, evicted_before: int) -> None:
        if self._latest_eviction is None:
            self._evicted_before = evicted_before
            self.core.notices.add(EvictionBegan(self, self.max_events))
        self._latest_eviction = self.core.clock()

    def _end_episode(self) -> None:
        if self._latest_eviction is not None:
            self._latest_eviction = None
            self.core.notices.add(LossEnded(self, self.evicted - self._evicted_before))


@final
@attrs.define(eq=False, repr=False)
class History(ClosingAnywhere, metaclass=NoPublicConstructor):
    """The latest events of each path, from `open_history` until it is closed.

    Pass it to `subscribe` as `history=`: the subscription then begins with the kept events. They
    can still be read after the history or the bus has been closed. As a context manager, with
    `with` or `async with`, it closes itself at the end of the block.
    """

    _made_by: ClassVar = "EventBus.open_history"
    _actor: HistoryActor

    @property
    def system(self) -> str:
        """The system pattern, in canonical form."""
        return str(self._actor.interest.system)

    @property
    def kind(self) -> str | None:
        """The kind pattern, in canonical form; None matches every kind."""
        return None if self._actor.interest.kind is None else str(self._actor.interest.kind)

    @property
    def path(self) -> str | None:
        """The path, or pattern for it; None matches every path."""
        return None if self._actor.interest.path is None else str(self._actor.interest.path)

    @property
    def origin(self) -> str:
        """The line that opened it, as `"file:line"`."""
        return self._actor.origin

    def last(self, system: str, kind: str, path: str) -> Event | None:
        """The newest event of this system, kind and path that is kept, or None.

        Not a checkpoint. An event is kept once the router has routed it, which is soon after `send`
        has returned.

        Args:
          system: As in `EventBus.send`.
          kind: As in `EventBus.send`.
          path: As in `EventBus.send`.

        Raises:
          TypeError: If one of them isn't a `str`.
          InvalidEventError: If one of them isn't valid.
        """
        system = plain_name(system, "system", reserved=True)
        return self._actor.last((system, plain_name(kind, "kind"), plain_path(path)))

    def events(self) -> list[Event]:
        """All events that are kept, in the order in which they were sent. Not a checkpoint."""
        return self._actor.matching(self._actor.interest)

    @trio.lowlevel.enable_ki_protection
    def forget(self, path: str) -> int:
        """Remove the events of a path. Not a checkpoint.

        Events of the path that have been accepted but not routed yet will still be kept. This takes
        time proportional to the number of kept events. If a destructor calls this while the bus is
        in the middle of a step, it takes effect at the end of that step.

        Args:
          path: The path that was sent, not a pattern.

        Returns:
          The number of events that have been removed so far.

        Raises:
          TypeError: If `path` isn't a `str`.
          InvalidEventError: If it is empty.
          NoBusError: If this is called from another thread.
        """
        path = plain_path(path)
        actor = self._actor
        actor.core.door.check_here()
        before = actor.forgotten
        actor.core.notices.after_step(partial(actor.forget, path))
        return actor.forgotten - before

    def close(self) -> None:
        """Stop keeping events that are accepted from now on. Not a checkpoint. Idempotent.

        If a destructor calls this while the bus is in the middle of a step, it takes effect at the
        end of that step.

        Raises:
          NoBusError: If this is called from another thread.
        """
        actor = self._actor
        if not actor.closed:
            actor.core.door.check_here()
            actor.core.notices.after_step(actor.close)

    def statistics(self) -> HistoryStatistics:
        """The counters now. Not a checkpoint."""
        actor = self._actor
        return HistoryStatistics(
            matched=actor.matched,
            kept=actor.kept,
            replaced=actor.replaced,
            evicted=actor.evicted,
            forgotten=actor.forgotten,
            max_events=actor.max_events,
        )

    def __repr__(self) -> str:
        actor = self._actor
        closed = ", closed" if actor.closed else ""
        return f"<History {actor.interest} {actor.kept}/{actor.max_events} kept{closed}>"


def check_history(history: object, interest: Interest) -> None:
    """Require a history that keeps all events of an interest.

    Raises:
      TypeError: If it isn't a `History`.
      ValueError: If its patterns don't cover the interest.
    """
    if not isinstance(history, History):
        raise TypeError(f"history must be a History, not {history!r}")
    if not history._actor.interest.covers(interest):
        raise ValueError(
            f"{history!r} doesn't keep all events of {interest}: the patterns of a history must "
            "cover those of its subscriptions"
        )


def source_of(history: History | None, core: Core) -> HistoryActor | None:
    """The actor of a history, for a subscription to the same bus.

    Raises:
      ValueError: If the history belongs to another bus.
      trio.ClosedResourceError: If it was closed.
    """
    if history is None:
        return None
    actor = history._actor
    if actor.core is not core:
        raise ValueError(f"{history!r} belongs to another bus")
    if actor.closed:
        raise trio.ClosedResourceError(f"{actor.description()} was closed")
    return actor
