"""Permissions: the protocol of policies, and policies made of rules."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from functools import cached_property
from typing import Final, Protocol, TypeAlias, cast, final

import attrs

from .interest import Interest
from .pattern import Pattern, is_name, plain_text, shown, system_pattern
from .relations import Budget, BudgetExhaustedError, common_name, uncovered_name
from .routing import RoutingTable

_MAX_STEPS: Final = 100_000
"""Step budget for a subscription (about 0.1 s); when it is exhausted, access is denied.

Realistic rule sets need hundreds.
"""


class Action(enum.StrEnum):
    """An action that needs permission. The values are the names of the permissions."""

    SUBSCRIBE = "events.subscribe"
    """Subscribing; the system is a pattern."""

    SEND = "events.send"
    """Sending; the system is a name."""


class Policy(Protocol):
    """Decides who may send to a system and who may subscribe to it.

    The bus calls `allows` once for each `subscribe` and each `send`. If the policy has an attribute
    `stable` that is true, the same call must always return the same answer, and the bus caches the
    answers for sends.
    """

    def allows(self, actor: str, action: Action, system: str) -> bool:
        """Whether an actor may do this.

        The bus calls this before it does anything. If this raises, the caller of the bus gets the
        exception, and nothing has happened.

        Args:
          actor: The name under which the bus is used, see `EventBus.for_actor`.
          action: What the actor is about to do.
          system: For `Action.SEND` the system of the event. For `Action.SUBSCRIBE` the system
            pattern, in canonical form: allow it only if every name that it matches is allowed.
        """
        ...


def _action(value: str) -> Action:
    try:
        return Action(value)
    except ValueError:
        values = " or ".join(repr(action.value) for action in Action)
        raise ValueError(f"{shown(value)} is not a valid Action: use {values}") from None


def _system(text: str) -> Pattern:
    return system_pattern(text)


def _actor(text: str) -> Pattern:
    return Pattern.parse(text)


@final
@attrs.frozen(repr=False)
class Allow:
    """A rule that allows matching actors an action on matching systems, unless a `Deny` matches.

    Raises:
      ValueError: If `action` isn't an `Action` or the value of one.
      InvalidPatternError: If one of the texts isn't a pattern, or the system begins with `/`.
    """

    action: Action = attrs.field(converter=_action)
    """The action that is allowed."""

    system_pattern: Pattern = attrs.field(converter=_system)
    """The systems that it is allowed on."""

    actor: Pattern = attrs.field(default="**", converter=_actor)  # type: ignore[assignment]  # the converter makes it one
    """The actors that it is allowed to."""

    def __repr__(self) -> str:
        return _rule_text(self)


@final
@attrs.frozen(repr=False)
class Deny:
    """A rule that denies matching actors an action on matching systems.

    Raises:
      ValueError: If `action` isn't an `Action` or the value of one.
      InvalidPatternError: If one of the texts isn't a pattern, or the system begins with `/`.
    """

    action: Action = attrs.field(converter=_action)
    """The action that is denied."""

    system_pattern: Pattern = attrs.field(converter=_system)
    """The systems that it is denied on."""

    actor: Pattern = attrs.field(default="**", converter=_actor)  # type: ignore[assignment]  # the converter makes it one
    """The actors that it is denied to."""

    def __repr__(self) -> str:
        return _rule_text(self)


Rule: TypeAlias = Allow | Deny


def _rule_text(rule: Rule) -> str:
    action, system, actor = rule.action.value, str(rule.system_pattern), str(rule.actor)
    return f"{type(rule).__name__}({action!r}, {system!r}, actor={actor!r})"


def _as_tuple(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    checked: tuple[object, ...]
    try:
        checked = tuple(rules)
    except TypeError:
        raise TypeError(f"rules must be Allow and Deny rules, not {shown(rules)}") from None
    for rule in checked:
        if not isinstance(rule, Allow | Deny):
            raise TypeError(f"a rule must be an Allow or a Deny, not {shown(rule)}")
    return cast("tuple[Rule, ...]", checked)


@final
@attrs.frozen
class RulePolicy:
    """A policy made of rules. Deny wins; what no rule allows is denied.

    A send is allowed if an `Allow` rule matches the system and no `Deny` rule does. A subscription
    is allowed if the rules allow every system that its pattern can match. If that can't be decided
    within a fixed budget of steps, it is denied.

    Checking a send looks only at matching rules. The answers never change (`stable`), so the bus
    caches those for sends, and asks once for each actor and system.

    Args:
      rules: `Allow` and `Deny` rules. Their order doesn't matter.

    Raises:
      TypeError: If one of them is neither an `Allow` nor a `Deny`.
    """

    rules: tuple[Rule, ...] = attrs.field(converter=_as_tuple)
    """The rules."""

    stable: bool = attrs.field(default=True, init=False)
    """The same question always gets the same answer."""

    def allows(self, actor: str, action: Action, system: str) -> bool:
        """Whether the rules allow an actor to do this; see `Policy.allows`."""
        return self._refusal(actor, action, system) is None

    def explain(self, actor: str, action: Action, system: str) -> str:
        """Why the rules deny this, in a short phrase: which rule denies it, or that none allows it.

        For a subscription, the phrase names a system that the pattern matches and that is denied.
        The arguments and the cost are those of `allows`.
        """
        return self._refusal(actor, action, system) or "the rules allow it"

    def _refusal(self, actor: str, action: Action, system: str) -> str | None:
        system = plain_text(system, "system")
        if action == Action.SEND:
            return self._refusal_of_a_send(plain_text(actor, "a name"), system)
        rules = [rule for rule in self.rules if rule.action == action and rule.actor.matches(actor)]
        try:
            return _refusal_of_a_subscription(rules, Pattern.parse(system), Budget(_MAX_STEPS))
        except BudgetExhaustedError:
            return f"the rules are too complex to decide about {system!r} within {_MAX_STEPS} steps"

    @cached_property
    def _about_sends(self) -> RoutingTable[int]:
        """The indices of the rules about sends, found by system and actor."""
        table: RoutingTable[int] = RoutingTable()
        for place, rule in enumerate(self.rules):
            if rule.action == Action.SEND:
                table.add(place, Interest(rule.system_pattern, rule.actor))
        return table

    def _refusal_of_a_send(self, actor: str, name: str) -> str | None:
        places: tuple[int, ...] = ()
        if is_name(actor) and is_name(name):
            places = self._about_sends.peek(name, actor).items
        for rule in map(self.rules.__getitem__, places):
            if isinstance(rule, Deny):
                return f"denied by {rule!r}"
        return None if places else f"no rule allows {name!r}"


def _refusal_of_a_subscription(rules: Iterable[Rule], asked: Pattern, budget: Budget) -> str | None:
    allowed = []
    for rule in rules:
        common = common_name(rule.system_pattern, asked, budget)
        if common is not None:
            if isinstance(rule, Deny):
                return f"denied by {rule!r}, which matches {common!r}"
            allowed.append(rule.system_pattern)
    missing = uncovered_name(allowed, asked, budget)
    return None if missing is None else f"no rule allows {missing!r}"
