"""Where the time goes when ten subscribers read one by one: `make profile`.

py-spy looks at the stack from another process. A profiler inside of it would make this take six
times as long, and would blame what makes many small calls.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from .measuring import Load
from .peers import on_trio

LOAD = Load(publishers=1, subscribers=10, events=500_000)
RATE = 500  # samples a second
SHOWN = 25

FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(?P<line>:\d+)?\)")


def record() -> str:
    """Have this module's work sampled: a line for each stack, and how often it was seen."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "stacks")
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw"]
        work = [sys.executable, "-m", __spec__.name, "work"]
        done = subprocess.run(
            [*spy, "--rate", str(RATE), "--output", str(file), "--", *work],
            capture_output=True,
            text=True,
            check=False,
        )
        if not file.exists():
            sys.exit(done.stderr)
        return file.read_text(encoding="utf-8")


def stacks(raw: str) -> Iterator[tuple[list[str], int]]:
    """The frames from trio's loop down, and how often they were seen."""
    for line in raw.splitlines():
        frames, _, count = line.rpartition(" ")
        names = frames.split(";")
        run = [number for number, name in enumerate(names) if name.startswith("unrolled_run ")]
        if run:  # or it is not the work yet, but what it imports
            yield names[run[0] :], int(count)


def function(frame: str) -> str:
    """A frame without the line."""
    return FRAME.sub(r"\g<function> (\g<file>)", frame)


def main() -> None:
    """Profile, and print who takes how much."""
    console = Console()
    if not console.is_terminal:
        console.width = 140
    lines: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    total = 0
    for frames, count in stacks(record()):
        total += count
        lines[frames[-1]] += count
        functions[function(frames[-1])] += count
        for name in {function(frame) for frame in frames}:
            inclusive[name] += count
    for title, counts in (
        ("with all that it calls", inclusive),
        ("by itself", functions),
        ("lines", lines),
    ):
        shown = Table(title, "share")
        for name, count in counts.most_common(SHOWN):
            shown.add_row(name, f"{count / total:6.1%}")
        console.print(shown)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        on_trio.bus(LOAD)
    else:
        main()
