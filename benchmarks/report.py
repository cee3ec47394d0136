"""The outcomes as tables on the terminal, and as JSON, from which the docs draw their figures."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

from . import peers
from .measuring import BYTES, Outcome, Spread
from .targets import Row


@attrs.frozen
class Circumstances:
    """When, where and of what the figures are."""

    date: str
    cpu: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]

    @classmethod
    def now(cls) -> Circumstances:
        """Those of this process."""
        return cls(
            date=datetime.now(UTC).date().isoformat(),
            cpu=_cpu(),
            cores=os.cpu_count() or 0,
            system=platform.system(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            versions={
                name: version
                for name in ("trio-events", "trio", "attrs", *peers.DISTRIBUTIONS)
                if (version := _version(name)) is not None
            },
        )

    def machine(self) -> str:
        """The machine in a line."""
        return f"{self.cpu}, {self.cores} cores, {self.system}, {self.python}"

    def packages(self) -> str:
        """The versions in a line."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


# Figures as text


def amount(figure: float, unit: str) -> str:
    """What a unit takes."""
    if unit == BYTES:
        return f"{figure / 1024:.1f} KiB"
    return f"{figure * 1e6:,.3g} µs" if figure < 1e-3 else f"{figure * 1e3:,.3g} ms"


def a_second(figure: float) -> str:
    """How many there are in a second."""
    count = 1 / figure
    return f"{count / 1e6:.3g} M" if count >= 1e4 else f"{count:,.0f}"


def measured(row: Row) -> str:
    """The median of a target's figure, and where half of the rounds lie."""
    if row.measured is None:
        return row.note
    low, median, high = (f"{figure:.2f}" for figure in attrs.astuple(row.measured))
    return f"{median}{row.unit} ({low} – {high})"


def target(row: Row) -> str:
    """The bound of a target."""
    if row.target is None:
        return ""
    return f"{'at most' if row.at_most else 'at least'} {row.target:g}{row.unit}"


def met(row: Row) -> str:
    """Whether."""
    return {True: "met", False: "not met", None: ""}[row.met]


def in_order(outcome: Outcome) -> Iterable[tuple[str, Spread]]:
    """The cases of an outcome that went well, as they are in the scenario."""
    for name, figures in outcome.figures.items():
        yield name, Spread.of(figures)


# On the terminal


def print_targets(console: Console, rows: Sequence[Row]) -> None:
    """The targets and whether they are met."""
    table = Table("scenario", "against", "median (half of the rounds)", "target", "")
    for row in rows:
        style = "bold" if row.met is False else ""
        table.add_row(row.what, row.against, measured(row), target(row), met(row), style=style)
    console.print(table)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """A table of one scenario."""
    unit = outcome.scenario.unit
    is_throughput = unit == "delivery"
    headings = [
        "" if unit == BYTES else f"per {unit}",
        "half of the rounds",
        *["a second"] * is_throughput,
    ]
    table = Table(outcome.scenario.name)
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, spread in in_order(outcome):
        low, median, high = (amount(figure, unit) for figure in attrs.astuple(spread))
        cells = [name, median, f"{low} – {high}"]
        table.add_row(*cells, *[a_second(spread.median)] * is_throughput)
    for name, error in outcome.errors.items():
        table.add_row(name, "failed", error)
    console.print(table)


# For the docs: docs/_ext/figures.py draws from these files


def write(
    directory: Path, now: Circumstances, outcomes: Mapping[str, Outcome], rows: Sequence[Row]
) -> None:
    """Write everything that the docs show."""
    directory.mkdir(parents=True, exist_ok=True)
    scenarios = [_scenario_as_json(outcome) for outcome in outcomes.values()]
    save(directory / "results.json", {**targets_as_json(now, rows), "scenarios": scenarios})


def targets_as_json(now: Circumstances, rows: Sequence[Row]) -> dict[str, Any]:
    """The circumstances, and the targets with what was measured."""
    return {
        **attrs.asdict(now),
        "targets": [
            {
                "what": row.what,
                "against": row.against,
                "measured": measured(row),
                "target": target(row),
                "met": row.met,
            }
            for row in rows
        ],
    }


def _scenario_as_json(outcome: Outcome) -> dict[str, Any]:
    """The quartiles of each case, in seconds or bytes; and how it compares, round by round.

    A ratio says how many times as fast ours is as another one: its median over the rounds.
    """
    ours = [name for name in outcome.figures if name in peers.BUSES]
    return {
        "name": outcome.scenario.name,
        "unit": "bytes" if outcome.scenario.unit == BYTES else "seconds",
        "per": outcome.scenario.unit,
        "cases": {
            name: [short(figure) for figure in attrs.astuple(spread)]
            for name, spread in in_order(outcome)
        },
        "ratios": {
            bus: {
                other: short(Spread.of(outcome.ratios(other, bus)).median, digits=3)
                for other in outcome.figures
                if other != bus
            }
            for bus in ours
        },
        "errors": outcome.errors,
    }


def short(figure: float, *, digits: int = 4) -> float:
    """The figure without digits that mean nothing."""
    return float(f"{figure:.{digits}g}")


def save(path: Path, data: Mapping[str, object]) -> None:
    """Write JSON with a line for each innermost list or object, so that differences stay short."""
    text = json.dumps(data, indent=1, ensure_ascii=False)
    text = re.sub(r"([\[{])\s+([^\[\]{}]*?)\s+([\]}])", _in_one_line, text)
    path.write_text(text + "\n", encoding="utf-8")


def _in_one_line(match: re.Match[str]) -> str:
    return match[1] + re.sub(r"\s*\n\s*", " ", match[2]) + match[3]
