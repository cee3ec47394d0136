"""Ctrl-C at any line: it ends the program as itself, and loses, doubles and breaks nothing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_events import (
    BusClosedError,
    Event,
    EventBus,
    InvalidEventError,
    Log,
    Propagate,
    Subscription,
    open_event_bus,
)
from trio_events._bus import current_bus
from trio_events._handlers.supervision import OnError

from ..handlers.handling import POLICIES, Recorder
from ..injecting import CONTEXTLIB, PACKAGE, AtLine, ctrl_c_works, interrupt, no_chance
from ..observing import assert_balanced, tasks_living
from ..time_limit import run_with_time_limit
from .staging import OPERATIONS, Operation, expect, request, staged, wait_for


@pytest.fixture(autouse=True)
def interruptible(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL, "trio_events")
    with ctrl_c_works(), no_chance():
        yield


SAMPLES = 80
"""At how many lines to interrupt an operation that has more: evenly spread over all of them."""


async def play(operation: Operation, at_line: AtLine) -> None:
    """Play an operation that is interrupted, and check what there is afterwards."""
    interrupts: list[BaseException] = []
    before = tasks_living()
    async with staged(operation) as stage:
        try:
            with at_line:
                await operation(stage)
            await trio.lowlevel.checkpoint()  # where trio raises it if it could not before
        except KeyboardInterrupt as error:
            interrupts.append(error)
        interrupts += stage.stray
        assert len(interrupts) == (at_line.where is not None)
        await stage.check()
    assert tasks_living() == before


async def interrupt_everywhere(scene: Callable[[AtLine], Awaitable[None]], *files: str) -> None:
    """Play a scene without an interrupt, and then with one at each of its lines."""
    files = files or (PACKAGE, CONTEXTLIB)
    calm = AtLine(-1, interrupt, files)
    await scene(calm)
    assert calm.lines or files == (CONTEXTLIB,)  # which may be in no operation's way
    for number in range(0, calm.lines, 1 + calm.lines // SAMPLES):
        at_line = AtLine(number, interrupt, files)
        try:
            await scene(at_line)
        except BaseException as error:
            error.add_note(f"interrupted at line {number}: {at_line.where}")
            raise


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
def test_ctrl_c_at_any_line_of_an_operation_breaks_nothing(operation: Operation) -> None:
    run_with_time_limit(partial(interrupt_everywhere, partial(play, operation)))


def test_ctrl_c_at_any_line_of_a_reply_leaves_it_sent_or_to_be_sent_again() -> None:
    async def scene(at_line: AtLine) -> None:
        got: list[object] = []

        async def ask() -> None:
            got.append((await bus.request("a", "k", "/1")).data)

        async with open_event_bus(checkpoint_every=2) as bus, trio.open_nursery() as nursery:
            requests = await bus.subscribe("a", "k")
            nursery.start_soon(ask)
            request = await requests.receive()
            try:
                with at_line:
                    await bus.reply(request, "first")
                await trio.lowlevel.checkpoint()
            except KeyboardInterrupt:
                try:
                    await bus.reply(request, "second")
                except InvalidEventError:
                    pass  # it was sent
            await wait_all_tasks_blocked()
            assert len(got) == 1
            assert not bus._router.core.requests.underway

    run_with_time_limit(partial(interrupt_everywhere, scene))


@pytest.mark.parametrize("operation", [expect, wait_for, request], ids=lambda o: o.__name__)
def test_ctrl_c_in_the_code_of_contextlib_leaves_nothing_open(operation: Operation) -> None:
    run_with_time_limit(partial(interrupt_everywhere, partial(play, operation), CONTEXTLIB))


async def quit_with(at_line: AtLine, program: Callable[[], Awaitable[None]]) -> None:
    """Run a program that is interrupted, and check that nothing else than that leaves it."""
    before, around = tasks_living(), current_bus.get(None)
    interrupts: list[BaseException] = []
    try:
        with at_line:
            await program()
        await trio.lowlevel.checkpoint()
    except KeyboardInterrupt as error:
        interrupts.append(error)
    assert len(interrupts) == (at_line.where is not None)
    await wait_all_tasks_blocked()
    assert tasks_living() == before
    assert current_bus.get(None) is around


def test_ctrl_c_at_any_line_of_opening_and_leaving_a_bus_leaves_alone() -> None:
    async def scene(at_line: AtLine) -> None:
        bus: EventBus | None = None
        subscription: Subscription | None = None
        accepted = 0

        async def program() -> None:
            nonlocal bus, subscription, accepted
            async with open_event_bus() as bus:
                subscription = await bus.subscribe("a")
                bus.send_nowait("a", "k", "/1")
                accepted += 1

        await quit_with(at_line, program)
        if bus is not None:
            assert bus.statistics().accepted == accepted
            with pytest.raises(BusClosedError):
                bus.send_nowait("a", "k", "/2")
        if subscription is not None:
            assert_balanced(subscription)
            assert subscription.statistics().matched == accepted

    run_with_time_limit(partial(interrupt_everywhere, scene))


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("on_error", [Propagate(), Log()], ids=repr)
def test_ctrl_c_while_handlers_pass_their_turn_on_leaves_alone(
    concurrency: int, on_error: OnError
) -> None:
    async def scene(at_line: AtLine) -> None:
        subscription: Subscription | None = None
        begun: list[str] = []
        ended: list[str] = []
        accepted = 0

        async def handle(event: Event) -> None:
            begun.append(event.path)
            await trio.lowlevel.checkpoint()
            ended.append(event.path)

        async def program() -> None:
            nonlocal subscription, accepted
            async with open_event_bus() as bus:
                subscription = await bus.on(handle, "a", concurrency=concurrency, on_error=on_error)
                for number in range(4):
                    await bus.send("a", "k", f"/{number}")
                    accepted += 1
                    await trio.lowlevel.checkpoint()

        await quit_with(at_line, program)
        assert begun == sorted(set(begun))
        if subscription is not None:
            assert_balanced(subscription)
            books = subscription.statistics()
            assert books.matched == accepted
            assert 0 <= books.delivered - len(begun) <= 1  # the very call may be interrupted
            assert books.queued == books.handling == 0
        if at_line.where is None:
            assert len(ended) == 4

    run_with_time_limit(partial(interrupt_everywhere, scene))


def test_ctrl_c_in_a_handler_leaves_alone_and_no_policy_swallows_it() -> None:
    async def handle(_: Event) -> None:
        interrupt()

    async def main(on_error: OnError) -> None:
        async with open_event_bus() as bus:
            await bus.on(handle, "a", concurrency=2, on_error=on_error)
            await bus.send("a", "k", "/x")
            await trio.sleep(1)

    for on_error in POLICIES:
        with pytest.raises(KeyboardInterrupt):
            run_with_time_limit(partial(main, on_error))


def test_ctrl_c_while_the_main_task_waits_leaves_a_bus_as_itself() -> None:
    async def main() -> None:
        async with open_event_bus() as bus:
            await bus.on(Recorder(), "a", concurrency=2)
            subscription = await bus.subscribe("b")
            trio.lowlevel.current_trio_token().run_sync_soon(interrupt)
            await subscription.receive()

    with pytest.raises(KeyboardInterrupt):
        run_with_time_limit(main)
