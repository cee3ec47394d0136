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
