"""Two commits in one run: `make bench-against REV=...`. Nothing here fails.

Both run the scenarios of `make bench-quick`, without the peers and with those that this module
adds, in a new process for each round, in turn. Where valgrind is installed, instructions are
counted, too: they don't depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence

import attrs
import trio
from rich.console import Console
from rich.table import Table

from . import instructions, peers, programs, scenarios
from .checkouts import HERE, Checkout, checkout
from .measuring import Case, Scenario, Spread, start_clock, stop_clock
from .report import amount

ROUNDS = 7


def timed(main: Callable[[int], Awaitable[None]], count: int) -> Case:
    """A case that runs one of the counted programs."""

    async def measured() -> float:
        started = start_clock()
        await main(count)
        return stop_clock(started) / count

    return lambda: trio.run(measured)


def todo() -> Iterator[Scenario]:
    """What two commits are compared by, each with the bus alone."""
    for name, load in scenarios.LOADS.items():
        yield Scenario(name, "delivery", peers.cases(peers.OURS, load.shrunk(2)), 1)
    for scenario in (
        *scenarios.bursts(1),
        *scenarios.always_full(1, quick=True),
        scenarios.matching(1, (10, 10_000), (scenarios.WILDCARD,)),
        scenarios.never_seen(1),
        scenarios.latency(1),
        scenarios.life(1),
        scenarios.memory(1),
    ):
        cases = {name: case for name, case in scenario.cases.items() if _is_ours(name)}
        yield attrs.evolve(scenario, cases=cases)
    yield Scenario(
        "one to one",
        "event",
        {
            name: timed(programs.PROGRAMS[name].main, count)
            for name, count in (
                ("1→1, receive()", 10_000),
                ("1→1, alternating kinds", 10_000),
                ("send_nowait, nobody subscribes", 20_480),
                ("a call of a handler", 10_000),
                ("a request and its reply", 500),
            )
        },
        1,
    )


def _is_ours(case: str) -> bool:
    others = {*peers.BY_HAND, peers.TRIO_BURSTS, scenarios.TASK}
    return case not in others and not case.startswith(scenarios.ONE_HOP)


def one_round(only: str) -> dict[str, tuple[str, float]]:
    """The unit and figure of each case, by its name and that of its scenario."""
    logging.getLogger("trio_events").addHandler(logging.NullHandler())
    figures = {}
    for scenario in todo():
        for name, case in scenario.cases.items():
            full_name = f"{scenario.name}: {name}"
            if only in full_name:
                figures[full_name] = scenario.unit, case()
    return figures


def compare(checkouts: Sequence[Checkout], rounds: int, only: str) -> Table:
    """Run rounds of both in turn; the first one of each only warms up."""
    found: list[list[dict[str, tuple[str, float]]]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            text = checkouts[which].run("benchmarks.against", "--one-round", "--only", only)
            if number:
                found[which].append(json.loads(text))
        print(f"round {number} of {rounds}", file=sys.stderr)
    ours, theirs = found
    table = Table("median (half of the rounds)", "per")
    for heading in (checkouts[0].label, checkouts[1].label, "ratio"):
        table.add_column(heading, justify="right")
    for name, (unit, _) in ours[0].items():
        pairs = [(a[name][1], b[name][1]) for a, b in zip(ours, theirs, strict=True)]
        ratios = Spread.of([a / b for a, b in pairs])
        table.add_row(
            name,
            unit,
            *(
                f"{amount(s.median, unit)} ({amount(s.low, unit)} – {amount(s.high, unit)})"
                for s in (Spread.of([a for a, _ in pairs]), Spread.of([b for _, b in pairs]))
            ),
            f"{ratios.median:.2f} ({ratios.low:.2f} – {ratios.high:.2f})",
        )
    return table


def main() -> None:
    """Measure both, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("where", nargs="?", default="HEAD", help="a directory or git revision")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many times")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    parser.add_argument("--one-round", action="store_true", help="measure once; print JSON")
    options = parser.parse_args()
    if options.one_round:
        print(json.dumps(one_round(options.only)))
        return
    console = Console()
    if not console.is_terminal:
        console.width = 160
    with checkout(options.where) as other:
        both = HERE, other
        console.print(compare(both, options.rounds, options.only))
        if not instructions.is_available():
            print("valgrind is not installed, so no instructions are counted")
            return
        names = [name for name in programs.PROGRAMS if options.only in name]
        counts = instructions.count_all(both, names, os.cpu_count() or 1)
        console.print(instructions.as_table(both, counts))


if __name__ == "__main__":
    main()
