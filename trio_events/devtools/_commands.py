"""The commands `map`, `top` and `graph`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import trio
from rich.console import Console

from ._client import MapError, graph
from ._script import run_script
from ._top import top


def run(question: str, words: Sequence[str]) -> int:
    """Run one of them; returns the exit status."""
    try:
        match question:
            case "map":
                run_script(words[0], words[1:], sys.stderr)
            case "top":
                trio.run(top, words[0], Console())
            case _:
                sys.stdout.write(trio.run(graph, words[0]))
    except MapError as error:
        print(f"python -m trio_events {question}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
