"""In whose name a handler, and what it starts, uses the bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Action,
    Allow,
    DeadLetter,
    Deny,
    Event,
    EventBus,
    HandlerSet,
    Log,
    PolicyDeniedError,
    Retry,
    RulePolicy,
    open_event_bus,
)

from ..observing import drain

POLICY = RulePolicy(
    [
        Allow(Action.SUBSCRIBE, "**"),
        Allow(Action.SEND, "**"),
        Deny(Action.SEND, "secret", "plugin"),
        Deny(Action.SUBSCRIBE, "secret", "plugin"),
    ]
)


async def send(_: object = None) -> None:
    await events.send("secret", "k", "/x")


async def subscribe(_: object = None) -> None:
    await events.subscribe("secret")


async def register(_: object = None) -> None:
    await events.on(send, "secret")


async def expect(_: object = None) -> None:
    async with events.expect("secret"):
        pass


async def wait_for(_: object = None) -> None:
    await events.wait_for("secret")


async def request(_: object = None) -> None:
    await events.request("secret", "k", "/x")


async def include(_: object = None) -> None:
    handlers = HandlerSet()
    handlers.on("secret")(send)
    await events.include(handlers)


USES = pytest.mark.parametrize(
    "use", [send, subscribe, register, expect, wait_for, request, include], ids=lambda f: f.__name__
)
Use = Callable[..., Awaitable[None]]


async def directly(use: Use) -> None:
    await use()


async def in_a_task(use: Use) -> None:
    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own is the point
        nursery.start_soon(use)


async def in_a_task_of_a_task(use: Use) -> None:
    await in_a_task(partial(in_a_task, use))


async def from_a_thread(use: Use) -> None:
    await trio.to_thread.run_sync(trio.from_thread.run, use)


WAYS = pytest.mark.parametrize(
    "way", [directly, in_a_task, in_a_task_of_a_task, from_a_thread], ids=lambda f: f.__name__
)


def only_denied(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(only_denied, error.exceptions))
    return isinstance(error, PolicyDeniedError) and error.details["actor"] == "plugin"


@USES
@WAYS
@pytest.mark.parametrize("registered", ["on", "include", "ambient on"])
async def test_a_handler_acts_as_the_actor_that_registered_it(
    use: Use, way: Callable[[Use], Awaitable[None]], registered: str
) -> None:
    async with open_event_bus(policy=POLICY) as bus:
        witness = await bus.subscribe("secret")
        plugin = bus.for_actor("plugin")
        caught: list[BaseException] = []
        done = trio.Event()

        async def handle(_: Event) -> None:
            try:
                await way(use)
            except Exception as error:
                caught.append(error)
            finally:
                done.set()

        if registered == "on":
            await plugin.on(handle, "a")
        elif registered == "include":
            handlers = HandlerSet()
            handlers.on("a")(handle)
            await plugin.include(handlers)
        else:
            with events.use(plugin):
                await events.on(handle, "a")
        await bus.send("a", "k", "/x")
        with trio.fail_after(5):
            await done.wait()
        assert only_denied(caught[0])
        assert drain(witness.channel()) == []
        # The task that registered it is not changed by that.
        await events.send("secret", "k", "/mine")
        assert (await witness.receive()).path == "/mine"


@USES
@WAYS
async def test_in_a_block_of_use_the_functions_act_as_its_actor(
    use: Use, way: Callable[[Use], Awaitable[None]]
) -> None:
    async with open_event_bus(policy=POLICY) as bus:
        with events.use(bus.for_actor("plugin")) as used:
            assert used is not bus
            with pytest.raises((PolicyDeniedError, BaseExceptionGroup)) as caught:  # noqa: ASYNC401  # either
                await way(use)
            assert only_denied(caught.value)
        await events.subscribe("secret")


async def test_use_is_nested_and_left_by_an_exception(autojump_clock: MockClock) -> None:
    async with open_event_bus() as outer, open_event_bus() as inner:
        at_outer, at_inner = await outer.subscribe("**"), await inner.subscribe("**")
        with pytest.raises(KeyError), events.use(outer):
            await events.send("a", "k", "/outer")
            with events.use(inner):
                await events.send("a", "k", "/inner")
            await events.send("a", "k", "/outer again")
            raise KeyError
        await events.send("a", "k", "/inner again")
        await wait_all_tasks_blocked()
        assert drain(at_outer.channel()) == ["/outer", "/outer again"]
        assert drain(at_inner.channel()) == ["/inner", "/inner again"]


@pytest.mark.parametrize("wrong", [None, "bus", open_event_bus], ids=repr)
def test_use_takes_a_bus_and_nothing_else(wrong: EventBus) -> None:
    with pytest.raises(TypeError, match="bus must be an EventBus"), events.use(wrong):
        pass


async def test_a_retried_handler_acts_as_its_actor_again(autojump_clock: MockClock) -> None:
    async with open_event_bus(policy=POLICY) as bus:
        denied: list[object] = []

        async def handle(_: Event) -> None:
            try:
                await events.send("secret", "k", "/x")
            except PolicyDeniedError as error:
                denied.append(error.details["actor"])
                raise

        await bus.for_actor("plugin").on(handle, "a", on_error=Retry(1, then=Log()))
        for _ in range(3):
            await bus.send("a", "k", "/x")
        await trio.sleep(10)
        assert denied == ["plugin"] * 3


async def test_a_dead_letter_hook_may_use_the_bus(autojump_clock: MockClock) -> None:
    letters: list[DeadLetter] = []

    async def fail(_: Event) -> None:
        raise ValueError

    async with open_event_bus(on_dead_letter=letters.append) as bus:
        await bus.on(fail, "a", on_error=Log())
        await bus.send("a", "k", "/x")
    assert [letter.event.path for letter in letters] == ["/x"]


async def test_each_handler_of_a_shared_function_acts_as_its_own_actor(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus(policy=POLICY) as bus:
        outcomes: list[tuple[str, bool]] = []

        async def handle(event: Event) -> None:
            try:
                await events.send("secret", "k", "/x")
            except PolicyDeniedError:
                outcomes.append((event.path, False))
            else:
                outcomes.append((event.path, True))

        await bus.for_actor("plugin").on(handle, "a", path="/plugin")
        await bus.for_actor("shop").on(handle, "a", path="/shop")
        await bus.on(handle, "a", path="/anybody")
        for path in ("/plugin", "/shop", "/anybody"):
            await bus.send("a", "k", path)
        await wait_all_tasks_blocked()
        assert sorted(outcomes) == [("/anybody", True), ("/plugin", False), ("/shop", True)]
