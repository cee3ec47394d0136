"""Code that Python runs at any line (destructors, the garbage collector) may use the bus."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    Instrument,
    Log,
    Overflow,
    Subscription,
    open_event_bus,
)
from trio_events._core.senders import Sender

from ..handlers.handling import Recorder
from ..injecting import PACKAGE, TRIO_CORE, AtLine, no_chance
from ..observing import assert_balanced, drain, paths, tasks_living
from ..schedules import ENDS
from ..time_limit import run_with_time_limit


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "trio_events")
    with no_chance():
        yield


# ------------------------------------------------------------------------------------- at any line


@attrs.define(eq=False)
class Busy:
    """A program in which everything happens that can happen on a bus."""

    bus: EventBus
    blocking: Subscription
    batched: Subscription
    handled: Subscription
    witness: Subscription
    accepted: list[str] = attrs.field(factory=list)
    refused: list[str] = attrs.field(factory=list)
    got: list[str] = attrs.field(factory=list)
    in_batches: list[str] = attrs.field(factory=list)
    recorder: Recorder = attrs.field(factory=Recorder)

    async def send(self, name: str) -> None:
        for number in range(3):
            path = f"/{name}/{number}"
            try:
                await self.bus.send("a", "k", path)
            except BusClosedError:
                self.refused.append(path)
            else:
                self.accepted.append(path)

    async def receive(self) -> None:
        try:
            while True:
                self.got.append((await self.blocking.channel().receive()).path)
        except (trio.EndOfChannel, trio.ClosedResourceError):
            pass

    async def iterate(self) -> None:
        try:
            async for event in self.blocking:
                self.got.append(event.path)
        except trio.ClosedResourceError:
            pass

    async def read_batches(self) -> None:
        try:
            async for events in self.batched.batches(max_size=2):
                self.in_batches += paths(events)
        except trio.ClosedResourceError:
            pass

    async def expect(self) -> None:
        try:
            async with self.bus.expect("a", path="/2/0") as waiter:
                assert (await waiter.event()).path == "/2/0"
        except BusClosedError:
            pass

    async def run(self, *, readers_come_late: bool = False) -> None:
        async with trio.open_nursery() as nursery:
            for name in "12":
                nursery.start_soon(self.send, name)
            if readers_come_late:
                await wait_all_tasks_blocked()
            nursery.start_soon(self.receive)
            nursery.start_soon(self.iterate)
            nursery.start_soon(self.read_batches)
            nursery.start_soon(self.expect)
            await wait_all_tasks_blocked()
            self.bus.close()

    def check(self) -> None:
        """Check that every event is accounted for, once and in order."""
        assert len(self.accepted) + len(self.refused) == 6
        order = drain(self.witness.channel())
        assert sorted(order) == sorted(self.accepted)
        for subscription, seen in (
            (self.blocking, self.got),
            (self.batched, self.in_batches),
            (self.handled, self.recorder.seen),
        ):
            assert_balanced(subscription)
            books = subscription.statistics()
            assert books.tasks_waiting_send == books.handling == 0
            left = read_the_rest(subscription) if subscription is not self.handled else []
            assert len(seen) + len(left) == books.delivered + books.queued
            assert len(set(seen)) == len(seen)
            assert set(seen) <= set(order)
        assert self.in_batches == [path for path in order if path in self.in_batches]
        assert self.recorder.seen == [path for path in order if path in self.recorder.seen]


def read_the_rest(subscription: Subscription) -> list[str]:
    try:
        return drain(subscription.channel())
    except trio.ClosedResourceError:
        return []


def close_channel(subscription: Subscription) -> None:
    subscription.channel().close()


def close_two(busy: Busy) -> None:
    busy.blocking.close()
    busy.batched.channel().close()


VICTIMS: Final[dict[str, Callable[[Busy], object]]] = {
    "a subscription": lambda busy: busy.blocking.close(),
    "the subscription of batches": lambda busy: busy.batched.close(),
    "the subscription of a handler": lambda busy: busy.handled.close(),
    "a channel": lambda busy: busy.blocking.channel().close(),
    "the channel of a handler": lambda busy: busy.handled.channel().close(),
    "the bus": lambda busy: busy.bus.close(),
    "two at once": close_two,
}

ROOMS: Final = {"little": (1, 2, 1), "much": (10, 10, 10)}
"""How many events fit into the buffers. With much room, readers come late: then they find lists of
several events in a buffer that isn't full."""

SKIPPED: Final = ("unrolled_run", "_post", "take")
"""Trio's loop isn't ready for a destructor that reschedules a task. And between the last lines of
`EventBus._post`, and between a check and `pop` in `SubscriptionActor.take`, there is no call, so
that Python can't run one."""

SAMPLES = 60
"""At how many lines each of them is closed: evenly spread over all lines of the program."""


async def play(act: Callable[[Busy], object], at_line: AtLine, room: str = "little") -> None:
    sizes = iter(ROOMS[room])
    before = tasks_living()
    async with open_event_bus(inbox_size=3, checkpoint_every=3) as bus:
        recorder = Recorder()
        busy = Busy(
            bus,
            await bus.subscribe("a", max_buffer_size=next(sizes)),
            await bus.subscribe("a", max_buffer_size=next(sizes)),
            await bus.on(recorder, "a", concurrency=2, max_buffer_size=next(sizes)),
            await bus.subscribe("a", max_buffer_size=100),
            recorder=recorder,
        )
        at_line.act = partial(act, busy)
        with at_line:
            await busy.run(readers_come_late=room == "much")
    busy.check()
    assert tasks_living() == before


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize(
    ("room", "files"),
    [("little", (PACKAGE,)), ("much", (PACKAGE,)), ("little", TRIO_CORE)],
    ids=["little room", "much room", "in trio"],
)
def test_closing_at_any_line_is_safe(victim: str, room: str, files: tuple[str, ...]) -> None:
    async def main() -> None:
        calm = AtLine(-1, bool, files, SKIPPED)
        await play(VICTIMS[victim], calm, room)
        assert calm.lines > SAMPLES
        step = calm.lines // SAMPLES
        offset = list(VICTIMS).index(victim) * step // len(VICTIMS)
        for number in range(offset, calm.lines, step):
            at_line = AtLine(number, bool, files, SKIPPED)
            try:
                await play(VICTIMS[victim], at_line, room)
            except BaseException as error:
                error.add_note(f"closed at line {number}: {at_line.where}")
                raise

    run_with_time_limit(main)


@pytest.mark.parametrize("close", [Subscription.close, close_channel], ids=lambda f: f.__name__)
def test_closing_while_the_router_goes_to_sleep_is_safe(
    close: Callable[[Subscription], object],
) -> None:
    async def play_small(at_line: AtLine) -> None:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("a")
            other = await bus.subscribe("**")
            await wait_all_tasks_blocked()
            at_line.act = partial(close, subscription)
            with at_line:
                for number in range(2):
                    await bus.send("a", "k", f"/{number}")
                    await wait_all_tasks_blocked()
            assert drain(other.channel()) == ["/0", "/1"]
            await bus.send("b", "k", "/b")
            assert (await other.receive()).path == "/b"
            assert_balanced(subscription)

    async def main() -> None:
        calm = AtLine(-1, bool, TRIO_CORE[:1])
        await play_small(calm)
        assert calm.lines
        for number in range(calm.lines):
            at_line = AtLine(number, bool, TRIO_CORE[:1])
            try:
                await play_small(at_line)
            except BaseException as error:
                error.add_note(f"closed at line {number}: {at_line.where}")
                raise

    run_with_time_limit(main)


async def test_closing_at_any_line_of_adding_an_instrument_is_safe(
    autojump_clock: MockClock,
) -> None:
    class Receiving(Instrument):
        def event_received(self, event: Event, subscription: Subscription) -> None:
            got.append(event.path)

    got: list[str] = []
    files = (PACKAGE, str(Path(weakref.__file__)))
    number = 0
    while True:
        async with open_event_bus() as bus:
            closed, victim = await bus.subscribe("a"), await bus.subscribe("a")
            await bus.send("a", "k", "/1")
            await wait_all_tasks_blocked()
            closed.close()
            at_line = AtLine(number, victim.close, files, SKIPPED)
            with at_line:
                bus.add_instrument(Receiving())
            assert_balanced(victim)
        if at_line.where is None:
            break
        number += 1
    assert number > 20


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("victim", VICTIMS)
async def test_finalizers_of_real_cycles_close_while_the_collector_runs_all_the_time(
    victim: str, turns: int, autojump_clock: MockClock
) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    async def leave_a_cycle() -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        with collecting_at_every(1_000_000):  # not while it's alive: an old object stays for long
            finalizers.append(weakref.finalize(Cycle(), VICTIMS[victim], busy))

    finalizers: list[weakref.finalize[..., Any]] = []
    with collecting_at_every(1):
        async with open_event_bus(inbox_size=3, checkpoint_every=3) as bus:
            recorder = Recorder()
            busy = Busy(
                bus,
                await bus.subscribe("a", max_buffer_size=1),
                await bus.subscribe("a", max_buffer_size=2),
                await bus.on(recorder, "a", concurrency=2, max_buffer_size=1),
                await bus.subscribe("a", max_buffer_size=100),
                recorder=recorder,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave_a_cycle)
                await busy.run()
            gc.collect()  # the latest moment at which it may close something: in this run of trio
            assert not finalizers[0].alive
    busy.check()


@contextmanager
def collecting_at_every(objects: int) -> Iterator[None]:
    """Have the collector look at new objects, and only at these, when so many have been made."""
    before = gc.get_threshold()
    gc.set_threshold(objects, 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


# -------------------------------------------------------------------- the data of events that go


@attrs.define(eq=False)
class Dying:
    """Data whose destructor does something."""

    act: Callable[[], object]
    errors: list[BaseException]

    def __del__(self) -> None:
        try:
            self.act()
        except (BusClosedError, trio.WouldBlock, *ENDS):
            pass  # that is how these operations refuse
        except BaseException as error:  # noqa: ASYNC103  # a destructor is no task
            self.errors.append(error)


ACTS: Final[dict[str, Callable[[EventBus, Subscription], object]]] = {
    "closes the subscription": lambda bus, subscription: subscription.close(),
    "closes the channel": lambda bus, subscription: subscription.channel().close(),
    "closes the bus": lambda bus, subscription: bus.close(),
    "sends": lambda bus, subscription: bus.send_nowait("b", "k", "/from a destructor"),
    "sends into it": lambda bus, subscription: bus.send_nowait("a", "k", "/from a destructor"),
    "reads": lambda bus, subscription: subscription.channel().receive_nowait(),
    "reads a batch": lambda bus, subscription: drain(subscription.channel()),
    "asks": lambda bus, subscription: (bus.is_wanted("a", "k", "/"), subscription.statistics()),
    "adds": lambda bus, subscription: add(subscription),
}


def add(subscription: Subscription) -> None:
    if "added" not in repr(subscription):
        subscription.add("added")


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("overflow", Overflow)
async def test_the_destructor_of_dropped_data_may_use_the_bus(
    act: str, overflow: Overflow, autojump_clock: MockClock
) -> None:
    errors: list[BaseException] = []
    async with open_event_bus() as bus:
        # One before it and one after it in the order of delivery.
        before = await bus.subscribe("**", max_buffer_size=100)
        subscription = await bus.subscribe("a", max_buffer_size=2, overflow=overflow)
        after = await bus.subscribe("**", "k", max_buffer_size=100)
        accepted = 0
        for number in range(5):
            data = Dying(partial(ACTS[act], bus, subscription), errors)
            try:
                bus.send_nowait("a", "k", f"/{number}", data)
                accepted += 1
            except (trio.WouldBlock, BusClosedError):
                pass
            data = None  # type: ignore[assignment]  # only the bus has it
            while before.statistics().queued:
                before.receive_nowait()
            while after.statistics().queued:
                after.receive_nowait()
            await wait_all_tasks_blocked()
        subscription.channel().close()
        await wait_all_tasks_blocked()
        assert not errors
        for each in (before, subscription, after):
            assert_balanced(each)
        assert before.statistics().matched == after.statistics().matched >= accepted
        assert before.statistics().matched == bus.statistics().accepted
        assert after.statistics().dropped == after.statistics().discarded == 0


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("close", ["the channel", "the bus", "nothing"])
async def test_the_destructor_of_an_unread_event_may_use_the_bus(
    act: str, close: str, autojump_clock: MockClock
) -> None:
    errors: list[BaseException] = []
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=10)
        other = await bus.subscribe("**", max_buffer_size=100)
        for number in range(3):
            data = Dying(partial(ACTS[act], bus, subscription), errors)
            bus.send_nowait("a", "k", f"/{number}", data)
            del data
        await wait_all_tasks_blocked()
        while other.statistics().queued:
            other.receive_nowait()
        if close == "the channel":
            subscription.channel().close()
        elif close == "the bus":
            bus.close()
        await wait_all_tasks_blocked()
        assert_balanced(subscription)
        assert_balanced(other)
        assert other.statistics().matched == bus.statistics().accepted
    assert not errors


@pytest.mark.parametrize("act", ACTS)
async def test_the_destructor_of_handled_data_may_use_the_bus(
    act: str, autojump_clock: MockClock
) -> None:
    errors: list[BaseException] = []
    handled: list[str] = []
    async with open_event_bus() as bus:

        async def handle(event: Event) -> None:
            handled.append(event.path)
            raise ValueError

        subscription = await bus.on(handle, "a", on_error=Log())
        for number in range(3):
            try:
                bus.send_nowait(
                    "a",
                    "k",
                    f"/{number}",
                    Dying(partial(ACTS[act], bus, subscription), errors),
                )
            except BusClosedError:
                assert act == "closes the bus"
            await wait_all_tasks_blocked()
    assert not errors
    assert_balanced(subscription)
    assert subscription.statistics().handling == 0
    assert len(set(handled)) >= 1


async def test_data_that_cannot_be_asked_anything_is_passed_on(
    autojump_clock: MockClock,
) -> None:
    class Rude:
        @property  # type: ignore[misc]  # it is rude
        def __class__(self) -> type:
            raise ZeroDivisionError

        def __bool__(self) -> bool:
            raise ZeroDivisionError

        def __hash__(self) -> int:
            raise ZeroDivisionError

        def __eq__(self, other: object) -> bool:
            raise ZeroDivisionError

        def __repr__(self) -> str:
            raise ZeroDivisionError

    data = Rude()
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)
        handler = Recorder()
        await bus.on(handler, "a", on_error=Log())
        for number in range(3):
            await bus.send("a", "k", f"/{number}", data)
        await wait_all_tasks_blocked()
        event = await subscription.receive()
        assert event.data is data
        hash(event)
        async with bus.expect("b") as waiter:
            await bus.send("b", "k", "/x", data)
            assert (await waiter.event()).data is data
    assert handler.seen == ["/0", "/1", "/2"]


async def test_a_send_that_the_end_of_the_bus_has_woken_is_cancelled_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Trio has decided to cancel the send, and a destructor closes the bus before the send hears it.
    abort, outcomes = Sender._abort, []

    async with open_event_bus() as bus:

        def close_first(sender: Sender, raise_cancel: object) -> trio.lowlevel.Abort:
            bus.close()
            return abort(sender, raise_cancel)

        async def send() -> None:
            try:
                await bus.send("a", "k", "/2")
            except BaseException as error:
                outcomes.append(type(error))
                raise

        monkeypatch.setattr(Sender, "_abort", close_first)
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.RaisesGroup(BusClosedError):
            async with trio.open_nursery() as senders:
                senders.start_soon(send)
                await wait_all_tasks_blocked()
                senders.cancel_scope.cancel()
    assert outcomes == [BusClosedError]
    assert drain(subscription.channel()) == ["/1"]


@attrs.define(eq=False)
class ActsFirst:
    """A channel at whose next `receive` something happens first, as if by a destructor."""

    channel: trio.MemoryReceiveChannel[Any]
    act: Callable[[], object]

    async def receive(self) -> Any:
        act, self.act = self.act, bool
        act()
        return await self.channel.receive()


@pytest.mark.parametrize("ends", [False, True], ids=["", "and then the bus"])
async def test_a_subscription_may_be_closed_as_the_router_begins_to_receive(ends: bool) -> None:
    async with open_event_bus() as bus:
        subscription, other = await bus.subscribe("a"), await bus.subscribe("**")
        await wait_all_tasks_blocked()

        def close() -> None:
            subscription.close()
            if ends:
                bus.close()

        inbox = bus._core.inbox
        inbox.rx = ActsFirst(inbox.rx, close)  # type: ignore[assignment]
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        if not ends:
            await bus.send("a", "k", "/2")
    assert drain(subscription.channel()) == ["/1"]
    assert drain(other.channel()) == (["/1"] if ends else ["/1", "/2"])
    with pytest.raises(trio.EndOfChannel):
        subscription.receive_nowait()


async def test_a_reader_that_comes_before_the_end_has_been_routed_waits_for_it() -> None:
    async with open_event_bus() as bus:
        one, other = await bus.subscribe("a"), await bus.subscribe("a")
        one.close()
        with pytest.raises(trio.EndOfChannel):
            await one._actor.receive()
        other.close()
        with pytest.raises(trio.EndOfChannel):
            await other._actor.receive_list(None)
