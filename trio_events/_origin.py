"""The line of the application that called the package."""

from __future__ import annotations

import sys
from types import FrameType

_OWN = (__package__, "contextlib")  # whose exit stacks enter and leave what is asked for


def caller() -> str:
    """The file and line of the innermost frame outside this package, as `"file:line"`.

    It is `"unknown"` if trio called directly, as for `nursery.start_soon(bus.subscribe, ...)` or
    from a thread, because then there is no frame of the application.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package_of(frame) in _OWN:
        frame = frame.f_back
    if frame is None or _package_of(frame) == "trio":
        return "unknown"
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return sys.intern(place)  # one text for all subscriptions that come from there


def _package_of(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")  # code that was given to `exec` may have anything there
    return name.partition(".")[0] if isinstance(name, str) else ""
