"""Who may do what: what the bus asks before anything happens, and rules that can answer."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, Protocol, TypeAlias, final

import attrs

from .pattern import Pattern, cover_together

_MAX_STEPS: Final = 100_000
"""Steps before an answer is no: a tenth of a second at most. Thoughtful rules take hundreds."""


class Action(enum.StrEnum):
    """What a policy is asked about. The values are the permission names of the original."""

    SUBSCRIBE = "events.subscribe"
    """Subscribing; the system is a pattern."""

    SEND = "events.send"
    """Sending; the system is a name."""


class Policy(Protocol):
    """Decides who may send to a system and who may subscribe to it.

    A policy is asked once a `subscribe`, and once a `send`; but if it has an attribute `stable`
    that is true, its answers are taken to be always the same, and allowed sends are remembered.
    """

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


def _parse(text: str) -> Pattern:
    return Pattern.parse(text)


@final
@attrs.frozen
class Allow:
    """A rule: actors that match may do this to systems that match, unless a `Deny` says no.

    Raises:
      ValueError: If `action` is not an `Action`.
      InvalidPatternError: If one of the texts is not a pattern.
    """

    action: Action = attrs.field(converter=Action)
    """What is allowed."""

    system_pattern: Pattern = attrs.field(converter=_parse)
    """The systems to which it may be done."""

    actor: Pattern = attrs.field(default="**", converter=_parse)  # type: ignore[assignment]  # the converter makes it one
    """The actors who may do it."""


@final
@attrs.frozen
class Deny:
    """A rule: actors that match may never do this to systems that match.

    Raises:
      ValueError: If `action` is not an `Action`.
      InvalidPatternError: If one of the texts is not a pattern.
    """

    action: Action = attrs.field(converter=Action)
    """What is denied."""

    system_pattern: Pattern = attrs.field(converter=_parse)
    """The systems to which it must not be done."""

    actor: Pattern = attrs.field(default="**", converter=_parse)  # type: ignore[assignment]  # the converter makes it one
    """The actors who must not do it."""


Rule: TypeAlias = Allow | Deny


def _as_tuple(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(rules)


@final
@attrs.frozen
class RulePolicy:
    """A policy made of rules. Deny wins; what no rule allows is denied.

    A subscription is allowed exactly if every system that its pattern can match is allowed, by
    whatever rules together; and denied should that take too many steps to find out.

    Args:
      rules: `Allow` and `Deny` rules. Their order does not matter.
    """

    rules: tuple[Rule, ...] = attrs.field(converter=_as_tuple)
    """The rules."""

    stable: bool = attrs.field(default=True, init=False)
    """The same question always gets the same answer."""

    def allows(self, actor: str, action: Action, system: str) -> bool:
        """Whether the rules allow an actor to do this; see `Policy.allows`."""
        asked = Pattern.parse(system)  # a name is a pattern, too
        allowed = []
        for rule in self.rules:
            if rule.action is action and rule.actor.matches(actor):
                if isinstance(rule, Allow):
                    allowed.append(rule.system_pattern)
                elif rule.system_pattern.overlaps(asked):
                    return False
        return cover_together(allowed, asked, max_steps=_MAX_STEPS)
