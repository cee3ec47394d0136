"""`ExactPath`: one path, whatever characters it has."""

from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_events import ExactPath, InvalidPatternError, open_event_bus
from trio_events._names.interest import Interest
from trio_events._names.pattern import path_filter
from trio_events._names.routing import RoutingTable

from .strategies import examples


@pytest.mark.parametrize(
    "path", ["/files/report (1).pdf", "/tmp/*", "**", "(", "a|b", "/#/+", "/plain", "*" * 2_000]
)
def test_an_exact_path_is_that_path_and_no_other(path: str) -> None:
    assert path_filter(ExactPath(path)) == path
    interest = Interest.of("a", None, ExactPath(path))
    assert interest.matches("a", "k", path)
    for other in ("/tmp/x", "/files/report 1.pdf", "x", f"{path}/", ""):
        assert not interest.matches("a", "k", other)


@examples(100)
@given(st.text("/a*(|)", min_size=1, max_size=6), st.text("/a*(|)", min_size=1, max_size=6))
def test_a_table_finds_exact_paths_by_equality(path: str, other: str) -> None:
    table = RoutingTable[str]()
    table.add("x", Interest.of("a", None, ExactPath(path)))
    assert table.match("a", "k").find(other) == (["x"] if path == other else [])


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InvalidPatternError, match="a path must not be empty") as caught:
        ExactPath("")
    assert caught.value.position == 0


def test_it_is_a_value() -> None:
    path = ExactPath("/a*")
    assert path == ExactPath("/a*")
    assert path != ExactPath("/a")
    assert len({path, ExactPath("/a*")}) == 1
    assert repr(path) == "ExactPath(path='/a*')"
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        path.path = "/b"  # type: ignore[misc]  # the point


async def test_a_subscription_may_ask_for_an_exact_path() -> None:
    path: Any = ExactPath("/files/report (1).pdf")
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("files", path=path)
        await bus.send("files", "file.changed", "/files/other.pdf")
        await bus.send("files", "file.changed", "/files/report (1).pdf")
        event = await subscription.channel().receive()
        assert event.path == "/files/report (1).pdf"
