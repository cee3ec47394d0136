"""The parties that send and read: handlers and tasks, by their names."""

from __future__ import annotations

import contextlib
import sys
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, final

import trio

from .._bus import EventBus
from .._handlers.registration import name_of

ELSEWHERE: Final = "another thread"
"""The party that sends from a thread or a callback."""

acting: ContextVar[str | None] = ContextVar("trio_events.devtools.acting", default=None)
"""The handler that the running task belongs to."""

_OWN: Final = (str(Path(__file__).parent.parent), contextlib.__file__)
_TRIO: Final = str(Path(trio.__file__).parent)

# Where most events come from, and how many frames that is above `Lines.sending`.
_SEND: Final = EventBus.send.__code__
_TO_SEND: Final = 5

_MAX_LINES: Final = 10_000
"""How many lines are remembered."""


def short_name(name: str) -> str:
    """The name of a task or function, without its module and the functions around it."""
    name = name.removeprefix("trio_events handler ")
    if name.startswith("trio_events "):  # a part of a bridge, with its patterns
        return name.removeprefix("trio_events ")
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:end]) in sys.modules:
            parts = parts[end:]
            break
    return ".".join(parts).rpartition("<locals>.")[2]


def handler_name(handler: object) -> str:
    """The name of a handler."""
    return short_name(name_of(handler))


def party_of(task: trio.lowlevel.Task) -> str:
    """The party of a task: the handler that it belongs to, or else the task itself."""
    return task.context.get(acting) or short_name(task.name)


def running_task() -> trio.lowlevel.Task | None:
    """The running task, or None in a callback, which may come from another thread."""
    try:
        task = trio.lowlevel.current_task()
    except RuntimeError:
        return None
    return None if task.name == "<TrioToken.run_sync_soon task>" else task


@final
class Lines:
    """The lines of the application that call the bus, as `"file:line"`."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # By a code object's identity and the place in it: to find out the number is slow.
        self._known: dict[tuple[int, int], tuple[CodeType, str]] = {}

    def sending(self) -> str:
        """The line that is sending, for an instrument's `before_send`."""
        # Going from frame to frame makes an object of each.
        frame: FrameType | None = sys._getframe(_TO_SEND)
        if frame is None or frame.f_code is not _SEND:
            frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename.startswith(_OWN):
            frame = frame.f_back
        if frame is None or frame.f_code.co_filename.startswith(_TRIO):
            return "unknown"
        code, place = frame.f_code, frame.f_lasti
        known = self._known.get((id(code), place))
        if known is None or known[0] is not code:
            if len(self._known) >= _MAX_LINES:
                self._known.clear()
            known = code, f"{code.co_filename}:{frame.f_lineno}"
            self._known[id(code), place] = known
        return known[1]
