"""Wildcards of other systems, and arguments in the wrong order, are refused with advice."""

from __future__ import annotations

from itertools import product

import pytest

from trio_events import (
    Allow,
    Deny,
    InvalidEventError,
    InvalidPatternError,
    Pattern,
    open_event_bus,
)
from trio_events._names.interest import Interest
from trio_events._names.pattern import path_filter, plain_name, system_pattern

INSTEAD = [("#", "**"), (">", "**"), ("+", "*"), ("?", "*")]

foreign = pytest.mark.parametrize(("wildcard", "instead"), INSTEAD)


@foreign
@pytest.mark.parametrize(
    ("text", "position"),
    [("{}", 0), ("orders.{}", 7), ("{}.a", 0), ("a.{}.b", 2), ("({})", 1), ("a.(b|{}|c)", 5)],
)
def test_a_pattern_with_a_foreign_wildcard_is_refused(
    text: str, position: int, wildcard: str, instead: str
) -> None:
    with pytest.raises(InvalidPatternError) as caught:
        Pattern.parse(text.format(wildcard))
    assert caught.value.position == position
    assert f"{wildcard!r} is not a wildcard here: use {instead!r}" in str(caught.value)


@foreign
@pytest.mark.parametrize("text", ["{}", "orders.{}", "{}.a", "a.{}.b"])
@pytest.mark.parametrize("field", ["system", "kind", "actor"])
def test_a_name_with_a_foreign_wildcard_is_refused(
    field: str, text: str, wildcard: str, instead: str
) -> None:
    with pytest.raises(InvalidEventError) as caught:
        plain_name(text.format(wildcard), field)
    assert f"{field} must not have a segment {wildcard!r}" in str(caught.value)
    assert f"use {instead!r}" in str(caught.value)


@pytest.mark.parametrize("text", ["a#", "#a", "c++", "what?", ">>", "##", "a.b>.c", "x.?!"])
def test_these_characters_are_ordinary_within_a_segment(text: str) -> None:
    assert plain_name(text, "system") == text
    assert Pattern.parse(text).matches(text)
    assert Pattern.parse(f"(zz|{text.partition('.')[0]}).**").matches(text)


@pytest.mark.parametrize("path", ["/#", "#", "/a/+/b", ">", "?", "/(#|a)", "/*/#"])
def test_paths_may_have_them(path: str) -> None:
    assert Interest.of("a", None, path).matches("a", "k", path.replace("(#|a)", "#"))
    path_filter(path)


# ------------------------------------------------------------------- arguments in the wrong order


@pytest.mark.parametrize("name", ["/", "/orders", "/orders/1", "/orders.x"])
def test_a_system_that_begins_with_a_slash_is_refused(name: str) -> None:
    with pytest.raises(InvalidEventError, match="are the arguments in the right order"):
        plain_name(name, "system")
    with pytest.raises(InvalidPatternError, match="are the arguments in the right order") as caught:
        Interest.of(name)
    assert caught.value.position == 0
    for rule in (Allow, Deny):
        with pytest.raises(InvalidPatternError, match="right order"):
            rule("events.send", name)


@pytest.mark.parametrize(
    ("text", "position"), [("/a.*", 0), ("(/a|b)", 1), ("(a/b|/c).d", 5), ("(a|/b|/c)", 3)]
)
def test_a_system_pattern_that_begins_with_a_slash_is_refused(text: str, position: int) -> None:
    with pytest.raises(InvalidPatternError, match="right order") as caught:
        system_pattern(text)
    assert caught.value.position == position


@pytest.mark.parametrize("text", ["a/b", "*./a", "**./a", "a./b", "(a/|b)"])
def test_a_slash_elsewhere_in_a_system_is_allowed(text: str) -> None:
    assert system_pattern(text) == Pattern.parse(text)


def test_a_kind_may_begin_with_a_slash() -> None:
    assert plain_name("/orders", "kind") == "/orders"
    assert Interest.of("a", "/orders.*").matches("a", "/orders.x", "/p")


async def test_a_bus_refuses_them_before_anything_has_happened() -> None:
    async with open_event_bus() as bus:
        for text, _ in product(["orders.#", "orders.>", "+", "/orders/1"], range(2)):
            with pytest.raises(InvalidPatternError):
                await bus.subscribe(text)
            with pytest.raises(InvalidEventError):
                await bus.send(text, "order.created", "/orders/1")
        with pytest.raises(InvalidEventError, match="right order"):
            await bus.send("/orders/1", "order.created", "orders")
        assert bus.statistics().accepted == 0
        assert bus.statistics().open_subscriptions == 0
