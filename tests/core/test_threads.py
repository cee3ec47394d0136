"""Sending from other threads and from callbacks."""

import logging
import subprocess
import sys
import textwrap
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import Action, BusClosedError, EventBus, InvalidEventError, open_event_bus


async def test_a_thread_may_wait_in_send() -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)

        def worker() -> None:
            for i in range(100):
                trio.from_thread.run(bus.send, "a", "k", f"/{i}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, worker)
            channel = subscription.channel()
            assert [(await channel.receive()).path for _ in range(100)] == [
                f"/{i}" for i in range(100)
            ]


def in_a_process(program: str) -> str:
    """The output of a program, in a process of its own, because it may ruin its trio."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout


IN_A_THREAD = """
    import trio, trio_events
    from trio.testing import wait_all_tasks_blocked

    async def main():
        async with trio_events.open_event_bus() as bus:
            subscription = await bus.subscribe("a")
            await wait_all_tasks_blocked()
            await trio.to_thread.run_sync(misuse, bus, subscription)
            with trio.fail_after(1):
                await bus.send("a", "k", "/x")
                print((await subscription.channel().receive()).path)
        print("left")

    def misuse(bus, subscription):
        try:
            {call}
        except trio_events.NoBusError:
            print("refused")

    trio.run(main)
"""


@pytest.mark.parametrize(
    "call",
    [
        "trio.run(bus.send, 'a', 'k', '/elsewhere')",
        "bus.close()",
        "subscription.close()",
        "subscription.channel().close()",
    ],
)
def test_an_operation_in_another_thread_is_refused_before_anything_has_happened(call: str) -> None:
    assert in_a_process(IN_A_THREAD.format(call=call)).split() == ["refused", "/x", "left"]


async def test_send_soon_keeps_the_order_of_a_thread() -> None:
    async with open_event_bus(inbox_size=1000) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1000)

        def worker() -> None:
            for i in range(500):
                bus.send_soon("a", "k", f"/{i}", i)

        thread = threading.Thread(target=worker)
        thread.start()
        channel = subscription.channel()
        assert [(await channel.receive()).data for _ in range(500)] == list(range(500))
        await trio.to_thread.run_sync(thread.join)
        assert bus.statistics().refused == 0


async def test_send_soon_works_in_a_callback_of_trio() -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        trio.lowlevel.current_trio_token().run_sync_soon(bus.send_soon, "a", "k", "/x")
        assert (await subscription.channel().receive()).path == "/x"


async def test_what_send_soon_cannot_send_is_refused_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        bus.send_nowait("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        for _ in range(5):
            bus.send_soon("a", "k", "/x")
        await trio.sleep(0.01)
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 5
        assert subscription.statistics().matched == 1
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"send_soon: events refused: {count}, the last because of WouldBlock()"
        for count in (1, 2, 4)
    ]


async def test_a_policy_that_raises_does_not_end_the_run_of_send_soon() -> None:
    class Broken:
        def allows(self, actor: str, action: Action, system: str) -> bool:
            raise ZeroDivisionError

    async with open_event_bus(policy=Broken()) as bus:
        bus.send_soon("a", "k", "/x")
        await trio.sleep(0.01)
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 1


async def test_bad_names_are_refused_in_the_caller_of_send_soon() -> None:
    async with open_event_bus() as bus:
        for arguments in (("", "k", "/x"), ("a", "k.*", "/x"), ("a", "k", "")):
            with pytest.raises(InvalidEventError):
                bus.send_soon(*arguments)
        assert bus.statistics().refused == 0


def test_send_soon_after_trio_has_finished_says_that_the_bus_is_closed() -> None:
    async def main() -> EventBus:
        async with open_event_bus() as bus:
            return bus

    bus = trio.run(main)
    with pytest.raises(BusClosedError):
        bus.send_soon("a", "k", "/x")


async def test_send_soon_on_a_closed_bus_raises_at_once() -> None:
    async with open_event_bus() as bus:
        bus.close()
        with pytest.raises(BusClosedError):
            bus.send_soon("a", "k", "/x")
        assert bus.statistics().refused == 0


async def test_send_soon_that_the_end_of_the_bus_overtakes_is_refused_and_counted() -> None:
    async with open_event_bus() as bus:
        bus.send_soon("a", "k", "/x")
        bus.close()
        await trio.sleep(0.01)
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 1
