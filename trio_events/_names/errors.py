"""The root of all errors, and those of names, patterns and permissions. Without trio."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar


class ErrorKind(enum.Enum):
    """What an `EventBusError` is about, for callers that decide by kind."""

    INVALID = "invalid"
    """The request itself is wrong or not allowed: change it."""

    UNAVAILABLE = "unavailable"
    """What was asked for cannot be had now, or no longer."""

    CONFLICT = "conflict"
    """The request contradicts what its own caller is doing."""


class EventBusError(Exception):
    """The root of all errors of this package.

    Args:
      message: What happened, naming the value and the rule.
      details: The same facts, for programs.
    """

    kind: ClassVar[ErrorKind]
    """What the error is about."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, with nothing changed by the caller."""

    details: Mapping[str, object]
    """The facts behind the message, by name. Which ones depends on the class."""

    def __init__(self, message: str, /, **details: object) -> None:
        super().__init__(message)
        self.details = details


class InvalidEventError(EventBusError, ValueError):
    """A send named a system, a kind or a path that no event can have.

    Details: `field`, `value`.
    """

    kind = ErrorKind.INVALID


class InvalidPatternError(EventBusError, ValueError):
    """A text is not a pattern.

    Details: `pattern`, `position`.
    """

    kind = ErrorKind.INVALID

    @property
    def position(self) -> int:
        """The index in the text of the character that is wrong."""
        position = self.details["position"]
        assert isinstance(position, int)
        return position


class PolicyDeniedError(EventBusError, PermissionError):
    """The bus's policy does not allow this. Nothing has happened.

    INVALID, as in the original: asking again gives the same answer.

    Details: `actor`, `action`, `system`.
    """

    kind = ErrorKind.INVALID
