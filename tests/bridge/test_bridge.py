"""A bridge between a bus and a log: exporting, following, the end, and trouble with the log."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    DeadLetter,
    DeadlockError,
    Event,
    EventBus,
    HandlingFailed,
    NoBusError,
    Overflow,
    PolicyDeniedError,
    RulePolicy,
    Source,
    open_event_bus,
)
from trio_events.bridge import (
    Bridge,
    EventLog,
    Follower,
    LogRefusedError,
    LogUnavailableError,
    MemoryLog,
    open_bridge,
)
from trio_events.bridge._link import Link

from ..handlers.handling import Recorder
from ..observing import Cancellation, assert_balanced, at_every_checkpoint, drain, tasks_living
from ..watching import Call, Watcher
from .logs import ShakyLog, entries_of, entry, paths_in, until, write


@pytest.fixture
def memory() -> MemoryLog:
    """An empty log in memory, for a test whose clock jumps."""
    return MemoryLog()


@pytest.fixture
def shaky() -> ShakyLog:
    """The same that can fail."""
    return ShakyLog()


def assert_accounted(bridge: Bridge, *followers: Follower) -> None:
    """Every position that was passed is accounted for."""
    for follower in followers:
        s = follower.statistics()
        reasons = s.imported + s.own + s.unwanted + s.denied + s.malformed + s.missed
        assert s.passed == reasons
        assert s.position == follower.position
        assert min(attrs.astuple(s)) >= 0
    assert bridge.statistics().imported >= sum(f.statistics().imported for f in followers)


def has_passed(follower: Follower, position: int) -> bool:
    return follower.position >= position


@asynccontextmanager
async def two_buses(log: EventLog) -> AsyncGenerator[tuple[EventBus, EventBus, Bridge, Bridge]]:
    """Two buses, each with a bridge to the same log."""
    async with open_event_bus() as one, open_event_bus() as other:
        bridges = [await open_bridge(one, log, name="one")]
        bridges.append(await open_bridge(other, log, name="other"))
        yield one, other, bridges[0], bridges[1]


# ---------------------------------------------------------------------------------------------
# From bus to bus, over every kind of log
# ---------------------------------------------------------------------------------------------


async def test_two_buses_exchange_events_and_nothing_comes_back(log: EventLog) -> None:
    with trio.fail_after(30):
        async with two_buses(log) as (one, other, *bridges):
            followers = []
            for bridge in bridges:
                await bridge.export("**")
                followers.append(await bridge.follow("**"))
            subscriptions = [await one.subscribe("**"), await other.subscribe("**")]
            await one.send("s", "k", "/one", [1, {"a": None}])
            await other.send("s", "k", "/other", "text")
            got = [
                {e.path: e for e in [await s.receive(), await s.receive()]} for s in subscriptions
            ]
            assert got[0]["/one"].source is None
            assert got[1]["/other"].source is None
            assert got[1]["/one"].data == [1, {"a": None}]
            assert got[0]["/other"] == Event("s", "k", "/other", "text")
            source = got[1]["/one"].source
            assert source is not None
            assert (source.origin, source.log, source.attempt) == ("one", log.label, 1)
            assert source.time is not None
            assert source.time.tzinfo == datetime.UTC
            for bridge, follower in zip(bridges, followers, strict=True):
                await bridge.flush()
                await until(partial(has_passed, follower, 2))
                assert bridge.statistics().exported == 1
                assert follower.statistics().own == follower.statistics().imported == 1
                assert_accounted(bridge, follower)
            assert [drain(s.channel()) for s in subscriptions] == [[], []]
        assert len(await entries_of(log)) == 2


async def test_many_events_arrive_once_and_in_order(log: EventLog) -> None:
    sent = [f"/{n}" for n in range(1_500)]
    with trio.fail_after(30):
        async with two_buses(log) as (one, other, exporting, following):
            await exporting.export("s", max_buffer_size=64)
            subscription = await other.subscribe("s")
            await following.follow("s")
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    for path in sent:
                        await one.send("s", "k", path)

                got = [(await subscription.receive()).path for _ in sent]
        assert got == sent
        assert await paths_in(log) == sent


async def test_leaving_the_block_exports_what_handlers_send_while_they_finish(
    log: EventLog,
) -> None:
    async def complete(event: Event) -> None:
        await trio.sleep(0.001)
        await events.send("orders", "completed", event.path)

    with trio.fail_after(30):
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("orders")
            await bus.on(complete, "orders", "created", concurrency=4)
            for number in range(50):
                await bus.send("orders", "created", f"/{number}")
    assert len(await entries_of(log)) == 100
    assert bridge.statistics().exported == 100


async def test_a_request_is_answered_in_another_process(log: EventLog) -> None:
    async def answer(event: Event) -> None:
        await events.send(event.system, "open.accepted", event.path, {"of": event.data})

    with trio.fail_after(30):
        async with two_buses(log) as (one, other, asking, answering):
            await asking.export("doors", "open")
            await asking.follow("doors", "open.*")
            await answering.follow("doors", "open")
            await answering.export("doors", "open.*")
            await other.on(answer, "doors", "open")
            reply = await one.request("doors", "open", "/door/1", [1, 2, 3])
    assert (reply.accepted, reply.data) == (True, {"of": [1, 2, 3]})


async def test_what_a_responder_in_another_process_does_is_the_reply(log: EventLog) -> None:
    async def price(request: Event[Any]) -> object:
        if request.data is None:
            raise events.Reject("of what?")
        return 100 / request.data

    with trio.fail_after(30):
        async with two_buses(log) as (one, other, asking, answering):
            await asking.export("prices", "price.ask")
            await asking.follow("prices", "price.(accepted|rejected|failed)")
            await answering.follow("prices", "price.ask")
            await answering.export("prices", "price.(accepted|rejected|failed)")
            await other.serve(price, "prices", "price.ask", on_error=events.Log())
            reply = await one.request("prices", "price.ask", "/1", 8)
            assert (reply.accepted, reply.data) == (True, 12.5)
            reply = await one.request("prices", "price.ask", "/2", None)
            assert (reply.accepted, reply.data) == (False, "of what?")
            with pytest.raises(events.RequestFailedError, match="ZeroDivisionError"):
                await one.request("prices", "price.ask", "/3", 0)


async def test_a_request_from_another_process_is_replied_to_by_hand(log: EventLog) -> None:
    with trio.fail_after(30):
        async with two_buses(log) as (one, other, asking, answering):
            await asking.export("doors", "door.open")
            await asking.follow("doors", "door.*")
            await answering.export("doors", "door.(accepted|rejected)")
            questions = await other.subscribe("doors", "door.open")
            await answering.follow("doors", "door.open")
            await one.send("doors", "door.open", "/0")  # waits for no reply
            merely_sent = await questions.receive()
            with pytest.raises(events.InvalidEventError, match="isn't a request"):
                await other.reply(merely_sent)

            @other.start_soon
            async def _() -> None:
                await other.reply(await questions.receive(), "locked", accepted=False)

            reply = await one.request("doors", "door.open", "/1")
            assert (reply.accepted, reply.data) == (False, "locked")


async def test_a_request_that_no_process_answers_waits_for_its_deadline(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("doors")
        with pytest.raises(trio.TooSlowError), trio.fail_after(60):
            await bus.request("doors", "open", "/door/1")


async def test_instruments_see_the_events_that_a_bridge_brings(memory: MemoryLog) -> None:
    class Witness(events.Instrument):
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []

        def before_send(self, event: Event[Any]) -> None:
            self.told.append(("before", trio.lowlevel.current_task().name))

        def after_send(self, event: Event[Any], error: BaseException | None) -> None:
            self.told.append(("after", repr(error)))

        def event_received(self, event: Event[Any], subscription: Any) -> None:
            self.told.append(("received", event.path))

    witness = Witness()
    async with two_buses(memory) as (one, other, exporting, following):
        other.add_instrument(witness)
        await exporting.export("s")
        await following.follow("s")
        subscription = await other.subscribe("s")
        await one.send("s", "k", "/1")
        await subscription.receive()
    assert witness.told == [
        ("before", "trio_events follow 's'"),
        ("after", "None"),
        ("received", "/1"),
    ]


# ---------------------------------------------------------------------------------------------
# Exporting
# ---------------------------------------------------------------------------------------------


async def test_what_matches_after_export_returned_is_exported(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory, name="shop")
        await bus.send("orders.eu", "k", "/before")
        await bridge.export("orders.*", "k", path="/a/*")
        for system, kind, path in [
            ("orders.eu", "k", "/a/1"),
            ("orders", "k", "/a/2"),
            ("orders.us", "other", "/a/3"),
            ("orders.us", "k", "/b/4"),
            ("orders.us", "k", "/a/5"),
        ]:
            await bus.send(system, kind, path, {"path": path})
    found = await entries_of(memory)
    assert [(e["system"], e["subject"], e["data"]) for e in found] == [
        ("orders.eu", "/a/1", {"path": "/a/1"}),
        ("orders.us", "/a/5", {"path": "/a/5"}),
    ]
    assert [e["source"] for e in found] == ["shop", "shop"]
    ids = [e["id"].partition("-") for e in found]
    assert [number for _, _, number in ids] == ["1", "2"]
    assert len({writer for writer, _, _ in ids}) == 1
    assert len(ids[0][0]) == 12


async def test_what_came_from_a_log_is_not_exported_to_any_log(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    another = MemoryLog()
    async with open_event_bus() as bus:
        first, second = await open_bridge(bus, memory), await open_bridge(bus, another)
        exports = [await first.export("**"), await second.export("**", max_buffer_size=1)]
        follower = await first.follow("**")
        await write(memory, *[entry(f"/{n}") for n in range(20)])
        await bus.send("s", "k", "/local")
        await until(lambda: follower.position >= 21)
        assert [s.statistics().matched for s in exports] == [1, 1]
    assert await paths_in(another) == ["/local"]
    assert (await paths_in(memory))[20:] == ["/local"]


async def test_instruments_see_the_events_that_a_bridge_brings_and_an_export_ignores(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    calls: list[Call] = []
    async with open_event_bus(instruments=[Watcher(calls.append)]) as bus:
        bridge = await open_bridge(bus, memory)
        export = await bridge.export("s", max_buffer_size=1)
        follower = await bridge.follow("**")
        await bus.send("s", "k", "/local")
        await write(memory, *[entry(f"/{n}") for n in range(3)])
        await until(lambda: follower.position >= 4)
        blocking = await bus.subscribe("s", max_buffer_size=1)
        await write(memory, *[entry(f"/{n}") for n in range(3, 6)])
        await wait_all_tasks_blocked()
        assert [(await blocking.receive()).path for _ in range(3)] == ["/3", "/4", "/5"]
        await bridge.flush()
    sent = [call[1].path for call in calls if call[0] == "after_send" and call[2] is None]
    assert sent == ["/local", *[f"/{n}" for n in range(6)]]
    routed = [(e.path, call[2]) for call in calls if call[0] == "events_routed" for e in call[1]]
    assert routed == [
        ("/local", (export,)),
        *[(f"/{n}", ()) for n in range(3)],
        *[(f"/{n}", (blocking,)) for n in range(3, 6)],
    ]


async def test_data_that_cannot_be_exported_is_reported_as_a_dead_letter(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    calls: list[Call] = []
    async with open_event_bus(instruments=[Watcher(calls.append)]) as bus:
        spy = await bus.subscribe("$bus", "event.failed", overflow=Overflow.DROP_OLDEST)
        bridge = await open_bridge(bus, memory)
        export = await bridge.export("s")
        await bus.send("s", "k", "/1", object())
        await bridge.flush()
        data = (await spy.receive()).data
        assert isinstance(data, HandlingFailed)
        assert (data.origin, data.handler, data.treatment) == (export.origin, "", "")
    (letter,) = (call[1] for call in calls if call[0] == "event_failed")
    assert letter.subscription is export


async def test_what_this_bus_exported_does_not_come_back_through_another_bridge_of_it(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        exporting, following = await open_bridge(bus, memory), await open_bridge(bus, memory)
        export = await exporting.export("**")
        follower = await following.follow("**")
        subscription = await bus.subscribe("**")
        await bus.send("s", "k", "/1")
        export.close()  # its events are this bus's nevertheless
        await exporting.export("**")
        await bus.send("s", "k", "/2")
        await until(lambda: follower.position >= 2)
        assert follower.statistics().own == 2
        assert drain(subscription.channel()) == ["/1", "/2"]


async def test_an_import_does_not_wait_for_a_full_export(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        bridge = await open_bridge(bus, MemoryLog())
        subscription = await bus.subscribe("**")
        stuck = await open_bridge(bus, shaky)
        export = await stuck.export("**", max_buffer_size=1)
        shaky.hanging = True
        await bus.send("s", "k", "/1")
        await wait_all_tasks_blocked()
        await bus.send("s", "k", "/2")  # the buffer is full now
        await bridge.follow("**")
        await write(bridge._link.log, entry("/imported"))
        await trio.sleep(1)
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("s", "k", "/3")
        assert drain(subscription.channel()) == ["/1", "/2", "/imported"]
        assert export.statistics().matched == 2


async def test_a_full_export_makes_its_senders_wait_and_no_others(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus(drain_timeout=0) as bus:
        bridge = await open_bridge(bus, shaky)
        export = await bridge.export("a", max_buffer_size=1)
        shaky.hanging = True
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await bus.send("a", "k", "/3")
        assert scope.cancelled_caught
        await bus.send("b", "k", "/4")
        assert export.statistics().matched == 2
        assert_balanced(export)


@pytest.mark.parametrize(
    ("overflow", "stored"),
    [
        (Overflow.DROP_OLDEST, ["/0", "/8", "/9"]),
        (Overflow.DROP_INCOMING, ["/0", "/1", "/2"]),
        (Overflow.CLOSE, ["/0", "/1", "/2"]),
    ],
)
async def test_an_export_that_may_lose_events_never_makes_a_sender_wait(
    overflow: Overflow,
    stored: list[str],
    shaky: ShakyLog,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        export = await bridge.export("a", max_buffer_size=2, overflow=overflow)
        shaky.go_away()
        for number in range(10):
            await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
        shaky.error = None
        await bridge.flush()
        assert await paths_in(shaky.inner) == stored
        assert export.statistics().dropped == 7 if overflow is not Overflow.CLOSE else True
        assert_balanced(export)
    assert ("an export has ended" in caplog.text) is (overflow is Overflow.CLOSE)


async def test_flush_waits_until_what_was_accepted_before_is_stored(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("a")
        await bridge.flush()  # there is nothing
        for number in range(600):
            bus.send_soon("a", "k", f"/{number}")
        await bridge.flush()
        for number in range(600, 700):
            await bus.send("a", "k", f"/{number}")
        await bridge.flush()
        assert len(await paths_in(shaky.inner)) == 700
        shaky.hanging = True
        await bus.send("a", "k", "/late")
        with trio.move_on_after(60) as scope:
            await bridge.flush()
        assert scope.cancelled_caught
        shaky.hanging = False
        bus._nursery.cancel_scope.cancel()


async def test_flush_is_about_what_was_accepted_and_not_about_what_comes_later(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("a")
        await bus.send("a", "k", "/first")

        async def chatter() -> None:
            while True:
                await bus.send("a", "k", "/more")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(chatter)
            for _ in range(5):
                await bridge.flush()
            nursery.cancel_scope.cancel()
        assert (await paths_in(memory))[0] == "/first"


async def test_with_drop_oldest_flush_waits_for_what_is_on_its_way_to_the_log(
    shaky: ShakyLog,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("a", max_buffer_size=2, overflow=Overflow.DROP_OLDEST)
        shaky.go_away()
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()  # it has been taken
        flushed = trio.Event()

        async def flush() -> None:
            await bridge.flush()
            flushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            for number in range(1, 10):  # more than enough are dropped
                await bus.send("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            assert not flushed.is_set()
            shaky.error = None
        assert (await paths_in(shaky.inner))[0] == "/0"


async def test_with_latest_flush_waits_for_what_was_accepted_before_and_not_superseded(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("a", max_buffer_size=2, overflow=Overflow.LATEST)
        shaky.go_away()
        await bus.send("a", "k", "/0")
        await wait_all_tasks_blocked()  # it has been taken
        await bus.send("a", "k", "/1")
        flushed = trio.Event()

        async def flush() -> None:
            await bridge.flush()
            assert "/1" in await paths_in(shaky.inner)
            flushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await wait_all_tasks_blocked()
            for _ in range(10):
                await bus.send("a", "k", "/2")  # replaces the one before
            await wait_all_tasks_blocked()
            assert not flushed.is_set()
            shaky.error = None
        assert await paths_in(shaky.inner) == ["/0", "/1", "/2"]


async def test_an_answer_that_was_lost_does_not_make_an_event_come_twice(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("a")
        sent = []
        for number in range(30):
            shaky.lost_answers = number % 3
            sent.append(f"/{number}")
            await bus.send("a", "k", sent[-1])
            await bridge.flush()
        assert await paths_in(shaky.inner) == sent
        assert bridge.statistics().retries == 30
        assert bridge.statistics().exported == 30


class Unspeakable:
    """Data that isn't JSON."""


async def test_data_that_cannot_be_exported_is_a_dead_letter_and_the_rest_goes_on(
    memory: MemoryLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    letters: list[DeadLetter] = []
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        bridge = await open_bridge(bus, memory)
        export = await bridge.export("a")
        for path, data in [
            ("/1", 1),
            ("/object", Unspeakable()),
            ("/2", float("nan")),
            ("/large", "x" * 256 * 1024),
            ("/3", "x" * 255 * 1024),
            ("/deep", deep),
            ("/4", {1, 2}),
        ]:
            await bus.send("a", "k", path, data)
        while deep:
            deep = deep[0]
        await bridge.flush()
        assert export.statistics().delivered == 7
    assert [letter.event.path for letter in letters] == ["/object", "/large", "/deep"]
    assert {letter.subscription for letter in letters} == {export}
    assert await paths_in(memory) == ["/1", "/2", "/3", "/4"]
    assert bridge.statistics().refused == 3
    assert bridge.statistics().exported == 4
    logged = [r.getMessage() for r in caplog.records if "can't be exported" in r.getMessage()]
    assert len(logged) == 2  # the first and the second, and the next will be the fourth
    assert "'/object'" in logged[0]
    assert "(refused: 2 so far)" in logged[1]


async def test_what_the_hook_for_dead_letters_raises_leaves_through_the_supervisor(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    def refuse(letter: DeadLetter) -> None:
        raise ZeroDivisionError(letter.event.path)

    with pytest.raises(ZeroDivisionError, match="/x"):
        async with open_event_bus(on_dead_letter=refuse) as bus:
            bridge = await open_bridge(bus, memory)
            await bridge.export("a")
            await bus.send("a", "k", "/x", Unspeakable())
            await trio.sleep_forever()


async def test_the_hook_for_an_event_that_cannot_be_exported_may_not_wait_for_the_export(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    errors: list[str] = []

    async def flush() -> None:
        with pytest.raises(DeadlockError) as caught:
            await bridge.flush()
        errors.append(str(caught.value))
        assert caught.value.details == {"system": "a", "kind": None}

    async def bury(letter: DeadLetter) -> None:
        await flush()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(flush)

    async with open_event_bus(on_dead_letter=bury) as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("a")
        await bus.send("a", "k", "/x", Unspeakable())
        await bus.send("a", "k", "/y")
        await bridge.flush()
    assert errors == ["flush would wait for the export that has called on_dead_letter"] * 3
    assert await paths_in(memory) == ["/y"]


async def test_a_bridge_is_used_in_the_thread_of_its_bus(memory: MemoryLog) -> None:
    with trio.fail_after(30):
        await use_a_bridge_from_elsewhere(memory)


async def use_a_bridge_from_elsewhere(memory: MemoryLog) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("a")
        follower = await bridge.follow("b")
        for refused in (bridge.close, follower.close):
            with pytest.raises(NoBusError):
                await trio.to_thread.run_sync(refused)
        for waits in (bridge.flush, follower.wait_caught_up):
            with pytest.raises(NoBusError):
                await trio.to_thread.run_sync(trio.run, waits)
        await bus.send("a", "k", "/x")
        await bridge.flush()
        await write(memory, entry("/y", system="b"))
        await until(lambda: has_passed(follower, 2))
    assert await paths_in(memory) == ["/x", "/y"]


@pytest.mark.parametrize("after", [-1, 2**53, 2**63, "1", True])
async def test_a_position_that_there_cannot_be_is_refused(
    after: Any, memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        with pytest.raises((ValueError, TypeError), match="after must be"):
            await bridge.follow("a", after=after)
        with pytest.raises((ValueError, TypeError), match="after must be"):
            await bridge.on(Recorder(), "a", group="g", after=after)
        assert bus.subscriptions() == ()


async def test_batches_have_at_most_500_events_and_a_mebibyte(
    memory: MemoryLog, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("a", max_buffer_size=5_000)
        (export,) = bridge._link.exports
        original = export._line.call  # type: ignore[attr-defined]

        async def call(operation: partial[Any]) -> Any:
            sizes.append((len(operation.args[0]), sum(map(len, operation.args[0]))))
            return await original(operation)

        monkeypatch.setattr(type(export._line), "call", lambda _, operation: call(operation))  # type: ignore[attr-defined]
        for number in range(1_200):
            await bus.send("a", "k", f"/{number}")
        for number in range(20):
            await bus.send("a", "k", f"/large/{number}", "x" * 200_000)
        await bridge.flush()
    assert len(await paths_in(memory)) == 1_220
    assert sum(count for count, _ in sizes) == 1_220
    assert max(count for count, _ in sizes) <= 500
    assert 500_000 < max(size for _, size in sizes) <= 1024 * 1024


async def test_exports_that_overlap_are_refused(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        orders = await bridge.export("orders.**", "a.*")
        await bridge.export("orders.eu", "b")
        for system, kind in [("orders", None), ("**", "a.x"), ("(orders|x)", "*.x")]:
            with pytest.raises(ValueError, match=r"overlaps that of 'orders.\*\*'"):
                await bridge.export(system, kind)
        orders.close()
        await bridge.export("orders", "a.*")
        assert len(bus.subscriptions()) == 2


async def test_of_two_exports_at_once_that_overlap_one_is_refused(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    refused = []
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        bridge = await open_bridge(bus, memory)

        async def begin(begin_one: Any) -> None:
            try:
                await begin_one("**")
            except ValueError as error:
                refused.append(str(error)[:6])

        for begin_one in (bridge.export, bridge.export, bridge.follow, bridge.follow):
            nursery.start_soon(begin, begin_one)
        await wait_all_tasks_blocked()
        assert sorted(refused) == ["export", "follow"]


async def test_the_patterns_of_an_export_stay_as_they_are(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        export = await bridge.export("orders")
        with pytest.raises(ValueError, match="can't be changed"):
            export.add("mails")
        with pytest.raises(ValueError, match="can't be changed"):
            export.remove("orders")


async def test_closing_the_channel_of_an_export_discards_what_it_has_not_taken(
    shaky: ShakyLog,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        export = await bridge.export("a")
        shaky.go_away()
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.flush)
            await wait_all_tasks_blocked()
            export.channel().close()
            shaky.error = None
        assert export.statistics().discarded == 1
        assert await paths_in(shaky.inner) == ["/1"]
        await bridge.flush()


# ---------------------------------------------------------------------------------------------
# Following
# ---------------------------------------------------------------------------------------------


async def follow_all(log: EventLog, *terms: Any, **options: Any) -> tuple[list[Event], Follower]:
    """What a follower sends until it has caught up."""
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        subscription = await bus.subscribe("**", max_buffer_size=10_000)
        follower = await bridge.follow(*terms or ("**",), **options)
        await follower.wait_caught_up()
        assert_accounted(bridge, follower)
    return [event async for event in subscription], follower


async def test_by_default_a_follower_begins_at_the_end(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    await write(memory, *map(entry, ("/1", "/2", "/3")))
    for after, expected in [(None, []), (0, ["/1", "/2", "/3"]), (2, ["/3"]), (7, [])]:
        got, follower = await follow_all(memory, after=after)
        assert [event.path for event in got] == expected
        assert follower.statistics().start == (3 if after is None else after)


async def test_a_follower_resumes_after_the_position_of_an_event(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    await write(memory, *[entry(f"/{n}") for n in range(250)])
    got, _ = await follow_all(memory, after=0)
    assert [event.path for event in got] == [f"/{n}" for n in range(250)]
    source = got[99].source
    assert source is not None
    got, follower = await follow_all(memory, after=source.position)
    assert [event.path for event in got] == [f"/{n}" for n in range(100, 250)]
    assert follower.statistics().passed == follower.statistics().imported == 150


async def test_a_follower_passes_over_what_its_patterns_do_not_match(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    await write(
        memory,
        entry("/a/1", system="s.x", type="k.a"),
        entry("/a/2", system="s", type="k.a"),
        entry("/b/3", system="s.x", type="k.a"),
        entry("/a/4", system="s.x", type="k"),
    )
    got, follower = await follow_all(memory, "s.*", "k.*", path="/a/*", after=0)
    assert [event.path for event in got] == ["/a/1"]
    assert follower.statistics().unwanted == 3


HOSTILE = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b'{"specversion":"1.0"',
    b"[" * 50_000,
    entry(data="x" * 300_000),
    entry(specversion="2.0"),
    entry(id=...),
    entry(id=1),
    entry(source=...),
    entry(type=...),
    entry(subject=...),
    entry(system=...),
    entry(time="yesterday"),
    entry(system="$bus"),
    entry(type="$k"),
    entry(type="typed", data={"number": "not one"}),
    entry().replace(b'"data": null', b'"data": ' + b"[" * 20_000 + b"]" * 20_000),
]


@attrs.frozen
class Numbered:
    number: int


async def test_nothing_in_a_log_can_stop_a_follower(
    memory: MemoryLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await write(memory, *HOSTILE, entry("/last", type="typed", data={"number": 7}))
    got, follower = await follow_all(
        memory, "($bus|s)", "($k|k|typed)", after=0, types={"typed": Numbered}
    )
    assert [(event.path, event.data) for event in got] == [("/last", Numbered(7))]
    assert follower.statistics().malformed == len(HOSTILE)
    assert "entry 1 is malformed" in caplog.text
    assert "(malformed: 16 so far)" in caplog.text
    assert caplog.text.count("memory: entry") == 5


async def test_an_entry_that_has_no_name_to_match_is_unwanted(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    await write(memory, entry(system="a..b"), entry(subject=""), entry(system="*"), entry("/ok"))
    got, follower = await follow_all(memory, after=0)
    assert [event.path for event in got] == ["/ok"]
    assert follower.statistics().unwanted == 3


async def test_unknown_attributes_are_ignored_and_data_may_be_missing(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    await write(memory, entry("/1", traceparent="00-1"), entry("/2", data=..., specversion="1.7"))
    got, _ = await follow_all(memory, after=0)
    assert [(event.path, event.data) for event in got] == [("/1", None), ("/2", None)]
    assert got[0].source is not None
    assert got[0].source.time is None


async def test_what_made_room_before_it_was_read_is_counted_exactly(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = MemoryLog(max_events=10)
    await write(log, *[entry(f"/{n}") for n in range(1, 31)])
    got, follower = await follow_all(log, after=4)
    assert [event.path for event in got] == [f"/{n}" for n in range(21, 31)]
    assert follower.statistics().missed == 16
    assert follower.statistics().passed == 26
    assert "entries 5 to 20 are gone" in caplog.text


async def test_what_waits_for_a_full_subscriber_stays_in_the_log(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        subscription = await bus.subscribe("**", max_buffer_size=5)
        follower = await bridge.follow("**")
        await write(memory, *[entry(f"/{n}") for n in range(500)])
        await trio.sleep(100)
        assert follower.position < 500
        got = [(await subscription.receive()).path for _ in range(500)]
        assert got == [f"/{n}" for n in range(500)]
        assert follower.statistics().imported >= 494
        assert_accounted(bridge, follower)


async def test_a_follower_goes_on_after_a_deadlock_of_those_who_read(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    errors = []
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        subscription = await bus.subscribe("s", max_buffer_size=1)
        await bus.send("s", "k", "/first")
        await subscription.receive()
        await bridge.follow("s", after=0)
        await write(memory, *[entry(f"/{n}") for n in range(4)])
        await wait_all_tasks_blocked()
        try:
            await bus.send("s", "k", "/of its reader")
        except events.DeadlockError as error:
            errors.append(error)
        assert [(await subscription.receive()).path for _ in range(4)] == [
            f"/{n}" for n in range(4)
        ]
    assert len(errors) == 1


async def test_a_log_whose_end_went_back_is_noticed_and_read_from_there(
    shaky: ShakyLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await write(shaky, *[entry(f"/old/{n}") for n in range(1, 11)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        subscription = await bus.subscribe("**")
        follower = await bridge.follow("**", after=0)
        await follower.wait_caught_up()
        older = MemoryLog()
        await write(older, *[entry(f"/old/{n}") for n in range(1, 5)])
        shaky.inner = older
        shaky.go_away()
        await trio.sleep(10)
        shaky.error = None
        await trio.sleep(10)
        await write(older, *[entry(f"/new/{n}") for n in range(5, 8)])  # seen by nobody
        await write(older, entry("/new/21"), seen=20)
        await until(lambda: follower.position >= 21)
        assert drain(subscription.channel())[10:] == ["/new/5", "/new/6", "/new/7", "/new/21"]
        statistics = follower.statistics()
        # 8 to 10 are lost to the log, but this follower had them; 11 to 20 it never had.
        assert (statistics.missed, statistics.passed) == (10, 10 + 4 + 10)
        assert bridge.statistics().rewound == 1
        assert_accounted(bridge, follower)
        new, _ = await follow_all(older, after=0)
        assert len(new) == 8
    assert "its end went back from 10 to 4" in caplog.text


async def test_a_writer_that_has_seen_more_leaves_a_gap_that_readers_count(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("**")
        await bus.send("s", "k", "/1")
        await bridge.flush()
        bridge._link.log._entries.clear()  # type: ignore[attr-defined]  # restored from a copy
        await bus.send("s", "k", "/2")
        await bridge.flush()
        assert bridge.statistics().position == 2
    got, follower = await follow_all(memory, after=0)
    assert [event.path for event in got] == ["/2"]
    assert follower.statistics().missed == 1


async def test_a_follower_does_what_the_policy_allows_its_actor(
    memory: MemoryLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RulePolicy(
        [
            Allow(Action.SEND, "open.**", "bridge"),
            Allow(Action.SUBSCRIBE, "**", "reader"),
            Allow(Action.SUBSCRIBE, "open.**", "bridge"),
        ]
    )
    await write(memory, entry("/1", system="open.a"), entry("/2", system="secret"), entry("/3"))
    async with open_event_bus(policy=policy) as bus:
        subscription = await bus.for_actor("reader").subscribe("**")
        bridge = await open_bridge(bus.for_actor("bridge"), memory)
        follower = await bridge.follow("**", after=0)
        await follower.wait_caught_up()
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/1"]
        assert follower.statistics().denied == 2
        with pytest.raises(PolicyDeniedError):
            await bridge.export("**")
        with pytest.raises(PolicyDeniedError):
            await bridge.on(handle_nothing, "secret", group="g")
        await bridge.export("open.**")
        assert len(bus.subscriptions()) == 2
    assert "entry 2 is not allowed" in caplog.text


async def handle_nothing(event: Event) -> None:
    pass


async def test_followers_that_overlap_are_refused(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        orders = await bridge.follow("orders.**")
        await bridge.follow("mails")
        with pytest.raises(ValueError, match="follow of 'orders' overlaps"):
            await bridge.follow("orders")
        orders.close()
        await bridge.follow("orders")


async def test_a_closed_follower_sends_nothing_more(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        subscription = await bus.subscribe("**")
        follower = await bridge.follow("**")
        assert repr(follower) == "<Follower of '**' in memory, at 0>"
        await write(memory, entry("/1"))
        await wait_all_tasks_blocked()
        for _ in range(2):
            follower.close()
        await write(memory, entry("/2"))
        await trio.sleep(60)
        assert drain(subscription.channel()) == ["/1"]
        assert follower.position == 1
        assert repr(follower) == "<Follower of '**' in memory, closed>"


async def test_waiting_to_catch_up_ends_with_an_error_when_the_follower_is_closed(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    await write(memory, *[entry(f"/{n}") for n in range(500)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bus.subscribe("**", max_buffer_size=1)
        follower = await bridge.follow("**", after=0)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                for _ in range(2):
                    with pytest.raises(trio.ClosedResourceError, match="caught up"):
                        await follower.wait_caught_up()

            await wait_all_tasks_blocked()
            follower.close()


async def test_waiting_to_catch_up_ends_with_an_error_when_the_bus_is_closed(
    memory: MemoryLog,
    autojump_clock: MockClock,
) -> None:
    await write(memory, *[entry(f"/{n}") for n in range(500)])
    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bus.subscribe("**", max_buffer_size=1)
        follower = await bridge.follow("**", after=0)

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(BusClosedError):
                await follower.wait_caught_up()

        await wait_all_tasks_blocked()


# ---------------------------------------------------------------------------------------------
# The end
# ---------------------------------------------------------------------------------------------


async def test_closing_the_bus_ends_followers_and_stores_everything(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("**")
        await bridge.follow("**")
        for number in range(700):
            await bus.send("s", "k", f"/{number}")
        bus.close()
        with pytest.raises(BusClosedError):
            await bus.send("s", "k", "/late")
    assert len(await paths_in(memory)) == 700
    assert bridge.statistics().exported == 700
    await write(memory, entry("/later"))


async def test_a_bus_that_only_follows_is_closed_at_once(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bus.subscribe("**", max_buffer_size=1)
        follower = await bridge.follow("**", after=0)
        await write(memory, *[entry(f"/{n}") for n in range(500)])
        await wait_all_tasks_blocked()
    assert 0 < follower.position < 500


async def test_what_could_not_be_stored_when_the_time_is_over_is_counted_and_logged(
    shaky: ShakyLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = trio.current_time()
    async with open_event_bus(drain_timeout=20) as bus:
        bridge = await open_bridge(bus, shaky)
        export = await bridge.export("**")
        await bus.send("s", "k", "/stored")
        await bridge.flush()
        shaky.go_away()
        for number in range(3):
            await bus.send("s", "k", f"/{number}")
            await wait_all_tasks_blocked()
    assert trio.current_time() - start == 20
    assert "drain_timeout (20 s) expired; events that were not exported: 3" in caplog.text
    assert await paths_in(shaky.inner) == ["/stored"]
    assert_balanced(export)
    with pytest.raises(BusClosedError, match="not everything was exported"):
        await bridge.flush()


async def test_a_flush_that_waits_when_the_time_is_over_fails(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery, open_event_bus(drain_timeout=1) as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("**")
        shaky.go_away()
        await bus.send("s", "k", "/1")

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(BusClosedError, match="not everything was exported"):
                await bridge.flush()

        await wait_all_tasks_blocked()


async def test_leaving_by_an_exception_ends_a_bridge_at_once(
    shaky: ShakyLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = trio.current_time()
    with pytest.raises(ZeroDivisionError):
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, shaky)
            await bridge.export("**")
            await bridge.follow("**")
            await bridge.on(handle_nothing, "**", group="g")
            await wait_all_tasks_blocked()
            shaky.hanging = True
            await bus.send("s", "k", "/1")
            await wait_all_tasks_blocked()
            raise ZeroDivisionError
    assert trio.current_time() == start
    assert "an exception ended the bus; events that were not exported: 1" in caplog.text
    assert shaky.open_sessions == 0


async def test_a_bridge_can_be_closed_by_itself(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory, name="shop")
        export = await bridge.export("**")
        follower = await bridge.follow("**")
        assert repr(bridge) == "<Bridge 'shop' to memory, 1 exports>"
        before = tasks_living()
        await bus.send("s", "k", "/1")
        for _ in range(2):
            bridge.close()
        await bus.send("s", "k", "/2")
        await wait_all_tasks_blocked()
        assert tasks_living() == before - 5  # two and their lines, and the subscription's own
        assert await paths_in(memory) == ["/1"]
        assert repr(bridge) == "<Bridge 'shop' to memory, closed>"
        assert repr(follower).endswith("closed>")
        assert bus.subscriptions() == ()
        await bridge.flush()
        for operation in (
            partial(bridge.export, "a"),
            partial(bridge.follow, "a"),
            partial(bridge.on, handle_nothing, "a", group="g"),
        ):
            with pytest.raises(trio.ClosedResourceError, match="the bridge to memory was closed"):
                await operation()
        assert export.statistics().delivered == 1


async def test_nothing_begins_on_a_bus_that_is_closing(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    bridges: list[Bridge] = []

    async def begin(event: Event) -> None:
        bus = events.open_event_bus  # the handler may use the bus, which is closing
        del bus
        for operation in (
            partial(open_bridge, current, memory),
            partial(bridges[0].export, "a"),
            partial(bridges[0].follow, "a"),
            partial(bridges[0].on, handle_nothing, "a", group="g"),
        ):
            with pytest.raises(BusClosedError):
                await operation()

    async with open_event_bus() as current:
        bridges.append(await open_bridge(current, memory))
        subscription = await current.on(begin, "s")
        await current.send("s", "k", "/x")
    assert subscription.statistics().delivered == 1
    with pytest.raises(BusClosedError):
        await open_bridge(current, memory)


async def test_a_bus_that_is_closed_while_a_bridge_waits_for_its_log(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    shaky.go_away()
    async with trio.open_nursery() as nursery, open_event_bus() as bus:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(BusClosedError):
                await open_bridge(bus, shaky)

        await wait_all_tasks_blocked()


OPERATIONS: list[Any] = [
    lambda bridge: bridge.export("a"),
    lambda bridge: bridge.follow("a", after=0),
    lambda bridge: bridge.on(handle_nothing, "a", group="g"),
    lambda bridge: bridge.flush(),
    lambda bridge: open_bridge(bridge._link.bus, bridge._link.log),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=["export", "follow", "on", "flush", "open"])
async def test_an_operation_cancelled_at_any_checkpoint_leaves_nothing(
    operation: Any, shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async def scene(cancellation: Cancellation[Any]) -> None:
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, shaky)
            await bridge.export("b")
            await bus.send("b", "k", "/x")
            before = tasks_living(), len(bus.subscriptions())
            await cancellation.run(partial(operation, bridge))
            if cancellation.cancelled:
                assert (tasks_living(), len(bus.subscriptions())) == before
                await wait_all_tasks_blocked()
                assert shaky.open_sessions == 1  # the export's
        assert shaky.open_sessions == 0

    assert await at_every_checkpoint(scene) >= 1


# ---------------------------------------------------------------------------------------------
# Trouble with the log
# ---------------------------------------------------------------------------------------------


async def test_trouble_is_logged_once_when_it_begins_and_once_when_it_ends(
    shaky: ShakyLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_events.bridge")
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("a")
        await bridge.follow("b")
        assert bridge.statistics().connected
        for _ in range(2):
            caplog.clear()
            shaky.go_away()
            await bus.send("a", "k", "/x")
            await trio.sleep(600)
            statistics = bridge.statistics()
            assert (statistics.connected, statistics.error) == (False, "it is away")
            assert statistics.retries > 100
            shaky.error = None
            await bridge.flush()
            await trio.sleep(10)
            assert bridge.statistics().connected
            assert bridge.statistics().error is None
            assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
                (
                    "trio_events.bridge",
                    "WARNING",
                    "shaky: operations fail and are repeated: it is away",
                ),
                ("trio_events.bridge", "INFO", "shaky: operations succeed again"),
            ]
        assert bridge.statistics().reconnects == 2
    assert await paths_in(shaky.inner) == ["/x", "/x"]


@pytest.mark.parametrize(
    "error", [LogRefusedError("no"), ZeroDivisionError("a bug"), OSError(), RuntimeError("x")]
)
async def test_no_trouble_ends_the_bus_once_there_is_a_bridge(
    error: Exception, shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        await bridge.export("a")
        follower = await bridge.follow("b")
        await bridge.on(handle_nothing, "b", group="g")
        await wait_all_tasks_blocked()
        shaky.error = error
        await bus.send("a", "k", "/x")
        await trio.sleep(60)
        assert bridge.statistics().error == (str(error) or "OSError")
        shaky.error = None
        await write(shaky, entry("/y", system="b"))
        await bridge.flush()
        await until(lambda: follower.statistics().imported and bridge.statistics().handled)


async def test_a_log_that_refuses_is_an_error_at_the_call(
    shaky: ShakyLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        shaky.error = LogRefusedError("no")
        for operation in OPERATIONS[:3] + OPERATIONS[4:]:
            with pytest.raises(LogRefusedError, match="no"):
                await operation(bridge)
        assert bus.subscriptions() == ()
        assert bridge.statistics().connected


async def test_opening_a_bridge_waits_until_the_log_can_be_reached(
    shaky: ShakyLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    shaky.go_away()
    async with open_event_bus() as bus:
        with trio.move_on_after(60):
            await open_bridge(bus, shaky)
        assert caplog.text.count("it is away") == 1
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                bridge = await open_bridge(bus, shaky)
                assert bridge.statistics().retries > 5
                assert bridge.statistics().connected

            await trio.sleep(30)
            shaky.error = None


async def test_a_follower_sends_each_entry_once_whatever_happens_to_the_connection(
    shaky: ShakyLog,
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, shaky)
        subscription = await bus.subscribe("**", max_buffer_size=1_000)
        follower = await bridge.follow("**")
        for number in range(20):
            await write(shaky.inner, entry(f"/{number}"))
            if number % 3:
                shaky.go_away()
            await trio.sleep(number)
            shaky.error = None
        await until(lambda: follower.position >= 20)
        assert drain(subscription.channel()) == [f"/{n}" for n in range(20)]
        assert_accounted(bridge, follower)


async def test_a_connection_that_ends_while_it_is_not_needed_does_no_harm(
    shaky: ShakyLog, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Ends:
        """A log whose sessions end by themselves."""

        label = "ends"

        @asynccontextmanager
        async def open(self) -> AsyncGenerator[Any]:
            with trio.move_on_after(1) as scope:
                async with shaky.open() as session:
                    yield session
            if scope.cancelled_caught:
                raise LogUnavailableError("it has ended")

    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, Ends())
        await bridge.export("a")
        for _ in range(3):
            await bus.send("a", "k", "/x")
            await bridge.flush()
            await trio.sleep(10)
        assert bridge.statistics().retries == 0
    assert caplog.text == ""
    assert await paths_in(shaky.inner) == ["/x"] * 3


# ---------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------


async def test_wrong_arguments_are_refused_before_anything_happens(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    wrong: Any = 7
    async with open_event_bus() as bus:
        for operation, error in [
            (partial(open_bridge, wrong, memory), TypeError),
            (partial(open_bridge, bus, wrong), TypeError),
            (partial(open_bridge, bus, memory, name=wrong), TypeError),
            (partial(open_bridge, bus, "http://localhost"), ValueError),
        ]:
            with pytest.raises(error):
                await operation()
        bridge = await open_bridge(bus, memory)
        on = partial(bridge.on, handle_nothing, "a")
        more: list[tuple[Any, type[Exception]]] = [
            (partial(bridge.export, wrong), TypeError),
            (partial(bridge.export, "a*"), events.InvalidPatternError),
            (partial(bridge.export, "a", max_buffer_size=0), ValueError),
            (partial(bridge.export, "a", overflow=wrong), TypeError),
            (partial(bridge.follow, "a*"), events.InvalidPatternError),
            (partial(bridge.follow, "a", after=cast("Any", "1")), TypeError),
            (partial(bridge.follow, "a", after=True), TypeError),
            (partial(bridge.follow, "a", after=-1), ValueError),
            (partial(bridge.follow, "a", types={"k": wrong}), TypeError),
            (partial(bridge.follow, "a", types=wrong), TypeError),
            (partial(on, group=wrong), TypeError),
            (partial(on, group=""), ValueError),
            (partial(on, group="g", lease="1"), TypeError),
            (partial(on, group="g", lease=0), ValueError),
            (partial(on, group="g", lease=1e9), ValueError),
            (partial(on, group="g", max_attempts=0), ValueError),
            (partial(on, group="g", concurrency=0), ValueError),
            (partial(on, group="g", after=-1), ValueError),
            (partial(on, group="g", on_error=wrong), TypeError),
            (partial(bridge.on, wrong, "a", group="g"), TypeError),
        ]
        for index, (operation, error) in enumerate(more):
            try:
                with pytest.raises(error):
                    await operation()
            except BaseException as failure:
                failure.add_note(f"operation {index}")
                raise
        assert bus.subscriptions() == ()


def test_only_the_package_makes_bridges_and_followers() -> None:
    with pytest.raises(TypeError, match="use open_bridge"):
        Bridge()  # type: ignore[call-arg]  # as anybody might try
    with pytest.raises(TypeError, match=r"use Bridge\.follow"):
        Follower()  # type: ignore[call-arg]  # as above


async def test_a_source_is_not_compared_and_not_shown() -> None:
    source = Source("memory", 1, "w-1", "shop", None)
    event = Event("s", "k", "/x", 1, source=source)
    assert event == Event("s", "k", "/x", 1)
    assert hash(event) == hash(Event("s", "k", "/x", 1))
    assert repr(event) == "Event(system='s', kind='k', path='/x', data=1)"
    assert event.source is source


async def test_the_counters_begin_with_nothing(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    await write(memory, entry())
    async with open_event_bus() as bus:
        statistics = (await open_bridge(bus, memory)).statistics()
    counters = attrs.asdict(statistics)
    state = [counters.pop(name) for name in ("connected", "error", "position")]
    assert state == [True, None, 1]
    assert set(counters.values()) == {0}


async def test_a_follower_that_waits_when_the_router_ends_ends_quietly(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bus.subscribe("**", max_buffer_size=1)
        follower = await bridge.follow("**", after=0)
        await write(memory, *[entry(f"/{n}") for n in range(500)])
        await wait_all_tasks_blocked()
        bus._router.close()  # as when its task is cancelled, and others have not noticed yet
        await wait_all_tasks_blocked()
        assert repr(follower).endswith("closed>")


async def test_a_send_that_was_hopeless_is_tried_again(
    memory: MemoryLog, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeless = [events.DeadlockError("hopeless"), events.DeadlockError("hopeless")]
    original = Link.send

    async def send(link: Link, event: Event) -> None:
        if hopeless:
            raise hopeless.pop()
        await original(link, event)

    monkeypatch.setattr(Link, "send", send)
    await write(memory, entry("/1"), entry("/2"))
    got, follower = await follow_all(memory, after=0)
    assert [event.path for event in got] == ["/1", "/2"]
    assert follower.statistics().imported == 2


async def test_when_nothing_of_a_batch_can_be_exported_flush_does_not_wait(
    memory: MemoryLog, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, memory)
        await bridge.export("a")
        await bus.send("a", "k", "/x", Unspeakable())
        await bridge.flush()
        assert bridge.statistics().refused == 1
    assert await paths_in(memory) == []
