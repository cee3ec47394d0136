"""Sending: who gets an event, in which order, and what `send_nowait` does instead of waiting."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from trio_events import Event, EventBus, InvalidEventError, Subscription, open_event_bus

from ..observing import assert_balanced, assert_books, drain, paths
from ..time_limit import run_with_time_limit


async def test_every_matching_subscription_gets_the_event_and_no_other(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        matching = [
            await bus.subscribe(system, kind)
            for system in ("orders.eu", "orders.*", "**", "*.eu", "(orders|users).eu")
            for kind in (None, "order.created", "order.*", "**.created")
        ]
        others = [
            await bus.subscribe(system, kind)
            for system, kind in [
                ("orders", None),
                ("orders.*.*", None),
                ("users.**", None),
                ("orders.eu", "order"),
                ("orders.eu", "order.deleted"),
                ("orders.eu.order", "created"),
                ("ORDERS.eu", None),
            ]
        ]
        await bus.send("orders.eu", "order.created", "/1")
        await wait_all_tasks_blocked()
        assert [drain(subscription.channel()) for subscription in matching] == [["/1"]] * 20
        assert [subscription.statistics().matched for subscription in others] == [0] * 7


async def test_an_event_comes_once_however_often_the_pattern_matches(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**.**.a.**", "(k|k).**")
        await bus.send("a.a.a", "k", "/1")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/1"]


async def test_two_subscriptions_with_the_same_patterns_get_everything_twice(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a", "k"), await bus.subscribe("a", "k")
        assert one is not two
        await bus.send("a", "k", "/1")
        await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        assert drain(one.channel()) == drain(two.channel()) == ["/1", "/2"]


async def test_send_returns_none_and_does_not_wait_for_a_reader(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        result: object = await bus.send("a", "k", "/1")  # type: ignore[func-returns-value]  # the point
        assert result is None
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=1)


async def test_an_event_without_subscribers_is_accepted_and_counted(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await bus.send("a", "k", "/1")
        await bus.send("b", "k", "/2")
        await wait_all_tasks_blocked()
        assert (bus.statistics().accepted, bus.statistics().unmatched) == (2, 2)
        await bus.subscribe("a")
        await bus.send("a", "k", "/3")
        await wait_all_tasks_blocked()
        assert (bus.statistics().accepted, bus.statistics().unmatched) == (3, 2)


@pytest.mark.parametrize(
    ("system", "kind", "path"),
    [
        ("a", "k", " "),
        ("a", "k", "$*()|.."),
        ("a", "k", "x" * 100_000),
        ("bestellungen.größe", "角色.創建", "/ä/😀"),
        ("a b", "with space", "\n"),
        ("a.$b", "k.$", "$"),
        (".".join("a" * 16), ".".join("k" * 16), "/x"),
        ("a" * 512, "k" * 512, "/x"),
    ],
    ids=["blank", "signs", "long path", "unicode", "spaces", "inner $", "16 segments", "512 long"],
)
async def test_any_valid_name_arrives_unchanged(
    system: str, kind: str, path: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**")
        await bus.send(system, kind, path)
        event = await subscription.channel().receive()
        assert (event.system, event.kind, event.path) == (system, kind, path)


class Name(enum.StrEnum):
    """Names as an application may declare them."""

    SYSTEM = "orders"
    KIND = "order.created"
    PATH = "/orders/1"


async def test_members_of_a_str_enum_are_names_and_arrive_as_plain_texts(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe(Name.SYSTEM, Name.KIND, path=Name.PATH)
        for _ in range(2):
            await bus.send(Name.SYSTEM, Name.KIND, Name.PATH)
            event = await subscription.channel().receive()
            assert event == Event("orders", "order.created", "/orders/1")
            assert {type(event.system), type(event.kind), type(event.path)} == {str}


async def test_names_are_case_sensitive(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", "k")
        await bus.send("A", "k", "/1")
        await bus.send("a", "K", "/2")
        await bus.send("a", "k", "/3")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/3"]


# ---------------------------------------------------------------------------------------------
# send_nowait
# ---------------------------------------------------------------------------------------------


async def test_send_is_a_checkpoint_at_least_now_and_then_and_send_nowait_never(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(checkpoint_every=1) as bus:
        with assert_checkpoints():
            await bus.send("a", "k", "/1")
        with assert_no_checkpoints():
            for number in range(100):
                bus.send_nowait("a", "k", f"/{number}")


async def test_send_nowait_does_what_send_does(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        data = object()
        bus.send_nowait("a", "k", "/1", data)
        bus.send_nowait("b", "k", "/2")
        await bus.send("a", "k", "/3")
        first = await subscription.channel().receive()
        assert (first.system, first.kind, first.path) == ("a", "k", "/1")
        assert first.data is data
        assert (await subscription.channel().receive()).path == "/3"
        await wait_all_tasks_blocked()
        assert (bus.statistics().accepted, bus.statistics().unmatched) == (3, 1)


async def test_send_nowait_raises_would_block_while_a_matching_subscription_is_full(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2)
        for number in range(2):
            bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        for _ in range(2):  # and it's persistent
            with pytest.raises(trio.WouldBlock):
                bus.send_nowait("a", "k", "/refused")
            await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 2
        assert_books(subscription, queued=2)
        assert subscription.channel().receive_nowait().path == "/0"
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/2")
        with pytest.raises(trio.WouldBlock):
            await wait_all_tasks_blocked()
            bus.send_nowait("a", "k", "/refused")
        assert drain(subscription.channel()) == ["/1", "/2"]


async def test_send_nowait_raises_would_block_while_the_inbox_is_full(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=3) as bus:
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()
        for number in range(3):
            bus.send_nowait("a", "k", f"/{number}")
        for system in ("a", "unmatched"):
            with pytest.raises(trio.WouldBlock):
                bus.send_nowait(system, "k", "/refused")
        assert bus.statistics().accepted == 3
        assert bus.statistics().current_inbox_used == 3
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/3")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/0", "/1", "/2", "/3"]


async def test_send_waits_while_the_inbox_is_full_and_goes_in_after_what_was_there(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=2, checkpoint_every=1000) as bus:
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/0")
        bus.send_nowait("a", "k", "/1")
        with assert_checkpoints():
            await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/0", "/1", "/2"]


async def test_send_nowait_refuses_what_send_refuses(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(InvalidEventError):
            bus.send_nowait("a.*", "k", "/x")
        assert bus.statistics().accepted == 0


# ---------------------------------------------------------------------------------------------
# Order
# ---------------------------------------------------------------------------------------------


async def test_the_sends_of_one_task_arrive_in_order(autojump_clock: MockClock) -> None:
    async with open_event_bus(inbox_size=4) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=3)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                for number in range(100):
                    await bus.send("a", "k", f"/{number}")

            received = [(await subscription.channel().receive()).path for _ in range(100)]
        assert received == [f"/{number}" for number in range(100)]


async def test_an_event_that_was_accepted_first_arrives_first_from_any_sender(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**")
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(bus.send, f"s{number}", "k", f"/{number}")
                await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == [f"/{number}" for number in range(20)]


PATTERNS = {
    "a": {"a"},
    "b": {"b"},
    "*": {"a", "b"},
    "**": {"a", "b", "a.a", "a.b"},
    "a.**": {"a", "a.a", "a.b"},
    "a.*": {"a.a", "a.b"},
    "(a|b)": {"a", "b"},
    "**.b": {"b", "a.b"},
}
"""Patterns, and the names of the tests that they match, written down by hand."""

SYSTEMS = st.sampled_from(["a", "b", "a.a", "a.b"])


@settings(max_examples=60, deadline=None)
@given(
    programs=st.lists(st.lists(SYSTEMS, min_size=1, max_size=6), min_size=1, max_size=4),
    subscribers=st.lists(
        st.tuples(st.sampled_from(sorted(PATTERNS)), st.integers(1, 3)), min_size=1, max_size=4
    ),
    inbox_size=st.integers(1, 3),
    checkpoint_every=st.integers(1, 4),
)
def test_every_subscription_receives_its_part_of_one_total_order(
    programs: list[list[str]],
    subscribers: list[tuple[str, int]],
    inbox_size: int,
    checkpoint_every: int,
) -> None:
    async def program() -> None:
        everything: list[tuple[str, str]] = []
        received: list[list[tuple[str, str]]] = [[] for _ in subscribers]

        async def read(subscription: Subscription, into: list[tuple[str, str]]) -> None:
            async for event in subscription:
                into.append((event.system, event.path))

        async def send(bus: EventBus, sender: int, systems: list[str]) -> None:
            for number, system in enumerate(systems):
                await bus.send(system, "k", f"{sender}.{number}")

        async with (
            trio.open_nursery() as readers,
            open_event_bus(inbox_size=inbox_size, checkpoint_every=checkpoint_every) as bus,
        ):
            witness = await bus.subscribe("**", max_buffer_size=100)
            subscriptions = [
                await bus.subscribe(pattern, max_buffer_size=size) for pattern, size in subscribers
            ]
            readers.start_soon(read, witness, everything)
            for subscription, into in zip(subscriptions, received, strict=True):
                readers.start_soon(read, subscription, into)
            async with trio.open_nursery() as senders:
                for sender, systems in enumerate(programs):
                    senders.start_soon(send, bus, sender, systems)

        sent = [
            (s, f"{i}.{n}") for i, program in enumerate(programs) for n, s in enumerate(program)
        ]
        assert sorted(everything) == sorted(sent)
        for sender in range(len(programs)):
            own = [path for _, path in everything if path.startswith(f"{sender}.")]
            assert own == sorted(own)
        for (pattern, _), got in zip(subscribers, received, strict=True):
            assert got == [event for event in everything if event[0] in PATTERNS[pattern]]
        for subscription in [witness, *subscriptions]:
            assert_balanced(subscription)

    run_with_time_limit(program)


# ---------------------------------------------------------------------------------------------
# Subscribe and close are exact
# ---------------------------------------------------------------------------------------------


async def test_an_event_sent_before_subscribe_is_not_seen(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        bus.send_nowait("a", "k", "/before")
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()
        assert_books(subscription)
        assert drain(subscription.channel()) == []


async def test_an_event_sent_at_once_after_subscribe_is_seen(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        bus.send_nowait("a", "k", "/warms up the memory of the bus")
        await wait_all_tasks_blocked()
        subscription = await bus.subscribe("a")
        bus.send_nowait("a", "k", "/after")
        assert (await subscription.channel().receive()).path == "/after"


async def test_an_event_sent_before_close_is_seen_although_it_was_not_routed_yet(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/before")
        subscription.close()
        bus.send_nowait("a", "k", "/after")
        assert paths([event async for event in subscription]) == ["/before"]
        assert_books(subscription, delivered=1)
        assert bus.statistics().unmatched == 1


def alternations() -> Iterator[tuple[str, ...]]:
    """Every order of sending three events, subscribing once, and closing once after that."""
    for where in itertools.combinations_with_replacement(range(4), 2):
        steps = ["/0", "/1", "/2"]
        steps.insert(where[1], "close")
        steps.insert(where[0], "subscribe")
        yield tuple(steps)


@pytest.mark.parametrize("settled", [False, True], ids=["at once", "settled"])
@pytest.mark.parametrize("steps", list(alternations()), ids=" ".join)
async def test_exactly_the_events_between_subscribe_and_close_are_received(
    steps: tuple[str, ...], settled: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription: Subscription | None = None
        for step in steps:
            if step == "subscribe":
                subscription = await bus.subscribe("a")
            elif step == "close":
                assert subscription is not None
                subscription.close()
            else:
                bus.send_nowait("a", "k", step)
            if settled:
                await wait_all_tasks_blocked()
        assert subscription is not None
        between = list(steps[steps.index("subscribe") + 1 : steps.index("close")])
        assert paths([event async for event in subscription]) == between
        assert_books(subscription, delivered=len(between))
