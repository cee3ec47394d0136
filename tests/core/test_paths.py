"""Subscriptions to the events of some paths only, against an oracle that is slow and obvious."""

from __future__ import annotations

from functools import partial
from itertools import product

import attrs
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    ErrorKind,
    Event,
    EventBus,
    InvalidPatternError,
    Overflow,
    Pattern,
    Subscription,
    open_event_bus,
)
from trio_events._core.actor import SubscriptionActor
from trio_events._core.pace import Pace
from trio_events._core.router import Router
from trio_events._names.interest import Interest
from trio_events._names.pattern import path_filter

from ..names.strategies import examples
from ..observing import assert_books, drain, wake
from ..steps import count_lines
from ..time_limit import run_with_time_limit


def wants(path: str | None, event_path: str) -> bool:
    """Whether a subscription with `path=path` is to get an event, letter by letter."""
    if path is None:
        return True
    if not any(character in path for character in "*()|"):
        return event_path == path
    return _fits(path.split("/"), event_path.split("/"))


def _fits(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    head, *tail = pattern
    if head == "**":
        return any(_fits(tail, path[skipped:]) for skipped in range(len(path) + 1))
    if not path:
        return False
    allowed = head[1:-1].split("|") if head.startswith("(") else [head]
    return (head == "*" or path[0] in allowed) and _fits(tail, path[1:])


def filter_matches(path: str, event_path: str) -> bool:
    wanted = path_filter(path)
    return wanted == event_path if isinstance(wanted, str) else wanted.matches(event_path)


# --------------------------------------------------------------------------------- what is matched


@pytest.mark.parametrize(
    ("path", "matched", "others"),
    [
        ("/x/1", ["/x/1"], ["/x", "/x/1/", "x/1", "//x/1", "/X/1", "/x/12"]),
        ("/x/*", ["/x/1", "/x/", "/x/a b.c"], ["/x", "/x/1/2", "x/1"]),
        ("/orders/**", ["/orders", "/orders/", "/orders/1/2/3"], ["/order", "orders/1", "/"]),
        ("/**/lines", ["/lines", "/a/lines", "/a//lines"], ["lines", "/lines/", "/a/lines/1"]),
        ("/(a|b)/x", ["/a/x", "/b/x"], ["/c/x", "/a|b/x", "/a", "//x"]),
        ("/(a)", ["/a"], ["/(a)", "a", "/"]),
        ("*", ["a", "a.b.c", "$a", " "], ["/a", "a/", "/"]),
        ("**", ["a", "/", "//", "/a/b", "$x/y", "\0"], []),
        ("*/*", ["/", "a/", "/b", "a/b"], ["a", "//", "/a/b"]),
        ("/a//*", ["/a//", "/a//x"], ["/a/", "/a/x/", "/a/x"]),
        ("/a/*/", ["/a/x/", "/a//"], ["/a/x", "/a/"]),
        ("**/", ["/", "a/", "/a/b/"], ["a", "/a"]),
        ("/(ä|\U0001f980)/**", ["/ä", "/\U0001f980/x"], ["/a\u0308", "/Ä"]),
        ("/a.b/*", ["/a.b/c"], ["/a/b/c", "/a.b.c"]),
    ],
)  # fmt: skip
def test_a_path_filter_matches(path: str, matched: list[str], others: list[str]) -> None:
    for event_path in matched:
        assert wants(path, event_path), "the oracle"
        assert filter_matches(path, event_path)
    for event_path in others:
        assert not wants(path, event_path), "the oracle"
        assert not filter_matches(path, event_path)


_SEGMENTS = ("", "a", "b", "*", "**", "(a|b)")


def test_every_small_path_pattern_matches_what_the_oracle_says() -> None:
    names = ["/".join(parts) for n in (1, 2, 3, 4) for parts in product(("", "a", "c"), repeat=n)]
    for count in (1, 2, 3):
        for segments in product(_SEGMENTS, repeat=count):
            path = "/".join(segments)
            if path:
                matched = [name for name in names if name and filter_matches(path, name)]
                assert matched == [name for name in names if name and wants(path, name)], path


_odd = st.characters(exclude_categories=(), exclude_characters="*()|/")  # surrogates as well
_words = st.text(_odd, max_size=3)
_literals = st.text(_odd, min_size=1, max_size=3)
_groups = st.lists(_literals, min_size=1, max_size=4).map(lambda words: f"({'|'.join(words)})")
_patterns = (
    st.lists(st.sampled_from(_SEGMENTS) | _words | _groups, min_size=1, max_size=6)
    .map("/".join)
    .filter(bool)
)
_names = st.lists(st.sampled_from(["", "a", "b"]) | _words, min_size=1, max_size=7).map("/".join)


@st.composite
def _instances(draw: st.DrawFn, path: str) -> str:
    """Draw a path that the pattern matches, or nearly so."""
    parts: list[str] = []
    for segment in path.split("/"):
        if segment == "**":
            parts += draw(st.lists(st.sampled_from(["", "a", "z"]), max_size=3))
        elif segment == "*":
            parts.append(draw(_words))
        else:
            parts.append(draw(st.sampled_from(segment.strip("()").split("|"))))
    return draw(st.sampled_from(["", "", "", "/"])) + "/".join(parts)


@examples(300)
@given(_patterns, st.data())
def test_any_path_filter_matches_what_the_oracle_says(path: str, data: st.DataObject) -> None:
    event_path = data.draw((_instances(path) | _names).filter(bool))
    assert filter_matches(path, event_path) is wants(path, event_path)


@examples(200)
@given(_patterns, _names)
def test_the_path_that_a_subscription_shows_means_the_same(path: str, name: str) -> None:
    shown = str(path_filter(path))
    assert str(path_filter(shown)) == shown
    assert filter_matches(shown, name) is filter_matches(path, name)


@example("/" * 10_000)
@example("a" * 10_000)
@given(_names.filter(bool))
def test_a_text_without_pattern_characters_is_one_path_however_long(path: str) -> None:
    assert path_filter(path) == path


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("path", "position"),
    [
        ("", 0),
        ("/a*", 2),
        ("/a/*b", 3),
        ("/a/***", 3),
        ("/a/(b", 3),
        ("/a/b)", 4),
        ("/a|b", 2),
        ("/(a|)", 4),
        ("/(|a)", 2),
        ("/()", 2),
        ("/((a))", 2),
        ("/(a|*)", 4),
        ("/(a/b)", 3),
        ("/(a)b", 4),
        ("/x(a)", 2),
        ("/*" * 17, 31),
        ("/**" + "/a" * 16, 32),
        ("*/" + "a" * 600, 512),
        (f"/({'|'.join(f'x{n:02}' for n in range(65))})", 2 + 64 * 4),
    ],
)
async def test_an_invalid_path_pattern_is_refused_and_the_error_points_at_the_mistake(
    path: str, position: int, autojump_clock: MockClock
) -> None:
    with pytest.raises(InvalidPatternError) as caught:
        path_filter(path)
    assert caught.value.position == position
    assert caught.value.kind is ErrorKind.INVALID
    async with open_event_bus() as bus:
        await wait_all_tasks_blocked()
        before = bus.statistics()
        with pytest.raises(InvalidPatternError) as caught:
            await bus.subscribe("a", path=path)
        assert caught.value.position == position
        assert bus.statistics() == before


def test_alternatives_of_paths_may_have_dots_and_not_slashes() -> None:
    assert filter_matches("/(a.b|c)", "/a.b")
    with pytest.raises(InvalidPatternError, match="without slashes"):
        path_filter("/(a/b|c)")


@pytest.mark.parametrize("path", [1, b"/x", ["/x"], True, Pattern.parse("a")])
async def test_a_path_must_be_a_str(path: str, autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="path must be a str"):
            await bus.subscribe("a", path=path)


# ----------------------------------------------------------------------------------- subscriptions


async def test_a_subscription_shows_its_path_in_canonical_form(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        for path, shown in [
            (None, None),
            ("/x//", "/x//"),
            ("/**/**/*", "/*/**"),
            ("/(b|a|b)", "/(a|b)"),
            ("/(a)", "/a"),
        ]:
            subscription = await bus.subscribe("a", "k", path=path)
            assert subscription.path == shown
            text = "" if shown is None else f" path={shown!r}"
            assert repr(subscription) == f"<Subscription 'a' kind='k'{text} 0/256 buffered>"


async def test_only_the_events_of_the_path_are_received_in_order(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        exact = await bus.subscribe("a", path="/x/1")
        pattern = await bus.subscribe("a.**", "k", path="/x/*")
        everything = await bus.subscribe("**")
        for path in ("/x/1", "/y/1", "/x/2", "/x/1", "/x/1/"):
            await bus.send("a", "k", path)
        await bus.send("b", "k", "/x/1")
        await bus.send("a", "l", "/x/1")
        await wait_all_tasks_blocked()
        assert drain(exact.channel()) == ["/x/1", "/x/1", "/x/1"]
        assert drain(pattern.channel()) == ["/x/1", "/x/2", "/x/1"]
        assert_books(exact, delivered=3)
        assert_books(pattern, delivered=3)
        assert_books(everything, queued=7)


async def test_events_between_subscribe_and_close_are_received_and_no_others(
    autojump_clock: MockClock,
) -> None:
    """Also when the router finds all of it in its inbox at once."""
    for path in ("/x", "/*"):
        async with open_event_bus(checkpoint_every=1000) as bus:
            other = await bus.subscribe("a", "k", path="/x")
            bus.send_nowait("a", "k", "/x", 0)
            subscription = await bus.subscribe("a", "k", path=path)
            bus.send_nowait("a", "k", "/x", 1)
            bus.send_nowait("a", "k", "/x", 2)
            subscription.close()
            bus.send_nowait("a", "k", "/x", 3)
            bus.close()
            assert [event.data async for event in subscription] == [1, 2]
            assert [event.data async for event in other] == [0, 1, 2, 3]


async def test_subscriptions_of_one_path_index_see_one_order(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscriptions = [
            await bus.subscribe("**", path="/**"),
            await bus.subscribe("**", path="/(x|y)"),
            await bus.subscribe("**"),
        ]
        for number in range(60):
            await bus.send("ab"[number % 2], "kl"[number % 3 % 2], "/" + "xyx"[number % 3], number)
        bus.close()
        for subscription in subscriptions:
            assert [event.data async for event in subscription] == list(range(60))


async def test_what_no_path_matches_is_unmatched_and_everything_else_is_not(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("a", path="/x")
        await bus.subscribe("a", "k", path="/y/*")
        await bus.subscribe("b", path="/x")
        await bus.subscribe("b")
        for system, kind, path in [
            ("a", "k", "/x"),  # one
            ("a", "l", "/x"),
            ("a", "k", "/y/1"),  # the other
            ("a", "l", "/y/1"),  # unmatched
            ("a", "k", "/z"),  # unmatched
            ("a", "k", "/x/"),  # unmatched
            ("b", "k", "/z"),  # one without a path
            ("c", "k", "/x"),  # unmatched
        ]:
            await bus.send(system, kind, path)
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 8
        assert bus.statistics().unmatched == 4


async def test_a_path_belongs_to_the_limit_and_the_ambient_form(autojump_clock: MockClock) -> None:
    import trio_events as events  # noqa: PLC0415  # only here

    async with open_event_bus() as bus:
        subscription = await events.subscribe("a", path="/x")
        assert bus.statistics().open_subscriptions == 1
        await events.send("a", "k", "/y")
        await events.send("a", "k", "/x")
        assert (await subscription.channel().receive()).path == "/x"


# ------------------------------------------------------------------------ backpressure and overflow


@pytest.mark.parametrize("path", ["/x", "/x/**"])
async def test_a_full_subscription_stops_only_senders_of_its_paths(
    path: str, autojump_clock: MockClock
) -> None:
    sent = []

    async def send(bus: EventBus, path: str) -> None:
        await bus.send("a", "k", path)
        sent.append(path)

    async with open_event_bus() as bus:
        full = await bus.subscribe("a", "k", path=path, max_buffer_size=1)
        everything = await bus.subscribe("a", max_buffer_size=100)
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for event_path in ("/y", "/x", "/", "/xx", "/z"):
                nursery.start_soon(send, bus, event_path)
            await wait_all_tasks_blocked()
            assert sorted(sent) == ["/", "/xx", "/y", "/z"]
            assert_books(full, queued=1, tasks_waiting_send=1)
            with pytest.raises(trio.WouldBlock):
                bus.send_nowait("a", "k", "/x")
            bus.send_nowait("a", "k", "/y")
            assert drain(full.channel()) == ["/x"]
        assert sent[-1] == "/x"
        await wait_all_tasks_blocked()
        assert_books(full, delivered=1, queued=1)
        assert_books(everything, queued=7)


async def test_closing_a_full_subscription_lets_the_senders_of_its_path_go_on(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        full = await bus.subscribe("a", path="/x", max_buffer_size=1)
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.send, "a", "k", "/x")
            await wait_all_tasks_blocked()
            full.close()
        assert bus.statistics().accepted == 2
        assert drain(full.channel()) == ["/x"]
        assert_books(full, delivered=1)


@pytest.mark.parametrize(
    ("overflow", "kept", "lost"),
    [
        (Overflow.DROP_OLDEST, [3, 4], 3),
        (Overflow.DROP_INCOMING, [0, 1], 3),
        (Overflow.CLOSE, [0, 1], 3),
    ],
)
@pytest.mark.parametrize("path", ["/x", "/*"])
async def test_each_overflow_policy_counts_only_the_events_of_the_path(
    overflow: Overflow, kept: list[int], lost: int, path: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", path=path, max_buffer_size=2, overflow=overflow)
        for number in range(5):
            await bus.send("a", "k", "/x", number)
            await bus.send("a", "k", "/other/path", number)
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=2, dropped=lost)
        channel = subscription.channel()
        assert [channel.receive_nowait().data for _ in range(2)] == kept


# ---------------------------------------------------------------------------------- random programs

_PATHS = ("/", "/x", "/y", "/x/1", "x", "//")
_FILTERS = (None, "/x", "/y", "/*", "/x/**", "**", "/(x|y)", "//", "*")
_SYSTEMS = {"a": {"a"}, "*": {"a", "b"}, "(a|b)": {"a", "b"}}  # patterns with what they match


@attrs.frozen(eq=False)
class Subscribe:
    system: str
    kind: str | None
    path: str | None

    def wants(self, send: Send) -> bool:
        return (
            send.system in _SYSTEMS[self.system]
            and self.kind in (None, send.kind)
            and wants(self.path, send.path)
        )


@attrs.frozen
class Send:
    system: str
    kind: str
    path: str


@attrs.frozen
class Close:
    which: int
    discard: bool


@attrs.frozen
class Settle:
    """Let the router do what there is to do."""


_steps = st.one_of(
    st.builds(
        Subscribe,
        st.sampled_from(sorted(_SYSTEMS)),
        st.sampled_from([None, "k"]),
        st.sampled_from(_FILTERS),
    ),
    st.builds(Close, st.integers(0, 99), st.booleans()),
    st.builds(Send, st.sampled_from("ab"), st.sampled_from("kl"), st.sampled_from(_PATHS)),
    st.just(Settle()),
)


@examples(100)
@given(st.lists(_steps, max_size=30))
def test_any_program_routes_as_the_oracle_says_and_leaves_nothing(
    program: list[Subscribe | Send | Close | Settle],
) -> None:
    run_with_time_limit(partial(_play, program))


async def _play(program: list[Subscribe | Send | Close | Settle]) -> None:
    alive: dict[Subscribe, Subscription] = {}
    received: list[tuple[Subscription, list[str]]] = []
    paths_of: dict[Subscribe, list[str]] = {}
    discarded: set[Subscription] = set()
    accepted = unmatched = 0
    async with open_event_bus(checkpoint_every=1000) as bus:
        for step in program:
            match step:
                case Subscribe(system, kind, path):
                    alive[step] = await bus.subscribe(system, kind, path=path)
                    paths_of[step] = []
                    received.append((alive[step], paths_of[step]))
                case Send(system, kind, path):
                    await bus.send(system, kind, path)
                    wanting = [subscribe for subscribe in alive if subscribe.wants(step)]
                    for subscribe in wanting:
                        paths_of[subscribe].append(path)
                    accepted += 1
                    unmatched += not wanting
                case Close(which, discard) if alive:
                    subscription = alive.pop(list(alive)[which % len(alive)])
                    if discard:
                        discarded.add(subscription)
                        subscription.channel().close()
                    else:
                        subscription.close()
                case _:
                    await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == accepted
        assert bus.statistics().unmatched == unmatched
        for subscription, paths in received:
            if subscription in discarded:
                assert_books(subscription, discarded=len(paths))
            else:
                assert_books(subscription, queued=len(paths))
                assert drain(subscription.channel()) == paths
        assert len(bus._router.table) == len(alive)
        for subscription in alive.values():
            subscription.close()
        await wait_all_tasks_blocked()
        bus._router.table.forget_routes()  # to events that nobody wanted
        assert bus._router.table.is_empty


def _actor(router: Router, path: str | None, system: str = "a") -> SubscriptionActor:
    return router.make_subscription(Interest.of(system, path=path), "", 1_000, Overflow.BLOCK)


# -------------------------------------------------------------------------------------------- cost


def _lines_to_send(*others: tuple[str, str | None], path: str | None = None) -> int:
    """Count the lines from the inbox to a subscription, while there are others, too."""
    router = Router.of(256, Pace(1), clock=lambda: 0.0)
    actors = [_actor(router, path), *(_actor(router, p, system) for system, p in others)]
    for actor in actors:
        router.open(actor)

    def send() -> None:
        for _ in range(100):
            assert router.offer(Event("a", "k", "/x")) is None
        wake(router)

    wake(router)
    send()  # and the route is remembered
    lines = count_lines(send, at_most=100_000)
    assert actors[0].buffer.matched == 200
    return lines


def test_a_subscription_without_a_path_does_not_notice_those_with_one() -> None:
    alone = _lines_to_send()
    for path in ("/{}", "/{}/*"):
        elsewhere = [("b", path.format(number)) for number in range(1_000)]
        assert _lines_to_send(*elsewhere) <= alone + 20


@pytest.mark.parametrize("path", [None, "/x"])
def test_an_event_costs_the_same_however_many_other_paths_are_subscribed_to(
    path: str | None,
) -> None:
    few, many = ([("a", f"/{number}") for number in range(count)] for count in (10, 1_000))
    assert _lines_to_send(*many, path=path) <= _lines_to_send(*few, path=path) + 20
