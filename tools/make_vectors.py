"""Write tests/names/vectors/patterns.json: what any implementation of the patterns must say.

Every answer comes from the slow oracle in tests/names/reference.py, none from the implementation.
With `--check`, nothing is written, and the exit status says whether the file is what would be.
docs/reference/conformance.md explains the file.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from itertools import chain, product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "names" / "vectors" / "patterns.json"

sys.path.append(str(ROOT))  # at the end: an installed package goes before the source tree

from tests.names import reference  # noqa: E402  # needs the path

VERSION = 2

Vector = Mapping[str, object]

SQUID = "\N{SQUID}"  # beyond the basic plane: two units of UTF-16, one character
ASTERISK = "\N{FULLWIDTH ASTERISK}"  # sorts before the squid, but after it as UTF-16
ACUTE = "\N{COMBINING ACUTE ACCENT}"

GRID_PATTERNS = [
    *("orders", "*", "**", "orders.*", "orders.**", "**.new", "*.*", "*.**", "orders.**.new"),
    *("**.eu.**", "orders.(eu|us).**", "(orders|$bus).**", "$bus.**", "**.$bus", "*.(eu|$bus)"),
]
GRID_NAMES = [
    *("orders", "new", "orders.eu", "orders.new", "orders.eu.new", "orders.us.de.new", "eu"),
    *("users.eu", "orders.cn.new", "$bus", "$bus.eu", "orders.$bus"),
]

MATCHES = [
    # a literal is itself, with case, accents and whatever else
    *[("a", "A"), ("A", "a"), ("stra\xdfe", "strasse"), ("\xe9", f"e{ACUTE}")],
    *[(f"e{ACUTE}", f"e{ACUTE}"), (SQUID, SQUID), ("*", SQUID), (f"({SQUID}|b)", SQUID)],
    *[("a", "a\n"), ("a\n", "a\n"), ("*", "a\n"), ("a", " a"), (" ", " "), ("a?", "ab")],
    *[("[ab]", "a"), ("[ab]", "[ab]"), ("a+", "aa"), ("^a", "a"), ("\\a", "a"), ("-", "-")],
    *[
        ("a#", "a#"),
        ("*.>>", "a.>>"),
        ("{a,b}", "a"),
        (ASTERISK, "a"),
        ("a/b", "a/b"),
        ("*", "a/b"),
    ],
    # a star is one segment, also an empty-looking one
    *[("*", " "), ("*", "a.b"), ("*.*.*", "a.b.c"), ("*.*.*", "a.b"), ("a.*.c", "a.c")],
    *[("a.*.c", "a.b.c"), ("a.*.c", "a.b.b.c"), ("a.*.a", "a.a.a"), ("*.a", "a")],
    # a double star is any number, more than once, and goes back when it must
    *[("**", "a"), ("**.**", "a"), ("a.**", "a"), ("**.a", "a"), ("a.**.a", "a")],
    *[("a.**.a", "a.a"), ("a.**.b", "a.b.a.b"), ("a.**.b", "a.b.a"), ("**.a.**.a.**", "a.b.a")],
    *[("**.a.**.a.**", "b.a.b"), ("**.a.*", "a.a.b"), ("**.a.*", "a.b.b"), ("**.*.*", "a")],
    *[("**.*.*", "a.b"), ("a.**.*", "a"), ("a.**.*", "a.b.c"), ("a.*.**", "a")],
    *[("**.a.b.**.c", "a.a.b.c"), ("**.a.b.**.c", "a.c.b.c"), ("**.(a|b).c", "a.b.c")],
    # alternatives are whole segments
    *[("(a|b)", "a"), ("(a|b)", "c"), ("(a|b)", "ab"), ("(ab|cd)", "ad"), ("(a)", "a")],
    *[("(a|b).(a|b)", "b.a"), ("(a|b).(a|b)", "b"), ("(a|a)", "a"), ("( a|b)", "a")],
    # a leading $ is reserved, and only there
    *[("*", "$"), ("**", "$"), ("$", "$"), ("**.**.$x", "$x"), ("**.(a|$x)", "$x")],
    *[("**.(a|$x)", "b.$x"), ("(a|$x)", "$x"), ("(a|$x).*", "$x.$y"), ("*.*", "$x.a")],
    *[("*.*", "a.$x"), ("a$", "a$"), ("*", "a$"), ("$x.**", "$x"), ("$x.**", "$y")],
    *[("$x", "x"), ("x", "$x"), ("$$", "$$"), ("**.b", "$x.b"), ("$x.**.b", "$x.a.b")],
    # at the limits, and where trying everything would take for ever
    (".".join("a" * 16), ".".join("a" * 16)),
    (".".join(["**", "a"] * 8), ".".join("a" * 8)),
    (".".join(["**", "a"] * 8), ".".join("a" * 7)),
    (".".join(["**", "a"] * 7 + ["**", "b"]), ".".join("a" * 16)),
    (".".join(["(a|b)"] * 16), ".".join("ab" * 8)),
    (".".join(["(a|b)"] * 16), ".".join("ab" * 7 + "ac")),
]

PAIR_PATTERNS = [
    *("a", "*", "**", "a.*", "a.**", "**.a", "*.**", "a.**.b", "(a|b)", "(a|b).**", "**.b.*"),
    *("$x", "**.$x"),
]

PAIRS = [
    # names have one segment or more
    *[("**.*", "**"), ("**", "**.*"), ("*.*.**", "**"), ("*.*.**", "*.**"), ("a.*.**", "a.**")],
    *[("**.**", "**"), ("*.**.*", "*.*.**")],
    # a longer pattern may be covered
    *[("**.a.**", "**.a.**.a.**"), ("**.a.**.a.**", "**.a.**"), ("a.**.b", "a.**.c.b")],
    *[("a.**.c.b", "a.**.b"), ("**.a.*.**.b.**", "**.a.b.**"), ("**.a.**.b.**", "**.a.b.**")],
    # which alternative is decided later, but always one of them
    *[("**.(a|b).*", "(a|b).(a|b).(a|b)"), ("**.a.*", "(a|b).a.*"), ("**.a.*", "(a|b).(a|b).c")],
    *[("(a|b|c)", "(a|c)"), ("(a|c)", "(a|b|c)"), ("(a|b)", "(b|c)"), ("(a|b)", "(c|d)")],
    *[("(a|b).x", "(b|c).y"), ("(a|b)", "(b|a)")],
    # nothing follows from the letters that happen to be named
    *[("(a|b).**", "**"), ("**.(a|b).**", "**"), ("a.**", "b.**"), ("a.**", "**.c")],
    *[("**.a", "**.b"), ("a.*", "*.b"), ("a.*", "b.*"), ("*.*", "**.a"), ("**.*.*", "*")],
    *[("a", "A"), ("**.a.**", "**.b.**")],
    # what begins with a $
    *[("**", "$x.**"), ("**", "(a|$x)"), ("*", "(a|$x)"), ("(a|$x)", "$x"), ("$x.**", "$x")],
    *[("(a|$x).**", "$x.a"), ("$x.**", "**.$x"), ("*.**.$x", "**.$x"), ("**", "**.$x")],
    *[("*.**.(a|$x)", "**.(a|$x)"), ("a.**", "a.$x"), ("*.$x", "a.$x"), ("**.$x", "*.*")],
    *[("$x", "$y"), ("**.$x", "*"), ("**.$x", "*.**"), ("**.$x", "$x.$x"), ("**.$x", "$x.**")],
    *[("**.$x", "**.$x.*"), ("**.(a|$x)", "*"), ("(a|$x).**", "($x|b).*")],
    *[("(a|$x).**", "(b|$y).*"), ("**.$x.$x", "**.$x"), ("**.$x.$x", "*.*")],
    # where trying everything would take for ever; common names longer than an event's
    (".".join(["**", "a"] * 7), ".".join(["**", "a"] * 8)),
    (".".join(["**", "a"] * 8), ".".join(["**", "a"] * 7)),
    (".".join(["**", "a"] * 8), ".".join(["**", "b"] * 8)),
    (".".join(["**", "a", *"*" * 8, "**"]), ".".join(["**", "b", "a", *"*" * 8])),
    (".".join([*"a" * 15, "**"]), ".".join(["**", *"b" * 15])),
]

CANONICAL = [
    # one alternative is none; many are sorted by code point, each once
    *("orders.*", "(a)", "(a).(b).c", "(b|a)", "(b|a|b|c|a)", "(a|a)", "(b|B|a|$)", "(aa|a|ab)"),
    *("(10|9|1)", f"({SQUID}|{ASTERISK})", f"({ASTERISK}|{SQUID})", f"(\xe9|e{ACUTE}|f)", "( |a)"),
    # a run of wildcards: its stars, then one double star if there was any
    *("**", "**.**", "**.**.**", "**.*", "*.**", "**.*.**", "*.**.*", "**.*.*.**.*", "*.*"),
    *("*.*.a.**.*", "**.a.**", "**.*.a.**.*.b.**.**", "a.**.**.b", "$x.**.*", "**.$x", "**.*.$x"),
    *(".".join(["**"] * 16), ".".join(["*", "**"] * 8), ".".join("abcdefghijklmnop")),
    *("a b.c\n", "\\x", "a$", "a.$b", f"{SQUID}.{ASTERISK}"),
    *("a" * 512, f"({'|'.join(f'{number:02}' for number in range(64))})"),
]

REFUSED_PATTERNS = [
    *("", ".", "..", "a..b", "a.b..c", "a..", ".a", "a.", "a.**.", "(a|b)."),
    # a wildcard is a whole segment
    *("a*", "*a", "***", "a**", "**a", "a*b*", "orders.e*", "orders.*u", "a.****.b", "*.a*.b"),
    # parentheses enclose a whole segment, of literals
    *("(*)", "(**)", "(a|*)", "(*|a)", "(a|b*)", "(a|b)*", "(", "(a", "(a|b", "x.(a|b", "a)"),
    *(")", "a.b).c", "(a))", "((a)|b)", "(a|(b))", "((a))", "()()", "x(a|b)", "(a|b)c"),
    *("(a|b)(c|d)", "x.y(a|b)", "(a)|b", "a|b", "|", "|a", "a.b|c", "(a.b|c)", "(a|b.c)"),
    *("(a||b)", "(|a)", "(a|)", "()", "x.()", "(|)", "(.)", "$*", "$(a)"),
    # wildcards of other systems
    *("#", "orders.#", "orders.>", "orders.+", "?", "a.#.b", "(a|#)", "x.(+|a)", "(>)", "(a|?|b)"),
    *("#.*", "(#|a*)", "a*.#", "$x.#"),
    # the leftmost fault
    *("a*..b", "a..b*", "a|b)", "a)|b", "x(*", "x*(", ".".join(["b*", *"a" * 20])),
    # positions are counted in characters: neither in bytes nor in units of UTF-16
    *(f"{SQUID}*", f"{SQUID}.\xe9.b*", f"e{ACUTE}|", f"({SQUID}|)"),
    # the limits
    *(".".join("a" * 17), ".".join(["**"] * 17), ".".join("a" * 16) + ".", "a" * 513),
    *(".".join(["(a|b)"] * 17), "a." * 300, "a.." + "a" * 510, "*" * 600, "(" * 513),
    f"({'|'.join(f'{number:02}' for number in range(65))})",
    f"({'|'.join('a' * 65)})",  # as written, not as different
    f"x.({'|'.join(['a'] * 64)}|a*).y",
]

NAMES = [
    # accepted
    *("orders", "order.created", "Orders", "a.$b", "a$", "a.b.$", " ", " $a", "a b.c\n", "[a]"),
    *("a?b+c^d{e}", "orders/123", "-", "a:b,c;d", "0", "\t", SQUID, ASTERISK, f"e{ACUTE}"),
    *("\N{IDEOGRAPHIC FULL STOP}", "\N{FULLWIDTH DOLLAR SIGN}x", ".".join("a" * 16), "a" * 512),
    SQUID * 512,
    *("a#", "#a", "a.b+", "a?.>>", "##", "?!"),
    # only as a kind
    *("/", "/orders", "/orders/1.x"),
    # refused
    *("#", "+", ">", "?", "orders.#", "#.a", "a.+.b", "orders.>", "a.?"),
    *("", ".", "..", ".a", "a.", "a..b", "*", "**", "orders.*", "orders.e*", "(a|b)", "(a)"),
    *("a(", "a)", "a|b", "a.b.|", "$", "$bus", "$bus.closed", "$.a", ".".join("a" * 17)),
    *("a" * 513, SQUID * 513),
]


def matches() -> Iterable[Vector]:
    """Say of patterns and names whether they match."""
    for pattern, name in chain(product(GRID_PATTERNS, GRID_NAMES), MATCHES):
        assert reference.is_pattern(pattern), pattern
        assert reference.is_sendable(name) or reference.is_sendable(f"x{name}"), name
        yield {"pattern": pattern, "name": name, "matches": reference.matches(pattern, name)}


def covers() -> Iterable[Vector]:
    """Say of two patterns whether the first covers the second, both ways round."""
    for a, b in pairs():
        yield {"a": a, "b": b, "covers": reference.covers(a, b)}
        if a != b:
            yield {"a": b, "b": a, "covers": reference.covers(b, a)}


def overlaps() -> Iterable[Vector]:
    """Say of two patterns whether they overlap."""
    for a, b in pairs():
        assert reference.overlaps(a, b) == reference.overlaps(b, a), (a, b)
        yield {"a": a, "b": b, "overlaps": reference.overlaps(a, b)}


def pairs() -> list[tuple[str, str]]:
    """Pairs of patterns, each once."""
    grid = [(a, b) for a in PAIR_PATTERNS for b in PAIR_PATTERNS]
    found = {frozenset(pair): pair for pair in grid + PAIRS}
    return list(found.values())


def canonical() -> Iterable[Vector]:
    """Say how patterns are written in canonical form."""
    for text in CANONICAL:
        assert reference.is_pattern(text), text
        yield {"text": text, "canonical": reference.canonical(text)}


def refusals() -> Iterable[Vector]:
    """Say of texts that are no patterns where the fault is."""
    for text in REFUSED_PATTERNS:
        assert not reference.is_pattern(text), text
        [position] = reference.blame(text)
        yield {"text": text, "position": position}


def names() -> Iterable[Vector]:
    """Say of texts whether they can be the system and the kind of an event."""
    for name in NAMES:
        fields = {field: reference.is_sendable(name, field) for field in ("system", "kind")}
        yield {"name": name, **fields}


def main() -> None:
    """Write the file, or check it."""
    limits = {
        "segments": reference.MAX_SEGMENTS,
        "characters": reference.MAX_CHARACTERS,
        "alternatives": reference.MAX_ALTERNATIVES,
    }
    parts = [f'"version": {VERSION}', f'"limits": {json.dumps(limits)}']
    for section in (matches, covers, overlaps, canonical, refusals, names):
        # ASCII only, so that no editor, no terminal and no normalisation can change it.
        lines = list(map(json.dumps, section()))
        assert len(lines) == len(set(lines)), f"{section.__name__} has a vector twice"
        parts.append('"{}": [\n    {}\n  ]'.format(section.__name__, ",\n    ".join(lines)))
    text = "{\n  " + ",\n  ".join(parts) + "\n}\n"
    if sys.argv[1:] != ["--check"]:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_bytes(text.encode("ascii"))
    elif FILE.read_bytes() != text.encode("ascii"):
        sys.exit(f"{FILE} is out of date: run {Path(__file__).name}, and check the difference")


if __name__ == "__main__":
    main()
