"""Every promise in the reference has a number, and tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "semantics.md"

ROWS = re.findall(r"^\| (\d+\.\d+) \| (.+?) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)


@cache
def names_in(file: str) -> set[str]:
    """The functions and classes of a test module."""
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_the_numbers_are_in_order_without_gaps() -> None:
    numbers = [tuple(map(int, number.split("."))) for number, _, _ in ROWS]
    sections = sorted({section for section, _ in numbers})
    assert sections == list(range(1, len(sections) + 1))
    for section in sections:
        inside = [item for other, item in numbers if other == section]
        assert inside == list(range(1, len(inside) + 1))


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[2]) for row in ROWS])
def test_a_promise_is_held_by_tests_that_exist(number: str, tests: str) -> None:
    held_by = re.findall(r"`((?:\w+/)*test_\w+\.py)::(\w+)`", tests)
    assert held_by, number
    for file, name in held_by:
        assert name in names_in(file), f"{file}::{name}"
