"""Traces: what is in the file, and that it opens however it ends."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_events as events
from trio_events import Event, Log, Overflow, open_event_bus
from trio_events.devtools import _trace, record_trace


def read(file: Path) -> list[dict[str, Any]]:
    """What Perfetto reads: an array, or one that was cut off."""
    text = file.read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = json.loads(text)
    assert entries.pop() == {}
    lines = text.splitlines()
    assert lines[0] == "["
    for line in lines[1:-1]:  # one event a line, each followed by a comma
        assert line.endswith(",")
        json.loads(line[:-1])
    return entries


def tracks(entries: list[dict[str, Any]]) -> dict[str, int]:
    return {e["args"]["name"]: e["tid"] for e in entries if e["name"] == "thread_name"}


async def test_sends_calls_arrows_and_counters(tmp_path: Path) -> None:
    async def slow(event: Event) -> None:
        await trio.sleep(0.01)
        if event.path == "/2":
            raise ValueError
        await events.send("b", "done", event.path)

    file = tmp_path / "shop.trace.json"
    async with open_event_bus() as bus:
        await bus.on(slow, "a", concurrency=2, on_error=Log())
        full = await bus.subscribe("b", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
        async with record_trace(bus, file):
            for number in range(1, 4):
                await bus.send("a", "k", f"/{number}")
            thread = threading.Thread(target=bus.send_soon, args=("c", "k", "/thread"))
            thread.start()
            thread.join()
            await trio.sleep(0.1)
            full.channel().close()
        assert not bus._core.instruments.active
    entries = read(file)
    names = tracks(entries)
    assert {"slow", "slow (2)", "sends: slow", "sends: another thread"} < set(names)
    sends = [e for e in entries if e.get("cat") == "send"]
    assert {e["name"] for e in sends} == {"a/k", "b/done", "c/k"}
    assert all(e["args"]["line"].startswith(__file__) for e in sends if e["name"] != "c/k")
    calls = [e for e in entries if e.get("cat") == "call"]
    assert len(calls) == 3
    assert {e["tid"] for e in calls} == {names["slow"], names["slow (2)"]}
    assert sorted(e["args"].get("error", "") for e in calls) == ["", "", "ValueError"]
    assert all(e["dur"] >= 1 for e in (*sends, *calls))
    starts = {e["id"]: e for e in entries if e["ph"] == "s"}
    arrows = [e for e in entries if e["ph"] == "f"]
    assert len(arrows) == 3
    assert all(e["ts"] >= starts[e["id"]]["ts"] for e in arrows)
    assert any(e["ph"] == "C" for e in entries)
    assert entries[-1]["args"] == {"count": 0}


async def test_unfinished_sends_and_calls_are_in_it(tmp_path: Path) -> None:
    async def stuck(event: Event) -> None:
        await trio.sleep_forever()

    file = tmp_path / "trace.json"
    async with open_event_bus(drain_timeout=0) as bus, trio.open_nursery() as nursery:
        await bus.subscribe("b", max_buffer_size=1)
        with pytest.raises(ZeroDivisionError):
            async with record_trace(bus, file):
                await bus.on(stuck, "a")
                await bus.send("a", "k", "/1")
                await bus.send("b", "k", "/1")
                await wait_all_tasks_blocked(0.01)
                with pytest.raises(trio.WouldBlock):
                    bus.send_nowait("b", "k", "/2")
                nursery.start_soon(bus.send, "b", "k", "/3")
                await wait_all_tasks_blocked(0.01)
                raise ZeroDivisionError  # and it leaves as itself
        nursery.cancel_scope.cancel()
    entries = read(file)
    errors = {
        (e["name"], e["args"]["path"]): e["args"]["error"]
        for e in entries
        if e["ph"] == "X" and "error" in e["args"]
    }
    assert errors == {
        ("b/k", "/2"): "WouldBlock",
        ("b/k", "/3"): "unfinished",
        ("a/k", "/1"): "unfinished",
    }


async def test_a_file_that_was_cut_off_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_EVERY", 0.01)
    file = tmp_path / "trace.json"
    async with open_event_bus() as bus, record_trace(bus, file):
        await bus.send("a", "k", "/1")
        while "a/k" not in (text := file.read_text()):  # noqa: ASYNC110  # a thread writes it
            await trio.sleep(0.01)
        assert text.startswith("[\n")
        assert json.loads(text[: text.rindex(",")] + "]")  # what readers do


async def test_lines_that_are_too_many_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_MAX_WAITING", 5)
    monkeypatch.setattr(_trace, "_EVERY", 1000)
    file = tmp_path / "trace.json"
    async with open_event_bus() as bus, record_trace(bus, file):
        for _ in range(10):
            await bus.send("a", "k", "/1")
    entries = read(file)
    assert len(entries) == 6
    assert entries[-1] == {
        "ph": "M",
        "pid": 1,
        "name": "lost_lines",
        "args": {"count": entries[-1]["args"]["count"]},
    }
    assert entries[-1]["args"]["count"] > 0


async def test_arrows_are_remembered_for_the_latest_events_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_MAX_ARROWS", 2)
    go = trio.Event()

    async def handler(event: Event) -> None:
        await go.wait()

    file = tmp_path / "trace.json"
    async with open_event_bus() as bus:
        await bus.on(handler, "a")
        async with record_trace(bus, file):
            for number in range(4):
                await bus.send("a", "k", f"/{number}")
            go.set()
            await wait_all_tasks_blocked(0.01)
    assert len([e for e in read(file) if e["ph"] == "f"]) == 2


async def test_calls_and_sends_that_began_before_it_are_not_in_it(tmp_path: Path) -> None:
    go = trio.Event()

    async def handler(event: Event) -> None:
        await go.wait()

    file = tmp_path / "trace.json"
    async with open_event_bus() as bus:
        await bus.on(handler, "a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked(0.01)
        async with record_trace(bus, file):
            go.set()
            await wait_all_tasks_blocked(0.01)
    assert [e["ph"] for e in read(file)] == ["M", "M"]


async def test_a_file_that_cannot_be_written_is_an_error_at_once_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_EVERY", 0.01)
    async with open_event_bus() as bus:
        with pytest.raises(OSError, match="No such file"):
            async with record_trace(bus, tmp_path / "no" / "file"):
                raise AssertionError("it isn't entered")
        with pytest.raises(OSError, match="No space"):
            async with record_trace(bus, "/dev/full"):
                await bus.send("a", "k", "/1")
                await trio.sleep(0.1)
        assert not bus._core.instruments.active


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_exception_of_the_block_leaves_it_even_if_the_file_cannot_be_written(
    cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_event_bus() as bus:
        with trio.CancelScope() as scope, contextlib.suppress(ZeroDivisionError):
            async with record_trace(bus, "/dev/full"):
                await bus.send("a", "k", "/1")
                if cancelled:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                raise ZeroDivisionError
        assert scope.cancelled_caught is cancelled
        assert not bus._core.instruments.active
    (record,) = caplog.records
    assert record.getMessage().startswith("the trace /dev/full could not be written: ")


async def test_a_counter_belongs_to_one_subscription_and_ends_at_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trace, "_EVERY", 0)  # each event is counted
    file = tmp_path / "trace.json"
    async with open_event_bus() as bus:
        first = await bus.subscribe("a")
        async with record_trace(bus, file):
            await bus.send("a", "k", "/1")
            await bus.subscribe("b", "k")
            await bus.send("b", "k", "/2")
            await wait_all_tasks_blocked()
            first.close()
            (await bus.subscribe("never counted")).close()
            await bus.subscribe("c")
            await bus.send("c", "k", "/3")
            await wait_all_tasks_blocked()
    counters: dict[str, list[int]] = {}
    for entry in read(file):
        if entry["ph"] == "C":
            counters.setdefault(entry["name"], []).append(entry["args"]["events"])
    a, b, c = (f"unread {name}" for name in ("1: a ", "2: b k", "3: c "))
    assert list(counters) == [a, b, c]
    assert counters[a][-2:] == [1, 0]
    assert (counters[b][-1], counters[c][-1]) == (1, 1)


async def test_a_tracer_that_was_removed_ends_its_file_all_the_same(tmp_path: Path) -> None:
    async with open_event_bus() as bus, record_trace(bus, tmp_path / "trace.json"):
        ((tracer, _),) = bus._core.instruments._instruments.values()
        bus.remove_instrument(tracer)
    assert read(tmp_path / "trace.json")
