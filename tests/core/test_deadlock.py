"""Sends that could never end are refused, and only those."""

import math

import pytest
import trio
from trio.testing import MockClock, Sequencer, wait_all_tasks_blocked

from trio_events import DeadlockError, ErrorKind, EventBus, Subscription, open_event_bus

from ..observing import drain


async def fill(bus: EventBus, system: str) -> None:
    """Send until a send would wait, from a task of its own."""
    async with trio.open_nursery() as nursery:

        async def sender() -> None:
            while True:
                try:
                    bus.send_nowait(system, "k", "/filler")
                except trio.WouldBlock:
                    return
                await wait_all_tasks_blocked()

        nursery.start_soon(sender)


async def read_one(bus: EventBus, subscription: Subscription, system: str) -> None:
    """Make the running task a reader of the subscription."""
    await bus.send(system, "k", "/first")
    assert (await subscription.channel().receive()).path == "/first"


async def test_a_sender_that_is_the_only_reader_is_refused(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a.**", "k", max_buffer_size=2)
        await read_one(bus, subscription, "a")
        await fill(bus, "a")
        accepted = bus.statistics().accepted
        with pytest.raises(DeadlockError, match="would wait forever") as caught:
            await bus.send("a", "k", "/x")
        assert caught.value.kind is ErrorKind.CONFLICT
        assert not caught.value.retryable
        assert caught.value.details == {"system": "a.**", "kind": "k"}
        assert __file__ in str(caught.value)
        assert str(caught.value).endswith(" is full, and its only reader is the sender itself")
        assert bus.statistics().accepted == accepted
        assert trio.current_time() == 1  # that is when it was looked at
        # And it's persistent, until the sender reads.
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/x")
        await subscription.channel().receive()
        await bus.send("a", "k", "/y")


async def test_another_reader_means_no_error(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await read_one(bus, subscription, "a")

        async def other_reader() -> None:
            await subscription.channel().receive()
            await trio.sleep(5)
            await subscription.channel().receive()

        nursery.start_soon(other_reader)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/for the other reader")
        await wait_all_tasks_blocked()
        await fill(bus, "a")
        with trio.fail_after(6):
            await bus.send("a", "k", "/x")
        nursery.cancel_scope.cancel()


async def test_a_reader_that_has_exited_does_not_count(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # it has to be another task
            nursery.start_soon(read_one, bus, subscription, "a")
        await read_one(bus, subscription, "a")
        await fill(bus, "a")
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/x")


async def test_two_readers_of_which_one_has_exited_leave_one(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.channel().receive)
            await wait_all_tasks_blocked()
            await bus.send("a", "k", "/for the other reader")
            bus.send_nowait("a", "k", "/for this reader")
            await subscription.channel().receive()
        await fill(bus, "a")
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/x")


async def test_a_wait_becomes_hopeless_when_the_only_other_reader_exits(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        may_exit = trio.Event()

        async def read_and_exit() -> None:
            await subscription.channel().receive()
            await may_exit.wait()

        async def let_it_exit() -> None:
            await trio.sleep(5)
            may_exit.set()

        nursery.start_soon(read_and_exit)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/for the other reader")
        await wait_all_tasks_blocked()
        await read_one(bus, subscription, "a")
        await fill(bus, "a")
        nursery.start_soon(let_it_exit)
        start = trio.current_time()
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/x")
        assert 5 <= trio.current_time() - start < 10
        nursery.cancel_scope.cancel()


async def test_a_reader_that_is_not_a_task_means_no_deadlock(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await read_one(bus, subscription, "a")
        received: list[str] = []

        class Reader(trio.abc.Instrument):
            """Reads between the turns of all tasks."""

            def before_io_wait(self, timeout: float) -> None:
                received.extend(drain(subscription.channel()))

        reader = Reader()
        bus.send_nowait("a", "k", "/for the instrument")
        trio.lowlevel.add_instrument(reader)
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(reader)
        assert received == ["/for the instrument"]
        await fill(bus, "a")
        with trio.move_on_after(1) as scope:
            await bus.send("a", "k", "/x")
        assert scope.cancelled_caught


async def test_a_reader_that_was_started_a_moment_ago_means_no_deadlock(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)

        async def read_the_rest() -> None:
            async for _ in subscription:
                pass

        await read_one(bus, subscription, "a")  # a greeting, say
        await fill(bus, "a")
        nursery.start_soon(read_the_rest)
        await bus.send("a", "k", "/x")
        nursery.cancel_scope.cancel()


async def test_a_subscription_that_no_task_has_read_means_no_error(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await fill(bus, "a")

        async def late_reader() -> None:
            await trio.sleep(5)
            await subscription.channel().receive()

        nursery.start_soon(late_reader)
        with trio.fail_after(6):
            await bus.send("a", "k", "/x")


async def test_a_sender_that_has_a_deadline_is_left_to_it(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await read_one(bus, subscription, "a")
        await fill(bus, "a")
        with trio.move_on_after(90) as scope:
            await bus.send("a", "k", "/x")
        assert scope.cancelled_caught


async def test_a_deadline_an_hour_away_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await read_one(bus, subscription, "a")
        await fill(bus, "a")
        with trio.fail_after(3000), pytest.raises(DeadlockError) as caught:
            await bus.send("a", "k", "/x")
        assert caught.value.details == {"system": "a", "kind": None}


async def test_a_stalled_sender_that_will_give_up_is_left_alone(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await fill(bus, "a")
        with trio.move_on_after(5) as scope:
            await bus.send("a", "k", "/x")
        assert scope.cancelled_caught
        assert subscription.statistics().tasks_waiting_send == 0


async def test_a_chain_of_senders_and_readers_is_refused(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        one = await bus.subscribe("one", max_buffer_size=1)
        two = await bus.subscribe("two", max_buffer_size=1)
        order = Sequencer()
        refused: list[str] = []
        finished: list[float] = []

        async def reads_one_sends_two() -> None:
            async with order(0):
                await read_one(bus, one, "one")
            async with order(2):
                await fill(bus, "one")
                await fill(bus, "two")
            await bus.send("two", "k", "/waits")
            finished.append(trio.current_time())

        async def reads_two_sends_one() -> None:
            async with order(1):
                await read_one(bus, two, "two")
            async with order(3):
                await trio.sleep(0.5)
            try:
                await bus.send("one", "k", "/closes the circle")
            except DeadlockError as error:
                refused.append(str(error))
                await two.channel().receive()

        with pytest.RaisesGroup(pytest.RaisesExc(DeadlockError, match="all its readers wait too")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reads_one_sends_two)
                nursery.start_soon(reads_two_sends_one)
        assert not refused  # the one that waited longer was ended, which lets the other go on
        assert not finished


async def test_a_chain_in_which_a_reader_gives_up_first_may_wait(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        one = await bus.subscribe("one", max_buffer_size=1)
        two = await bus.subscribe("two", max_buffer_size=1)
        ready = trio.Event()

        async def reads_one_sends_two() -> None:
            await read_one(bus, one, "one")
            await fill(bus, "one")
            await fill(bus, "two")
            ready.set()
            with trio.move_on_after(7):
                await bus.send("two", "k", "/gives up")
            await one.channel().receive()

        await read_one(bus, two, "two")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reads_one_sends_two)
            await ready.wait()
            await wait_all_tasks_blocked()
            with trio.fail_after(8):
                await bus.send("one", "k", "/waits for 7 s")


async def chain(bus: EventBus, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
    """Another task reads `one` and waits, in the scope, for `two`, which this task reads."""
    one = await bus.subscribe("one", max_buffer_size=1)
    two = await bus.subscribe("two", max_buffer_size=1)

    async def other() -> None:
        await read_one(bus, one, "one")
        await fill(bus, "one")
        await fill(bus, "two")
        with scope:
            await bus.send("two", "k", "/x")
        async for _ in one:
            pass

    await read_one(bus, two, "two")
    nursery.start_soon(other)
    await trio.sleep(1)


async def test_a_deadline_in_a_chain_that_was_moved_later_does_not_hide_a_deadlock(
    autojump_clock: MockClock,
) -> None:
    with pytest.RaisesGroup(DeadlockError):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            scope = trio.CancelScope(deadline=trio.current_time() + 10)
            await chain(bus, scope, nursery)
            scope.deadline = math.inf
            await bus.send("one", "k", "/x")


async def test_a_wait_that_becomes_hopeless_later_is_ended(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        others = await bus.subscribe("a.*", max_buffer_size=1)
        own = await bus.subscribe("*.(x|y)", max_buffer_size=1)
        await bus.send("b.x", "k", "/first")
        await own.channel().receive()  # this task is the only reader of `own`
        await fill(bus, "a.z")  # fills `others` only

        async def fill_own_then_read_others() -> None:
            await wait_all_tasks_blocked()
            await fill(bus, "b.y")
            while True:
                try:
                    others.channel().receive_nowait()
                except trio.WouldBlock:
                    await wait_all_tasks_blocked()
                    if others.statistics().queued == 0:
                        return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill_own_then_read_others)
            with pytest.raises(DeadlockError):
                await bus.send("a.x", "k", "/matches both")


async def test_a_reader_that_was_let_in_a_moment_ago_does_not_count_as_waiting(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        one = await bus.subscribe("one", max_buffer_size=1)
        two = await bus.subscribe("two", max_buffer_size=1)

        async def reads_one_sends_two() -> None:
            await read_one(bus, one, "one")
            await fill(bus, "one")
            await fill(bus, "two")
            await bus.send("two", "k", "/waits")
            await one.channel().receive()

        await read_one(bus, two, "two")
        nursery.start_soon(reads_one_sends_two)
        while not two.statistics().tasks_waiting_send:
            await wait_all_tasks_blocked()
        two.channel().receive_nowait()  # lets the other task's event in; it has not run yet
        with trio.fail_after(1):
            await bus.send("one", "k", "/x")


async def test_a_circle_that_the_sender_is_no_part_of_ends_the_search(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        one = await bus.subscribe("one", max_buffer_size=1)
        two = await bus.subscribe("two", max_buffer_size=1)
        cancelled = []

        async def circle(own: Subscription, system: str, other: str, delay: float) -> None:
            await read_one(bus, own, system)
            await fill(bus, system)
            await trio.sleep(delay)
            with trio.move_on_after(100) as scope:  # whoever comes first gives up first
                await bus.send(other, "k", "/waits")
            cancelled.append(scope.cancelled_caught)

        nursery.start_soon(circle, one, "one", "two", 1)
        nursery.start_soon(circle, two, "two", "one", 2)
        await trio.sleep(3)
        with trio.move_on_after(1) as scope:
            await bus.send("one", "k", "/x")
        assert scope.cancelled_caught
        await trio.sleep(200)
        assert cancelled == [True, True]
