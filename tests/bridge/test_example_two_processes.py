"""The example with two processes prints what it should, over SQLite and over a server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trio_events.__main__ import main

from .servers import Server

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "two_processes.py"


def run(*words: str) -> list[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, EXAMPLE, *words],
        capture_output=True,
        text=True,
        env=environ,  # unbuffered, the two would print into each other's lines
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def assert_all_mails_were_sent(lines: list[str]) -> None:
    assert [line for line in lines if line.startswith("mailer: ")] == [
        "mailer: /orders/1 goes to customer1@example.org",
        "mailer: /orders/2 goes to customer2@example.org",
        "mailer: /orders/3 goes to customer3@example.org",
    ]
    assert [line for line in lines if line.startswith("shop: ")] == [
        "shop: the customer of /orders/1 knows",
        "shop: the customer of /orders/2 knows",
        "shop: the customer of /orders/3 knows",
    ]
    assert len(lines) == 6


def test_it_runs_on_a_file_by_itself() -> None:
    assert_all_mails_were_sent(run())


def test_afterwards_the_commands_of_the_page_show_what_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (EXAMPLE.parent.parent / "docs/tutorial/two-processes.md").read_text("utf-8")
    (log,) = re.findall(r"^make demo-bridge LOG=(\S+)$", page, re.MULTILINE)
    commands = re.findall(rf"^python -m trio_events ((?:tail|info) {log}.*)$", page, re.MULTILINE)
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    assert_all_mails_were_sent(run(log))
    for command in commands:
        assert main(shlex.split(command)) == 0
    printed = capsys.readouterr().out
    for number in range(1, 4):
        assert f'"/orders/{number}"' in printed
    assert "group 'mailer'" in printed


def test_it_runs_on_a_server(valkey: Server, tmp_path: Path) -> None:
    assert_all_mails_were_sent(run(f"{valkey.url}?log={tmp_path.name}"))
