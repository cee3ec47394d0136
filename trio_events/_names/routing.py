"""Which subscriptions an event goes to, without looking at each of them.

The patterns stand in a trie: the segments of the system pattern lead to a node, and from there
the segments of the kind pattern to another. A name is walked through it as a set of nodes, one
segment at a time, so neither `**` nor alternatives multiply anything. In front of the trie, the
routes that were asked for are remembered.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar, final

from .pattern import MANY, ONE, RESERVED, Pattern, Segment

T = TypeVar("T", bound=Hashable)

_KINDS: Final = "."
"""The edge from the end of a system pattern to the beginning of the kind patterns."""

_CHECKED_ONE_BY_ONE: Final = 32
"""Up to so many remembered systems, a new wildcard spares those that it does not match."""


class _Node(Generic[T]):
    """One place in the trie. In plain slots: there are several for each subscription."""

    __slots__ = ("alternatives", "edges", "items", "loops")

    def __init__(self, label: Segment) -> None:
        self.loops = label == MANY
        # The children by their whole label. A group of alternatives is one edge to one child...
        self.edges: dict[Segment, _Node[T]] = {}
        # ... which is found here, by each of its literals.
        self.alternatives: dict[str, dict[_Node[T], None]] = {}
        # What ends here, with its place in the order of addition.
        self.items: dict[T, int] = {}

    def child(self, label: Segment) -> _Node[T]:
        """The child under a label, made if it is not there."""
        node = self.edges.get(label)
        if node is None:
            node = self.edges[label] = _Node(label)
            if not isinstance(label, str):
                for literal in label:
                    self.alternatives.setdefault(literal, {})[node] = None
        return node

    def prune(self, label: Segment) -> None:
        """Take away a child."""
        node = self.edges.pop(label)
        if not isinstance(label, str):
            for literal in label:
                nodes = self.alternatives[literal]
                del nodes[node]
                if not nodes:
                    del self.alternatives[literal]

    @property
    def is_bare(self) -> bool:
        return not self.edges and not self.items


@final
class RoutingTable(Generic[T]):
    """A set of items, each under a system pattern and a kind pattern, found by names.

    Pure and synchronous.

    Args:
      max_remembered: How many routes are remembered before all are forgotten.
    """

    def __init__(self, max_remembered: int = 4096) -> None:
        self._root: _Node[T] = _Node("")
        self._size = 0
        self._added = 0  # ever: the place of an item in the order
        self._max_remembered = max_remembered
        self.routes: dict[str, dict[str, tuple[T, ...]]] = {}
        """The routes that are remembered, by system, then kind. To be read only.

        Whoever checks names before `match` need not check those of a remembered route.
        """

        self._remembered = 0

    def __len__(self) -> int:
        return self._size

    @property
    def remembered(self) -> int:
        """The number of routes that are remembered."""
        return self._remembered

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is left: no item, no node, no remembered route."""
        return not self._size and self._root.is_bare and not self.routes

    def add(self, item: T, system: Pattern, kind: Pattern | None) -> None:
        """Put in an item that is not there, under two patterns. `kind=None` is every kind."""
        node = self._root
        for label in _path(system, kind):
            node = node.child(label)
        node.items[item] = self._added
        self._added += 1
        self._size += 1
        self._forget(system, kind)

    def remove(self, item: T, system: Pattern, kind: Pattern | None) -> None:
        """Take out an item, under the patterns that it was added with, and all that held it."""
        node = self._root
        trail: list[tuple[_Node[T], Segment]] = []
        for label in _path(system, kind):
            trail.append((node, label))
            node = node.edges[label]
        del node.items[item]
        for parent, label in reversed(trail):
            if not parent.edges[label].is_bare:
                break
            parent.prune(label)
        self._size -= 1
        if self._size:
            self._forget(system, kind)
        else:
            self.forget_routes()

    def recall(self, system: str, kind: str) -> tuple[T, ...] | None:
        """The remembered route, or None: what `match` returned before and would again."""
        try:
            return self.routes[system][kind]
        except (KeyError, TypeError):  # the latter for what cannot be a key
            return None

    def match(self, system: str, kind: str) -> tuple[T, ...]:
        """The items whose two patterns match, in the order in which they were added."""
        route = self.recall(system, kind)
        if route is None:
            if self._remembered >= self._max_remembered:
                self.forget_routes()
            route = self.routes.setdefault(system, {})[kind] = self._find(system, kind)
            self._remembered += 1
        return route

    def peek(self, system: str, kind: str) -> tuple[T, ...]:
        """The same, remembering nothing."""
        route = self.recall(system, kind)
        return self._find(system, kind) if route is None else route

    def forget_routes(self) -> None:
        """Forget all remembered routes."""
        self.routes.clear()
        self._remembered = 0

    def _find(self, system: str, kind: str) -> tuple[T, ...]:
        systems = _walk((self._root,), system)
        kinds = _walk([node.edges[_KINDS] for node in systems if _KINDS in node.edges], kind)
        found = {place: item for node in systems for item, place in node.items.items()}
        found |= {place: item for node in kinds for item, place in node.items.items()}
        return tuple(found[place] for place in sorted(found))

    def _forget(self, system: Pattern, kind: Pattern | None) -> None:
        """Forget the routes that two patterns may have a part in."""
        stale: Iterable[str]
        if system.literal is not None:
            if kind is not None and kind.literal is not None:
                self._forget_one(system.literal, kind.literal)
                return
            stale = (system.literal,)
        elif len(self.routes) <= _CHECKED_ONE_BY_ONE:
            stale = [name for name in self.routes if system.matches(name)]
        else:
            stale = list(self.routes)
        for name in stale:
            self._remembered -= len(self.routes.pop(name, ()))

    def _forget_one(self, system: str, kind: str) -> None:
        routes = self.routes.get(system, {})
        if kind in routes:
            del routes[kind]
            self._remembered -= 1
            if not routes:
                del self.routes[system]


def _path(system: Pattern, kind: Pattern | None) -> tuple[Segment, ...]:
    return system.segments if kind is None else (*system.segments, _KINDS, *kind.segments)


def _walk(starts: Iterable[_Node[T]], name: str) -> Iterable[_Node[T]]:
    """The nodes that the name leads to from any of the starts, each once."""
    # A dict is a set that keeps its order, so that a run can be repeated exactly.
    nodes: dict[_Node[T], None] = {}
    for node in starts:
        _enter(node, nodes)
    wildcards_match = not name.startswith(RESERVED)
    if not wildcards_match:
        nodes = dict.fromkeys(starts)
    for segment in name.split("."):
        after: dict[_Node[T], None] = {}
        for node in nodes:
            if node.loops and wildcards_match:
                _enter(node, after)
            for label in (segment, ONE) if wildcards_match else (segment,):
                if label in node.edges:
                    _enter(node.edges[label], after)
            for child in node.alternatives.get(segment, ()):
                _enter(child, after)
        nodes = after
        wildcards_match = True
    return nodes


def _enter(node: _Node[T], nodes: dict[_Node[T], None]) -> None:
    """Add a node, and the one behind its `**`, which may match nothing."""
    nodes[node] = None
    if MANY in node.edges:
        nodes[node.edges[MANY]] = None
