"""One total order, also where events take different ways. Examples kept from bugs."""

import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import open_event_bus


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
