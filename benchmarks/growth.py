"""What an operation costs as something else grows: `make bench-growth`.

Each row is measured at several sizes, each in a process of its own, in CPU time. Where a row does
something once (closing a bus, say), the cost is divided by the size; so flat means linear. Where
the bus does much of that in one turn of the event loop, the longest turn is measured, too.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any, Final

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    Action,
    Allow,
    Event,
    EventBus,
    Subscription,
    open_event_bus,
)

from .checkouts import HERE, Checkout, checkout

ROUNDS: Final = 5
ENOUGH: Final = 10.0  # seconds after which there is no further round
DIRECTORY: Final = Path("docs/benchmarks")

UP_TO_THOUSANDS: Final = (10, 100, 1_000, 4_000)
UP_TO_TEN_THOUSAND: Final = (10, 100, 1_000, 10_000)
ABOVE_A_BURST: Final = (100, 1_000, 10_000)
UP_TO_HUNDRED_THOUSAND: Final = (10, 100, 1_000, 10_000, 100_000)


@attrs.define(eq=False)
class Meter(trio.abc.Instrument):
    """What a row is measured with. Time on trio's clock passes only when the row says so."""

    clock: MockClock = attrs.field(factory=MockClock)
    figures: list[float] = attrs.field(factory=list)
    """Seconds a unit."""

    longest_turn: float = 0
    """Seconds of the longest turn of the event loop, if this was an instrument of the run."""

    _started: float | None = None
    _turn: float = 0

    def start(self) -> None:
        """Begin to measure."""
        gc.collect()
        gc.freeze()
        self._started = self._turn = thread_time()

    def stop(self, units: int) -> None:
        """End what `start` began, and divide it by the number of units."""
        assert self._started is not None
        self._end_turn()
        self.figures.append((thread_time() - self._started) / units)
        self._started = None
        gc.unfreeze()

    @contextmanager
    def units(self, units: int) -> Iterator[None]:
        """Measure a block in which so many units of something are done."""
        self.start()
        yield
        self.stop(units)

    def _end_turn(self) -> None:
        if self._started is not None:
            self.longest_turn = max(self.longest_turn, thread_time() - self._turn)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._turn = thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._end_turn()


@attrs.frozen
class Row:
    """Something that may grow."""

    name: str
    unit: str
    sizes: Sequence[int]
    measure: Callable[[int, Meter], Awaitable[None]]
    turns: bool = False
    """Whether it is done once, and the bus does much of it in one turn of the event loop."""


# Tools


@asynccontextmanager
async def bus_of(
    size: int, subscribe: Callable[[EventBus, int], Awaitable[object]]
) -> AsyncGenerator[EventBus]:
    """A bus with so many subscriptions."""
    async with open_event_bus(max_subscriptions=size + 2) as bus:
        for number in range(size):
            await subscribe(bus, number)
        yield bus


async def nothing(_: Event) -> None:
    """A handler."""


def fill(bus: EventBus, system: str, events: int) -> None:
    """Send so many events at once."""
    for _ in range(events):
        bus.send_nowait(system, "k", "/p")


async def bursts(bus: EventBus, meter: Meter, names: Iterator[tuple[str, str, str]]) -> None:
    """Measure an event: hundreds are sent, and routed."""
    for _ in range(ROUNDS):
        with meter.units(100):
            for name in itertools.islice(names, 100):
                bus.send_nowait(*name)
            await wait_all_tasks_blocked()


# Senders


async def read_beside_senders(size: int, meter: Meter) -> None:
    reads = min(size, 200)
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("s", max_buffer_size=8)).channel()
        fill(bus, "s", 8)
        await wait_all_tasks_blocked()
        for _ in range(size):
            nursery.start_soon(bus.send, "s", "k", "/p")
        await wait_all_tasks_blocked()
        meter.clock.jump(1.5)
        await wait_all_tasks_blocked()
        with meter.units(reads):
            for _ in range(reads):
                await channel.receive()
        nursery.cancel_scope.cancel()


async def senders_moving(size: int, meter: Meter) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        everything = await bus.subscribe("**", max_buffer_size=16)
        await bus.subscribe("b", max_buffer_size=8)
        for system in "b", "c":  # that fills one subscription, then the other one
            fill(bus, system, 8)
            await wait_all_tasks_blocked()
            for _ in range(size):
                nursery.start_soon(bus.send, "b", "k", "/p")
            await wait_all_tasks_blocked()
        with meter.units(size):
            everything.channel().close()
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def chain_of_waits(size: int, meter: Meter) -> None:
    may_send = trio.Event()

    async def link(subscription: Subscription, number: int) -> None:
        await subscription.channel().receive()
        await may_send.wait()
        while number + 1 < size:
            await bus.send(f"s{number + 1}", "k", "/p")

    async with open_event_bus(max_subscriptions=size) as bus, trio.open_nursery() as nursery:
        for number in range(size):
            subscription = await bus.subscribe(f"s{number}", max_buffer_size=1)
            nursery.start_soon(link, subscription, number)
            await bus.send(f"s{number}", "k", "/p")
        await wait_all_tasks_blocked()
        may_send.set()
        await wait_all_tasks_blocked()
        assert bus.statistics().tasks_waiting_send == size - 1
        with meter.units(size):
            meter.clock.jump(1.5)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def wait_after_readers(size: int, meter: Meter) -> None:
    async def read_once() -> None:
        await channel.receive()
        await trio.sleep_forever()

    async def send() -> None:
        while True:
            await bus.send("s", "k", "/p")

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("s", max_buffer_size=8)).channel()
        for _ in range(size):
            nursery.start_soon(read_once)
        await wait_all_tasks_blocked()
        for _ in range(size):
            await bus.send("s", "k", "/p")
        await wait_all_tasks_blocked()
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        for _ in range(ROUNDS):
            with meter.units(100):
                for _ in range(100):
                    channel.receive_nowait()
                    await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


# Readers


async def readers_waiting(size: int, meter: Meter) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("s")).channel()
        with meter.units(size):
            for _ in range(size):
                nursery.start_soon(channel.receive)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def read_among_readers(size: int, meter: Meter) -> None:
    async def read() -> None:
        while True:
            await channel.receive()

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("s")).channel()
        for _ in range(size):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await bursts(bus, meter, itertools.repeat(("s", "k", "/p")))
        nursery.cancel_scope.cancel()


async def readers_dismissed(size: int, meter: Meter) -> None:
    async def read() -> None:
        try:
            await channel.receive()
        except trio.ClosedResourceError:
            pass

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        channel = (await bus.subscribe("s")).channel()
        for _ in range(size):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        with meter.units(size):
            channel.close()
            await wait_all_tasks_blocked()


async def small_batches(size: int, meter: Meter) -> None:
    batches = min(size, 500)
    async with open_event_bus(inbox_size=size + 1) as bus:
        subscription = await bus.subscribe("s", max_buffer_size=size + 1)
        fill(bus, "s", size)
        await wait_all_tasks_blocked()
        reader = subscription.channel().batches(max_size=1)
        with meter.units(batches):
            for _ in range(batches):
                await anext(reader)


async def held_events(size: int, meter: Meter) -> None:
    reads = min(size, 500)
    async with open_event_bus(inbox_size=size + 1) as bus:
        subscription = await bus.subscribe("s", max_buffer_size=8)
        fill(bus, "s", size)
        await wait_all_tasks_blocked()
        channel = subscription.channel()
        with meter.units(reads):
            for _ in range(reads):
                await channel.receive()


# Handlers


async def handlers_start(size: int, meter: Meter) -> None:
    async with open_event_bus() as bus:
        with meter.units(size):
            await bus.on(nothing, "s", concurrency=size)
            await wait_all_tasks_blocked()


async def handler_calls(size: int, meter: Meter) -> None:
    async with open_event_bus() as bus:
        await bus.on(nothing, "s", concurrency=size)
        await wait_all_tasks_blocked()
        await bursts(bus, meter, itertools.repeat(("s", "k", "/p")))


async def drain(size: int, meter: Meter) -> None:
    events = 200
    calls = itertools.count(1)

    async def work(_: Event) -> None:
        await trio.lowlevel.checkpoint()
        number = next(calls)
        if number == 10:  # the bus has looked at all handlers by now
            meter.start()
        elif number == events:
            meter.stop(events - 10)

    async with bus_of(size, lambda bus, number: bus.on(nothing, f"idle{number}")) as bus:
        await bus.on(work, "s")
        await wait_all_tasks_blocked()
        fill(bus, "s", events)


# Routes


async def path_patterns(size: int, meter: Meter) -> None:
    names = (("s", "k", f"/shop{number % size}/1") for number in itertools.count())
    async with bus_of(size, lambda bus, n: bus.subscribe("s", path=f"/shop{n}/*")) as bus:
        await bursts(bus, meter, names)
        assert bus.statistics().unmatched == 0


async def alternatives(size: int, meter: Meter) -> None:
    names = (("sys0", f"k{number % size}.{number}", "/p") for number in itertools.count())
    async with bus_of(size, lambda bus, n: bus.subscribe(f"(sys0|x{n})", f"k{n}.*")) as bus:
        await bursts(bus, meter, names)
        assert bus.statistics().unmatched == 0


async def alternatives_missed(size: int, meter: Meter) -> None:
    names = ((f"a.{number}", "k", "/p") for number in itertools.count())
    async with bus_of(size, lambda bus, n: bus.subscribe(f"(a|b{n}).c{n}")) as bus:
        await bursts(bus, meter, names)


async def new_wildcard(size: int, meter: Meter, *, pattern: str) -> None:
    names = itertools.cycle([("s", f"k{number}", "/p") for number in range(size)])
    async with open_event_bus() as bus:
        for system, kind, path in itertools.islice(names, size):
            await bus.send(system, kind, path)
        await wait_all_tasks_blocked()
        for _ in range(ROUNDS):
            with meter.units(100):
                for name in itertools.islice(names, 100):
                    (await bus.subscribe(pattern)).close()
                    bus.send_nowait(*name)
                    await wait_all_tasks_blocked()


# The bus


async def closing(size: int, meter: Meter) -> None:
    async with bus_of(size, lambda bus, number: bus.subscribe(f"s{number}")) as bus:
        with meter.units(size):
            bus.close()
            await wait_all_tasks_blocked()


async def statistics(size: int, meter: Meter) -> None:
    async with bus_of(size, lambda bus, number: bus.subscribe(f"s{number}")) as bus:
        for _ in range(ROUNDS):
            with meter.units(200):
                for _ in range(200):
                    bus.statistics()


async def adding(size: int, meter: Meter) -> None:
    async with open_event_bus() as bus:
        subscription: Any = await bus.subscribe("s")  # older commits can't add
        with meter.units(size):
            for number in range(size):
                subscription.add(f"s{number}")


class Anything:
    """A policy whose answers are remembered."""

    stable = True

    def allows(self, actor: str, action: Action, system: str) -> bool:
        return True


async def first_sends(size: int, meter: Meter) -> None:
    async with open_event_bus(policy=Anything()) as bus:
        actors = [bus.for_actor(f"a{number}") for number in range(size)]
        with meter.units(size):
            for actor in actors:
                await actor.send("s", "k", "/p")


async def rules(size: int, meter: Meter) -> None:
    from trio_events import RulePolicy

    systems = (f"s{number % size}.{number}" for number in itertools.count())
    policy = RulePolicy([Allow(Action.SEND, f"s{number}.**") for number in range(size)])
    async with open_event_bus(policy=policy) as bus:
        for _ in range(ROUNDS):
            with meter.units(20):
                for system in itertools.islice(systems, 20):
                    await bus.send(system, "k", "/p")


# An N below 100 would be another thing where a burst of 100 events meets N tasks that wait.
ROWS: Final = (
    Row(
        "a read beside N senders that have waited", "read", UP_TO_TEN_THOUSAND, read_beside_senders
    ),
    Row(
        "a send that waits, after N tasks have read", "send", UP_TO_TEN_THOUSAND, wait_after_readers
    ),
    Row(
        "of two full subscriptions with N senders each, one closes",
        "pair of senders",
        UP_TO_TEN_THOUSAND,
        senders_moving,
        turns=True,
    ),
    Row("one look at a chain of N waits", "wait", UP_TO_TEN_THOUSAND, chain_of_waits, turns=True),
    Row(
        "N tasks begin to wait in receive",
        "task",
        UP_TO_TEN_THOUSAND,
        readers_waiting,
    ),
    Row("an event while N tasks wait for one", "event", ABOVE_A_BURST, read_among_readers),
    Row(
        "N tasks wait, and the channel closes",
        "task",
        UP_TO_TEN_THOUSAND,
        readers_dismissed,
        turns=True,
    ),
    Row("a batch of one from a list of N", "batch", UP_TO_HUNDRED_THOUSAND, small_batches),
    Row("a read while N events are held", "read", UP_TO_HUNDRED_THOUSAND, held_events),
    Row(
        "a handler with a concurrency of N starts",
        "task",
        UP_TO_TEN_THOUSAND,
        handlers_start,
        turns=True,
    ),
    Row("an event for a handler with a concurrency of N", "event", ABOVE_A_BURST, handler_calls),
    Row("an event drained beside N idle handlers", "event", UP_TO_TEN_THOUSAND, drain),
    Row("an event among N path patterns", "event", UP_TO_HUNDRED_THOUSAND, path_patterns),
    Row("a new kind among N patterns (sys0|xN)", "event", UP_TO_HUNDRED_THOUSAND, alternatives),
    Row(
        "a new system among N patterns (a|bN).cN",
        "event",
        UP_TO_HUNDRED_THOUSAND,
        alternatives_missed,
    ),
    Row(
        "a wildcard that matches none of N known routes comes and goes",
        "time",
        UP_TO_THOUSANDS,
        partial(new_wildcard, pattern="other.*"),
    ),
    Row(
        "a wildcard that matches all of N known routes comes and goes",
        "time",
        UP_TO_THOUSANDS,
        partial(new_wildcard, pattern="**"),
    ),
    Row(
        "closing a bus of N subscriptions",
        "subscription",
        UP_TO_HUNDRED_THOUSAND,
        closing,
        turns=True,
    ),
    Row("statistics() of a bus of N subscriptions", "call", UP_TO_HUNDRED_THOUSAND, statistics),
    Row(
        "N patterns are added to a subscription",
        "pattern",
        UP_TO_TEN_THOUSAND,
        adding,
    ),
    Row(
        "the first send of each of N actors",
        "send",
        UP_TO_TEN_THOUSAND,
        first_sends,
    ),
    Row("a send to a new system under N rules", "send", UP_TO_TEN_THOUSAND, rules),
)


# In a process of its own


def measure(row: Row, size: int) -> dict[str, object]:
    """All rounds of a row at one size."""
    logging.getLogger("trio_events").addHandler(logging.NullHandler())
    figures: list[float] = []
    longest_turn = 0.0
    started = perf_counter()
    for _ in range(ROUNDS):
        meter = Meter()
        instruments = [meter] if row.turns else []
        trio.run(row.measure, size, meter, clock=meter.clock, instruments=instruments)
        figures += meter.figures[1:] or meter.figures  # the first one warms up
        longest_turn = max(longest_turn, meter.longest_turn)
        if perf_counter() - started > ENOUGH:
            break
    return {"figures": figures, "longest_turn": longest_turn if row.turns else None}


# All of them


@attrs.frozen
class Point:
    """What a row costs at one size."""

    seconds: float | None
    """A unit; None if that could not be measured."""

    longest_turn: float | None = None
    error: str = ""


Curves = dict[str, dict[int, Point]]
"""For each row, its points by size."""


def point(where: Checkout, row: Row, size: int, limit: float) -> Point:
    """Measure a row at one size, in a new process."""
    try:
        text = where.run("benchmarks.growth", "--measure", row.name, str(size), limit=limit)
    except subprocess.TimeoutExpired:
        return Point(None, error=f"more than {limit:.0f} s")
    except RuntimeError as error:
        return Point(None, error=str(error))
    found = json.loads(text)
    return Point(median(found["figures"]), found["longest_turn"])


def curves(where: Checkout, rows: Sequence[Row], largest: int, limit: float) -> Curves:
    """Measure rows at all their sizes. What takes too long once isn't tried with more."""
    found: Curves = {}
    for row in rows:
        points = found[row.name] = {}
        for size in row.sizes:
            if size <= largest:
                points[size] = point(where, row, size, limit)
                print(f"{row.name}: {size:,}: {amount(points[size].seconds)}", file=sys.stderr)
                if points[size].seconds is None:
                    print(points[size].error, file=sys.stderr)
                    break
    return found


def amount(seconds: float | None) -> str:
    """A time."""
    if seconds is None:
        return "–"
    return f"{seconds * 1e6:,.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.3g} ms"


def ratio(points: dict[int, Point]) -> float | None:
    """How many times as much the largest size costs as the cheapest smaller one.

    Not the smallest one: there, a fixed cost may be shared by few.
    """
    *smaller, last = [each.seconds for each in points.values()]
    cheapest = min((each for each in smaller if each is not None), default=None)
    return None if cheapest is None or last is None else last / cheapest


def as_markdown(found: Curves, circumstances: str) -> str:
    """The tables that docs/reference/benchmarks.md includes."""
    lines = [
        "<!-- `make bench-growth` wrote this. -->",
        "",
        f"Measured on {circumstances}.",
        "",
        *_table(
            found,
            "CPU time",
            lambda point: amount(point.seconds),
            lambda points: "–" if (times := ratio(points)) is None else f"{times:.2g}×",
            "largest N / cheapest",
        ),
        "",
        *_table(
            {
                name: points
                for name, points in found.items()
                if any(point.longest_turn is not None for point in points.values())
            },
            "longest turn",
            lambda point: amount(point.longest_turn),
            lambda points: amount(_whole(points)),
            "all of it, at the largest N",
        ),
    ]
    return "\n".join(lines) + "\n"


def _whole(points: dict[int, Point]) -> float | None:
    size, last = list(points.items())[-1]
    return None if last.seconds is None else last.seconds * size


def _table(
    found: Curves,
    title: str,
    cell: Callable[[Point], str],
    last: Callable[[dict[int, Point]], str],
    last_title: str,
) -> list[str]:
    sizes = sorted({size for points in found.values() for size in points})
    lines = [
        f"| {title} | per | "
        + " | ".join(f"N = {size:,}" for size in sizes)
        + f" | {last_title} |",
        "|---|---|" + "--:|" * (len(sizes) + 1),
    ]
    for name, points in found.items():
        cells = [cell(points[size]) if size in points else "" for size in sizes]
        unit = next(row.unit for row in ROWS if row.name == name)
        what = name.replace("|", r"\|")
        lines.append(f"| {what} | {unit} | " + " | ".join(cells) + f" | {last(points)} |")
    return lines


def as_json(found: Curves, circumstances: str) -> dict[str, object]:
    """The medians."""

    def short(figure: float | None) -> float | None:
        return None if figure is None else float(f"{figure:.3g}")

    return {
        "measured on": circumstances,
        "rows": [
            {
                "name": name,
                "per": next(row.unit for row in ROWS if row.name == name),
                "ratio": short(ratio(points)),
                "seconds": {size: short(each.seconds) for size, each in points.items()},
                "longest turn": {
                    size: short(each.longest_turn)
                    for size, each in points.items()
                    if each.longest_turn is not None
                },
            }
            for name, points in found.items()
        ],
    }


def write(directory: Path, found: Curves) -> None:
    """Write what the docs show."""
    from . import report

    now = report.Circumstances.now()
    report.save(directory / "what-grows.json", as_json(found, f"{now.date}: {now.machine()}"))


def main() -> None:
    """Measure, and write what the docs show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("ROW", "N"), help="only this; print JSON")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--against", default="", help="measure this directory or revision instead")
    parser.add_argument("--largest", type=int, default=100_000, help="the largest N")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a row at one size")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where to write")
    options = parser.parse_args()
    if options.measure:
        name, size = options.measure
        row = next(row for row in ROWS if row.name == name)
        print(json.dumps(measure(row, int(size))))
        return
    rows = [row for row in ROWS if options.only in row.name]
    with ExitStack() as stack:
        where = stack.enter_context(checkout(options.against)) if options.against else HERE
        found = curves(where, rows, options.largest, options.limit)
    if options.only or options.against or options.largest < max(UP_TO_HUNDRED_THOUSAND):
        print(as_markdown(found, "this machine"))
    else:
        write(options.directory, found)


if __name__ == "__main__":
    main()
