"""The command about logs: what it prints, and its exit status."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_events.__main__ import main
from trio_events.bridge import LogUnavailableError, SqliteLog

from .logs import entry, write
from .servers import Server

PROGRAM = "python -m trio_events"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db"


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_what_is_sent_can_be_tailed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", url, "orders.eu", "order.created", "/orders/1", '{"total": 42}']) == 0
    assert main(["send", url, "mails", "mail.sent", "/orders/1"]) == 0
    assert lines(capsys) == ["1", "2"]
    assert main(["tail", url, "--end"]) == 0
    first, second = (line.partition(" ") for line in lines(capsys))
    assert (first[0], second[0]) == ("1", "2")
    events = [json.loads(first[2]), json.loads(second[2])]
    assert [(e["system"], e["type"], e["subject"], e["data"]) for e in events] == [
        ("orders.eu", "order.created", "/orders/1", {"total": 42}),
        ("mails", "mail.sent", "/orders/1", None),
    ]


def test_tail_shows_what_matches_after_a_position(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = SqliteLog(tmp_path / "events.db")
    trio.run(write, log, *[entry(f"/{n}", type="k.a" if n % 2 else "k") for n in range(1, 601)])
    for words, expected in [
        ([], 600),
        (["s"], 600),
        (["other.**"], 0),
        (["--kind", "k.*"], 300),
        (["--after", "590"], 10),
        (["**", "--kind", "k", "--after", "590"], 5),
        (["--after", "600"], 0),
    ]:
        assert main(["tail", url, *words, "--end"]) == 0
        assert len(lines(capsys)) == expected


def test_tail_reports_what_is_gone_and_what_is_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.db"
    written = [entry(f"/{n}") for n in range(1, 9)] + [b"nonsense", entry("/\x85", data="\n")]
    trio.run(write, SqliteLog(path, max_events=5), *written)
    assert main(["tail", f"sqlite:///{path}", "--end"]) == 0
    out, err = capsys.readouterr()
    assert [line.partition(" ")[0] for line in out.split("\n")] == ["6", "7", "8", "10", ""]
    assert "/\\u0085" in out
    warnings = err.splitlines()
    assert warnings[0] == f"{PROGRAM}: entries 1 to 5 are gone"
    assert warnings[1].startswith(f"{PROGRAM}: entry 9 is malformed: ")


def test_tail_waits_for_what_comes_until_it_is_interrupted(url: str) -> None:
    command = [sys.executable, "-m", "trio_events"]
    subprocess.run([*command, "send", url, "s", "k", "/before"], check=True, timeout=60)
    tail = subprocess.Popen([*command, "tail", url, "--after", "0"], stdout=subprocess.PIPE)
    assert tail.stdout is not None
    assert b'"/before"' in tail.stdout.readline()
    subprocess.run([*command, "send", url, "s", "k", "/later"], check=True, timeout=60)
    assert b'"/later"' in tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    tail.communicate(timeout=60)
    assert tail.returncode == 130


def test_tail_begins_at_the_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["send", url, "s", "k", "/1"])
    begun: list[int] = []

    async def read(_: Any, after: int, *more: Any) -> Any:
        await trio.lowlevel.checkpoint()
        begun.append(after)
        raise KeyboardInterrupt

    monkeypatch.setattr("trio_events.bridge._sqlite._SqliteSession.read", read)
    assert main(["tail", url]) == 130
    assert begun == [1]


def test_info_shows_the_positions_and_the_groups(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use() -> None:
        log = SqliteLog(tmp_path / "events.db")
        async with log.open():
            pass
        assert await trio.to_thread.run_sync(main, ["info", url]) == 0
        assert lines(capsys) == ["first 0", "last 0"]
        await write(log, entry("/1"), entry("/2"), entry("/3"))
        async with log.open() as session:
            await session.join("mailer", "'orders.**' kind='order.created'", 0)
            await session.claim("mailer", "m", 2, 60, 0)

    trio.run(use)
    assert main(["info", url]) == 0
    assert lines(capsys) == [
        "first 1",
        "last 3",
        "group 'mailer' for 'orders.**' kind='order.created': at 2, open claims: 2",
    ]


def test_a_log_in_a_server_is_asked_as_well(
    valkey: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{valkey.url}?log={tmp_path.name}"
    assert main(["send", url, "s", "k", "/x", "[1]"]) == 0
    assert main(["tail", url, "--end"]) == 0
    assert main(["info", url]) == 0
    found = lines(capsys)
    assert found[0] == "1"
    assert found[1].startswith("1 {")
    assert found[2:] == ["first 1", "last 1"]


def test_tail_shows_what_comes_after_an_entry_that_is_no_text(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    malformed = entry("/2", data="?").replace(b"?", b"\xff")
    trio.run(write, SqliteLog(tmp_path / "events.db"), entry("/1"), malformed, entry("/3"))
    assert main(["tail", url, "--end"]) == 0
    out, err = capsys.readouterr()
    assert [line[0] for line in out.splitlines()] == ["1", "3"]
    assert "entry 2 is malformed" in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["send", "URL", "a*", "k", "/x"], 2, "which are for patterns"),
        (["send", "URL", "a", "", "/x"], 2, "kind must not be empty"),
        (["send", "URL", "a", "k", ""], 2, "path must not be empty"),
        (["send", "URL", "$a", "k", "/x"], 2, "reserved"),
        (["send", "URL", "a", "k", "/x", "{"], 2, "the data is not JSON"),
        (["send", "URL", "a", "k", "/x", "[" * 50_000], 2, "the data is not JSON"),
        (["send", "URL", "a", "k", "/x", "[" * 50_000 + "]" * 50_000], 2, "the data is not JSON"),
        (["send", "URL", "a", "k", "/x", '"' + "x" * 300_000 + '"'], 2, "bytes"),
        (["tail", "URL", "a*", "--end"], 2, "wildcard"),
        (["info", "http://host"], 2, "not a scheme of a log"),
        (["info", "redis://user:secret@host:port"], 2, "not a URL"),
        (["info", "sqlite:////no/such/folder/x.db"], 2, "there is no file '/no"),
        (["tail", "sqlite:////no/such/folder/x.db"], 2, "unable to open"),
        (["tail", "URL", "--after", "9007199254740992"], 2, "after must be between 0 and"),
        (["tail", "sqlite:///:memory:", "--end"], 2, "must be that of a file"),
        pytest.param(
            *(["info", "redis://user:secret@127.0.0.1:1"], 1, "Unable to establish a connection"),
            marks=pytest.mark.skipif(
                importlib.util.find_spec("coredis") is None, reason="coredis is not installed"
            ),
        ),
    ],
)
def test_what_cannot_be_done_is_explained_in_a_line(
    words: list[str], status: int, message: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([url if word == "URL" else word for word in words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{PROGRAM}: ")
    assert err.count("\n") == 1
    assert message in err
    assert "secret" not in err


@pytest.mark.parametrize(
    "words", [["tail"], ["send", "x", "s", "k"], ["info"], ["tail", "x", "--after", "-1"]]
)
def test_an_unknown_command_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("msgspec", ["info", "sqlite:///x.db"], "trio-events[bridge]"),
        ("coredis", ["info", "redis://127.0.0.1"], "trio-events[redis]"),
    ],
)
def test_a_missing_extra_is_said_in_a_line(module: str, words: list[str], extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; from trio_events.__main__ import main; "
        f"sys.exit(main({words!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert module in done.stderr
    assert done.stderr.endswith(f": pip install '{extra}'\n")


def test_a_missing_extra_is_noticed_when_the_module_or_the_log_is_needed(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trio_events.bridge._redis", None)
    assert main(["info", "redis://127.0.0.1"]) == 2
    assert "pip install 'trio-events[redis]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trio_events.bridge._command", None)
    assert main(["info", url]) == 2
    assert "pip install 'trio-events[bridge]'" in capsys.readouterr().err


def test_questions_about_patterns_need_no_extra() -> None:
    code = (
        "import sys; from trio_events.__main__ import main; main(['match', 'a', 'a']); "
        "sys.exit('msgspec' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
@pytest.mark.parametrize("words", [["tail", "--end"], ["info"]])
def test_a_reader_that_has_gone_ends_the_command(
    kind: str,
    words: list[str],
    url: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "valkey":
        server: Server = request.getfixturevalue("valkey")
        url = f"{server.url}?log={tmp_path.name}"
    main(["send", url, "s", "k", "/1"])
    capsys.readouterr()
    read, write_end = os.pipe()
    os.close(read)
    with os.fdopen(write_end, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main([words[0], url, *words[1:]]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")],
)
def test_the_status_says_whether_the_answer_was_written_or_the_event_appended(
    redirection: str, reason: str, url: str
) -> None:
    def run(*words: str) -> tuple[int, str]:
        command = shlex.join([sys.executable, "-m", "trio_events", *words])
        done = subprocess.run(
            ["sh", "-c", f"exec {command} {redirection}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    assert run("send", url, "s", "k", "/1") == (0, "")
    assert run("info", url) == (1, f"{PROGRAM}: can't write to stdout: {reason}\n")
    assert run("tail", url, "--end") == (1, f"{PROGRAM}: can't write to stdout: {reason}\n")


def test_without_stdout_an_event_is_appended_and_an_answer_is_an_error(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["send", url, "s", "k", "/1"]) == 0
    assert main(["info", url]) == 1
    assert capsys.readouterr().err == f"{PROGRAM}: can't write to stdout: Bad file descriptor\n"


def test_a_log_that_goes_away_meanwhile_is_unavailable(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def read(*_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise LogUnavailableError("it has gone")

    monkeypatch.setattr("trio_events.bridge._sqlite._SqliteSession.read", read)
    assert main(["tail", url]) == 1
    assert capsys.readouterr().err == f"{PROGRAM}: it has gone\n"
