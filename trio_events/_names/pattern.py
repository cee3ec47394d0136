"""Names and patterns: the grammar, matching, and which pattern contains which.

A name is text in dot-separated segments. A pattern is the same with wildcards:

    literal   exactly that segment
    *         exactly one segment, any
    **        zero or more segments
    (a|b|c)   one segment, one of these literals

A pattern is small (16 segments), so it is run as a nondeterministic automaton whose set of
states is one integer: bit `i` says that the first `i` segments of the pattern have been used up.
That makes matching linear in the name, whatever the pattern.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NoReturn, TypeAlias, final

import attrs

from .._errors import InvalidEventError, InvalidPatternError
from .._no_public_constructor import NoPublicConstructor

MAX_SEGMENTS: Final = 16
MAX_CHARACTERS: Final = 512
MAX_ALTERNATIVES: Final = 64

ONE: Final = "*"
MANY: Final = "**"
_IN_PATHS: Final = "/"
"""What separates the segments of a path; in names it is a dot."""

RESERVED: Final = "$"
"""Names that begin so are the bus's own; no leading wildcard matches them."""

FRESH: Final = ""
"""Stands for a segment that no pattern mentions: only wildcards match it."""

_WILDCARDS: Final = frozenset({ONE, MANY})
_SPECIAL: Final = frozenset("*(|)")

Segment: TypeAlias = "str | frozenset[str]"
"""`ONE`, `MANY`, a literal, or at least two alternatives. (No literal contains a star.)"""


def check_name(name: object, field: str, *, reserved: bool = False) -> None:
    """Refuse what cannot be the system or the kind of an event.

    Args:
      name: The value to check.
      field: What to call it in the message.
      reserved: Whether it may begin with `$`, as names that the bus itself sends do.

    Raises:
      TypeError: If it is not a `str`.
      InvalidEventError: If it is empty or too long, has an empty segment or too many segments,
        contains one of `* ( ) |`, or begins with `$` and is not `reserved`.
    """
    if not isinstance(name, str):
        raise TypeError(f"{field} must be a str, not {_shown(name)}")
    if not name:
        rule = "must not be empty"
    elif len(name) > MAX_CHARACTERS:
        rule = f"must have at most {MAX_CHARACTERS} characters, not {len(name)}"
    elif name.startswith(RESERVED) and not reserved:
        rule = f"must not begin with {RESERVED!r}, which is reserved for the bus itself"
    elif not _SPECIAL.isdisjoint(name):
        rule = "must be a name, without any of the pattern characters * ( ) |"
    elif "" in (segments := name.split(".")):
        rule = "must not have an empty segment"
    elif len(segments) > MAX_SEGMENTS:
        rule = f"must have at most {MAX_SEGMENTS} segments, not {len(segments)}"
    else:
        return
    raise InvalidEventError(f"{field} {rule}: {_shown(name)}", field=field, value=name)


def check_path(path: object) -> None:
    """Refuse what cannot be the path of an event: anything but a `str` that is not empty.

    Raises:
      TypeError: If it is not a `str`.
      InvalidEventError: If it is empty.
    """
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {_shown(path)}")
    if not path:
        raise InvalidEventError("path must not be empty", field="path", value=path)


@final
@attrs.frozen(eq=False, repr=False)
class Pattern(metaclass=NoPublicConstructor):
    """A pattern over dot-separated names. Make one with `Pattern.parse`.

    Patterns are equal if their canonical texts are. All methods are synchronous and pure.
    """

    segments: tuple[Segment, ...]
    """The pattern's segments in canonical form: no two `**` next to each other."""

    _text: str
    _separator: str
    _ones: int  # the states whose next segment is `*`
    _manys: int  # the states whose next segment is `**`
    _literals: dict[str, int]  # for each literal: the states whose next segment allows it

    @staticmethod
    def parse(text: str) -> Pattern:
        """Read a pattern.

        Args:
          text: At most 512 characters in at most 16 segments.

        Raises:
          TypeError: If `text` is not a `str`.
          InvalidPatternError: If it is not a pattern; `position` says where.
        """
        if not isinstance(text, str):
            raise TypeError(f"a pattern must be a str, not {_shown(text)}")
        return Pattern._of(text, ".")

    @staticmethod
    def _of(text: str, separator: str) -> Pattern:
        segments = tuple(_canonical(_parse(text, separator)))
        ones = manys = 0
        literals: dict[str, int] = {}
        for i, segment in enumerate(segments):
            if segment == ONE:
                ones |= 1 << i
            elif segment == MANY:
                manys |= 1 << i
            else:
                for literal in _alternatives(segment):
                    literals[literal] = literals.get(literal, 0) | 1 << i
        canonical = separator.join(map(_segment_text, segments))
        return Pattern._create(segments, canonical, separator, ones, manys, literals)

    @property
    def literal(self) -> str | None:
        """The one name that this pattern matches, or None if it may match several."""
        one_name = all(isinstance(s, str) and s not in _WILDCARDS for s in self.segments)
        return self._text if one_name else None

    def matches(self, name: str) -> bool:
        """Whether the name is one of those that the pattern describes.

        Names that begin with `$` are matched only by patterns that begin with a literal or
        with alternatives. Linear in the length of the name.

        Raises:
          TypeError: If `name` is not a `str`.
        """
        if not isinstance(name, str):
            raise TypeError(f"a name must be a str, not {_shown(name)}")
        head, *tail = name.split(self._separator)
        states = self._first(head)
        for segment in tail:
            states = self._next(states, segment)
        return self._accepts(states)

    def covers(self, other: Pattern) -> bool:
        """Whether this pattern matches every name that the other one matches.

        Exact, over names of any number of segments from one up.
        """
        return cover_together([self], other)

    def overlaps(self, other: Pattern) -> bool:
        """Whether some name is matched by both patterns.

        Exact, over names of any number of segments from one up. Takes a number of steps
        proportional to the product of the two numbers of segments.
        """
        return common_name(self, other) is not None

    def _closed(self, states: int) -> int:
        # A `**` may match nothing at all. One round is enough: no two stand side by side.
        return states | (states & self._manys) << 1

    def _next(self, states: int, symbol: str) -> int:
        moving = states & (self._ones | self._literals.get(symbol, 0))
        return self._closed(states & self._manys | moving << 1)

    def _first(self, symbol: str) -> int:
        return self._next(self._closed(1), symbol) if self._may_begin(symbol) else 0

    def _may_begin(self, symbol: str) -> bool:
        return (
            not symbol.startswith(RESERVED)
            or self.segments[0] not in _WILDCARDS
            or self._separator == _IN_PATHS  # nothing is reserved there
        )

    def _accepts(self, states: int) -> bool:
        return bool(states >> len(self.segments))

    def __str__(self) -> str:
        """The canonical text, which parses back to an equal pattern."""
        return self._text

    def __repr__(self) -> str:
        return f"Pattern.parse({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Pattern) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)


def path_filter(path: str) -> str | Pattern:
    """Read which paths are wanted: one, which is then returned, or those of a pattern.

    In a pattern of paths the separator is `/`, and a segment may be empty, as the first one of
    `/orders/*` is. A text without any of the pattern characters is one path.

    Raises:
      TypeError: If `path` is not a `str`.
      InvalidPatternError: If it is empty, or has a pattern character and is no pattern.
    """
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {_shown(path)}")
    if path and _SPECIAL.isdisjoint(path):
        return path
    return Pattern._of(path, _IN_PATHS)


def common_name(one: Pattern, other: Pattern) -> str | None:
    """A name that both patterns match, or None if there is none.

    A short one where that costs nothing; it may have more segments than an event's can.
    """
    # A node is a state of each pattern, and whether the name has begun.
    start, goal = (0, 0, False), (len(one.segments), len(other.segments), True)
    names: dict[tuple[int, int, bool], tuple[str, ...]] = {start: ()}  # that lead to a node
    todo = [start]
    while todo and goal not in names:
        i, j, begun = node = todo.pop()
        ours = one.segments[i] if i < goal[0] else None
        theirs = other.segments[j] if j < goal[1] else None
        following = []
        if ours is not None and theirs is not None:
            after = (i if ours == MANY else i + 1, j if theirs == MANY else j + 1, True)
            for symbol in _common_symbols(ours, theirs):
                if begun or (one._may_begin(symbol) and other._may_begin(symbol)):
                    following.append((after, (*names[node], symbol)))
                    break
        # These come last, to be tried first: they add nothing to the name.
        if ours == MANY:
            following.append(((i + 1, j, begun), names[node]))
        if theirs == MANY:
            following.append(((i, j + 1, begun), names[node]))
        for after, name in following:
            if after not in names:
                names[after] = name
                todo.append(after)
    return _spelt(names[goal], [one, other]) if goal in names else None


def cover_together(
    patterns: Sequence[Pattern], other: Pattern, *, max_steps: float = math.inf
) -> bool:
    """Whether every name that the other pattern matches is matched by one of the patterns.

    Exact, unless it takes more steps than allowed: then the answer is False.
    """
    return uncovered_name(patterns, other, max_steps=max_steps) is None


_Trail: TypeAlias = "tuple[str, _Trail] | None"
"""The segments of a name from the last one back, so that all names share their beginnings."""


def uncovered_name(
    patterns: Sequence[Pattern], other: Pattern, *, max_steps: float = math.inf
) -> str | None:
    """A name that the other pattern matches and none of the patterns does.

    Returns:
      The name, a short one where that costs nothing; it may have more segments than an event's
      can. None if there is no such name. The empty text, which is no name, if it takes more
      steps than allowed to find out. A step is what one segment does to one pattern.
    """
    # Look for a name of `other` that is in none of the patterns, following `other` along one path
    # at a time (its state is a number) and the patterns along all paths at once (each has a set of
    # states). Where `other` has a wildcard it is enough to try FRESH: a segment that somebody
    # knows as a literal could only help the patterns.
    start = (0, tuple(pattern._closed(1) for pattern in patterns), False)
    names: dict[tuple[int, tuple[int, ...], bool], _Trail] = {start: None}  # that lead to a node
    todo = [start]
    steps = 0
    while todo:
        if steps > max_steps:
            return ""
        state, sets, begun = node = todo.pop()
        if state == len(other.segments):
            if begun and not any(
                p._accepts(states) for p, states in zip(patterns, sets, strict=True)
            ):
                return _spelt(_symbols(names[node]), [*patterns, other])
            continue
        segment = other.segments[state]
        after = state if segment == MANY else state + 1
        following: list[tuple[tuple[int, tuple[int, ...], bool], _Trail]] = []
        for symbol in (FRESH,) if segment in _WILDCARDS else sorted(_alternatives(segment)):
            steps += 1 + len(patterns)
            if begun:
                next_sets = tuple(
                    p._next(states, symbol) for p, states in zip(patterns, sets, strict=True)
                )
            elif other._may_begin(symbol):
                next_sets = tuple(p._first(symbol) for p in patterns)
            else:
                continue
            following.append(((after, next_sets, True), (symbol, names[node])))
        if segment == MANY:  # last, to be tried first: it adds nothing to the name
            following.append(((state + 1, sets, begun), names[node]))
        for after_node, trail in following:
            if after_node not in names:
                names[after_node] = trail
                todo.append(after_node)
    return None


def _symbols(trail: _Trail) -> list[str]:
    symbols = []
    while trail is not None:
        symbol, trail = trail
        symbols.append(symbol)
    return symbols[::-1]


def _spelt(symbols: Iterable[str], patterns: Iterable[Pattern]) -> str:
    """The name of these segments, FRESH being one that none of the patterns mentions."""
    literals = set[str]().union(*(pattern._literals for pattern in patterns))
    fresh = "x"
    while fresh in literals:
        fresh += "x"
    return ".".join(symbol or fresh for symbol in symbols)


def _alternatives(segment: Segment) -> Iterable[str]:
    return (segment,) if isinstance(segment, str) else segment


def _common_symbols(a: Segment, b: Segment) -> Iterable[str]:
    """Segments of a name that both match; for two wildcards, FRESH stands for any."""
    if a in _WILDCARDS:
        return (FRESH,) if b in _WILDCARDS else sorted(_alternatives(b))
    if b in _WILDCARDS:
        return sorted(_alternatives(a))
    return sorted(set(_alternatives(a)).intersection(_alternatives(b)))


def _canonical(segments: list[Segment]) -> Iterator[Segment]:
    """Of each run of wildcards with a `**` in it, leave all its `*` and then one `**`."""
    many = False
    for segment in segments:
        if segment == MANY:
            many = True
            continue
        if many and segment != ONE:
            yield MANY
            many = False
        yield segment
    if many:
        yield MANY


def _segment_text(segment: Segment) -> str:
    return segment if isinstance(segment, str) else f"({'|'.join(sorted(segment))})"


def _parse(text: str, separator: str) -> list[Segment]:
    if not text:
        _refuse(text, 0, "a pattern must not be empty")
    if len(text) > MAX_CHARACTERS:
        _refuse(text, MAX_CHARACTERS, f"a pattern has at most {MAX_CHARACTERS} characters")
    segments: list[Segment] = []
    end = -1
    while end < len(text):
        start = end + 1
        if len(segments) == MAX_SEGMENTS:
            _refuse(text, start, f"a pattern has at most {MAX_SEGMENTS} segments")
        read = _parse_group if text.startswith("(", start) else _parse_word
        segment, end = read(text, start, separator)
        segments.append(segment)
    return segments


def _parse_word(text: str, start: int, separator: str) -> tuple[Segment, int]:
    """Read a literal or a wildcard; returns it and the index of what ends it."""
    end = text.find(separator, start)
    if end == -1:
        end = len(text)
    word = text[start:end]
    if not word and separator != _IN_PATHS:
        _refuse(text, start, "a segment must not be empty")
    if word not in _WILDCARDS:
        for position, character in enumerate(word, start):
            if character in _SPECIAL:
                _refuse(text, position, _MISPLACED[character])
    return word, end


def _parse_group(text: str, start: int, separator: str) -> tuple[Segment, int]:
    """Read `(a|b)`; returns the alternatives and the index of what ends them."""
    alternatives: list[str] = []
    begin = start + 1
    for position in range(begin, len(text)):
        character = text[position]
        if len(alternatives) == MAX_ALTERNATIVES:
            _refuse(text, begin, f"a segment has at most {MAX_ALTERNATIVES} alternatives")
        if character in "|)":
            if position == begin:
                _refuse(text, position, "an alternative must not be empty")
            alternatives.append(text[begin:position])
            begin = position + 1
            if character == ")":
                if begin < len(text) and text[begin] != separator:
                    _refuse(text, begin, "parentheses must enclose a whole segment")
                distinct = frozenset(alternatives)
                return (distinct if len(distinct) > 1 else alternatives[0]), begin
        elif character == separator:
            _refuse(text, position, _MANY_SEGMENTS[separator])
        elif character in _MISPLACED_INSIDE:
            _refuse(text, position, _MISPLACED_INSIDE[character])
    _refuse(text, start, "this parenthesis is never closed")


_MISPLACED: Final = {
    "*": "a wildcard must be a whole segment, * or **",
    "(": "parentheses must enclose a whole segment",
    ")": "this parenthesis was never opened",
    "|": "alternatives must stand in parentheses",
}
_MISPLACED_INSIDE: Final = {
    "*": "an alternative must be a literal, without wildcards",
    "(": "parentheses must not be nested",
}
_MANY_SEGMENTS: Final = {
    ".": "alternatives are single segments, without dots",
    _IN_PATHS: "alternatives are single segments, without slashes",
}


def _refuse(text: str, position: int, rule: str) -> NoReturn:
    raise InvalidPatternError(
        f"{rule} (position {position} of {_shown(text)})", pattern=text, position=position
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"
