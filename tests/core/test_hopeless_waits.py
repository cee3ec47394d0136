"""When waiting senders are looked at, which waits are ended, and what a look leaves alone."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import DeadlockError, Event, EventBus, Overflow, Subscription, open_event_bus

from ..observing import drain


@contextmanager
def looks() -> Iterator[list[float]]:
    """The times at which waiting senders were reported in the block."""
    times: list[float] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert "senders waiting" in record.getMessage()
            times.append(trio.current_time())

    log, handler = logging.getLogger("trio_events"), Handler()
    log.addHandler(handler)
    try:
        yield times
    finally:
        log.removeHandler(handler)


async def filled(bus: EventBus, system: str = "a") -> Subscription:
    """A subscription that is full, and that nobody has read."""
    subscription = await bus.subscribe(system, max_buffer_size=1)
    await bus.send(system, "k", "/fills it")
    await wait_all_tasks_blocked()
    return subscription


# --------------------------------------------------------------------------------- virtual time


@pytest.mark.parametrize(
    "start", [0, 0.1, 0.3, 1 / 3, 0.7, 1.1, 123.456, 1e6 + 0.1, 1e9 + 0.7, 2**40 + 0.1, 1e15]
)
def test_virtual_time_goes_on_from_any_start_while_a_sender_waits(start: float) -> None:
    async def main() -> None:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            subscription = await filled(bus)
            with looks() as times:
                with trio.move_on_after(200) as scope:
                    for _ in range(3):
                        nursery.start_soon(bus.send, "a", "k", "/waits")
                    await trio.sleep(0.35)
                    if len(times) > 100:
                        subscription.close()
                    await bus.send("a", "k", "/waits")
                assert scope.cancelled_caught
            assert len(times) == len(set(times)) < 20
            nursery.cancel_scope.cancel()

    clock = MockClock(autojump_threshold=0)
    clock.jump(start)
    trio.run(main, clock=clock)


@pytest.mark.parametrize("start", [0.1, 1e9 + 0.7])
def test_virtual_time_goes_on_from_any_start_after_a_loss(start: float) -> None:
    async def main() -> None:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe(
                "a", max_buffer_size=1, overflow=Overflow.DROP_OLDEST
            )
            for _ in range(3):
                for _ in range(3):
                    await bus.send("a", "k", "/x")
                    await wait_all_tasks_blocked()
                await trio.sleep(0.3)
                drain(subscription.channel())
                await trio.sleep(3.3)

    clock = MockClock(autojump_threshold=0)
    clock.jump(start)
    trio.run(main, clock=clock)


# ---------------------------------------------------------------------------- whose waits are ended

Read = Callable[[Subscription], Awaitable[object]]


async def by_receive(subscription: Subscription) -> object:
    return await subscription.channel().receive()


async def by_iteration(subscription: Subscription) -> object:
    return await anext(aiter(subscription))


async def by_batches(subscription: Subscription) -> object:
    return await anext(subscription.batches(max_size=1))


READS = pytest.mark.parametrize(
    "read", [by_receive, by_iteration, by_batches], ids=lambda f: f.__name__
)


@READS
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
async def test_workers_that_feed_themselves_do_not_wait_forever(
    read: Read, workers: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus(inbox_size=1) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=2)
        errors: list[float] = []

        async def work() -> None:
            while not errors:
                await read(subscription)
                for _ in range(2):
                    try:
                        await bus.send("a", "k", "/more")
                    except DeadlockError:
                        errors.append(trio.current_time())
            subscription.channel().close()

        async def work_until_closed() -> None:
            try:
                await work()
            except (trio.ClosedResourceError, trio.EndOfChannel, StopAsyncIteration):
                pass

        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(work_until_closed)
            await wait_all_tasks_blocked()
            for _ in range(workers):
                nursery.start_soon(bus.send, "a", "k", "/first")
        assert errors[0] == 1
        assert subscription.statistics().tasks_waiting_send == 0


@pytest.mark.parametrize("length", [2, 3, 5, 20])
@READS
async def test_in_a_ring_one_wait_is_ended_and_the_others_go_on(
    length: int, read: Read, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscriptions = [await bus.subscribe(f"s{n}", max_buffer_size=1) for n in range(length)]
        ended: list[int] = []
        done: list[int] = []

        async def play(number: int) -> None:
            await bus.send(f"s{number}", "k", "/first")
            await read(subscriptions[number])
            await bus.send(f"s{number}", "k", "/fills it")
            await wait_all_tasks_blocked()
            await trio.sleep(number / 100)
            try:
                await bus.send(f"s{(number + 1) % length}", "k", "/waits")
            except DeadlockError:
                assert trio.current_time() == 1 + number / 100
                ended.append(number)
            await read(subscriptions[number])
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(length):
                nursery.start_soon(play, number)
        assert len(ended) == 1
        assert sorted(done) == list(range(length))


@pytest.mark.parametrize("later", [0.5, 1.5, 2.5, 5, 30, 70])
async def test_a_wait_that_becomes_hopeless_is_ended_at_the_next_look(
    later: float, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)

        async def read_then_exit() -> None:
            await subscription.channel().receive()
            await trio.sleep(later)

        nursery.start_soon(read_then_exit)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/first")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/second")
        await subscription.channel().receive()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        with trio.fail_after(1000), pytest.raises(DeadlockError):
            await bus.send("a", "k", "/waits")
        assert trio.current_time() == min(t for t in (1, 2, 4, 8, 32, 124) if t > later)


@pytest.mark.parametrize("deadline", [0.5, 1, 1.5, 10, 59, 300])
async def test_a_wait_with_a_deadline_ends_by_itself(
    deadline: float, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await subscription.receive()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        with trio.move_on_after(deadline) as scope:
            await bus.send("a", "k", "/waits")
        assert scope.cancelled_caught
        assert trio.current_time() == deadline


async def test_if_one_of_several_readers_has_a_deadline_no_wait_is_ended(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        outcomes: list[str] = []

        async def work(deadline: float) -> None:
            await subscription.receive()
            await wait_all_tasks_blocked()
            with trio.move_on_after(deadline) as scope:
                await bus.send("a", "k", "/waits")
            outcomes.append("gave up" if scope.cancelled_caught else "sent")
            if scope.cancelled_caught:
                await subscription.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, 30)
            nursery.start_soon(work, float("inf"))
            await wait_all_tasks_blocked()
            for _ in range(3):
                bus.send_nowait("a", "k", "/x")
        assert outcomes == ["gave up", "sent"]


# --------------------------------------------------------------------------------- whose are not


@READS
@pytest.mark.parametrize("pause", [0.5, 0.999, 1.001, 3])
async def test_a_reader_that_sleeps_before_it_reads_means_hope(
    read: Read, pause: float, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await read(subscription)
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()

        async def other() -> None:
            with trio.CancelScope(shield=True):
                await subscription.channel().receive()  # it has read before
                await trio.sleep(pause)
            while True:
                await read(subscription)

        nursery.start_soon(other)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        with trio.fail_after(10):
            await bus.send("a", "k", "/waits")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_task_that_is_about_to_read_batches_means_hope(
    turns: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await subscription.receive()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()

        async def read() -> None:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            async for _ in subscription.batches():
                pass

        nursery.start_soon(read)
        with trio.fail_after(0.5):
            await bus.send("a", "k", "/waits")
        nursery.cancel_scope.cancel()


async def test_a_sender_that_waited_for_the_inbox_first_is_not_ended_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=1) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await subscription.receive()
        await bus.send("b", "k", "/fills the inbox")

        async def read_soon() -> None:
            await trio.sleep(0.5)
            while True:
                await subscription.receive()

        nursery.start_soon(read_soon)
        with trio.fail_after(5):
            for number in range(4):
                await bus.send("a", "k", f"/{number}")
        nursery.cancel_scope.cancel()


async def test_a_sender_that_waited_for_the_inbox_first_is_ended_if_its_wait_is_hopeless(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=1) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/first")
        await subscription.receive()
        await bus.send("b", "k", "/fills the inbox")
        with pytest.raises(DeadlockError):
            for number in range(5):
                await bus.send("a", "k", f"/{number}")
        assert trio.current_time() == 1


@pytest.mark.parametrize("waits", [3, 100])
async def test_checks_do_not_change_the_order_of_waiting_senders(
    waits: float, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await filled(bus)
        other = await bus.subscribe("*", "k", max_buffer_size=1)  # takes part from here on
        for number in range(12):
            nursery.start_soon(bus.send, "a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            await trio.sleep(0.3)
        await trio.sleep(waits)
        read = [(await subscription.receive()).path]
        seen = []
        while len(read) < 13:
            await wait_all_tasks_blocked()
            seen += drain(other.channel())
            read.append((await subscription.receive()).path)
        assert read == ["/fills it", *(f"/{n}" for n in range(12))]
        await wait_all_tasks_blocked()
        assert seen + drain(other.channel()) == read[1:]


async def test_the_successor_of_the_first_in_the_queue_is_not_reported_several_times_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await filled(bus)
        with looks() as times:

            async def leave(after: float) -> None:
                with trio.move_on_after(after):
                    await bus.send("a", "k", "/waits")

            for after in (10, 10.5, 20, 100, 100):
                nursery.start_soon(leave, after)
                await wait_all_tasks_blocked()
            await trio.sleep(101)
        assert len(times) == len(set(times))
        assert all(b - a >= 0.99 for a, b in itertools.pairwise(times))
        assert times[0] == 1
        assert len(times) <= 15


async def test_no_look_happens_before_a_second(autojump_clock: MockClock) -> None:
    with looks() as times:
        async with open_event_bus() as bus:
            subscription = await filled(bus)
            for _ in range(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bus.send, "a", "k", "/waits")
                    await trio.sleep(0.99)
                    await subscription.receive()
    assert not times


@pytest.mark.parametrize("obstacles", [2, 3])
async def test_a_sender_that_goes_on_to_the_next_obstacle_is_reported_there(
    obstacles: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a.b.c", "a.b.*", "*.b.c"][:obstacles]
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscriptions = [await bus.subscribe(name, max_buffer_size=1) for name in names]
        await bus.send("a.b.c", "k", "/fills them")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a.b.c", "k", "/waits")
        for subscription in subscriptions:
            await trio.sleep(1.5)
            assert str(subscription.system) in caplog.messages[-1]
            assert "the first for" in caplog.messages[-1]
            await subscription.receive()
        await wait_all_tasks_blocked()
        assert bus.statistics().accepted == 2
        reported = len(caplog.messages)
        await trio.sleep(100)
        assert len(caplog.messages) == reported


async def test_dead_readers_are_not_known_any_more(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        for read in (by_receive, by_iteration, by_batches):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, subscription)
                await wait_all_tasks_blocked()
                await bus.send("a", "k", "/for it")
        await bus.send("a", "k", "/for this task")
        await subscription.receive()
        await bus.send("a", "k", "/fills it")
        await wait_all_tasks_blocked()
        with pytest.raises(DeadlockError, match="its only reader is the sender itself"):
            await bus.send("a", "k", "/waits")


@pytest.mark.parametrize("concurrency", [1, 2, 4])
async def test_a_handler_that_feeds_itself_does_not_wait_forever(
    concurrency: int, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        errors = []

        async def feed(event: Event) -> None:
            for _ in range(3):
                try:
                    await bus.send("a", "k", "/more")
                except DeadlockError as error:
                    errors.append(error)
                    subscription.channel().close()
                    return

        subscription = await bus.on(feed, "a", max_buffer_size=1, concurrency=concurrency)
        for _ in range(concurrency):
            await bus.send("a", "k", "/first")
        await trio.sleep(10)
        assert len(errors) >= 1
        assert subscription.statistics().tasks_waiting_send == 0
