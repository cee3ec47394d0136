"""`python -m trio_events top URL`: the subscriptions of a running program, in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, final

import attrs
import trio
from rich.console import Console, ConsoleOptions, Group
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ._client import MapError, ask
from ._problems import BAD, patterns, place, seconds

State: TypeAlias = dict[str, Any]
Print: TypeAlias = Callable[[str], None]


class Rates:
    """Events a second, from counters of one state after the other."""

    def __init__(self) -> None:
        self._before: dict[object, int] = {}
        self._time: float | None = None
        self._rates: dict[object, float] = {}

    def update(self, state: State) -> None:
        """Take in the next state."""
        counters = {row["id"]: row["matched"] for row in state["rows"]}
        counters["all"] = state["accepted"]
        if self._time is not None:
            passed = max(state["time"] - self._time, 0.001)
            for key, count in counters.items():
                now = (count - self._before.get(key, count)) / passed
                self._rates[key] = now if len(self._rates) == 0 else self[key] * 0.6 + now * 0.4
        self._before, self._time = counters, state["time"]

    def __getitem__(self, key: object) -> float:
        return self._rates.get(key, 0.0)


def order(rows: list[dict[str, Any]], rates: Rates) -> list[dict[str, Any]]:
    """Stuck ones first, then those that lose events, then by rate."""
    return sorted(
        rows,
        key=lambda row: (
            -len(row["waiting"]),
            not row["losing"],
            -row["dropped"],
            -rates[row["id"]],
        ),
    )


def picture(state: State, rates: Rates) -> Group:
    """The table for one state."""
    head = Text.assemble(
        ("trio_events top", "bold"),
        f"   {rates['all']:.1f} events/s",
        f"   {state['accepted']:,} accepted   ",
        (f"{state['waiting']} waiting to send", "red bold" if state["waiting"] else ""),
        f"   {sum(row['dropped'] for row in state['rows']):,} dropped",
        f"   {state['unmatched']:,} unmatched",
        f"   up {seconds(state['up'])}",
    )
    table = Table(box=None, header_style="dim", pad_edge=False, expand=True)
    for name, justify in [
        ("READER", "left"),
        ("READS", "left"),
        ("IN/S", "right"),
        ("BUFFER", "left"),
        ("UNREAD", "right"),
        ("DROPPED", "right"),
        ("WAIT", "left"),
        ("CALL median/most", "left"),
        ("SUBSCRIBED AT", "left"),
    ]:
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # one of its literals
    for row in order(state["rows"], rates):
        times = state["calls"].get(row["party"]) if row["is_handler"] else None
        longest = max((sender["for"] for sender in row["waiting"]), default=0.0)
        count = f" ×{row['open']}" if row["open"] > 1 else ""
        table.add_row(
            Text(_plain(row["party"] or "nobody") + count, "bold" if row["party"] else "yellow"),
            Text(_plain(patterns(row))),
            f"{rates[row['id']]:.1f}",
            bar(row["fill"], stuck=bool(row["waiting"])),
            str(row["queued"]),
            Text(str(row["dropped"] or ""), "yellow"),
            Text(f"{len(row['waiting'])} for {seconds(longest)}" if row["waiting"] else "", "red"),
            f"{seconds(times[0])} / {seconds(times[1])}" if times else "",
            Text(_plain(place(row["origin"])), "dim"),
        )
    problems = [
        Text(
            f"● {_plain(problem['text'])}  {_plain(problem['detail'])}",
            "red" if problem["level"] == BAD else "yellow",
        )
        for problem in state["problems"][:8]
    ]
    return Group(head, "", table, "", *problems)


@final
@attrs.frozen
class Encodable:
    """What `picture` returns, in the characters that the terminal has."""

    _picture: Group

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """What rich asks for."""
        for segment in console.render(self._picture, options):
            yield segment._replace(text=_encodable(segment.text, console.encoding))


def _encodable(text: str, encoding: str) -> str:
    """The text with one character for each that is missing, so that the columns stay."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_INSTEAD).encode(encoding, "replace").decode(encoding)
    return text


_INSTEAD: Final = str.maketrans("█▏▎▍▌▋▊▉·×●…", "#       .x*~")


def bar(fill: float, *, stuck: bool = False, width: int = 12) -> Text:
    """A gauge of a buffer."""
    eighths = round(min(fill, 1) * width * 8)
    text = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return Text(text.ljust(width, "·"), "red" if stuck else "yellow" if fill > 0.5 else "green")


def _plain(text: str) -> str:
    """The text without characters that could control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


async def top(url: str, console: Console, show: Print) -> None:
    """Show states as they come, until `q` is typed; without a terminal, one, line by line.

    Raises:
      MapError: If there is no map at the URL.
    """
    rates, failure = Rates(), None
    async with ask(url, "stream") as answer:
        state = await answer.state()
        is_live = console.is_terminal and sys.stdin is not None and sys.stdin.isatty()
        if state is not None and not is_live:
            rates.update(state)
            state = await answer.state()  # from now on, there are rates
        if state is None:
            raise MapError(f"the program at {url} has ended")
        if not is_live:
            rates.update(state)
            segments = console.render(Encodable(picture(state, rates)))
            for line in "".join(segment.text for segment in segments).splitlines():
                show(line)
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            async with trio.open_nursery() as nursery:
                await nursery.start(_until_q, nursery.cancel_scope)
                try:
                    while state is not None:
                        rates.update(state)
                        live.update(Encodable(picture(state, rates)), refresh=True)
                        state = await answer.state()
                except MapError as error:
                    failure = error
                nursery.cancel_scope.cancel()
    if failure is not None:  # not in the nursery, which would make a group of it
        raise failure


async def _until_q(  # noqa: ASYNC114  # `top` starts it
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancel when `q` is typed. The terminal gives each key at once meanwhile."""
    import termios  # noqa: PLC0415  # not on every system
    import tty  # noqa: PLC0415

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    tty.setcbreak(keys)
    try:
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(keys)
            if os.read(keys, 1) in (b"q", b""):
                scope.cancel()
                await trio.lowlevel.checkpoint()
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
