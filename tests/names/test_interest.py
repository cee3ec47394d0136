"""Interests: reading them, matching, showing them; and the plain texts they are made of."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_events import (
    ExactPath,
    InvalidEventError,
    InvalidPatternError,
    Pattern,
    RulePolicy,
    testing,
)
from trio_events._names.interest import Interest
from trio_events._names.pattern import path_filter, plain_name, plain_path

from . import reference
from .odd_texts import Impostor, Liar, Member, NoRepr
from .strategies import examples, shown, small_names, small_patterns


@examples(200)
@given(small_patterns(), st.none() | small_patterns(), small_names(), small_names())
def test_both_patterns_must_match(
    system_pattern: str, kind_pattern: str | None, system: str, kind: str
) -> None:
    interest = Interest.of(system_pattern, kind_pattern)
    expected = reference.matches(system_pattern, system) and (
        kind_pattern is None or reference.matches(kind_pattern, kind)
    )
    assert interest.matches(system, kind, "/x") is expected
    assert interest.matches_names(system, kind) is expected


@pytest.mark.parametrize(
    ("path", "matched", "others"),
    [
        (None, ["/", "/a", "*"], [""]),
        ("/a", ["/a"], ["/a/", "a", "", "/b"]),
        ("/*", ["/a", "/", "/*"], ["/a/b", "a", ""]),
        ("**", ["/", "a", "/a/b"], [""]),
        (ExactPath("/*"), ["/*"], ["/a", ""]),
    ],
)
def test_the_path_must_match_too(
    path: str | ExactPath | None, matched: list[str], others: list[str]
) -> None:
    interest = Interest.of("a", None, path)
    for text in matched:
        assert interest.matches("a", "k", text)
        assert not interest.matches("b", "k", text)
    for text in others:
        assert not interest.matches("a", "k", text)


@pytest.mark.parametrize(
    ("interest", "text"),
    [
        (Interest.of("orders.*"), "'orders.*'"),
        (Interest.of("(b|a)", "x"), "'(a|b)' kind='x'"),
        (Interest.of("a", None, "/a"), "'a' path='/a'"),
        (Interest.of("a", "**.**", "/(b|a)/**"), "'a' kind='**' path='/(a|b)/**'"),
        (Interest.of("a", None, "/(a)"), "'a' path='/a'"),
        (Interest.of("a", None, ExactPath("/a")), "'a' path='/a'"),
        (Interest.of("a", None, ExactPath("/*")), "'a' path=ExactPath('/*')"),
    ],
)
def test_it_shows_its_canonical_texts(interest: Interest, text: str) -> None:
    assert str(interest) == text


def test_interests_are_equal_and_hashed_by_what_they_mean() -> None:
    one, other = Interest.of("(a|b)", "**.**", "/(x)"), Interest.of("(b|a)", "**", "/x")
    assert one == other
    assert len({one, other}) == 1
    assert Interest.of("a", None, "/*") != Interest.of("a", None, ExactPath("/*"))
    assert Interest.of("a") != Interest.of("a", "**")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.kind = None  # type: ignore[misc]  # the point


def test_a_pattern_of_paths_is_not_equal_to_one_of_names() -> None:
    paths = path_filter("*")
    assert paths != Pattern.parse("*")
    assert repr(paths) == "<pattern of paths '*'>"


@pytest.mark.parametrize(
    "wrong", [1, b"a", ["a"], NoRepr(), Impostor()], ids=lambda wrong: type(wrong).__name__
)
def test_a_part_of_the_wrong_type_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a str, not"):
        Interest.of(wrong)
    with pytest.raises(TypeError, match="must be a str, not"):
        Interest.of("a", wrong)
    with pytest.raises(TypeError, match="path must be a str, not"):
        Interest.of("a", None, wrong)
    with pytest.raises(TypeError, match="path must be a str, not"):
        ExactPath(wrong)
    with pytest.raises(TypeError, match="kind must be a str, not"):
        plain_name(wrong, "kind")
    with pytest.raises(TypeError, match="path must be a str, not"):
        plain_path(wrong)
    with pytest.raises(TypeError, match="must be a str, not"):
        Interest.of("a").matches(wrong, "k", "/x")
    with pytest.raises(TypeError, match="must be a str, not"):
        Interest.of("a").matches("a", "k", wrong)
    with pytest.raises(TypeError, match="must be a str, not"):
        RulePolicy([]).allows("me", "events.send", wrong)  # type: ignore[arg-type]  # a text will do


# ------------------------------------------------------------------------- subclasses of str


@pytest.mark.parametrize("text", [Liar, str])
def test_every_text_becomes_a_plain_str_at_the_edge(text: type[str]) -> None:
    interest = Interest.of(text("orders.*"), text("(k|l)"), text("/a"))
    assert str(interest) == "'orders.*' kind='(k|l)' path='/a'"
    assert type(interest.path) is str
    assert interest == Interest.of("orders.*", "(k|l)", "/a")
    assert interest.matches(text("orders.eu"), text("k"), text("/a"))
    assert not interest.matches(text("orders"), text("k"), text("/a"))
    pattern = Interest.of("a", None, text("/a/*"))
    assert pattern.matches("a", "k", text("/a/b"))
    assert not pattern.matches("a", "k", text("/secret"))
    name = text("a.b")
    for made in (plain_name(name, "system"), plain_path(name), str(Pattern.parse(name))):
        assert type(made) is str
        assert made == "a.b"
    exact = ExactPath(text("/*")).path
    assert type(exact) is str
    assert exact == "/*"


def test_a_member_of_a_str_enum_stands_for_its_value() -> None:
    interest = Interest.of(Member.PATTERN, Member.KIND, Member.PATH)
    assert str(interest) == "'orders.*' kind='order.created' path='/orders/1'"
    assert type(interest.path) is str
    assert str(Interest.of(Member.SYSTEM, None, Member.PATHS)) == "'orders' path='/orders/*'"
    assert ExactPath(Member.PATHS).path == "/orders/*"
    assert plain_name(Member.SYSTEM, "system") == "orders"


@pytest.mark.parametrize("text", ["", "a..b", "a.*", "#"])
def test_a_text_that_lies_about_its_type_is_refused(text: str) -> None:
    with pytest.raises(InvalidEventError) as event:
        plain_name(Liar(text), "kind")
    assert type(event.value.details["value"]) is str
    assert repr(text) in str(event.value)
    if text != "a.*":
        with pytest.raises(InvalidPatternError) as pattern:
            Pattern.parse(Liar(text))
        assert type(pattern.value.details["pattern"]) is str


def test_a_value_that_cannot_be_shown_does_not_hide_the_message() -> None:
    with pytest.raises(TypeError, match=r"system must be a str, not <.*NoRepr object"):
        plain_name(NoRepr(), "system")


# --------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a.", ".a", "a..c", "*", "a.*", "(a|b)", "a|b", "#", "a.#", "+", ">", "a.?"),
        *(".".join("a" * 17), "a" * 513),
    ],
    ids=shown,
)
def test_no_pattern_matches_a_text_that_is_not_a_name(text: str) -> None:
    for pattern in ("*", "**", "a.*", "a.**", "a.*.c", "**.c", "(a|b).**", "*.*.**"):
        assert not Pattern.parse(pattern).matches(text)
    with pytest.raises(InvalidEventError):
        plain_name(text, "kind")


@examples(200)
@given(testing.names(reserved=True) | st.text("a.*#$(|)", max_size=8))
def test_what_can_be_sent_or_is_reserved_is_matched_and_nothing_else(text: str) -> None:
    segments = ".".join("*" * (text.count(".") + 1))
    if reference.is_sendable(text):
        assert Pattern.parse(segments).matches(text)
    elif text.count(".") < 16:
        assert not Pattern.parse(segments).matches(text)


def test_names_of_the_bus_itself_are_matched() -> None:
    assert Pattern.parse("$bus.*").matches("$bus.closed")
    assert not Pattern.parse("$bus.*").matches("$bus.")


# -------------------------------------------------------------------------------- constructors


def test_a_class_without_a_public_constructor_says_which_function_makes_one() -> None:
    make: Any = Pattern
    with pytest.raises(TypeError, match=r"^Pattern has no public constructor: use Pattern\.parse$"):
        make("a")


def test_every_public_class_without_a_constructor_says_which_function_makes_one() -> None:
    import trio_events  # noqa: PLC0415  # all of it

    found = 0
    for name in trio_events.__all__:
        cls: Any = getattr(trio_events, name)
        if type(cls).__name__ == "NoPublicConstructor":
            found += 1
            with pytest.raises(TypeError, match=f"^{name} has no public constructor: use "):
                cls()
    assert found >= 5


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InvalidEventError, match="path must not be empty"):
        plain_path("")


# ---------------------------------------------------------------------------------------------
# Covering
# ---------------------------------------------------------------------------------------------

SYSTEMS = ("a", "*", "**", "a.*", "a.**", "(a|b)", "(a|b).(a|x)")
KINDS = (None, "k", "*", "**", "(k|l)", "*.**")
PATHS = (None, "/1", "/*", "/**", "**", "*/(1|2)", "1")
NAMES = ("a", "b", "x", "a.a", "a.b", "a.x", "b.x", "x.x", "a.x.x", "x.x.x")
EVENTS = tuple(
    itertools.product(
        NAMES,
        ("k", "l", "x", "k.x", "x.x.x"),
        ("/1", "/2", "/x", "1", "x", "/1/x", "/", "x/1", "//"),
    )
)


def test_an_interest_covers_exactly_those_whose_events_it_matches() -> None:
    interests = [Interest.of(*parts) for parts in itertools.product(SYSTEMS, KINDS, PATHS)]
    wanted = {
        interest: frozenset(event for event in EVENTS if interest.matches(*event))
        for interest in interests
    }
    for one, other in itertools.product(interests, repeat=2):
        assert one.covers(other) == (wanted[other] <= wanted[one]), f"{one} and {other}"


def test_one_path_does_not_cover_a_pattern_and_is_covered_literally() -> None:
    odd = Interest.of("a", path=ExactPath("/report (1).pdf"))
    assert odd.covers(odd)
    assert Interest.of("a", path="/*").covers(odd)
    assert not odd.covers(Interest.of("a", path="/*"))
    assert not odd.covers(Interest.of("a"))
