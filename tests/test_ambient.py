"""The bus around the caller: which one it is, who inherits it, and what there is without one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import BusClosedError, ErrorKind, EventBus, NoBusError, open_event_bus

from .observing import drain


def step(coroutine: Coroutine[Any, Any, object]) -> None:
    """Begin a coroutine without trio."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


async def test_the_ambient_functions_use_the_bus_around_the_caller(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        explicit = await bus.subscribe("a")
        ambient = await events.subscribe("a", "k", max_buffer_size=3)
        assert bus.statistics().open_subscriptions == 2
        assert (ambient.system, ambient.kind) == ("a", "k")
        assert ambient.channel().statistics().max_buffer_size == 3
        data = object()
        await events.send("a", "k", "/1", data)
        await bus.send("a", "k", "/2")
        assert (await ambient.channel().receive()).data is data
        assert (await ambient.channel().receive()).path == "/2"
        assert drain(explicit.channel()) == ["/1", "/2"]


async def test_the_innermost_bus_is_used_and_the_outer_one_after_it(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as outer:
        at_outer = await outer.subscribe("**")
        await events.send("a", "k", "/outer 1")
        async with open_event_bus() as inner:
            at_inner = await events.subscribe("**")
            await events.send("a", "k", "/inner")
            await outer.send("a", "k", "/explicit")
            await wait_all_tasks_blocked()
            assert inner.statistics().open_subscriptions == 1
            assert drain(at_inner.channel()) == ["/inner"]
        await events.send("a", "k", "/outer 2")
        await wait_all_tasks_blocked()
        assert drain(at_outer.channel()) == ["/outer 1", "/explicit", "/outer 2"]


async def test_after_the_block_there_is_no_bus_again_however_it_was_left(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus():
        pass
    with pytest.raises(NoBusError):
        await events.send("a", "k", "/x")
    with pytest.raises(KeyError):
        async with open_event_bus():
            raise KeyError
    with pytest.raises(NoBusError):
        await events.send("a", "k", "/x")
    with trio.CancelScope() as scope:
        async with open_event_bus():
            scope.cancel()
            await trio.sleep_forever()
    with pytest.raises(NoBusError):
        await events.send("a", "k", "/x")


async def test_tasks_inherit_the_bus_of_the_task_that_started_them(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")

        async def child(depth: int) -> None:
            await events.send("a", "k", f"/{depth}")
            if depth:
                async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own is the point
                    nursery.start_soon(child, depth - 1)

        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own is the point
            nursery.start_soon(child, 2)
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/2", "/1", "/0"]


async def test_a_task_started_before_the_bus_does_not_see_it(autojump_clock: MockClock) -> None:
    opened = trio.Event()

    async def outsider() -> None:
        await opened.wait()
        with pytest.raises(NoBusError):
            await events.send("a", "k", "/x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outsider)
        async with open_event_bus() as bus:
            opened.set()
            await wait_all_tasks_blocked()
            assert bus.statistics().accepted == 0


async def test_two_tasks_with_a_bus_each_do_not_see_each_other(autojump_clock: MockClock) -> None:
    both_open = trio.Event()

    async def with_own_bus(name: str) -> None:
        async with open_event_bus() as bus:
            subscription = await events.subscribe("**")
            await both_open.wait()
            await events.send("a", "k", f"/{name}")
            await wait_all_tasks_blocked()
            assert drain(subscription.channel()) == [f"/{name}"]
            assert bus.statistics().accepted == 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(with_own_bus, "x")
        nursery.start_soon(with_own_bus, "y")
        await wait_all_tasks_blocked()
        both_open.set()


async def test_a_task_that_outlives_its_bus_gets_bus_closed_and_not_an_outer_bus(
    autojump_clock: MockClock,
) -> None:
    left = trio.Event()

    async def survivor() -> None:
        await left.wait()
        with pytest.raises(BusClosedError):
            await events.send("a", "k", "/x")
        with pytest.raises(BusClosedError):
            await events.subscribe("a")

    async with open_event_bus() as outer, trio.open_nursery() as nursery:
        async with open_event_bus():
            nursery.start_soon(survivor)
        left.set()
        await wait_all_tasks_blocked()
        assert outer.statistics().accepted == 0


async def test_a_function_that_opens_and_closes_a_bus_does_not_change_that_of_the_caller(
    autojump_clock: MockClock,
) -> None:
    async def opens_and_closes() -> None:
        async with open_event_bus():
            await events.send("a", "k", "/inner")

    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**")
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own is the point
            nursery.start_soon(opens_and_closes)
        await opens_and_closes()
        await events.send("a", "k", "/outer")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/outer"]


# ---------------------------------------------------------------------------------------------
# No bus
# ---------------------------------------------------------------------------------------------


async def test_outside_any_bus_there_is_a_clear_error(autojump_clock: MockClock) -> None:
    for _ in range(2):  # and it's persistent
        with pytest.raises(NoBusError, match="open_event_bus") as caught:
            await events.send("a", "k", "/x")
        assert isinstance(caught.value, RuntimeError)
        assert (caught.value.kind, caught.value.retryable) == (ErrorKind.UNAVAILABLE, False)
        with pytest.raises(NoBusError, match="open_event_bus"):
            await events.subscribe("a")


def test_outside_trio_there_is_a_clear_error() -> None:
    with pytest.raises(NoBusError):
        step(events.send("a", "k", "/x"))
    with pytest.raises(NoBusError):
        step(events.subscribe("a"))


async def test_in_the_context_of_a_bus_but_outside_trio_there_is_a_clear_error() -> None:
    """A thread that trio starts inherits the context and with it the bus, but is not in trio."""
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")

        def in_thread() -> None:
            with pytest.raises(NoBusError):
                step(events.send("a", "k", "/x"))
            with pytest.raises(NoBusError):
                step(events.subscribe("a"))
            with pytest.raises(NoBusError):
                bus.send_nowait("a", "k", "/x")

        with trio.fail_after(10):
            await trio.to_thread.run_sync(in_thread)
            await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 0
        assert bus.statistics().open_subscriptions == 1
        assert subscription.statistics().matched == 0


async def test_another_run_of_trio_in_a_thread_does_not_use_the_bus_of_this_one() -> None:
    """It inherits the context with the thread, but the bus belongs to other tasks than its own."""
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")

        async def other_run() -> None:
            for _ in range(2):  # and it's persistent
                with pytest.raises(NoBusError):
                    await events.send("a", "k", "/x")
                with pytest.raises(NoBusError):
                    await events.subscribe("a")
            async with open_event_bus() as own:
                await events.send("a", "k", "/own")
                assert own.statistics().accepted == 1

        with trio.fail_after(10):
            await trio.to_thread.run_sync(trio.run, other_run)
            await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 0
        assert bus.statistics().open_subscriptions == 1
        assert subscription.statistics().matched == 0


async def test_in_a_foreign_thread_send_nowait_raises_a_clear_error() -> None:
    async with open_event_bus() as bus:
        errors: list[Exception] = []

        def in_thread() -> None:
            try:
                bus.send_nowait("a", "k", "/x")
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(10)
        [error] = errors
        assert isinstance(error, NoBusError)
        assert str(error)
        assert bus.statistics().accepted == 0


async def test_a_thread_of_trio_may_use_the_ambient_form_through_from_thread() -> None:
    async with open_event_bus():
        subscription = await events.subscribe("a")

        def in_thread() -> None:
            trio.from_thread.run(events.send, "a", "k", "/x")

        with trio.fail_after(10):
            await trio.to_thread.run_sync(in_thread)
            assert (await subscription.channel().receive()).path == "/x"


async def test_a_context_copied_inside_the_block_keeps_the_bus(autojump_clock: MockClock) -> None:
    """What a framework does that runs callbacks in a saved context."""
    async with open_event_bus() as bus:
        context = contextvars.copy_context()
    async with open_event_bus() as other:
        with pytest.raises(BusClosedError):
            context.run(step, events.send("a", "k", "/x"))
        assert other.statistics().accepted == 0
    assert bus.statistics().accepted == 0


async def test_a_bus_is_not_a_context_manager_itself(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        assert isinstance(bus, EventBus)
        assert not hasattr(bus, "__aenter__")


async def test_a_bus_in_hand_refuses_to_subscribe_from_another_run_of_trio() -> None:
    async with open_event_bus() as bus:

        async def other_run() -> None:
            with pytest.raises(NoBusError):
                await bus.subscribe("a")

        await trio.to_thread.run_sync(trio.run, other_run)
        assert bus.statistics().open_subscriptions == 0
