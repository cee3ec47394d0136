"""The code in the documentation runs, and prints what the documentation says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def blocks() -> list[object]:
    """Every Python block, with the output that the text after it promises."""
    found: list[object] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(
            r"^```python\n(.*?)^```\n+(?:It prints `(.*?)`)?", text, re.MULTILINE | re.DOTALL
        ):
            line = text.count("\n", 0, match.start()) + 1
            name = f"{page.relative_to(ROOT)}:{line}"
            found.append(pytest.param(match[1], match[2], id=name))
    return found


def test_there_are_blocks_to_run() -> None:
    assert blocks()


@pytest.mark.parametrize(("code", "output"), blocks())
def test_a_block_runs_as_printed(code: str, output: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    if output is not None:
        assert done.stdout.strip() == output
