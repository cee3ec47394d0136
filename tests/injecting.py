"""Doing something at one line of a program: raising a signal, running a destructor.

Python calls a trace function before each line. The tests let a program run again and again, and do
it at the first line, the second, the third …, until the program has no more of them.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, final

import attrs
import pytest
import trio

import trio_events
from trio_events._instruments import Instruments

from .schedules import TRIO

PACKAGE: Final = str(Path(trio_events.__file__).parent)
CONTEXTLIB: Final = str(Path(contextlib.__file__))
TRIO_CORE: Final = (
    str(Path(trio.__file__).parent / "_channel.py"),
    str(Path(trio.__file__).parent / "_core" / "_run.py"),
)

LOCKED: Final = tuple(c for c in Instruments._wired.__code__.co_consts if isinstance(c, CodeType))
"""Where a method of an instrument runs, if there are any: it can't use the bus, and the collector
is off, so no destructor comes between these lines. Without instruments none of them runs."""

_HELD: Final[list[Any]] = []
"""All trace functions. Python 3.11 lets go of one that raises once too often: that would free it
while it is still in use, so these references are never given back."""


@final
@attrs.define(eq=False)
class AtLine:
    """Does something at one line, counted from 0 in the order in which lines run."""

    number: int
    act: Callable[[], object]
    files: tuple[str, ...] = (PACKAGE,)
    """Beginnings of the names of the files whose lines count."""

    skipped: tuple[str, ...] = ("unrolled_run",)
    """Functions whose lines don't count: trio's loop isn't ready for a destructor that reschedules
    a task."""

    most: int = 50_000
    """How many lines may run in all."""

    lines: int = 0
    """How many lines have run so far."""

    where: str | None = None
    """The line at which it was done, or None if it has not been reached."""

    _held: tuple[Any, Any] = attrs.field(init=False)
    _before: Any = attrs.field(init=False)  # the trace function of a coverage tool, perhaps

    # As a context manager it counts the lines that run in the block, whichever task runs them.
    # Not a generator: an interrupt in the code of contextlib would leave that suspended.

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        self._held = self._on_call, self._on_line
        _HELD.extend(self._held * 2)
        sys.settrace(self._held[0])

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_name in self.skipped or frame.f_code in LOCKED:
            return None
        return self._held[1] if frame.f_code.co_filename.startswith(self.files) else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.number + 1:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.act()
            assert self.lines < self.most, "the program runs on and on"
        return self._held[1]


def interrupt() -> None:
    """What Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


@contextmanager
def ctrl_c_works() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, even if the tests run where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def no_chance() -> Iterator[None]:
    """Have trio run the tasks of each program in the same order every time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{TRIO}._r", random.Random(0))
        patch.setattr(f"{TRIO}._ALLOW_DETERMINISTIC_SCHEDULING", True)
        yield
