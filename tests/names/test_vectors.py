"""The conformance vectors: this implementation passes them, and the oracle wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trio_events import InvalidEventError, InvalidPatternError, Pattern
from trio_events._names import pattern as _pattern

ROOT = Path(__file__).parent.parent.parent
FILE = Path(__file__).parent / "vectors" / "patterns.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text("ascii"))


def parse(text: str) -> Pattern:
    return Pattern.parse(text)


def test_the_file_is_what_the_tool_writes() -> None:
    tool = ROOT / "tools" / "make_vectors.py"
    subprocess.run([sys.executable, tool, "--check"], timeout=300, check=True)


def test_the_version_and_the_limits() -> None:
    assert DOCUMENT["version"] == 2
    assert DOCUMENT["limits"] == {
        "segments": _pattern.MAX_SEGMENTS,
        "characters": _pattern.MAX_CHARACTERS,
        "alternatives": _pattern.MAX_ALTERNATIVES,
    }


def test_every_text_can_be_encoded() -> None:
    json.dumps(DOCUMENT, ensure_ascii=False).encode()


def test_matches() -> None:
    for vector in DOCUMENT["matches"]:
        assert parse(vector["pattern"]).matches(vector["name"]) is vector["matches"], vector


def test_covers() -> None:
    for vector in DOCUMENT["covers"]:
        assert parse(vector["a"]).covers(parse(vector["b"])) is vector["covers"], vector


def test_overlaps() -> None:
    for vector in DOCUMENT["overlaps"]:
        a, b = parse(vector["a"]), parse(vector["b"])
        assert a.overlaps(b) is vector["overlaps"], vector
        assert b.overlaps(a) is vector["overlaps"], vector


def test_canonical() -> None:
    for vector in DOCUMENT["canonical"]:
        assert str(parse(vector["text"])) == vector["canonical"], vector
        assert str(parse(vector["canonical"])) == vector["canonical"], vector


def test_refusals() -> None:
    for vector in DOCUMENT["refusals"]:
        with pytest.raises(InvalidPatternError) as caught:
            parse(vector["text"])
        assert caught.value.position == vector["position"], vector


def test_names() -> None:
    for vector in DOCUMENT["names"]:
        for field in ("system", "kind"):
            try:
                _pattern.plain_name(vector["name"], field)
            except InvalidEventError:
                assert not vector[field], vector
            else:
                assert vector[field], vector


@pytest.mark.parametrize(
    ("section", "answer"),
    [
        ("matches", "matches"),
        ("covers", "covers"),
        ("overlaps", "overlaps"),
        ("names", "system"),
        ("names", "kind"),
    ],
)
def test_every_answer_is_asked_for_often(section: str, answer: str) -> None:
    answers = [vector[answer] for vector in DOCUMENT[section]]
    assert min(answers.count(True), answers.count(False)) >= 20
    assert set(answers) == {True, False}


def test_every_rule_of_the_grammar_is_refused_by_some_vector() -> None:
    rules = set()
    for vector in DOCUMENT["refusals"]:
        with pytest.raises(InvalidPatternError) as caught:
            parse(vector["text"])
        rules.add(str(caught.value).partition(" (position")[0])
    known = {*_pattern._MISPLACED.values(), *_pattern._MISPLACED_INSIDE.values()}
    assert rules >= known
    assert (
        len(rules) >= len(known) + 11
    )  # and empty texts, limits, what is not closed, foreign wildcards
