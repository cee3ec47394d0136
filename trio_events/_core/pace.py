"""How often an operation gives other tasks a turn, as well as checking for cancellation."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import final

import trio


@final
class Pace:
    """The checkpoints that the operations on a bus begin with. All of them share one count.

    Most only check whether the task has been cancelled. After `checkpoint_every - 1` of these in
    a row, the next one is a full checkpoint. Waiting for anything restarts the count, because
    every other task had its turn meanwhile.
    """

    # In plain slots: `await next(pace.steps)()` is in the way of every event.
    __slots__ = ("_checks", "steps")

    def __init__(self, checkpoint_every: int) -> None:
        self._checks = min(checkpoint_every - 1, sys.maxsize)
        self.restart()

    def restart(self) -> None:
        """Start counting again, because the running task has just been given a turn."""
        # It has no end: an exception between two steps must not exhaust it for everybody.
        self.steps: Iterator[Callable[[], Awaitable[None]]] = itertools.chain(
            itertools.repeat(trio.lowlevel.checkpoint_if_cancelled, self._checks),
            itertools.repeat(self._checkpoint),
        )

    async def _checkpoint(self) -> None:
        self.restart()
        await trio.lowlevel.checkpoint()
        self.restart()
