"""The soak can be run, and can fail. How long it runs elsewhere is for others to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")
SOAK_MAP = Path(__file__).with_name("soak_map.py")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_a_soak_of_two_seconds_leaves_nothing_behind() -> None:
    done = run(str(SOAK), "--seconds", "2", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert "KiB per 1000 subscriptions" in done.stdout
    assert not done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_soak_of_the_map_says_how_much_the_memory_has_grown() -> None:
    done = run(str(SOAK_MAP), "--seconds", "1", "--max-growth", "1000")
    assert done.returncode == 0, done.stderr
    assert "events in 1 s" in done.stdout
    assert not done.stderr
    done = run(str(SOAK_MAP), "--seconds", "1", "--max-growth", "-1000")
    assert done.returncode == 1
    assert "WRONG: the memory has grown by" in done.stderr


def test_a_soak_fails_if_the_books_do_not_balance() -> None:
    code = f"""if True:
        import runpy, sys
        from trio_events._core.buffer import Buffer

        Buffer.delivered = property(lambda self: 7)
        sys.argv = ["soak.py", "--seconds", "0.2"]
        runpy.run_path({str(SOAK)!r}, run_name="__main__")
    """
    done = run("-c", code)
    assert done.returncode == 1
    assert "WRONG: does not balance" in done.stderr
