"""What routing and permissions cost: `make bench-routing`.

Each figure is the median over rounds; cases that are compared are interleaved round by round, so
that whatever else the machine does hits them alike. Nothing here fails: it only tells.
"""

from __future__ import annotations

import itertools
import platform
import statistics
from collections.abc import Callable
from time import perf_counter

import trio

from trio_events import Action, Allow, RulePolicy, open_event_bus
from trio_events._names.interest import Interest
from trio_events._names.routing import RoutingTable

ROUNDS = 15
SIZES = (10, 1_000, 100_000)


def compare(title: str, cases: dict[str, Callable[[], float]]) -> None:
    """Time the cases in turn, and print each with its ratio to the first one."""
    rounds = [{name: case() for name, case in cases.items()} for _ in range(ROUNDS)]
    print(f"\n{title}")
    base = next(iter(cases))
    for name in cases:
        times = [r[name] for r in rounds]
        ratios = sorted(r[name] / r[base] for r in rounds)
        print(
            f"  {name:<44} {statistics.median(times) * 1e6:9.2f} µs   ratio "
            f"{statistics.median(ratios):5.2f}   ({ratios[1]:.2f} to {ratios[-2]:.2f})"
        )


def per_call(function: Callable[[], object], calls: int) -> float:
    """Seconds a call."""
    start = perf_counter()
    for _ in range(calls):
        function()
    return (perf_counter() - start) / calls


def table_of(size: int, pattern: str) -> RoutingTable[int]:
    """A table of so many patterns, of which `s7.x` is matched by one."""
    table: RoutingTable[int] = RoutingTable()
    for number in range(size):
        table.add(number, Interest.of(pattern.format(number)))
    return table


def misses(table: RoutingTable[int]) -> Callable[[], float]:
    """A case: look for a route that is not remembered, of one item."""
    assert len(table.peek("s7.x", "k").items) == 1
    return lambda: per_call(lambda: table.peek("s7.x", "k"), 500)


def fresh(table: RoutingTable[int], *, remember: bool) -> Callable[[], float]:
    """A case: a name that was never seen before, each time."""
    numbers = itertools.count()
    find = table.match if remember else table.peek
    return lambda: per_call(lambda: find(f"s7.{next(numbers)}", "k"), 5_000)


def life(pattern: str, name: str) -> Callable[[], float]:
    """A case: add a pattern to a table, match a name, and remove the pattern."""
    parsed = Interest.of(pattern)
    table: RoutingTable[int] = RoutingTable()

    def once() -> None:
        table.add(0, parsed)
        table.match(name, "k")
        table.remove(0, parsed)

    return lambda: per_call(once, 100)


def sends(policy: RulePolicy | None) -> Callable[[], float]:
    """A case: send events that one subscriber reads in batches."""

    async def program() -> float:
        async def read() -> None:
            async for _ in subscription.channel().batches():
                pass

        async with trio.open_nursery() as nursery, open_event_bus(policy=policy) as bus:
            subscription = await bus.subscribe("orders.**")
            nursery.start_soon(read)
            start = perf_counter()
            for _ in range(5_000):
                await bus.send("orders.eu", "order.created", "/orders/1")
            took = perf_counter() - start
        return took / 5_000

    return lambda: trio.run(program)


def main() -> None:
    """Measure and print."""
    print(f"Python {platform.python_version()}, trio {trio.__version__}, {ROUNDS} rounds")
    literals = {size: table_of(size, "s{}.x") for size in SIZES}
    wildcards = {size: table_of(size, "s{}.**") for size in SIZES}
    compare(
        "a route that is not remembered, one match among",
        {f"{size:,} literal patterns": misses(literals[size]) for size in SIZES}
        | {f"{size:,} wildcard patterns": misses(wildcards[size]) for size in SIZES},
    )
    table = wildcards[10]
    table.match("s7.x", "k")
    compare(
        "one match among 10 wildcard patterns",
        {
            "remembered": lambda: per_call(lambda: table.match("s7.x", "k"), 5_000),
        },
    )
    compare(
        "a name that was never seen before, each time",
        {
            "without remembering": fresh(wildcards[1_000], remember=False),
            "remembering": fresh(wildcards[1_000], remember=True),
        },
    )
    deep = ".".join("a" * 16)
    compare(
        "a pattern's life: add, match, remove",
        {
            "16 literals": life(deep, deep),
            "16 times (a|b)": life(".".join(["(a|b)"] * 16), deep),
            "8 times **.a": life(".".join(["**.a"] * 8), deep),
            "8 times **.(a|b)": life(".".join(["**.(a|b)"] * 8), deep),
        },
    )
    rules = RulePolicy([Allow(Action.SEND, "orders.**"), Allow(Action.SUBSCRIBE, "orders.**")])
    compare("a send to one subscriber", {"no policy": sends(None), "RulePolicy": sends(rules)})


if __name__ == "__main__":
    main()
