"""Consumers: tasks that the bus owns, started with `start_soon` and `start`."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    NoBusError,
    PolicyDeniedError,
    Subscription,
    open_event_bus,
)

from ..observing import drain, tasks_living
from .test_acting import POLICY

colour: ContextVar[str] = ContextVar("colour")


async def read(subscription: Subscription, got: list[str]) -> None:
    async for event in subscription:
        got.append(event.path)


# ------------------------------------------------------------------------------------- start_soon


async def test_a_consumer_reads_everything_and_ends_with_the_bus() -> None:
    before = tasks_living()
    got: list[str] = []
    async with open_event_bus() as bus:
        bus.start_soon(read, await bus.subscribe("a"), got)
        for number in range(300):
            await bus.send("a", "k", f"/{number}")
    assert got == [f"/{number}" for number in range(300)]
    assert tasks_living() == before


async def test_a_consumer_of_the_module_functions_reads_everything() -> None:
    got: list[str] = []
    async with open_event_bus():
        events.start_soon(read, await events.subscribe("a"), got)
        await events.send("a", "k", "/x")
    assert got == ["/x"]


async def test_a_consumer_has_around_it_the_very_bus_object_that_started_it() -> None:
    found: list[EventBus] = []

    async def look(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with events.use(_bus()) as bus:
            found.append(bus)
        task_status.started()

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        plugin = bus.for_actor("plugin")
        plugin.start_soon(look)
        await wait_all_tasks_blocked()
        await plugin.start(look)
        nursery.start_soon(look)
    assert found == [plugin, plugin, bus]
    assert found[0] is plugin


def _bus() -> EventBus:
    return events._ambient._bus()


@pytest.mark.parametrize("method", ["start_soon", "start"])
async def test_a_consumer_acts_as_the_actor_that_started_it(method: str) -> None:
    denied = 0

    async def act(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        nonlocal denied
        task_status.started()
        with pytest.raises(PolicyDeniedError, match="plugin"):
            await events.send("secret", "k", "/x")
        denied += 1

    async with open_event_bus(policy=POLICY) as bus:
        plugin = bus.for_actor("plugin")
        if method == "start":
            await plugin.start(act)
        else:
            plugin.start_soon(act)
    assert denied == 1


async def test_a_consumer_has_a_copy_of_the_context_variables_of_the_caller() -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(colour.get())
        colour.set("blue")

    async with open_event_bus() as bus:
        colour.set("red")
        bus.start_soon(look)
        await wait_all_tasks_blocked()
        assert colour.get() == "red"
    assert seen == ["red"]


async def test_the_task_has_the_name_of_the_function_or_the_one_that_is_given() -> None:
    names: list[str] = []

    async def look(
        count: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        names.append(trio.lowlevel.current_task().name)
        task_status.started()

    async with open_event_bus() as bus:
        bus.start_soon(look, 1)
        await wait_all_tasks_blocked()
        bus.start_soon(look, 2, name="the second")
        await wait_all_tasks_blocked()
        await bus.start(look, 3)
        await bus.start(look, 4, name="the fourth")
    prefix = f"{__name__}.test_the_task_has_the_name"
    assert names[0].startswith(prefix)
    assert names[1] == "the second"
    assert names[2].startswith(prefix)
    assert names[3] == "the fourth"


async def test_start_soon_is_not_a_checkpoint() -> None:
    begun: list[int] = []

    async def begin(number: int) -> None:
        begun.append(number)

    async with open_event_bus() as bus:
        for number in range(3):
            bus.start_soon(begin, number)
        assert begun == []
    assert sorted(begun) == [0, 1, 2]


class Failure(Exception):
    pass


async def fail() -> None:
    raise Failure


@pytest.mark.parametrize("where", ["in the block", "after the block"])
async def test_what_a_consumer_raises_leaves_as_itself_and_cancels_the_block(
    where: str, autojump_clock: MockClock
) -> None:
    async def fail_later() -> None:
        await trio.sleep(1)
        raise Failure

    with pytest.raises(Failure) as caught:
        async with open_event_bus() as bus:
            bus.start_soon(fail_later)
            if where == "in the block":
                await trio.sleep_forever()
    assert caught.value.__context__ is None


async def test_two_consumers_that_fail_leave_as_a_group() -> None:
    with pytest.RaisesGroup(Failure, Failure):
        async with open_event_bus() as bus:
            bus.start_soon(fail)
            bus.start_soon(fail)


async def test_a_consumer_that_is_cancelled_from_its_inside_ends_alone() -> None:
    got: list[str] = []

    async def give_up() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()

    async with open_event_bus() as bus:
        bus.start_soon(give_up)
        bus.start_soon(read, await bus.subscribe("a"), got)
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/x")
    assert got == ["/x"]


# ------------------------------------------------------------------------------------------ start


async def test_start_returns_the_value_that_started_was_called_with(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []

    async def serve(
        system: str, *, task_status: trio.TaskStatus[Subscription] = trio.TASK_STATUS_IGNORED
    ) -> None:
        subscription = await events.subscribe(system)
        await trio.sleep(1)
        task_status.started(subscription)
        await read(subscription, got)

    async with open_event_bus() as bus:
        subscription = await bus.start(serve, "a")
        assert subscription.system == "a"
        assert trio.current_time() == 1
        await events.start(serve, "b")
        await bus.send("a", "k", "/x")
        await bus.send("b", "k", "/y")
    assert sorted(got) == ["/x", "/y"]


async def test_what_is_raised_before_started_is_raised_by_start() -> None:
    async def fail_early(*, task_status: object) -> None:
        raise Failure

    got: list[str] = []
    async with open_event_bus() as bus:
        with pytest.raises(Failure):
            await bus.start(fail_early)
        bus.start_soon(read, await bus.subscribe("a"), got)
        await bus.send("a", "k", "/x")
    assert got == ["/x"]


async def test_a_function_that_never_calls_started_is_a_runtime_error() -> None:
    async def forget(*, task_status: object) -> None:
        pass

    async with open_event_bus() as bus:
        with pytest.raises(RuntimeError, match="started"):
            await bus.start(forget)


async def test_a_cancelled_start_leaves_no_task(autojump_clock: MockClock) -> None:
    before = tasks_living()
    async with open_event_bus(drain_timeout=1000) as bus:
        living = tasks_living()

        async def hang(*, task_status: object) -> None:
            await trio.sleep_forever()

        with trio.move_on_after(1) as scope:
            await bus.start(hang)
        assert scope.cancelled_caught
        assert tasks_living() == living
    assert trio.current_time() == 1
    assert tasks_living() == before


async def test_a_task_that_has_not_started_when_the_time_is_over_is_an_error_of_start(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(*, task_status: object) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery, open_event_bus(drain_timeout=5) as bus:

        async def start() -> None:
            with pytest.raises(BusClosedError, match=r"hang .* was cancelled before it called"):
                await bus.start(hang)

        nursery.start_soon(start)
        await wait_all_tasks_blocked()
    assert trio.current_time() == 5
    [message] = caplog.messages
    assert "drain_timeout (5 s) expired" in message


async def test_a_task_that_is_starting_while_the_bus_closes_belongs_to_it(
    autojump_clock: MockClock,
) -> None:
    got: list[str] = []

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        subscription = await events.subscribe("a")
        await events.send("a", "k", "/x")
        task_status.started()
        await read(subscription, got)

    async with trio.open_nursery() as nursery, open_event_bus() as bus:
        nursery.start_soon(bus.start, serve)  # noqa: ASYNC111  # it returns before the bus is left
        await wait_all_tasks_blocked()
    assert got == ["/x"]


# -------------------------------------------------------------------------------------- bad input


def plain(subscription: object) -> None:
    pass


async def one(argument: object) -> None:
    pass


class Called:
    async def __call__(self, got: list[str]) -> None:
        got.append("called")

    async def method(self, got: list[str]) -> None:
        got.append("method")


STARTERS: dict[str, Callable[..., Any]] = {
    "start_soon": lambda bus, *args: bus.start_soon(*args),
    "start": lambda bus, *args: bus.start(*args),
}


async def call(bus: EventBus, method: str, *args: Any) -> None:
    result = STARTERS[method](bus, *args)
    if method == "start":
        await result


@pytest.mark.parametrize("method", STARTERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((plain, 1), "takes an async function, not <function plain"),
        ((lambda _: one(1), 1), "takes an async function, not <function"),
        ((None,), "takes an async function, not None"),
        (("one", 1), "takes an async function, not 'one'"),
        ((one,), "can't call one with these arguments: missing a required argument: 'argument'"),
        ((one, 1, 2), "can't call one with these arguments: too many positional arguments"),
    ],
    ids=["plain", "lambda", "None", "text", "too few", "too many"],
)
async def test_what_cannot_be_a_consumer_is_refused_early(
    method: str, arguments: tuple[Any, ...], message: str
) -> None:
    async with open_event_bus() as bus:
        living = tasks_living()
        with pytest.raises(TypeError) as caught:
            await call(bus, method, *arguments)
        assert str(caught.value).startswith(f"bus.{method} {message}")
        assert tasks_living() == living


@pytest.mark.parametrize("method", STARTERS)
async def test_a_consumer_whose_repr_raises_is_refused_early(
    method: str, autojump_clock: MockClock
) -> None:
    class Detached:
        async def __call__(self, **status: object) -> None:
            raise AssertionError("not reached")

        def __repr__(self) -> str:
            raise RuntimeError("not bound to a session")

    async with open_event_bus() as bus:
        with pytest.raises(RuntimeError, match="not bound to a session"):
            await call(bus, method, Detached())
    assert trio.current_time() == 0  # there is nothing to wait for


@pytest.mark.parametrize("method", STARTERS)
async def test_a_coroutine_object_is_refused_with_the_form_to_write(method: str) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError) as caught:
            await call(bus, method, one(1))
    assert str(caught.value) == (
        f"bus.{method} takes an async function and its arguments: write bus.{method}(one, ...), "
        f"not bus.{method}(one(...))"
    )


async def test_start_needs_a_parameter_for_the_task_status() -> None:
    async with open_event_bus() as bus:
        with pytest.raises(TypeError, match="unexpected keyword argument 'task_status'"):
            await bus.start(one, 1)


async def test_every_async_callable_can_be_a_consumer() -> None:
    got: list[str] = []
    async with open_event_bus() as bus:
        bus.start_soon(Called(), got)
        bus.start_soon(Called().method, got)
        bus.start_soon(functools.partial(Called().method, got))
    assert sorted(got) == ["called", "method", "method"]


async def test_a_callable_without_a_signature_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[str] = []
    monkeypatch.setattr("inspect.signature", _no_signature)
    async with open_event_bus() as bus:
        bus.start_soon(Called(), got)
    assert got == ["called"]


def _no_signature(_: object) -> None:
    raise ValueError("no signature found")


@pytest.mark.parametrize("method", STARTERS)
@pytest.mark.parametrize("how", ["closed", "left"])
async def test_a_closed_bus_starts_nothing(method: str, how: str) -> None:
    begun = False

    async def begin(*, task_status: object = None) -> None:
        nonlocal begun
        begun = True

    async def refused() -> None:
        for _ in range(2):  # and it's persistent
            with pytest.raises(BusClosedError):
                await call(bus, method, begin)

    async with open_event_bus() as bus:
        if how == "closed":
            bus.close()
            await refused()
    await refused()
    assert not begun


@pytest.mark.parametrize("method", STARTERS)
async def test_while_the_bus_closes_only_those_that_it_owns_may_start_consumers(
    method: str, autojump_clock: MockClock
) -> None:
    got: list[str] = []

    async def later(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep(1)
        got.append("later")

    async def handle(_: Event) -> None:
        await trio.sleep(1)
        await call(bus, method, later)

    async with open_event_bus() as bus:
        await bus.on(handle, "a")
        await bus.send("a", "k", "/x")
        bus.close()
        with pytest.raises(BusClosedError):
            await call(bus, method, later)
    assert got == ["later"]
    assert trio.current_time() == 2


async def test_a_consumer_is_not_started_from_another_thread() -> None:
    async with open_event_bus() as bus:
        with pytest.raises(NoBusError):
            await trio.to_thread.run_sync(functools.partial(bus.start_soon, one, 1))


@pytest.mark.parametrize("function", [events.start_soon, events.start])
async def test_outside_any_bus_there_is_a_clear_error(
    function: Callable[..., Awaitable[object] | None],
) -> None:
    with pytest.raises(NoBusError):
        result = function(one, 1)
        assert result is not None
        await result


async def test_subscriptions_of_a_consumer_stay_open_until_all_is_quiet(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        outside = await bus.subscribe("b")

        async def forward() -> None:
            async for event in await events.subscribe("a"):
                await trio.sleep(1)
                await events.send("b", "k", event.path)

        bus.start_soon(forward)
        await wait_all_tasks_blocked()
        for number in range(3):
            await bus.send("a", "k", f"/{number}")
    assert drain(outside.channel()) == ["/0", "/1", "/2"]
    assert trio.current_time() == 3
