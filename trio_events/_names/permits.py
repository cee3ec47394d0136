"""Checking permissions, with a cache for the answers of a stable policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from .errors import PolicyDeniedError
from .policy import Action, Policy

_MAX_REMEMBERED: Final = 4096


@final
class Permits:
    """Asks the policy of a bus on behalf of one actor.

    The policy may use the bus while it decides. So ask it before anything has happened, and check
    afterwards that the state hasn't changed.

    Args:
      policy: The policy; None allows everything.
      actor: The name of the actor, a plain string.
    """

    __slots__ = ("_answers", "actor", "on_denied", "policy")

    def __init__(
        self,
        policy: Policy | None,
        actor: str,
        answers: dict[tuple[str, str], bool] | None = None,
    ) -> None:
        self.policy = policy
        self.actor = actor
        self.on_denied: Callable[[str, Action, str], None] = lambda actor, action, system: None
        """Called before an error is raised: with actor, action and system."""
        # The answers of a stable policy: whether each actor may send to each system.
        self._answers = {} if answers is None else answers

    def for_actor(self, actor: str) -> Permits:
        """The same permits for another actor."""
        permits = Permits(self.policy, actor, self._answers)
        permits.on_denied = self.on_denied
        return permits

    def check_send(self, system: str) -> None:
        """Require that the actor may send to a system.

        Raises:
          PolicyDeniedError: If it may not.
        """
        if self.policy is None:
            return
        stable = getattr(self.policy, "stable", False)
        allowed = self._answers.get((self.actor, system)) if stable else None
        if allowed is None:
            allowed = self._ask(Action.SEND, system)
            if stable:
                if len(self._answers) >= _MAX_REMEMBERED:
                    self._answers.clear()
                self._answers[self.actor, system] = allowed
        if not allowed:
            raise self._denied(Action.SEND, system)

    def check_subscribe(self, system_pattern: str) -> None:
        """Require that the actor may subscribe to all systems that a canonical pattern matches.

        Raises:
          PolicyDeniedError: If it may not.
        """
        if not self._ask(Action.SUBSCRIBE, system_pattern):
            raise self._denied(Action.SUBSCRIBE, system_pattern)

    def _ask(self, action: Action, system: str) -> bool:
        if self.policy is None:
            return True
        allowed: object = self.policy.allows(self.actor, action, system)
        if not isinstance(allowed, bool):  # a coroutine is true, too
            raise TypeError(f"Policy.allows must return a bool, not {allowed!r}")
        return allowed

    def _denied(self, action: Action, system: str) -> PolicyDeniedError:
        self.on_denied(self.actor, action, system)
        verb = "send to" if action is Action.SEND else "subscribe to"
        explain = getattr(self.policy, "explain", None)
        reason = f": {explain(self.actor, action, system)}" if callable(explain) else ""
        return PolicyDeniedError(
            f"actor {self.actor!r} may not {verb} {system!r} ({action}){reason}",
            actor=self.actor,
            action=action,
            system=system,
        )
