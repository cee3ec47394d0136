"""Events as entries of a log, and back."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_events import Event
from trio_events.bridge._envelope import MAX_EVENT_SIZE, MalformedError, Types, decode, encode

from .logs import entry

NOON = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def round_trip(event: Event[Any], type_: Any = None) -> Event[Any]:
    types = Types.of({} if type_ is None else {event.kind: type_})
    return types.event(decode(encode(event, "abcdefabcdef", 7, "shop", NOON)), "log", 3, 2)


def test_an_entry_is_a_cloud_event() -> None:
    event = Event("orders.eu", "order.created", "/orders/1", {"total": 42})
    assert json.loads(encode(event, "6dfa4bee15ba", 1, "shop", NOON)) == {
        "specversion": "1.0",
        "id": "6dfa4bee15ba-1",
        "source": "shop",
        "type": "order.created",
        "subject": "/orders/1",
        "time": "2026-11-26T12:00:00Z",
        "system": "orders.eu",
        "data": {"total": 42},
    }


@pytest.mark.parametrize("value", [None, "yes", 1, [True]])
def test_an_attribute_of_another_writer_that_is_no_request_is_ignored(value: object) -> None:
    assert decode(entry(request=value)).request is not True
    assert decode(entry(request=True)).request is True


@settings(max_examples=100, deadline=None)
@given(texts, texts, texts, json_values)
def test_what_json_can_say_comes_back(system: str, kind: str, path: str, data: object) -> None:
    event = Event(system, kind, path, data)
    back = round_trip(event)
    assert back == event
    source = back.source
    assert source is not None
    assert attrs.astuple(source) == ("log", 3, "abcdefabcdef-7", "shop", NOON, 2)
    assert decode(encode(event, "abcdefabcdef", 7, "shop", NOON)).writer == "abcdefabcdef"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_event_or_malformed(blob: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(blob)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["id", "source", "type", "subject", "system", "time", "data"]), json_values)
def test_any_attribute_may_be_anything(attribute: str, value: Any) -> None:
    try:
        envelope = decode(entry(**{attribute: value}))
    except MalformedError:
        assert attribute != "data"
        assert not isinstance(value, str) or attribute == "time"
    else:
        Types.of({}).event(envelope, "log", 1, 1)


@attrs.frozen
class Attrs:
    tags: set[str]
    at: datetime.datetime


@dataclasses.dataclass
class Data:
    pair: tuple[int, str]
    raw: bytes


class Struct(msgspec.Struct):
    id: uuid.UUID
    price: Decimal


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "untyped", "type_"),
    [
        (Attrs({"a"}, NOON), {"tags": ["a"], "at": "2026-11-26T12:00:00Z"}, Attrs),
        (Data((1, "x"), b"\x00\xff"), {"pair": [1, "x"], "raw": "AP8="}, Data),
        (
            Struct(uuid.UUID(int=1), Decimal("1.10")),
            {"id": "00000000-0000-0000-0000-000000000001", "price": "1.10"},
            Struct,
        ),
        (Colour.RED, "red", Colour),
        (Level.HIGH, 3, Level),
        ((1, 2), [1, 2], tuple),
        (frozenset({1}), [1], frozenset),
        (datetime.date(2026, 1, 2), "2026-01-02", datetime.date),
        ({"a": Colour.RED}, {"a": "red"}, dict[str, Colour]),
    ],
    ids=str,
)
def test_data_comes_back_plain_or_as_the_type_that_is_named(
    value: object, untyped: object, type_: Any
) -> None:
    assert round_trip(Event("s", "k", "/x", value)).data == untyped
    assert round_trip(Event("s", "k", "/x", value), type_).data == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null(value: float) -> None:
    assert round_trip(Event("s", "k", "/x", [value])).data == [None]


class Strange:
    def __init__(self) -> None:
        self.calls = 0


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "data", [Strange(), {1: {object()}}, b"x" * MAX_EVENT_SIZE, "\ud800", deep()], ids=range(5)
)
def test_what_cannot_be_written_is_an_error(data: object) -> None:
    with pytest.raises(Exception, match=r".+"):
        encode(Event("s", "k", "/x", data), "w", 1, "shop", NOON)


def test_a_name_that_is_not_unicode_cannot_be_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode(Event("s", "k", "/\ud800"), "w", 1, "shop", NOON)


class Explosive(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        raise ZeroDivisionError


def test_whatever_a_type_raises_makes_the_entry_malformed() -> None:
    types = Types.of({"k": Explosive})
    with pytest.raises(MalformedError, match="its data can't be read"):
        types.event(decode(entry(data={"number": 1})), "log", 1, 1)


@pytest.mark.parametrize("version", ["2.0", "0.3", "", "10"])
def test_another_major_version_is_malformed(version: str) -> None:
    with pytest.raises(MalformedError, match="CloudEvents"):
        decode(entry(specversion=version))


def test_a_later_minor_version_is_read() -> None:
    assert decode(entry(specversion="1.1")).subject == "/x"


def test_types_are_a_mapping_to_what_msgspec_can_read() -> None:
    wrong: Any = 7
    with pytest.raises(TypeError, match="mapping"):
        Types.of(wrong)
    with pytest.raises(TypeError):
        Types.of({"k": wrong})
