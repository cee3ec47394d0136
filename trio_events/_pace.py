"""How often an operation gives other tasks a turn, as well as looking for a cancellation."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import final

import trio


@final
class Pace:
    """The checkpoints that the operations on a bus begin with. All of them share one pace.

    Most only look whether the task has been cancelled. At the latest the last one of
    `checkpoint_every` in a row gives other tasks a turn. Whoever has just been given a turn
    begins to count anew: no other task can have been in the middle of its own.
    """

    # In plain slots: `await next(pace.steps)()` is in the way of every event.
    __slots__ = ("_looks", "steps")

    def __init__(self, checkpoint_every: int) -> None:
        self._looks = min(checkpoint_every - 1, sys.maxsize)
        self.restart()

    def restart(self) -> None:
        """Count anew, because the running task has just been given a turn."""
        self.steps: Iterator[Callable[[], Awaitable[None]]] = itertools.chain(
            itertools.repeat(trio.lowlevel.checkpoint_if_cancelled, self._looks),
            (self._give_a_turn,),
        )

    async def _give_a_turn(self) -> None:
        self.restart()
        await trio.lowlevel.checkpoint()
        self.restart()
