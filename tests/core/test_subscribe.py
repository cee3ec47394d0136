"""Subscribing: what a subscription is, what it shows, and when it ends by itself."""

from __future__ import annotations

import inspect

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from trio_events import (
    ErrorKind,
    Overflow,
    Pattern,
    SubscriptionLimitError,
    open_event_bus,
    subscribe,
)

from ..observing import assert_books, counted_turns, drain, paths, tasks_living


async def test_a_subscription_shows_its_patterns_in_canonical_form(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a.**.**.(b)", "(y|x|y)")
        assert subscription.system == str(Pattern.parse("a.**.**.(b)"))
        assert subscription.kind == str(Pattern.parse("(y|x|y)"))
        assert Pattern.parse(subscription.system) == Pattern.parse("a.**.**.(b)")


async def test_without_a_kind_every_kind_is_subscribed(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        assert subscription.kind is None
        for kind in ("k", "k.l", "x.y.z"):
            await bus.send("a", kind, f"/{kind}")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/k", "/k.l", "/x.y.z"]


async def test_the_two_patterns_never_interact(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a.**", "k")
        await bus.send("a.k", "x", "/1")
        await bus.send("a", "x.k", "/2")
        await bus.send("a.b", "k", "/3")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/3"]


async def test_by_default_a_buffer_takes_256_events_and_blocks(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        assert subscription.overflow is Overflow.BLOCK
        assert subscription.channel().statistics().max_buffer_size == 256
        await wait_all_tasks_blocked()
        for _ in range(256):
            bus.send_nowait("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert_books(subscription, queued=256)
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/x")


def test_the_ambient_form_and_the_method_have_the_same_defaults() -> None:
    async def bus_subscribe() -> None:
        async with open_event_bus() as bus:
            explicit = inspect.signature(bus.subscribe).parameters
            ambient = inspect.signature(subscribe).parameters
            assert list(explicit) == list(ambient)
            for name, parameter in explicit.items():
                assert parameter.default == ambient[name].default
                assert parameter.kind == ambient[name].kind
            assert explicit["max_buffer_size"].kind is inspect.Parameter.KEYWORD_ONLY
            assert explicit["overflow"].kind is inspect.Parameter.KEYWORD_ONLY

    trio.run(bus_subscribe)


@pytest.mark.parametrize("overflow", Overflow)
async def test_a_subscription_knows_its_overflow_policy(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", overflow=overflow)
        assert subscription.overflow is overflow


async def test_the_channel_is_the_same_object_each_time(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a"), await bus.subscribe("a")
        assert one.channel() is one.channel()
        assert one.channel() is not two.channel()
        assert isinstance(one.channel(), trio.abc.ReceiveChannel)
        channel = one.channel()
        one.close()
        assert one.channel() is channel


async def test_the_properties_of_a_subscription_cannot_be_set(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for name in ("system", "kind", "overflow"):
            with pytest.raises(AttributeError):
                setattr(subscription, name, "b")


async def test_subscribe_is_one_checkpoint_always(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=1000) as bus:
        for _ in range(5):
            with assert_checkpoints(), counted_turns() as turns:
                await bus.subscribe("a")
            assert turns.count == 1


async def test_close_and_statistics_are_not_checkpoints(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        with assert_no_checkpoints():
            subscription.statistics()
            subscription.channel().statistics()
            bus.statistics()
            subscription.close()
            subscription.close()
            subscription.channel().close()
            bus.close()


async def test_a_subscription_as_context_manager_closes_at_the_end(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        async with await bus.subscribe("a") as subscription:
            await bus.send("a", "k", "/inside")
            assert bus.statistics().open_subscriptions == 1
        await bus.send("a", "k", "/outside")
        assert bus.statistics().open_subscriptions == 0
        assert paths([event async for event in subscription]) == ["/inside"]


async def test_a_subscription_closes_when_its_block_is_left_by_an_exception(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(KeyError, match="mine"):
            async with await bus.subscribe("a") as subscription:
                raise KeyError("mine")
        assert bus.statistics().open_subscriptions == 0
        assert [event async for event in subscription] == []


async def test_iterating_over_a_subscription_iterates_over_its_channel(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for number in range(4):
            await bus.send("a", "k", f"/{number}")
        async for event in subscription:
            assert event.path == "/0"
            break
        assert (await subscription.channel().receive()).path == "/1"
        async for event in subscription:
            assert event.path == "/2"
            break
        assert (await subscription.channel().receive()).path == "/3"
        assert_books(subscription, delivered=4)


async def test_one_subscription_over_the_limit_is_refused_until_one_is_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(max_subscriptions=2) as bus:
        first = await bus.subscribe("a")
        second = await bus.subscribe("b")
        for _ in range(2):  # and it's persistent
            with pytest.raises(SubscriptionLimitError) as caught:
                await bus.subscribe("c")
            assert caught.value.kind is ErrorKind.UNAVAILABLE
            assert caught.value.retryable
        assert bus.statistics().open_subscriptions == 2
        first.close()
        third = await bus.subscribe("c")
        with pytest.raises(SubscriptionLimitError):
            await bus.subscribe("d")
        second.channel().close()
        await bus.subscribe("d")
        await bus.send("c", "k", "/c")
        assert (await third.channel().receive()).path == "/c"


async def test_the_limit_counts_subscriptions_that_end_by_overflow_as_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(max_subscriptions=1) as bus:
        await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.CLOSE)
        bus.send_nowait("a", "k", "/1")
        bus.send_nowait("a", "k", "/2")
        await wait_all_tasks_blocked()
        await bus.subscribe("b")


async def test_subscribing_at_the_same_time_does_not_pass_the_limit(
    autojump_clock: MockClock,
) -> None:
    outcomes = []
    async with open_event_bus(max_subscriptions=3) as bus:

        async def try_to_subscribe() -> None:
            try:
                await bus.subscribe("a")
            except SubscriptionLimitError:
                outcomes.append("refused")
            else:
                outcomes.append("accepted")

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(try_to_subscribe)
        assert sorted(outcomes) == ["accepted"] * 3 + ["refused"] * 5
        assert bus.statistics().open_subscriptions == 3


def test_the_options_of_a_bus_have_these_defaults() -> None:
    parameters = inspect.signature(open_event_bus).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "policy": None,
        "inbox_size": 256,
        "checkpoint_every": 64,
        "max_subscriptions": 4096,
        "drain_timeout": 10.0,
        "slow_handler_after": 10.0,
        "on_dead_letter": None,
        "instruments": (),
    }
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


async def test_the_bus_keeps_a_subscription_that_nothing_else_refers_to(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        channel = (await bus.subscribe("a")).channel()
        await bus.send("a", "k", "/1")
        assert (await channel.receive()).path == "/1"
        del channel
        await bus.subscribe("a")
        assert bus.statistics().open_subscriptions == 2


async def test_subscriptions_that_were_closed_leave_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        await wait_all_tasks_blocked()
        before = (tasks_living(), bus.statistics().routes_remembered)
        for close_channel in (False, True) * 3:
            subscription = await bus.subscribe("a.*", "(k|l)")
            bus.send_nowait("a.b", "k", "/1")
            await wait_all_tasks_blocked()
            if close_channel:
                subscription.channel().close()
            else:
                subscription.close()
        await wait_all_tasks_blocked()
        assert (tasks_living(), bus.statistics().routes_remembered) == before
        assert bus.statistics().open_subscriptions == 0
