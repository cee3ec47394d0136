"""Groups: the work on the events of a log, shared by the handlers of several buses."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Allow,
    CloseSubscription,
    DeadLetter,
    Event,
    Log,
    PolicyDeniedError,
    Propagate,
    Retry,
    RulePolicy,
    SubscriptionLimitError,
    open_event_bus,
)
from trio_events.bridge import (
    Bridge,
    Claim,
    EventLog,
    LogRefusedError,
    MemoryLog,
    TooManyAttemptsError,
    open_bridge,
)
from trio_events.bridge._group import Group
from trio_events.bridge._link import Link

from ..handlers.handling import Recorder, Workers
from .logs import ShakyLog, entries_of, entry, paths_in, until, write

LEASE = 30.0


async def unclaimed(log: EventLog, group: str = "g") -> list[tuple[int, int]]:
    """Position and attempt of all that a new member gets when every lease is over."""
    await trio.sleep(2 * LEASE)
    async with log.open() as session:
        _, claims = await session.claim(group, "a new one", 1_000, LEASE, 0)
        await session.finish(group, "a new one", [claim.position for claim in claims], [], LEASE)
    return [(claim.position, claim.attempt) for claim in claims]


def handled(bridge: Bridge) -> int:
    return bridge.statistics().handled


# ---------------------------------------------------------------------------------------------
# Over every kind of log
# ---------------------------------------------------------------------------------------------


async def test_each_event_goes_to_one_member_and_is_acknowledged(log: EventLog) -> None:
    seen: list[list[str]] = [[], []]
    sources: list[events.Source | None] = []
    with trio.fail_after(30):
        async with open_event_bus() as one, open_event_bus() as other:
            bridges = [await open_bridge(one, log, name="one"), await open_bridge(other, log)]
            await bridges[0].export("jobs")
            for number, bridge in enumerate(bridges):

                async def handle(event: Event, number: int = number) -> None:
                    seen[number].append(event.path)
                    sources.append(event.source)
                    await trio.sleep(0.001)

                await bridge.on(handle, "jobs", group="g", concurrency=2)
            for number in range(60):
                await one.send("jobs", "k", f"/{number}", number)
            await until(lambda: sum(map(handled, bridges)) == 60)
            async with open_event_bus() as third:
                bridge = await open_bridge(third, log)
                recorder = Recorder()
                await bridge.on(recorder, "jobs", group="another", after=40)
                await until(lambda: len(recorder.seen) == 20)
    assert sorted(seen[0] + seen[1]) == sorted(f"/{n}" for n in range(60))
    assert [sum(b.statistics().repeated for b in bridges), len(recorder.seen)] == [0, 20]
    assert all(seen)
    assert {s.attempt for s in sources if s is not None} == {1}
    assert {s.origin for s in sources if s is not None} == {"one"}
    async with log.open() as session:
        assert await session.claim("g", "m", 100, 0.05, 0.1) == (0, [])


async def test_what_a_member_did_not_finish_goes_to_another_one(log: EventLog) -> None:
    async def fail(event: Event) -> None:
        raise OSError(event.path)

    recorded: list[tuple[str, int]] = []

    async def record(event: Event) -> None:
        assert event.source is not None
        recorded.append((event.path, event.source.attempt))

    await write(log, entry("/1"), entry("/2"))
    with trio.fail_after(30):
        with pytest.raises(OSError, match="/1"):
            async with open_event_bus() as bus:
                bridge = await open_bridge(bus, log)
                await bridge.on(fail, "s", group="g", lease=0.2, after=0)
                await trio.sleep_forever()
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.on(record, "s", group="g", lease=0.2)
            await until(lambda: len(recorded) == 2)
    assert sorted(recorded) == [("/1", 2), ("/2", 1)]
    assert bridge.statistics().repeated == 1


async def test_a_group_is_joined_with_its_patterns_only(log: EventLog) -> None:
    with trio.fail_after(30):
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.on(Recorder(), "jobs.*", "k", path="/a", group="g")
            await bridge.on(Recorder(), "jobs.*", "k", path="/a", group="g")
            for terms in [("jobs.*",), ("jobs.*", "*"), ("jobs.**", "k")]:
                with pytest.raises(LogRefusedError, match=r"'jobs\.\*' kind='k' path='/a'"):
                    await bridge.on(Recorder(), *terms, group="g")
            assert len(bus.subscriptions()) == 2


# ---------------------------------------------------------------------------------------------
# Handing out
# ---------------------------------------------------------------------------------------------


async def test_a_new_group_begins_at_the_end_and_an_old_one_where_it_was(
    autojump_clock: MockClock,
) -> None:
    log, seen = MemoryLog(), Recorder()
    await write(log, entry("/1"))
    for path in ("/2", "/3"):
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.on(seen, "s", group="g", after=None if path == "/2" else 0)
            await write(log, entry(path))
            await wait_all_tasks_blocked()
        await write(log, entry(f"{path}/between"))
    assert seen.seen == ["/2", "/2/between", "/3"]


async def test_at_most_as_many_as_the_concurrency_are_claimed(autojump_clock: MockClock) -> None:
    log, workers = MemoryLog(), Workers()
    await write(log, *[entry(f"/{n}") for n in range(6)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(workers, "s", group="g", concurrency=2, after=0)
        await wait_all_tasks_blocked()
        assert workers.begun == ["/0", "/1"]
        async with log.open() as session:
            _, claims = await session.claim("g", "another", 1, LEASE, 0)
            assert [claim.position for claim in claims] == [3]
        workers.release("/1")
        await trio.sleep(10 * LEASE)  # the leases of what runs are renewed all the time
        assert workers.begun == ["/0", "/1", "/3"]
        workers.release(*[f"/{n}" for n in range(6)])
        await trio.sleep(1)
        assert workers.begun == ["/0", "/1", "/3", "/2", "/4", "/5"]  # "another" has let go of /2
        assert workers.most == 2
    assert await unclaimed(log) == []


async def test_one_member_with_one_call_at_a_time_handles_in_order(
    autojump_clock: MockClock,
) -> None:
    log, seen = MemoryLog(), Recorder()
    await write(log, *[entry(f"/{n}") for n in range(300)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(seen, "s", group="g", after=0)
        await until(lambda: handled(bridge) == 300)
    assert seen.seen == [f"/{n}" for n in range(300)]


async def test_members_do_not_hear_their_bus_but_what_it_exports(
    autojump_clock: MockClock,
) -> None:
    log, seen = MemoryLog(), Recorder()
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        subscription = await bridge.on(seen, "**", group="g")
        assert repr(subscription).startswith("<Subscription '**' of group 'g' 0/1 buffered")
        assert repr(subscription.handler) == repr(seen)
        assert not bus.is_wanted("a", "k", "/x")
        await bus.send("a", "k", "/not exported")
        await bridge.export("a")
        await bus.send("a", "k", "/exported")
        await bridge.flush()
        await trio.sleep(1)
        with pytest.raises(ValueError, match="can't be changed"):
            subscription.add("b")
        assert bus.subscriptions()[0] is subscription
    assert seen.seen == ["/exported"]


async def test_what_no_handler_should_get_is_acknowledged_and_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, seen = MemoryLog(), Recorder()
    await write(
        log,
        b"nonsense",
        entry("/other", system="other"),
        entry("/typed", type="typed", data="x"),
        entry("/$", type="$k"),
        entry("/ok"),
    )
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(
            seen, "s", "(k|typed|$k)", group="g", after=0, types={"typed": int}, concurrency=3
        )
        await until(lambda: handled(bridge) == 1)
        statistics = bridge.statistics()
        assert (statistics.malformed, statistics.unwanted) == (3, 1)
    assert seen.seen == ["/ok"]
    assert await unclaimed(log) == []
    assert "entry 1 is malformed" in caplog.text


async def test_what_was_gone_before_a_group_got_it_is_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, seen = MemoryLog(max_events=3), Recorder()
    await write(log, *[entry(f"/{n}") for n in range(10)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(seen, "s", group="g", after=0)
        await until(lambda: handled(bridge) == 3)
        assert bridge.statistics().missed == 7
    assert "entries that were gone before group 'g' handled them: 7" in caplog.text


@attrs.frozen
class Order:
    total: int


async def test_a_handler_gets_data_of_its_type(autojump_clock: MockClock) -> None:
    log, got = MemoryLog(), []

    async def handle(event: Event[Order]) -> None:
        got.append(event.data)

    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.export("orders")
        await bridge.on(handle, "orders", "k", group="g", types={"k": Order})
        await bus.send("orders", "k", "/1", Order(7))
        await until(lambda: got)
    assert got == [Order(7)]


# ---------------------------------------------------------------------------------------------
# Acknowledging
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "on_error", [Log(), CloseSubscription(), Retry(attempts=2, then=Log())], ids=repr
)
async def test_an_event_whose_handler_failed_for_good_is_acknowledged(
    on_error: Any, autojump_clock: MockClock
) -> None:
    async def fail(event: Event) -> None:
        raise OSError

    log = MemoryLog()
    letters: list[DeadLetter] = []
    await write(log, entry("/1"))
    async with open_event_bus(on_dead_letter=letters.append) as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(fail, "s", group="g", on_error=on_error, after=0)
        await until(lambda: letters)
    assert [letter.event.path for letter in letters] == ["/1"]
    assert await unclaimed(log) == []


async def test_when_a_failure_closes_the_subscription_the_rest_is_for_others(
    autojump_clock: MockClock,
) -> None:
    log, workers = MemoryLog(), Workers()

    async def handle(event: Event) -> None:
        await workers(event)
        if event.path == "/1":
            raise OSError

    await write(log, *[entry(f"/{n}") for n in range(1, 6)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        subscription = await bridge.on(
            handle, "s", group="g", concurrency=2, on_error=CloseSubscription(), after=0
        )
        await wait_all_tasks_blocked()
        assert workers.begun == ["/1", "/2"]
        # One more is in the buffer while its predecessor is on its way out.
        workers.release("/1")
        await wait_all_tasks_blocked()
        assert subscription.statistics().failures == 1
        await trio.sleep(10 * LEASE)  # what runs is renewed
        workers.release("/2")
        await wait_all_tasks_blocked()
        assert bridge._link.groups == {}
    assert workers.begun == ["/1", "/2"]
    assert await unclaimed(log) == [(3, 1), (4, 1), (5, 1)]


async def test_what_had_not_begun_when_the_channel_was_closed_is_for_others(
    autojump_clock: MockClock,
) -> None:
    log, workers = MemoryLog(), Workers()
    await write(log, *[entry(f"/{n}") for n in range(1, 4)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        subscription = await bridge.on(workers, "s", group="g", concurrency=3, after=0)
        await wait_all_tasks_blocked()
        group = next(iter(bridge._link.groups))
        workers.release("/1", "/2", "/3")
        # In the same moment: three finish, two come, and the channel is closed before they begin.
        with bus._core.notices:
            group._running.update({4: None, 5: None})  # type: ignore[attr-defined]
            assert subscription._actor.readers is not None
            subscription._actor.readers.clear()
            for position in (4, 5):
                source = events.Source("memory", position, "w-1", "o", None)
                subscription._actor.deliver([Event("s", "k", f"/{position}", source=source)])
        subscription.channel().close()
        assert list(group._running) == [1, 2, 3]  # type: ignore[attr-defined]
        await wait_all_tasks_blocked()
    assert sorted(workers.finished) == ["/1", "/2", "/3"]
    assert await unclaimed(log) == []


async def test_closing_the_subscription_lets_the_handler_finish_what_it_has(
    autojump_clock: MockClock,
) -> None:
    log, workers = MemoryLog(), Workers()
    await write(log, *[entry(f"/{n}") for n in range(4)])
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        subscription = await bridge.on(workers, "s", group="g", concurrency=2, after=0)
        await wait_all_tasks_blocked()
        subscription.close()
        await trio.sleep(3 * LEASE)
        workers.release("/0", "/1")
        await wait_all_tasks_blocked()
        assert sorted(workers.finished) == ["/0", "/1"]
        assert bridge._link.groups == {}
    assert await unclaimed(log) == [(3, 1), (4, 1)]


async def test_closing_the_bus_lets_handlers_finish_and_acknowledges(
    autojump_clock: MockClock,
) -> None:
    log, workers = MemoryLog(), Workers()

    async def handle(event: Event) -> None:
        await workers(event)
        await events.send("answers", "k", event.path)

    await write(log, *[entry(f"/{n}") for n in range(4)])
    async with trio.open_nursery() as nursery:
        async with open_event_bus(drain_timeout=60) as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("answers")
            await bridge.on(handle, "s", group="g", concurrency=2, after=0)
            await wait_all_tasks_blocked()

            @nursery.start_soon
            async def _() -> None:
                await trio.sleep(1.5 * LEASE)
                workers.release("/0", "/1")

        assert workers.begun == ["/0", "/1"]
        assert bridge.statistics().handled == 2
    assert sorted((await paths_in(log))[4:]) == ["/0", "/1"]
    assert (await unclaimed(log))[:2] == [(3, 1), (4, 1)]


async def test_closing_a_bridge_exports_what_handlers_of_groups_still_send(
    autojump_clock: MockClock,
) -> None:
    log, workers = MemoryLog(), Workers()

    async def handle(event: Event) -> None:
        await workers(event)
        await events.send("answers", "k", event.path)

    await write(log, entry("/1"), entry("/2"))
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        export = await bridge.export("answers")
        await bridge.on(handle, "s", group="g", after=0)
        await wait_all_tasks_blocked()
        bridge.close()
        await bus.send("answers", "k", "/somebody else's")
        await trio.sleep(2 * LEASE)
        workers.release("/1")
        await wait_all_tasks_blocked()
        await bus.send("answers", "k", "/late")
        assert export.statistics().matched == 2
        assert bus.subscriptions() == ()
    assert (await paths_in(log))[2:] == ["/somebody else's", "/1"]
    assert (await unclaimed(log))[0] == (2, 1)


async def test_calls_that_the_timeout_cuts_are_handed_out_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, workers = MemoryLog(), Workers()
    await write(log, entry("/1"))
    async with open_event_bus(drain_timeout=1) as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(workers, "s", group="g", after=0)
        await wait_all_tasks_blocked()
    assert workers.cancelled == ["/1"]
    assert "calls of" in caplog.text
    assert await unclaimed(log) == [(1, 2)]


async def test_an_event_is_acknowledged_when_what_its_handler_sent_is_stored(
    autojump_clock: MockClock,
) -> None:
    log = ShakyLog()
    stuck = False

    async def answer(event: Event) -> None:
        nonlocal stuck
        await events.send("answers", "k", event.path)
        stuck = True

    await write(log.inner, entry("/1"))
    with trio.move_on_after(5 * LEASE):
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.export("answers")
            (export,) = bridge._link.exports
            await bridge.on(answer, "s", group="g", after=0)
            export._line.close()  # type: ignore[attr-defined]  # answers don't get to the log
            await trio.sleep(2 * LEASE)
            assert stuck
            async with log.inner.open() as session:  # and the event is still this member's
                assert await session.claim("g", "other", 1, LEASE, 0) == (0, [])
            await trio.sleep_forever()
    assert await unclaimed(log.inner) == [(1, 2)]


async def test_acknowledging_waits_out_trouble_with_the_log(autojump_clock: MockClock) -> None:
    log, workers = ShakyLog(), Workers()
    await write(log.inner, entry("/1"))
    async with open_event_bus(drain_timeout=1_000) as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(workers, "s", group="g", after=0)
        await wait_all_tasks_blocked()
        log.go_away()
        workers.release("/1")
        await trio.sleep(LEASE / 2)
        log.error = None
    assert workers.finished == ["/1"]
    assert await unclaimed(log.inner) == []


async def test_an_event_whose_lease_was_over_goes_on_here_and_comes_again(
    autojump_clock: MockClock,
) -> None:
    log, workers = ShakyLog(), Workers()
    await write(log.inner, entry("/1"))
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(workers, "s", group="g", concurrency=2, after=0)
        await wait_all_tasks_blocked()
        log.go_away()
        await trio.sleep(3 * LEASE)
        log.error = None  # this member claims what it has already, and does not begin it again
        await trio.sleep(3 * LEASE)
        assert workers.begun == ["/1"]
        workers.release("/1")
        await until(lambda: handled(bridge) == 1)
    assert await unclaimed(log.inner) == []


async def test_not_too_many_events_are_handled_without_being_acknowledged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_events.bridge._group._MAX_UNREPORTED", 3)
    log, seen = MemoryLog(), Recorder()
    await write(log, *[entry(f"/{n}") for n in range(10)])
    async with open_event_bus(drain_timeout=0) as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(seen, "s", group="g", after=0)
        next(iter(bridge._link.groups))._reporting.close()  # type: ignore[attr-defined]
        await trio.sleep(60)
        assert seen.seen == ["/0", "/1", "/2"]


async def test_a_group_that_a_restored_log_lacks_is_made_again_where_it_was(
    autojump_clock: MockClock,
) -> None:
    log, seen = ShakyLog(), Recorder()
    await write(log, entry("/1"), entry("/2"))
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(seen, "s", group="g", after=0)
        await until(lambda: handled(bridge) == 2)
        log.inner = MemoryLog()
        await write(log.inner, entry("/3"), entry("/4"), entry("/5"), seen=2)
        log.go_away()
        await trio.sleep(20)
        log.error = None
        await until(lambda: handled(bridge) == 5)
    assert seen.seen == ["/1", "/2", "/3", "/4", "/5"]


# ---------------------------------------------------------------------------------------------
# Giving up
# ---------------------------------------------------------------------------------------------


async def deliver_without_finishing(log: EventLog, times: int) -> None:
    async with log.open() as session:
        await session.join("g", "'s'", 0)
        for _ in range(times):
            await session.claim("g", "one that dies", 1, LEASE, 0)
            await trio.sleep(LEASE)


async def test_after_its_attempts_an_event_is_a_dead_letter(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log, seen = MemoryLog(), Recorder()
    letters: list[DeadLetter] = []

    async def keep(letter: DeadLetter) -> None:
        await trio.sleep(2 * LEASE)  # its lease is renewed meanwhile
        letters.append(letter)

    await write(log, entry("/deadly"), entry("/next"))
    await deliver_without_finishing(log, 3)
    async with open_event_bus() as bus:
        bus._on_dead_letter = keep
        bridge = await open_bridge(bus, log)
        subscription = await bridge.on(seen, "s", group="g", max_attempts=3)
        await until(lambda: handled(bridge) == 1)
        assert bridge.statistics().buried == 1
    assert seen.seen == ["/next"]
    (letter,) = letters
    assert (letter.event.path, letter.subscription) == ("/deadly", subscription)
    assert letter.event.source is not None
    assert letter.event.source.attempt == 4
    assert isinstance(letter.error, TooManyAttemptsError)
    assert letter.error.details == {"attempts": 3, "position": 1}
    assert "entry 1 was given up by group 'g': attempts: 3" in caplog.text
    assert await unclaimed(log) == []


async def test_before_an_event_is_handed_out_again_what_is_finished_is_acknowledged(
    autojump_clock: MockClock,
) -> None:
    """Otherwise an event that ends its process would cost those before it an attempt, each time."""
    log, claimed = ShakyLog(delays={"finish": 1}), []

    async def handle(event: Event) -> None:
        async with log.inner.open() as session:
            (group,) = await session.groups()
        claimed.append((event.path, group.claims))

    await write(log.inner, entry("/0"), entry("/1"), entry("/2"))
    async with log.inner.open() as session:
        await session.join("g", "'s'", 0)
        await session.claim("g", "one that dies", 3, LEASE, 0)
    await trio.sleep(2 * LEASE)
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(handle, "s", group="g")
        await until(lambda: handled(bridge) == 3)
    assert claimed == [("/0", 3), ("/1", 2), ("/2", 1)]


async def test_the_last_attempt_is_still_handed_out(autojump_clock: MockClock) -> None:
    log, attempts = MemoryLog(), []

    async def handle(event: Event) -> None:
        assert event.source is not None
        attempts.append(event.source.attempt)

    await write(log, entry("/x"))
    await deliver_without_finishing(log, 2)
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(handle, "s", group="g", max_attempts=3)
        await until(lambda: handled(bridge) == 1)
        assert bridge.statistics().repeated == 1
    assert attempts == [3]


async def test_closing_the_bus_while_an_event_is_being_buried(autojump_clock: MockClock) -> None:
    log = MemoryLog()

    async def never(letter: DeadLetter) -> None:
        await trio.sleep_forever()

    await write(log, entry("/deadly"))
    await deliver_without_finishing(log, 1)
    async with open_event_bus() as bus:
        bus._on_dead_letter = never
        bridge = await open_bridge(bus, log)
        await bridge.on(Recorder(), "s", group="g", max_attempts=1)
        await wait_all_tasks_blocked()
        assert bridge.statistics().buried == 1
    assert await unclaimed(log) == [(1, 3)]


async def test_what_a_handler_propagates_ends_the_bus_as_itself(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = MemoryLog()

    async def fail(event: Event) -> None:
        raise ZeroDivisionError

    await write(log, entry("/1"))
    with pytest.raises(ZeroDivisionError):
        async with open_event_bus() as bus:
            bridge = await open_bridge(bus, log)
            await bridge.on(fail, "s", group="g", on_error=Propagate(), after=0)
            await trio.sleep_forever()
    assert await unclaimed(log) == [(1, 2)]
    assert len(await entries_of(log)) == 1


async def test_what_runs_here_already_is_not_begun_again(autojump_clock: MockClock) -> None:
    log, workers = MemoryLog(), Workers()
    await write(log, entry("/1"))
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(workers, "s", group="g", concurrency=2, after=0)
        await wait_all_tasks_blocked()
        (group,) = bridge._link.groups
        assert isinstance(group, Group)
        await group._take_all([Claim(1, entry("/1"), 2)])  # as after a process was frozen
        await wait_all_tasks_blocked()
        assert workers.begun == ["/1"]
        workers.release("/1")
    assert workers.finished == ["/1"]


async def test_a_lease_is_kept_while_the_hook_has_an_event_of_the_same_claim(
    autojump_clock: MockClock,
) -> None:
    log = MemoryLog()
    begun: list[tuple[str, str, int]] = []
    letters: list[str] = []
    await write(log, entry("/1"))
    async with log.open() as session:  # a member that dies with the event
        await session.join("g", "'s'", 0)
        await session.claim("g", "dead", 1, LEASE, 0)
    await trio.sleep(2 * LEASE)
    await write(log, entry("/2"))

    async def bury(letter: DeadLetter) -> None:
        letters.append(letter.event.path)
        await trio.sleep(3 * LEASE)

    async def be_a_member(name: str) -> None:
        async def handle(event: Event) -> None:
            assert event.source is not None
            begun.append((name, event.path, event.source.attempt))

        async with open_event_bus(on_dead_letter=bury) as bus:
            bridge = await open_bridge(bus, log)
            await bridge.on(handle, "s", group="g", concurrency=2, max_attempts=1)
            await trio.sleep(10 * LEASE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_a_member, "one")
        await wait_all_tasks_blocked()
        nursery.start_soon(be_a_member, "other")
    assert letters == ["/1"]
    assert begun == [("one", "/2", 1)]
    assert await unclaimed(log) == []


async def test_what_is_claimed_once_more_and_finished_meanwhile_is_not_handled_again(
    autojump_clock: MockClock,
) -> None:
    log, workers = MemoryLog(), Workers()
    await write(log, entry("/1"), entry("/2"))

    async def bury(letter: DeadLetter) -> None:
        await trio.sleep(LEASE)

    async with open_event_bus(on_dead_letter=bury) as bus, trio.open_nursery() as nursery:
        bridge = await open_bridge(bus, log)
        await bridge.on(workers, "s", group="g", concurrency=2, after=0, max_attempts=1)
        await wait_all_tasks_blocked()
        (group,) = bridge._link.groups
        assert isinstance(group, Group)
        workers.release("/1")
        await until(lambda: handled(bridge) == 1)
        # As after a process was frozen: the one was given up, the other still runs.
        nursery.start_soon(group._take_all, [Claim(1, entry("/1"), 2), Claim(2, entry("/2"), 2)])
        await wait_all_tasks_blocked()
        workers.release("/2")
    assert workers.begun == ["/1", "/2"]
    assert bridge.statistics().buried == 1


async def test_a_refused_member_leaves_no_group_behind(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with open_event_bus(policy=RulePolicy([Allow("events.send", "**")])) as bus:
        bridge = await open_bridge(bus, log)
        with pytest.raises(PolicyDeniedError):
            await bridge.on(Recorder(), "s", group="g")
    async with open_event_bus(max_subscriptions=1) as bus:
        await bus.subscribe("other")
        bridge = await open_bridge(bus, log)
        with pytest.raises(SubscriptionLimitError):
            await bridge.on(Recorder(), "s", group="g")
    async with log.open() as session:
        assert await session.groups() == []


async def test_a_group_whose_exports_were_closed_by_force_ends_without_acknowledging(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, seen = MemoryLog(), Recorder()

    async def flush(link: Link) -> None:
        await trio.lowlevel.checkpoint()
        raise link.closed_error()

    monkeypatch.setattr(Link, "flush", flush)
    await write(log, entry("/1"))
    async with open_event_bus() as bus:
        bridge = await open_bridge(bus, log)
        await bridge.on(seen, "s", group="g", after=0)
        await wait_all_tasks_blocked()
        assert bridge._link.groups == {}
    assert seen.seen == ["/1"]
    assert await unclaimed(log) == [(1, 2)]
