"""The line of the application that called the package."""

from __future__ import annotations

import sys
from types import FrameType

_OWN = (__package__, "contextlib")  # its exit stacks call this package's context managers


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
    return sys.intern(place)  # one string for all subscriptions from that line


def _package_of(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")  # code run by `exec` may have any object there
    return name.partition(".")[0] if isinstance(name, str) else ""
