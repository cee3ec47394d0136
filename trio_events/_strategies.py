"""Hypothesis strategies for names, patterns and events. `trio_events.testing` has them."""

from __future__ import annotations

from hypothesis import strategies as st

from ._event import Event

_ODD_CHARACTERS = st.sampled_from(
    [
        *"abAB$",
        *" \t\n\r\0\x1b",  # "a\n" is not "a", whatever a regular expression's $ may say
        *"?+[]{}^\\-/:,'\"%#~_0",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\N{COMBINING ACUTE ACCENT}",
        "\N{LATIN SMALL LETTER SHARP S}",
        "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}",
        "\N{FULLWIDTH ASTERISK}",
        "\N{IDEOGRAPHIC FULL STOP}",
        "\N{ONE DOT LEADER}",
        "\N{RIGHT-TO-LEFT OVERRIDE}",
        "\N{LINE SEPARATOR}",
        "\N{SQUID}",
        "\ud800",  # half a surrogate pair: a str may hold it, an encoder may not
    ]
)
_WILDCARDS_ELSEWHERE = {"#", "+", ">", "?"}
_characters = _ODD_CHARACTERS | st.characters(exclude_characters="*()|.")
_reserved = st.text(_characters, max_size=5).map("${}".format)
_unreserved = st.text(_characters, min_size=1, max_size=6).filter(
    lambda text: text[0] not in "$/" and text not in _WILDCARDS_ELSEWHERE
)
_literals = st.one_of(_unreserved, _unreserved, _unreserved, _reserved)
_alternations = st.lists(_literals, min_size=1, max_size=4).map(lambda all_: f"({'|'.join(all_)})")
_segments = st.one_of(_literals, st.just("*"), st.just("**"), st.just("**"), _alternations)


def names(*, max_segments: int = 16, reserved: bool = False) -> st.SearchStrategy[str]:
    """Draw names that an event may have: any Unicode text, lone surrogates included.

    Characters that mean something to regular expressions, terminals or Unicode normalisation are
    drawn often.

    Args:
      max_segments: The most segments in a name, from 1 to 16.
      reserved: Whether names may begin with `$`, as those of the bus's own events do.
    """
    first = _literals if reserved else _unreserved
    rest = st.lists(_literals, max_size=max_segments - 1)
    return st.builds(lambda first, rest: ".".join([first, *rest]), first, rest)


def patterns(*, max_segments: int = 16) -> st.SearchStrategy[str]:
    """Draw texts that `Pattern.parse` accepts. Most are not in canonical form.

    Args:
      max_segments: The most segments in a pattern, from 1 to 16.
    """
    return st.lists(_segments, min_size=1, max_size=max_segments).map(".".join)


def matching_pairs(*, max_segments: int = 7) -> st.SearchStrategy[tuple[str, str]]:
    """Draw pairs of a pattern and a name that it matches by construction.

    A name may begin with `$` where the pattern allows it.

    Args:
      max_segments: The most segments in a pattern, from 1 to 7; the names then have at most 16.
    """
    return _matching_pairs(max_segments)


@st.composite
def _matching_pairs(draw: st.DrawFn, max_segments: int) -> tuple[str, str]:
    pattern = draw(patterns(max_segments=max_segments))
    name: list[str] = []
    for segment in pattern.split("."):
        if segment == "**":
            name += draw(st.lists(_literals, max_size=2))
        elif segment == "*":
            name.append(draw(_literals if name else _unreserved))
        else:
            name.append(draw(st.sampled_from(segment.strip("()").split("|"))))
    if pattern.startswith("**") and (not name or name[0].startswith("$")):
        name.insert(0, draw(_unreserved))  # the ** takes this too
    return pattern, ".".join(name)


def sendable_events(
    *,
    systems: st.SearchStrategy[str] | None = None,
    kinds: st.SearchStrategy[str] | None = None,
    paths: st.SearchStrategy[str] | None = None,
    data: st.SearchStrategy[object] | None = None,
) -> st.SearchStrategy[Event]:
    """Draw events that `send` accepts.

    Args:
      systems: The strategy for the system; by default `names()`.
      kinds: The strategy for the kind; by default `names()`.
      paths: The strategy for the path; by default any text that isn't empty.
      data: The strategy for the data; by default None, integers and text.
    """
    return st.builds(
        Event,
        names() if systems is None else systems,
        names() if kinds is None else kinds,
        st.text(min_size=1) if paths is None else paths,
        st.none() | st.integers() | st.text() if data is None else data,
    )


for _strategy in (matching_pairs, names, patterns, sendable_events):
    _strategy.__module__ = f"{__package__}.testing"  # where applications import it from
