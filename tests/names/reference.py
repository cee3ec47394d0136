"""An oracle for patterns and routing: slow, obvious, and written from DESIGN section 3 alone.

The package uses nothing of it, and nothing is clever: patterns stay the text they are, a match is
what `trio_events.testing` offers to everybody for reference, and questions about all names are
answered by trying names.

How far trying names can be trusted. Two patterns mention finitely many segments, so every other
segment is treated alike by both, and one `FRESH` segment stands for all of them (except that one
may also begin with a `$`, which is why alphabets here contain a `$x` too). What remains is the
length of the names:

- `covers` tries `instances`: each `**` written out as 0 … s+1 fresh segments, s being the number
  of `*` in the covering pattern, and each `*` as one. That **decides** the question for any two
  patterns. For take any name the covered pattern matches, and shorten its runs under `**` to at
  most s+1 fresh segments: this is one of the instances. If the covering pattern matches that, only
  wildcards of it stand on fresh segments; in a shortened run there are more of those than it has
  `*`, so one of its `**` stands there and can take in as many segments as had been cut away, and
  wildcards do not mind which. The first segment stays what it was, or is a wildcard's on both
  sides, so the rule about a leading `$` says the same of both names.
- `covers_up_to` and `overlaps_up_to` try every name up to a length. By the argument above, a
  counterexample to `covers` needs at most (segments other than `**` in the covered pattern) +
  (`**` in it) * (s+1) segments. A common name needs at most one more than the two patterns have
  segments other than `**`: what stands under a `**` in both can go, unless it is the first
  segment and hides a `$` behind it. Between patterns of up to 3 segments, names of up to 5
  **decide** both. (The formula asks for more only if the covering pattern has two or three `*`
  and the covered one a `**`. Then either the covering one has no `**`, so it matches names of one
  length only, at most 3, and the covered one a name of another length, at most 4; or it is
  `*.*.**` in some order, all names of two segments or more without a leading `$`, and a name of
  at most 3 segments shows the difference.) With larger patterns or shorter names they
  approximate: "does not cover" and "overlaps" are certain even then, the opposites are not.
- `overlaps` is a recursion over both patterns, without names: exact at any size.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Generic, TypeVar

from trio_events.testing import reference_matches

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

T = TypeVar("T", bound="Hashable")

MAX_SEGMENTS = 16
MAX_CHARACTERS = 512
MAX_ALTERNATIVES = 64

SPECIAL = "*()|"
"""What, beside the dot, cannot be part of a literal."""

FOREIGN = ("#", "+", ">", "?")
"""What cannot be a literal, because it is a wildcard elsewhere."""

FRESH = "\N{SPARKLES}"
"""A segment that no pattern of the tests contains: it stands for all segments no pattern names."""


# ---------------------------------------------------------------------------- what is well-formed


def is_sendable(name: str, field: str = "kind") -> bool:
    """Say whether `name` is good enough to be sent as a kind, or as another field."""
    return (
        0 < len(name) <= MAX_CHARACTERS
        and not (field == "system" and name.startswith("/"))
        and not any(segment in FOREIGN for segment in name.split("."))
        and not any(character in name for character in SPECIAL)
        and not name.startswith("$")
        and "" not in name.split(".")
        and len(name.split(".")) <= MAX_SEGMENTS
    )


def is_pattern(text: str) -> bool:
    """Say whether `text` is a pattern that `subscribe` accepts."""
    return (
        0 < len(text) <= MAX_CHARACTERS
        and len(text.split(".")) <= MAX_SEGMENTS
        and all(_is_segment(segment) for segment in text.split("."))
    )


def _is_segment(segment: str) -> bool:
    if segment in ("*", "**"):
        return True
    if segment.startswith("(") and segment.endswith(")"):
        alternatives = segment[1:-1].split("|")
        return len(alternatives) <= MAX_ALTERNATIVES and all(map(_is_literal, alternatives))
    return _is_literal(segment)


def _is_literal(segment: str) -> bool:
    return (
        segment != ""
        and segment not in FOREIGN
        and not any(character in segment for character in SPECIAL + ".")
    )


def blame(text: str) -> frozenset[int]:
    """Return where a refusal of `text` may point; nothing if `text` is a pattern.

    The leftmost problem is the one to report, so there is one position. There are two only where
    an open parenthesis is never closed *and* something after it is wrong in itself: `(a*`.
    """
    if text == "":
        return frozenset({0})
    if len(text) > MAX_CHARACTERS:
        return frozenset({MAX_CHARACTERS})
    start = 0
    for number, segment in enumerate(_dotted(text), start=1):
        if number > MAX_SEGMENTS:
            return frozenset({start})
        problem = _problem(segment)
        if problem is not None:
            unclosed = segment.startswith("(") and ")" not in text[start:]
            return frozenset({start + problem} | ({start} if unclosed else set()))
        start += len(segment) + 1
    return frozenset()


def _dotted(text: str) -> Iterator[str]:
    """Cut `text` at its dots, but leave a dot in parentheses, and all after it, to be refused."""
    while True:
        segment = text.split(".", maxsplit=1)[0]
        if segment.startswith("(") and ")" not in segment:
            segment = text
        yield segment
        if segment == text:
            return
        text = text[len(segment) + 1 :]


def _problem(segment: str) -> int | None:
    """Return the index of the first character of `segment` that is wrong, if one is."""
    if _is_segment(segment):
        return None
    if segment == "" or segment in FOREIGN:
        return 0
    if not segment.startswith("("):
        return next(index for index, character in enumerate(segment) if character in SPECIAL)
    alternatives = 1
    empty = True
    begin = 1
    for index, character in enumerate(segment[1:], start=1):
        if character in "(*." or (empty and character in "|)"):
            return index
        if character in "|)" and segment[begin:index] in FOREIGN:
            return begin
        if character == ")":
            return index + 1
        if character == "|":
            alternatives += 1
            empty = True
            begin = index + 1
            continue
        if empty and alternatives > MAX_ALTERNATIVES:
            return index
        empty = False
    return 0


def canonical(pattern: str) -> str:
    """Return how `str` is to write `pattern`."""
    written: list[str] = []
    run: list[str] = []
    for segment in [*pattern.split("."), "the end"]:
        if segment in ("*", "**"):
            run.append(segment)
            continue
        if "**" in run:
            run = ["*"] * run.count("*") + ["**"]
        written += run
        run = []
        alternatives = sorted(set(_literals(segment)))
        written.append(alternatives[0] if len(alternatives) == 1 else f"({'|'.join(alternatives)})")
    return ".".join(written[:-1])


# ---------------------------------------------------------------------------------------- matching

matches = reference_matches


def _literals(segment: str) -> list[str]:
    """Return the literals a segment stands for: none, one, or those in its parentheses."""
    if segment in ("*", "**"):
        return []
    return segment[1:-1].split("|") if segment.startswith("(") else [segment]


def _is_wild(segment: str) -> bool:
    return segment in ("*", "**")


# -------------------------------------------------------------------------- questions of all names


def names_up_to(length: int, letters: Sequence[str]) -> list[str]:
    """Return every name of 1 … `length` segments, each one of `letters`."""
    return [
        ".".join(segments)
        for count in range(1, length + 1)
        for segments in product(letters, repeat=count)
    ]


def language(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """Return those of `names` that `pattern` matches."""
    return frozenset(name for name in names if matches(pattern, name))


def covers_up_to(covering: str, covered: str, names: Iterable[str]) -> bool:
    """Say whether `covering` matches all that `covered` matches, as far as `names` can tell."""
    return all(matches(covering, name) for name in names if matches(covered, name))


def overlaps_up_to(one: str, other: str, names: Iterable[str]) -> bool:
    """Say whether a name that both match is among `names`."""
    return any(matches(one, name) and matches(other, name) for name in names)


def instances(pattern: str, longest_run: int) -> Iterator[str]:
    """Yield names that `pattern` matches: wildcards as fresh segments, alternatives one by one."""
    choices: list[list[tuple[str, ...]]] = []
    for segment in pattern.split("."):
        if segment == "**":
            choices.append([(FRESH,) * count for count in range(longest_run + 1)])
        else:
            choices.append([(literal,) for literal in _literals(segment) or [FRESH]])
    for parts in product(*choices):
        name = ".".join(segment for part in parts for segment in part)
        if name and matches(pattern, name):
            yield name


def covers(covering: str, covered: str) -> bool:
    """Say whether `covering` matches every name that `covered` matches.

    Exact, but exponential in the number of `**` and parentheses of `covered`.
    """
    assert FRESH not in covering + covered
    longest_run = covering.split(".").count("*") + 1
    return all(matches(covering, name) for name in instances(covered, longest_run))


def overlaps(one: str, other: str) -> bool:
    """Say whether there is a name that both patterns match. Exact.

    If the first segment of either is a wildcard, the name must not begin with a `$`.
    """
    first, second = tuple(one.split(".")), tuple(other.split("."))
    if not (_is_wild(first[0]) or _is_wild(second[0])):
        return _meet(first, second)
    return any(_meet(a, b) for a in _unreserved(first) for b in _unreserved(second))


def _unreserved(pattern: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return patterns that together match what `pattern` does where no leading `$` is.

    In them a first `*` is to be read as "any segment without a leading `$`", and as no first
    literal has one, that is the same here as any segment.
    """
    if not pattern:
        return []
    if pattern[0] == "**":
        return [("*", *pattern), *_unreserved(pattern[1:])]
    if pattern[0] == "*":
        return [pattern]
    literals = [literal for literal in _literals(pattern[0]) if not literal.startswith("$")]
    return [(literal, *pattern[1:]) for literal in literals]


@lru_cache(maxsize=200_000)
def _meet(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Say whether some sequence of segments, perhaps none, fits both."""
    if not one or not other:
        return all(segment == "**" for segment in one + other)
    if one[0] == "**":  # it ends here, or takes what the other has next
        return _meet(one[1:], other) or _meet(one, other[1:])
    if other[0] == "**":
        return _meet(other, one)
    here = (
        one[0] == "*"
        or other[0] == "*"
        or not set(_literals(one[0])).isdisjoint(_literals(other[0]))
    )
    return here and _meet(one[1:], other[1:])


# ----------------------------------------------------------------------------------------- routing


class RoutingList(Generic[T]):
    """What a routing table is to say, found by asking everyone in turn."""

    def __init__(self) -> None:
        self._entries: list[tuple[T, str, str | None]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, item: T, system: str, kind: str | None) -> None:
        """Append `item`."""
        self._entries.append((item, system, kind))

    def remove(self, item: T) -> None:
        """Take `item` out; the others keep their order."""
        self._entries = [entry for entry in self._entries if entry[0] != item]

    def match(self, system: str, kind: str) -> tuple[T, ...]:
        """Return the items whose two patterns match, first come first."""
        return tuple(
            item
            for item, system_pattern, kind_pattern in self._entries
            if matches(system_pattern, system)
            and (kind_pattern is None or matches(kind_pattern, kind))
        )
