"""Measure and tell: `make bench`, `make bench-quick`. Nothing here fails."""

from __future__ import annotations

import argparse
import logging
import traceback
from pathlib import Path
from time import perf_counter

from rich.console import Console

from . import report, targets
from .measuring import Outcome, measure
from .scenarios import everything, those_with_targets

ROUNDS = 11
QUICK_ROUNDS = 5
DIRECTORY = Path("docs/benchmarks")


def main() -> None:
    """Measure, print, and write what the docs show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the targets; write nothing")
    parser.add_argument("--only", default="", help="only scenarios with this in their name")
    parser.add_argument("--rounds", type=int, help="how many times everything is measured")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where to write")
    parser.add_argument("--table", type=Path, help="where to write the targets, and nothing else")
    options = parser.parse_args()
    # The bus warns of full buffers, and here many are; the warnings are made, but not shown.
    logging.getLogger("trio_events").addHandler(logging.NullHandler())

    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console.width = 140  # rich would take 80, and break every line
    started = perf_counter()
    now = report.Circumstances.now()
    if options.quick:
        todo = those_with_targets(options.rounds or QUICK_ROUNDS)
    else:
        todo = everything(options.rounds or ROUNDS)
    outcomes: dict[str, Outcome] = {}
    for scenario in todo:
        if options.only in scenario.name:
            with progress.status(scenario.name):
                outcomes[scenario.name] = measure(scenario)
            if not options.quick:
                report.print_outcome(console, outcomes[scenario.name])
    rows = targets.judge_all(outcomes)
    report.print_targets(console, rows)
    console.print(now.machine())
    if not options.quick:
        console.print(now.packages())
    if options.table:
        options.table.write_text(report.targets_as_markdown(now, rows), encoding="utf-8")
    elif not options.quick and not options.only:
        try:
            report.write(options.directory, now, outcomes, rows)
        except Exception:  # noqa: BLE001  # figures that cannot be drawn were printed all the same
            traceback.print_exc()
    console.print(f"{perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
