"""The routing table: finds the items that an event goes to without looking at each of them.

All patterns are stored in one trie: the segments of the system pattern lead to a node, from there
those of the kind pattern to another, and from there those of the path pattern to a third. An item
is stored where its patterns end. A name is walked through the trie as a set of nodes, one segment
at a time, so neither `**` nor alternatives multiply the work. Routes that were found are cached.

Costs:

- A cached route: two look-ups. After a wildcard pattern was added or removed, one match of it; if
  it matches, a walk.
- A walk: one step for each segment of the name and each node that it leads to. Nodes that no
  prefix of the name leads to cost nothing, however many there are.
- A path: one look-up among the exact paths, and a walk through the path patterns. It ends where
  they do, so that a long path costs no more than a short one unless a `**` with something behind
  it has to look for its end.
- Adding and removing: one step for each segment, whatever else is in the table. A pattern with
  alternatives is put in once for each combination of them, as long as that makes about 256 nodes
  or fewer. A group beyond that is one edge; a walk then checks each such edge of a node.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

from .interest import Interest
from .pattern import MANY, ONE, RESERVED, Pattern, Segment, literals_of

T = TypeVar("T", bound=Hashable)

# The edges from the end of a pattern to what belongs to it. No segment of a name has a dot.
_KINDS: Final = "."
_EXACT_PATHS: Final = ".="
_PATH_PATTERNS: Final = "./"

_GROUPS: Final = "|"
"""The edge to a node whose own edges are groups of alternatives that weren't expanded.

The path of an event may have such a segment, too. It leads to that node, and no further.
"""

_MAX_NODES: Final = 256
"""The most nodes for one pattern; if it needs more, its alternatives stay grouped."""

_MAX_CHANGES: Final = 16
"""The changes to wildcards after which all routes are forgotten.

So a route that isn't used any more doesn't keep closed subscriptions alive for long. To match more
changes than this would take longer than the walk that each route now needs.
"""

_Places: TypeAlias = dict[T, tuple[int, int]]
"""For each item: its place in the order, and the number of its interests."""


_NO_EDGES: Final[dict[Segment, Any]] = {}


@final
class _Node(Generic[T]):
    """One place in the trie. In plain slots: there are several for each subscription."""

    __slots__ = ("edges", "items", "loops")

    def __init__(self, label: Segment = "") -> None:
        self.loops = label == MANY
        self.edges: dict[Segment, _Node[T]] = _NO_EDGES  # one of its own when it gets the first
        # The items whose patterns end here, and how many of their interests do.
        self.items: dict[T, int] = {}


@final
class Route(Generic[T]):
    """The items that match events of one system and kind. Get one from `RoutingTable.match`.

    It is valid until the table changes. In plain slots: one is read for every event.
    """

    __slots__ = (
        "_everywhere",
        "_exact",
        "_patterns",
        "_places",
        "by_path",
        "items",
        "kind",
        "system",
        "version",
    )

    def __init__(
        self, system: str, kind: str, ends: list[_Node[T]], places: _Places[T], version: int
    ) -> None:
        self.system: Final = system
        self.kind: Final = kind
        self.version = version
        """The version of the table for which this is valid."""

        self.items: Final = tuple(sorted(_items_at(ends), key=places.__getitem__))
        """The items that match every path, each once, in the order in which they were added."""

        self._exact: Final = tuple(_below(ends, _EXACT_PATHS))
        self._patterns: Final = tuple(_below(ends, _PATH_PATTERNS))
        self.by_path: Final = self._exact + self._patterns
        """Empty if no item matches only certain paths. Otherwise, call `find`."""

        self._everywhere: Final = frozenset(self.items if self.by_path else ())
        self._places: Final = places

    def find(self, path: str) -> list[T]:
        """The items that match this path but not every path, each once, in order of addition."""
        ends = _below(self._exact, path)
        if self._patterns:
            ends += _walk(self._patterns, _segments(path))
        if not ends:  # as for most events, if the paths are those of single objects
            return []
        found = [item for item in _items_at(ends) if item not in self._everywhere]
        return sorted(found, key=self._places.__getitem__)

    def recipients(self, path: str) -> list[T]:
        """All items that match this path: `items`, then those of `find`."""
        return [*self.items, *self.find(path)] if self.by_path else list(self.items)

    def is_same_as(self, other: Route[T]) -> bool:
        """Whether events of both go to the same items, whatever their paths."""
        return self.items == other.items and not self.by_path and not other.by_path

    def __repr__(self) -> str:
        paths = ", and others by path" if self.by_path else ""
        return f"<Route of {self.system!r}, {self.kind!r}: {len(self.items)} items{paths}>"


@final
class RoutingTable(Generic[T]):
    """A set of items, each under one or more interests, found by system, kind and path.

    Pure and synchronous.

    Args:
      max_remembered: The most routes in the cache. One more, and the cache is emptied first.
    """

    def __init__(self, max_remembered: int = 4096) -> None:
        self._root: _Node[T] = _Node()
        self._interests: set[tuple[T, Interest]] = set()
        self._places: _Places[T] = {}
        self._next_place = itertools.count()
        self._max_remembered = max_remembered
        self.routes: dict[str, dict[str, Route[T]]] = {}
        """The cached routes, by system, then kind. Only read this.

        Use `match` to get one: routes in here may be out of date. A caller that validates names
        before `match` needn't validate those in here.
        """

        self._walks = 0  # since the cache was emptied: at least as many as it has routes
        # A change to a literal system drops its routes. Any other change makes a new version. An
        # older route is updated when it is used, with the changes since its version.
        self._version = 0
        self._changes: list[Interest] = []  # up to this version, since the cache was emptied

    def __len__(self) -> int:
        """The number of items."""
        return len(self._places)

    @property
    def remembered(self) -> int:
        """The number of cached routes."""
        return sum(map(len, self.routes.values()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left: no item, no node, no cached route."""
        leftovers = self._interests, self._places, self.routes, self._changes, self._root.edges
        return not any(leftovers)

    def add(self, item: T, interest: Interest) -> None:
        """Add an item, or another interest of an item that has been added before.

        An item keeps the place in the order of its first interest.

        Raises:
          ValueError: If the item has this interest already.
        """
        if (item, interest) in self._interests:
            raise ValueError(f"{item!r} already has the interest {interest}")
        self._interests.add((item, interest))
        place, interests = self._places.get(item) or (next(self._next_place), 0)
        self._places[item] = place, interests + 1
        self._change(item, interest, +1)

    def remove(self, item: T, interest: Interest) -> None:
        """Remove an interest of an item, and with its last interest the item.

        Raises:
          KeyError: If the item doesn't have this interest.
        """
        self._interests.remove((item, interest))
        place, interests = self._places.pop(item)
        if interests > 1:
            self._places[item] = place, interests - 1
        self._change(item, interest, -1)
        if not self._places:
            self.forget_routes()

    def match(self, system: str, kind: str) -> Route[T]:
        """The route of a system and a kind, which is then cached unless the system is reserved.

        Args:
          system: A valid name.
          kind: A valid name.
        """
        try:
            route = self.routes[system][kind]
        except KeyError:
            return self._remember(system, kind)
        return route if route.version == self._version else self._updated(route)

    def peek(self, system: str, kind: str) -> Route[T]:
        """Like `match`, without adding to the cache."""
        if kind in self.routes.get(system, ()):
            return self.match(system, kind)
        return self._find(system, kind)

    def clear(self) -> None:
        """Remove all items, and empty the cache."""
        self._root = _Node()
        self._interests.clear()
        self._places.clear()
        self.forget_routes()

    def forget_routes(self) -> None:
        """Empty the cache."""
        self.routes.clear()
        self._changes.clear()
        self._walks = 0

    def _find(self, system: str, kind: str) -> Route[T]:
        systems = _walk_name([self._root], system)
        ends = [*systems, *_walk_name(_below(systems, _KINDS), kind)]
        return Route(system, kind, ends, self._places, self._version)

    def _remember(self, system: str, kind: str) -> Route[T]:
        if system.startswith("$"):  # a cached route would make it a valid name for `send`
            return self._find(system, kind)
        if self._walks >= self._max_remembered:
            self.forget_routes()
        self._walks += 1
        route = self.routes.setdefault(system, {})[kind] = self._find(system, kind)
        return route

    def _updated(self, route: Route[T]) -> Route[T]:
        missed = self._changes[route.version - self._version :]
        if any(interest.matches_names(route.system, route.kind) for interest in missed):
            return self._remember(route.system, route.kind)
        route.version = self._version
        return route

    def _change(self, item: T, interest: Interest, by: int) -> None:
        """Count an item in or out where an interest ends, and drop the routes that may change."""
        _count(self._root, _steps(interest), item, by)
        if interest.system.literal is None:
            self._version += 1
            self._changes.append(interest)
            if len(self._changes) >= _MAX_CHANGES:
                self.forget_routes()
        elif interest.kind is None or interest.kind.literal is None:
            self.routes.pop(interest.system.literal, None)
        else:
            self.routes.get(interest.system.literal, {}).pop(interest.kind.literal, None)


_Steps: TypeAlias = list[Collection[Segment]]
"""The labels to follow from each node: one, or one for each alternative."""


def _steps(interest: Interest) -> _Steps:
    """The steps from the root to where an interest ends."""
    labels = [*interest.system.segments]
    if interest.kind is not None:
        labels += [_KINDS, *interest.kind.segments]
    if isinstance(interest.path, Pattern):
        labels += [_PATH_PATTERNS, *interest.path.segments]
    elif interest.path is not None:
        labels += [_EXACT_PATHS, interest.path]
    steps: _Steps = []
    copies = 1  # of all that follows
    for following, label in zip(range(len(labels), 0, -1), labels, strict=True):
        group = literals_of(label)
        if copies * len(group) * following <= _MAX_NODES:
            steps.append(group)
            copies *= len(group)
        else:
            steps += [[_GROUPS], [label]]
    return steps


def _count(root: _Node[T], steps: _Steps, item: T, by: int) -> None:
    """Count an item in or out at the end of some steps; make and remove nodes as needed."""
    trail = []
    nodes = [root]
    for step in steps:
        parents, nodes = nodes, []
        for parent in parents:
            for label in step:
                if label not in parent.edges:
                    parent.edges = parent.edges or {}
                    parent.edges[label] = _Node(label)
                nodes.append(parent.edges[label])
                trail.append((parent, label))
    for node in nodes:
        count = node.items.pop(item, 0) + by
        if count:
            node.items[item] = count
    for parent, label in reversed(trail):  # children come before their parents
        if not parent.edges[label].edges and not parent.edges[label].items:
            del parent.edges[label]


def _below(nodes: Iterable[_Node[T]], label: str) -> list[_Node[T]]:
    return [node.edges[label] for node in nodes if label in node.edges]


def _items_at(nodes: Iterable[_Node[T]]) -> dict[T, int]:
    items: dict[T, int] = {}
    for node in nodes:
        items |= node.items
    return items


def _segments(path: str) -> Iterator[str]:
    """The segments of a path, one at a time: few of a long one may be needed."""
    start = 0
    while (end := path.find("/", start)) != -1:
        yield path[start:end]
        start = end + 1
    yield path[start:]


def _walk_name(starts: Iterable[_Node[T]], name: str) -> Iterable[_Node[T]]:
    return _walk(starts, name.split("."), reserved=name.startswith(RESERVED))


def _walk(
    starts: Iterable[_Node[T]], segments: Iterable[str], *, reserved: bool = False
) -> Iterable[_Node[T]]:
    """The nodes that the segments lead to from any of the starts, each once.

    If they are `reserved`, no wildcard matches the first one.
    """
    # A dict is a set that keeps its order, so that a run can be repeated exactly.
    nodes: dict[_Node[T], None] = {}
    for node in starts:
        _enter(node, nodes)
    wildcards_match = not reserved
    if reserved:
        nodes = dict.fromkeys(starts)
    for segment in segments:
        after: dict[_Node[T], None] = {}
        for node in nodes:
            edges = node.edges
            if node.loops and wildcards_match:
                _enter(node, after)
            for label in (segment, ONE) if wildcards_match else (segment,):
                if label in edges:
                    _enter(edges[label], after)
            if _GROUPS in edges:
                for group, child in edges[_GROUPS].edges.items():
                    if segment in group:
                        _enter(child, after)
        nodes = after
        wildcards_match = True
        # A last `**` takes all the rest; and if nothing is left, there is nothing to do either.
        if all(node.loops and not node.edges for node in nodes):
            break
    return nodes


def _enter(node: _Node[T], nodes: dict[_Node[T], None]) -> None:
    """Add a node, and the one behind its `**`, which may match nothing."""
    nodes[node] = None
    if MANY in node.edges:
        nodes[node.edges[MANY]] = None
