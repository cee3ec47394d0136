"""Who may do what: what the bus asks before anything happens."""

from __future__ import annotations

import enum
from typing import Protocol


class Action(enum.StrEnum):
    """What a policy is asked about. The values are the permission names of the original."""

    SUBSCRIBE = "events.subscribe"
    """Subscribing; the system is a pattern."""

    SEND = "events.send"
    """Sending; the system is a name."""


class Policy(Protocol):
    """Decides who may send to a system and who may subscribe to it."""

    def allows(self, actor: str, action: Action, system: str) -> bool:
        """Whether an actor may do this.

        Called before anything has happened; an exception from here reaches the caller of the
        bus, and nothing has happened either.

        Args:
          actor: The name under which the bus is used, see `EventBus.for_actor`.
          action: What the actor is about to do.
          system: For `Action.SEND` the system of the event. For `Action.SUBSCRIBE` the system
            pattern, in canonical form: allow it only if every name that it matches is allowed.
        """
        ...
