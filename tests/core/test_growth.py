"""What an operation costs grows with what it is about, and not with everything else.

The lines of the package that run are counted, so that no machine is too slow for a test. Four times
as much to do must not take much more than four times as many lines.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    DeadlockError,
    EventBus,
    Overflow,
    Subscription,
    open_event_bus,
)

from ..injecting import AtLine, no_chance
from ..time_limit import run_with_time_limit


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "trio_events")
    with no_chance():
        yield


def lines_of(program: Callable[[int, AtLine], Awaitable[None]], size: int) -> int:
    """How many lines the part of a program takes that runs with the trace armed."""
    at_line = AtLine(-1, bool, most=5_000_000)

    async def main() -> None:
        await program(size, at_line)

    run_with_time_limit(main)
    assert at_line.lines
    return at_line.lines


async def wake_many_readers(size: int, count: AtLine) -> None:
    async with open_event_bus(inbox_size=size) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=size)
        for _ in range(size):
            nursery.start_soon(subscription.channel().receive)
        await wait_all_tasks_blocked()
        with count:
            for _ in range(size):
                bus.send_nowait("a", "k", "/x")
            await wait_all_tasks_blocked()


async def dismiss_many_readers(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await subscription.channel().receive()

        for _ in range(size):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        with count:
            subscription.channel().close()
            await wait_all_tasks_blocked()


async def cancel_many_readers(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a")
        for _ in range(size):
            nursery.start_soon(subscription.channel().receive)
        await wait_all_tasks_blocked()
        with count:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()


async def let_in_many_senders(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        for _ in range(size):
            nursery.start_soon(bus.send, "a", "k", "/x")
        await wait_all_tasks_blocked()
        with count:
            for _ in range(size):
                await subscription.channel().receive()


async def cancel_many_senders(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        for _ in range(size):
            nursery.start_soon(bus.send, "a", "k", "/x")
        await wait_all_tasks_blocked()
        with count:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()


async def busy_readers_and_waiting_senders(size: int, count: AtLine) -> None:
    async with open_event_bus(inbox_size=4) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()

        async def read() -> None:
            await subscription.channel().receive()
            await trio.sleep(10)

        with count:
            for _ in range(size):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            for _ in range(2 * size):
                nursery.start_soon(bus.send, "a", "k", "/x")
            await trio.sleep(5)
        nursery.cancel_scope.cancel()


async def move_many_senders(size: int, count: AtLine) -> None:
    """Two full subscriptions with many senders each that want both, and one closes."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        one = await bus.subscribe("a.*", max_buffer_size=1)
        await bus.subscribe("*.b", max_buffer_size=1)
        await bus.send("a.b", "k", "/fills both")
        await wait_all_tasks_blocked()
        for system in ("a.b", "x.b"):
            for _ in range(size):
                nursery.start_soon(bus.send, system, "k", "/x")
        await wait_all_tasks_blocked()
        with count:
            one.close()
            await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 2 * size
        nursery.cancel_scope.cancel()


async def a_removed_pattern_releases_many_senders(size: int, count: AtLine) -> None:
    async with open_event_bus(inbox_size=2 * size) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        subscription.add("b")
        bus.send_nowait("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        for _ in range(size):
            nursery.start_soon(bus.send, "a", "k", "/x")
            nursery.start_soon(bus.send, "b", "k", "/x")
        await wait_all_tasks_blocked()
        with count:
            subscription.remove("b")
            await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == size
        nursery.cancel_scope.cancel()


async def look_at_a_ring(size: int, count: AtLine) -> None:
    """Each task reads one full subscription, and sends to the next one."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscriptions = [await bus.subscribe(f"s{n}", max_buffer_size=1) for n in range(size)]
        errors = []

        async def play(number: int) -> None:
            await bus.send(f"s{number}", "k", "/first")
            await subscriptions[number].channel().receive()
            await bus.send(f"s{number}", "k", "/fills it")
            await wait_all_tasks_blocked()
            try:
                await bus.send(f"s{(number + 1) % size}", "k", "/waits")
            except DeadlockError as error:
                errors.append(error)
            await trio.sleep(100)

        for number in range(size):
            nursery.start_soon(play, number)
        await wait_all_tasks_blocked()
        with count:
            await trio.sleep(8)
        assert len(errors) == 1
        nursery.cancel_scope.cancel()


async def look_at_a_chain(size: int, count: AtLine) -> None:
    """The same without the last one: the last task sleeps, so there is hope for all."""
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscriptions = [await bus.subscribe(f"s{n}", max_buffer_size=1) for n in range(size)]

        async def play(number: int) -> None:
            await bus.send(f"s{number}", "k", "/first")
            await subscriptions[number].channel().receive()
            await bus.send(f"s{number}", "k", "/fills it")
            await wait_all_tasks_blocked()
            if number + 1 < size:
                await bus.send(f"s{number + 1}", "k", "/waits")
            await trio.sleep(100)

        for number in range(size):
            nursery.start_soon(play, number)
        await wait_all_tasks_blocked()
        with count:
            await trio.sleep(8)
        nursery.cancel_scope.cancel()


async def look_at_many_senders_for_long(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await subscription.receive()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        for _ in range(size):
            nursery.start_soon(bus.send, "a", "k", "/x")
        await wait_all_tasks_blocked()
        with count:
            await trio.sleep(100)
        nursery.cancel_scope.cancel()


async def close_many_subscriptions(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus:
        subscriptions = [await bus.subscribe("a.*", f"k{n}") for n in range(size)]
        with count:
            for subscription in subscriptions:
                subscription.close()
            await wait_all_tasks_blocked()


async def close_a_bus_of_many_waits(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        idle = await bus.subscribe("b")

        async def send() -> None:
            try:
                await bus.send("a", "k", "/x")
            except BusClosedError:
                pass

        async def read() -> None:
            async for _ in idle:
                pass

        for _ in range(size):
            nursery.start_soon(send)
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        with count:
            bus.close()
            await wait_all_tasks_blocked()


async def keep_the_newest_of_many_paths(size: int, count: AtLine) -> None:
    """A full buffer with one path more than it has room for, and a reader now and then."""
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=size, overflow=Overflow.LATEST)
        with count:
            for number in range(6 * size):
                await bus.send("a", "k", f"/{number % (size + 1)}")
                if number % 5 == 0:
                    await subscription.receive()


async def keep_the_history_of_many_paths(size: int, count: AtLine) -> None:
    async with open_event_bus() as bus:
        history = await bus.open_history("**", per_path=2, max_events=size)
        with count:
            for number in range(4 * size):
                await bus.send("a", "k", f"/{number % size}")
            await bus.subscribe("a", history=history)


@pytest.mark.parametrize(
    "program",
    [
        wake_many_readers,
        dismiss_many_readers,
        cancel_many_readers,
        let_in_many_senders,
        cancel_many_senders,
        busy_readers_and_waiting_senders,
        move_many_senders,
        a_removed_pattern_releases_many_senders,
        look_at_a_ring,
        look_at_a_chain,
        look_at_many_senders_for_long,
        close_many_subscriptions,
        close_a_bus_of_many_waits,
        keep_the_newest_of_many_paths,
        keep_the_history_of_many_paths,
    ],
    ids=lambda f: f.__name__,
)
def test_the_cost_grows_in_proportion(
    program: Callable[[int, AtLine], Awaitable[None]],
) -> None:
    size = 40
    small, large = lines_of(program, size), lines_of(program, 4 * size)
    assert large <= 4.5 * small


async def others(bus: EventBus, size: int, system: str, path: str) -> None:
    for number in range(size):
        await bus.subscribe(system.format(number), path=path.format(number) or None)


@pytest.mark.parametrize(
    ("system", "path"),
    [
        ("a", "/u/{}/*"),
        ("a", "/u/{}"),
        ("a", "/u/*/{}"),
        ("a", "/**/{}"),
        ("(a|b{0}).c{0}", ""),
        ("a.(c|d{0}).e{0}", ""),
        ("*.c{}", ""),
        ("**.c{}", ""),
        ("a.**.c{}", ""),
        ("x{}.**", ""),
    ],
)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh routes", "a remembered route"])
async def test_an_event_costs_the_same_among_many_subscriptions_that_do_not_want_it(
    system: str, path: str, fresh: bool, autojump_clock: MockClock
) -> None:
    lines = []
    for size in (20, 200):
        async with open_event_bus(inbox_size=4) as bus:
            wanted = await bus.subscribe("a.**", path="/u/**")
            await others(bus, size, system, path)
            await wait_all_tasks_blocked()
            if not fresh:
                await bus.send("a.x", "k", "/u/y/z")
                await wait_all_tasks_blocked()
            count = AtLine(-1, bool)
            with count:
                await bus.send("a.x", "k", "/u/y/z")
                await wait_all_tasks_blocked()
            lines.append(count.lines)
            assert wanted.receive_nowait().path == "/u/y/z"
    assert lines[1] <= lines[0] + 20


async def test_a_subscription_that_comes_and_goes_costs_others_little(
    autojump_clock: MockClock,
) -> None:
    lines = []
    for size in (10, 400):
        async with open_event_bus(inbox_size=1000) as bus:
            for number in range(size):
                await bus.send(f"a.b{number}", "k", "/x")
            await wait_all_tasks_blocked()
            count = AtLine(-1, bool)
            with count:
                for _ in range(3):
                    (await bus.subscribe("**")).close()
                    await bus.send("a.b0", "k", "/x")
                    await wait_all_tasks_blocked()
            lines.append(count.lines)
    assert lines[1] <= lines[0] + 20


async def test_a_remembered_route_survives_a_wildcard_that_comes_and_goes(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        keep: list[Subscription] = [await bus.subscribe("a.*")]
        for number in range(100):
            await bus.send(f"a.b{number}", "k", "/x")
        await wait_all_tasks_blocked()
        remembered = bus.statistics().routes_remembered
        assert remembered == 100
        for _ in range(3):
            async with await bus.subscribe("**"):
                await wait_all_tasks_blocked()
                assert bus.statistics().routes_remembered == remembered
            await wait_all_tasks_blocked()
            assert bus.statistics().routes_remembered == remembered
        assert keep[0].statistics().matched == 100
