"""Texts that lie about themselves: a plain `str` is made of each at the edge, everywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    Event,
    EventBus,
    ExactPath,
    HandlerSet,
    Pattern,
    RulePolicy,
    open_event_bus,
)

from ..handlers.handling import Recorder
from ..names.odd_texts import Liar, Member
from ..observing import drain


class Formats(str):
    """A text whose `__format__` and `__add__` say something else."""

    __slots__ = ()

    def __format__(self, _: str) -> str:
        return "secret"

    def __add__(self, _: str) -> str:
        return "secret"


class Names(str):
    """A text that looks like another name of its own accord."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or other == "secret"

    def __hash__(self) -> int:
        return hash("secret")

    def __str__(self) -> str:
        return "secret"

    def __getitem__(self, _: object) -> str:
        return "secret"


Text = Callable[[str], str]


def member(text: str) -> str:
    """A member of an enumeration of texts."""
    return Member(text)


TEXTS: Final[tuple[Text, ...]] = (Liar, Formats, Names, member)
"""Ways to say the texts of `Member`."""

ODD = pytest.mark.parametrize("odd", TEXTS, ids=lambda f: f.__name__)


@attrs.define(eq=False)
class Witness:
    """A policy that notes what it is asked about."""

    asked: list[tuple[object, object]] = attrs.field(factory=list)

    def allows(self, actor: str, action: Action, system: str) -> bool:
        assert type(actor) is type(system) is str
        self.asked.append((actor, system))
        return "secret" not in actor + system


@ODD
async def test_an_event_has_plain_texts_whatever_was_sent(
    odd: Text, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("orders")
        names = odd("orders"), odd("order.created"), odd("/orders/1")
        for _ in range(2):  # the second time from memory
            await bus.send(*names)
            bus.send_nowait(*names)
            bus.send_soon(*names)
            await events.send(*names)
            await wait_all_tasks_blocked()
        assert bus.is_wanted(*names)
        for _ in range(8):
            event = await subscription.receive()
            assert event == Event("orders", "order.created", "/orders/1")
            for text in (event.system, event.kind, event.path):
                assert type(text) is str


@ODD
async def test_a_plain_name_and_an_odd_one_of_the_same_text_are_the_same(
    odd: Text, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe(odd("orders.*"), odd("order.created"))
        exact = await bus.subscribe(odd("orders"), path=odd("/orders/1"))
        paths = await bus.subscribe(odd("orders"), path=odd("/orders/*"))
        for system in ("orders", odd("orders")):
            await bus.send(system, "order.created", "/orders/1")
            await bus.send(system, odd("order.created"), odd("/orders/1"))
        await bus.send("orders.eu", "order.created", "/x")
        await wait_all_tasks_blocked()
        assert drain(exact.channel()) == drain(paths.channel()) == ["/orders/1"] * 4
        assert drain(subscription.channel()) == ["/x"]
        for text, said in (
            (subscription.system, "orders.*"),
            (subscription.kind, "order.created"),
            (exact.path, "/orders/1"),
            (paths.path, "/orders/*"),
        ):
            assert type(text) is str
            assert text == said
        subscription.add(odd("orders"), odd("order.created"), path=odd("/orders/*"))
        subscription.remove("orders", "order.created", path="/orders/*")
        exact.remove(odd("orders"), path=ExactPath(odd("/orders/1")))
        for each in (subscription, exact, paths):
            each.close()
        await wait_all_tasks_blocked()
        assert bus._router.table.is_empty


@ODD
async def test_the_policy_is_asked_about_the_very_names_that_are_used(
    odd: Text, autojump_clock: MockClock
) -> None:
    policy = Witness()
    async with open_event_bus(policy=policy) as bus:
        shop = bus.for_actor(odd("shop"))
        await shop.send(odd("orders"), "k", "/x")
        await shop.subscribe(odd("orders.*"))
        await shop.on(Recorder(), odd("orders"))
        handlers = HandlerSet()
        handlers.on(odd("orders"))(Recorder())
        await shop.include(handlers)
        async with shop.expect(odd("orders")):
            pass
        (await shop.subscribe("orders")).add(odd("orders.*"))
        assert repr(shop).startswith("<EventBus for 'shop'")
    assert {actor for actor, _ in policy.asked} == {"shop"}
    assert {system for _, system in policy.asked} == {"orders", "orders.*"}


@ODD
async def test_a_rule_policy_is_not_deceived(odd: Text, autojump_clock: MockClock) -> None:
    policy = RulePolicy([Allow(Action.SEND, odd("orders"), odd("shop"))])
    async with open_event_bus(policy=policy) as bus:
        await bus.for_actor("shop").send("orders", "k", "/x")
        await bus.for_actor(odd("shop")).send(odd("orders"), "k", "/x")
        for actor, system in (("shop", "secret"), ("secret", "orders")):
            with pytest.raises(events.PolicyDeniedError):
                await bus.for_actor(actor).send(system, "k", "/x")


Wait = Callable[[EventBus, Text], Awaitable[object]]


async def expect(bus: EventBus, odd: Text) -> object:
    async with bus.expect(odd("orders"), odd("order.created"), path=odd("/orders/1")) as waiter:
        return await waiter.event()


async def wait_for(bus: EventBus, odd: Text) -> object:
    return await bus.wait_for(odd("orders"), odd("order.created"), path=odd("/orders/1"))


async def request(bus: EventBus, odd: Text) -> object:
    return await bus.request(
        odd("orders"), "asked", odd("/orders/1"), reply_kind=odd("order.created")
    )


@ODD
@pytest.mark.parametrize("wait", [expect, wait_for, request], ids=lambda f: f.__name__)
async def test_waiting_accepts_subclasses_of_str(
    wait: Wait, odd: Text, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        await bus.subscribe("orders", "asked")

        async def answer() -> None:
            await wait_all_tasks_blocked()
            await bus.send("orders", "order.created", "/orders/2")
            await bus.send("orders", "order.created", "/orders/1")

        nursery.start_soon(answer)
        with trio.fail_after(10):
            assert await wait(bus, odd) == Event("orders", "order.created", "/orders/1")
        assert bus.statistics().open_waiters == 0


@ODD
def test_a_pattern_accepts_subclasses_of_str(odd: Text) -> None:
    pattern = Pattern.parse(odd("orders.*"))
    assert pattern == Pattern.parse("orders.*")
    assert type(str(pattern)) is str
    assert not pattern.matches(odd("orders"))
    assert Pattern.parse("**").matches(odd("order.created"))


@ODD
async def test_only_plain_texts_are_remembered(odd: Text, autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        for _ in range(3):
            await bus.send(odd("orders"), odd("order.created"), odd("/orders/1"))
            await wait_all_tasks_blocked()
        assert bus.statistics().routes_remembered == 1
        for system, kinds in bus._router.table.routes.items():
            assert type(system) is str
            assert all(type(kind) is str for kind in kinds)
