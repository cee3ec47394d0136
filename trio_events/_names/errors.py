"""The base class of all errors, and the errors of names, patterns and permissions.

This module doesn't need trio.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import ClassVar


class ErrorKind(enum.Enum):
    """The category of an `EventBusError`, for callers that decide by category."""

    INVALID = "invalid"
    """The call itself is wrong or not allowed. Change it: the same call fails again."""

    UNAVAILABLE = "unavailable"
    """It isn't possible now, or is no longer possible."""

    CONFLICT = "conflict"
    """The call contradicts what its own caller is doing."""


class EventBusError(Exception):
    """The base class of all errors of this package.

    Args:
      message: What happened, with the value and the rule.
      details: The same facts by name, for programs.
    """

    kind: ClassVar[ErrorKind]
    """The category of the error."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, without a change by the caller."""

    details: Mapping[str, object]
    """The facts in the message, by name. Their names depend on the class."""

    def __init__(self, message: str, /, **details: object) -> None:
        super().__init__(message)
        self.details = details


class InvalidEventError(EventBusError, ValueError):
    """The system, kind or path passed to `send` isn't valid.

    Details: `field`, `value`.
    """

    kind = ErrorKind.INVALID


class InvalidPatternError(EventBusError, ValueError):
    """A text isn't a valid pattern.

    Details: `pattern`, `position`.
    """

    kind = ErrorKind.INVALID

    @property
    def position(self) -> int:
        """The index of the offending character in the text."""
        position = self.details["position"]
        assert isinstance(position, int)
        return position


class PolicyDeniedError(EventBusError, PermissionError):
    """The policy of the bus doesn't allow this. Nothing has happened.

    Its kind is `INVALID`, because the same call fails again.

    Details: `actor`, `action`, `system`.
    """

    kind = ErrorKind.INVALID
