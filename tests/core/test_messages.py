"""What an error says after a common mistake: what was wrong, and what to write instead."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    BusClosedError,
    Deny,
    Event,
    EventBus,
    HandlerSet,
    NoBusError,
    Pattern,
    PolicyDeniedError,
    RulePolicy,
    open_event_bus,
)
from trio_events.testing import record

from ..handlers.handling import Recorder


def test_asyncio_is_distinguished_from_trio() -> None:
    async def main() -> None:
        async with open_event_bus():
            pass

    with pytest.raises(NoBusError, match=r"trio\.run\(main\), not asyncio\.run"):
        asyncio.run(main())


def test_a_bus_opened_outside_any_run_says_what_it_needs() -> None:
    manager = open_event_bus()
    with pytest.raises(NoBusError, match=r"trio\.run"):
        manager.__aenter__().send(None)


@pytest.mark.parametrize(
    "name", ["send", "subscribe", "on", "close", "for_actor", "statistics", "_router"]
)
def test_a_bus_that_was_not_entered_says_to_use_async_with(name: str) -> None:
    with pytest.raises(AttributeError, match="async with open_event_bus"):
        getattr(open_event_bus(), name)


@pytest.mark.parametrize(
    ("class_", "says"),
    [
        (EventBus, "open_event_bus"),
        (Pattern, r"Pattern\.parse"),
        (events.Subscription, "subscribe"),
        (events.EventChannel, "channel"),
        (events.EventWaiter, "expect"),
        (events.EventBatches, "batches"),
        (events.EventIterator, "async for"),
    ],
)
def test_a_class_without_a_public_constructor_says_what_makes_one(class_: Any, says: str) -> None:
    for arguments in ((), ("a",)):
        with pytest.raises(TypeError, match=says):
            class_(*arguments)


async def test_handlers_are_not_registered_by_decorating_with_the_bus() -> None:
    async def handle(_: Event) -> None:
        """Handle."""

    async with open_event_bus() as bus:
        on: Any
        for on in (bus.on, events.on):
            with pytest.raises(TypeError, match=r"@handlers\.on\(.*HandlerSet"):
                on(handle)


def test_a_decorator_without_parentheses_says_the_form_to_write() -> None:
    handlers = HandlerSet()
    with pytest.raises(TypeError, match=r'@handlers\.on\("system"'):
        handlers.on(Recorder())  # type: ignore[call-overload]  # that is the mistake


@pytest.mark.parametrize("policy", [[], [Allow(Action.SEND, "a")], {}, "allow", 1], ids=repr)
def test_a_policy_that_is_none_is_refused_when_the_bus_is_opened(policy: Any) -> None:
    with pytest.raises(TypeError, match="RulePolicy"):
        open_event_bus(policy=policy)


@pytest.mark.parametrize(
    "rules", [[("a", "b")], ["a"], "ab", [None], Allow(Action.SEND, "a")], ids=repr
)
def test_rules_that_are_not_a_list_are_refused_at_once(rules: Any) -> None:
    with pytest.raises(TypeError, match="Allow"):
        RulePolicy(rules)


@pytest.mark.parametrize("rule", [Allow, Deny])
def test_a_wrong_action_is_answered_with_the_values_there_are(
    rule: Callable[[Any, str], object],
) -> None:
    with pytest.raises(ValueError, match=r"events\.subscribe.*events\.send"):
        rule("send", "a")


async def test_a_refusal_names_actor_action_system_and_rule(autojump_clock: MockClock) -> None:
    policy = RulePolicy([Allow(Action.SEND, "**"), Deny(Action.SEND, "archive.*", "plugin")])
    async with open_event_bus(policy=policy) as bus:
        plugin = bus.for_actor("plugin")
        with pytest.raises(PolicyDeniedError) as caught:
            await plugin.send("archive.old", "k", "/x")
        for part in ("'plugin'", "'archive.old'", "events.send", "archive.*", "Deny"):
            assert part in str(caught.value)
        with pytest.raises(PolicyDeniedError) as caught:
            await plugin.subscribe("archive.*")
        for part in ("'plugin'", "'archive.*'", "events.subscribe", "no"):
            assert part in str(caught.value)
        assert caught.value.details == {
            "actor": "plugin",
            "action": Action.SUBSCRIBE,
            "system": "archive.*",
        }


async def test_a_closed_bus_says_how_it_was_closed(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        pass
    with pytest.raises(BusClosedError, match=r"async with.*left|left.*async with"):
        await bus.send("a", "k", "/x")
    async with open_event_bus() as bus:
        bus.close()
        with pytest.raises(BusClosedError, match=r"close\(\)"):
            await bus.send("a", "k", "/x")
        with pytest.raises(BusClosedError, match=r"close\(\)|block"):
            bus.send_soon("a", "k", "/x")


async def test_a_wait_that_the_end_of_the_bus_ends_says_how_that_was_closed(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:

        async def close() -> None:
            bus.close()

        nursery.start_soon(close)
        with pytest.raises(BusClosedError, match=r"close\(\) was called at .*no matching event"):
            await bus.wait_for("a")


async def test_a_channel_closed_by_its_reader_says_so(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a.*")
        with subscription.channel() as channel:
            pass
        for read in (channel.receive_nowait, channel.receive, lambda: anext(aiter(channel))):
            with pytest.raises(trio.ClosedResourceError, match=r"a\.\*.*closed by its reader"):
                await read()  # type: ignore[misc]  # the first one raises at once


async def test_a_channel_that_has_ended_says_which(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a.*")
        subscription.close()
        await wait_all_tasks_blocked()
        with pytest.raises(trio.EndOfChannel, match=r"a\.\*"):
            await subscription.receive()


async def test_record_says_that_the_bus_goes_first() -> None:
    wrong: Any = "orders"
    with pytest.raises(TypeError, match="bus"):
        await record(wrong, "order.*")
    with pytest.raises(TypeError, match="bus"):
        await record(wrong)


async def test_the_end_of_the_drain_names_the_option_and_what_was_left(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(_: Event) -> None:
        await trio.sleep_forever()

    async with open_event_bus(drain_timeout=2.5) as bus:
        await bus.on(hang, "a")
        for _ in range(3):
            await bus.send("a", "k", "/x")
    [message] = caplog.messages
    assert re.search(r"drain_timeout \(2\.5 s\)", message)
    assert re.search(r"hang.*cancelled: 1, events discarded: 2", message)
    assert caplog.records[0].levelno == logging.WARNING


# --------------------------------------------------------------------------------- wrong handlers


async def no_parameter() -> None: ...


async def two_parameters(one: object, two: object) -> None: ...


async def keyword_only(*, event: object) -> None: ...


class Service:
    async def handle(self, event: Event) -> None: ...

    async def nothing(self) -> None: ...

    @staticmethod
    async def static(event: Event) -> None: ...

    @classmethod
    async def of_class(cls, event: Event) -> None: ...


async def with_default(event: Event, more: int = 1) -> None: ...


async def with_any(*events: Event) -> None: ...


WRONG = [no_parameter, two_parameters, keyword_only, Service.handle, Service().nothing]
RIGHT = [with_default, with_any, Service().handle, Service.static, Service.of_class, Recorder()]


@pytest.mark.parametrize("handler", WRONG, ids=lambda h: h.__qualname__)
async def test_a_handler_with_the_wrong_parameters_is_refused_at_registration(handler: Any) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match=re.escape(handler.__qualname__)):
            await bus.on(handler, "a")
        with pytest.raises(TypeError, match=re.escape(handler.__qualname__)):
            HandlerSet().on("a")(handler)
        assert not bus.subscriptions()


async def test_a_handler_whose_parameters_can_not_be_known_is_accepted(
    autojump_clock: MockClock,
) -> None:
    class Foreign:
        """As one that is written in C may be: there is no telling what it takes."""

        __signature__ = "(event)"

        async def __call__(self, event: Event) -> None: ...

    async with open_event_bus() as bus:
        subscription = await bus.on(Foreign(), "a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert subscription.statistics().failures == 0


def test_an_unbound_method_is_refused_with_the_form_to_write() -> None:
    handlers = HandlerSet()
    with pytest.raises(TypeError, match=r"obj\.method"):

        class Wrong:
            @handlers.on("a")  # type: ignore[type-var]  # that is the mistake
            async def handle(self, event: Event) -> None: ...

    assert not handlers.registrations


@pytest.mark.parametrize("handler", RIGHT, ids=repr)
async def test_a_handler_that_takes_an_event_is_called(
    handler: Any, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.on(handler, "a")
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert subscription.statistics().delivered == 1
        assert subscription.statistics().failures == 0
