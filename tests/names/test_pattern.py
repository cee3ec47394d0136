"""Patterns: the grammar, matching, refusals, `covers` and `overlaps`, the canonical form.

The oracle is `reference`; see there why names of up to five segments are enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import combinations_with_replacement, pairwise, product
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from trio_events import ErrorKind, EventBusError, InvalidPatternError, Pattern, testing
from trio_events._names.pattern import path_filter
from trio_events._names.relations import common_name, uncovered_name

from ..steps import count_lines
from . import reference, strategies
from .strategies import examples, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def parse(text: str) -> Pattern:
    return Pattern.parse(text)


def refusal(text: str) -> InvalidPatternError:
    """Parse `text`, which must not work, and return the error."""
    with pytest.raises(InvalidPatternError) as caught:
        Pattern.parse(text)
    return caught.value


def every_pattern(segments: Sequence[str], longest: int) -> list[str]:
    return [
        ".".join(chosen)
        for count in range(1, longest + 1)
        for chosen in product(segments, repeat=count)
    ]


# ------------------------------------------------------------------------- section 3, line by line

MATCHES = [
    # a literal: exactly that segment
    ("orders", "orders"),
    ("order.created", "order.created"),
    # *: exactly one segment, any
    ("*", "orders"),
    ("orders.*", "orders.eu"),
    ("*.created", "order.created"),
    ("*.*", "order.created"),
    ("a.*.c", "a.b.c"),
    ("a.*.c", "a.a.c"),
    ("a.*.c", "a.c.c"),
    # **: zero or more segments
    ("orders.**", "orders"),
    ("orders.**", "orders.eu"),
    ("orders.**", "orders.eu.new"),
    ("**", "orders"),
    ("**", "orders.eu.new"),
    # anywhere in the pattern
    ("**.new", "new"),
    ("**.new", "orders.new"),
    ("**.new", "orders.eu.new"),
    ("a.**.b", "a.b"),
    ("a.**.b", "a.x.b"),
    ("a.**.b", "a.x.y.b"),
    ("a.**.b", "a.b.b"),
    ("a.**.b", "a.a.b"),
    # more than once if wanted
    ("**.a.**", "a"),
    ("**.a.**", "b.a.b"),
    ("**.a.**", "a.a.a"),
    ("**.a.**.b.**", "a.b"),
    ("**.a.**.b.**", "b.a.a.c.b.a"),
    ("**.**", "a"),
    ("a.**.**.b", "a.b"),
    # with one *, it is "one or more"
    ("a.*.**", "a.b"),
    ("a.**.*", "a.b"),
    ("a.**.*", "a.b.c.d"),
    # (a|b|c): one segment, one of these literals
    ("(a|b|c)", "a"),
    ("(a|b|c)", "b"),
    ("(a|b|c)", "c"),
    ("(a)", "a"),
    ("orders.(eu|us).**", "orders.eu"),
    ("orders.(eu|us).**", "orders.us.new"),
    ("(a|b).(a|b)", "b.a"),
]

DOES_NOT_MATCH = [
    ("orders", "order"),
    ("orders", "orderss"),
    ("orders", "sorders"),
    ("orders", "orders.eu"),
    ("orders", "eu.orders"),
    ("order.created", "order"),
    ("order.created", "created"),
    ("order.created", "created.order"),
    ("orders.*", "orders"),
    ("orders.*", "orders.eu.new"),
    ("orders.*", "order.eu"),
    ("*", "a.b"),
    ("*.*", "a"),
    ("*.*", "a.b.c"),
    ("*.created", "created"),
    ("a.*.c", "a.c"),
    ("a.*.c", "a.b.b.c"),
    ("orders.**", "order"),
    ("orders.**", "orders2"),
    ("orders.**", "ordersx.eu"),
    ("orders.**", "eu.orders"),
    ("**.new", "new.orders"),
    ("**.new", "renew"),
    ("a.**.b", "a"),
    ("a.**.b", "b"),
    ("a.**.b", "a.b.c"),
    ("a.**.b", "c.a.b"),
    ("a.**.a", "a"),
    ("**.a.**.b.**", "b.a"),
    ("**.a.**.a.**", "b.a.b"),
    ("a.*.**", "a"),
    ("a.**.*", "a"),
    ("**.*.*", "a"),
    ("(a|b|c)", "d"),
    ("(a|b|c)", "ab"),
    ("(a|b|c)", "a.b"),
    ("(a|b|c)", "a|b|c"),
    ("(a|b).(a|b)", "a"),
    ("(ab|cd)", "ad"),
    ("(ab|cd)", "abd"),
    ("(a)", "(a)"),
]


@pytest.mark.parametrize(("pattern", "name"), MATCHES)
def test_section_3_matches(pattern: str, name: str) -> None:
    assert parse(pattern).matches(name) is True
    assert reference.matches(pattern, name), "the oracle is wrong"


@pytest.mark.parametrize(("pattern", "name"), DOES_NOT_MATCH)
def test_section_3_does_not_match(pattern: str, name: str) -> None:
    assert parse(pattern).matches(name) is False
    assert not reference.matches(pattern, name), "the oracle is wrong"


def test_a_star_matches_exactly_one_segment() -> None:
    for count in range(1, 17):
        assert parse("*").matches(".".join("a" * count)) is (count == 1)


def test_a_double_star_matches_any_number_of_segments() -> None:
    for count in range(1, 17):
        assert parse("**").matches(".".join("a" * count))
        assert parse("a.**").matches(".".join("a" * count))
        assert parse("**.a").matches(".".join("a" * count))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "$bus", False),
        ("**", "$bus", False),
        ("**", "$bus.closed", False),
        ("*.*", "$bus.closed", False),
        ("*.closed", "$bus.closed", False),
        ("**.closed", "$bus.closed", False),
        ("**.$bus", "$bus", False),  # though ** matches nothing at all, it comes first
        ("**.**.$bus", "$bus", False),
        ("**.$bus.closed", "$bus.closed", False),
        ("**.(a|$bus)", "$bus", False),
        ("*.**", "$", False),
        ("$bus", "$bus", True),
        ("$bus.*", "$bus.closed", True),
        ("$bus.**", "$bus", True),
        ("$bus.**", "$bus.closed", True),
        ("(orders|$bus)", "$bus", True),
        ("(orders|$bus).**", "$bus.closed", True),
        ("$", "$", True),
        ("$bus", "bus", False),
        ("bus", "$bus", False),
        ("(orders|bus)", "$bus", False),
        # only the beginning of the name is reserved
        ("*", "bus$", True),
        ("*.*", "a.$bus", True),
        ("a.*", "a.$bus", True),
        ("**", "a.$bus", True),
        ("**.$bus", "a.$bus", True),
        ("*.$bus", "a.$bus", True),
        ("$a.**.$b", "$a.$c.$b", True),
    ],
)
def test_a_first_wildcard_does_not_match_a_leading_dollar(
    pattern: str, name: str, *, expected: bool
) -> None:
    assert parse(pattern).matches(name) is expected
    assert reference.matches(pattern, name) is expected, "the oracle is wrong"


@pytest.mark.parametrize(
    "literal",
    [
        "a+",
        "a?",
        "[ab]",
        "^a$",
        "a$",
        "\\w",
        "\\",
        "{a,b}",
        "a/b",
        " ",
        " a ",
        "a\n",
        "\n",
        "\0",
        "-",
        "a#",
        "%s",
        "{}",
        "\N{FULLWIDTH ASTERISK}",
        "\N{IDEOGRAPHIC FULL STOP}",
        "\N{SQUID}",
        "\ud800",
    ],
)
def test_every_other_character_means_itself(literal: str) -> None:
    for text in (literal, f"({literal})", f"(zz|{literal})"):
        pattern = parse(text)
        assert pattern.matches(literal)
        for other in ("a", "b", "aa", "w", "", literal + literal, literal + "\n", literal.strip()):
            assert other == literal or not pattern.matches(other)
    assert parse("*").matches(literal)
    assert parse(f"x.{literal}.**.y").matches(f"x.{literal}.y")


def test_a_newline_at_the_end_counts() -> None:
    assert not parse("a").matches("a\n")
    assert not parse("a\n").matches("a")
    assert not parse("a.b").matches("a\n.b")
    assert parse("*").matches("a\nb")
    assert parse("**").matches("a\nb.\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Orders", "orders"),
        ("ORDERS", "orders"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e", "strasse"),
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "i\N{COMBINING DOT ABOVE}"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"),
        ("\N{KELVIN SIGN}", "K"),
        ("\N{LATIN SMALL LIGATURE FI}", "fi"),
        ("a", "\N{CYRILLIC SMALL LETTER A}"),
        ("a", "a\N{ZERO WIDTH SPACE}"),
    ],
)
def test_names_that_differ_in_case_or_code_points_are_different(one: str, other: str) -> None:
    for pattern, name in ((one, other), (other, one)):
        assert parse(pattern).matches(pattern)
        assert not parse(pattern).matches(name)
        assert not parse(f"(zz|{pattern})").matches(name)
        assert parse(pattern) != parse(name)
        assert not parse(pattern).covers(parse(name))
        assert not parse(pattern).overlaps(parse(name))
    assert parse(f"({one}|{other})").matches(one)
    assert parse(f"({one}|{other})").matches(other)


# ------------------------------------------------------------------------- matching and the oracle


def test_every_small_pattern_matches_what_the_oracle_says() -> None:
    names = reference.names_up_to(4, "ab")
    for text in every_pattern(["a", "b", "*", "**", "(a|b)"], 3):
        pattern = parse(text)
        for name in names:
            assert pattern.matches(name) is reference.matches(text, name), (text, name)


def test_every_small_pattern_with_reserved_names_matches_what_the_oracle_says() -> None:
    names = reference.names_up_to(4, ("a", "c", "$x"))
    for text in every_pattern(["a", "$x", "*", "**", "(a|$x)"], 3):
        pattern = parse(text)
        for name in names:
            assert pattern.matches(name) is reference.matches(text, name), (text, name)


@examples(150)
@given(strategies.small_patterns(max_segments=8), strategies.small_names(max_segments=8))
def test_matches_is_what_the_oracle_says(text: str, name: str) -> None:
    assert parse(text).matches(name) is reference.matches(text, name)


@examples(60)
@given(testing.patterns(), testing.names(reserved=True))
def test_matches_is_what_the_oracle_says_for_any_text(text: str, name: str) -> None:
    assert parse(text).matches(name) is reference.matches(text, name)


@examples(100)
@given(testing.matching_pairs())
def test_a_name_made_from_a_pattern_matches_it(pair: tuple[str, str]) -> None:
    text, name = pair
    assert reference.matches(text, name), "the strategy is wrong"
    assert parse(text).matches(name)


@examples(50)
@given(testing.names(reserved=True), testing.names(reserved=True))
@example("a", "a\n")
def test_a_name_is_a_pattern_that_matches_only_itself(name: str, other: str) -> None:
    pattern = parse(name)
    assert str(pattern) == name
    assert pattern.matches(name)
    assert pattern.matches(other) is (name == other)


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", ".a", "a.", "*", "a.*", "(a|b)", "|"])
def test_no_pattern_matches_a_text_that_is_not_a_name(name: str) -> None:
    for text in ("a", "*", "**", "(a|b)", "a.**", "**.a", "*.*.**", "$x"):
        assert not parse(text).matches(name)


@pytest.mark.parametrize("wrong", [None, 1, b"a", ["a"], ("a",), True, 1.5, object()])
def test_a_value_that_is_not_a_str_is_a_type_error(wrong: object) -> None:
    with pytest.raises(TypeError):
        Pattern.parse(cast("Any", wrong))
    for text in ("a", "*", "**"):
        with pytest.raises(TypeError):
            parse(text).matches(cast("Any", wrong))


def test_an_instance_of_a_subclass_of_str_is_a_str() -> None:
    class Name(str):
        __slots__ = ()

    assert parse(Name("orders.*")) == parse("orders.*")
    assert parse("orders.*").matches(Name("orders.eu"))


# -------------------------------------------------------------------------------------- refusals

REFUSED = [
    # empty
    ("", 0),
    (".", 0),
    ("..", 0),
    ("a..b", 2),
    ("a.b..c", 4),
    ("a..", 2),
    (".a", 0),
    ("a.", 2),
    ("a.**.", 5),
    ("(a|b).", 6),
    # a wildcard that is only part of a segment
    ("a*", 1),
    ("*a", 0),
    ("***", 0),
    ("a**", 1),
    ("**a", 0),
    ("a*b*", 1),
    ("orders.e*", 8),
    ("orders.*u", 7),
    ("orders.****.x", 7),
    ("*.a*.b", 3),
    # a wildcard in parentheses
    ("(*)", 1),
    ("(**)", 1),
    ("(a|*)", 3),
    ("(*|a)", 1),
    ("(a|b*)", 4),
    ("(a|b)*", 5),
    # unbalanced parentheses
    ("(", 0),
    ("(a", 0),
    ("(a|b", 0),
    ("x.(a|b", 2),
    ("a)", 1),
    (")", 0),
    ("a.b).c", 3),
    ("(a))", 3),
    # nested parentheses
    ("((a)|b)", 1),
    ("(a|(b))", 3),
    ("((a))", 1),
    ("()()", 1),
    # parentheses that are only part of a segment
    ("x(a|b)", 1),
    ("(a|b)c", 5),
    ("(a|b)(c|d)", 5),
    ("x.y(a|b)", 3),
    ("(a)|b", 3),
    # a bar outside parentheses
    ("a|b", 1),
    ("|", 0),
    ("|a", 0),
    ("a.b|c", 3),
    # a dot in parentheses
    ("(a.b|c)", 2),
    ("(a|b.c)", 4),
    # an empty alternative
    ("(a||b)", 3),
    ("(|a)", 1),
    ("(a|)", 3),
    ("()", 1),
    ("x.()", 3),
    ("(|)", 1),
    # the leftmost problem wins
    ("a*..b", 1),
    ("a..b*", 2),
    ("a|b)", 1),
    ("a)|b", 1),
    ("x(*", 1),
    ("x*(", 1),
    # limits
    (".".join(["a"] * 17), 32),
    (".".join(["**"] * 17), 48),
    (".".join(["a"] * 16) + ".", 32),
    (".".join(["bb"] * 20) + "*", 48),
    (".".join(["b*"] + ["a"] * 20), 1),
    ("a" * 513, 512),
    ("a." * 400, 512),
    ("(" * 600, 512),
    ("*" * 10_000, 512),
    ("(" + "|".join(f"{n:02}" for n in range(65)) + ")", 193),
    ("x.(" + "|".join(f"{n:02}" for n in range(99)) + ").y", 195),
    ("(" + "|".join("a" * 65) + ")", 129),  # alternatives are counted as written
    ("(" + "a|" * 64 + "bc*)", 129),  # what is wrong inside the 65th is further right
    ("(" + "a|" * 64 + "bc.d)", 129),
    ("(" + "b|" * 64 + "*)", 129),
    ("(" + "b|" * 64 + ")", 129),
    ("(" + "c|" * 63 + "*|c)", 127),
]


@pytest.mark.parametrize(("text", "position"), REFUSED, ids=shown)
def test_a_refusal_points_at_the_character(text: str, position: int) -> None:
    error = refusal(text)
    assert error.position == position
    assert type(error.position) is int
    assert reference.blame(text) == {position}, "the oracle is wrong"


@pytest.mark.parametrize(
    ("text", "position"),
    sorted((strategies.BAD_SEGMENTS | strategies.BAD_LAST_SEGMENTS).items()),
)
def test_a_bad_segment_is_refused_wherever_it_is(text: str, position: int) -> None:
    assert refusal(text).position == position
    assert refusal(f"orders.*.{text}").position == 9 + position


def test_a_refusal_is_an_invalid_value_that_no_retry_mends() -> None:
    error = refusal("a..b")
    assert isinstance(error, EventBusError)
    assert isinstance(error, ValueError)
    assert error.kind is ErrorKind.INVALID
    assert error.retryable is False
    assert isinstance(error.details, Mapping)


@pytest.mark.parametrize(("text", "position"), REFUSED, ids=shown)
def test_the_message_of_a_refusal_names_the_value_and_the_position(
    text: str, position: int
) -> None:
    message = str(refusal(text))
    assert re.search(rf"\b{position}\b", message.replace(repr(text), "", 1)), message
    if len(text) <= 20:
        assert repr(text) in message
    assert len(message) < 1_000
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("a..b", "empty"),
        (".a", "empty"),
        ("a.", "empty"),
        ("(a||b)", "empty"),
        ("()", "empty"),
        (".".join(["a"] * 17), "16"),
        ("a" * 513, "512"),
        ("(" + "|".join("a" * 65) + ")", "64"),
        ("a*", r"\*|wildcard"),
        ("(a|*)", r"\*|wildcard"),
        ("(a", r"\(|parenthes"),
        ("a)", r"\)|parenthes"),
        ("((a)|b)", r"\(|parenthes|nest"),
        ("x(a|b)", r"\(|parenthes"),
        ("(a|b)c", r"\)|parenthes"),
        ("a|b", r"\||parenthes"),
        ("(a.b|c)", r"\.|dot"),
    ],
    ids=shown,
)
def test_the_message_of_a_refusal_names_the_rule(text: str, rule: str) -> None:
    message = str(refusal(text)).replace(repr(text), "", 1)
    assert re.search(rule, message, re.IGNORECASE), message


def test_different_rules_have_different_messages() -> None:
    texts = ["", "a..b", "a*", "(a", "a)", "(a||b)", "a" * 513, ".".join("a" * 17)]
    messages = {re.sub(r"'.*'|\d+", "", str(refusal(text))) for text in texts}
    assert len(messages) >= len(texts) - 1  # an empty pattern may be called an empty segment


@pytest.mark.parametrize("character", ["\n", "\0", "\x1b", "\ud800", "\N{RIGHT-TO-LEFT OVERRIDE}"])
def test_the_message_of_a_refusal_can_be_printed(character: str) -> None:
    message = str(refusal(f"{character}*"))
    assert message.isprintable()
    message.encode()


@examples(100)
@given(strategies.near_misses)
def test_a_near_miss_is_refused_where_it_goes_wrong(miss: tuple[str, int]) -> None:
    text, position = miss
    assert reference.blame(text) == {position}, "the oracle or the strategy is wrong"
    assert refusal(text).position == position


@examples(200)
@given(strategies.nasty_text)
@example("(a*")
@example("(a.b")
@example("(a.b)")
def test_parse_accepts_patterns_and_points_into_anything_else(text: str) -> None:
    allowed = reference.blame(text)
    assert reference.is_pattern(text) is (not allowed), "the oracle is wrong"
    try:
        Pattern.parse(text)
    except InvalidPatternError as error:
        assert error.position in allowed  # noqa: PT017 - or there must be no error
    else:
        assert not allowed


def test_every_short_text_is_accepted_or_refused_as_the_oracle_says() -> None:
    for count in range(6):
        for characters in product("a*(.|)", repeat=count):
            text = "".join(characters)
            allowed = reference.blame(text)
            try:
                Pattern.parse(text)
            except InvalidPatternError as error:
                assert error.position in allowed, text  # noqa: PT017 - or there must be no error
            else:
                assert not allowed, text


@examples(60)
@given(testing.patterns())
def test_every_pattern_made_by_the_rules_is_accepted(text: str) -> None:
    assert reference.is_pattern(text), "the strategy is wrong"
    Pattern.parse(text)


def test_what_is_just_within_the_limits_is_accepted() -> None:
    for text in (
        "a" * 512,
        "\N{SQUID}" * 512,  # characters, not bytes and not UTF-16 units
        ".".join(["a"] * 16),
        ".".join(["**"] * 16),
        ".".join(["*"] * 16),
        "(" + "|".join(f"{n:02}" for n in range(64)) + ")",
        "(" + "|".join("a" * 64) + ")",
        ".".join(["(" + "|".join("abcdefghijklmno") + ")"] * 16),
    ):
        assert reference.is_pattern(text), "the oracle is wrong"
        pattern = parse(text)
        assert pattern.matches(pattern_instance(text))
        assert pattern.covers(pattern)
    longest = ".".join(["a" * 31] * 16)
    assert len(longest + "a") == 512
    assert parse(longest + "a").matches(longest + "a")


def pattern_instance(text: str) -> str:
    return next(reference.instances(text, 1))


# --------------------------------------------------------------------------------- the value itself


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("orders.*", "orders.*"),
        ("(a)", "a"),
        ("(a).(b).c", "a.b.c"),
        ("(b|a)", "(a|b)"),
        ("(b|a|b|c|a)", "(a|b|c)"),
        ("(a|a)", "a"),
        ("(b|B|a|$)", "($|B|a|b)"),
        ("(aa|a|ab)", "(a|aa|ab)"),
        ("(10|9|1)", "(1|10|9)"),
        ("**.**", "**"),
        ("**.**.**", "**"),
        ("**.*", "*.**"),
        ("*.**", "*.**"),
        ("**.*.**", "*.**"),
        ("*.**.*", "*.*.**"),
        ("**.*.*.**.*", "*.*.*.**"),
        ("*.*", "*.*"),
        ("*.*.a.**.*", "*.*.a.*.**"),
        ("**.a.**", "**.a.**"),
        ("**.*.a.**.*.b.**.**", "*.**.a.*.**.b.**"),
        ("$x.**.*", "$x.*.**"),
        ("**.$x", "**.$x"),
        ("**.*.$x", "*.**.$x"),  # the same names as the one before, but told apart
        (".".join(["**"] * 16), "**"),
        (".".join(["*", "**"] * 8), "*.*.*.*.*.*.*.*.**"),
    ],
    ids=shown,
)
def test_str_is_canonical(text: str, canonical: str) -> None:
    pattern = parse(text)
    assert str(pattern) == canonical
    assert reference.canonical(text) == canonical, "the oracle is wrong"
    assert pattern == parse(canonical)
    assert hash(pattern) == hash(parse(canonical))
    assert repr(pattern) == f"Pattern.parse({canonical!r})"


def test_repr_can_be_read_back() -> None:
    for text in ("orders.*", 'it\'s."quoted"', "back\\slash", "new\nline.(\ud800|b)"):
        pattern = parse(text)
        assert eval(repr(pattern)) == pattern  # reading it back is the point


@examples(100)
@given(testing.patterns())
def test_the_canonical_form_parses_back_to_an_equal_pattern(text: str) -> None:
    pattern = parse(text)
    assert str(pattern) == reference.canonical(text)
    again = parse(str(pattern))
    assert again == pattern
    assert hash(again) == hash(pattern)
    assert str(again) == str(pattern)
    assert len(str(pattern)) <= len(text)


@examples(100)
@given(strategies.small_patterns(), strategies.small_patterns())
def test_patterns_are_equal_exactly_if_their_canonical_forms_are(one: str, other: str) -> None:
    same = reference.canonical(one) == reference.canonical(other)
    assert (parse(one) == parse(other)) is same
    assert (parse(one) != parse(other)) is not same
    assert len({parse(one), parse(other)}) == (1 if same else 2)


@examples(100)
@given(strategies.small_patterns(max_segments=6), strategies.small_names(max_segments=6))
def test_the_canonical_form_matches_the_same_names(text: str, name: str) -> None:
    assert parse(str(parse(text))).matches(name) is parse(text).matches(name)


def test_a_pattern_is_not_its_text() -> None:
    pattern = parse("a.*")
    assert (pattern == "a.*") is False
    assert (pattern != "a.*") is True
    assert pattern != cast("object", None)
    assert {pattern: 1}.get(cast("Any", "a.*")) is None


def test_a_pattern_cannot_be_changed() -> None:
    pattern = parse("a.*")
    with pytest.raises(AttributeError):
        cast("Any", pattern).text = "b"
    assert str(pattern) == "a.*"


def test_a_pattern_cannot_be_made_without_parsing() -> None:
    with pytest.raises(TypeError):
        cast("Any", Pattern)()
    with pytest.raises(TypeError):
        cast("Any", Pattern)("a.*")


# ---------------------------------------------------------------------------- covers and overlaps


@pytest.mark.parametrize(
    ("covering", "covered", "expected"),
    [
        ("**", "a", True),
        ("**", "a.*.**.(b|c)", True),
        ("**", "**", True),
        ("a", "**", False),
        ("orders.**", "orders.*", True),
        ("orders.*", "orders.**", False),
        ("orders.**", "orders", True),
        ("orders.*", "orders", False),
        ("orders", "orders.*", False),
        ("*", "a", True),
        ("*", "(a|b)", True),
        ("(a|b)", "*", False),
        ("(a|b|c)", "(a|c)", True),
        ("(a|c)", "(a|b|c)", False),
        ("(a|b)", "a", True),
        ("a.**.b", "a.b", True),
        ("a.**.b", "a.**.c.b", True),
        ("a.**.c.b", "a.**.b", False),
        ("**.a.**", "**.a.**.a.**", True),
        ("**.a.**.a.**", "**.a.**", False),
        # names have one segment or more, so "one or more" is all of them
        ("*.**", "**", True),
        ("**.*", "**", True),
        ("*.*.**", "**", False),
        ("a.*.**", "a.**", False),
        # which alternative: decided later, but always one of them
        ("**.(a|b).*", "(a|b).(a|b).(a|b)", True),
        ("**.a.*", "(a|b).a.*", True),
        ("**.a.**.b.**", "**.a.b.**", True),
        ("**.a.*.**.b.**", "**.a.b.**", False),
        # no pattern follows from the letters that happen to be named
        ("(a|b).**", "**", False),
        ("**.(a|b).**", "**", False),
        # what begins with a $
        ("**", "$x", False),
        ("*", "$x", False),
        ("**", "$x.**", False),
        ("**", "(a|$x)", False),
        ("*", "(a|$x)", False),
        ("(a|$x)", "$x", True),
        ("(a|$x).**", "$x.a", True),
        ("$x.**", "$x", True),
        ("$x.**", "**.$x", False),
        ("**.$x", "$x", False),
        ("**", "**.$x", True),
        ("*.**.$x", "**.$x", True),  # for $x itself, the ** must take a segment
        ("*.**.(a|$x)", "**.(a|$x)", False),
        ("a.**", "a.$x", True),
        ("a.*", "a.$x", True),
        ("*.$x", "a.$x", True),
        ("**.$x", "a.$x", True),
        ("$x", "$y", False),
    ],
)
def test_covers(covering: str, covered: str, *, expected: bool) -> None:
    assert parse(covering).covers(parse(covered)) is expected
    assert reference.covers(covering, covered) is expected, "the oracle is wrong"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("*", "**", True),
        ("**", "**", True),
        ("a.*", "*.b", True),
        ("a.*", "b.*", False),
        ("a.**", "**.b", True),
        ("a.**", "b.**", False),
        ("**.a", "**.b", False),
        ("a.**.b", "a.b", True),
        ("a.**.b", "a", False),
        ("a.**.a", "a", False),
        ("a.**.a", "**.a.*", True),
        ("(a|b)", "(b|c)", True),
        ("(a|b)", "(c|d)", False),
        ("(a|b).x", "(b|c).y", False),
        ("*.*", "**.a", True),
        ("*.*.*", "a.b", False),
        ("**.*.*", "*", False),
        ("**.a.**", "**.b.**", True),
        ("*.**", "**", True),
        # what begins with a $
        ("**", "$x", False),
        ("*", "$x", False),
        ("**", "$x.**", False),
        ("*", "(a|$x)", True),
        ("**.$x", "$x", False),
        ("**.$x", "*", False),  # which would have to be $x
        ("**.$x", "**", True),
        ("**.$x", "*.**", True),
        ("**.$x", "*.*", True),
        ("**.$x", "a.$x", True),
        ("**.$x", "$x.$x", False),
        ("**.$x", "**.$x.*", True),
        ("**.$x", "**.$x.$y.*", True),
        ("**.$x", "$x.**", False),
        ("**.(a|$x)", "*", True),
        ("(a|$x).**", "($x|b).*", True),
        ("(a|$x).**", "(b|$y).*", False),
        ("**.$x.$x", "**.$x", True),
        ("**.$x.$x", "*.*", False),
    ],
)
def test_overlaps(one: str, other: str, *, expected: bool) -> None:
    assert parse(one).overlaps(parse(other)) is expected
    assert parse(other).overlaps(parse(one)) is expected
    assert reference.overlaps(one, other) is expected, "the oracle is wrong"
    assert reference.overlaps(other, one) is expected, "the oracle is wrong"


LIKELY_PICKS = [
    *(chr(code) for code in range(128) if chr(code) not in "*()|.#+>?"),
    *("xx", "xxx", "_x", "__", "x_", "x0", "x1", "a0", "0a", "fresh", "other", "any", "None"),
    *("\xff", "\uffff", "\ud800", "\U0010ffff", "\N{SNOWMAN}", "\N{REPLACEMENT CHARACTER}"),
]
"""Segments that a program might pick to stand for "any other", hoping that nobody names them."""


@pytest.mark.parametrize("literal", LIKELY_PICKS, ids=shown)
def test_no_literal_stands_for_any_other_segment(literal: str) -> None:
    reserved = literal.startswith("$")
    one, several = parse(literal), parse(f"({literal}|x|y|z)")
    for pattern in (one, several):
        assert not pattern.covers(parse("*"))
        assert not parse(f"{pattern}.**").covers(parse("**"))
        assert not parse(f"a.{pattern}").covers(parse("a.*"))
        assert not parse(f"a.**.{pattern}.**").covers(parse("a.**"))
        assert not parse(f"**.{pattern}.**").covers(parse("*.*"))
        assert not parse(f"**.{pattern}").covers(parse(f"**.(qq|{literal})"))
        assert parse("**").covers(pattern) is not reserved
        assert parse("*").covers(pattern) is not reserved
        assert parse("a.*").covers(parse(f"a.{pattern}"))
        assert parse("*").overlaps(pattern) is (pattern is several or not reserved)
        assert parse(f"{pattern}.**").overlaps(parse(f"*.{pattern}")) is (
            pattern is several or not reserved
        )
        assert parse(f"{pattern}.**").overlaps(parse(f"**.{pattern}.**.a")) is (
            pattern is several or not reserved
        )
    assert not one.overlaps(parse("qq"))
    assert not parse(f"**.{literal}").overlaps(parse("**.qq"))


def test_all_the_likely_picks_together_do_not_stand_for_any_other_segment() -> None:
    for start in range(0, len(LIKELY_PICKS), 60):
        picks = f"({'|'.join(LIKELY_PICKS[start : start + 60])})"
        assert not parse(picks).covers(parse("*"))
        assert not parse(f"**.{picks}.**").covers(parse("**"))
        assert not parse(f"{picks}.**").covers(parse("*.a"))
        assert parse(f"**.{picks}").overlaps(parse("*.*.*"))


ORDINARY = (("a", "b", "*", "**", "(a|b)"), ("a", "b", reference.FRESH, "$x"))
RESERVED = (("$x", "*", "**", "(a|$x)"), ("a", reference.FRESH, "$x", "$y"))
SMALL_ALPHABETS = pytest.mark.parametrize(
    ("segments", "letters"), [ORDINARY, RESERVED], ids=["ordinary", "reserved"]
)


@cache
def bitmaps(segments: tuple[str, ...], letters: tuple[str, ...]) -> dict[str, int]:
    """Return each pattern of up to 3 of `segments`, with a bit for each name that it matches.

    The names have up to 5 of `letters`, which is enough for patterns of this size.
    """
    names = reference.names_up_to(5, letters)
    return {
        text: sum(1 << bit for bit, name in enumerate(names) if reference.matches(text, name))
        for text in every_pattern(segments, 3)
    }


@SMALL_ALPHABETS
def test_covers_is_exact_for_all_small_patterns(
    segments: tuple[str, ...], letters: tuple[str, ...]
) -> None:
    patterns = {parse(text): bits for text, bits in bitmaps(segments, letters).items()}
    for (one, names), (other, other_names) in product(patterns.items(), repeat=2):
        assert one.covers(other) is (other_names & ~names == 0), (one, other)


@SMALL_ALPHABETS
def test_overlaps_is_exact_for_all_small_patterns(
    segments: tuple[str, ...], letters: tuple[str, ...]
) -> None:
    patterns = {parse(text): bits for text, bits in bitmaps(segments, letters).items()}
    for (one, names), (other, other_names) in combinations_with_replacement(patterns.items(), 2):
        assert one.overlaps(other) is (names & other_names != 0), (one, other)


@SMALL_ALPHABETS
def test_the_oracles_for_all_names_agree(
    segments: tuple[str, ...], letters: tuple[str, ...]
) -> None:
    names = list(bitmaps(segments, letters).items())[::3]
    for one, one_names in names:
        for other, other_names in names:
            assert reference.covers(one, other) is (other_names & ~one_names == 0), (one, other)
            assert reference.overlaps(one, other) is (one_names & other_names != 0), (one, other)


@SMALL_ALPHABETS
def test_equal_patterns_match_the_same_names(
    segments: tuple[str, ...], letters: tuple[str, ...]
) -> None:
    by_pattern: dict[Pattern, int] = {}
    for text, bits in bitmaps(segments, letters).items():
        assert by_pattern.setdefault(parse(text), bits) == bits, text


@examples(100)
@given(strategies.related_pairs(max_segments=4))
def test_covers_is_what_the_oracle_says(pair: tuple[str, str]) -> None:
    one, other = pair
    runs, fresh = other.split(".").count("**"), one.split(".").count("*") + 2
    assume(fresh**runs < 500)  # that many names the oracle has to try
    assert parse(one).covers(parse(other)) is reference.covers(one, other)


@examples(100)
@given(strategies.related_pairs())
def test_overlaps_is_what_the_oracle_says(pair: tuple[str, str]) -> None:
    one, other = pair
    assert parse(one).overlaps(parse(other)) is reference.overlaps(one, other)


@examples(60)
@given(strategies.small_patterns(max_segments=8), st.data())
def test_a_wider_pattern_covers_and_that_is_transitive(text: str, data: st.DataObject) -> None:
    wider = data.draw(strategies.generalisations(text))
    widest = data.draw(strategies.generalisations(wider))
    for covering, covered in pairwise([widest, wider, text]):
        assert parse(covering).covers(parse(covered)), (covering, covered)
    assert parse(widest).covers(parse(text))
    assert parse(widest).overlaps(parse(text))


@examples(80)
@given(st.tuples(*[strategies.small_patterns(max_segments=3)] * 3))
def test_covers_is_transitive(texts: tuple[str, str, str]) -> None:
    a, b, c = map(parse, texts)
    assert not (a.covers(b) and b.covers(c)) or a.covers(c)
    assert not (a.covers(b) and b.overlaps(c)) or a.overlaps(c)


@examples(60)
@given(testing.patterns())
def test_every_pattern_covers_and_overlaps_itself_and_its_canonical_form(text: str) -> None:
    pattern = parse(text)
    canonical = parse(str(pattern))
    assert pattern.covers(pattern)
    assert pattern.overlaps(pattern)
    assert pattern.covers(canonical)
    assert canonical.covers(pattern)


@examples(50)
@given(strategies.related_pairs())
def test_covering_is_overlapping_and_overlapping_is_symmetric(pair: tuple[str, str]) -> None:
    one, other = map(parse, pair)
    assert one.overlaps(other) is other.overlaps(one)
    if one.covers(other):
        assert one.overlaps(other)  # for no pattern is without names


@examples(50)
@given(strategies.related_pairs(), st.lists(strategies.small_names(), min_size=1, max_size=20))
def test_covers_and_overlaps_keep_their_promises(pair: tuple[str, str], names: list[str]) -> None:
    one, other = map(parse, pair)
    covers, overlaps = one.covers(other), one.overlaps(other)
    for name in names:
        assert not (covers and other.matches(name)) or one.matches(name), name
        assert overlaps or not (one.matches(name) and other.matches(name)), name


@examples(50)
@given(testing.matching_pairs())
def test_a_pattern_covers_and_overlaps_each_of_its_names(pair: tuple[str, str]) -> None:
    text, name = pair
    assert parse(text).covers(parse(name))
    assert parse(text).overlaps(parse(name))
    assert parse(name).overlaps(parse(text))
    assert parse(name).covers(parse(text)) is (str(parse(text)) == name)


def test_a_common_name_uses_a_segment_that_neither_pattern_mentions() -> None:
    assert common_name(parse("*.x"), parse("*.(x|xx)")) == "xxx.x"
    assert common_name(parse("**"), parse("*")) == "x"


@examples(100)
@given(strategies.related_pairs(max_segments=4))
def test_a_common_name_is_matched_by_both_patterns(pair: tuple[str, str]) -> None:
    one, other = pair
    name = common_name(parse(one), parse(other))
    if name is None:
        assert not reference.overlaps(one, other)
    else:
        assert reference.matches(one, name)
        assert reference.matches(other, name)


@examples(100)
@given(strategies.related_pairs(max_segments=4))
def test_an_uncovered_name_is_matched_by_the_covered_pattern_only(pair: tuple[str, str]) -> None:
    one, other = pair
    name = uncovered_name([parse(one)], parse(other))
    assert parse(one).covers(parse(other)) is (name is None)
    if name is not None:
        assert reference.matches(other, name)
        assert not reference.matches(one, name)


# ------------------------------------------------------------------------------ never exponential

MATCHING = 60_000
"""More lines than it takes to try each of 16 segments against each of 250, some lines each."""

ALGEBRA = 10_000_000
"""More lines than it takes to go once through every set of places in a pattern of 16 segments."""


def dotted(*segments: str) -> str:
    return ".".join(segments)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (dotted(*["**", "a"] * 8), dotted(*"a" * 250), True),
        (dotted(*["**", "a"] * 8), dotted(*"a" * 250, "b"), False),
        (dotted(*["**", "a"] * 8), dotted(*"b" * 250, *"a" * 7), False),
        (dotted(*["**", "a"] * 7, "**", "b"), dotted(*"a" * 250), False),
        (dotted(*["**", "(a|b)"] * 7, "**", "c"), dotted(*"ab" * 125), False),
        (dotted(*["**", "*"] * 8), dotted(*"a" * 7), False),
        (dotted(*["*", "**"] * 8), dotted(*"a" * 250), True),
        (dotted(*["**"] * 15, "b"), dotted(*"a" * 250), False),
        (dotted(*["**"] * 16), dotted(*"a" * 250), True),
        (dotted(*["(a|b)"] * 16), dotted(*"ab" * 8), True),
        (dotted(*["(a|b)"] * 16), dotted(*"ab" * 7, "a", "c"), False),
        (dotted("**", "a", *"*" * 14), dotted(*"a" * 250), True),
        (dotted("**", "a", *"*" * 14), dotted(*"a" * 235, "b", *"a" * 14), False),
    ],
    ids=shown,
)
def test_matching_is_never_exponential(pattern: str, name: str, *, expected: bool) -> None:
    # A pattern of paths: names have 16 segments at most, and paths as many as they like.
    parsed, path = path_filter(pattern.replace(".", "/")), name.replace(".", "/")
    assert isinstance(parsed, Pattern)
    results: list[bool] = []
    count_lines(lambda: results.append(parsed.matches(path)), at_most=MATCHING)
    assert results == [expected]


@pytest.mark.parametrize(
    "text",
    [
        dotted(*["**", "a"] * 8),
        dotted(*["(" + "|".join("abcdefghijklmno") + ")"] * 16),
        "(" * 512,
        "(a" * 200,
        "*" * 512,
        "a|" * 256,
        "." * 512,
        "(" + "|" * 510 + ")",
        "(a|" * 1_000_000,
        "." * 1_000_000,
    ],
    ids=shown,
)
def test_parsing_is_never_exponential(text: str) -> None:
    def run() -> None:
        try:
            Pattern.parse(text)
        except InvalidPatternError as error:
            assert len(str(error)) < 1_000  # noqa: PT017 - some of the texts are patterns

    count_lines(run, at_most=50_000)


@pytest.mark.parametrize(
    ("one", "other", "covers", "overlaps"),
    [
        (dotted(*["**", "a"] * 8), dotted(*["**", "a"] * 8), True, True),
        (dotted(*["**", "a"] * 7), dotted(*["**", "a"] * 8), True, True),
        (dotted(*["**", "a"] * 8), dotted(*["**", "a"] * 7), False, True),
        (dotted(*["**", "a"] * 8), dotted(*["**", "b"] * 8), False, False),
        (dotted(*["**", "a"] * 7, "**"), dotted("**", *["b", "**"] * 7), False, True),
        (dotted(*["**", "a"] * 7, "**"), dotted("**", *["(a|b)", "**"] * 7), False, True),
        (dotted(*["**", "(a|b)"] * 7, "**"), dotted("**", *["a", "**"] * 7), True, True),
        (dotted(*["(a|b)"] * 16), dotted(*["(a|b)"] * 16), True, True),
        (dotted(*["(a|b|c)"] * 16), dotted(*["(a|b)"] * 16), True, True),
        (dotted(*["(a|b)"] * 16), dotted(*["(b|c)"] * 16), False, True),
        (dotted(*["(a|b)"] * 16), dotted(*["(a|b)"] * 15, "c"), False, False),
        (dotted(*["*"] * 16), dotted(*["(a|b)"] * 16), True, True),
        (dotted("**", "a", *"*" * 14), dotted("**", "a", *"*" * 14), True, True),
        (dotted("**", "a", *"*" * 9), dotted("**", "b", "a", *"*" * 9), True, True),
        (dotted("**", "a", *"*" * 13), dotted("**", "a", *"*" * 12), False, True),
        (dotted("**", "a", *"*" * 12, "b"), dotted("**", "b", *"*" * 12, "a"), False, False),
        (dotted("**", "a", *"*" * 12), dotted("**", "b", *"*" * 12), False, False),
        (dotted("**", "a", *"*" * 7), dotted(*["**", "a"] * 8), False, True),
        (dotted("**", "a", *"*" * 8, "**"), dotted("**", "b", "a", *"*" * 8), True, True),
        (dotted(*["**", "*"] * 8), dotted(*"*" * 8, "**"), True, True),
        (dotted("**", "(a|b)", *"*" * 12), dotted("**", "(b|c)", *"*" * 12), False, True),
        (dotted("**", "a", *["**", "b"] * 7), dotted("**", *["a", "b", "**"] * 5), False, True),
    ],
    ids=shown,
)
def test_covers_and_overlaps_are_bounded(
    one: str, other: str, *, covers: bool, overlaps: bool
) -> None:
    if other.count("|") < 8:  # else the oracle would try 2 ** 16 names
        assert reference.covers(one, other) is covers, "the oracle is wrong"
    assert reference.overlaps(one, other) is overlaps, "the oracle is wrong"
    first, second = parse(one), parse(other)
    run: list[tuple[Callable[[Pattern], bool], Pattern, bool]] = [
        (first.covers, second, covers),
        (first.overlaps, second, overlaps),
        (second.overlaps, first, overlaps),
    ]
    for operation, argument, expected in run:
        results: list[bool] = []
        count_lines(lambda: results.append(operation(argument)), at_most=ALGEBRA)  # noqa: B023
        assert results == [expected]
    count_lines(lambda: second.covers(first), at_most=ALGEBRA)
