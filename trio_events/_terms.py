"""The arguments of a subscription, validated before anything has happened."""

from __future__ import annotations

from typing import final

import attrs

from ._core.buffer import Overflow, check_count
from ._history import History, check_history
from ._names.interest import Interest
from ._names.pattern import ExactPath


def check_overflow(interest: Interest, overflow: Overflow) -> None:
    """Require that the bus's own events make no sender wait."""
    if overflow is Overflow.BLOCK and interest.includes_bus:
        raise ValueError(
            f"a subscription to {str(interest.system)!r} matches the bus's own events, which never "
            "wait: choose another overflow= than Overflow.BLOCK"
        )


@final
@attrs.frozen
class Terms:
    """The patterns and the buffer of a subscription."""

    interest: Interest
    max_buffer_size: int
    overflow: Overflow
    history: History | None = None
    """A history whose events come first."""

    @staticmethod
    def of(
        system: str,
        kind: str | None,
        path: str | ExactPath | None,
        max_buffer_size: int,
        overflow: Overflow,
        history: History | None = None,
    ) -> Terms:
        """Parse the patterns, and validate the rest.

        Raises:
          TypeError: If an argument has the wrong type.
          ValueError: If `max_buffer_size` is less than 1, the bus's own events would make senders
            wait, or `history` doesn't keep all of the events.
          InvalidPatternError: If a pattern isn't valid.
        """
        check_count("max_buffer_size", max_buffer_size)
        if not isinstance(overflow, Overflow):
            raise TypeError(f"overflow must be an Overflow, not {overflow!r}")
        interest = Interest.of(system, kind, path)
        check_overflow(interest, overflow)
        if history is not None:
            check_history(history, interest)
        return Terms(interest, max_buffer_size, overflow, history)
