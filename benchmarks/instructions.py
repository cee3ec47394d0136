"""How many CPU instructions an event takes: `make instructions [AGAINST=REV]`.

Counts by `valgrind --tool=callgrind`, which other load on the machine does not change. Each
program runs twice, in a process of its own, with few events and with many. The difference is what
the events cost, without start-up.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from rich.console import Console
from rich.table import Table

from .checkouts import HERE, Checkout, checkout
from .programs import PROGRAMS

VALGRIND: Final = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
COLLECTED: Final = re.compile(r"Collected : (\d+)")


def is_available() -> bool:
    """Whether instructions can be counted on this machine."""
    return shutil.which("valgrind") is not None


def collected(where: Checkout, name: str, count: int) -> int:
    """The instructions of a whole process."""
    command = (*VALGRIND, "--log-fd=1")
    found = COLLECTED.search(where.run("benchmarks.programs", name, str(count), prefix=command))
    if found is None:
        raise RuntimeError("valgrind did not say how many instructions there were")
    return int(found[1])


def count(where: Checkout, name: str) -> float:
    """The instructions of one unit of a program."""
    program = PROGRAMS[name]
    more = collected(where, name, program.many) - collected(where, name, program.few)
    return more / (program.many - program.few)


def count_all(
    checkouts: Iterable[Checkout], names: Iterable[str], jobs: int
) -> dict[str, list[float | str]]:
    """For each program, what each checkout takes, or why there is no such figure."""

    def attempt(where: Checkout, name: str) -> float | str:
        try:
            figure = count(where, name)
        except RuntimeError as error:
            return str(error)
        print(f"{where.label}: {name}: {figure:,.0f}", file=sys.stderr)
        return figure

    with ThreadPoolExecutor(jobs) as pool:
        waiting = {
            name: [pool.submit(attempt, where, name) for where in checkouts] for name in names
        }
        return {name: [future.result() for future in futures] for name, futures in waiting.items()}


def as_table(checkouts: Iterable[Checkout], counts: dict[str, list[float | str]]) -> Table:
    """A row for each program; with two checkouts, the first one divided by the second one."""
    labels = [where.label for where in checkouts]
    table = Table("instructions", "per")
    for label in [*labels, "ratio"][: 1 if len(labels) == 1 else None]:
        table.add_column(label, justify="right")
    for name, figures in counts.items():
        cells = [f"{each:,.0f}" if isinstance(each, float) else each for each in figures]
        match figures:
            case [float(ours), float(theirs)]:
                cells.append(f"{ours / theirs:.3f}")
        table.add_row(name, PROGRAMS[name].unit, *cells)
    return table


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--against", default="", help="a directory or git revision to compare with")
    parser.add_argument("--only", default="", help="only programs with this in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many run at once")
    options = parser.parse_args()
    if not is_available():
        print("valgrind is not installed, so no instructions are counted")
        sys.exit()
    console = Console()
    if not console.is_terminal:
        console.width = 140
    with ExitStack() as stack:
        checkouts = [HERE]
        if options.against:
            checkouts.append(stack.enter_context(checkout(options.against)))
        names = [name for name in PROGRAMS if options.only in name]
        console.print(as_table(checkouts, count_all(checkouts, names, options.jobs)))


if __name__ == "__main__":
    main()
