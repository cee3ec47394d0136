"""A directive that shows what the benchmarks measured, from the JSON that `make bench` writes.

    ```{figures} ../benchmarks/results.json
    :show: bars
    :scenarios: 1→10
    ```

Bars are HTML, so that they fit any width, and `docs/_static/site.css` colours them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Results: TypeAlias = dict[str, Any]

OURS = "trio_events"
SHOWN = ("bars", "costs", "growth", "growth-in-full", "machine", "ratios", "targets")


class Figures(SphinxDirective):
    """The directive. Its argument is a file of results, relative to the page."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Callable[[str], Any]] | None] = {
        "show": lambda text: directives.choice(text, SHOWN),
        "scenarios": lambda text: [name.strip() for name in text.split(";")],
        "case": str,
    }

    def run(self) -> list[nodes.Node]:
        """Draw, or make a table."""
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        results = json.loads(Path(path).read_text("utf-8"))
        show, names = self.options["show"], self.options.get("scenarios", [])
        if show == "bars":
            text = "".join(bars(scenario(results, name)) for name in names)
            return [nodes.raw("", text, format="html")]
        lines = {
            "costs": lambda: costs(results, names),
            "growth": lambda: growth(results),
            "growth-in-full": lambda: growth_in_full(results),
            "machine": lambda: machine(results),
            "ratios": lambda: ratios(results, names, self.options["case"]),
            "targets": lambda: targets(results),
        }[show]()
        return self.parse_text_to_nodes("\n".join(lines))


def scenario(results: Results, name: str) -> Results:
    """The scenario of this name."""
    found: Results = next(s for s in results["scenarios"] if s["name"] == name)
    return found


def machine(results: Results) -> Iterator[str]:
    """When and where it was measured."""
    versions = ", ".join(f"{name} {v}" for name, v in results["versions"].items())
    yield (
        f"Measured on {results['date']} with {results['python']} on one core of an "
        f"{results['cpu']}; {versions}."
    )


def bars(one: Results) -> str:
    """Million deliveries a second, the fastest on top.

    Those of the others follow from the ratios, which were taken round by round: if the machine was
    slow in half of the rounds, medians of each alone would say little.
    """
    bus, others = next(iter(one["ratios"].items()))
    speed = 1e-6 / one["cases"][bus][1]
    speeds = {bus: speed, **{name: speed / ratio for name, ratio in others.items()}}
    largest = max(speeds.values())
    rows = [
        f'<div class="bar{" ours" if name.startswith(OURS) else ""}">'
        f"<span>{html.escape(label(name))}</span>"
        f'<div><i style="width:calc((100% - 4rem) * {speed / largest:.4f})"></i>'
        f"<b>{speed:.2g}</b></div></div>"
        for name, speed in sorted(speeds.items(), key=lambda pair: -pair[1])
    ]
    return f'<div class="bars">{"".join(rows)}</div>'


def ratios(results: Results, names: list[str], case: str) -> Iterator[str]:
    """How many times as fast as each other one: a column for each scenario."""
    found = [scenario(results, name)["ratios"].get(case, {}) for name in names]
    titles = (name.rpartition(", ")[2] for name in names)
    yield from header(f"`{case.partition(', ')[2]}` and", *titles)
    for other in dict.fromkeys(other for each in found for other in each):
        if not other.startswith(OURS):
            yield row(label(other), *(factor(each.get(other)) for each in found))


def label(name: str) -> str:
    """A short name for a case."""
    return name.removesuffix(" by hand").replace("memory channels", "channels")


def factor(ratio: float | None) -> str:
    """A ratio; bold if the other one is faster."""
    if ratio is None:
        return "–"
    text = f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}"
    return f"**{text}**" if ratio < 1 else text


def costs(results: Results, names: list[str]) -> Iterator[str]:
    """The median of each case."""
    yield row("what", "case", "median")
    yield "|---|---|--:|"
    for one in (scenario(results, name) for name in names):
        what = one["name"]
        for name, (_, median, _) in one["cases"].items():
            yield row(what, name, amount(median, one["unit"]))
            what = ""  # say it once


def amount(figure: float | None, unit: str = "seconds") -> str:
    """A figure with a unit that suits it."""
    if figure is None:
        return "–"
    if unit == "bytes":
        return f"{figure / 1024:.1f} KiB"
    for size, symbol in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if figure >= size:
            return f"{figure / size:.3g} {symbol}"
    return f"{figure * 1e9:.0f} ns"


def targets(results: Results) -> Iterator[str]:
    """The targets, and whether they are met."""
    yield from machine(results)
    yield ""
    yield from header("what", "against", "measured", "target", "")
    words = {True: "met", False: "not met", None: ""}
    for each in results["targets"]:
        cells = (each[key] for key in ("what", "against", "measured", "target"))
        yield row(*cells, words[each["met"]])


def growth(results: Results) -> Iterator[str]:
    """For each operation, the smallest and the largest N."""
    yield from header("CPU time of …", "few", "many")
    for each in results["rows"]:
        few, many = (
            f"{amount(each['seconds'][size])} (N = {int(size):,})"
            for size in (min(each["seconds"], key=int), max(each["seconds"], key=int))
        )
        yield row(each["name"], few, many)


def growth_in_full(results: Results) -> Iterator[str]:
    """Each operation at each N; and then the longest turns."""
    yield f"Measured on {results['measured on']}."
    for title, key in (("CPU time", "seconds"), ("longest turn", "longest turn")):
        rows = [each for each in results["rows"] if each[key]]
        sizes = sorted({int(size) for each in rows for size in each[key]})
        yield ""
        yield from header(
            title, "per", *(f"{n:,}" for n in sizes), "largest N / cheapest"
        )
        for each in rows:
            cells = [
                amount(each[key][str(n)]) if str(n) in each[key] else "" for n in sizes
            ]
            ratio = each["ratio"] if key == "seconds" else None
            last = f"{ratio:.2g}" if ratio is not None else ""
            yield row(each["name"], each["per"], *cells, last)


def header(*cells: str) -> Iterable[str]:
    """The first two lines of a table; all columns with figures are to the right."""
    yield row(*cells)
    yield "|" + "|".join(["---", *["--:"] * (len(cells) - 1)]) + "|"


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("figures", Figures)
    return {"parallel_read_safe": True}
