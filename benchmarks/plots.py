"""The plots of the docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure

from . import scenarios
from .measuring import Outcome, Spread

# Readable on white and on black: the docs have both.
TEXT: Final = "#7d7d7d"
OURS: Final = "#2f8fd0"
THEIRS: Final = "#b0b0b0"
BATCHES: Final = "#e08a2c"

STYLE: Final = {
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": TEXT,
    "font.size": 9,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text: smaller, and can be searched
    "svg.hashsalt": "trio_events",  # the same figures give the same file
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


def draw(directory: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Draw those plots that there are figures for."""
    with matplotlib.rc_context(STYLE):
        queues = [outcomes[name] for name in scenarios.FAN_OUTS if name in outcomes]
        if queues:
            _save(_bars(queues), directory / "throughput.svg")
        names = [scenarios.SYNCHRONOUS + name for name in scenarios.FAN_OUTS]
        callbacks = [outcomes[name] for name in names if name in outcomes]
        if callbacks:
            _save(_bars(callbacks), directory / "callbacks.svg")
        if {scenarios.MATCHING, scenarios.DEPTH, scenarios.PAYLOAD} <= {*outcomes}:
            _save(_growth(outcomes), directory / "growth.svg")


def draw_curves(path: Path, curves: Mapping[str, Mapping[int, float]]) -> None:
    """Draw a panel for each curve: what one of something costs, in µs, by size."""
    columns = 4
    rows = -(-len(curves) // columns)
    with matplotlib.rc_context({**STYLE, "font.size": 7}):
        figure = Figure(figsize=(9, 1.7 * rows))
        panels = [*figure.subplots(rows, columns, squeeze=False).flat]
        for axes, (name, points) in zip(panels, curves.items(), strict=False):
            axes.plot([*points], [*points.values()], marker="o", markersize=3, color=OURS)
            axes.set_xscale("log")
            axes.set_xticks([*points], minor=False)
            axes.minorticks_off()  # each one is a path in the file
            axes.set_ylim(0, 1.5 * max(points.values(), default=1))
            axes.set_title("\n".join(wrap(name, 32)), loc="left", fontsize=7)
            axes.set_ylabel("µs")
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        figure.tight_layout()
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _bars(outcomes: Sequence[Outcome]) -> Figure:
    """Deliveries a second: a panel for each outcome, a bar for each case, the fastest on top."""
    figure = Figure(figsize=(8, 0.8 + 0.24 * sum(len(o.figures) + 2 for o in outcomes)))
    heights = [len(outcome.figures) + 1 for outcome in outcomes]
    panels = figure.subplots(len(outcomes), 1, height_ratios=heights, squeeze=False)
    for axes, outcome in zip(panels[:, 0], outcomes, strict=True):
        spreads = {name: Spread.of(figures) for name, figures in outcome.figures.items()}
        names = sorted(spreads, key=lambda name: spreads[name].median)
        medians = [1e-6 / spreads[name].median for name in names]
        bars = axes.barh(
            names,
            medians,
            color=[OURS if name.startswith("trio_events") else THEIRS for name in names],
            xerr=[
                [m - 1e-6 / spreads[n].high for n, m in zip(names, medians, strict=True)],
                [1e-6 / spreads[n].low - m for n, m in zip(names, medians, strict=True)],
            ],
            ecolor=TEXT,
        )
        axes.bar_label(bars, [f" {median:.3g}" for median in medians])
        axes.invert_yaxis()
        axes.margins(x=0.1)  # for the figure after the longest bar
        axes.set_title(outcome.scenario.name, loc="left")
    panels[-1, 0].set_xlabel("million deliveries a second; the lines are half of the rounds")
    figure.tight_layout()
    return figure


def _growth(outcomes: Mapping[str, Outcome]) -> Figure:
    """What an event costs when something else grows."""
    figure = Figure(figsize=(9, 3))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    outcome = outcomes[scenarios.MATCHING]
    for (form, label), color in zip(scenarios.FORMS.items(), (OURS, BATCHES), strict=True):
        cases = [scenarios.among(size, form) for size in scenarios.AMONG]
        _line(left, outcome, [f"{size:,}" for size in scenarios.AMONG], cases, label, color)
    left.set_xlabel("subscriptions, of which 1 matches")
    left.set_ylabel("µs an event")
    outcome = outcomes[scenarios.DEPTH]
    for ending, color in ((scenarios.REMEMBERED, OURS), (scenarios.NEVER_SEEN, BATCHES)):
        cases = [f"{depth}{ending}" for depth in scenarios.DEPTHS]
        _line(middle, outcome, scenarios.DEPTHS, cases, ending.removeprefix(", "), color)
    middle.set_xticks(scenarios.DEPTHS)
    middle.set_xlabel("segments in name and pattern")
    outcome = outcomes[scenarios.PAYLOAD]
    for owner, color in (("trio_events", OURS), ("trio memory channel", THEIRS)):
        cases = [f"{size}, {owner}" for size in scenarios.SIZES]
        _line(right, outcome, [*scenarios.SIZES], cases, owner, color)
    right.set_xlabel("size of the data")
    left.set_ylim(0, 1.3 * left.get_ylim()[1])  # for the legends; the panels share it
    for axes in (left, middle, right):
        axes.legend(frameon=False, labelcolor=TEXT)
    figure.tight_layout()
    return figure


def _line(
    axes: Any,  # matplotlib may not be there when types are checked
    outcome: Outcome,
    places: Sequence[object],
    cases: Sequence[str],
    label: str,
    color: str,
) -> None:
    points = [
        (place, Spread.of(outcome.figures[case]).median * 1e6)
        for place, case in zip(places, cases, strict=True)
        if case in outcome.figures
    ]
    axes.plot(*zip(*points, strict=True), marker="o", label=label, color=color)
