"""Bad input: each its own clear error, naming value and rule, before anything happened."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_events import (
    ErrorKind,
    EventBus,
    EventBusError,
    InvalidEventError,
    InvalidPatternError,
    Overflow,
    open_event_bus,
)

from ..observing import assert_books, tasks_living

LONG = "a" * 513
DEEP = ".".join("a" * 17)
MANY = "(" + "|".join(f"x{number}" for number in range(65)) + ")"


@asynccontextmanager
async def untouched_bus() -> AsyncIterator[EventBus]:
    """A bus to which nothing may happen in the block."""
    async with open_event_bus() as bus:
        witness = await bus.subscribe("**")
        await wait_all_tasks_blocked()
        before = (bus.statistics(), tasks_living())
        yield bus
        await wait_all_tasks_blocked()
        assert (bus.statistics(), tasks_living()) == before
        assert_books(witness)
        await bus.send("still", "works", "/x")
        assert (await witness.channel().receive()).path == "/x"


async def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call a function, synchronous or not."""
    result = function(*arguments, **options)
    if inspect.isawaitable(result):
        await result


# ---------------------------------------------------------------------------------------------
# What is not the name of an event
# ---------------------------------------------------------------------------------------------

BAD_NAMES = {
    "empty": "",
    "empty first segment": ".a",
    "empty last segment": "a.",
    "empty inner segment": "a..b",
    "only a dot": ".",
    "star": "*",
    "two stars": "**",
    "star in a name": "a.*.b",
    "star at the end of a segment": "a*",
    "opening parenthesis": "a.(b",
    "closing parenthesis": "a)",
    "bar": "a|b",
    "alternatives": "(a|b)",
    "too long": LONG,
    "too deep": DEEP,
    "leading dollar": "$a",
    "only a dollar": "$",
    "leading dollar in a longer name": "$a.b",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
@pytest.mark.parametrize("field", ["system", "kind"])
@pytest.mark.parametrize("method", ["send", "send_nowait"])
async def test_a_name_that_no_event_can_have_is_refused(
    name: str, field: str, method: str, autojump_clock: MockClock
) -> None:
    arguments = {"system": "a", "kind": "k", "path": "/x", field: name}
    async with untouched_bus() as bus:
        for _ in range(2):  # and it's persistent
            with pytest.raises(InvalidEventError) as caught:
                await call(getattr(bus, method), **arguments)
        assert_says_what_is_wrong(caught.value, field, name)


@pytest.mark.parametrize("method", ["send", "send_nowait"])
async def test_an_empty_path_is_refused(method: str, autojump_clock: MockClock) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(InvalidEventError) as caught:
            await call(getattr(bus, method), "a", "k", "")
        assert_says_what_is_wrong(caught.value, "path", "")


def assert_says_what_is_wrong(error: InvalidEventError, field: str, value: str) -> None:
    assert isinstance(error, ValueError)
    assert (error.kind, error.retryable) == (ErrorKind.INVALID, False)
    assert field in str(error)
    assert dict(error.details) == {"field": field, "value": value}
    # An empty one is named by the rule, of a long one there is enough to find it.
    assert (repr(value)[:10] if value else "empty") in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        ("a..b", "empty"),
        ("a.*", r"\*"),
        (LONG, "512"),
        (DEEP, "16"),
        ("$a", r"\$"),
    ],
    ids=["empty", "empty segment", "wildcard", "too long", "too deep", "dollar"],
)
async def test_the_message_about_a_name_says_the_rule(
    name: str, rule: str, autojump_clock: MockClock
) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(InvalidEventError, match=rule):
            await bus.send(name, "k", "/x")


NOT_STR = [None, 1, b"a", ["a"], object(), 1.5]


@pytest.mark.parametrize("value", NOT_STR, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["system", "kind", "path"])
@pytest.mark.parametrize("method", ["send", "send_nowait"])
async def test_a_name_must_be_a_str(
    value: object, field: str, method: str, autojump_clock: MockClock
) -> None:
    arguments: dict[str, object] = {"system": "a", "kind": "k", "path": "/x", field: value}
    async with untouched_bus() as bus:
        with pytest.raises(TypeError, match=field):
            await call(getattr(bus, method), **arguments)


async def test_an_object_that_equals_a_name_and_is_not_a_str_is_refused(
    autojump_clock: MockClock,
) -> None:
    class Fake:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            return other == "a"

    async with open_event_bus() as bus:
        await bus.subscribe("a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(TypeError):
            await bus.send(Fake(), "k", "/2")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("method", ["send", "send_nowait"])
async def test_a_bad_name_is_refused_even_if_the_send_would_wait(
    method: str, autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("**", max_buffer_size=1)
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        with pytest.raises(InvalidEventError):
            await call(getattr(bus, method), "a", "k.", "/x")
        assert_books(subscription, queued=1)


# ---------------------------------------------------------------------------------------------
# What is not a pattern
# ---------------------------------------------------------------------------------------------

BAD_PATTERNS = {
    "empty": ("", 0, "empty"),
    "empty first segment": (".a", 0, "empty"),
    "empty last segment": ("a.", 2, "empty"),
    "empty inner segment": ("a..b", 2, "empty"),
    "star after letters": ("orders.a*", 8, r"\*"),
    "star before letters": ("*a", None, None),
    "three stars": ("***", None, None),
    "stars after letters": ("a**", 1, r"\*"),
    "unclosed parenthesis": ("a.(b|c", None, "parenthes"),
    "unopened parenthesis": ("a.b)", 3, "parenthes"),
    "nested parentheses": ("((a))", 1, "nested"),
    "letters before parenthesis": ("a(b)", None, None),
    "letters after parenthesis": ("(b)a", None, None),
    "empty parentheses": ("()", 1, "empty"),
    "empty first alternative": ("(|a)", 1, "empty"),
    "empty last alternative": ("(a|)", 3, "empty"),
    "empty inner alternative": ("(a||b)", 3, "empty"),
    "bar outside of parentheses": ("a|b", 1, None),
    "wildcard as alternative": ("(a|*)", 3, None),
    "dot in an alternative": ("(a.b|c)", None, None),
    "too long": (LONG, None, "512"),
    "too deep": (DEEP, None, "16"),
    "too many alternatives": (MANY, None, "64"),
}


@pytest.mark.parametrize(
    ("pattern", "position", "rule"), BAD_PATTERNS.values(), ids=BAD_PATTERNS.keys()
)
@pytest.mark.parametrize("field", ["system", "kind"])
async def test_an_invalid_pattern_is_refused_and_the_error_points_at_the_mistake(
    pattern: str, position: int | None, rule: str | None, field: str, autojump_clock: MockClock
) -> None:
    arguments: dict[str, Any] = {"system": "a", field: pattern}
    async with untouched_bus() as bus:
        for _ in range(2):  # and it's persistent
            with pytest.raises(InvalidPatternError, match=rule) as caught:
                await bus.subscribe(**arguments)
        error = caught.value
        assert isinstance(error, ValueError)
        assert (error.kind, error.retryable) == (ErrorKind.INVALID, False)
        assert 0 <= error.position <= len(pattern)
        if position is not None:
            assert error.position == position
        assert error.details["pattern"] == pattern
        assert error.details["position"] == error.position
        assert str(error.position) in str(error)
        assert repr(pattern)[:10] in str(error)
        assert len(str(error)) < 300


@pytest.mark.parametrize("value", NOT_STR, ids=lambda value: type(value).__name__)
async def test_a_pattern_must_be_a_str(value: Any, autojump_clock: MockClock) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(TypeError, match="str"):
            await bus.subscribe(value)
        if value is not None:  # None is every kind
            with pytest.raises(TypeError, match="str"):
                await bus.subscribe("a", value)


# ---------------------------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, -256])
async def test_a_buffer_size_below_one_is_refused(size: int, autojump_clock: MockClock) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(ValueError, match=f"max_buffer_size.*{size}"):
            await bus.subscribe("a", max_buffer_size=size)


@pytest.mark.parametrize("size", [1.0, float("inf"), "1", None])
async def test_a_buffer_size_that_is_not_an_int_is_refused(
    size: Any, autojump_clock: MockClock
) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(TypeError, match="max_buffer_size"):
            await bus.subscribe("a", max_buffer_size=size)


@pytest.mark.parametrize("overflow", ["block", None, 0, Overflow])
async def test_an_overflow_that_is_none_of_the_policies_is_refused(
    overflow: Any, autojump_clock: MockClock
) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(TypeError, match="overflow"):
            await bus.subscribe("a", overflow=overflow)


async def test_options_are_keyword_only(autojump_clock: MockClock) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(TypeError):
            await bus.subscribe("a", "k", 3)  # type: ignore[call-overload]  # the point
    with pytest.raises(TypeError):
        open_event_bus(None)  # type: ignore[call-arg]  # the point


OPTIONS = pytest.mark.parametrize("option", ["inbox_size", "checkpoint_every", "max_subscriptions"])


@OPTIONS
@pytest.mark.parametrize("value", [0, -1])
async def test_a_number_of_a_bus_below_one_is_refused(
    option: str, value: int, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"{option}.*{value}"):
        async with open_event_bus(**options):
            pytest.fail("the block was entered")


@OPTIONS
@pytest.mark.parametrize("value", [1.5, "1", None])
async def test_an_option_of_a_bus_that_is_not_an_int_is_refused(
    option: str, value: object, autojump_clock: MockClock
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(TypeError, match=option):
        async with open_event_bus(**options):
            pytest.fail("the block was entered")


@OPTIONS
async def test_a_number_of_a_bus_may_be_one(option: str, autojump_clock: MockClock) -> None:
    options: dict[str, Any] = {option: 1}
    async with open_event_bus(**options) as bus:
        subscription = await bus.subscribe("a")
        for number in range(5):
            await bus.send("a", "k", f"/{number}")
            assert (await subscription.channel().receive()).path == f"/{number}"


@pytest.mark.parametrize("name", [None, 1, b"me"])
async def test_an_actor_name_that_is_not_a_str_is_refused(
    name: Any, autojump_clock: MockClock
) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(TypeError, match="str"):
            bus.for_actor(name)


@pytest.mark.parametrize("name", ["", "a..b", "*"])
async def test_an_invalid_actor_name_is_refused(name: str, autojump_clock: MockClock) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(EventBusError) as caught:
            bus.for_actor(name)
        assert isinstance(caught.value, ValueError)
        assert caught.value.kind is ErrorKind.INVALID
        assert repr(name) in str(caught.value)


async def test_a_missing_argument_is_a_type_error(autojump_clock: MockClock) -> None:
    async with untouched_bus() as bus:
        with pytest.raises(TypeError):
            await bus.send("a", "k")  # type: ignore[call-arg]  # the point
        with pytest.raises(TypeError):
            await bus.subscribe()  # type: ignore[call-overload]  # the point
