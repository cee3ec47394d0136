"""Routes with paths: what asking every item in turn finds, at a cost that stays flat."""

from __future__ import annotations

import gc
import weakref
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trio_events import ExactPath
from trio_events._names.interest import Interest
from trio_events._names.routing import Route, RoutingTable

from ..steps import count_lines
from .strategies import examples, small_names, small_patterns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

SYSTEMS = ("a", "b", "a.b", "a.a.b", "c", "$x", "a.$x")
KINDS = ("a", "b", "a.b", "$x")
PATHS = (
    *("/", "/a", "/b", "/a/b", "a", "//", "/a/b/c/a/b", "/*", "**", "*", "/(a)", ".", "a/./b"),
    *("|", "/|", "a/|/b", "./", ".=", "a/**/b"),
)
FILTERS: tuple[str | ExactPath | None, ...] = (
    *(None, None, "/a", "/b", "/a/b", "//", "a", "/*", "/a/*", "**", "/**", "**/b", "/**/b/**"),
    *("/(a|b)", "(a|b)/*", "/(a|b)/(b|c)/**", "*", "*/*", "./*", "a/(.|b)/*"),
    *(ExactPath("/*"), ExactPath("**"), ExactPath("/(a)"), ExactPath("|"), ExactPath(".=")),
    "/".join(["(a|b|c|.|x1|x2|x3|x4|x5|x6)"] * 3),  # too many combinations to put in one by one
)


def interest(system: str, kind: str | None = None, path: str | ExactPath | None = None) -> Interest:
    return Interest.of(system, kind, path)


class AskingEveryone:
    """What a table is to find, found by asking every item about all its interests."""

    def __init__(self) -> None:
        self.items: dict[int, list[Interest]] = {}
        self.matches = cache(Interest.matches)  # it's asked the same again and again

    def add(self, item: int, interest: Interest) -> None:
        self.items.setdefault(item, []).append(interest)

    def remove(self, item: int, interest: Interest) -> None:
        self.items[item].remove(interest)
        if not self.items[item]:
            del self.items[item]

    def everywhere(self, system: str, kind: str) -> list[int]:
        return [
            item
            for item, interests in self.items.items()
            if any(i.path is None and self.matches(i, system, kind, "/") for i in interests)
        ]

    def somewhere(self, system: str, kind: str) -> bool:
        return any(
            i.path is not None and i.matches_names(system, kind)
            for interests in self.items.values()
            for i in interests
        )

    def find(self, system: str, kind: str, path: str) -> list[int]:
        everywhere = self.everywhere(system, kind)
        return [
            item
            for item, interests in self.items.items()
            if item not in everywhere
            and any(self.matches(i, system, kind, path) for i in interests)
        ]


def assert_right(route: Route[int], model: AskingEveryone, system: str, kind: str) -> None:
    items = model.everywhere(system, kind)
    assert route.items == tuple(items)
    assert bool(route.by_path) is model.somewhere(system, kind)
    for path in PATHS:
        found = model.find(system, kind, path)
        assert route.find(path) == found, path
        assert route.recipients(path) == [*items, *found]


_interests = st.builds(
    Interest.of,
    st.sampled_from(["a", "b", "*", "**", "a.**", "(a|b)", "(a|b).**", "$x", "a.b"])
    | small_patterns(max_segments=4),
    st.none() | st.sampled_from(["a", "*", "(a|b)"]) | small_patterns(max_segments=3),
    st.sampled_from(FILTERS),
)


class RoutingMachine(RuleBasedStateMachine):
    """Additions, removals and look-ups in any order, on a table and on the slow model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable[int]()
        self.model = AskingEveryone()
        self.bound = 4096
        self.next_item = 0

    @initialize(bound=st.sampled_from([1, 3, 20, 4096]))
    def start(self, bound: int) -> None:
        self.bound = bound
        self.table = RoutingTable[int](bound)

    @rule(interest=_interests)
    def add(self, interest: Interest) -> None:
        self._add(self.next_item, interest)
        self.next_item += 1

    @precondition(lambda self: self.model.items)
    @rule(interest=_interests, data=st.data())
    def add_to_an_item(self, interest: Interest, data: st.DataObject) -> None:
        self._add(data.draw(st.sampled_from(list(self.model.items))), interest)

    @precondition(lambda self: self.next_item)
    @rule(interest=_interests, data=st.data())
    def add_an_item_that_was_there_before(self, interest: Interest, data: st.DataObject) -> None:
        self._add(data.draw(st.integers(0, self.next_item - 1)), interest)

    def _add(self, item: int, interest: Interest) -> None:
        if interest in self.model.items.get(item, []):
            with pytest.raises(ValueError, match="already has the interest"):
                self.table.add(item, interest)
        else:
            self.table.add(item, interest)
            self.model.add(item, interest)

    @precondition(lambda self: self.model.items)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(list(self.model.items)))
        interest = data.draw(st.sampled_from(self.model.items[item]))
        self.table.remove(item, interest)
        self.model.remove(item, interest)

    @precondition(lambda self: self.model.items)
    @rule(item=st.integers(0, 50), interest=_interests)
    def remove_what_is_not_there(self, item: int, interest: Interest) -> None:
        if interest not in self.model.items.get(item, []):
            with pytest.raises(KeyError):
                self.table.remove(item, interest)

    @rule(system=st.sampled_from(SYSTEMS) | small_names(), kind=st.sampled_from(KINDS))
    def match(self, system: str, kind: str) -> None:
        route = self.table.match(system, kind)
        assert_right(route, self.model, system, kind)
        if not system.startswith("$"):  # those are the bus's own, and routed anew each time
            assert self.table.match(system, kind) is route

    @rule()
    def match_many(self) -> None:
        for system, kind in product(SYSTEMS, KINDS):
            assert_right(self.table.match(system, kind), self.model, system, kind)

    @rule(system=st.sampled_from(SYSTEMS), kind=st.sampled_from(KINDS))
    def peek(self, system: str, kind: str) -> None:
        remembered = self.remembered()
        assert_right(self.table.peek(system, kind), self.model, system, kind)
        # Nothing new is remembered. A route that is out of date is found anew, and when as many
        # have been found as may be remembered, that forgets the others.
        assert self.remembered() <= remembered

    def remembered(self) -> set[tuple[str, str]]:
        """The systems and kinds whose routes are remembered."""
        return {(system, kind) for system, kinds in self.table.routes.items() for kind in kinds}

    @invariant()
    def it_counts_right(self) -> None:
        assert len(self.table) == len(self.model.items)
        routes = sum(map(len, self.table.routes.values()))
        assert self.table.remembered == routes <= self.bound

    def teardown(self) -> None:
        for item, interests in list(self.model.items.items()):
            for i in list(interests):
                assert not self.table.is_empty
                self.table.remove(item, i)
                self.model.remove(item, i)
        self.table.forget_routes()  # some may have been asked for when nothing was there
        assert self.table.is_empty


TestRoutingMachine = RoutingMachine.TestCase
TestRoutingMachine.settings = settings(examples(50), stateful_step_count=40)


@examples(100)
@given(st.lists(_interests, max_size=12), st.sampled_from(SYSTEMS), st.sampled_from(KINDS))
def test_any_table_finds_what_asking_each_pattern_finds(
    interests: list[Interest], system: str, kind: str
) -> None:
    table, model = RoutingTable[int](), AskingEveryone()
    for item, wanted in enumerate(interests):
        table.add(item, wanted)
        model.add(item, wanted)
    assert_right(table.match(system, kind), model, system, kind)


@examples(100)
@given(st.lists(_interests, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_removing_everything_leaves_nothing_behind(
    interests: list[Interest], random: Random
) -> None:
    table = RoutingTable[int]()
    for item, wanted in enumerate(interests):
        table.add(item, wanted)
        table.match("a", "a").find("/a")
    order = list(enumerate(interests))
    random.shuffle(order)
    for item, wanted in order:
        assert not table.is_empty
        table.remove(item, wanted)
    assert len(table) == 0
    assert table.is_empty


# ------------------------------------------------------------------------------- several interests


def test_an_item_with_several_interests_is_found_once() -> None:
    table = RoutingTable[str]()
    table.add("x", interest("a", "k"))
    table.add("x", interest("*", None))
    table.add("x", interest("a", None, "/p"))
    table.add("y", interest("a", None, "/p"))
    table.add("y", interest("**", None, "/*"))
    route = table.match("a", "k")
    assert route.items == ("x",)
    assert route.find("/p") == ["y"]
    assert route.recipients("/p") == ["x", "y"]
    table.remove("x", interest("a", "k"))
    assert table.match("a", "k").items == ("x",)
    table.remove("x", interest("*", None))
    assert table.match("a", "k").items == ()
    assert table.match("a", "k").recipients("/p") == ["x", "y"]
    assert len(table) == 2


def test_alternatives_and_their_literals_are_interests_of_their_own() -> None:
    table = RoutingTable[str]()
    wanted = [interest(system, "k.(l|m)", "/(p|q)/r") for system in ("a", "(a|b)", "(a|c)")]
    for one in wanted:
        table.add("x", one)
    for gone, one in enumerate(wanted):
        assert table.match("a", "k.l").find("/p/r") == ["x"]
        assert table.match("b", "k.l").find("/p/r") == (["x"] if gone <= 1 else [])
        table.remove("x", one)
    assert table.match("a", "k.l").find("/p/r") == []
    table.forget_routes()
    assert table.is_empty


def test_the_place_of_an_item_is_that_of_its_first_interest() -> None:
    table = RoutingTable[str]()
    table.add("first", interest("other"))
    table.add("second", interest("a"))
    assert table.match("a", "k").items == ("second",)
    table.add("first", interest("**"))
    assert table.match("a", "k").items == ("first", "second")


def test_an_item_that_was_removed_and_added_again_goes_to_the_end() -> None:
    table = RoutingTable[str]()
    for item in "xyz":
        table.add(item, interest("**"))
    assert table.match("a", "k").items == ("x", "y", "z")
    table.remove("x", interest("**"))
    table.add("x", interest("**"))
    assert table.match("a", "k").items == ("y", "z", "x")


def test_an_item_with_many_interests_is_found_while_one_of_them_matches() -> None:
    table = RoutingTable[str]()
    wanted = [interest(f"**.{letter}.**") for letter in "abcdefgh"]
    names = [".".join("abcdefgh"[n:]) for n in range(8)]
    table.add("y", interest("**"))
    for one in wanted:
        assert table.match("h", "k").items == ("y",)
        table.add("x", one)
    for gone, one in enumerate(wanted):
        assert all(table.match(name, "k").items == ("y", "x") for name in names[gone:])
        table.remove("x", one)
    assert table.match("h", "k").items == ("y",)


def test_the_same_interest_twice_is_refused_and_changes_nothing() -> None:
    table = RoutingTable[str]()
    table.add("x", interest("(a|b)"))
    with pytest.raises(ValueError, match=r"'x' already has the interest '\(a\|b\)'"):
        table.add("x", interest("(b|a)"))
    table.remove("x", interest("(b|a)"))
    assert table.is_empty
    with pytest.raises(KeyError):
        table.remove("x", interest("a"))


# ----------------------------------------------------------------------------- remembered routes


def test_a_wildcard_that_comes_and_goes_costs_a_remembered_route_a_few_lines() -> None:
    table = RoutingTable[int]()
    for item in range(200):
        table.add(item, interest(f"s{item}.**", None))
    for number in range(1_000):
        table.match(f"s{number % 200}.x", f"k{number}")

    def unchanged() -> None:
        assert table.match("s7.x", "k7").items == (7,)

    walk = count_lines(lambda: table.peek("s7.x", "k"), at_most=1_000)
    before = count_lines(unchanged, at_most=1_000)
    after = []
    for round_ in range(50):
        for change in (table.add, table.remove):
            change(1_000, interest("*.y.**" if round_ % 2 else "**", "k1"))
            after.append(count_lines(unchanged, at_most=1_000))
    # A few times, all routes are forgotten: then it costs what a new route does.
    assert sorted(after)[89] <= before + 40
    assert max(after) <= before + walk + 20
    assert sum(after) <= 100 * (before + 40)


def test_a_change_that_has_nothing_to_do_with_a_route_leaves_it_alone() -> None:
    table = RoutingTable[int]()
    table.add(0, interest("a.*"))
    route = table.match("a.x", "k")
    for other in (interest("*", "k"), interest("a.*", "l.**"), interest("b.**", None, "/x")):
        table.add(1, other)
        assert table.match("a.x", "k") is route
        table.remove(1, other)
        assert table.match("a.x", "k") is route


def test_a_change_costs_the_same_however_many_routes_are_remembered() -> None:
    def lines(routes: int, system: str, path: str | None) -> int:
        table = RoutingTable[int]()
        table.add(0, interest("**"))
        for number in range(routes):
            table.match(f"s.{number % 100}", f"k{number}")

        def change() -> None:
            for _ in range(20):
                table.add(1, interest(system, None, path))
                table.remove(1, interest(system, None, path))

        return count_lines(change, at_most=100_000)

    for system, path in product(("**", "s.*", "s.1", "(s|t).(1|2)"), (None, "/x", "/*")):
        assert lines(4_000, system, path) <= lines(100, system, path) + 1_000


def test_a_change_in_one_system_does_not_touch_the_routes_of_another() -> None:
    table = RoutingTable[int]()
    table.add(0, interest("a.*"))
    route = table.match("a.b", "k")
    table.match("c", "k")
    version = route.version
    for _ in range(100):
        table.add(1, interest("c", "k"))
        table.remove(1, interest("c", "k"))
    assert table.match("a.b", "k") is route
    assert route.version == version


def test_when_as_many_routes_are_remembered_as_allowed_a_new_one_replaces_them() -> None:
    table = RoutingTable[int](3)
    for name in "abcabc":
        table.match(name, "k")
    assert list(table.routes) == ["a", "b", "c"]
    assert table.remembered == 3
    table.match("d", "k")
    assert list(table.routes) == ["d"]
    assert table.remembered == 1


class Item:
    """Something that can be seen to go away."""


@pytest.mark.parametrize("path", [None, "/a", "/*"])
@pytest.mark.parametrize("system", ["a", "**", "(a|b)"])
def test_what_was_removed_is_not_kept_alive_for_long(system: str, path: str | None) -> None:
    table = RoutingTable[Item]()
    keeper = Item()
    table.add(keeper, interest("keep", "me"))
    for number in range(100):
        table.match(*("a", f"k{number}"))
    item = Item()
    gone = weakref.ref(item)
    table.add(item, interest(system, None, path))
    for number in range(100):
        assert (item in table.match("a", f"k{number}").items) is (path is None)
    table.remove(item, interest(system, None, path))
    del item
    for _ in range(100):  # changes that have nothing to do with it
        table.add(keeper, interest("x.*"))
        table.remove(keeper, interest("x.*"))
    assert gone() is None


def test_an_empty_table_keeps_nothing_alive() -> None:
    table = RoutingTable[Item]()
    item = Item()
    gone = weakref.ref(item)
    table.add(item, interest("**"))
    table.match("a", "k")
    table.remove(item, interest("**"))
    del item
    gc.collect()
    assert gone() is None
    assert table.is_empty


# --------------------------------------------------------------------------------------------- cost


def _lines(others: Sequence[tuple[str, str | None, str | None]], path: str = "/u/x/y") -> int:
    """The lines that an event takes whose route is not remembered, beside others."""
    table = RoutingTable[int]()
    table.add(-1, interest("a.x", "k"))
    table.add(-2, interest("a.*", None, "/u/x/*"))
    for item, other in enumerate(others):
        table.add(item, interest(*other))

    def event() -> None:
        assert table.peek("a.x", "k").recipients(path) == [-1, -2]

    return count_lines(event, at_most=100_000)


Other = tuple[str, "str | None", "str | None"]


@pytest.mark.parametrize(
    "other",
    [
        lambda n: ("a.x", "k", f"/u/{n}/*"),
        lambda n: ("a.*", None, f"/u/{n}"),
        lambda n: ("a.*", None, f"/u/(x|y{n})/c{n}"),
        lambda n: ("a.*", None, f"/(u|b{n})/c{n}/*"),
        lambda n: ("a.*", None, f"(a|b{n})/c{n}"),
        lambda n: ("**", "k", f"/**/c{n}"),
        lambda n: (f"(a|b{n}).c{n}", None, None),
        lambda n: (f"(a|b{n}).*.c{n}", None, None),
        lambda n: (f"(a|b{n}).x", f"k{n}", None),
        lambda n: (f"(a|b{n}).(x|y{n})", f"(k|l{n}).m{n}", None),
        lambda n: (f"(a|b{n}).(x|y{n})", "(k|l).m", f"/(u|v{n})/*"),
        lambda n: (f"(a|b{n}).(x|y{n})", "k", f"/{n}"),
        lambda n: (f"a.(x|y{n})", "k", f"/u/{n}"),
    ],
    ids=lambda other: str(other(0)),
)
def test_an_event_costs_the_same_among_ten_and_two_thousand_others(
    other: Callable[[int], Other],
) -> None:
    few, many = (_lines([other(n) for n in range(count)]) for count in (10, 2_000))
    assert many <= 1.1 * few


def test_a_long_path_costs_no_more_than_the_trie_is_deep() -> None:
    others: list[Other] = [("a.*", None, "/u/**"), ("a.*", None, "/*/*/*/*")]
    table = RoutingTable[int]()
    for item, other in enumerate(others):
        table.add(item, interest(*other))
    route = table.match("a.x", "k")

    def lines(path: str) -> int:
        return count_lines(lambda: route.find(path), at_most=10_000)

    assert route.find("/u" + "/x" * 100_000) == [0]
    assert lines("/u" + "/x" * 100_000) <= lines("/u" + "/x" * 20)


def test_ten_thousand_items_of_one_system_come_and_go_in_linear_time() -> None:
    def lines(count: int, path: str | None, order: int) -> int:
        table = RoutingTable[int]()
        table.match("a", "k")

        def run() -> None:
            for item in range(count):
                table.add(item, interest("a", None, path and path.format(item)))
            for item in range(count)[::order]:
                table.remove(item, interest("a", None, path and path.format(item)))

        lines = count_lines(run, at_most=10_000_000)
        assert table.is_empty
        return lines

    for path, order in product((None, "/x", "/u/{}", "/u/{}/*"), (1, -1)):
        assert lines(2_000, path, order) <= 10.5 * lines(200, path, order)


def test_a_pattern_of_many_alternatives_takes_a_bounded_number_of_nodes() -> None:
    wide = ".".join(["(a|b|c|d)"] * 16)

    def run() -> None:
        table = RoutingTable[int]()
        table.add(0, interest(wide, wide, wide.replace(".", "/")))
        name = ".".join("abcd" * 4)
        assert table.match(name, name).find(name.replace(".", "/")) == [0]
        table.remove(0, interest(wide, wide, wide.replace(".", "/")))
        assert table.is_empty

    count_lines(run, at_most=60_000)


def test_groups_that_are_not_expanded_are_distinguished() -> None:
    groups = ["(" + "|".join(f"{letter}{n}" for n in range(10)) + ")" for letter in "abc"]
    table = RoutingTable[int]()
    for item, last in enumerate(groups):
        wide = [groups[0], groups[0], last, "(x|y)"]
        table.add(item, interest(".".join(wide), None, "/".join(wide)))
    for item, letter in enumerate("abc"):
        route = table.match(f"a1.a2.{letter}3.x", "k")
        assert route.items == ()
        assert route.find(f"a4/a5/{letter}6/y") == [item]
        assert route.find(f"a4/a5/{letter}6/z") == []
    assert not table.match("a1.a2.|.x", "k").by_path
    assert table.match("a1.a2.b3.x", "k").find("a4/a5/|/y") == []
    for item, last in enumerate(groups):
        wide = [groups[0], groups[0], last, "(x|y)"]
        table.remove(item, interest(".".join(wide), None, "/".join(wide)))
    assert table.is_empty


def test_a_route_shows_what_it_is() -> None:
    table = RoutingTable[int]()
    table.add(0, interest("a"))
    assert repr(table.match("a", "k")) == "<Route of 'a', 'k': 1 items>"
    table.add(1, interest("a", None, "/x"))
    assert repr(table.match("a", "k")) == "<Route of 'a', 'k': 1 items, and others by path>"
