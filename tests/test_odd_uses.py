"""Uses that few people think of: each has broken a bus once."""

import enum
import gc
import logging
import math
import random
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    Action,
    Allow,
    BusClosedError,
    DeadlockError,
    Event,
    EventBus,
    Overflow,
    Pattern,
    PolicyDeniedError,
    RulePolicy,
    open_event_bus,
)
from trio_events._actor import SubscriptionActor
from trio_events._overflow import Buffer
from trio_events._pace import Pace
from trio_events._router import Router
from trio_events._routing import RoutingTable

from .observing import assert_books, drain, paths, tasks_living
from .steps import count_lines


class ClosingPolicy:
    """Closes the bus when it is asked about one action, and allows everything."""

    def __init__(self, on: Action) -> None:
        self.on = on
        self.bus: EventBus | None = None

    def allows(self, actor: str, action: Action, system: str) -> bool:
        if action is self.on and self.bus is not None:
            self.bus.close()
        return True


@contextmanager
def on_log(act: Callable[[logging.LogRecord], object]) -> Iterator[None]:
    """Call something for each record of the package's logger."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act(record)

    log, handler = logging.getLogger("trio_events"), Handler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


async def fill(bus: EventBus, system: str) -> None:
    """Send until a send would wait."""
    while True:
        try:
            bus.send_nowait(system, "k", "/filler")
        except trio.WouldBlock:
            return
        await wait_all_tasks_blocked()


async def become_reader(bus: EventBus, subscription: Any, system: str) -> None:
    await bus.send(system, "k", "/first")
    await subscription.channel().receive()


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


# Re-entrancy


async def test_a_policy_that_closes_the_bus_at_a_subscribe_leaves_no_task(
    autojump_clock: MockClock,
) -> None:
    policy = ClosingPolicy(Action.SUBSCRIBE)
    before = tasks_living()
    with trio.move_on_after(1) as scope:
        async with open_event_bus(policy=policy) as policy.bus:
            with pytest.raises(trio.ClosedResourceError):
                await policy.bus.subscribe("a")
    assert not scope.cancelled_caught, "the block of the bus was never left"
    assert tasks_living() == before


@pytest.mark.parametrize("action", Action)
async def test_a_policy_that_closes_the_bus_makes_the_caller_get_bus_closed(
    action: Action, autojump_clock: MockClock
) -> None:
    policy = ClosingPolicy(action)
    with trio.move_on_after(1):
        async with open_event_bus(policy=policy) as policy.bus:
            with pytest.raises(BusClosedError):
                if action is Action.SEND:
                    await policy.bus.send("a", "k", "/x")
                else:
                    await policy.bus.subscribe("a")


async def test_a_log_handler_may_close_the_bus(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        with on_log(lambda _: bus.close()):
            await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
            other = await bus.subscribe("a")
            for number in range(3):
                bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
    assert paths([event async for event in other]) == ["/0", "/1", "/2"]
    assert other.statistics().matched == 3


async def test_a_log_handler_that_raises_costs_other_subscriptions_no_event(
    autojump_clock: MockClock,
) -> None:
    def fail(record: logging.LogRecord) -> None:
        raise ValueError(record.getMessage())

    other = None
    with on_log(fail):
        try:
            async with open_event_bus() as bus:
                await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
                other = await bus.subscribe("a")
                for number in range(3):
                    bus.send_nowait("a", "k", f"/{number}")
                await wait_all_tasks_blocked()
        except ValueError:
            pass
    assert other is not None
    assert other.statistics().matched == 3  # they were accepted: sends returned


async def test_an_episode_of_loss_ends_once_though_a_log_handler_reads(
    autojump_clock: MockClock,
) -> None:
    ends: list[str] = []
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=6, overflow=Overflow.DROP_INCOMING)

        def read(record: logging.LogRecord) -> None:
            if record.levelno == logging.INFO:
                ends.append(record.getMessage())
                if subscription.statistics().queued:
                    subscription.channel().receive_nowait()

        with on_log(read):
            for number in range(8):
                bus.send_nowait("a", "k", f"/{number}")
            await wait_all_tasks_blocked()
            for _ in range(3):
                subscription.channel().receive_nowait()
    assert len(ends) == 1


# Exceptions


async def test_a_cancelled_of_the_block_leaves_as_itself(autojump_clock: MockClock) -> None:
    left: BaseException | None = None
    with trio.move_on_after(1):
        try:
            async with open_event_bus() as bus:
                await bus.subscribe("a")
                await trio.sleep_forever()
        except BaseException as error:
            left = error
            raise
    assert type(left) is trio.Cancelled


def test_a_crash_inside_the_supervisor_is_not_hidden_by_cancelled_tasks_of_the_block() -> None:
    async def crash() -> None:
        raise KeyError("the crash")

    async def main() -> None:
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
            bus._nursery.start_soon(crash)

    # As it was: a group of two Cancelled leaves trio.run, and the crash is gone.
    with pytest.raises(KeyError, match="the crash"):
        trio.run(main)


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
                await become_reader(bus, subscription, "a")
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


# Names and policies


class Liar(str):
    """A text that says that it is another one."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash("public")

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


async def test_what_equals_a_name_that_was_sent_and_is_no_str_is_refused(
    autojump_clock: MockClock,
) -> None:
    class Fake:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            return other == "a"

    async with open_event_bus() as bus:
        await bus.subscribe("a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(TypeError):
            await bus.send(Fake(), "k", "/2")  # type: ignore[arg-type]  # on purpose


async def test_a_str_that_lies_about_equality_slips_past_no_rule(
    autojump_clock: MockClock,
) -> None:
    rules = [Allow(Action.SEND, "public"), Allow(Action.SUBSCRIBE, "**")]
    async with open_event_bus(policy=RulePolicy(rules)) as bus:
        await bus.subscribe("**")
        await bus.send("public", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(PolicyDeniedError):
            await bus.send(Liar("secret"), "k", "/2")


async def test_what_a_policy_allowed_while_stable_is_asked_again_when_it_no_longer_is(
    autojump_clock: MockClock,
) -> None:
    class Policy:
        stable = True
        answer = True

        def allows(self, actor: str, action: Action, system: str) -> bool:
            return self.answer

    policy = Policy()
    async with open_event_bus(policy=policy) as bus:
        await bus.send("a", "k", "/x")
        policy.stable = policy.answer = False
        with pytest.raises(PolicyDeniedError):
            await bus.send("a", "k", "/x")


async def test_a_stable_policy_is_asked_once_also_when_it_denies(
    autojump_clock: MockClock,
) -> None:
    asked: list[str] = []

    class Policy:
        stable = True

        def allows(self, actor: str, action: Action, system: str) -> bool:
            asked.append(system)
            return False

    async with open_event_bus(policy=Policy()) as bus:
        for _ in range(2):
            with pytest.raises(PolicyDeniedError):
                await bus.send("a", "k", "/x")
    assert asked == ["a"]


@pytest.mark.filterwarnings("ignore:coroutine")
async def test_a_policy_that_answers_by_anything_but_a_bool_allows_nothing(
    autojump_clock: MockClock,
) -> None:
    class Policy:
        async def allows(self, actor: str, action: Action, system: str) -> bool:
            return False

    async with open_event_bus(policy=Policy()) as bus:  # type: ignore[arg-type]  # on purpose
        with pytest.raises((PolicyDeniedError, TypeError)):
            await bus.send("secret", "k", "/x")


def test_the_budget_of_a_question_counts_all_its_work() -> None:
    choices = random.Random(0)
    tails = ["*", *(f"**.{letter}" for letter in "abcdefghi")]
    rules = [
        Allow(Action.SUBSCRIBE, ".".join(["**", letter, *choices.choices(tails, k=6)]))
        for letter in "abcdefghijkl"
        for _ in range(40)
    ]
    policy = RulePolicy([*rules, Allow(Action.SUBSCRIBE, "**")])
    asked = ".".join(["(a|b|c|d|e|f|g|h|i|j|k|l)"] * 16)
    count_lines(lambda: policy.allows("me", Action.SUBSCRIBE, asked), at_most=2_000_000)


def test_a_subscription_to_a_literal_pair_touches_one_remembered_route() -> None:
    table: RoutingTable[str] = RoutingTable()
    table.add("other", Pattern.parse("other"), None)
    for kind in ("one", "two", "three"):
        table.match("orders", kind)
    pair = Pattern.parse("orders"), Pattern.parse("one")
    assert table.remembered == 3
    table.add("item", *pair)
    assert table.recall("orders", "two") is not None
    assert table.recall("orders", "three") is not None
    assert table.remembered == 2
    assert table.match("orders", "one") == ("item",)
    assert table.remembered == 3
    table.remove("item", *pair)
    assert table.remembered == 2
    assert table.match("orders", "one") == ()
    assert table.remembered == 3


class Name(enum.StrEnum):
    """Names as an application may declare them."""

    SYSTEM = "orders"
    KIND = "order.created"
    PATH = "/orders/1"


async def test_members_of_a_str_enum_are_names_and_arrive_as_plain_texts(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe(Name.SYSTEM, Name.KIND, path=Name.PATH)
        for _ in range(2):
            await bus.send(Name.SYSTEM, Name.KIND, Name.PATH)
            event = await subscription.channel().receive()
            assert event == Event("orders", "order.created", "/orders/1")
            assert {type(event.system), type(event.kind), type(event.path)} == {str}


# Backpressure


def test_held_events_stay_before_those_that_are_delivered_later() -> None:
    router = Router(8, Pace(1))
    actor = SubscriptionActor(
        Pattern.parse("a"), None, "test", Buffer(2, Overflow.BLOCK), router.pace, router
    )
    router.open(actor)
    events = [Event("a", "k", f"/{number}") for number in range(6)]
    actor.deliver(events[:5])
    assert [actor.take(), actor.take()] == events[:2]
    actor.deliver(events[5:])
    assert [actor.take() for _ in range(4)] == events[2:]


async def test_a_loop_and_batches_may_read_one_channel_in_turn(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        for number in range(8):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        loop, batches = aiter(subscription), subscription.channel().batches(max_size=2)
        read = [(await anext(loop)).path]
        for _ in range(2):
            read += paths(await anext(batches))
            read.append((await anext(loop)).path)
        assert read == [f"/{number}" for number in range(7)]


async def test_all_that_comes_after_the_reader_closed_is_counted(autojump_clock: MockClock) -> None:
    async with open_event_bus(inbox_size=8) as bus:
        subscription = await bus.subscribe("a")
        bus.send_nowait("a", "k", "/1")
        await wait_all_tasks_blocked()
        bus.send_nowait("a", "k", "/2")
        bus.send_nowait("b", "k", "/other")
        await bus.subscribe("c")  # what was sent before it is handed out before it
        bus.send_nowait("a", "k", "/3")
        subscription.channel().close()
        await wait_all_tasks_blocked()
        assert_books(subscription, discarded=3)


async def test_a_batch_that_is_waited_for_after_the_close_is_the_end(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        await wait_all_tasks_blocked()
        subscription.close()  # the router does not know yet
        assert [batch async for batch in subscription.channel().batches()] == []


async def test_subscriptions_that_close_take_no_room_for_events_in_the_inbox(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(inbox_size=4) as bus:
        subscriptions = [await bus.subscribe("x") for _ in range(4)]
        await wait_all_tasks_blocked()
        for subscription in subscriptions:
            subscription.close()
        bus.send_nowait("a", "k", "/x")


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


async def test_a_sender_that_begins_to_wait_after_a_long_stall_is_reported_after_one_second(
    autojump_clock: MockClock,
) -> None:
    times: list[float] = []
    with on_log(lambda _: times.append(trio.current_time() - start)):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            start = trio.current_time()
            subscription = await bus.subscribe("a", max_buffer_size=1)
            await fill(bus, "a")
            nursery.start_soon(bus.send, "a", "k", "/waits for 70 s")
            await trio.sleep(70)
            subscription.channel().receive_nowait()
            await wait_all_tasks_blocked()
            nursery.start_soon(bus.send, "a", "k", "/waits for 20 s")
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
    assert times == pytest.approx([1, 2, 4, 8, 16, 32, 64, 71, 72, 74, 78, 86])


# Deadlocks


async def test_a_stalled_sender_that_will_give_up_is_left_alone(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await fill(bus, "a")
        with trio.move_on_after(5) as scope:
            await bus.send("a", "k", "/x")
        assert scope.cancelled_caught
        assert subscription.statistics().tasks_waiting_send == 0


async def test_a_reader_that_is_no_task_means_no_deadlock(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await become_reader(bus, subscription, "a")
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

        await become_reader(bus, subscription, "a")  # a greeting, say
        await fill(bus, "a")
        nursery.start_soon(read_the_rest)
        await bus.send("a", "k", "/x")
        nursery.cancel_scope.cancel()


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
        with trio.fail_after(100), pytest.raises(DeadlockError):
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
        await become_reader(bus, subscription, "a")
        await fill(bus, "a")
        nursery.start_soon(let_it_exit)
        start = trio.current_time()
        with pytest.raises(DeadlockError):
            await bus.send("a", "k", "/x")
        assert 5 <= trio.current_time() - start < 10
        nursery.cancel_scope.cancel()


async def chain(bus: EventBus, scope: trio.CancelScope, nursery: trio.Nursery) -> None:
    """Another task reads `one` and waits, in the scope, for `two`, which this task reads."""
    one = await bus.subscribe("one", max_buffer_size=1)
    two = await bus.subscribe("two", max_buffer_size=1)

    async def other() -> None:
        await become_reader(bus, one, "one")
        await fill(bus, "one")
        await fill(bus, "two")
        with scope:
            await bus.send("two", "k", "/x")
        async for _ in one:
            pass

    await become_reader(bus, two, "two")
    nursery.start_soon(other)
    await trio.sleep(1)


async def test_a_deadline_in_a_chain_that_was_moved_later_does_not_hide_a_deadlock(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        scope = trio.CancelScope(deadline=trio.current_time() + 10)
        await chain(bus, scope, nursery)
        scope.deadline = math.inf
        with pytest.raises(DeadlockError):
            await bus.send("one", "k", "/x")
        nursery.cancel_scope.cancel()


# Elsewhere than in the run of the bus, and odd numbers

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


async def test_a_bus_may_give_a_turn_as_seldom_as_one_likes(autojump_clock: MockClock) -> None:
    async with open_event_bus(checkpoint_every=sys.maxsize) as bus:
        await bus.send("a", "k", "/x")
