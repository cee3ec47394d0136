"""What the package offers to the tests of others: the recorder, the strategies, the matcher."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, find, given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    Event,
    InvalidPatternError,
    Overflow,
    Pattern,
    SubscriptionOverflowError,
    open_event_bus,
    testing,
)
from trio_events._names.pattern import plain_name
from trio_events.testing import Recorder, record

from ..names import reference
from ..names.strategies import examples

A = Event("orders", "order.created", "/1", {"total": 1})
B = Event("orders.eu", "order.created", "/2")
C = Event("users", "user.gone", "/3", [3])


async def recorded(*events: Event) -> Recorder:
    """A recorder that these events have reached."""
    async with open_event_bus() as bus:
        recorder = await record(bus)
        for event in events:
            await bus.send(event.system, event.kind, event.path, event.data)
    return recorder


# --------------------------------------------------------------------------------- the recorder


async def test_a_recorder_has_what_has_arrived_so_far(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus, "orders.**", "order.*")
        assert recorder.events == []
        await bus.send("orders", "order.created", "/1")
        await bus.send("orders.eu", "order.created", "/2")
        await bus.send("users", "order.created", "/not")
        await bus.send("orders", "user.created.now", "/not")
        await wait_all_tasks_blocked()
        recorder.assert_received(["/1", "/2"])
        await bus.send("orders", "order.shipped", "/3")
        await wait_all_tasks_blocked()
        assert [event.path for event in recorder.events] == ["/1", "/2", "/3"]
        await bus.send("orders", "order.shipped", "/4")
    assert [event.path for event in recorder.events] == ["/1", "/2", "/3", "/4"]
    recorder.assert_received(["/1", "/2", "/3", "/4"])


async def test_without_patterns_everything_is_recorded(autojump_clock: MockClock) -> None:
    recorder = await recorded(A, B, C)
    recorder.assert_received([A, B, C])


async def test_the_list_of_a_recorder_is_the_callers_own(autojump_clock: MockClock) -> None:
    recorder = await recorded(A)
    recorder.events.clear()
    assert recorder.events == [A]


async def test_a_cleared_recorder_has_only_what_comes_after(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus)
        await bus.send("a", "k", "/before")
        await wait_all_tasks_blocked()
        recorder.clear()
        recorder.assert_received([])
        await bus.send("a", "k", "/after")
        await wait_all_tasks_blocked()
        recorder.assert_received(["/after"])


async def test_a_recorder_stops_when_its_subscription_does(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus)
        await bus.send("a", "k", "/before")
        recorder.subscription.close()
        await bus.send("a", "k", "/after")
    recorder.assert_received(["/before"])


async def test_any_subscription_can_be_recorded(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)
        recorder = Recorder(subscription)
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        recorder.assert_received(["/2"])
        assert recorder.subscription is subscription


async def test_a_recorder_never_makes_a_sender_wait(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus, max_buffer_size=2)
        for number in range(3):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        for _ in range(2):  # and it's persistent
            with pytest.raises(SubscriptionOverflowError):
                recorder.assert_received(["/0", "/1"])


async def test_a_record_with_a_bad_pattern_is_refused(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(InvalidPatternError):
            await record(bus, "a..b")


async def test_the_repr_of_a_recorder_shows_its_subscription(autojump_clock: MockClock) -> None:
    recorder = await recorded(A, B)
    assert repr(recorder) == f"<Recorder of {recorder.subscription!r}, 0 events>"
    assert len(recorder.events) == 2
    assert repr(recorder) == f"<Recorder of {recorder.subscription!r}, 2 events>"


# ------------------------------------------------------------------------------- the comparison


async def test_events_tuples_and_paths_can_be_expected(autojump_clock: MockClock) -> None:
    recorder = await recorded(A, B)
    recorder.assert_received([A, B])
    recorder.assert_received((attrs.evolve(A), attrs.evolve(B)))
    recorder.assert_received([("orders", "order.created", "/1"), (B.system, B.kind, B.path)])
    recorder.assert_received(["/1", "/2"])


@pytest.mark.parametrize(
    "expected",
    [
        [],
        [A],
        [B, A],
        [A, B, B],
        [attrs.evolve(A, data={"total": 2}), B],
        ["/1"],
        ["/2", "/1"],
        [("orders", "order.created", "/1"), ("orders", "order.created", "/2")],
    ],
)
async def test_anything_else_is_an_assertion_error(
    expected: testing.Expected, autojump_clock: MockClock
) -> None:
    recorder = await recorded(A, B)
    for _ in range(2):
        with pytest.raises(AssertionError, match=f"^expected {len(expected)} events, received 2"):
            recorder.assert_received(expected)


async def message(expected: testing.Expected, *events: Event) -> list[str]:
    recorder = await recorded(*events)
    with pytest.raises(AssertionError) as caught:
        recorder.assert_received(expected)
    return str(caught.value).splitlines()


async def test_a_difference_is_shown_with_one_event_a_line(autojump_clock: MockClock) -> None:
    assert await message([A, C], A, B, C) == [
        "expected 2 events, received 3",
        "--- expected",
        "+++ received",
        "@@ -1,2 +1,3 @@",
        f" {A!r}",
        f"+{B!r}",
        f" {C!r}",
    ]
    assert await message(["/1", "/4", "/3"], A, B, C) == [
        "expected 3 events, received 3",
        "--- expected",
        "+++ received",
        "@@ -1,3 +1,3 @@",
        " '/1'",
        "-'/4'",
        "+'/2'",
        " '/3'",
    ]
    tuples = await message([("users", "user.gone", "/3")], A)
    assert tuples[-2:] == ["-('users', 'user.gone', '/3')", "+('orders', 'order.created', '/1')"]
    assert (await message([], A))[-1] == f"+{A!r}"
    assert (await message([A]))[-1] == f"-{A!r}"


class Lookalike:
    """Equal only to itself, and written in two lines."""

    def __repr__(self) -> str:
        return "two\nlines"


async def test_what_looks_the_same_and_is_not_is_pointed_out(autojump_clock: MockClock) -> None:
    one, other = (Event("a", "k", "/x", Lookalike()) for _ in range(2))
    first, second = await message([A, one], A, other)
    assert first == "expected 2 events, received 2"
    assert second.startswith("not equal, though it looks the same: 1: Event(system='a', ")
    assert second.endswith(r"data=two\nlines)")


@pytest.mark.parametrize(
    "wrong", ["/1", [A, "/1"], ["/1", A], [("a", "b")], [1], [("a", "b", "c"), "/1"]]
)
async def test_what_cannot_be_expected_is_a_type_error(
    wrong: Any, autojump_clock: MockClock
) -> None:
    for recorder in (await recorded(), await recorded(A, B)):
        with pytest.raises(TypeError, match="must be Events"):
            recorder.assert_received(wrong)


# ------------------------------------------------------------------------------- the strategies


@examples(300)
@given(testing.names())
def test_names_can_be_sent(name: str) -> None:
    assert reference.is_sendable(name)
    plain_name(name, "system")


@examples(300)
@given(testing.names(reserved=True))
@example("$")
def test_reserved_names_are_names_but_for_the_dollar(name: str) -> None:
    plain_name(name, "system", reserved=True)


@examples(300)
@given(testing.patterns())
def test_patterns_are_accepted(text: str) -> None:
    assert reference.is_pattern(text)
    Pattern.parse(text)


@examples(300)
@given(testing.matching_pairs())
def test_matching_pairs_match_and_their_names_are_names(pair: tuple[str, str]) -> None:
    pattern, name = pair
    plain_name(name, "system", reserved=True)
    assert testing.reference_matches(pattern, name)
    assert Pattern.parse(pattern).matches(name)


@examples(300)
@given(testing.events())
def test_events_can_be_sent(event: Event) -> None:
    assert reference.is_sendable(event.system)
    assert reference.is_sendable(event.kind)
    assert event.path


@given(
    testing.events(systems=st.just("a"), kinds=st.just("b"), paths=st.just("/c"), data=st.just("d"))
)
def test_the_parts_of_events_can_be_chosen(event: Event) -> None:
    assert event == Event("a", "b", "/c", "d")


@given(
    testing.names(max_segments=2),
    testing.patterns(max_segments=2),
    testing.matching_pairs(max_segments=1),
)
def test_the_segments_can_be_limited(name: str, pattern: str, pair: tuple[str, str]) -> None:
    assert name.count(".") <= 1
    assert pattern.count(".") <= 1
    assert pair[0].count(".") == 0


@pytest.mark.parametrize(
    ("strategy", "condition"),
    [
        (testing.names(), lambda name: name.count(".") >= 3),
        (testing.names(reserved=True), lambda name: name.startswith("$")),
        (testing.patterns(), lambda text: "**" in text and "(" in text),
        (testing.matching_pairs(), lambda pair: pair[1].startswith("$")),
        (testing.matching_pairs(), lambda pair: pair[0] == "**" and "." in pair[1]),
        (testing.matching_pairs(), lambda pair: pair[0].startswith("*.")),
        (testing.events(), lambda event: event.data is not None),
    ],
)
def test_interesting_cases_are_found(
    strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool]
) -> None:
    assert condition(find(strategy, condition, settings=examples(3_000)))


# ------------------------------------------------------------------------------------ the module


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("orders", "orders", True),
        ("orders", "order", False),
        ("orders.*", "orders", False),
        ("orders.*", "orders.eu", True),
        ("orders.*", "orders.eu.new", False),
        ("orders.**", "orders", True),
        ("orders.**.new", "orders.eu.de.new", True),
        ("orders.(eu|us).**", "orders.us", True),
        ("orders.(eu|us).**", "orders.cn", False),
        ("**", "$bus", False),
        ("**.$bus", "$bus", False),
        ("(a|$bus)", "$bus", True),
        ("*.**.a.**.**", "b.a", True),
    ],
)
def test_the_reference_matcher_matches(pattern: str, name: str, expected: bool) -> None:
    assert testing.reference_matches(pattern, name) is expected


def test_without_hypothesis_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    # Under another name, so that everybody else's `trio_events.testing` stays what it is.
    spec = importlib.util.spec_from_file_location(
        "trio_events._testing_again", Path(inspect.getfile(testing))
    )
    assert spec
    assert spec.loader
    with pytest.raises(ImportError, match=r"pip install 'trio-events\[testing\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_every_public_name_exists_and_is_documented() -> None:
    assert testing.__all__ == sorted(set(testing.__all__))
    for name in testing.__all__:
        assert (inspect.getdoc(getattr(testing, name)) or "").strip()
    for name, member in vars(Recorder).items():
        if not name.startswith("_") and isinstance(member, property | type(record)):
            assert (member.__doc__ or "").strip(), name
    assert getattr(Recorder, "__final__", False)
