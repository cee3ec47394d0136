"""What a history should keep: the rules, one event at a time, as slow and obvious as possible."""

from __future__ import annotations

import attrs

from trio_events import Event, HistoryStatistics


def key(event: Event) -> tuple[str, str, str]:
    """What events replace each other by."""
    return event.system, event.kind, event.path


@attrs.define(eq=False)
class Model:
    """A history. Events have to differ in their data."""

    per_path: int | None
    max_events: int
    put_so_far: list[Event] = attrs.Factory(list)
    kept: list[Event] = attrs.Factory(list)
    replaced: int = 0
    evicted: int = 0
    forgotten: int = 0

    def put(self, event: Event) -> None:
        """An event has been routed."""
        self.put_so_far.append(event)
        self.kept.append(event)
        of_its_path = [other for other in self.kept if key(other) == key(event)]
        if self.per_path is not None and len(of_its_path) > self.per_path:
            self.kept.remove(of_its_path[0])
            self.replaced += 1
        elif len(self.kept) > self.max_events:
            if self.per_path is None:
                del self.kept[0]
                self.replaced += 1
            else:
                latest = {key(other): place for place, other in enumerate(self.put_so_far)}
                idlest = min(map(key, self.kept), key=latest.__getitem__)
                self.kept.remove(next(other for other in self.kept if key(other) == idlest))
                self.evicted += 1

    def forget(self, path: str) -> int:
        """Forget a path; returns how many events that were."""
        before = len(self.kept)
        self.kept = [event for event in self.kept if event.path != path]
        self.forgotten += before - len(self.kept)
        return before - len(self.kept)

    def last(self, event: Event) -> Event | None:
        """The newest event with the names and the path of this one."""
        return next((e for e in reversed(self.kept) if key(e) == key(event)), None)

    def statistics(self) -> HistoryStatistics:
        """The counters."""
        return HistoryStatistics(
            matched=len(self.put_so_far),
            kept=len(self.kept),
            replaced=self.replaced,
            evicted=self.evicted,
            forgotten=self.forgotten,
            max_events=self.max_events,
        )
