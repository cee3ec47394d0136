"""The events that a subscription matches: patterns for system and kind, a filter for paths."""

from __future__ import annotations

from typing import Final, final

import attrs

from .pattern import (
    MANY,
    ExactPath,
    Pattern,
    is_plain_path,
    path_filter,
    plain_text,
    system_pattern,
)

_EVERY_NAME: Final = Pattern.parse(MANY)
_EVERY_PATH: Final = Pattern._of(MANY, "/")

BUS: Final = "$bus"
"""The system of the bus's own events."""


@final
@attrs.frozen
class Interest:
    """Patterns for events. Hashable; equal if all three parts are. Make one with `of`."""

    system: Pattern
    """The pattern for systems."""

    kind: Pattern | None = None
    """The pattern for kinds; None matches every kind."""

    path: str | Pattern | None = None
    """The filter for paths: a `str` is one exact path, None matches every path."""

    @staticmethod
    def of(system: str, kind: str | None = None, path: str | ExactPath | None = None) -> Interest:
        """Read the texts of a subscription.

        Args:
          system: A pattern for the system.
          kind: A pattern for the kind, or None.
          path: One path, a pattern of paths, an `ExactPath`, or None.

        Raises:
          TypeError: If one of them has the wrong type.
          InvalidPatternError: If one of them isn't a pattern, or the system begins with `/`.
        """
        return Interest(
            system_pattern(system),
            None if kind is None else Pattern.parse(kind),
            None if path is None else path_filter(path),
        )

    def matches(self, system: str, kind: str, path: str) -> bool:
        """Whether an event of this system, kind and path matches."""
        path = plain_text(path, "path")
        return (
            self.system.matches(system)
            and (self.kind is None or self.kind.matches(kind))
            and self.matches_path(path)
        )

    def matches_path(self, path: str) -> bool:
        """Whether an event of this path matches, if its system and kind do."""
        if self.path is None:
            return bool(path)
        return self.path == path if isinstance(self.path, str) else self.path.matches(path)

    def matches_names(self, system: str, kind: str) -> bool:
        """Whether an event of this system and kind matches, if its path does.

        Only for names that have been validated; validating them again takes as long as matching.
        """
        return self.system._matches_checked(system) and (
            self.kind is None or self.kind._matches_checked(kind)
        )

    @property
    def includes_bus(self) -> bool:
        """Whether this matches some of the bus's own events."""
        return BUS in self.system._text and self.system._matches_checked(BUS)

    def covers(self, other: Interest) -> bool:
        """Whether this matches every event that the other one matches.

        Exact. Takes as long as `Pattern.covers`.
        """
        return self == other or (
            self.system.covers(other.system)
            and (self.kind is None or self.kind.covers(other.kind or _EVERY_NAME))
            and self._covers_path(other.path)
        )

    def _covers_path(self, path: str | Pattern | None) -> bool:
        if isinstance(path, str):
            return self.matches_path(path)
        if isinstance(self.path, Pattern):
            return self.path.covers(path or _EVERY_PATH)
        return self.path is None  # one path doesn't cover a pattern

    def __str__(self) -> str:
        """The patterns in canonical form, such as `'orders.*' kind='x' path='/a'`."""
        kind = "" if self.kind is None else f" kind={str(self.kind)!r}"
        path = "" if self.path is None else f" path={_path_text(self.path)}"
        return f"{str(self.system)!r}{kind}{path}"


def _path_text(path: str | Pattern) -> str:
    if isinstance(path, str) and not is_plain_path(path):
        return f"ExactPath({path!r})"  # or it would look like the pattern
    return repr(str(path))
