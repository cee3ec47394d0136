"""Count the lines of Python that something runs, so that "never exponential" can be tested.

The count does not depend on the machine, and a runaway algorithm fails at once instead of hanging.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class TooManyStepsError(AssertionError):
    """More lines were run than allowed."""


def count_lines(function: Callable[[], object], *, at_most: int) -> int:
    """Run `function` and return how many lines of Python that took.

    Loops inside a function written in C (a sort, a set union, a regular expression) count as one.

    Raises:
        TooManyStepsError: As soon as it has run more than `at_most` lines.
    """
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines > at_most:
                raise TooManyStepsError(f"more than {at_most} lines run, in {frame.f_code.co_name}")
        return trace

    before = sys.gettrace()  # that of a coverage tool, perhaps
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines
