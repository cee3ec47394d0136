"""The commands `map`, `top` and `graph`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import trio
from rich.console import Console

from ._client import MapError, graph
from ._script import run_script
from ._top import Print, top


def run(question: str, words: Sequence[str], show: Print, warn: Print) -> int:
    """Run one of them.

    Args:
      question: The command.
      words: The words after it.
      show: Called with each line of the answer.
      warn: Called with what went wrong.

    Returns:
      The exit status.
    """
    status = 0
    try:
        try:
            _run(question, words, show)
        except MapError as error:
            warn(str(error))
            status = 1
    except* KeyboardInterrupt:  # in a group if it came while a nursery was open
        status = 130
    return status


def _run(question: str, words: Sequence[str], show: Print) -> None:
    if question == "map":
        run_script(words[0], words[1:], sys.stderr)
    elif question == "top":
        trio.run(top, words[0], Console(), show)
    else:
        for line in trio.run(graph, words[0]).splitlines():
            show(line)
