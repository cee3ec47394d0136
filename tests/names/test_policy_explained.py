"""Rules: exact answers about sends, a budget for subscriptions, and reasons for refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_events import Action, Allow, Deny, Pattern, RulePolicy

from ..steps import count_lines
from .odd_texts import Liar, Member
from .reference import matches, names_up_to
from .strategies import examples, small_patterns

SEND, SUBSCRIBE = Action.SEND, Action.SUBSCRIBE

# ------------------------------------------------------------------------------------------ sends


def test_a_send_is_decided_exactly_among_any_number_of_rules() -> None:
    others: list[Allow | Deny] = [Allow(SEND, f"x{n}.**") for n in range(3_000)]
    others += [Deny(SEND, f"**.y{n}.**.(a|b|c)") for n in range(3_000)]
    policy = RulePolicy([*others, Allow(SEND, "orders.eu")])
    assert policy.allows("me", SEND, "orders.eu")
    assert policy.allows("me", SEND, "x2999.a")
    assert not policy.allows("me", SEND, "orders.us")
    assert not policy.allows("me", SEND, "x1.y7.a")


@examples(200)
@given(st.lists(st.tuples(st.booleans(), small_patterns(max_segments=3)), max_size=5))
def test_a_send_is_allowed_if_some_allow_matches_and_no_deny_does(
    texts: list[tuple[bool, str]],
) -> None:
    policy = RulePolicy([(Allow if yes else Deny)(SEND, text) for yes, text in texts])
    for name in names_up_to(3, ["a", "b", "$x"]):
        verdicts = {yes for yes, text in texts if matches(text, name)}
        assert policy.allows("me", SEND, name) is (verdicts == {True})


@pytest.mark.parametrize("system", ["", "orders.*", "a..b", "**", "(a|b)"])
def test_a_send_to_what_is_not_a_name_is_denied(system: str) -> None:
    assert not RulePolicy([Allow(SEND, "**"), Allow(SEND, "*.*")]).allows("me", SEND, system)


# --------------------------------------------------------------------------------------- the budget


def test_the_looks_at_deny_rules_have_a_budget_too() -> None:
    hard = ".".join(["**", "a"] * 7 + ["**", "b"])
    policy = RulePolicy([Allow(SUBSCRIBE, "**"), *[Deny(SUBSCRIBE, hard)] * 20_000])
    asked = ".".join(["**", "a"] * 7 + ["**", "c"])
    count_lines(lambda: policy.allows("me", SUBSCRIBE, asked), at_most=3_000_000)
    assert not policy.allows("me", SUBSCRIBE, asked)
    assert "too complex" in policy.explain("me", SUBSCRIBE, asked)


def test_rules_that_have_nothing_to_do_with_a_question_use_up_little_of_the_budget() -> None:
    rules: list[Allow | Deny] = [Deny(SUBSCRIBE, f"x{n}.**") for n in range(10_000)]
    rules += [Allow(SUBSCRIBE, f"y{n}.**") for n in range(10_000)]
    policy = RulePolicy([*rules, Allow(SUBSCRIBE, "orders.**")])
    wide = "|".join(f"{n:02}" for n in range(64))
    assert policy.allows("me", SUBSCRIBE, f"orders.({wide}).**")


# ---------------------------------------------------------------------------------------- reasons

POLICY = RulePolicy(
    [
        Allow(SEND, "orders.**", actor="shop.**"),
        Allow(SUBSCRIBE, "orders.**"),
        Allow(SUBSCRIBE, "users.*"),
        Deny(SEND, "*.secret"),
        Deny(SUBSCRIBE, "**.secret"),
    ]
)


@pytest.mark.parametrize(
    ("actor", "action", "system", "reason"),
    [
        ("shop", SEND, "orders.eu", "the rules allow it"),
        ("shop", SEND, "orders.secret", "denied by Deny('events.send', '*.secret', actor='**')"),
        ("me", SEND, "orders.eu", "no rule allows 'orders.eu'"),
        ("me", SUBSCRIBE, "users.*.x", "no rule allows 'users.xx.x'"),
        ("me", SUBSCRIBE, "(users|billing).x", "no rule allows 'billing.x'"),
        (
            "me",
            SUBSCRIBE,
            "orders.*",
            f"denied by {Deny(SUBSCRIBE, '**.secret')!r}, which matches 'orders.secret'",
        ),
    ],
)
def test_a_refusal_is_explained(actor: str, action: Action, system: str, reason: str) -> None:
    assert POLICY.explain(actor, action, system) == reason


@examples(200)
@given(
    st.lists(st.tuples(st.booleans(), small_patterns(max_segments=2)), max_size=4),
    small_patterns(max_segments=2),
)
def test_the_system_in_an_explanation_shows_that_the_refusal_is_right(
    texts: list[tuple[bool, str]], asked: str
) -> None:
    policy = RulePolicy([(Allow if yes else Deny)(SUBSCRIBE, text) for yes, text in texts])
    reason = policy.explain("me", SUBSCRIBE, asked)
    assert policy.allows("me", SUBSCRIBE, asked) is (reason == "the rules allow it")
    if reason != "the rules allow it":
        witness = reason.rsplit("'", 2)[1]
        assert Pattern.parse(asked).matches(witness)
        verdicts = {yes for yes, text in texts if matches(text, witness)}
        assert verdicts != {True}


# -------------------------------------------------------------------------------------- wrong rules


@pytest.mark.parametrize("rule", [Allow, Deny])
@pytest.mark.parametrize("action", ["send", "", None, 1, [], SEND.name])
def test_a_wrong_action_is_refused_with_the_values_there_are(
    rule: type[Allow] | type[Deny], action: Any
) -> None:
    with pytest.raises(ValueError, match=r"'events\.subscribe' or 'events\.send'"):
        rule(action, "a")


@pytest.mark.parametrize("wrong", [[("a", "b")], ["events.send"], [None], "rules", 5, None, Allow])
def test_an_object_that_is_not_a_list_of_rules_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Allow"):
        RulePolicy(wrong)


def test_a_single_rule_is_not_a_list_of_rules() -> None:
    rule: Any = Allow(SEND, "a")
    with pytest.raises(TypeError, match=r"rules must be Allow and Deny rules, not Allow\("):
        RulePolicy(rule)


@pytest.mark.parametrize("rule", [Allow(SEND, "(b|a).**.*"), Deny(SUBSCRIBE, "a", actor="me.*")])
def test_a_rule_shows_how_to_write_it(rule: Allow | Deny) -> None:
    assert eval(repr(rule)) == rule  # reading it back is the point
    assert repr(Deny(SEND, "secret")) == "Deny('events.send', 'secret', actor='**')"


# ------------------------------------------------------------------------- subclasses of str


def test_texts_of_any_subclass_of_str_are_accepted() -> None:
    rules = [Allow(SEND, Member.PATTERN, actor=Member.ACTOR), Allow(SUBSCRIBE, Liar("a"))]
    policy = RulePolicy(rules)
    assert policy.allows(Member.ACTOR, SEND, Liar("orders.eu"))
    assert not policy.allows(Liar("shops"), SEND, "orders.eu")
    assert policy.allows("me", SUBSCRIBE, Liar("a"))
    assert not policy.allows("me", SUBSCRIBE, Liar("secret"))
    action: Any = "events.subscribe"
    assert policy.allows("me", action, "a")
