"""Which items an event goes to, without looking at each of them.

The patterns stand in a trie: the segments of the system pattern lead to a node, and from there
the segments of the kind pattern to another. There, items that want every path end; those that
want some paths only stand in an index of that node, by path or in a trie of path patterns. A name
is walked through a trie as a set of nodes, one segment at a time, so neither `**` nor alternatives
multiply anything. In front of it all, the routes that were asked for are remembered.

What it costs:

- A remembered route: two look-ups. After a change, one look at the change's patterns; after more
  than a few, a walk.
- A walk: one step for each segment of the name and each node that it leads to. Nodes that no
  prefix of the name leads to cost nothing, however many there are.
- A path: one look-up among the exact paths, and a walk through the trie of path patterns. It ends
  where the trie does, so that a long path costs no more than a short one unless a `**` with
  something behind it has to look for its end.
- Adding and removing: one step for each segment, whatever else is in the table. A pattern with
  alternatives is put in once for each combination of them, as long as that makes at most 256
  nodes. Groups beyond that are one edge for the whole group; a walk then follows every group that
  has the segment in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Generic, TypeAlias, TypeVar, cast, final

from .interest import Interest
from .pattern import MANY, ONE, RESERVED, Pattern, Segment, literals_of

T = TypeVar("T", bound=Hashable)

_KINDS: Final = "."
"""The edge from the end of a system pattern to the beginning of the kind patterns."""

_MAX_NODES: Final = 256
"""The nodes of one pattern up to which its alternatives are put in one by one."""

_JOURNAL: Final = 16
"""The changes that are kept for remembered routes. Looking at more would take longer than a walk.

It is also the number of kinds up to which a change in one system is told to its routes at once.
"""

_FEW: Final = 4
"""The interests of an item up to which each is asked; beyond, a route is found anew."""

_INSPECTED: Final = 4
"""The oldest routes that are inspected at each change, and forgotten if the journal has left them.

So a route that isn't used any more doesn't keep closed subscriptions alive for long.
"""

_STALE: Final = -1 - _JOURNAL
"""The version of a route that has to be found anew: too old for any journal."""


@final
class _Node(Generic[T]):
    """One place in a trie. In plain slots: there are several for each subscription."""

    __slots__ = ("alternatives", "edges", "items", "label", "loops", "parent", "paths")

    def __init__(self, label: Segment = "", parent: _Node[T] | None = None) -> None:
        self.label = label
        self.parent = parent
        self.loops = label == MANY
        # The children by their whole label. A group of alternatives is one edge to one child...
        self.edges: dict[Segment, _Node[T]] = {}
        # ... which is found here, by each of its literals.
        self.alternatives: dict[str, dict[_Node[T], None]] = {}
        # The items that end here, and under how many of their interests.
        self.items: dict[T, int] = {}
        # The items that end here and want certain paths only.
        self.paths: _PathIndex[T] | None = None

    def child(self, label: Segment) -> _Node[T]:
        """The child under a label, made if it is not there."""
        node = self.edges.get(label)
        if node is None:
            node = self.edges[label] = _Node(label, self)
            if not isinstance(label, str):
                for literal in label:
                    self.alternatives.setdefault(literal, {})[node] = None
        return node

    def prune(self) -> None:
        """Remove this node from its parent if nothing is left in it, and so on upwards."""
        node = self
        while node.parent is not None and node.is_bare:
            node.parent._drop(node)
            node = node.parent

    def _drop(self, node: _Node[T]) -> None:
        del self.edges[node.label]
        if not isinstance(node.label, str):
            for literal in node.label:
                nodes = self.alternatives[literal]
                del nodes[node]
                if not nodes:
                    del self.alternatives[literal]

    @property
    def is_bare(self) -> bool:
        return not self.edges and not self.items and self.paths is None


@final
class _PathIndex(Generic[T]):
    """The items at one node that want certain paths only."""

    __slots__ = ("exact", "patterns")

    def __init__(self) -> None:
        self.exact: dict[str, dict[T, int]] = {}
        self.patterns: _Node[T] = _Node()

    @property
    def is_bare(self) -> bool:
        return not self.exact and self.patterns.is_bare

    def add(self, item: T, path: str | Pattern, steps: _Steps) -> None:
        if isinstance(path, str):
            _put(self.exact.setdefault(path, {}), item)
        else:
            for node in _descend(self.patterns, steps):
                _put(node.items, item)

    def remove(self, item: T, path: str | Pattern, steps: _Steps) -> None:
        if isinstance(path, str):
            _take(self.exact[path], item)
            if not self.exact[path]:
                del self.exact[path]
        else:
            for node in _descend(self.patterns, steps):
                _take(node.items, item)
                node.prune()

    def find(self, path: str, found: dict[T, int]) -> None:
        """Add the items that want this path."""
        found |= self.exact.get(path, {})
        if self.patterns.edges:
            for node in _walk([self.patterns], _segments(path)):
                found |= node.items


@final
class Route(Generic[T]):
    """Where events of one system and kind go. Get one from `RoutingTable.match`.

    It is right until the table changes; `match` brings the same object up to date. In plain
    slots: one is read for every event.
    """

    __slots__ = ("_everywhere", "_places", "by_path", "items", "kind", "system", "version")

    def __init__(self, system: str, kind: str, places: dict[T, int]) -> None:
        self.system: Final = system
        self.kind: Final = kind
        self.items: tuple[T, ...] = ()
        """The items that want every path, each once, in the order in which they were added."""

        self.by_path: tuple[_PathIndex[T], ...] = ()
        """Empty if no item wants certain paths only. Otherwise, ask `find`."""

        self.version = _STALE
        """The version of the table at which this was right."""

        self._places = places
        self._everywhere: frozenset[T] | None = None  # `items` as a set, if that was needed

    def find(self, path: str) -> list[T]:
        """The items that want this path but not every path, each once, in order of addition."""
        found: dict[T, int] = {}
        for index in self.by_path:
            index.find(path, found)
        if not found:
            return []
        if self.items:
            if self._everywhere is None:
                self._everywhere = frozenset(self.items)
            found = {item: 1 for item in found if item not in self._everywhere}
        return sorted(found, key=self._places.__getitem__)

    def recipients(self, path: str) -> list[T]:
        """All items that want this path: `items`, then what `find` returns."""
        return [*self.items, *self.find(path)] if self.by_path else list(self.items)

    def is_same_as(self, other: Route[T]) -> bool:
        """Whether events of both go to the same items, whatever their paths."""
        return self.items == other.items and not self.by_path and not other.by_path

    def set_items(self, items: tuple[T, ...]) -> None:
        """Replace the items that want every path."""
        self.items = items
        self._everywhere = None

    def expire(self) -> None:
        """Have this found anew when it is used again, and keep no item alive meanwhile."""
        self.set_items(())
        self.by_path = ()
        self.version = _STALE

    def __repr__(self) -> str:
        paths = ", and others by path" if self.by_path else ""
        return f"<Route of {self.system!r}, {self.kind!r}: {len(self.items)} items{paths}>"


@final
class _Change(Generic[T]):
    """An interest that came or went, for routes that were remembered before."""

    __slots__ = ("index", "interest", "item")

    def __init__(
        self, interest: Interest, *, item: T | None = None, index: _PathIndex[T] | None = None
    ) -> None:
        self.interest = interest
        # For an interest in every path: the item.
        self.item = item
        # For an interest in certain paths: the index that came or went, if there is just one.
        self.index = index


@final
class RoutingTable(Generic[T]):
    """A set of items, each under one or more interests, found by system, kind and path.

    Pure and synchronous.

    Args:
      max_remembered: How many routes are remembered. Beyond that, the oldest is forgotten.
    """

    def __init__(self, max_remembered: int = 4096) -> None:
        self._root: _Node[T] = _Node()
        self._interests: dict[T, dict[Interest, None]] = {}
        self._places: dict[T, int] = {}
        self._added = 0  # items ever: the place of the next one
        self._max_remembered = max_remembered
        self.routes: dict[str, dict[str, Route[T]]] = {}
        """The routes that are remembered, by system, then kind. To be read only.

        Use `match` to get one: those in here may have to be brought up to date. A caller that
        checks names before `match` needn't check those of a remembered route.
        """

        self._oldest_first: deque[Route[T]] = deque()
        # Each change that remembered routes haven't been told makes a new version. A route is
        # brought up to date when it is used: by the changes since its version, if they are still
        # in the journal.
        self._version = 0
        self._journal: deque[_Change[T]] = deque(maxlen=_JOURNAL)

    def __len__(self) -> int:
        """The number of items."""
        return len(self._interests)

    @property
    def remembered(self) -> int:
        """The number of routes that are remembered."""
        return len(self._oldest_first)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is left: no item, no node, no remembered route."""
        leftovers = self._interests, self._places, self.routes, self._oldest_first, self._journal
        return not any(leftovers) and self._root.is_bare

    def add(self, item: T, interest: Interest) -> None:
        """Add an item, or another interest of an item that is there.

        The place of an item in the order is that of its first interest.

        Raises:
          ValueError: If the item has this interest already.
        """
        interests = self._interests.setdefault(item, {})
        if interest in interests:
            raise ValueError(f"{item!r} has been added under {interest} before")
        interests[interest] = None
        if item not in self._places:
            self._places[item] = self._added
            self._added += 1
        names, paths = _steps(interest)
        nodes = _descend(self._root, names)
        if interest.path is None:
            for node in nodes:
                _put(node.items, item)
            self._note(_Change(interest, item=item))
            return
        new = False
        for node in nodes:
            if node.paths is None:
                node.paths = _PathIndex()
                new = True
            node.paths.add(item, interest.path, paths)
        if new:  # routes lead to the index, not to what is in it
            self._note(_Change(interest, index=node.paths if len(nodes) == 1 else None))

    def remove(self, item: T, interest: Interest) -> None:
        """Remove an interest of an item; with its last interest, the item goes.

        Raises:
          KeyError: If the item doesn't have this interest.
        """
        del self._interests[item][interest]
        names, paths = _steps(interest)
        nodes = _descend(self._root, names)
        change = None
        for node in nodes:
            if interest.path is None:
                _take(node.items, item)
            else:
                index = node.paths
                assert index is not None
                index.remove(item, interest.path, paths)
                if index.is_bare:
                    node.paths = None
                    change = _Change(interest, index=index if len(nodes) == 1 else None)
            node.prune()
        if not self._interests[item]:
            del self._interests[item], self._places[item]
        if not self._interests:
            self.forget_routes()
        elif interest.path is None:
            self._note(_Change(interest, item=item))
        elif change is not None:
            self._note(change)

    def match(self, system: str, kind: str) -> Route[T]:
        """The route of a system and a kind, which is remembered.

        Args:
          system: A name; it isn't checked here.
          kind: Likewise.
        """
        try:
            route = self.routes[system][kind]
        except KeyError:
            route = self._remember(system, kind)
        if route.version != self._version:
            self._update(route)
        return route

    def peek(self, system: str, kind: str) -> Route[T]:
        """The same, remembering nothing new."""
        if kind in self.routes.get(system, ()):
            return self.match(system, kind)
        route = Route(system, kind, self._places)
        self._find(route)
        return route

    def forget_routes(self) -> None:
        """Forget all remembered routes."""
        self.routes.clear()
        self._oldest_first.clear()
        self._journal.clear()

    def _find(self, route: Route[T]) -> None:
        """Set all that a route says, by a walk."""
        systems = _walk_name([self._root], route.system)
        kinds = _walk_name(
            [node.edges[_KINDS] for node in systems if _KINDS in node.edges], route.kind
        )
        found: dict[T, int] = {}
        indexes = []
        for nodes in (systems, kinds):
            for node in nodes:
                found |= node.items
                if node.paths is not None:
                    indexes.append(node.paths)
        route.set_items(tuple(sorted(found, key=self._places.__getitem__)))
        route.by_path = tuple(indexes)
        route.version = self._version

    def _remember(self, system: str, kind: str) -> Route[T]:
        if len(self._oldest_first) >= self._max_remembered:
            self._forget(self._oldest_first.popleft())
        route = Route(system, kind, self._places)
        self._find(route)
        self.routes.setdefault(system, {})[kind] = route
        self._oldest_first.append(route)
        return route

    def _forget(self, route: Route[T]) -> None:
        kinds = self.routes[route.system]
        del kinds[route.kind]
        if not kinds:
            del self.routes[route.system]

    def _note(self, change: _Change[T]) -> None:
        """Have remembered routes learn of a change, without looking at all of them."""
        interest = change.interest
        system = interest.system.literal
        if system is not None:
            kinds = self.routes.get(system, {})
            kind = None if interest.kind is None else interest.kind.literal
            affected = kinds.values() if kind is None else [kinds[kind]] if kind in kinds else []
            if len(affected) <= _JOURNAL:
                for route in affected:
                    if interest.matches_names(route.system, route.kind):
                        route.expire()
                return
        if not self._oldest_first:
            return
        self._version += 1
        self._journal.append(change)
        for _ in range(min(_INSPECTED, len(self._oldest_first))):
            route = self._oldest_first.popleft()
            if self._version - route.version > len(self._journal):
                self._forget(route)
            else:
                self._oldest_first.append(route)

    def _update(self, route: Route[T]) -> None:
        """Apply the changes since the route's version, or find it anew."""
        pending = self._version - route.version
        kept = len(self._journal)
        if pending > kept or not all(
            self._apply(change, route) for change in islice(self._journal, kept - pending, None)
        ):
            self._find(route)
        route.version = self._version

    def _apply(self, change: _Change[T], route: Route[T]) -> bool:
        """Make a route right as far as a change has a part in it; False if that isn't simple.

        What a change says is "look again": what is right is read from the table as it is now. So
        changes can be applied in any order, and more than once.
        """
        if not change.interest.matches_names(route.system, route.kind):
            return True
        if change.interest.path is not None:
            if change.index is None:
                return False
            indexes = tuple(index for index in route.by_path if index is not change.index)
            route.by_path = indexes if change.index.is_bare else (*indexes, change.index)
            return True
        item = cast("T", change.item)
        interests = self._interests.get(item, {})
        if len(interests) > _FEW:
            return False
        wanted = change.interest in interests or any(
            interest.path is None and interest.matches_names(route.system, route.kind)
            for interest in interests
        )
        place = route.items.index(item) if item in route.items else len(route.items)
        others = route.items[:place] + route.items[place + 1 :]
        if wanted:
            # It may have been removed and added again, so its place may be new. Items that have
            # gone have none: their own changes are still to come.
            others = tuple(sorted((*others, item), key=lambda item: self._places.get(item, -1)))
        route.set_items(others)
        return True


_Steps: TypeAlias = Sequence[Sequence[Segment]]
"""For each segment of a pattern the edges to follow: one, or one for each alternative."""


def _steps(interest: Interest) -> tuple[_Steps, _Steps]:
    """The steps to the nodes of an interest: by its names, and from there by its path pattern."""
    names = interest.system.segments
    if interest.kind is not None:
        names = (*names, _KINDS, *interest.kind.segments)
    path = interest.path.segments if isinstance(interest.path, Pattern) else ()
    labels = (*names, *path)
    # What follows a segment is there once for each of its alternatives. If nothing follows, all
    # that the edge of the group leads to is wanted, so that it costs nothing to look at.
    following = len(labels) + (1 if isinstance(interest.path, str) else 0)
    steps: list[Sequence[Segment]] = []
    copies = 1
    for label in labels:
        group = sorted(literals_of(label))
        following -= 1
        if following and copies * len(group) * (following + 1) <= _MAX_NODES:
            steps.append(group)
            copies *= len(group)
        else:
            steps.append([label])
    return steps[: len(names)], steps[len(names) :]


def _descend(root: _Node[T], steps: _Steps) -> list[_Node[T]]:
    """The nodes at the end of the steps, made if they are not there."""
    nodes = [root]
    for step in steps:
        nodes = [node.child(label) for node in nodes for label in step]
    return nodes


def _put(items: dict[T, int], item: T) -> None:
    items[item] = items.get(item, 0) + 1


def _take(items: dict[T, int], item: T) -> None:
    items[item] -= 1
    if not items[item]:
        del items[item]


def _segments(path: str) -> Iterator[str]:
    """The segments of a path, one at a time: few of a long one may be needed."""
    start = 0
    while (end := path.find("/", start)) != -1:
        yield path[start:end]
        start = end + 1
    yield path[start:]


def _walk_name(starts: Sequence[_Node[T]], name: str) -> Iterable[_Node[T]]:
    return _walk(starts, name.split("."), reserved=name.startswith(RESERVED))


def _walk(
    starts: Sequence[_Node[T]], segments: Iterable[str], *, reserved: bool = False
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
            if node.loops and wildcards_match:
                _enter(node, after)
            for label in (segment, ONE) if wildcards_match else (segment,):
                if label in node.edges:
                    _enter(node.edges[label], after)
            for child in node.alternatives.get(segment, ()):
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
