"""Small promises of the surface: `with`, hashes, who is wanted, which subscriptions are open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

import trio_events as events
from trio_events import Event, InvalidEventError, Overflow, Subscription, open_event_bus

from ..handlers.handling import Recorder
from ..observing import assert_books, drain


@pytest.mark.parametrize(
    "data", [None, [1], {"a": 1}, {1}, object()], ids=lambda data: type(data).__name__
)
def test_an_event_can_be_hashed_whatever_its_data(data: object) -> None:
    event = Event("a", "k", "/x", data)
    assert hash(event) == hash(Event("a", "k", "/x", "something else"))
    assert len({event, Event("a", "k", "/x", data), Event("a", "k", "/y", data)}) == 2


async def test_an_event_that_was_received_can_be_hashed(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a"), await bus.subscribe("*")
        await bus.send("a", "k", "/x", [1])
        assert {await one.receive()} == {await two.receive()} == {Event("a", "k", "/x", [1])}


# --------------------------------------------------------------------------------- with and close


async def test_a_channel_is_closed_by_with(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        with assert_no_checkpoints(), subscription.channel() as channel:
            assert channel is subscription.channel()
        assert_books(subscription, discarded=1)
        with pytest.raises(trio.ClosedResourceError):
            channel.receive_nowait()


async def test_a_subscription_is_closed_by_with_and_what_is_there_stays_readable(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        with await bus.subscribe("a") as subscription:
            await bus.send("a", "k", "/x")
        await bus.send("a", "k", "/late")
        assert [event.path async for event in subscription] == ["/x"]
        with pytest.raises(KeyError), await bus.subscribe("a") as other:
            raise KeyError
        assert bus.subscriptions() == ()
        async with await bus.subscribe("a") as third:
            assert bus.subscriptions() == (third,)
        assert other not in bus.subscriptions()


# ------------------------------------------------------------------------------------- batches


async def test_the_end_of_batches_is_a_checkpoint_too(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=1) as bus:
        for close in (Subscription.close, lambda s: bus.close()):
            subscription = await bus.subscribe("a")
            await bus.send("a", "k", "/x")
            await wait_all_tasks_blocked()
            close(subscription)
            await wait_all_tasks_blocked()
            batches = subscription.batches()
            with assert_checkpoints():
                assert [event.path for event in await anext(batches)] == ["/x"]
            for _ in range(3):
                with assert_checkpoints(), pytest.raises(StopAsyncIteration):
                    await anext(batches)


async def test_a_loop_over_batches_of_an_ended_channel_lets_others_run(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        subscription.close()
        await wait_all_tasks_blocked()
        ran = trio.Event()
        nursery.start_soon(trio.lowlevel.checkpoint)
        trio.lowlevel.current_trio_token().run_sync_soon(ran.set)
        for _ in range(1000):
            async for _events in subscription.batches():
                raise AssertionError("there are none")
            if ran.is_set():
                break
        assert ran.is_set()


async def test_the_end_of_batches_can_be_cancelled(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        subscription.close()
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            async for _ in subscription.batches():
                raise AssertionError("there are none")
        assert scope.cancelled_caught


async def test_batches_are_never_empty_and_no_async_generator(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=3)
        sizes: list[int] = []

        async def read() -> None:
            async for batch in subscription.batches(max_size=2):
                sizes.append(len(batch))

        for _ in range(3):
            nursery.start_soon(read)
        for number in range(40):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        subscription.close()
        batches = subscription.batches()
        assert not hasattr(batches, "asend")
        assert isinstance(batches, AsyncIterator)
    assert sum(sizes) == 40
    assert set(sizes) <= {1, 2}


# ------------------------------------------------------------------------------ the subscription


async def test_a_subscription_passes_reading_on_to_its_channel(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for number in range(6):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert (await subscription.receive()).path == "/0"
        assert subscription.receive_nowait().path == "/1"
        assert (await subscription.channel().receive()).path == "/2"
        assert [e.path for e in await anext(subscription.batches(max_size=2))] == ["/3", "/4"]
        assert (await anext(aiter(subscription))).path == "/5"
        with pytest.raises(trio.WouldBlock):
            subscription.receive_nowait()


async def test_the_open_subscriptions_are_listed_in_the_order_of_opening(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        one = await bus.subscribe("a")
        two = await bus.on(Recorder(), "b")
        three = await bus.for_actor("plugin").subscribe("c", overflow=Overflow.CLOSE)
        async with bus.expect("d"):
            with assert_no_checkpoints():
                assert bus.subscriptions() == (one, two, three)
        assert bus.for_actor("x").subscriptions() == (one, two, three)
        one.close()
        four = await bus.subscribe("a")
        three.channel().close()
        assert bus.subscriptions() == (two, four)
        assert [s.handler is not None for s in bus.subscriptions()] == [True, False]
        bus.close()
        await wait_all_tasks_blocked()
        assert bus.subscriptions() == ()


# ------------------------------------------------------------------------------------ is_wanted


async def test_is_wanted_says_whether_a_subscription_would_get_it_now(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        remembered = bus.statistics().routes_remembered
        with assert_no_checkpoints():
            assert not bus.is_wanted("a", "k", "/x")
        subscription = await bus.subscribe("a.*", "k", path="/x/*")
        for names, wanted in (
            (("a.b", "k", "/x/1"), True),
            (("a.b", "k", "/y/1"), False),
            (("a.b", "l", "/x/1"), False),
            (("a", "k", "/x/1"), False),
        ):
            assert bus.is_wanted(*names) is events.is_wanted(*names) is wanted
        subscription.add("a")
        assert bus.is_wanted("a", "k", "/x/1")
        subscription.close()
        assert not bus.is_wanted("a.b", "k", "/x/1")
        async with bus.expect("e"):
            assert bus.is_wanted("e", "k", "/x")
        assert not bus.is_wanted("e", "k", "/x")
        handled = await bus.on(Recorder(), "h")
        assert bus.is_wanted("h", "k", "/x")
        handled.channel().close()
        assert not bus.is_wanted("h", "k", "/x")
        assert bus.statistics().routes_remembered == remembered
        assert bus.statistics().accepted == 0


@pytest.mark.parametrize("overflow", Overflow)
async def test_is_wanted_does_not_ask_whether_there_is_room(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=overflow)
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert bus.is_wanted("a", "k", "/x")
        if overflow is Overflow.CLOSE:
            await bus.send("a", "k", "/one too many")
            await wait_all_tasks_blocked()
            assert not bus.is_wanted("a", "k", "/x")
        assert drain_some(subscription) == ["/x"]


def drain_some(subscription: Subscription) -> list[str]:
    try:
        return drain(subscription.channel())
    except events.SubscriptionOverflowError:
        return ["/x"]


@pytest.mark.parametrize(
    "names",
    [("", "k", "/x"), ("a.*", "k", "/x"), ("a", "#", "/x"), ("a", "k", ""), ("/a", "k", "/")],
)
async def test_is_wanted_refuses_what_send_refuses(names: tuple[str, str, str]) -> None:
    async with open_event_bus() as bus:
        calls: list[Callable[..., object]] = [bus.is_wanted, bus.send_nowait, bus.send_soon]
        for call in calls:
            with pytest.raises(InvalidEventError):
                call(*names)
        with pytest.raises(TypeError):
            bus.is_wanted(1, "k", "/x")  # type: ignore[arg-type]  # that is the point
