"""What a subscription is asked for with, checked once and before anything has happened."""

from __future__ import annotations

from typing import final

import attrs

from ._names.pattern import ExactPath, Pattern, path_filter, system_pattern
from ._overflow import Overflow, check_count


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
        system: str,
        kind: str | None,
        path: str | ExactPath | None,
        max_buffer_size: int,
        overflow: Overflow,
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
            system_pattern(system),
            None if kind is None else Pattern.parse(kind),
            None if path is None else path_filter(path),
            max_buffer_size,
            overflow,
        )


def check_class(data: object) -> None:
    """Refuse what no data can be checked against: all but the classes that `isinstance` takes.

    Raises:
      TypeError: If it is something else, such as a `TypedDict`.
    """
    checkable = isinstance(data, type)
    try:
        isinstance(None, data)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        checkable = False
    if not checkable:
        raise TypeError(f"to check the data, it must be given as a class, not {data!r}")
