"""What is told of the outcomes: tables, results.json, plots, and the table for the docs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

from . import peers, scenarios
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


# For the docs


def write(
    directory: Path, now: Circumstances, outcomes: dict[str, Outcome], rows: Sequence[Row]
) -> None:
    """Write everything that the docs show."""
    # Here, because only this needs matplotlib: without it there are still the tables.
    from . import plots

    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(now, outcomes, rows), indent=1, ensure_ascii=False)
    (directory / "results.json").write_text(text + "\n", encoding="utf-8")
    (directory / "table.md").write_text(as_markdown(now, outcomes, rows), encoding="utf-8")
    plots.draw(directory, outcomes)


def as_json(
    now: Circumstances, outcomes: dict[str, Outcome], rows: Sequence[Row]
) -> dict[str, Any]:
    """Everything that was measured, each figure with four digits."""

    def short(figure: float) -> float:
        return float(f"{figure:.4g}")

    def shorter(spread: Spread) -> dict[str, float]:
        return {name: short(figure) for name, figure in attrs.asdict(spread).items()}

    return {
        **attrs.asdict(now),
        "targets": [
            {**attrs.asdict(row), "measured": row.measured and shorter(row.measured)}
            for row in rows
        ],
        "scenarios": [
            {
                "name": outcome.scenario.name,
                "unit": "bytes" if outcome.scenario.unit == BYTES else "seconds",
                "per": outcome.scenario.unit,
                "cases": {
                    name: {**shorter(spread), "rounds": [*map(short, outcome.figures[name])]}
                    for name, spread in in_order(outcome)
                },
                "errors": outcome.errors,
            }
            for outcome in outcomes.values()
        ],
    }


def targets_as_markdown(now: Circumstances, rows: Sequence[Row]) -> str:
    """The targets and whether they are met, as docs/reference/benchmarks.md includes them."""
    lines = [
        "<!-- `make bench` wrote this. -->",
        "",
        f"Measured on {now.date}: {now.machine()}; {now.packages()}.",
        "",
        "| scenario | against | median (half of the rounds) | target | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.what} | {row.against} | {measured(row)} | {target(row)} | {met(row)} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def as_markdown(now: Circumstances, outcomes: dict[str, Outcome], rows: Sequence[Row]) -> str:
    """What docs/reference/benchmarks.md includes."""
    lines = targets_as_markdown(now, rows).splitlines()
    for title, names in (
        ("million deliveries a second, everybody with a queue", [*scenarios.LOADS]),
        (
            "million deliveries a second, callbacks",
            [scenarios.SYNCHRONOUS + name for name in scenarios.FAN_OUTS],
        ),
        (
            "million deliveries a second, `send_nowait`",
            [scenarios.BURSTS + name for name in scenarios.FAN_OUTS],
        ),
    ):
        lines += ["", *side_by_side(title, [outcomes[name] for name in names if name in outcomes])]
    others = [
        outcome
        for name, outcome in outcomes.items()
        if name not in scenarios.LOADS
        and not name.startswith((scenarios.SYNCHRONOUS, scenarios.BURSTS))
    ]
    lines += ["", "| scenario | case | median | half of the rounds |", "|---|---|--:|--:|"]
    for outcome in others:
        unit = outcome.scenario.unit
        for name, spread in in_order(outcome):
            low, median, high = (amount(figure, unit) for figure in attrs.astuple(spread))
            lines.append(f"| {outcome.scenario.name} | {name} | {median} | {low} – {high} |")
    failed = [
        f"{outcome.scenario.name}: {name}: {error}"
        for outcome in outcomes.values()
        for name, error in outcome.errors.items()
    ]
    if failed:
        lines += ["", "Not measured:", "", *(f"- {line}" for line in failed)]
    return "\n".join(lines) + "\n"


def side_by_side(title: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Lines of a table with a column for each outcome and a row for each case."""
    if not outcomes:
        return []
    columns = [outcome.scenario.name.rpartition(", ")[2] for outcome in outcomes]
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.scenario.cases)
    lines = [
        f"| {title} | " + " | ".join(columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    for name in names:
        cells = [
            f"{1e-6 / Spread.of(outcome.figures[name]).median:.3g}"
            if name in outcome.figures
            else "–"
            for outcome in outcomes
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines
