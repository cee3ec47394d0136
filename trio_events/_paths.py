"""The subscriptions of one system and kind pattern that want the events of some paths only."""

from __future__ import annotations

from typing import final

from ._actor import SubscriptionActor
from ._event import Event
from ._names.pattern import Pattern


@final
class PathIndex:
    """One entry in the routing table for all of them, found by path.

    So a subscription to one path costs an event of another path nothing, and one that wants every
    path does not notice.
    """

    __slots__ = ("_by_path", "_by_pattern")

    def __init__(self) -> None:
        self._by_path: dict[str, dict[SubscriptionActor, None]] = {}
        self._by_pattern: dict[SubscriptionActor, Pattern] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not self._by_path and not self._by_pattern

    def add(self, subscription: SubscriptionActor, path: str | Pattern) -> None:
        """Put in a subscription to one path, or to those of a pattern."""
        if isinstance(path, str):
            self._by_path.setdefault(path, {})[subscription] = None
        else:
            self._by_pattern[subscription] = path

    def remove(self, subscription: SubscriptionActor, path: str | Pattern) -> None:
        """Take out a subscription, under the path that it was added with."""
        if isinstance(path, str):
            of_this_path = self._by_path[path]
            del of_this_path[subscription]
            if not of_this_path:
                del self._by_path[path]
        else:
            del self._by_pattern[subscription]

    def find(self, path: str) -> list[SubscriptionActor]:
        """The subscriptions that want this path."""
        by_pattern = [s for s, pattern in self._by_pattern.items() if pattern.matches(path)]
        return [*self._by_path.get(path, ()), *by_pattern]

    def deliver(self, events: list[Event]) -> None:
        """Hand each event to those who want its path, in order."""
        pending: dict[SubscriptionActor, list[Event]] = {}
        for event in events:
            for subscription in self.find(event.path):
                pending.setdefault(subscription, []).append(event)
        for subscription, wanted in pending.items():
            subscription.deliver(wanted)
