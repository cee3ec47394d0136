"""What the package offers to the tests of others: the recorder, the strategies, the matcher."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from hypothesis import example, find, given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_events import (
    Event,
    ExactPath,
    InvalidPatternError,
    Overflow,
    Pattern,
    RulePolicy,
    SubscriptionOverflowError,
    open_event_bus,
    testing,
)
from trio_events._names.pattern import plain_name
from trio_events.testing import Recorder, record, record_opened_buses

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


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/1", ["/1"]),
        ("/(1|2)", ["/1", "/2"]),
        (ExactPath("/*"), ["/*"]),
        (None, ["/1", "/2", "/*"]),
    ],
)
async def test_the_events_of_some_paths_can_be_recorded(
    path: str | ExactPath | None, expected: list[str], autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus, path=path)
        for sent in ("/1", "/2", "/*"):
            await bus.send("a", "k", sent)
    recorder.assert_received(expected)


async def test_a_record_with_a_bad_pattern_is_refused(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(InvalidPatternError):
            await record(bus, "a..b")


async def test_the_repr_of_a_recorder_shows_its_subscription(autojump_clock: MockClock) -> None:
    recorder = await recorded(A, B)
    assert repr(recorder) == f"<Recorder of {recorder.subscription!r}, 0 events>"
    assert len(recorder.events) == 2
    assert repr(recorder) == f"<Recorder of {recorder.subscription!r}, 2 events>"


# ---------------------------------------------------------------------------- waiting for events


async def test_waiting_for_events_ends_when_enough_have_arrived(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        recorder = await record(bus)

        @nursery.start_soon
        async def send() -> None:
            for number in range(4):
                await trio.sleep(1)
                await bus.send("a", "k", f"/{number}")

        assert [event.path for event in await recorder.wait_for_events(2)] == ["/0", "/1"]
        assert trio.current_time() == 2
        recorder.clear()
        assert [event.path for event in await recorder.wait_for_events(1)] == ["/2"]
        await trio.sleep(5)
        assert [event.path for event in await recorder.wait_for_events(1)] == ["/2", "/3"]


async def test_waiting_for_events_that_have_arrived_is_a_checkpoint(
    autojump_clock: MockClock,
) -> None:
    recorder = await recorded(A, B)
    for count in (0, 1, 2):
        with assert_checkpoints():
            assert await recorder.wait_for_events(count) == [A, B]
    with trio.CancelScope() as scope:
        scope.cancel()
        await recorder.wait_for_events(2)
    assert scope.cancelled_caught


async def test_waiting_for_events_says_what_arrived_if_the_subscription_ends(
    autojump_clock: MockClock,
) -> None:
    recorder = await recorded(A, B)
    for _ in range(2):  # and it's persistent
        with pytest.raises(AssertionError) as caught:
            await recorder.wait_for_events(3)
        assert str(caught.value).splitlines() == [
            "expected 3 events; the subscription ended after 2 events:",
            f"  {A!r}",
            f"  {B!r}",
        ]
    recorder.assert_received([A, B])


async def test_cancelled_waiting_for_events_loses_none(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus)
        await bus.send("a", "k", "/1")
        with trio.move_on_after(1) as scope:
            await recorder.wait_for_events(2)
        assert scope.cancelled_caught
        recorder.assert_received(["/1"])
        await bus.send("a", "k", "/2")
        await recorder.wait_for_events(2)
    recorder.assert_received(["/1", "/2"])


async def test_waiting_for_events_raises_if_the_buffer_was_full(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        recorder = await record(bus, max_buffer_size=1)
        for number in range(2):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        with pytest.raises(SubscriptionOverflowError):
            await recorder.wait_for_events(1)


async def test_while_a_task_waits_for_events_no_other_may_ask(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        recorder = await record(bus)
        nursery.start_soon(recorder.wait_for_events, 2)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="wait_for_events"):
            recorder.assert_received([])
        with pytest.raises(trio.BusyResourceError):
            await recorder.wait_for_events(1)
        for number in range(2):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        recorder.assert_received(["/0", "/1"])


# ------------------------------------------------------------- buses that the code under test opens


async def program() -> None:
    async with open_event_bus(policy=RulePolicy([])) as bus:
        assert len(bus.subscriptions()) == 1
        bus.close()
    async with open_event_bus() as bus:
        await bus.send("orders", "order.created", "/1")
        await bus.send("users", "user.created", "/2")


def test_each_bus_that_is_opened_gets_a_recorder() -> None:
    with record_opened_buses() as recorders:
        assert recorders == []
        trio.run(program)
    first, second = recorders
    first.assert_received([])
    second.assert_received(["/1", "/2"])
    assert __file__ in second.subscription.origin


async def test_a_bus_that_is_opened_is_recorded_by_pattern(autojump_clock: MockClock) -> None:
    with record_opened_buses("orders", "*.created", path="/1") as recorders:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program)
            nursery.start_soon(trio.lowlevel.checkpoint)
    recorders[1].assert_received([("orders", "order.created", "/1")])


async def test_recorders_of_opened_buses_can_be_nested(autojump_clock: MockClock) -> None:
    with record_opened_buses("users") as outer:
        with record_opened_buses("orders") as inner:
            async with open_event_bus() as bus:
                for system in ("users", "orders"):
                    await bus.send(system, "k", f"/{system}")
        async with open_event_bus():
            pass
    async with open_event_bus() as bus:
        assert bus.subscriptions() == ()
    [users, _] = outer
    [orders] = inner
    users.assert_received(["/users"])
    orders.assert_received(["/orders"])


def test_opened_buses_are_not_recorded_with_a_bad_pattern() -> None:
    with pytest.raises(InvalidPatternError), record_opened_buses("a..b"):
        raise AssertionError("not entered")
    with pytest.raises(ValueError, match="max_buffer_size"), record_opened_buses(max_buffer_size=0):
        raise AssertionError("not entered")


async def test_a_recorder_of_an_opened_bus_never_makes_a_sender_wait(
    autojump_clock: MockClock,
) -> None:
    with record_opened_buses(max_buffer_size=1) as recorders:
        async with open_event_bus() as bus:
            for number in range(3):
                bus.send_nowait("a", "k", f"/{number}")
    with pytest.raises(SubscriptionOverflowError):
        recorders[0].assert_received(["/0"])


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


@pytest.mark.parametrize(
    "expected",
    [[], [A], [C], [A, C], [A, B, C], ["/1", "/3"], [("orders", "order.created", "/1")]],
)
async def test_events_among_others_can_be_expected(
    expected: testing.Expected, autojump_clock: MockClock
) -> None:
    recorder = await recorded(A, B, C)
    recorder.assert_contains(expected)
    recorder.assert_contains(expected[::-1], in_order=False)


@pytest.mark.parametrize(
    ("expected", "in_order"),
    [
        (["/1", "/4"], True),
        (["/4"], False),
        (["/3", "/1"], True),
        (["/1", "/1"], True),
        (["/1", "/1"], False),
        ([Event(A.system, A.kind, A.path)], False),
    ],
)
async def test_an_event_that_is_missing_is_an_assertion_error(
    expected: testing.Expected, in_order: bool, autojump_clock: MockClock
) -> None:
    recorder = await recorded(A, B, C)
    for _ in range(2):
        with pytest.raises(AssertionError):
            recorder.assert_contains(expected, in_order=in_order)


async def test_a_missing_event_is_named_among_those_that_arrived(
    autojump_clock: MockClock,
) -> None:
    recorder = await recorded(A, B)
    with pytest.raises(AssertionError) as caught:
        recorder.assert_contains(["/1", "/3"])
    assert str(caught.value).splitlines() == [
        "expected '/3', received 2 events:",
        "  '/1'",
        "  '/2'",
    ]
    with pytest.raises(
        AssertionError, match=r"^expected '/1' after the ones before it, received 2"
    ):
        recorder.assert_contains(["/2", "/1"])
    with pytest.raises(TypeError, match="must be a list"):
        recorder.assert_contains("/1")


class Lookalike:
    """Equal only to itself, and written in two lines."""

    def __repr__(self) -> str:
        return "two\nlines"


async def test_texts_that_only_look_the_same_are_pointed_out(autojump_clock: MockClock) -> None:
    one, other = (Event("a", "k", "/x", Lookalike()) for _ in range(2))
    first, second = await message([A, one], A, other)
    assert first == "expected 2 events, received 2"
    assert second.startswith("not equal, although it looks the same: 1: Event(system='a', ")
    assert second.endswith(r"data=two\nlines)")


@pytest.mark.parametrize(
    "wrong", ["/1", [A, "/1"], ["/1", A], [("a", "b")], [1], [("a", "b", "c"), "/1"]]
)
async def test_what_cannot_be_expected_is_a_type_error(
    wrong: Any, autojump_clock: MockClock
) -> None:
    for recorder in (await recorded(), await recorded(A, B)):
        with pytest.raises(TypeError, match="must be a list of Events"):
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
@given(testing.sendable_events())
def test_events_can_be_sent(event: Event) -> None:
    assert reference.is_sendable(event.system)
    assert reference.is_sendable(event.kind)
    assert event.path


@given(
    testing.sendable_events(
        systems=st.just("a"), kinds=st.just("b"), paths=st.just("/c"), data=st.just("d")
    )
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
        (testing.sendable_events(), lambda event: event.data is not None),
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


WITHOUT_HYPOTHESIS = """
import sys
sys.modules["hypothesis"] = None  # importing it fails
import trio
import trio_events
from trio_events import testing

async def main():
    async with trio_events.open_event_bus() as bus:
        recorder = await testing.record(bus)
        await bus.send("a", "k", "/x")
    recorder.assert_received(["/x"])

trio.run(main)
assert testing.reference_matches("a.*", "a.b")
try:
    testing.names
except ImportError as error:
    print(error)
from trio_events.testing import patterns
"""


def test_without_hypothesis_only_the_strategies_are_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_HYPOTHESIS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    advice = "needs hypothesis: pip install 'trio-events[testing]'"
    assert done.stdout == f"trio_events.testing.names {advice}\n"
    assert done.stderr.endswith(f"ModuleNotFoundError: trio_events.testing.patterns {advice}\n")


def test_the_strategies_ask_for_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_events._strategies", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-events\[testing\]'"):
        _ = testing.names


def test_a_name_that_the_module_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'trio_events\.testing' has no attribute 'events'"):
        testing.events  # type: ignore[attr-defined]  # noqa: B018  # that is the point


def test_every_public_name_exists_and_is_documented() -> None:
    assert testing.__all__ == sorted(set(testing.__all__))
    for name in testing.__all__:
        value = getattr(testing, name)
        assert (inspect.getdoc(value) or "").strip()
        if callable(value) and name != "Expected":
            assert value.__module__ == "trio_events.testing"
    for name, member in vars(Recorder).items():
        if not name.startswith("_") and isinstance(member, property | type(record)):
            assert (member.__doc__ or "").strip(), name
    assert getattr(Recorder, "__final__", False)
