"""What a subscription is asked for with, checked once and before anything has happened."""

from __future__ import annotations

from typing import final

import attrs

from ._overflow import Overflow, check_count
from ._pattern import Pattern, path_filter


@final
@attrs.frozen
class Terms:
    """Which events are wanted, and how many of them may wait to be read."""

    system: Pattern
    kind: Pattern | None
    path: str | Pattern | None
    """The one path that is wanted, or a pattern for it; None is every path."""

    max_buffer_size: int
    overflow: Overflow

    @staticmethod
    def of(
        system: str, kind: str | None, path: str | None, max_buffer_size: int, overflow: Overflow
    ) -> Terms:
        """Read the patterns, and refuse what is wrong.

        Raises:
          TypeError: If something is of the wrong type.
          ValueError: If `max_buffer_size` is less than 1.
          InvalidPatternError: If a text is not a pattern.
        """
        check_count("max_buffer_size", max_buffer_size)
        if not isinstance(overflow, Overflow):
            raise TypeError(f"overflow must be an Overflow, not {overflow!r}")
        return Terms(
            Pattern.parse(system),
            None if kind is None else Pattern.parse(kind),
            None if path is None else path_filter(path),
            max_buffer_size,
            overflow,
        )
