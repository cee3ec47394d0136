"""No room on the stack: an operation happens completely or not at all, and the bus goes on."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from trio.testing import MockClock

from ..injecting import no_chance
from .staging import OPERATIONS, Operation, close_the_bus_while_a_sender_waits, staged

FRAMES = [*range(3, 60), 200]
"""How many there are: all numbers that an operation may have above its own, and plenty."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with no_chance():
        yield


def depth() -> int:
    """How many frames there are."""
    frame: FrameType | None = sys._getframe(1)
    found = 0
    while frame is not None:
        frame, found = frame.f_back, found + 1
    return found


@contextmanager
def limited_stack() -> Iterator[None]:
    """A low limit, so that it is near, but not near to other tasks."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth() + 300)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


async def deep(frames: int, act: Callable[[], Awaitable[None]]) -> None:
    """Do something so many frames below the limit."""
    if depth() < sys.getrecursionlimit() - frames:
        await deep(frames, act)
    else:
        await act()


async def play(operation: Operation, frames: int) -> bool:
    """Play an operation with so many frames left; returns whether these were enough."""
    async with staged(operation) as stage:
        try:
            with limited_stack():
                await deep(frames, lambda: operation(stage))
        except RecursionError:
            enough = False
        else:
            enough = True
        await stage.check()
    return enough


# Not the one that starts a task: trio itself leaves that half done.
@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation is not close_the_bus_while_a_sender_waits],
    ids=lambda o: o.__name__,
)
async def test_an_operation_without_room_on_the_stack_breaks_nothing(
    operation: Operation, autojump_clock: MockClock
) -> None:
    outcomes = []
    for frames in FRAMES:
        try:
            outcomes.append(await play(operation, frames))
        except BaseException as error:
            error.add_note(f"with {frames} frames left")
            raise
    assert outcomes[-1]
