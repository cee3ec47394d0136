"""Every error can be pickled and copied, and says the same afterwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import TypeVar

import pytest

import trio_events
from trio_events import (
    Allow,
    Event,
    EventBusError,
    InvalidPatternError,
    Pattern,
    PolicyDeniedError,
)
from trio_events._names.pattern import plain_name

T = TypeVar("T")


def all_errors() -> list[type[EventBusError]]:
    values = [getattr(trio_events, name) for name in trio_events.__all__]
    return [v for v in values if isinstance(v, type) and issubclass(v, EventBusError)]


def _pickled(protocol: int) -> Callable[[T], T]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


ways = pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, *map(_pickled, range(pickle.HIGHEST_PROTOCOL + 1))],
    ids=["copy", "deepcopy", *(f"pickle {n}" for n in range(pickle.HIGHEST_PROTOCOL + 1))],
)


def assert_same(error: EventBusError, original: EventBusError) -> None:
    assert error is not original
    assert type(error) is type(original)
    assert str(error) == str(original)
    assert repr(error) == repr(original)
    assert error.args == original.args
    assert error.details == original.details
    assert (error.kind, error.retryable) == (original.kind, original.retryable)
    assert getattr(error, "__notes__", None) == getattr(original, "__notes__", None)


@ways
@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_an_error_is_the_same_again(
    cls: type[EventBusError], again: Callable[[EventBusError], EventBusError]
) -> None:
    if cls is EventBusError:
        pytest.skip("it has no kind of its own")
    event = Event("a", "k", "/x", {"n": 1})
    error = cls("it went wrong: 'x'", system="a", position=3, event=event, kind=None)
    assert_same(again(error), error)
    error.add_note("a note")
    error.add_note("another")
    assert_same(again(again(error)), error)


@ways
def test_an_error_that_was_raised_is_the_same_again(
    again: Callable[[EventBusError], EventBusError],
) -> None:
    with pytest.raises(EventBusError) as caught:
        plain_name("a..b", "system")
    assert_same(again(caught.value), caught.value)
    with pytest.raises(InvalidPatternError) as refused:
        Pattern.parse("a*")
    copied = again(refused.value)
    assert isinstance(copied, InvalidPatternError)
    assert copied.position == 1


def test_the_details_of_a_deep_copy_are_its_own() -> None:
    error = PolicyDeniedError("no", actor="me", seen=["a"])
    assert copy.deepcopy(error).details["seen"] is not error.details["seen"]
    assert copy.copy(error).details == error.details


def test_the_cause_is_what_python_makes_of_it() -> None:
    error = PolicyDeniedError("no")
    error.__cause__ = ValueError("why")
    assert pickle.loads(pickle.dumps(error)).__cause__ is None


@ways
def test_what_details_may_contain_is_the_same_again(again: Callable[[object], object]) -> None:
    for value in (Pattern.parse("(a|b).**"), Allow("events.send", "a.*")):
        assert again(value) == value
