"""Operations in another run of trio, in another thread, in callbacks, and in guest mode."""

from __future__ import annotations

import logging
import queue
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    EventBus,
    HandlerSet,
    NoBusError,
    Overflow,
    Subscription,
    open_event_bus,
)

from ..handlers.handling import Recorder
from ..observing import assert_balanced, drain

Operation = Callable[[EventBus, Subscription], Awaitable[object]]


def synchronous(operation: Callable[[EventBus, Subscription], object]) -> Operation:
    async def call(bus: EventBus, subscription: Subscription) -> object:
        return operation(bus, subscription)

    return call


async def expect(bus: EventBus, subscription: Subscription) -> None:
    async with bus.expect("b"):
        pass


async def iterate(bus: EventBus, subscription: Subscription) -> None:
    async for _ in subscription:
        pass


async def read_batches(bus: EventBus, subscription: Subscription) -> None:
    async for _ in subscription.batches():
        pass


async def enter_and_leave(bus: EventBus, subscription: Subscription) -> None:
    async with subscription:
        pass


OPERATIONS: Final[dict[str, Operation]] = {
    "send": lambda bus, _: bus.send("a", "k", "/elsewhere"),
    "send to nobody": lambda bus, _: bus.send("nobody", "k", "/elsewhere"),
    "send_nowait": synchronous(lambda bus, _: bus.send_nowait("a", "k", "/elsewhere")),
    "subscribe": lambda bus, _: bus.subscribe("b"),
    "on": lambda bus, _: bus.on(Recorder(), "b"),
    "include": lambda bus, _: bus.include(HandlerSet()),
    "expect": expect,
    "wait_for": lambda bus, _: bus.wait_for("b"),
    "request": lambda bus, _: bus.request("a", "k", "/elsewhere"),
    "is_wanted": synchronous(lambda bus, _: bus.is_wanted("a", "k", "/x")),
    "close": synchronous(lambda bus, _: bus.close()),
    "receive": lambda _, subscription: subscription.channel().receive(),
    "receive of the subscription": lambda _, subscription: subscription.receive(),
    "receive_nowait": synchronous(lambda _, subscription: subscription.channel().receive_nowait()),
    "async for": iterate,
    "batches": read_batches,
    "anext of batches": lambda _, subscription: anext(subscription.batches(max_size=1)),
    "close of the subscription": synchronous(lambda _, subscription: subscription.close()),
    "close of the channel": synchronous(lambda _, subscription: subscription.channel().close()),
    "aclose": lambda _, subscription: subscription.channel().aclose(),
    "async with": enter_and_leave,
    "add": synchronous(lambda _, subscription: subscription.add("b")),
    "remove": synchronous(lambda _, subscription: subscription.remove("a")),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("inbox", ["an empty inbox", "a busy inbox", "a full inbox"])
@pytest.mark.parametrize("buffer", ["an empty buffer", "some", "a full buffer"])
async def test_an_operation_in_another_run_is_refused_before_anything_has_happened(
    name: str, inbox: str, buffer: str
) -> None:
    async with open_event_bus(inbox_size=2) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2)
        for number in range({"an empty buffer": 0, "some": 1, "a full buffer": 2}[buffer]):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        for number in range({"an empty inbox": 0, "a busy inbox": 1, "a full inbox": 2}[inbox]):
            await bus.send("other", "k", f"/{number}")
        before = (bus.statistics(), subscription.statistics())

        async def elsewhere() -> None:
            with pytest.raises(NoBusError):
                await OPERATIONS[name](bus, subscription)

        # Blocking this thread: nothing else of this run gets a turn meanwhile.
        outcomes: queue.Queue[object] = queue.Queue()
        trio.lowlevel.start_thread_soon(
            partial(trio.run, elsewhere, restrict_keyboard_interrupt_to_checkpoints=True),
            outcomes.put,
        )
        outcomes.get(timeout=30).unwrap()  # type: ignore[attr-defined]  # an outcome
        assert (bus.statistics(), subscription.statistics()) == before
        await wait_all_tasks_blocked()
        assert_balanced(subscription)
        read = drain(subscription.channel())
        assert "/elsewhere" not in read
        await bus.send("a", "k", "/here")
        assert (await subscription.receive()).path == "/here"


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_reader_that_waits_here_is_not_woken_by_another_thread(name: str) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        got: list[str] = []

        async def read() -> None:
            got.append((await subscription.receive()).path)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()

        async def elsewhere() -> None:
            with pytest.raises(NoBusError):
                await OPERATIONS[name](bus, subscription)

        await trio.to_thread.run_sync(trio.run, elsewhere)
        assert got == []
        assert subscription.channel().statistics().tasks_waiting_receive == 1
        await bus.send("a", "k", "/here")
    assert got == ["/here"]


# ------------------------------------------------------------------------------------ from threads


@pytest.mark.parametrize("what", ["subscribe", "on", "include"])
async def test_what_a_thread_subscribes_has_an_origin_that_is_not_in_trio(what: str) -> None:
    handlers = HandlerSet()
    handlers.on("a")(Recorder())
    async with open_event_bus() as bus:

        def in_a_thread() -> Subscription:
            if what == "subscribe":
                return trio.from_thread.run(bus.subscribe, "a")
            if what == "on":
                return trio.from_thread.run(bus.on, Recorder(), "a")
            return trio.from_thread.run(bus.include, handlers)[0]

        subscription = await trio.to_thread.run_sync(in_a_thread)
        assert "trio/" not in subscription.origin
        assert re.fullmatch(r"unknown|.*\.py:\d+", subscription.origin)
        assert what == "subscribe" or "handling.py" in subscription.origin


async def test_what_a_nursery_subscribes_has_an_origin_that_is_not_in_trio() -> None:
    async with open_event_bus() as bus:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # it has to be another task
            nursery.start_soon(bus.subscribe, "a")
        [subscription] = bus.subscriptions()
        assert "trio" not in subscription.origin.partition(":")[0] or "test" in subscription.origin


@pytest.mark.parametrize("name", [None, 3, "", "trio", "trio_events", "trio_events.x"])
async def test_code_with_an_odd_name_of_its_module_may_subscribe(name: object) -> None:
    async with open_event_bus() as bus:
        namespace: dict[str, Any] = {"__name__": name, "bus": bus}
        code = compile(
            "async def subscribe():\n    return await bus.subscribe('a')\n", "odd.py", "exec"
        )
        exec(code, namespace)
        subscription = await namespace["subscribe"]()
        assert subscription.origin
        if name is None or isinstance(name, int):
            assert subscription.origin == "odd.py:2"


# -------------------------------------------------------------------------------------- send_soon


@pytest.mark.parametrize("inbox_size", [1, 7, 256])
async def test_send_soon_is_not_refused_because_the_inbox_is_full(inbox_size: int) -> None:
    async with open_event_bus(inbox_size=inbox_size) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=100_000)
        other = await bus.subscribe("b", max_buffer_size=1)

        def worker() -> None:
            for number in range(2000):
                bus.send_soon("a", "k", f"/{number}")

        await trio.to_thread.run_sync(worker)
        with trio.fail_after(30):
            for number in range(2000):
                assert (await subscription.receive()).path == f"/{number}"
        assert bus.statistics().refused == 0
        assert other.statistics().matched == 0


async def test_send_soon_among_waiting_senders_lets_the_router_work_first(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=1) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=100)
        bus.send_nowait("a", "k", "/fills the inbox")
        nursery.start_soon(bus.send, "a", "k", "/waits")
        for number in range(5):
            bus.send_soon("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 0
        read = drain(subscription.channel())
        assert sorted(read) == sorted(
            ["/fills the inbox", "/waits", *(f"/{number}" for number in range(5))]
        )
        assert read[0] == "/fills the inbox"
        assert [path for path in read if path[1:].isdigit()] == [f"/{n}" for n in range(5)]


async def test_send_soon_is_refused_where_a_subscription_stops_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        for number in range(3):
            bus.send_soon("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        bus.send_soon("b", "k", "/others go")
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 2
        assert bus.statistics().accepted == 2
        assert drain(subscription.channel()) == ["/0"]
    assert "send_soon" in caplog.text


@pytest.mark.parametrize("overflow", [o for o in Overflow if o is not Overflow.BLOCK])
async def test_send_soon_is_never_refused_where_senders_never_wait(
    overflow: Overflow, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_events")
    async with open_event_bus(inbox_size=1) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=overflow)
        for number in range(10):
            bus.send_soon("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert bus.statistics().refused == 0
        assert bus.statistics().accepted == 10
        assert_balanced(subscription)


# -------------------------------------------------------------------------------------- guest mode


@attrs.define(eq=False)
class Host:
    """A host loop that trio is a guest of."""

    todo: queue.Queue[Callable[[], object]] = attrs.field(factory=queue.Queue)

    def run(self, program: Callable[[], Awaitable[None]]) -> None:
        outcomes: list[Any] = []
        trio.lowlevel.start_guest_run(
            program,
            run_sync_soon_threadsafe=self.todo.put,
            done_callback=outcomes.append,
        )
        while not outcomes:
            self.todo.get(timeout=30)()
        outcomes[0].unwrap()


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize(
    "operation",
    ["send_nowait", "close", "receive_nowait", "close of the subscription", "is_wanted", "add"],
)
def test_a_callback_of_the_host_may_use_what_is_synchronous(draining: bool, operation: str) -> None:
    host, raised = Host(), list[BaseException]()

    async def main() -> None:
        async with open_event_bus() as bus:
            release, called = trio.Event(), trio.Event()

            async def hang(_: object) -> None:
                await release.wait()

            await bus.on(hang, "a")
            subscription = await bus.subscribe("b", max_buffer_size=5)
            await bus.send("a", "k", "/x")
            await bus.send("b", "k", "/b")
            await wait_all_tasks_blocked()
            if draining:
                bus.close()

            def callback() -> None:
                coroutine = OPERATIONS[operation](bus, subscription)
                try:
                    coroutine.send(None)  # type: ignore[attr-defined]  # it is a coroutine
                except StopIteration:
                    pass
                except BaseException as error:  # noqa: ASYNC103  # it is no task
                    raised.append(error)
                called.set()

            host.todo.put(callback)
            await called.wait()
            release.set()

    host.run(main)
    if draining and operation in {"send_nowait", "add"}:
        [error] = raised
        assert type(error) is BusClosedError
    else:
        assert not raised


def test_send_soon_from_a_callback_of_the_host_while_the_bus_drains_says_that_it_is_closed() -> (
    None
):
    host, raised = Host(), list[BaseException]()

    async def main() -> None:
        async with open_event_bus() as bus:
            release, called = trio.Event(), trio.Event()

            async def hang(_: object) -> None:
                await release.wait()

            await bus.on(hang, "a")
            await bus.send("a", "k", "/x")
            bus.close()

            def callback() -> None:
                try:
                    bus.send_soon("a", "k", "/late")
                except BaseException as error:  # noqa: ASYNC103  # it is a callback, no task
                    raised.append(error)
                called.set()

            host.todo.put(callback)
            await called.wait()
            release.set()

    host.run(main)
    assert [type(error) for error in raised] == [BusClosedError]
