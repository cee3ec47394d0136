"""One total order, also where events take different ways. Examples kept from bugs."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import Event, EventBus, EventChannel, Overflow, open_event_bus
from trio_events._core.pace import Pace
from trio_events._core.router import Router
from trio_events._names.interest import Interest


async def test_a_waiting_reader_gets_held_events_before_newer_ones() -> None:
    # The actor that holds /2 and the router that brings /3 become runnable together; trio may
    # run either first, so try often enough for both.
    for _ in range(20):
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a", max_buffer_size=2)
            channel = subscription.channel()
            for i in range(3):
                bus.send_nowait("a", "k", f"/{i}")
            await wait_all_tasks_blocked()
            assert subscription.statistics().held == 1
            received = [channel.receive_nowait().path, channel.receive_nowait().path]
            bus.send_nowait("a", "k", "/3")
            with trio.fail_after(1):
                received += [(await channel.receive()).path for _ in range(2)]
            assert received == ["/0", "/1", "/2", "/3"]


def test_held_events_stay_before_those_that_are_delivered_later() -> None:
    router = Router.of(8, Pace(1), clock=lambda: 0.0)
    actor = router.make_subscription(Interest.of("a"), "test", 2, Overflow.BLOCK)
    router.open(actor)
    events = [Event("a", "k", f"/{number}") for number in range(6)]
    actor.deliver(events[:5])
    assert [actor.take(), actor.take()] == events[:2]
    actor.deliver(events[5:])
    assert [actor.take() for _ in range(4)] == events[2:]


async def test_senders_that_wait_for_the_inbox_go_in_as_far_as_it_has_room() -> None:
    async with open_event_bus(inbox_size=2) as bus:
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()

        async def sender(number: int) -> None:
            await bus.send("a", "k", f"/{number}")

        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(sender, number)
        await wait_all_tasks_blocked()
        received = [subscription.channel().receive_nowait().path for _ in range(9)]
        assert sorted(received) == [f"/{number}" for number in range(9)]
        assert subscription.statistics().held == 0


async def test_the_inbox_lets_in_no_more_than_fit_beside_those_let_in_by_a_subscription() -> None:
    async def reader(channel: EventChannel, go: trio.Event, received: list[str]) -> None:
        await go.wait()
        for _ in range(3):
            received.append((await channel.receive()).path)

    async def sender_of_z(bus: EventBus, go: trio.Event) -> None:
        await go.wait()
        await bus.send("z", "k", "/z")

    # It takes the reader and the senders of z to run before the router: trio's choice, so try.
    for _ in range(20):
        async with open_event_bus(inbox_size=2) as bus, trio.open_nursery() as nursery:
            subscription = await bus.subscribe("a", max_buffer_size=1)
            everything = await bus.subscribe("**", max_buffer_size=100)
            go = trio.Event()
            received: list[str] = []
            await bus.send("a", "k", "/0")
            await wait_all_tasks_blocked()
            for number in range(1, 4):
                nursery.start_soon(bus.send, "a", "k", f"/{number}")
                await wait_all_tasks_blocked()
            nursery.start_soon(sender_of_z, bus, go)
            nursery.start_soon(sender_of_z, bus, go)
            nursery.start_soon(reader, subscription.channel(), go, received)
            await wait_all_tasks_blocked()
            go.set()
            subscription.channel().receive_nowait()  # lets /1 into the inbox ...
            bus.send_nowait("z", "k", "/z")  # ... and this fills it
            while len(received) < 3:
                assert bus.statistics().current_inbox_used <= 2
                await trio.lowlevel.checkpoint()
            assert received == ["/1", "/2", "/3"]
            await wait_all_tasks_blocked()
            assert everything.statistics().matched == 7


async def test_a_sender_that_meets_another_obstacle_keeps_its_place_in_the_order() -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        one = (await bus.subscribe("(one|both)", max_buffer_size=1)).channel()
        two = (await bus.subscribe("(two|both)", max_buffer_size=1)).channel()
        await bus.send("one", "k", "/fills one")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "both", "k", "/came first")  # waits for one
        await wait_all_tasks_blocked()
        await bus.send("two", "k", "/fills two")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "two", "k", "/came second")  # waits for two
        await wait_all_tasks_blocked()
        one.receive_nowait()  # so the first one waits for two now, too
        received = []
        for _ in range(3):
            received.append(two.receive_nowait().path)
            await wait_all_tasks_blocked()
        assert received == ["/fills two", "/came first", "/came second"]


async def test_each_event_that_is_taken_lets_one_sender_in() -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=4)
        for number in range(4):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        for number in range(4, 10):
            nursery.start_soon(bus.send, "a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        waiting = []
        for _ in range(3):
            subscription.channel().receive_nowait()
            waiting.append(subscription.statistics().tasks_waiting_send)
        assert waiting == [5, 4, 3]
        with pytest.raises(trio.WouldBlock):  # there is room, but for those who wait
            bus.send_nowait("a", "k", "/newcomer")
        subscription.close()


async def test_a_batch_may_be_what_receive_left_and_the_channel_be_closed_after_it() -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        channel = subscription.channel()
        for number in range(3):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert channel.receive_nowait().path == "/0"
        async for batch in channel.batches():
            assert [event.path for event in batch] == ["/1", "/2"]
            break
        channel.close()
        assert subscription.statistics().delivered == 3
