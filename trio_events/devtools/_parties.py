"""Who sends and who reads: handlers and tasks, by their names."""

from __future__ import annotations

import contextlib
import sys
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Final

import trio

from .._handlers.registration import name_of

ELSEWHERE: Final = "another thread"
"""Who sends from a thread or a callback."""

acting: ContextVar[str | None] = ContextVar("trio_events.devtools.acting", default=None)
"""The handler that the running task belongs to."""

# By the names of files, which is the fast way: every send asks.
_OWN: Final = (str(Path(__file__).parent.parent), contextlib.__file__)
_TRIO: Final = str(Path(trio.__file__).parent)


def short_name(name: str) -> str:
    """The name of a task or function, without its module and the functions around it."""
    parts = name.removeprefix("trio_events handler ").split(".")
    for end in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:end]) in sys.modules:
            parts = parts[end:]
            break
    return ".".join(parts).rpartition("<locals>.")[2]


def handler_name(handler: object) -> str:
    """What to call a handler."""
    return short_name(name_of(handler))


def party_of(task: trio.lowlevel.Task) -> str:
    """For whom a task acts: the handler that it belongs to, or else itself."""
    return task.context.get(acting) or short_name(task.name)


def sending_line() -> str:
    """The line of the application that calls the bus, as `"file:line"`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_TRIO):
        return "unknown"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
