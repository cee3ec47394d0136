"""The bus asks its policy, with the right words, before anything has happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    ErrorKind,
    EventBus,
    EventBusStatistics,
    InvalidEventError,
    InvalidPatternError,
    Policy,
    PolicyDeniedError,
    RulePolicy,
    open_event_bus,
)

from ..observing import assert_books, drain, tasks_living


@attrs.define
class Recording:
    """A policy that allows or refuses everything, or raises, and notes what it was asked."""

    answer: bool | BaseException = True
    questions: list[tuple[str, Action, str]] = attrs.field(factory=list)
    when_asked: Callable[[], None] = lambda: None

    def allows(self, actor: str, action: Action, system: str) -> bool:
        self.questions.append((actor, action, system))
        self.when_asked()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class OnlyOwnSystem:
    """A policy that lets every actor send to and subscribe to the system of its name."""

    def allows(self, actor: str, action: Action, system: str) -> bool:
        return system == actor


class ClosingPolicy:
    """Closes the bus when it is asked about one action, and allows everything."""

    def __init__(self, on: Action) -> None:
        self.on = on
        self.bus: EventBus | None = None

    def allows(self, actor: str, action: Action, system: str) -> bool:
        if action is self.on and self.bus is not None:
            self.bus.close()
        return True


class Liar(str):
    """A text that says that it is another one."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash("public")

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


async def do_send(bus: EventBus) -> object:
    await bus.send("a.b", "k.l", "/x", "data")
    return None


async def do_send_nowait(bus: EventBus) -> object:
    bus.send_nowait("a.b", "k.l", "/x", "data")
    return None


async def do_subscribe(bus: EventBus) -> object:
    return await bus.subscribe("a.*", "k")


QUESTIONS: list[tuple[Callable[[EventBus], Awaitable[object]], Action, str]] = [
    (do_send, Action.SEND, "a.b"),
    (do_send_nowait, Action.SEND, "a.b"),
    (do_subscribe, Action.SUBSCRIBE, "a.*"),
]

each_operation = pytest.mark.parametrize(("act", "action", "system"), QUESTIONS)


def test_actions_are_the_permission_names_of_the_original() -> None:
    assert {action.name: action.value for action in Action} == {
        "SUBSCRIBE": "events.subscribe",
        "SEND": "events.send",
    }


@each_operation
async def test_the_policy_is_asked_once_about_actor_action_and_system(
    act: Callable[[EventBus], Awaitable[object]],
    action: Action,
    system: str,
    autojump_clock: MockClock,
) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        await act(bus)
        assert policy.questions == [("anybody", action, system)]
        [(actor, asked, about)] = policy.questions
        assert type(actor) is type(about) is str
        assert asked is action


async def test_the_policy_sees_the_canonical_pattern(autojump_clock: MockClock) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        subscription = await bus.subscribe("(b|a|b).**.**.(c)", "k")
        assert policy.questions == [("anybody", Action.SUBSCRIBE, subscription.system)]


async def test_the_policy_sees_the_name_of_the_actor(autojump_clock: MockClock) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        billing = bus.for_actor("billing")
        await billing.send("a", "k", "/x")
        await billing.for_actor("audit.log").subscribe("a")
        await bus.send("a", "k", "/x")
        assert [actor for actor, *_ in policy.questions] == ["billing", "audit.log", "anybody"]


async def test_the_ambient_form_asks_the_same_policy(autojump_clock: MockClock) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy):
        await events.subscribe("a")
        await events.send("a", "k", "/x")
        assert policy.questions == [
            ("anybody", Action.SUBSCRIBE, "a"),
            ("anybody", Action.SEND, "a"),
        ]


async def test_reading_and_closing_are_not_asked_about(autojump_clock: MockClock) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        subscription = await bus.subscribe("a")
        await bus.send("a", "k", "/x")
        asked = len(policy.questions)
        await subscription.channel().receive()
        subscription.close()
        bus.close()
        assert len(policy.questions) == asked


@each_operation
async def test_a_refusal_names_actor_action_and_system_and_nothing_has_happened(
    act: Callable[[EventBus], Awaitable[object]],
    action: Action,
    system: str,
    autojump_clock: MockClock,
) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        witness = await bus.subscribe("**")
        await wait_all_tasks_blocked()
        before = (bus.statistics(), tasks_living())
        policy.answer = False
        for _ in range(2):  # and it's persistent
            with pytest.raises(PolicyDeniedError) as caught:
                await act(bus.for_actor("mallory"))
        error = caught.value
        assert isinstance(error, PermissionError)
        assert (error.kind, error.retryable) == (ErrorKind.INVALID, False)
        for word in ("mallory", action.value, system):
            assert word in str(error)
            assert word in error.details.values()
        await wait_all_tasks_blocked()
        assert (bus.statistics(), tasks_living()) == before
        assert_books(witness)
        policy.answer = True
        await act(bus)


@each_operation
@pytest.mark.parametrize("error", [KeyError("policy"), SystemExit("policy")])
async def test_what_the_policy_raises_reaches_the_caller_and_nothing_has_happened(
    act: Callable[[EventBus], Awaitable[object]],
    action: Action,
    system: str,
    error: BaseException,
    autojump_clock: MockClock,
) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        witness = await bus.subscribe("**")
        await wait_all_tasks_blocked()
        before = (bus.statistics(), tasks_living())
        policy.answer = error
        with pytest.raises(type(error)) as caught:
            await act(bus)
        assert caught.value is error
        await wait_all_tasks_blocked()
        assert (bus.statistics(), tasks_living()) == before
        assert_books(witness)
        policy.answer = True
        await act(bus)
        await bus.send("still", "works", "/y")
        await wait_all_tasks_blocked()
        assert drain(witness.channel())[-1] == "/y"


@each_operation
async def test_the_policy_is_asked_before_anything_has_happened(
    act: Callable[[EventBus], Awaitable[object]],
    action: Action,
    system: str,
    autojump_clock: MockClock,
) -> None:
    seen: list[EventBusStatistics] = []
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        before = bus.statistics()
        policy.when_asked = lambda: seen.append(bus.statistics())
        await act(bus)
        assert seen == [before]


async def test_a_refused_send_does_not_wait_for_a_full_subscription(
    autojump_clock: MockClock,
) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy) as bus:
        subscription = await bus.subscribe("**", max_buffer_size=1)
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        policy.answer = False
        with trio.fail_after(1), pytest.raises(PolicyDeniedError):
            await bus.send("a", "k", "/x")
        with pytest.raises(PolicyDeniedError):
            bus.send_nowait("a", "k", "/x")
        assert_books(subscription, queued=1)


async def test_a_refused_send_does_not_wait_for_a_full_inbox(autojump_clock: MockClock) -> None:
    policy = Recording()
    async with open_event_bus(policy=policy, inbox_size=1) as bus:
        bus.send_nowait("a", "k", "/x")
        policy.answer = False
        with pytest.raises(PolicyDeniedError):
            await bus.send("a", "k", "/x")
        assert bus.statistics().accepted == 1


async def test_the_policy_is_not_asked_about_an_invalid_name_or_pattern(
    autojump_clock: MockClock,
) -> None:
    policy = Recording(answer=False)
    async with open_event_bus(policy=policy) as bus:
        with pytest.raises(InvalidEventError):
            await bus.send("a.*", "k", "/x")
        with pytest.raises(InvalidPatternError):
            await bus.subscribe("a.")
        assert policy.questions == []


async def test_a_policy_may_treat_actors_differently(autojump_clock: MockClock) -> None:
    async with open_event_bus(policy=OnlyOwnSystem()) as bus:
        billing, audit = bus.for_actor("billing"), bus.for_actor("audit")
        subscription = await billing.subscribe("billing")
        with pytest.raises(PolicyDeniedError):
            await audit.subscribe("billing")
        with pytest.raises(PolicyDeniedError):
            await audit.send("billing", "k", "/forged")
        with pytest.raises(PolicyDeniedError):
            await bus.send("billing", "k", "/forged")
        await billing.send("billing", "k", "/1")
        assert (await subscription.channel().receive()).path == "/1"


async def test_a_str_that_lies_about_equality_slips_past_no_rule(
    autojump_clock: MockClock,
) -> None:
    rules = [Allow(Action.SEND, "public"), Allow(Action.SUBSCRIBE, "**")]
    async with open_event_bus(policy=RulePolicy(rules)) as bus:
        await bus.subscribe("**")
        await bus.send("public", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(PolicyDeniedError):
            await bus.send(Liar("secret"), "k", "/2")


async def test_what_a_policy_allowed_while_stable_is_asked_again_when_it_no_longer_is(
    autojump_clock: MockClock,
) -> None:
    class Policy:
        stable = True
        answer = True

        def allows(self, actor: str, action: Action, system: str) -> bool:
            return self.answer

    policy = Policy()
    async with open_event_bus(policy=policy) as bus:
        await bus.send("a", "k", "/x")
        policy.stable = policy.answer = False
        with pytest.raises(PolicyDeniedError):
            await bus.send("a", "k", "/x")


async def test_a_stable_policy_is_asked_once_even_if_it_denies(
    autojump_clock: MockClock,
) -> None:
    asked: list[str] = []

    class Policy:
        stable = True

        def allows(self, actor: str, action: Action, system: str) -> bool:
            asked.append(system)
            return False

    async with open_event_bus(policy=Policy()) as bus:
        for _ in range(2):
            with pytest.raises(PolicyDeniedError):
                await bus.send("a", "k", "/x")
    assert asked == ["a"]


@pytest.mark.filterwarnings("ignore:coroutine")
async def test_a_policy_that_answers_by_anything_but_a_bool_allows_nothing(
    autojump_clock: MockClock,
) -> None:
    class Policy:
        async def allows(self, actor: str, action: Action, system: str) -> bool:
            return False

    async with open_event_bus(policy=Policy()) as bus:  # type: ignore[arg-type]  # on purpose
        with pytest.raises((PolicyDeniedError, TypeError)):
            await bus.send("secret", "k", "/x")


async def test_a_policy_that_closes_the_bus_at_a_subscribe_leaves_no_task(
    autojump_clock: MockClock,
) -> None:
    policy = ClosingPolicy(Action.SUBSCRIBE)
    before = tasks_living()
    with trio.move_on_after(1) as scope:
        async with open_event_bus(policy=policy) as policy.bus:
            with pytest.raises(trio.ClosedResourceError):
                await policy.bus.subscribe("a")
    assert not scope.cancelled_caught, "the block of the bus was never left"
    assert tasks_living() == before


@pytest.mark.parametrize("action", Action)
async def test_a_policy_that_closes_the_bus_makes_the_caller_get_bus_closed(
    action: Action, autojump_clock: MockClock
) -> None:
    policy = ClosingPolicy(action)
    with trio.move_on_after(1):
        async with open_event_bus(policy=policy) as policy.bus:
            with pytest.raises(BusClosedError):
                if action is Action.SEND:
                    await policy.bus.send("a", "k", "/x")
                else:
                    await policy.bus.subscribe("a")


async def test_a_bus_for_an_actor_is_the_same_bus(autojump_clock: MockClock) -> None:
    async with open_event_bus(max_subscriptions=1) as bus:
        billing = bus.for_actor("billing")
        subscription = await billing.subscribe("a")
        assert billing.statistics() == bus.statistics()
        await bus.send("a", "k", "/1")
        await billing.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        assert drain(subscription.channel()) == ["/1", "/2"]
        with pytest.raises(events.SubscriptionLimitError):
            await bus.subscribe("a")
        billing.close()
        with pytest.raises(events.BusClosedError):
            await bus.send("a", "k", "/3")


async def test_without_a_policy_everything_is_allowed(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        for actor in ("anybody", "billing"):
            subscription = await bus.for_actor(actor).subscribe("**")
            await bus.for_actor(actor).send("secret", "k", f"/{actor}")
            assert (await subscription.channel().receive()).path == f"/{actor}"


def test_anything_with_the_right_method_is_a_policy() -> None:
    policy: Policy = Recording()
    assert policy.allows("anybody", Action.SEND, "a") is True
    other: Policy = OnlyOwnSystem()
    assert other.allows("a", Action.SEND, "b") is False
