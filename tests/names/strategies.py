"""Hypothesis strategies for names and patterns, as text.

Those of `trio_events.testing` draw from any Unicode, where an accidental match is rare. Those here
have a small alphabet (`a`, `b`, `c`, `$x`), where it is common and the brute force of `reference`
is affordable; or they draw what is almost a pattern.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from trio_events.testing import patterns

from .reference import MAX_ALTERNATIVES, MAX_CHARACTERS, MAX_SEGMENTS


def examples(count: int) -> settings:
    """Return a decorator: run `count` examples, and never fail because a machine is slow.

    A failure shows one bug, shrunk but not explained, for the rest can take minutes.
    """
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )


def shown(value: object) -> str:
    """Return how to show `value` in the name of a test: briefly, and in ASCII."""
    if isinstance(value, str) and len(value) > 30:
        return f"{value[:20]!a} and on to {len(value)}"
    return ascii(value)


# ------------------------------------------------------------------------------ the small alphabet

SMALL_LETTERS = ("a", "b", "c", "$x")
_SMALL_SEGMENTS = ("a", "b", "$x", "*", "*", "**", "**", "(a|b)", "(b|$x)", "(b|a|a)", "(b)")


def small_names(*, max_segments: int = 5) -> st.SearchStrategy[str]:
    """Draw a name over `SMALL_LETTERS`; it may begin with the reserved `$`."""
    return st.lists(st.sampled_from(SMALL_LETTERS), min_size=1, max_size=max_segments).map(".".join)


def small_patterns(*, max_segments: int = 5) -> st.SearchStrategy[str]:
    """Draw a pattern over `a`, `b` and `$x`."""
    return st.lists(st.sampled_from(_SMALL_SEGMENTS), min_size=1, max_size=max_segments).map(
        ".".join
    )


def _may_be_reserved(segment: str) -> bool:
    return any(literal.startswith("$") for literal in segment.strip("()").split("|"))


@st.composite
def generalisations(draw: st.DrawFn, pattern: str) -> str:
    """Draw a pattern that covers `pattern`, by widening its segments one by one.

    What may stand at the beginning of a name and begin with a `$` is not widened to a wildcard.
    """
    segments = pattern.split(".")
    room = MAX_SEGMENTS - len(segments)
    wider: list[str] = []
    for index, segment in enumerate(segments):
        frozen = index == 0 and _may_be_reserved(segment)
        if room > 0 and not frozen and draw(st.integers(0, 4)) == 0:
            wider.append("**")
            room -= 1
        if segment == "**":
            wider.append("**")
            continue
        choices = [segment]
        if not frozen:
            choices += ["*", "**"]
        if segment != "*":
            choices.append(f"({segment.strip('()')}|c)")
        wider.append(draw(st.sampled_from(choices)))
    return ".".join(wider)


@st.composite
def edited(draw: st.DrawFn, pattern: str) -> str:
    """Draw a pattern a few edits away from `pattern`: close enough that answers are in doubt."""
    segments = pattern.split(".")
    for _ in range(draw(st.integers(0, 2))):
        index = draw(st.integers(0, len(segments) - 1))
        segment = draw(st.sampled_from(_SMALL_SEGMENTS))
        match draw(st.sampled_from(["replace", "insert", "delete", "swap"])):
            case "replace":
                segments[index] = segment
            case "insert":
                segments.insert(index, segment)
            case "delete" if len(segments) > 1:
                del segments[index]
            case _:
                segments[index - 1], segments[index] = segments[index], segments[index - 1]
    return ".".join(segments)


@st.composite
def related_pairs(draw: st.DrawFn, *, max_segments: int = 5) -> tuple[str, str]:
    """Draw two small patterns that probably have something to do with each other."""
    one = draw(small_patterns(max_segments=max_segments))
    other = draw(st.one_of(generalisations(one), edited(one)))
    other = draw(edited(other)) if draw(st.booleans()) else other
    return (one, other) if draw(st.booleans()) else (other, one)


# ------------------------------------------------------------------------------------ near misses

BAD_SEGMENTS = {
    "": 0,
    "a*": 1,
    "*a": 0,
    "a**": 1,
    "**a": 0,
    "***": 0,
    "****": 0,
    "a*b*c": 1,
    "*(a|b)": 0,
    "(*)": 1,
    "(**)": 1,
    "(a|*)": 3,
    "(a|b*)": 4,
    "(a|b)*": 5,
    "(a|b)**": 5,
    "()": 1,
    "(|a)": 1,
    "(a|)": 3,
    "(a||b)": 3,
    "(|)": 1,
    "((a)|b)": 1,
    "((a|b))": 1,
    "(a|(b))": 3,
    "(a.b|c)": 2,
    "(a|b.c)": 4,
    "(.)": 1,
    "x(a|b)": 1,
    "(a|b)c": 5,
    "(a|b)(c|d)": 5,
    "(a|b)|c": 5,
    "(a))": 3,
    "a|b": 1,
    "a|": 1,
    "|a": 0,
    "|": 0,
    "||": 0,
    "a)": 1,
    ")": 0,
    ")(": 0,
    "a(": 1,
}
"""Segments that no pattern may have, with the index of the first character that is wrong."""

BAD_LAST_SEGMENTS = {"(": 0, "(a": 0, "(a|b": 0, "(a|": 0}
"""More of them; if more segments followed, a dot in the parenthesis would be wrong as well."""

_good_segments = st.lists(st.sampled_from(["a", "orders", "*", "**", "(a|b)", "$x"]), max_size=6)


def _join(before: list[str], bad: str, after: list[str], index: int) -> tuple[str, int]:
    return ".".join([*before, bad, *after]), sum(len(good) + 1 for good in before) + index


@st.composite
def _with_a_bad_segment(draw: st.DrawFn) -> tuple[str, int]:
    bad = draw(st.sampled_from(sorted(BAD_SEGMENTS)))
    return _join(draw(_good_segments), bad, draw(_good_segments), BAD_SEGMENTS[bad])


@st.composite
def _with_a_bad_last_segment(draw: st.DrawFn) -> tuple[str, int]:
    bad = draw(st.sampled_from(sorted(BAD_LAST_SEGMENTS)))
    return _join(draw(_good_segments), bad, [], BAD_LAST_SEGMENTS[bad])


@st.composite
def _with_too_many_segments(draw: st.DrawFn) -> tuple[str, int]:
    segment = st.sampled_from(["a", "*", "**", "(a|b)"])
    before = draw(st.lists(segment, min_size=MAX_SEGMENTS, max_size=MAX_SEGMENTS))
    return _join(before, draw(segment), draw(_good_segments), 0)


@st.composite
def _with_too_many_alternatives(draw: st.DrawFn) -> tuple[str, int]:
    extra = draw(st.integers(1, 10))
    alternatives = [f"a{number}" for number in range(MAX_ALTERNATIVES + extra)]
    index = len("(" + "|".join(alternatives[:MAX_ALTERNATIVES]) + "|")
    bad = f"({'|'.join(alternatives)})"
    return _join(draw(_good_segments), bad, draw(_good_segments), index)


@st.composite
def _with_too_many_characters(draw: st.DrawFn) -> tuple[str, int]:
    start = draw(st.one_of(patterns(max_segments=3), st.sampled_from(["a..b", "(", "a*", "|"])))
    return start + "a" * draw(st.integers(MAX_CHARACTERS, MAX_CHARACTERS + 99)), MAX_CHARACTERS


near_misses: st.SearchStrategy[tuple[str, int]] = st.one_of(
    _with_a_bad_segment(),
    _with_a_bad_segment(),
    _with_a_bad_last_segment(),
    _with_too_many_segments(),
    _with_too_many_alternatives(),
    _with_too_many_characters(),
)
"""Text that is almost a pattern, and the index of its one flaw (the leftmost, if it has more)."""

nasty_text = st.one_of(
    st.text("ab*().|$", max_size=12),
    st.text("(*.|)", max_size=12),
    st.text(st.sampled_from("*()|.\n$") | st.characters(), max_size=30),
    st.lists(st.sampled_from(["a", "*", "**", "(a|b)", "(", ")", "|", ".", ""]), max_size=20).map(
        ".".join
    ),
)
"""Text that may or may not be a pattern, mostly of the characters that matter."""
