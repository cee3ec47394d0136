"""Names and patterns: the grammar, and matching.

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

from collections.abc import Collection, Iterator
from typing import Final, NoReturn, TypeAlias, cast, final

import attrs

from .._no_public_constructor import NoPublicConstructor
from .errors import InvalidEventError, InvalidPatternError

MAX_SEGMENTS: Final = 16
MAX_CHARACTERS: Final = 512
MAX_ALTERNATIVES: Final = 64

ONE: Final = "*"
MANY: Final = "**"
WILDCARDS: Final = frozenset({ONE, MANY})

_IN_PATHS: Final = "/"
"""The separator of the segments of a path; in names it is a dot."""

RESERVED: Final = "$"
"""Names that begin with it belong to the bus itself; no leading wildcard matches them."""

FRESH: Final = "./"
"""Stands for a segment that no pattern mentions: only wildcards match it.

No segment of a name has a dot, and none of a path, which may be empty, has a slash.
"""

_SPECIAL: Final = frozenset("*(|)")

_FOREIGN_WILDCARDS: Final = {"#": MANY, ">": MANY, "+": ONE, "?": ONE}
"""Wildcards of AMQP, NATS, MQTT and the shell, each with the one to use here."""

_NO_SEGMENTS: Final = frozenset({"", *_FOREIGN_WILDCARDS})

Segment: TypeAlias = "str | frozenset[str]"
"""`ONE`, `MANY`, a literal, or at least two alternatives. (No literal contains a star.)"""


def shown(value: object) -> str:
    """The `repr` of any value for a message: shortened, and safe if `repr` raises."""
    try:
        text = str.__str__(repr(value))
    except Exception:  # noqa: BLE001  # a `repr` may raise anything; the message matters more
        text = object.__repr__(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


def plain_text(value: object, what: str) -> str:
    """The value as a plain `str`, without the behaviour of a subclass.

    Args:
      value: A `str`, or an instance of a subclass.
      what: The name of the value for the message, such as `"path"`.

    Raises:
      TypeError: If the value isn't a `str`.
    """
    if type(value) is str:
        return value
    if not issubclass(type(value), str):  # `isinstance` would believe a made-up `__class__`
        raise TypeError(f"{what} must be a str, not {shown(value)}")
    return str.__str__(cast("str", value))


def plain_name(value: object, field: str, *, reserved: bool = False) -> str:
    """Check a name, and return it as a plain `str`.

    Args:
      value: The system or the kind of an event, or the name of an actor.
      field: Its name for the message. A `"system"` must not begin with `/`.
      reserved: Whether the name may begin with `$`, as the names of the bus's own events do.

    Raises:
      TypeError: If the value isn't a `str`.
      InvalidEventError: If it is empty or too long; has an empty segment or too many segments;
        contains one of `* ( ) |`; has a segment that is exactly `#`, `+`, `>` or `?`; begins with
        `$` and isn't `reserved`; or is a system and begins with `/`.
    """
    name = plain_text(value, field)
    if not name:
        rule = "must not be empty"
    elif len(name) > MAX_CHARACTERS:
        rule = f"must have at most {MAX_CHARACTERS} characters, not {len(name)}"
    elif name.startswith(RESERVED) and not reserved:
        rule = f"must not begin with {RESERVED!r}, which is reserved for the bus itself"
    elif field == "system" and name.startswith(_IN_PATHS):
        rule = f"must not begin with {_IN_PATHS!r}: {_IN_THE_RIGHT_ORDER}"
    elif not _SPECIAL.isdisjoint(name):
        rule = "must not contain * ( ) or |, which are for patterns"
    elif "" in (segments := name.split(".")):
        rule = "must not have an empty segment"
    elif len(segments) > MAX_SEGMENTS:
        rule = f"must have at most {MAX_SEGMENTS} segments, not {len(segments)}"
    elif not _NO_SEGMENTS.isdisjoint(segments):
        foreign = next(segment for segment in segments if segment in _NO_SEGMENTS)
        rule = (
            f"must not have a segment {foreign!r}, which looks like a wildcard "
            f"(in a pattern, use {_FOREIGN_WILDCARDS[foreign]!r})"
        )
    else:
        return name
    raise InvalidEventError(f"{field} {rule}: {shown(name)}", field=field, value=name)


def plain_path(value: object) -> str:
    """Check the path of an event, any text that isn't empty, and return it as a plain `str`.

    Raises:
      TypeError: If the value isn't a `str`.
      InvalidEventError: If it is empty.
    """
    path = plain_text(value, "path")
    if not path:
        raise InvalidEventError("path must not be empty", field="path", value=path)
    return path


def is_name(text: str) -> bool:
    return (
        0 < len(text) <= MAX_CHARACTERS
        and _SPECIAL.isdisjoint(text)
        and len(segments := text.split(".")) <= MAX_SEGMENTS
        and _NO_SEGMENTS.isdisjoint(segments)
    )


@final
@attrs.frozen(eq=False, repr=False)
class Pattern(metaclass=NoPublicConstructor):
    """A pattern over dot-separated names. Make one with `Pattern.parse`.

    Patterns are equal if their canonical texts are. All methods are synchronous and pure.
    """

    _made_by = "Pattern.parse"

    segments: tuple[Segment, ...]
    """The pattern's segments in canonical form: no two `**` next to each other."""

    literal: str | None
    """The one name that this pattern matches, or None if it may match several."""

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
          TypeError: If `text` isn't a `str`.
          InvalidPatternError: If it isn't a pattern; `position` points at the mistake.
        """
        return Pattern._of(plain_text(text, "a pattern"), ".")

    @staticmethod
    def _of(source: str, separator: str) -> Pattern:
        segments = tuple(_canonical(_parse(source, separator)))
        ones = manys = 0
        literals: dict[str, int] = {}
        for i, segment in enumerate(segments):
            if segment == ONE:
                ones |= 1 << i
            elif segment == MANY:
                manys |= 1 << i
            else:
                for text in literals_of(segment):
                    literals[text] = literals.get(text, 0) | 1 << i
        canonical = separator.join(map(_segment_text, segments))
        several = any(s in WILDCARDS or not isinstance(s, str) for s in segments)
        literal = None if several else canonical
        return Pattern._create(segments, literal, canonical, separator, ones, manys, literals)

    def matches(self, name: str) -> bool:
        """Whether the pattern matches a name.

        Names that begin with `$` are matched only by patterns that begin with a literal or
        with alternatives. No pattern matches a text that isn't a name. Takes time proportional to
        the length of the name.

        Raises:
          TypeError: If `name` isn't a `str`.
        """
        name = plain_text(name, "a name")
        valid = bool(name) if self._separator == _IN_PATHS else is_name(name)
        return valid and self._matches_checked(name)

    def _matches_checked(self, name: str) -> bool:
        """Like `matches`, for a plain `str` that has been validated."""
        if self.literal is not None:
            return name == self.literal
        head, *tail = name.split(self._separator)
        states = self._first(head)
        for segment in tail:
            states = self._next(states, segment)
        return self._accepts(states)

    def covers(self, other: Pattern) -> bool:
        """Whether this pattern matches every name that the other one matches.

        Exact, for names of any number of segments.
        """
        from .relations import uncovered_name  # noqa: PLC0415  # it builds on this module

        return uncovered_name([self], other) is None

    def overlaps(self, other: Pattern) -> bool:
        """Whether there is a name that both patterns match.

        Exact, for names of any number of segments. The number of steps is proportional to the
        product of the two numbers of segments.
        """
        from .relations import common_name  # noqa: PLC0415  # it builds on this module

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
            or self.segments[0] not in WILDCARDS
            or self._separator == _IN_PATHS  # nothing is reserved there
        )

    def _accepts(self, states: int) -> bool:
        return bool(states >> len(self.segments))

    def __str__(self) -> str:
        """The canonical text, which parses back to an equal pattern."""
        return self._text

    def __repr__(self) -> str:
        if self._separator == _IN_PATHS:
            return f"<pattern of paths {self._text!r}>"
        return f"Pattern.parse({self._text!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return self._text == other._text and self._separator == other._separator

    def __hash__(self) -> int:
        return hash(self._text)


def _exact(path: str) -> str:
    text = plain_text(path, "path")
    if not text:
        _refuse(text, 0, "a path must not be empty")
    return text


@final
@attrs.frozen
class ExactPath:
    """A path to be matched literally: `path=ExactPath("/files/report (1).pdf")`.

    Otherwise, `path=` reads a text that contains `*`, `(`, `)` or `|` as a pattern.

    Raises:
      TypeError: If `path` isn't a `str`.
      InvalidPatternError: If it is empty.
    """

    path: str = attrs.field(converter=_exact)
    """The path, as a plain `str`."""


def path_filter(path: str | ExactPath) -> str | Pattern:
    """Read a filter for paths: the result is one path, or a pattern of paths.

    In a pattern of paths the separator is `/`, and a segment may be empty, such as the first one of
    `/orders/*`. A text without pattern characters is one path, and so is an `ExactPath`.

    Raises:
      TypeError: If `path` is neither a `str` nor an `ExactPath`.
      InvalidPatternError: If it is empty, or has a pattern character and isn't a pattern.
    """
    if type(path) is ExactPath:
        return path.path
    text = plain_text(path, "path")
    if text and _SPECIAL.isdisjoint(text):
        return text
    pattern = Pattern._of(text, _IN_PATHS)
    return pattern if pattern.literal is None else pattern.literal


def is_plain_path(path: str) -> bool:
    """Whether `path_filter` reads a text as one path, rather than as a pattern."""
    return _SPECIAL.isdisjoint(path)


def system_pattern(text: str) -> Pattern:
    """Read a pattern for the system of events.

    Raises:
      TypeError: If `text` isn't a `str`.
      InvalidPatternError: If it isn't a pattern, or begins with `/`, as no system does.
    """
    pattern = Pattern.parse(text)
    if any(literal.startswith(_IN_PATHS) for literal in literals_of(pattern.segments[0])):
        text = plain_text(text, "a pattern")
        position = next(i for i in range(len(text)) if _is_slash_at_the_beginning(text, i))
        _refuse(text, position, f"a system must not begin with '/': {_IN_THE_RIGHT_ORDER}")
    return pattern


def _is_slash_at_the_beginning(text: str, position: int) -> bool:
    return text[position] == _IN_PATHS and (position == 0 or text[position - 1] in "(|")


def literals_of(segment: Segment) -> Collection[str]:
    """The literals that a segment allows; a wildcard stands for itself."""
    return (segment,) if isinstance(segment, str) else segment


def _canonical(segments: list[Segment]) -> Iterator[Segment]:
    """Replace each run of wildcards that contains a `**` by its `*`s and then one `**`."""
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
    """Read a literal or a wildcard; return it and the index of its end."""
    end = text.find(separator, start)
    if end == -1:
        end = len(text)
    word = text[start:end]
    if not word and separator != _IN_PATHS:
        _refuse(text, start, "a segment must not be empty")
    if word not in WILDCARDS:
        for position, character in enumerate(word, start):
            if character in _SPECIAL:
                _refuse(text, position, _MISPLACED[character])
        _refuse_foreign(text, start, word, separator)
    return word, end


def _parse_group(text: str, start: int, separator: str) -> tuple[Segment, int]:
    """Read `(a|b)`; return the alternatives and the index of their end."""
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
            _refuse_foreign(text, begin, alternatives[-1], separator)
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
    "|": "alternatives must be in parentheses",
}
_MISPLACED_INSIDE: Final = {
    "*": "an alternative must be a literal, without wildcards",
    "(": "parentheses must not be nested",
}
_MANY_SEGMENTS: Final = {
    ".": "alternatives are single segments, without dots",
    _IN_PATHS: "alternatives are single segments, without slashes",
}


_IN_THE_RIGHT_ORDER: Final = "are the arguments in the right order?"


def _refuse_foreign(text: str, position: int, segment: str, separator: str) -> None:
    if segment in _FOREIGN_WILDCARDS and separator != _IN_PATHS:
        instead = _FOREIGN_WILDCARDS[segment]
        _refuse(text, position, f"{segment!r} is not a wildcard here: use {instead!r}")


def _refuse(text: str, position: int, rule: str) -> NoReturn:
    raise InvalidPatternError(
        f"{rule} (position {position} of {shown(text)})", pattern=text, position=position
    )
