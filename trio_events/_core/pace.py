"""How often operations yield to other tasks, in addition to checking for cancellation."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import final

import trio


@final
class Pace:
    """The checkpoints with which operations on a bus begin. All operations share one count.

    Most of them only check whether the task has been cancelled. After `checkpoint_every - 1` of
    these in a row, the next one is a full checkpoint. Waiting for anything restarts the count,
    because every other task has run meanwhile.
    """

    # In plain slots, because every event passes `await next(pace.steps)()`.
    __slots__ = ("_checks", "steps")

    def __init__(self, checkpoint_every: int) -> None:
        self._checks = min(checkpoint_every - 1, sys.maxsize)
        self.restart()

    def restart(self) -> None:
        """Restart the count, because other tasks have just run."""
        # Infinite, so that an exception between two steps can't exhaust it for all callers.
        self.steps: Iterator[Callable[[], Awaitable[None]]] = itertools.chain(
            itertools.repeat(trio.lowlevel.checkpoint_if_cancelled, self._checks),
            itertools.repeat(self._checkpoint),
        )

    async def _checkpoint(self) -> None:
        self.restart()
        await trio.lowlevel.checkpoint()
        self.restart()
