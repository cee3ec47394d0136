"""What is measured: the peers on the same load, and what else an event or a subscription costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from statistics import fmean, quantiles
from time import perf_counter
from typing import Final

import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import (
    Action,
    Allow,
    Event,
    EventBus,
    Overflow,
    RulePolicy,
    Subscription,
    open_event_bus,
)

from . import peers
from .measuring import (
    BUFFER,
    BYTES,
    TIME_LIMIT,
    Case,
    Load,
    Scenario,
    start_clock,
    stop_clock,
)
from .peers import on_trio

ONE_TO_ONE: Final = "1→1"
ONE_TO_TEN: Final = "1→10"
ONE_TO_HUNDRED: Final = "1→100"
TEN_TO_ONE: Final = "10→1"
TEN_TO_TEN: Final = "10→10"
SYNCHRONOUS: Final = "callbacks, "
BURSTS: Final = "bursts, "
ALWAYS_FULL: Final = "a buffer of 8, always full, "
MATCHING: Final = "one matching subscription among others"
DEPTH: Final = "segments in a pattern"
PAYLOAD: Final = "size of the data"
LATENCY: Final = "latency of one event through an idle bus"
LIFE: Final = "subscribe and close"
MEMORY: Final = "memory of an idle subscription, 10,000 of them"
MANY: Final = "close() of 100,000 live subscriptions"
HANDLER: Final = "a call of a handler"
REQUEST: Final = "a request and its reply"

LOADS: Final = {
    ONE_TO_ONE: Load(publishers=1, subscribers=1, events=20_000),
    ONE_TO_TEN: Load(publishers=1, subscribers=10, events=4_000),
    ONE_TO_HUNDRED: Load(publishers=1, subscribers=100, events=1_000),
    TEN_TO_ONE: Load(publishers=10, subscribers=1, events=20_000),
    TEN_TO_TEN: Load(publishers=10, subscribers=10, events=4_000),
}
FAN_OUTS: Final = (ONE_TO_ONE, ONE_TO_TEN, ONE_TO_HUNDRED)
AMONG: Final = (10, 1_000, 10_000)
LITERAL: Final = "system{}.eu"
WILDCARD: Final = "system{}.**"
FORMS: Final = {LITERAL: "literal", WILDCARD: "wildcard"}
DEPTHS: Final = (1, 2, 4, 8, 16)
SIZES: Final = {"None": None, "1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20}

REMEMBERED: Final = ", the same name"
NEVER_SEEN: Final = ", a new name every time"


# Peers


def queues(rounds: int, names: Sequence[str] = tuple(LOADS), *, quick: bool) -> list[Scenario]:
    """Everything that gives each subscriber a queue; quick is without what is far behind."""
    adapters = {**peers.OURS, **peers.BY_HAND, **peers.ASYNCIO_LIBRARIES, **peers.TRIO_LIBRARIES}
    if quick:
        adapters = {**peers.OURS, **peers.BY_HAND, **peers.ASYNCIO_LIBRARIES}
        del adapters["bubus"]
    return [
        Scenario(
            name,
            "delivery",
            peers.cases(adapters, LOADS[name].shrunk(2 if quick else 1)),
            rounds,
        )
        for name in names
    ]


def callbacks(rounds: int, names: Sequence[str] = FAN_OUTS, *, quick: bool) -> list[Scenario]:
    """Dispatchers that call functions, and the bus next to them."""
    adapters = {**peers.OURS, **peers.SYNCHRONOUS}
    if quick:
        adapters = {name: adapters[name] for name in (peers.BUS_BATCHES, peers.PYEE)}
    return [
        Scenario(SYNCHRONOUS + name, "delivery", peers.cases(adapters, LOADS[name]), rounds)
        for name in names
    ]


def bursts(rounds: int) -> list[Scenario]:
    """What `send_nowait` costs when many events are sent at once."""
    return [
        Scenario(BURSTS + name, "delivery", peers.cases(peers.IN_BURSTS, LOADS[name]), rounds)
        for name in FAN_OUTS
    ]


def always_full(
    rounds: int, names: Sequence[str] = (ONE_TO_ONE, TEN_TO_ONE), *, quick: bool
) -> list[Scenario]:
    """Publishers are always ahead of the one subscriber, which begins when the buffer is full."""

    async def read(subscription: Subscription, events: int) -> int:
        await wait_all_tasks_blocked()
        return await on_trio.read(subscription, events)

    async def read_batches(subscription: Subscription, events: int) -> int:
        await wait_all_tasks_blocked()
        return await on_trio.read_batches(subscription, events)

    async def receive(channel: trio.MemoryReceiveChannel[object], events: int) -> int:
        await wait_all_tasks_blocked()
        return await on_trio.receive(channel, events)

    adapters: dict[str, peers.Adapter] = {
        peers.BUS: partial(on_trio.bus, max_buffer_size=8, receive=read),
        peers.BUS_BATCHES: partial(on_trio.bus, max_buffer_size=8, receive=read_batches),
        peers.TRIO_CHANNELS: partial(on_trio.channels, max_buffer_size=8, receive=receive),
    }
    return [
        Scenario(
            ALWAYS_FULL + name,
            "delivery",
            peers.cases(adapters, LOADS[name].shrunk(4 if quick else 1)),
            rounds,
        )
        for name in names
    ]


# What an event costs


@asynccontextmanager
async def bus_of(
    patterns: Sequence[str], policy: RulePolicy | None = None
) -> AsyncGenerator[EventBus]:
    """A bus with these subscriptions, which nobody reads."""
    limit = len(patterns) + 1
    async with open_event_bus(policy=policy, max_subscriptions=limit) as bus:
        for pattern in patterns:
            await bus.subscribe(pattern)
        yield bus


def one_reader(
    pattern: str,
    names: Sequence[str],
    *,
    others: Sequence[str] = (),
    policy: RulePolicy | None = None,
    data: object = None,
    kinds: Sequence[str] | None = None,
) -> Case:
    """A case: send an event to each name; one of all subscriptions matches, and reads batches."""
    kinds = kinds or ["order.created"] * len(names)
    load = Load(publishers=1, subscribers=1, events=len(names))

    async def main() -> float:
        async with bus_of(others, policy) as bus:

            async def publish(_: int) -> None:
                for system, kind in zip(names, kinds, strict=True):
                    await bus.send(system, kind, "/orders/123", data)

            async def subscribe(ready: Callable[[], None]) -> int:
                subscription = await bus.subscribe(pattern)
                ready()
                return await on_trio.read_batches(subscription, load.events)

            return await on_trio.contest(load, publish, subscribe)

    return lambda: trio.run(main)


def matching(
    rounds: int, sizes: Sequence[int] = AMONG, forms: Sequence[str] = (*FORMS,)
) -> Scenario:
    """One of ever more subscriptions matches: what do those cost that do not?"""
    cases = {}
    for form in forms:
        for size in sizes:
            others = [form.format(number) for number in range(1, size)]
            cases[among(size, form)] = one_reader(
                form.format(0), ["system0.eu"] * 20_000, others=others
            )
    return Scenario(MATCHING, "event", cases, rounds)


def among(size: int, form: str) -> str:
    """The name of a case of `matching`."""
    return f"1 of {size:,} {FORMS[form]} patterns"


def never_seen(rounds: int) -> Scenario:
    """Every event has a name that the bus has not seen before, so that no memory helps."""
    others = [f"system{number}.**" for number in range(1, 1_000)]
    same = ["system0.eu"] * 5_000
    new = [f"system0.eu{number}" for number in range(5_000)]
    kinds = [f"order.created{number}" for number in range(5_000)]
    return Scenario(
        "names that were never seen before, 1 of 1,000 matching",
        "event",
        {
            "the same system and kind": one_reader("system0.**", same, others=others),
            "a new kind every time": one_reader("system0.**", same, others=others, kinds=kinds),
            "a new system and kind every time": one_reader(
                "system0.**", new, others=others, kinds=kinds
            ),
        },
        rounds,
    )


def depth(rounds: int) -> Scenario:
    """Patterns and names with more segments."""
    cases = {}
    for segments in DEPTHS:
        prefix = "part." * (segments - 1)
        same = [prefix + "last"] * 5_000
        new = [f"{prefix}last{number}" for number in range(5_000)]
        cases[f"{segments}{REMEMBERED}"] = one_reader(prefix + "*", same)
        cases[f"{segments}{NEVER_SEEN}"] = one_reader(prefix + "*", new)
    return Scenario(DEPTH, "event", cases, rounds)


def payload(rounds: int) -> Scenario:
    """Data is passed by reference, whatever its size."""
    load = Load(publishers=1, subscribers=1, events=10_000)
    cases: dict[str, Case] = {}
    for size, length in SIZES.items():
        data = None if length is None else bytes(length)
        cases[f"{size}, trio_events"] = one_reader("orders.*", ["orders.eu"] * 10_000, data=data)
        cases[f"{size}, trio memory channel"] = partial(on_trio.channels, load, payload=data)
    return Scenario(PAYLOAD, "event", cases, rounds)


def policy(rounds: int) -> Scenario:
    """What it costs to ask for permission."""
    rules = [Allow(Action.SEND, f"system{number}.**") for number in range(20)]
    rule_policy = RulePolicy([*rules, Allow(Action.SUBSCRIBE, "**"), Allow(Action.SEND, "**")])
    names = ["orders.eu"] * 10_000
    return Scenario(
        "permissions",
        "event",
        {
            "no policy": one_reader("orders.*", names),
            "RulePolicy of 22 rules": one_reader("orders.*", names, policy=rule_policy),
        },
        rounds,
    )


def overflow(rounds: int) -> Scenario:
    """What an event costs that meets a full buffer of 256, and nobody reads."""
    events = 5_000

    async def send(bus: EventBus) -> float:
        started = start_clock()
        await on_trio.send_each(bus, events)
        await wait_all_tasks_blocked()
        return stop_clock(started) / events

    async def nobody() -> float:
        async with open_event_bus() as bus:
            took = await send(bus)
            assert bus.statistics().unmatched == events
        return took

    async def drop(how: Overflow) -> float:
        async with open_event_bus() as bus:
            subscription = await bus.subscribe("orders.*", overflow=how)
            await on_trio.send_each(bus, 256)
            await wait_all_tasks_blocked()
            took = await send(bus)
            assert subscription.statistics().dropped == events
        return took

    async def refuse() -> float:
        async with open_event_bus() as bus:
            await bus.subscribe("orders.*", overflow=Overflow.BLOCK)
            await on_trio.send_each(bus, 256)
            await wait_all_tasks_blocked()
            refused = 0
            started = start_clock()
            for _ in range(events):
                try:
                    bus.send_nowait("orders.eu", "order.created", "/orders/123")
                except trio.WouldBlock:
                    refused += 1
            took = stop_clock(started)
            assert refused == events
        return took / events

    async def end() -> float:
        async with open_event_bus() as bus:
            subscriptions = [
                await bus.subscribe("orders.*", overflow=Overflow.CLOSE) for _ in range(200)
            ]
            await on_trio.send_each(bus, 256)
            await wait_all_tasks_blocked()
            started = start_clock()
            await on_trio.send_each(bus, 1)
            await wait_all_tasks_blocked()
            took = stop_clock(started)
            assert bus.statistics().open_subscriptions == 0
            assert all(each.statistics().dropped == 1 for each in subscriptions)
        return took / len(subscriptions)

    return Scenario(
        "an event meets a full buffer",
        "event",
        {
            "nobody subscribes": lambda: trio.run(nobody),
            "DROP_OLDEST": lambda: trio.run(drop, Overflow.DROP_OLDEST),
            "DROP_INCOMING": lambda: trio.run(drop, Overflow.DROP_INCOMING),
            "BLOCK, send_nowait is refused": lambda: trio.run(refuse),
            "CLOSE, each subscription that ends": lambda: trio.run(end),
        },
        rounds,
    )


# Latency

MEAN: Final = " trimmed mean"
P99: Final = " p99"
THROUGH_BUS: Final = "trio_events,"
ONE_HOP: Final = "one hop over a trio memory channel,"


def latency(rounds: int) -> Scenario:
    """From before the send until the receiver has the event; everybody sleeps before each one."""

    async def through_bus() -> list[float]:
        async with trio.open_nursery() as nursery, open_event_bus() as bus:
            subscription = await bus.subscribe("orders.*")

            async def reader() -> None:
                async for event in subscription:
                    latencies.append(perf_counter() - event.data)  # type: ignore[operator]  # `data` is what we sent

            latencies: list[float] = []
            nursery.start_soon(reader)
            started = start_clock()
            for _ in range(500):
                await wait_all_tasks_blocked()
                await bus.send("orders.eu", "order.created", "/orders/123", perf_counter())
                # As a memory channel's `send` ends; what comes next here takes longer than a hop.
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            stop_clock(started)
        return latencies

    async def one_hop() -> list[float]:
        async with trio.open_nursery() as nursery:
            send_channel, receive_channel = trio.open_memory_channel[float](BUFFER)

            async def reader() -> None:
                async for sent in receive_channel:
                    latencies.append(perf_counter() - sent)

            latencies: list[float] = []
            nursery.start_soon(reader)
            started = start_clock()
            for _ in range(500):
                await wait_all_tasks_blocked()
                await send_channel.send(perf_counter())
            await wait_all_tasks_blocked()
            stop_clock(started)
            send_channel.close()
        return latencies

    def all_of(main: Callable[[], Awaitable[list[float]]]) -> list[float]:
        latencies = sorted(trio.run(main))
        assert len(latencies) == 500
        return latencies

    def trimmed_mean(main: Callable[[], Awaitable[list[float]]]) -> float:
        return fmean(all_of(main)[50:-50])  # of the middle eight tenths

    def p99(main: Callable[[], Awaitable[list[float]]]) -> float:
        return quantiles(all_of(main), n=100)[98]

    return Scenario(
        LATENCY,
        "event",
        {
            THROUGH_BUS + MEAN: lambda: trimmed_mean(through_bus),
            ONE_HOP + MEAN: lambda: trimmed_mean(one_hop),
            THROUGH_BUS + P99: lambda: p99(through_bus),
            ONE_HOP + P99: lambda: p99(one_hop),
        },
        rounds,
    )


# What the bus calls

OURS: Final = "trio_events"
MESSAGE: Final = {"total": 42}
LOOP: Final = "a loop over a trio memory channel that calls the same function"
TWO_HOPS: Final = "two hops over trio memory channels"


def handler(rounds: int) -> Scenario:
    """A function that does nothing, called with every event."""
    events, count = 10_000, 0

    async def handle(_: object) -> None:
        nonlocal count
        count += 1

    async def through_bus() -> float:
        async with open_event_bus() as bus:
            await bus.on(handle, "orders.*")
            started = start_clock()
            for _ in range(events):
                await bus.send("orders.eu", "order.created", "/orders/123", MESSAGE)
            await wait_all_tasks_blocked()
            return stop_clock(started) / events

    async def by_hand() -> float:
        send_channel, receive_channel = trio.open_memory_channel[object](BUFFER)

        async def loop() -> None:
            async for message in receive_channel:
                await handle(message)

        async with trio.open_nursery() as nursery, send_channel:
            nursery.start_soon(loop)
            started = start_clock()
            for _ in range(events):
                await send_channel.send(MESSAGE)
            await wait_all_tasks_blocked()
            took = stop_clock(started)
        return took / events

    def counted(main: Callable[[], Awaitable[float]]) -> float:
        nonlocal count
        count = 0
        took = trio.run(main)
        assert count == events
        return took

    cases: dict[str, Case] = {
        OURS: lambda: counted(through_bus),
        LOOP: lambda: counted(by_hand),
    }
    return Scenario(HANDLER, "event", cases, rounds)


def request(rounds: int) -> Scenario:
    """A question and its answer, one after the other."""
    times = 500

    async def through_bus() -> float:
        async def answer(question: Event) -> object:
            return question.data

        async with open_event_bus() as bus:
            await bus.serve(answer, "orders", "order.place")
            started = start_clock()
            for number in range(times):
                reply = await bus.request("orders", "order.place", "/orders/123", number)
                assert reply.data == number
            return stop_clock(started) / times

    async def two_hops() -> float:
        ask, asked = trio.open_memory_channel[int](BUFFER)
        reply, replied = trio.open_memory_channel[int](BUFFER)

        async def answer() -> None:
            async for number in asked:
                await reply.send(number)

        async with trio.open_nursery() as nursery, ask:
            nursery.start_soon(answer)
            started = start_clock()
            for number in range(times):
                await ask.send(number)
                assert await replied.receive() == number
            took = stop_clock(started)
        return took / times

    cases: dict[str, Case] = {
        OURS: lambda: trio.run(through_bus),
        TWO_HOPS: lambda: trio.run(two_hops),
    }
    return Scenario(REQUEST, "request", cases, rounds)


# What a subscription costs

TASK: Final = "nursery.start of an empty task, and cancel"


def life(rounds: int) -> Scenario:
    """A subscription is a task; so this is next to starting and cancelling one by hand."""
    times = 500

    async def subscribe_and_close() -> float:
        async with open_event_bus() as bus:
            started = start_clock()
            for _ in range(times):
                (await bus.subscribe("orders.*")).close()
            await wait_all_tasks_blocked()
            took = stop_clock(started)
            assert bus.statistics().open_subscriptions == 0
        return took / times

    async def empty(  # noqa: ASYNC114  # nobody else starts it
        task_status: trio.TaskStatus[trio.CancelScope],
    ) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.sleep_forever()

    async def start_and_cancel() -> float:
        async with trio.open_nursery() as nursery:
            started = start_clock()
            for _ in range(times):
                scope: trio.CancelScope = await nursery.start(empty)
                scope.cancel()
            await wait_all_tasks_blocked()
            took = stop_clock(started)
            assert not nursery.child_tasks
        return took / times

    cases: dict[str, Case] = {
        OURS: lambda: trio.run(subscribe_and_close),
        TASK: lambda: trio.run(start_and_cancel),
    }
    return Scenario(LIFE, "subscription", cases, rounds)


def in_new_process(what: str) -> float:
    """The figure that a new process finds: its memory has not been anybody else's before."""
    command = [sys.executable, "-m", "benchmarks.memory", what]
    limit = 5 * TIME_LIMIT
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return float(done.stdout)


def memory(rounds: int) -> Scenario:
    """What an idle subscription takes."""
    return Scenario(MEMORY, BYTES, {OURS: lambda: in_new_process("idle")}, rounds)


def many() -> Scenario:
    """How long it takes to close a bus with very many subscriptions that work."""
    return Scenario(MANY, "close()", {OURS: lambda: in_new_process("many")}, 1)


# All of it


def everything(rounds: int) -> list[Scenario]:
    """For `make bench`."""
    return [
        *queues(rounds, quick=False),
        *callbacks(rounds, quick=False),
        *bursts(rounds),
        *always_full(rounds, quick=False),
        matching(
            (rounds + 1) // 2
        ),  # to open 10,000 subscriptions takes long, and the spread is small
        never_seen(rounds),
        depth(rounds),
        payload(rounds),
        policy(rounds),
        overflow(rounds),
        latency(rounds),
        handler(rounds),
        request(rounds),
        life(rounds),
        memory(5),
        many(),
    ]


def those_with_targets(rounds: int) -> list[Scenario]:
    """For `make bench-quick`: those ratios that can be had within a minute."""
    return [
        *queues(rounds, FAN_OUTS, quick=True),
        *callbacks(rounds, (ONE_TO_HUNDRED,), quick=True),
        *always_full(rounds, (ONE_TO_ONE,), quick=True),
        matching((rounds + 1) // 2, (10, 10_000), (WILDCARD,)),
        latency(rounds),
        handler(rounds),
        request(rounds),
        life(rounds),
        memory(1),
    ]
