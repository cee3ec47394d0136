"""Rules that decide exactly: against brute force, against the attacks, and on a bus."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from trio_events import (
    Action,
    Allow,
    Deny,
    InvalidPatternError,
    Pattern,
    PolicyDeniedError,
    RulePolicy,
    open_event_bus,
)
from trio_events._names.relations import Budget, BudgetExhaustedError, uncovered_name

from ..steps import count_lines
from .reference import matches, names_up_to
from .strategies import examples, small_patterns

# Letters that the patterns of `small_patterns` mention, one that they do not, and a reserved one.
NAMES = names_up_to(4, ["a", "b", "fresh", "$x"])

Texts = list[tuple[bool, str]]  # allowed or denied, and the system pattern
rule_texts = st.lists(st.tuples(st.booleans(), small_patterns(max_segments=2)), max_size=4)


def policy_of(texts: Texts, action: Action = Action.SUBSCRIBE) -> RulePolicy:
    return RulePolicy([Allow(action, text) if yes else Deny(action, text) for yes, text in texts])


def allowed_by_hand(texts: Texts, name: str) -> bool:
    """Deny wins; what no rule allows is denied."""
    verdicts = {yes for yes, pattern in texts if matches(pattern, name)}
    return verdicts == {True}


# Names of four segments tell all about patterns of two: each `**` may have to hold two segments
# of the rules, and there is a fresh letter to hide in.
@examples(300)
@given(rule_texts, small_patterns(max_segments=2))
@example([(True, "*"), (True, "*.*.**")], "**")
@example([(True, "**"), (False, "b")], "(a|b)")
def test_a_subscription_is_allowed_exactly_if_all_that_it_can_match_is(
    texts: Texts, asked: str
) -> None:
    by_hand = all(allowed_by_hand(texts, name) for name in NAMES if matches(asked, name))
    assert policy_of(texts).allows("anybody", Action.SUBSCRIBE, asked) == by_hand


@examples(300)
@given(rule_texts, st.sampled_from(NAMES))
def test_a_send_is_allowed_exactly_if_the_rules_say_so(texts: Texts, name: str) -> None:
    policy = policy_of(texts, Action.SEND)
    assert policy.allows("anybody", Action.SEND, name) == allowed_by_hand(texts, name)


def test_without_a_rule_everything_is_denied() -> None:
    assert not RulePolicy([]).allows("anybody", Action.SUBSCRIBE, "a")
    assert not RulePolicy([]).allows("anybody", Action.SEND, "a")


@pytest.mark.parametrize("attack", ["**", "(orders|secret)", "*.secret", "*", "secret.**", "**.x"])
def test_no_pattern_slips_past_a_rule_about_a_secret(attack: str) -> None:
    policy = RulePolicy(
        [
            Allow(Action.SUBSCRIBE, "**"),
            Deny(Action.SUBSCRIBE, "secret.**"),
            Deny(Action.SUBSCRIBE, "**.secret"),
        ]
    )
    assert not policy.allows("anybody", Action.SUBSCRIBE, attack)


def test_two_rules_may_allow_together_what_neither_covers_alone() -> None:
    policy = policy_of([(True, "orders"), (True, "users"), (True, "x.*"), (True, "x.*.*.**")])
    assert policy.allows("anybody", Action.SUBSCRIBE, "(orders|users)")
    assert policy.allows("anybody", Action.SUBSCRIBE, "x.*.**")
    assert not policy.allows("anybody", Action.SUBSCRIBE, "(orders|users|secret)")


def test_a_deny_inside_an_allow_leaves_the_rest_allowed() -> None:
    policy = policy_of([(True, "orders.**"), (False, "orders.internal.**")])
    assert policy.allows("anybody", Action.SUBSCRIBE, "orders.(eu|us).**")
    assert not policy.allows("anybody", Action.SUBSCRIBE, "orders.*")
    assert not policy.allows("anybody", Action.SUBSCRIBE, "orders.internal.x")


@pytest.mark.parametrize(
    ("actor", "allowed"), [("billing", True), ("billing.eu", True), ("sales", False)]
)
def test_rules_may_be_about_some_actors_only(actor: str, allowed: bool) -> None:
    policy = RulePolicy(
        [
            Allow(Action.SEND, "orders.*", actor="billing.**"),
            Allow(Action.SUBSCRIBE, "orders.*", actor="sales"),
        ]
    )
    assert policy.allows(actor, Action.SEND, "orders.eu") == allowed
    assert policy.allows(actor, Action.SUBSCRIBE, "orders.eu") == (actor == "sales")


def test_an_action_may_be_given_by_its_name() -> None:
    assert Allow("events.send", "a") == Allow(Action.SEND, "a")
    assert Allow(Action.SEND, "a").actor == Pattern.parse("**")
    assert Deny(Action.SEND, "a.*").system_pattern == Pattern.parse("a.*")


@pytest.mark.parametrize("rule", [Allow, Deny])
def test_a_rule_with_bad_input_is_refused(rule: type[Allow] | type[Deny]) -> None:
    with pytest.raises(InvalidPatternError):
        rule(Action.SEND, "a..b")
    with pytest.raises(InvalidPatternError):
        rule(Action.SEND, "a", actor="")
    with pytest.raises(ValueError, match="is not a valid Action"):
        rule("events.destroy", "a")
    with pytest.raises(TypeError):
        rule(Action.SEND, 1)  # type: ignore[arg-type]  # on purpose


def test_a_question_that_takes_too_many_steps_is_answered_by_no() -> None:
    # The rules have to remember which of the last 13 letters were an `a`: thousands of sets.
    rules = [Pattern.parse(f"**.{letter}{'.*' * 12}") for letter in "ab"]
    asked = Pattern.parse(".".join(["(a|b)"] * 15))
    assert uncovered_name(rules, asked) is None
    with pytest.raises(BudgetExhaustedError):
        uncovered_name(rules, asked, Budget(10_000))
    policy = RulePolicy([Allow(Action.SUBSCRIBE, str(pattern)) for pattern in rules])
    assert not policy.allows("anybody", Action.SUBSCRIBE, str(asked))
    count_lines(lambda: policy.allows("anybody", Action.SUBSCRIBE, str(asked)), at_most=2_000_000)


def test_the_budget_of_a_question_counts_all_its_work() -> None:
    choices = random.Random(0)
    tails = ["*", *(f"**.{letter}" for letter in "abcdefghi")]
    rules = [
        Allow(Action.SUBSCRIBE, ".".join(["**", letter, *choices.choices(tails, k=6)]))
        for letter in "abcdefghijkl"
        for _ in range(40)
    ]
    policy = RulePolicy([*rules, Allow(Action.SUBSCRIBE, "**")])
    asked = ".".join(["(a|b|c|d|e|f|g|h|i|j|k|l)"] * 16)
    count_lines(lambda: policy.allows("me", Action.SUBSCRIBE, asked), at_most=2_000_000)


async def test_a_bus_with_rules_refuses_and_allows() -> None:
    policy = RulePolicy(
        [
            Allow(Action.SEND, "orders.**", actor="shop"),
            Allow(Action.SUBSCRIBE, "orders.**"),
        ]
    )
    async with open_event_bus(policy=policy) as bus:
        shop = bus.for_actor("shop")
        subscription = await bus.subscribe("orders.*")
        with pytest.raises(PolicyDeniedError, match="'anybody'"):
            await bus.send("orders.eu", "k", "/x")
        with pytest.raises(PolicyDeniedError):
            await shop.subscribe("**")
        for path in ("/1", "/2"):
            await shop.send("orders.eu", "k", path)
            assert (await subscription.channel().receive()).path == path


class Counting:
    """A policy that allows everything, counts, and says what it is told about its stability."""

    def __init__(self, stable: bool) -> None:
        self.stable = stable
        self.asked: list[tuple[str, Action, str]] = []
        self.answer = True

    def allows(self, actor: str, action: Action, system: str) -> bool:
        self.asked.append((actor, action, system))
        return self.answer


async def test_a_stable_policy_is_asked_once_for_each_actor_and_system() -> None:
    policy = Counting(stable=True)
    async with open_event_bus(policy=policy) as bus:
        for actor in ("one", "two", "one"):
            for system in ("a", "b"):
                await bus.for_actor(actor).send(system, "k", "/x")
                bus.for_actor(actor).send_nowait(system, "l", "/x")
    assert sorted(policy.asked) == [
        (actor, Action.SEND, system) for actor in ("one", "two") for system in ("a", "b")
    ]


async def test_a_subscription_is_asked_about_each_time_however_stable() -> None:
    policy = Counting(stable=True)
    async with open_event_bus(policy=policy) as bus:
        for _ in range(3):
            await bus.subscribe("a")
    assert len(policy.asked) == 3


async def test_a_policy_may_change_its_mind() -> None:
    policy = Counting(stable=False)
    async with open_event_bus(policy=policy) as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/before")
        policy.answer = False
        with pytest.raises(PolicyDeniedError):
            await bus.send("a", "k", "/after")
        with pytest.raises(PolicyDeniedError):
            await bus.subscribe("a")
        bus.close()
        assert [event.path async for event in subscription] == ["/before"]
    assert len(policy.asked) == 4


async def test_a_stable_refusal_is_remembered_as_such() -> None:
    policy = Counting(stable=True)
    policy.answer = False
    async with open_event_bus(policy=policy) as bus:
        for _ in range(2):
            with pytest.raises(PolicyDeniedError):
                await bus.send("a", "k", "/x")
    assert len(policy.asked) == 1


async def test_what_is_remembered_of_a_stable_policy_is_bounded() -> None:
    policy = Counting(stable=True)
    async with open_event_bus(policy=policy) as bus:
        for number in range(10_000):
            bus.send_nowait(f"a.{number}", "k", "/x")
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
        for number in range(10_000):
            bus.send_nowait(f"a.{number}", "k", "/x")
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
    assert 15_904 <= len(policy.asked) <= 20_000  # at most 4096 of the first ones were remembered
