"""The names that can be sent: what `plain_name` refuses, and how it says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_events import ErrorKind, EventBusError, InvalidEventError, Pattern, testing
from trio_events._names.pattern import plain_name

from . import reference, strategies
from .strategies import examples, shown


def refusal(name: str, field: str = "system") -> InvalidEventError:
    """Check `name`, which must not pass, and return the error."""
    with pytest.raises(InvalidEventError) as caught:
        plain_name(name, field)
    return caught.value


ACCEPTED = [
    "orders",
    "order.created",
    "Orders",
    "a.$b",
    "a$",
    "a.b.$",
    " ",
    " $a",
    "a b.c\n",
    "\n",
    "\0",
    "[a]",
    "a?b+c^d{e}",
    "/orders/123",
    "-",
    "a:b,c;d",
    "\N{SQUID}",
    "\N{IDEOGRAPHIC FULL STOP}",
    "\N{FULLWIDTH ASTERISK}",
    "\N{FULLWIDTH DOLLAR SIGN}x",
    "\ud800",
    "None",
    "0",
    ".".join(["a"] * 16),
    "a" * 512,
    "\N{SQUID}" * 512,
    ".".join(["b" * 31] * 16) + "b",
]

REFUSED = [
    # (name, the rule that the message must name)
    ("", "empty"),
    (".", "empty"),
    ("..", "empty"),
    (".a", "empty"),
    ("a.", "empty"),
    ("a..b", "empty"),
    ("*", r"\*|wildcard"),
    ("**", r"\*|wildcard"),
    ("orders.*", r"\*|wildcard"),
    ("orders.e*", r"\*|wildcard"),
    ("**.a", r"\*|wildcard"),
    ("(a|b)", r"[()|]"),
    ("(a)", r"[()]"),
    ("a(", r"\("),
    ("a)", r"\)"),
    ("a|b", r"\|"),
    ("a.b.|", r"\|"),
    ("$", r"\$"),
    ("$bus", r"\$"),
    ("$bus.closed", r"\$"),
    ("$.a", r"\$"),
    (".".join(["a"] * 17), "16"),
    (".".join(["a"] * 200), "16"),
    ("a" * 513, "512"),
    ("\N{SQUID}" * 513, "512"),
    ("a" * 1_000_000, "512"),
]


@pytest.mark.parametrize("name", ACCEPTED, ids=shown)
def test_a_name_that_can_be_sent_is_accepted(name: str) -> None:
    assert reference.is_sendable(name), "the oracle is wrong"
    assert plain_name(name, "kind") == name


@pytest.mark.parametrize(("name", "rule"), REFUSED, ids=shown)
def test_a_refusal_names_the_field_the_value_and_the_rule(name: str, rule: str) -> None:
    assert not reference.is_sendable(name), "the oracle is wrong"
    for field in ("system", "kind"):
        message = str(refusal(name, field))
        assert field in message
        if len(name) <= 20:
            assert repr(name) in message
        else:
            assert repr(name[:4])[1:-1] in message
        assert re.search(rule, message.replace(repr(name), "", 1), re.IGNORECASE), message


def test_a_long_value_is_shortened_in_the_message() -> None:
    for name in ("a" * 1_000_000, ".".join(["orders"] * 200), "\0" * 600):
        assert len(str(refusal(name))) < 500


def test_a_refusal_is_an_invalid_value_that_no_retry_mends() -> None:
    error = refusal("a..b")
    assert isinstance(error, EventBusError)
    assert isinstance(error, ValueError)
    assert error.kind is ErrorKind.INVALID
    assert error.retryable is False
    assert isinstance(error.details, Mapping)


def test_different_rules_have_different_messages() -> None:
    names = ["a..b", "a.*", "$a", ".".join("a" * 17), "a" * 513]
    messages = {re.sub(r"'.*'|\d+", "", str(refusal(name))) for name in names}
    assert len(messages) == len(names)


@pytest.mark.parametrize("character", ["\n", "\0", "\x1b", "\ud800", "\N{RIGHT-TO-LEFT OVERRIDE}"])
def test_the_message_of_a_refusal_can_be_printed(character: str) -> None:
    for name in (f"{character}*", f"{character}..a", f"${character}", character * 600):
        message = str(refusal(name))
        assert message.isprintable()
        message.encode()


@pytest.mark.parametrize("wrong", [None, 0, 1, b"a", b"", [], ["a"], True, 1.5, object()])
def test_a_value_that_is_not_a_str_is_a_type_error_that_names_the_field(wrong: object) -> None:
    with pytest.raises(TypeError, match="kind"):
        plain_name(cast("Any", wrong), "kind")


def test_an_instance_of_a_subclass_of_str_is_a_str() -> None:
    class Name(str):
        __slots__ = ()

    plain_name(Name("orders"), "system")
    with pytest.raises(InvalidEventError):
        plain_name(Name("orders.*"), "system")


@examples(50)
@given(testing.names())
def test_every_name_made_by_the_rules_is_accepted(name: str) -> None:
    plain_name(name, "system")


@examples(200)
@given(st.one_of(strategies.nasty_text, testing.names(max_segments=20, reserved=True)))
@example("a" * 512 + ".")
@example("$" * 600)
def test_check_name_accepts_exactly_what_can_be_sent(name: str) -> None:
    if reference.is_sendable(name):
        plain_name(name, "kind")
    else:
        refusal(name, "kind")


@examples(40)
@given(testing.names())
def test_a_name_that_can_be_sent_is_matched_by_the_wildcards(name: str) -> None:
    assert Pattern.parse("**").matches(name)
    assert Pattern.parse(".".join("*" * (name.count(".") + 1))).matches(name)
    assert Pattern.parse(name).matches(name)
