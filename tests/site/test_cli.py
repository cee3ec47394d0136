"""The command for people: what it prints, and its exit status."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from trio_events import Pattern, testing
from trio_events.__main__ import main

from ..names import reference, strategies
from ..names.strategies import examples, shown


def run(*words: str, **environ: str) -> tuple[int, str, str]:
    """Run the command in a process of its own; returns its status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "trio_events", *words],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environ,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


ANSWERS = [
    (["match", "orders.(eu|us).**", "orders.eu.new"], 0, "matches"),
    (["match", "orders.*", "orders"], 1, "does not match"),
    (["match", "$bus.*", "$bus.closed"], 0, "matches"),
    (["match", "**", "$bus.closed"], 1, "does not match"),
    (["match", "$", "$"], 0, "matches"),
    (["match", "--", "-x", "-x"], 0, "matches"),
    (["covers", "orders.**", "orders.(eu|us)"], 0, "covers"),
    (["covers", "orders.*", "orders.**"], 1, "does not cover: orders"),
    (["covers", "orders.**", "**"], 1, "does not cover: x"),
    (["covers", "x", "*"], 1, "does not cover: xx"),
    (["covers", "*", "(a|$bus)"], 1, "does not cover: $bus"),
    (["overlaps", "orders.*", "*.(eu|us)"], 0, "overlaps: orders.eu"),
    (["overlaps", "orders.*", "users.**"], 1, "does not overlap"),
    (["overlaps", "**", "$bus"], 1, "does not overlap"),
    (["overlaps", "a\n.*", "**"], 0, "overlaps: a\\n.x"),
    (["overlaps", "\N{SQUID}.*", "**"], 0, "overlaps: \N{SQUID}.x"),
]


@pytest.mark.parametrize(("words", "status", "answer"), ANSWERS)
def test_an_answer_is_a_line_and_a_status(
    words: list[str], status: int, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    assert capsys.readouterr() == (f"{answer}\n", "")


@pytest.mark.parametrize(
    ("words", "status", "answer"), [ANSWERS[0], ANSWERS[1], ANSWERS[7], ANSWERS[11], ANSWERS[15]]
)
def test_a_process_answers_the_same(words: list[str], status: int, answer: str) -> None:
    assert run(*words) == (status, f"{answer}\n", "")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&- >&-"])
@pytest.mark.parametrize(("name", "status"), [("a", 0), ("b", 1)])
def test_the_status_is_the_answer_even_if_stdout_cannot_be_written(
    redirection: str, name: str, status: int
) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m trio_events match a {name} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


@pytest.mark.parametrize(("name", "status"), [("a", 0), ("b", 1)])
def test_the_status_is_the_answer_even_if_the_reader_has_gone(name: str, status: int) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "trio_events", "match", "a", name]
    try:
        done = subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("words", ["match a* a", "match a a..b", "info nonsense", "graph nonsense"])
def test_the_status_is_the_same_even_if_stderr_cannot_be_written(
    redirection: str, words: str
) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m trio_events {words} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.returncode == (1 if words.startswith("graph") else 2)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_without_stdout_the_status_is_still_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["match", "a", "a"]) == 0
    assert main(["match", "a", "b"]) == 1


def test_without_stderr_an_error_is_not_written_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["match", "a*", "a"]) == 2
    assert main(["graph", "nonsense"]) == 1
    assert capsys.readouterr().out == ""


BAD_PATTERNS = [
    (["match", "orders.a*", "x"], "a wildcard must be a whole segment", "orders.a*", 8),
    (["match", "", "x"], "must not be empty", "", 0),
    (["match", "a.", "x"], "a segment must not be empty", "a.", 2),
    (["match", "a\n*", "x"], "a wildcard must be a whole segment", "a\\n*", 3),
    (["covers", "(a", "b"], "never closed", "(a", 0),
    (["covers", "a", "b)"], "never opened", "b)", 1),
    (["overlaps", "a", "\N{SQUID}|"], "alternatives must be in", "\N{SQUID}|", 2),
    (["overlaps", "a", "e\N{COMBINING ACUTE ACCENT}|"], "must be in", "e\u0301|", 1),
    (["match", "\ud800*", "x"], "a wildcard must be", "\\ud800*", 6),
    (["match", "a..", "..."], "a segment must not be empty", "a..", 2),  # patterns come first
]


@pytest.mark.parametrize(("words", "rule", "text", "column"), BAD_PATTERNS)
def test_a_bad_pattern_is_shown_with_a_mark_under_the_character(
    words: list[str], rule: str, text: str, column: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    message, *marked = err.splitlines()
    assert out == ""
    assert message.startswith("python -m trio_events: ")
    assert rule in message
    assert marked == [f"  {text}", f"  {' ' * column}^"]


def test_a_process_shows_the_same() -> None:
    status, out, err = run("match", "orders.a*", "orders.a")
    assert (status, out) == (2, "")
    assert err == (
        "python -m trio_events: a wildcard must be a whole segment, * or **"
        " (position 8 of 'orders.a*')\n"
        "  orders.a*\n"
        "          ^\n"
    )


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        ("a..b", "empty segment"),
        ("$.", "empty segment"),
        ("a.*", "which are for patterns"),
        ("$(a)", "which are for patterns"),
        (".".join("a" * 17), "16 segments"),
        ("a" * 513, "512 characters"),
    ],
    ids=shown,
)
def test_a_bad_name_is_refused(name: str, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", "a", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m trio_events: the name must ")
    assert rule in err


@pytest.mark.parametrize(
    "words",
    [[], ["guess", "a", "b"], ["match", "a"], ["covers", "a"], ["overlaps", "a", "b", "c"]],
)
def test_an_invalid_question_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: python -m trio_events")


def test_help_explains_the_grammar() -> None:
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for word in ("match", "covers", "overlaps", "(eu|us)", "**", "$", "16", "512", "64"):
        assert word in out
    status, out, err = run("covers", "--help")
    assert (status, err) == (0, "")


def test_the_words_are_those_of_the_process_unless_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio_events", "match", "*", "a"])
    assert main() == 0
    assert capsys.readouterr().out == "matches\n"


def test_a_witness_is_escaped_where_it_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    assert main(["overlaps", "\N{SQUID}", "*"]) == 0
    assert written.getvalue().split() == [b"overlaps:", b"\\U0001f991"]


def test_a_terminal_without_unicode_gets_an_error_message_too() -> None:
    status, out, err = run("match", "\N{SQUID}*", "a", PYTHONIOENCODING="ascii")
    assert (status, out) == (2, "")
    assert "\\U0001f991*" in err


@examples(200)
@given(strategies.related_pairs())
def test_a_witness_is_one(pair: tuple[str, str]) -> None:
    a, b = pair
    covers, missed = ask("covers", a, b)
    assert covers == reference.covers(a, b)
    if not covers:
        assert reference.matches(b, missed)
        assert not reference.matches(a, missed)
    overlaps, common = ask("overlaps", a, b)
    assert overlaps == reference.overlaps(a, b)
    if overlaps:
        assert reference.matches(a, common)
        assert reference.matches(b, common)


@examples(200)
@given(testing.patterns(), strategies.nasty_text)
def test_any_text_gets_an_answer(pattern: str, other: str) -> None:
    assert main(["overlaps", "--", pattern, pattern]) == 0
    expected = {0, 1} if reference.is_pattern(other) else {2}
    assert main(["overlaps", "--", pattern, other]) in expected
    assert main(["match", "--", pattern, other]) in {0, 1, 2}
    assert Pattern.parse(pattern).overlaps(Pattern.parse(pattern))


def ask(*words: str) -> tuple[bool, str]:
    """Ask in this process, where hypothesis has no fixtures; returns the answer and the witness."""
    stdout, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), "utf-8")
    try:
        status = main(words)
        sys.stdout.seek(0)
        return status == 0, sys.stdout.read().strip().rpartition(" ")[2]
    finally:
        sys.stdout = stdout


def test_the_readme_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")
    shown_there = re.findall(r"^\$ python -m trio_events (.*)\n(.*)$", text, re.MULTILINE)
    assert len(shown_there) == 3
    for words, answer in shown_there:
        main(shlex.split(words))
        assert capsys.readouterr().out == f"{answer}\n"


def test_a_reader_that_has_gone_does_not_look_like_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["match", "a", "a"]) == 0
