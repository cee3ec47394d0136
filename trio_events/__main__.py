"""Questions from a shell: about patterns, the log of a bridge, and a running bus.

For example `python -m trio_events match 'orders.*' orders.eu`.
"""

from __future__ import annotations

import argparse
import os
import sys
import unicodedata
from collections.abc import Sequence

from ._names.errors import EventBusError, InvalidEventError, InvalidPatternError
from ._names.pattern import Pattern, plain_name
from ._names.relations import common_name, uncovered_name

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
At most 16 segments, 512 characters, 64 alternatives. Quote patterns, for the shell's sake.

The exit status is 0 for yes, 1 for no, and 2 if it is no question.

A LOG is sqlite:///FILE, sqlite:////ABSOLUTE/FILE, redis://HOST:PORT/DB, or rediss://... for TLS.
For questions about it the exit status is 0, or 1 if it can't be reached, or 2 if it refuses.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question on stdout.

    Args:
      arguments: The words of the command; None is those of this process.

    Returns:
      The exit status: 0 is yes, 1 is no, 2 is a bad pattern or a bad name, explained on stderr.

    Raises:
      SystemExit: If the words make no command (status 2), or ask for help.
    """
    words = _parser().parse_args(arguments)
    if words.question in _LOOKS:
        return _look(words.question, words.words)
    if words.question in {"tail", "send", "info"}:
        return _ask_log(words)
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
        print(f"{_PROGRAM}: {error}\n  {_shown(text)}\n  {indent}^", file=sys.stderr)
        return 2
    except InvalidEventError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 2
    _print(_shown(answer))
    return 0 if yes else 1


def _look(question: str, words: Sequence[str]) -> int:
    """Run a command that needs the extra."""
    try:
        from .devtools._commands import run  # noqa: PLC0415  # only here is it needed
    except ImportError as error:
        need = f"`{question}` needs {error.name}: pip install 'trio-events[devtools]'"
        return _failed(need, 2)
    return run(question, words)


def _ask_log(words: argparse.Namespace) -> int:
    """Ask about a log, for which extras are needed; returns the exit status."""
    try:
        from .bridge._command import run  # noqa: PLC0415
        from .bridge._log import LogUnavailableError  # noqa: PLC0415
    except ImportError as error:
        return _failed(f"{error}; install trio-events[bridge]", 2)
    try:
        run(words, _show_line, _warn)
    except ImportError as error:
        return _failed(f"{error}; install trio-events[redis]", 2)
    except LogUnavailableError as error:
        return _failed(str(error), 1)
    except (ValueError, EventBusError) as error:
        return _failed(str(error), 2)
    except BrokenPipeError:  # nobody reads any more
        _discard_stdout()
    except KeyboardInterrupt:
        return 130  # as the shell says it
    return 0


def _failed(reason: str, status: int) -> int:
    _warn(reason)
    return status


def _warn(text: str) -> None:
    print(f"{_PROGRAM}: {_shown(text)}", file=sys.stderr)


def _show_line(line: str) -> None:
    encoding = sys.stdout.encoding
    print(_shown(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _discard_stdout() -> None:
    """Let Python not fail at its end to flush what is left, with a status of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(answer: str) -> None:
    """Print the answer if anybody takes it. If not, the exit status still tells."""
    if sys.stdout is None:  # it was closed when the process started
        return
    # A terminal or a file may not take every character of a witness.
    encoding = sys.stdout.encoding
    try:
        print(answer.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError:  # the reader has gone, or the disk is full
        _discard_stdout()


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
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    match = questions.add_parser("match", help="does PATTERN match NAME?")
    match.add_argument("pattern", metavar="PATTERN")
    match.add_argument("name", metavar="NAME", help="may begin with $")
    for question, explained in [
        ("covers", "does A match every name that B matches? If not, say one that it misses"),
        ("overlaps", "is there a name that both A and B match? If so, say one"),
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
    explained = "print the events of a log, and those that come: position and JSON, a line each"
    tail = questions.add_parser("tail", help=explained, description=explained)
    tail.add_argument("log", metavar="LOG")
    tail.add_argument("system", metavar="SYSTEM", nargs="?", default="**", help="a pattern")
    tail.add_argument("--kind", metavar="KIND", help="a pattern")
    tail.add_argument(
        "--after",
        type=_position,
        metavar="N",
        help="begin after this position; otherwise at the end, but at the beginning with --end",
    )
    tail.add_argument("--end", action="store_true", help="stop at what is the end now")
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
