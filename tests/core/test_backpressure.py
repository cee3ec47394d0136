"""Who waits, for what, in which order, and how much is held meanwhile."""

from __future__ import annotations

import gc
import itertools
import weakref
from contextlib import suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    DeadlockError,
    EventBus,
    Overflow,
    Subscription,
    open_event_bus,
)

from ..observing import assert_balanced, assert_books, counted_turns, drain, paths
from ..time_limit import run_with_time_limit


async def fill(bus: EventBus, system: str, kind: str = "k") -> int:
    """Send until a send would wait; return how many events went in."""
    for count in itertools.count():
        try:
            bus.send_nowait(system, kind, f"/filler {count}")
        except trio.WouldBlock:
            return count
        await wait_all_tasks_blocked()
    raise AssertionError("there is always another number")


async def would_wait(bus: EventBus, system: str, kind: str = "k") -> bool:
    """Whether a send of such an event waits; if not, it was sent."""
    sent = False
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            nonlocal sent
            await bus.send(system, kind, "/probe")
            sent = True

        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return not sent


# ---------------------------------------------------------------------------------------------
# Who waits
# ---------------------------------------------------------------------------------------------


async def test_a_sender_waits_when_a_matching_block_subscription_is_full(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=3)
        assert not await would_wait(bus, "a")
        assert await fill(bus, "a") == 2
        assert await would_wait(bus, "a")
        assert_books(subscription, queued=3)
        assert bus.statistics().accepted == 3


@pytest.mark.parametrize(
    ("system", "kind", "waits"),
    [
        ("a", "k", True),
        ("a.b", "k.l", True),
        ("a", "x", False),
        ("b", "k", False),
        ("b.a", "k", False),
        ("a.b.c", "k", False),
    ],
)
async def test_a_sender_waits_only_for_a_subscription_that_its_own_event_matches(
    system: str, kind: str, waits: bool, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        for pattern in ("a", "a.*"):
            await bus.subscribe(pattern, "k.**", max_buffer_size=1)
        witness = await bus.subscribe("**")
        await fill(bus, "a")
        await fill(bus, "a.b")
        assert await would_wait(bus, system, kind) == waits
        await wait_all_tasks_blocked()
        assert ("/probe" in drain(witness.channel())) == (not waits)


@pytest.mark.parametrize("overflow", [o for o in Overflow if o is not Overflow.BLOCK])
async def test_a_sender_does_not_wait_for_a_full_subscription_of_another_policy(
    overflow: Overflow, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        await bus.subscribe("a", max_buffer_size=1, overflow=overflow)
        for _ in range(5):
            assert not await would_wait(bus, "a")


async def test_a_sender_does_not_wait_for_a_subscription_that_has_room(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=1) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=50)
        for _ in range(50):
            assert not await would_wait(bus, "a")
        assert await would_wait(bus, "a")
        assert_books(subscription, queued=50)


async def test_a_sender_waits_before_its_event_enters_the_inbox(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        everything = await bus.subscribe("**")
        await fill(bus, "a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.send, "a", "k", "/waiting")
            await wait_all_tasks_blocked()
            statistics = bus.statistics()
            assert (statistics.accepted, statistics.current_inbox_used) == (1, 0)
            assert statistics.tasks_waiting_send == 1
            assert_books(subscription, queued=1, tasks_waiting_send=1)
            assert_books(everything, queued=1)
            assert subscription.channel().receive_nowait().path == "/filler 0"
        await wait_all_tasks_blocked()
        assert_books(subscription, delivered=1, queued=1)
        assert_books(everything, queued=2)
        assert bus.statistics().tasks_waiting_send == 0


async def test_a_sender_waits_until_every_subscription_it_matches_has_room(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscriptions = [await bus.subscribe("a", max_buffer_size=1) for _ in range(3)]
        await fill(bus, "a")
        nursery.start_soon(bus.send, "a", "k", "/waiting")
        await wait_all_tasks_blocked()
        for subscription in subscriptions:
            assert bus.statistics().tasks_waiting_send == 1
            assert bus.statistics().accepted == 1
            assert subscription.channel().receive_nowait().path == "/filler 0"
            await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 0
        assert [drain(s.channel()) for s in subscriptions] == [["/waiting"]] * 3


async def test_a_reader_that_waits_makes_room_as_well(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        for _ in range(3):
            nursery.start_soon(subscription.channel().receive)
        await wait_all_tasks_blocked()
        assert await fill(bus, "a") == 4
        assert_books(subscription, delivered=3, queued=1)


async def test_senders_go_on_when_a_batch_was_read(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=4)
        await fill(bus, "a")
        for number in range(4):
            nursery.start_soon(bus.send, "a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        batch = await anext(subscription.channel().batches(max_size=3))
        assert len(batch) == 3
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 1
        assert len(await anext(subscription.channel().batches())) == 4
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 0
        assert_books(subscription, delivered=7, queued=1)


async def test_a_cancelled_sender_lets_the_next_one_through(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await fill(bus, "a")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(bus.send, "a", "k", "/cancelled")
                await wait_all_tasks_blocked()
                nursery.start_soon(bus.send, "a", "k", "/next")
                await wait_all_tasks_blocked()
                scope.cancel()
        assert_books(subscription, queued=1, tasks_waiting_send=1)
        subscription.channel().receive_nowait()
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/next"]


@pytest.mark.parametrize("error", [DeadlockError, BusClosedError])
async def test_an_error_of_send_keeps_no_event_alive_in_a_cycle(
    error: type[Exception], autojump_clock: MockClock
) -> None:
    class Data:
        pass

    async def send(bus: EventBus, data: Data) -> None:
        with pytest.raises(error):
            await bus.send("a", "k", "/x", data)

    gc.collect()
    gc.disable()
    try:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            subscription = await bus.subscribe("a", max_buffer_size=1)
            if error is DeadlockError:
                await bus.send("a", "k", "/first")
                await subscription.channel().receive()
            await fill(bus, "a")
            data = Data()
            alive = weakref.ref(data)
            if error is DeadlockError:
                try:
                    await bus.send("a", "k", "/x", data)
                except DeadlockError:
                    pass
            else:
                nursery.start_soon(send, bus, data)
            del data
            await wait_all_tasks_blocked()
            bus.close()
        assert alive() is None
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------
# First come, first served
# ---------------------------------------------------------------------------------------------


async def test_senders_that_wait_for_a_subscription_go_in_the_order_of_their_arrival(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await fill(bus, "a")
        done: list[int] = []

        async def sender(number: int) -> None:
            await bus.send("a", "k", f"/{number}")
            done.append(number)

        for number in range(6):
            nursery.start_soon(sender, number)
            await wait_all_tasks_blocked()
        received = []
        for number in range(7):
            assert done == list(range(len(done)))
            assert len(done) >= number
            received.append(subscription.channel().receive_nowait().path)
            await wait_all_tasks_blocked()
        assert received == ["/filler 0", *(f"/{number}" for number in range(6))]
        assert done == list(range(6))


async def test_senders_that_wait_for_the_inbox_go_in_the_order_of_their_arrival(
    autojump_clock: MockClock,
) -> None:
    for _ in range(10):  # trio shuffles who runs first
        async with open_event_bus(inbox_size=1) as bus:
            subscription = await bus.subscribe("a")
            await wait_all_tasks_blocked()
            arrived: list[str] = []

            async def sender(path: str, bus: EventBus = bus, arrived: list[str] = arrived) -> None:
                arrived.append(path)
                await bus.send("a", "k", path)

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(sender, f"/{number}")
            await wait_all_tasks_blocked()
            assert drain(subscription.channel()) == arrived


async def test_a_newcomer_does_not_overtake_a_sender_that_waits(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await fill(bus, "a")
        nursery.start_soon(bus.send, "a", "k", "/waiting")
        await wait_all_tasks_blocked()
        received = [subscription.channel().receive_nowait().path]
        try:
            bus.send_nowait("a", "k", "/newcomer")
        except trio.WouldBlock:
            nursery.start_soon(bus.send, "a", "k", "/newcomer")
        for _ in range(2):
            await wait_all_tasks_blocked()
            received.append(subscription.channel().receive_nowait().path)
        assert received == ["/filler 0", "/waiting", "/newcomer"]


async def test_a_sender_for_another_subscription_overtakes_one_that_waits(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        stuck = await bus.subscribe("a", max_buffer_size=1)
        free = await bus.subscribe("b", max_buffer_size=1)
        await fill(bus, "a")
        for _ in range(3):
            nursery.start_soon(bus.send, "a", "k", "/waiting")
        await wait_all_tasks_blocked()
        with trio.fail_after(1):
            for number in range(20):
                await bus.send("b", "k", f"/{number}")
                assert (await free.channel().receive()).path == f"/{number}"
        assert_books(stuck, queued=1, tasks_waiting_send=3)
        stuck.close()


async def test_a_sender_held_up_by_one_subscription_takes_no_room_in_another(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        stuck = await bus.subscribe("a", "both", max_buffer_size=1)
        free = await bus.subscribe("a", max_buffer_size=2)
        await bus.send("a", "both", "/1")
        await wait_all_tasks_blocked()
        assert drain(free.channel()) == ["/1"]
        nursery.start_soon(bus.send, "a", "both", "/waiting")
        await wait_all_tasks_blocked()
        assert not await would_wait(bus, "a", "one")
        assert not await would_wait(bus, "a", "one")
        assert await would_wait(bus, "a", "one")
        assert drain(free.channel()) == ["/probe", "/probe"]
        stuck.close()


@settings(max_examples=50, deadline=None)
@given(
    senders=st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=7),
    reads=st.lists(st.sampled_from(["a", "b"]), max_size=20),
)
def test_among_senders_of_the_same_event_none_overtakes(
    senders: list[str], reads: list[str]
) -> None:
    async def program() -> None:
        async with open_event_bus(inbox_size=2) as bus, trio.open_nursery() as nursery:
            channels = {
                "a": (await bus.subscribe("(a|ab)", max_buffer_size=1)).channel(),
                "b": (await bus.subscribe("(b|ab)", max_buffer_size=1)).channel(),
            }
            done: list[tuple[str, int]] = []

            async def sender(system: str, number: int) -> None:
                await bus.send(system, "k", f"/{number}")
                done.append((system, number))

            for number, system in enumerate(senders):
                nursery.start_soon(sender, system, number)
                await wait_all_tasks_blocked()
            # Whatever is read in the end, nobody may be left behind.
            for name in [*reads, *["a", "b"] * len(senders)]:
                drain(channels[name])
                await wait_all_tasks_blocked()
            assert len(done) == len(senders)
            for system in ("a", "b", "ab"):
                numbers = [number for sent, number in done if sent == system]
                assert numbers == sorted(numbers)

    run_with_time_limit(program)


async def test_a_sender_that_two_subscriptions_hold_up_in_turn_does_not_starve(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        one = await bus.subscribe("a", "(x|both)", max_buffer_size=1)
        two = await bus.subscribe("a", "(y|both)", max_buffer_size=1)
        bus.send_nowait("a", "x", "/fills one")
        bus.send_nowait("a", "y", "/fills two")
        await wait_all_tasks_blocked()
        sent = trio.Event()

        async def send_both() -> None:
            await bus.send("a", "both", "/came first")
            sent.set()

        async def flood(kind: str) -> None:
            while True:
                await bus.send("a", kind, "/came later")

        nursery.start_soon(send_both)
        await wait_all_tasks_blocked()
        for kind in ("x", "y") * 2:
            nursery.start_soon(flood, kind)
        await wait_all_tasks_blocked()
        for _ in range(100):
            for subscription in (one, two):
                if subscription.statistics().queued:
                    subscription.channel().receive_nowait()
                await wait_all_tasks_blocked()
        assert sent.is_set()
        nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------------------------------
# The bound
# ---------------------------------------------------------------------------------------------

INBOX_SIZE = 16


async def send_fresh_kinds(bus: EventBus, name: str, count: int) -> None:
    """Send events of kinds that nobody has seen before."""
    for number in range(count):
        await bus.send("a", f"{name}.{number}", f"/{name}/{number}")


async def test_one_sender_of_fresh_kinds_cannot_fill_more_than_the_inbox(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=INBOX_SIZE) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("**", max_buffer_size=1)
        nursery.start_soon(send_fresh_kinds, bus, "x", 1000)
        await wait_all_tasks_blocked()
        assert 0 <= subscription.statistics().held <= INBOX_SIZE + 1
        assert bus.statistics().accepted <= 1 + INBOX_SIZE + 1
        nursery.cancel_scope.cancel()


async def test_a_burst_of_fresh_kinds_without_waiting_cannot_fill_more_than_the_inbox(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=INBOX_SIZE) as bus:
        subscription = await bus.subscribe("**", max_buffer_size=1)
        refused = 0
        for number in range(500):
            try:
                bus.send_nowait("a", f"fresh{number}", "/x")
            except trio.WouldBlock:
                refused += 1
            if number % 50 == 0:
                await wait_all_tasks_blocked()
            assert subscription.statistics().held <= INBOX_SIZE
        await wait_all_tasks_blocked()
        assert refused >= 500 - 1 - INBOX_SIZE
        assert subscription.statistics().held <= INBOX_SIZE


async def test_subscriptions_that_close_take_no_room_for_events_in_the_inbox(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=4) as bus:
        subscriptions = [await bus.subscribe("x") for _ in range(4)]
        await wait_all_tasks_blocked()
        for subscription in subscriptions:
            subscription.close()
        bus.send_nowait("a", "k", "/x")


async def test_thousands_of_senders_of_fresh_kinds_are_held_up_before_the_inbox(
    autojump_clock: MockClock,
) -> None:
    senders = 3000
    async with open_event_bus(inbox_size=INBOX_SIZE) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("**", max_buffer_size=1)
        for number in range(senders):
            nursery.start_soon(send_fresh_kinds, bus, f"s{number}", 1_000_000)
        await wait_all_tasks_blocked()
        books = subscription.statistics()
        assert books.queued <= 1 + INBOX_SIZE  # they came one by one, so no more than the inbox
        assert bus.statistics().tasks_waiting_send == senders
        assert bus.statistics().accepted == books.queued
        nursery.cancel_scope.cancel()


async def test_the_bound_holds_however_often_a_slow_reader_reads(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=INBOX_SIZE) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("**", max_buffer_size=4)
        for number in range(40):
            nursery.start_soon(send_fresh_kinds, bus, f"s{number}", 1_000_000)
        received: list[str] = []
        for step in range(100):
            if step % 3 == 0:
                await trio.lowlevel.checkpoint()
            else:
                await wait_all_tasks_blocked()
            for _ in range(4 if step % 2 else 1):
                try:
                    received.append(subscription.channel().receive_nowait().path)
                except trio.WouldBlock:
                    break
            assert subscription.statistics().queued <= 4 + INBOX_SIZE + 40
            assert_balanced(subscription)
        nursery.cancel_scope.cancel()
        latest: dict[str, int] = {}
        for path in received:
            _, sender, number_text = path.split("/")
            assert int(number_text) >= latest.get(sender, 0)
            latest[sender] = int(number_text)
        assert len(latest) == 40  # nobody starves


async def test_room_for_held_events_makes_no_room_for_more_of_them() -> None:
    async with open_event_bus(inbox_size=5) as bus:
        subscription = await bus.subscribe("a", max_buffer_size=8)
        channel, sent, received = subscription.channel(), 0, []
        most_held = 0
        for _ in range(20):
            with suppress(trio.WouldBlock):
                while True:
                    bus.send_nowait("a", "k", f"/{sent}")
                    sent += 1
            await wait_all_tasks_blocked()
            assert subscription.statistics().queued <= 8 + 5
            most_held = max(most_held, subscription.statistics().held)
            received += [channel.receive_nowait().path for _ in range(3)]
        assert most_held == 7  # there was room for the others in the buffer
        received += drain(channel)
        assert received == [f"/{number}" for number in range(sent)]


async def test_senders_of_unrelated_events_keep_their_full_rate(autojump_clock: MockClock) -> None:
    """In turns, because a clock on the wall says little: as many as without the stuck ones."""

    async def turns_for_500_events(bus: EventBus, read_by: Subscription) -> int:
        with counted_turns() as turns:
            for number in range(500):
                await bus.send("free", f"k{number}", f"/{number}")
        await wait_all_tasks_blocked()
        assert drain(read_by.channel()) == [f"/{number}" for number in range(500)]
        return turns.count

    async with open_event_bus(inbox_size=1024) as bus, trio.open_nursery() as nursery:
        await bus.subscribe("a", max_buffer_size=1)
        free = await bus.subscribe("free", max_buffer_size=1000)
        await wait_all_tasks_blocked()
        alone = await turns_for_500_events(bus, free)
        for number in range(2000):
            nursery.start_soon(send_fresh_kinds, bus, f"s{number}", 1_000_000)
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == 2000
        beside = await turns_for_500_events(bus, free)
        assert beside <= alone + 2
        nursery.cancel_scope.cancel()


async def test_the_memory_of_routes_is_bounded(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**", overflow=Overflow.DROP_OLDEST, max_buffer_size=1)
        for number in range(10_000):
            await bus.send("a", f"fresh{number}", "/x")
        await wait_all_tasks_blocked()
        assert subscription.statistics().matched == 10_000
        assert bus.statistics().routes_remembered < 10_000


async def test_an_event_that_finds_room_comes_after_the_held_ones() -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=8)
        for number in range(9):  # the router has no turn meanwhile, so the last one doesn't fit
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert subscription.statistics().held == 1
        read = [subscription.receive_nowait().path for _ in range(2)]
        bus.send_nowait("a", "k", "/9")
        await wait_all_tasks_blocked()
    read += [event.path async for event in subscription]
    assert read == [f"/{number}" for number in range(10)]


async def test_held_events_and_waiting_senders_come_out_in_one_order(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=4) as bus, trio.open_nursery() as nursery:
        subscription = await bus.subscribe("a", max_buffer_size=2)
        await wait_all_tasks_blocked()
        for number in range(4):
            bus.send_nowait("a", "k", f"/{number}")
        for number in range(4, 8):
            nursery.start_soon(bus.send, "a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        received = []
        for _ in range(8):
            received.append((await subscription.channel().receive()).path)
        assert received == [f"/{number}" for number in range(8)]


@settings(max_examples=60, deadline=None)
@given(
    inbox_size=st.integers(1, 4),
    max_buffer_size=st.integers(1, 4),
    checkpoint_every=st.integers(1, 5),
    readers=st.integers(1, 3),
    max_size=st.none() | st.integers(1, 3),
    count=st.integers(1, 40),
)
def test_one_busy_sender_and_busy_readers_keep_the_order_whatever_the_sizes(
    inbox_size: int,
    max_buffer_size: int,
    checkpoint_every: int,
    readers: int,
    max_size: int | None,
    count: int,
) -> None:
    async def program() -> None:
        received: list[str] = []

        async def read(subscription: Subscription, in_batches: bool) -> None:
            if in_batches:
                async for batch in subscription.channel().batches(max_size=max_size):
                    received.extend(paths(batch))
                    assert_balanced(subscription)
            else:
                async for event in subscription:
                    received.append(event.path)
                    assert_balanced(subscription)

        async with (
            trio.open_nursery() as nursery,
            open_event_bus(inbox_size=inbox_size, checkpoint_every=checkpoint_every) as bus,
        ):
            subscription = await bus.subscribe("a", max_buffer_size=max_buffer_size)
            for number in range(readers):
                nursery.start_soon(read, subscription, number % 2 == 1)
            for number in range(count):
                await bus.send("a", "k", f"/{number}")
                assert_balanced(subscription)
        assert_books(subscription, delivered=count)
        sent = [f"/{number}" for number in range(count)]
        assert received == sent if readers == 1 else sorted(received) == sorted(sent)

    run_with_time_limit(program)
