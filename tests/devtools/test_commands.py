"""The commands map, top and graph."""

from __future__ import annotations

import io
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from rich.console import Console, Group
from trio.testing import wait_all_tasks_blocked

from trio_events import Overflow, _supervisor, open_event_bus
from trio_events.__main__ import main
from trio_events.devtools import serve_map
from trio_events.devtools._client import MapError, ask, fetch
from trio_events.devtools._script import run_script
from trio_events.devtools._top import Encodable, Rates, bar, order, top

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TIME_LIMIT = 60


async def run_shop(url_to: trio.MemorySendChannel[str]) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        url = await nursery.start(serve_map, bus)
        await bus.subscribe("orders", max_buffer_size=1)
        await bus.subscribe("mail", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)
        for _ in range(3):
            await bus.send("mail", "mail.queued", "/1")
        await bus.send("orders", "order.placed", "/1")
        await wait_all_tasks_blocked(0.01)
        nursery.start_soon(bus.send, "orders", "order.placed", "/2")
        await url_to.send(url)
        await trio.sleep_forever()


async def test_top_without_a_terminal_prints_one_table() -> None:
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            sending, receiving = trio.open_memory_channel[str](1)
            nursery.start_soon(run_shop, sending)
            url = await receiving.receive()
            lines: list[str] = []
            await top(url, Console(width=160, force_terminal=False), lines.append)
            assert lines[0].startswith("trio_events top")
            assert "1 waiting to send" in lines[0]
            assert lines[2].split()[:3] == ["READER", "READS", "IN/S"]
            assert "orders" in lines[3]  # what is stuck comes first
            assert "1 for " in lines[3]
            assert "mail" in lines[4]
            assert any("holds up" in line for line in lines)
            nursery.cancel_scope.cancel()


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal as stdin; the other end of it."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


async def test_top_on_a_terminal_goes_on_until_q(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(TIME_LIMIT), terminal(monkeypatch) as keyboard:
        async with trio.open_nursery() as nursery:
            sending, receiving = trio.open_memory_channel[str](1)
            nursery.start_soon(run_shop, sending)
            url = await receiving.receive()
            out = io.StringIO()

            async def type_keys() -> None:
                while "holds up" not in out.getvalue():  # noqa: ASYNC110  # nobody tells of that
                    await trio.sleep(0.01)
                os.write(keyboard, b"xq")

            nursery.start_soon(type_keys)
            await top(url, Console(file=out, force_terminal=True, width=160, height=40), print)
            nursery.cancel_scope.cancel()


async def test_top_on_a_terminal_ends_with_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.fail_after(TIME_LIMIT), terminal(monkeypatch):
        async with trio.open_nursery() as nursery:
            sending, receiving = trio.open_memory_channel[str](1)
            scope = trio.CancelScope()

            async def shop() -> None:
                with scope:
                    await run_shop(sending)

            nursery.start_soon(shop)
            url = await receiving.receive()
            out = io.StringIO()

            async def end() -> None:
                while "holds up" not in out.getvalue():  # noqa: ASYNC110  # as above
                    await trio.sleep(0.01)
                scope.cancel()

            nursery.start_soon(end)
            await top(url, Console(file=out, force_terminal=True, width=160, height=40), print)


async def test_graph_prints_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            sending, receiving = trio.open_memory_channel[str](1)
            nursery.start_soon(run_shop, sending)
            url = await receiving.receive()
            status = await trio.to_thread.run_sync(main, ["graph", url])
            nursery.cancel_scope.cancel()
    assert status == 0
    assert capsys.readouterr().out.startswith("flowchart LR\n")


CASES = [
    (">&-", 1, "python -m trio_events: can't write to stdout: Bad file descriptor\n"),
    (">/dev/full", 1, "python -m trio_events: can't write to stdout: No space left on device\n"),
    ("| head -n 0", 0, ""),
    ("| cat", 0, ""),
]


@pytest.mark.parametrize("command", ["top", "graph"])
@pytest.mark.parametrize(("redirection", "status", "says"), CASES)
async def test_any_stdout_will_do_and_if_it_cannot_be_written_that_is_said_in_one_line(
    command: str, redirection: str, status: int, says: str
) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            url = await nursery.start(serve_map, bus)
            await bus.subscribe("größe")
            await bus.send("größe", "…", "/1")
            words = shlex.join([sys.executable, "-m", "trio_events", command, url])
            done = await trio.run_process(
                ["sh", "-c", f"({words}; echo $? >&2) {redirection}"],
                capture_stdout=True,
                capture_stderr=True,
                env=os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "160"},
            )
            nursery.cancel_scope.cancel()
    assert done.stderr.decode() == f"{says}{status}\n"
    if redirection == "| cat" and command == "top":
        lines = done.stdout.decode("ascii").splitlines()
        assert lines[3].split()[:4] == ["nobody", "gr??e", "0.0", "............"]
        assert "* nobody has read gr??e  1 event unread" in lines
    elif redirection == "| cat":
        assert '(["gr\\xf6\\xdfe #8230;"])' in done.stdout.decode("ascii")


PROGRAM = """
import sys, trio, trio_events as events
async def main():
    async with events.open_event_bus() as bus:
        await trio.sleep(0.2)
        print(sys.argv, __name__)
    if "fail" in sys.argv:
        raise ZeroDivisionError
trio.run(main)
"""


def test_map_runs_a_program_and_says_where_the_map_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    supervise, argv, path = _supervisor._supervise, sys.argv, sys.path
    assert main(["map", str(script), "one", "--two"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{[str(script), 'one', '--two']} __main__\n"
    assert printed.err.startswith("The map of the bus: http://127.0.0.1:")
    with pytest.raises(ZeroDivisionError):
        run_script(str(script), ["fail"], io.StringIO())
    assert (_supervisor._supervise, sys.argv, sys.path) == (supervise, argv, path)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | head -n 0"])
def test_a_program_runs_in_front_of_the_map_even_if_stderr_cannot_be_written(
    redirection: str, tmp_path: Path
) -> None:
    script, finished = tmp_path / "program.py", tmp_path / "finished"
    script.write_text(f"{PROGRAM}\nopen(sys.argv[1], 'w').close()\n")
    command = shlex.join([sys.executable, "-m", "trio_events", "map", str(script), str(finished)])
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirection}"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert finished.exists()
    assert (done.returncode, done.stderr) == (0, "")
    assert "The map" not in done.stdout


def test_a_report_that_was_closed_does_not_disturb_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    report = io.StringIO()
    report.close()
    for nowhere in (None, report):
        run_script(str(script), [], nowhere)
        assert capsys.readouterr() == (f"{[str(script)]} __main__\n", "")


def test_a_map_that_cannot_be_served_is_logged_and_does_not_disturb_the_program(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("too many open files")

    monkeypatch.setattr("trio_events.devtools._script.serve_observer", fail)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    assert main(["map", str(script)]) == 0
    assert capsys.readouterr() == (f"{[str(script)]} __main__\n", "")
    assert [record.getMessage() for record in caplog.records] == ["the live map has failed"]


DRAINING = """
import json, pathlib, sys, trio, trio.testing, trio_events as events
from trio_events.devtools._client import fetch
async def handler(event):
    await trio.testing.wait_all_tasks_blocked()  # by now, the block of the bus has been left
    while "http" not in (report := pathlib.Path(sys.argv[1]).read_text()):
        await trio.sleep(0.01)
    state = json.loads(await fetch(report.split()[-1], "state"))
    print([kind["id"] for kind in state["kinds"]])
async def main():
    async with events.open_event_bus() as bus:
        await bus.send("a", "first", "/")
        await bus.on(handler, "b")
        await bus.send("b", "last", "/")
trio.run(main)
"""


def test_the_map_is_there_from_the_first_event_until_the_bus_has_drained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, file = tmp_path / "program.py", tmp_path / "report"
    script.write_text(DRAINING)
    with file.open("w") as report:
        run_script(str(script), [str(file)], report)
    assert capsys.readouterr().out == "['a/first', 'b/last']\n"


def test_map_of_a_program_that_is_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "program.py"
    script.write_text("raise KeyboardInterrupt")
    assert main(["map", str(script)]) == 130
    script.write_text("raise BaseExceptionGroup('a nursery was open', [KeyboardInterrupt()])")
    assert main(["map", str(script)]) == 130
    assert main(["map", str(tmp_path / "none.py")]) == 1
    assert "can't read" in capsys.readouterr().err


def test_the_examples_run_in_front_of_the_map() -> None:
    for example in ("checkout.py", "01_hello.py"):
        done = subprocess.run(
            [sys.executable, "-m", "trio_events", "map", EXAMPLES / example],
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["top", "graph"])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "is not the URL of a live map"),
        ("http://127.0.0.1:99999/x/", "is not the URL of a live map"),
        ("https://127.0.0.1:1/x/", "is not the URL of a live map"),
        ("http://127.0.0.1:1/a b/", "is not the URL of a live map"),
        ("http://127.0.0.1:1/x/", "has the program ended?"),
        ("http://no..host:1/x/", "has the program ended?"),
    ],
)
def test_a_url_without_a_map_is_said_in_one_line(
    command: str, url: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert printed.err.count("\n") == 1


async def test_at_a_wrong_path_there_is_no_map() -> None:
    with trio.fail_after(TIME_LIMIT):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            url = await nursery.start(serve_map, bus)
            with pytest.raises(MapError, match="404"):
                await fetch(url[:-5] + "/", "mermaid")
            nursery.cancel_scope.cancel()


async def serve_raw(  # noqa: ASYNC114  # it is started in a nursery
    data: bytes, *, task_status: trio.TaskStatus[int]
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(data)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(answer, [listener])


def head(kind: bytes, size: int = 1000) -> bytes:
    return b"HTTP/1.1 200 \r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, size)


STREAM, PLAIN = head(b"text/event-stream; charset=utf-8"), head(b"Text/Plain")


@pytest.mark.parametrize("data", [STREAM, STREAM + b"data: {", head(b"text/event-stream", 0)])
async def test_a_program_that_ends_is_the_end_of_a_stream(data: bytes) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_raw, data)
            async with ask(f"http://127.0.0.1:{port}/x/", "stream") as answer:
                assert await answer.state() is None
            with pytest.raises(MapError, match="has ended"):
                await top(f"http://127.0.0.1:{port}/x/", Console(force_terminal=False), print)
            nursery.cancel_scope.cancel()


NO_MAPS = [
    (b"", "gives no answer"),
    (b"-ERR unknown command\r\n\r\n", "gives no answer"),
    (b"HTTP/1.1 103 \r\n\r\n" + head(b"text/html", 5) + b"<html", "no live map"),
    (b"HTTP/1.1 200 \r\n\r\n", "no live map"),
    (b"HTTP/1.1 302 \r\nLocation: /elsewhere\r\n\r\n", "answers 302: no live map"),
]


@pytest.mark.parametrize(
    ("command", "data", "says"),
    [
        *((command, *case) for command in ("graph", "top") for case in NO_MAPS),
        ("graph", PLAIN, "has ended"),
        ("graph", PLAIN + b"flowchart LR\n", "has ended"),
        ("graph", head(b"text/plain", 5) + b"hello", "no live map"),
        ("top", head(b"text/event-stream", 9) + b"data: {\n\n", "something else"),
        ("top", head(b"text/event-stream", 10) + b"data: {}\n\n", "something else"),
        ("top", head(b"text/event-stream", 9) + b"data: 7\n\n", "something else"),
    ],
)
async def test_another_server_or_half_an_answer_is_said_in_one_line(
    command: str, data: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_raw, data)
            url = f"http://127.0.0.1:{port}/x/"
            status = await trio.to_thread.run_sync(main, [command, url])
            nursery.cancel_scope.cancel()
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (1, "", 1)
    assert says in printed.err


async def test_on_a_terminal_an_error_later_on_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_events.devtools._top.Rates.update", lambda *_: None)
    monkeypatch.setattr("trio_events.devtools._top.picture", lambda *_: Group())
    with trio.fail_after(TIME_LIMIT), terminal(monkeypatch):
        async with trio.open_nursery() as nursery:
            data = STREAM + b'data: {"rows": []}\n\ndata: {}\n\n'
            port = await nursery.start(serve_raw, data)
            with pytest.raises(MapError, match="something else"):
                console = Console(file=io.StringIO(), force_terminal=True)
                await top(f"http://127.0.0.1:{port}/x/", console, print)
            nursery.cancel_scope.cancel()


async def test_on_a_terminal_another_server_is_the_same_error() -> None:
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_raw, STREAM + b"data: {}\n\n")
            out = io.StringIO()
            with pytest.raises(MapError, match="something else"):
                console = Console(file=out, force_terminal=True)
                await top(f"http://127.0.0.1:{port}/x/", console, print)
            assert out.getvalue() == ""
            nursery.cancel_scope.cancel()


def test_a_missing_extra_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("trio_events.devtools")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "h11", None)  # as if it weren't there
    assert main(["top", "http://127.0.0.1:1/"]) == 2
    printed = capsys.readouterr()
    assert "pip install 'trio-events[devtools]'" in printed.err
    assert printed.err.count("\n") == 1


def test_what_is_stuck_comes_first_then_what_loses_then_by_rate() -> None:
    def row(number: int, waiting: int = 0, dropped: int = 0, matched: int = 0) -> dict[str, object]:
        return {
            "id": number,
            "waiting": [{}] * waiting,
            "losing": False,
            "dropped": dropped,
            "matched": matched,
        }

    rates = Rates()
    rates.update({"rows": [row(3), row(4)], "accepted": 0, "time": 1.0})
    rates.update({"rows": [row(3, matched=10), row(4, matched=20)], "accepted": 30, "time": 2.0})
    rates.update({"rows": [row(3, matched=20), row(4, matched=40)], "accepted": 60, "time": 3.0})
    assert round(rates[3]) == 10
    assert rates["nothing"] == 0
    rows = [row(3), row(4), row(2, dropped=1), row(1, waiting=1)]
    assert [each["id"] for each in order(rows, rates)] == [1, 2, 4, 3]


def test_columns_stay_where_the_terminal_has_no_other_characters() -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    console = Console(file=out, width=40, force_terminal=False)
    console.print(Encodable(Group(bar(0.13), "größe × 2 ●…", "plain")))
    out.flush()
    assert out.buffer.getvalue().decode().splitlines() == [
        "# ..........",
        "gr??e x 2 *~",
        "plain",
    ]


@pytest.mark.parametrize(
    ("fill", "shown"), [(0, "············"), (0.5, "██████······"), (1, "████████████")]
)
def test_a_gauge(fill: float, shown: str) -> None:
    assert bar(fill).plain == shown
    assert len(bar(0.13).plain) == 12
