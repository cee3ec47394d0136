"""The command line: questions about patterns, the log of a bridge, and a running bus.

For example `python -m trio_events match 'orders.*' orders.eu`.
"""

from __future__ import annotations

import argparse
import errno
import os
import platform
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import final

from ._extras import extra
from ._names.errors import EventBusError, InvalidEventError, InvalidPatternError
from ._names.pattern import Pattern, plain_name
from ._names.relations import common_name, uncovered_name
from ._stderr import write_line

_PROGRAM = "python -m trio_events"

_LOOKS = {
    "map": ("SCRIPT", "run a program, with a live map of each bus that it opens"),
    "top": ("URL", "show the subscriptions of the program whose live map is at URL"),
    "graph": ("URL", "print that map as a Mermaid flowchart"),
}

_GRAMMAR = """\
Names and patterns are segments with dots between them. In a pattern, a segment is:
  orders    that segment       *     exactly one segment, any
  (eu|us)   one of those       **    zero or more segments, anywhere
A name that begins with $ is matched only by a pattern that begins with a literal or with (...).
At most 16 segments, 512 characters, 64 alternatives. Put quotes around patterns, or the shell
expands them.

The exit status is 0 for yes, 1 for no, and 2 if the question isn't valid.

A LOG is sqlite:///FILE, sqlite:////ABSOLUTE/FILE, redis://HOST:PORT/DB, or rediss://... for TLS.
Commands about a log exit with 0, with 1 if it can't be reached, or with 2 if it refuses.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question on stdout.

    Args:
      arguments: The command line without the program; None takes that of this process.

    Returns:
      The exit status: 0 for yes, 1 for no, 2 for an invalid pattern or name, explained on stderr.

    Raises:
      SystemExit: If the command line isn't valid (status 2), or asks for help or the version.
    """
    words = _parser().parse_args(arguments)
    try:
        if words.question in _LOOKS:
            return _look(words.question, words.words)
        if words.question in {"tail", "send", "info"}:
            return _ask_log(words)
        return _ask_about_patterns(words)
    except _StdoutError as error:
        if isinstance(error.reason, BrokenPipeError):  # the reader has seen enough
            return 0
        return _failed(f"can't write to stdout: {error.reason.strerror}", 1)


def _ask_about_patterns(words: argparse.Namespace) -> int:
    try:
        if words.question == "match":
            yes, answer = _match(words.pattern, words.name)
        elif words.question == "covers":
            yes, answer = _covers(words.a, words.b)
        else:
            yes, answer = _overlaps(words.a, words.b)
    except InvalidPatternError as error:
        text = str(error.details["pattern"])
        indent = " " * _width(_shown(text[: error.position]))
        write_line(sys.stderr, f"{_PROGRAM}: {error}\n  {_shown(text)}\n  {indent}^")
        return 2
    except InvalidEventError as error:
        write_line(sys.stderr, f"{_PROGRAM}: {error}")
        return 2
    with suppress(_StdoutError):  # the exit status still is the answer
        _show(answer)
    return 0 if yes else 1


def _look(question: str, words: Sequence[str]) -> int:
    """Run a command that needs the extra."""
    try:
        with extra("devtools", f"`{question}`"):
            from .devtools._commands import run  # noqa: PLC0415  # only here is it needed
    except ModuleNotFoundError as error:
        return _failed(str(error), 2)
    return run(question, words, _show, _warn)


def _ask_log(words: argparse.Namespace) -> int:
    """Ask about a log, which needs an extra; return the exit status."""
    try:
        with extra("bridge", f"`{words.question}`"):
            from .bridge._command import run  # noqa: PLC0415
            from .bridge._log import LogUnavailableError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        return _failed(str(error), 2)
    try:
        run(words, _show, _warn)
    except ModuleNotFoundError as error:  # for the log in a server
        return _failed(str(error), 2)
    except LogUnavailableError as error:
        return _failed(str(error), 1)
    except (ValueError, EventBusError) as error:
        return _failed(str(error), 2)
    except _StdoutError:
        if words.question != "send":  # the event has been appended; a second attempt would be wrong
            raise
    except KeyboardInterrupt:
        return 130  # as a shell does
    return 0


@final
class _StdoutError(Exception):
    """Stdout can't be written to. Not an `OSError`, which a log would take for its own."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


def _failed(reason: str, status: int) -> int:
    _warn(reason)
    return status


def _warn(text: str) -> None:
    write_line(sys.stderr, f"{_PROGRAM}: {_shown(text)}")


def _show(answer: str) -> None:
    """Print a line.

    Raises:
      _StdoutError: If stdout can't be written to.
    """
    if sys.stdout is None:  # it was closed when the process started
        raise _StdoutError(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    # A terminal or a file may not take every character.
    encoding = sys.stdout.encoding
    line = _shown(answer).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(line, flush=True)
    except OSError as error:
        # Discard what is left, or Python would fail to flush it, and exit with another status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _StdoutError(error) from None


def _match(pattern: str, name: str) -> tuple[bool, str]:
    parsed = Pattern.parse(pattern)
    plain_name(name, "the name", reserved=True)
    yes = parsed.matches(name)
    return yes, "matches" if yes else "does not match"


def _covers(a: str, b: str) -> tuple[bool, str]:
    witness = uncovered_name([Pattern.parse(a)], Pattern.parse(b))
    return witness is None, "covers" if witness is None else f"does not cover: {witness}"


def _overlaps(a: str, b: str) -> tuple[bool, str]:
    witness = common_name(Pattern.parse(a), Pattern.parse(b))
    return witness is not None, "does not overlap" if witness is None else f"overlaps: {witness}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Answer a question about patterns or the log of a bridge, or look at a bus.",
        epilog=_GRAMMAR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    versions = [
        *(f"{name} {metadata.version(name)}" for name in ("trio-events", "trio", "attrs")),
        f"{platform.python_implementation()} {platform.python_version()}",
        platform.system(),
    ]
    parser.add_argument("--version", action="version", version=", ".join(versions))
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    match = questions.add_parser("match", help="does PATTERN match NAME?")
    match.add_argument("pattern", metavar="PATTERN")
    match.add_argument("name", metavar="NAME", help="may begin with $")
    for question, explained in [
        ("covers", "does A match every name that B matches? If not, print one that it misses"),
        ("overlaps", "is there a name that both A and B match? If so, print one"),
    ]:
        asked = questions.add_parser(question, help=explained, description=explained)
        asked.add_argument("a", metavar="A")
        asked.add_argument("b", metavar="B")
    _add_questions_about_logs(questions)
    for look, (word, explained) in _LOOKS.items():
        looking = questions.add_parser(look, help=explained, description=explained)
        looking.add_argument("words", nargs=1, metavar=word)
        if look == "map":
            looking.add_argument("words", nargs=argparse.REMAINDER, metavar="ARG", action="extend")
    return parser


def _add_questions_about_logs(
    questions: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    explained = "print the events of a log, and new ones: position and JSON, one event per line"
    tail = questions.add_parser("tail", help=explained, description=explained)
    tail.add_argument("log", metavar="LOG")
    tail.add_argument("system", metavar="SYSTEM", nargs="?", default="**", help="a pattern")
    tail.add_argument("--kind", metavar="KIND", help="a pattern")
    tail.add_argument(
        "--after",
        type=_position,
        metavar="N",
        help="begin after this position; by default, at the end, or at the beginning with --end",
    )
    tail.add_argument("--end", action="store_true", help="stop at the current end")
    explained = "append an event to a log, and print its position"
    send = questions.add_parser("send", help=explained, description=explained)
    send.add_argument("log", metavar="LOG")
    send.add_argument("system", metavar="SYSTEM")
    send.add_argument("kind", metavar="KIND")
    send.add_argument("path", metavar="PATH")
    send.add_argument("data", metavar="JSON", nargs="?", default="null")
    explained = "print the first and the last position of a log, and its groups"
    info = questions.add_parser("info", help=explained, description=explained)
    info.add_argument("log", metavar="LOG")


def _position(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a position")
    return int(text)


def _shown(text: str) -> str:
    """The text in one line, with escapes for what does not show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


if __name__ == "__main__":  # pragma: no cover  # the tests run it in a process of its own
    sys.exit(main())
