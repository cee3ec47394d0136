"""The observer: what it counts, who caused what, and what it says is wrong."""

from __future__ import annotations

import gc
import json
import sys
import threading
import types
from collections import Counter
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events as events
from trio_events import (
    Event,
    EventBus,
    Log,
    Overflow,
    PolicyDeniedError,
    Reject,
    RulePolicy,
    open_event_bus,
)
from trio_events.bridge import MemoryLog, open_bridge
from trio_events.devtools import Observer, _parties
from trio_events.devtools import _observer as module
from trio_events.devtools._parties import short_name
from trio_events.devtools._problems import NEVER_MATCHED

from .shop import charge, do_business, ship


def rows(state: dict[str, Any], party: str) -> list[dict[str, Any]]:
    return [row for row in state["rows"] if row["party"] == party]


def counts(state: dict[str, Any]) -> dict[str, int]:
    return {kind["id"]: kind["count"] for kind in state["kinds"]}


def texts(state: dict[str, Any]) -> list[str]:
    return [problem["text"] for problem in state["problems"]]


async def test_the_state_of_a_shop(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        with Observer(bus) as observer:
            await do_business(bus, nursery)
            await trio.sleep(0.5)
            state = observer.state()
            assert json.loads(json.dumps(state)) == state
            assert state["accepted"] == bus.statistics().accepted
            assert counts(state)["orders/order.placed"] == 6
            senders = {(sent["party"], sent["kind"]): sent["count"] for sent in state["sends"]}
            assert senders["customer", "orders/order.placed"] == 6
            assert senders["charge", "payments/payment.received"] == 6
            assert senders["ship", "shipping/parcel.sent"] == 4  # one failed, one is yet to come
            (report,) = rows(state, "report")
            assert (report["used"], report["size"], report["fill"]) == (2, 2, 1.0)
            (sender,) = report["waiting"]
            assert (sender["party"], sender["kind"]) == ("ship", "shipping/parcel.sent")
            assert sender["for"] == 0.5
            (shipping,) = rows(state, "ship")
            assert shipping["failures"] == 1
            assert shipping["is_handler"]
            (running,) = state["running"]
            assert running["party"] == "ship"
            assert observer.tree(running["number"]) is not None
            assert set(state["calls"]) == {"charge", "ship"}
            by_route = Counter[str]()
            for route in state["routes"]:
                by_route[route["kind"]] += route["count"]
            assert by_route["payments/payment.received"] == 6 + 1  # one of them at /orders/1
            said = texts(state)
            assert said[:2] == ["report holds up ship", "nobody loses events"]
            assert {
                "ship has failed once",
                "nobody has read orders",
                "nobody has read ** · /orders/1",
                "nobody wanted some of web page.viewed",
            } <= set(said)
            nursery.cancel_scope.cancel()


async def test_why_and_what_then(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        with Observer(bus) as observer:
            await do_business(bus, nursery)
            await trio.sleep(0.1)
            shown = observer.state()["events"]
            last = next(e for e in shown if e["kind"] == "parcel.sent" and e["path"] == "/orders/2")
            root = observer.tree(last["number"])
            assert root is not None
            assert (root["kind"], root["party"]) == ("order.placed", "customer")
            assert [call["handler"] for call in root["calls"]] == ["charge"]
            (payment,) = root["effects"]
            assert (payment["kind"], payment["party"]) == ("payment.received", "charge")
            (parcel,) = payment["effects"]
            assert parcel["number"] == last["number"]
            assert parcel["effects"] == []
            failed = next(
                e
                for e in shown
                if e["path"] == "/orders/13" and e["calls"] and e["calls"][0]["error"]
            )
            assert failed["calls"][0]["error"] == "ValueError('no such address')"
            assert observer.tree(10**6) is None
            nursery.cancel_scope.cancel()


async def test_what_an_iterating_task_sends_follows_from_what_it_took_last(
    autojump_clock: MockClock,
) -> None:
    async def relay(bus: EventBus, way: str) -> None:
        subscription = await bus.subscribe("a")
        if way == "iteration":
            async for event in subscription:
                await bus.send("b", "k", event.path)
        else:
            async for batch in subscription.batches(max_size=None if way == "batches" else 1):
                await bus.send("b", "k", batch[-1].path)

    for way in ("iteration", "batches", "batches of one"):
        async with open_event_bus() as bus, trio.open_nursery() as nursery:
            observer = Observer(bus)
            nursery.start_soon(relay, bus, way)
            await wait_all_tasks_blocked()
            for number in range(3):
                await bus.send("a", "k", f"/{number}")
                await wait_all_tasks_blocked()
            caused = [each for each in observer._order if each.event.system == "b"]
            assert len(caused) == 3
            for each in caused:
                if way == "iteration":
                    assert each.cause is not None
                    assert each.cause.event.path == each.event.path
                else:
                    assert each.cause is None
            nursery.cancel_scope.cancel()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=3, max_size=3), st.integers(1, 4))
def test_counts_are_those_of_the_statistics_and_causes_those_passed_by_hand(
    sends: list[list[int]], roots: int
) -> None:
    """Handler n sends to later handlers; data says which event it was that led to it."""

    async def main() -> None:
        async with open_event_bus() as bus:
            observer = Observer(bus)

            def handler(n: int) -> Any:
                async def handle(event: Event[Any]) -> None:
                    for to in sends[n]:
                        if to > n:
                            await bus.send(f"s{to}", "k", f"{event.path}/{to}", event.path)

                return handle

            subscriptions = [await bus.on(handler(n), f"s{n}") for n in range(3)]
            for number in range(roots):
                await bus.send("s0", "k", f"/{number}")
            await wait_all_tasks_blocked()
            for record in observer._order:
                cause = None if record.cause is None else record.cause.event.path
                assert cause == record.event.data
            state = observer.state()
            assert sum(counts(state).values()) == state["accepted"] == bus.statistics().accepted
            for subscription in subscriptions:
                books = subscription.statistics()
                row = next(r for r in state["rows"] if r["system"] == subscription.system)
                assert (row["matched"], row["delivered"]) == (books.matched, books.delivered)
                routed = sum(r["count"] for r in state["routes"] if r["row"] == row["id"])
                assert routed == books.matched

    trio.run(main)


async def test_subscriptions_of_one_line_are_one_row_whose_sums_never_shrink(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus)
        subscriptions = [
            await bus.subscribe("a", max_buffer_size=4, overflow=Overflow.DROP_OLDEST)
            for _ in range(30)
        ]
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        for each in subscriptions:
            await each.receive()
        for _ in range(3):
            await bus.send("a", "k", "/2")
        await wait_all_tasks_blocked()
        await subscriptions[0].receive()
        (row,) = observer.state()["rows"]
        assert (row["open"], row["matched"], row["queued"]) == (30, 120, 89)
        assert (row["used"], row["size"], row["peak"]) == (3, 4, 3)
        for each in subscriptions[5:]:
            each.close()
        (row,) = observer.state()["rows"]
        assert (row["open"], row["matched"]) == (5, 120)
        for each in subscriptions[:5]:
            each.channel().close()
        state = observer.state()
        assert (state["rows"][0]["open"], state["rows"][0]["matched"]) == (0, 120)
        assert state["routes"] == [{"kind": "a/k", "row": row["id"], "count": 120}]
        for gone in observer._rows.values():
            gone.latest -= 11
        assert observer.state()["rows"] == []


async def test_tasks_of_one_name_are_one_party(autojump_clock: MockClock) -> None:
    async def worker(bus: EventBus) -> None:
        await bus.send("a", "k", "/1")
        await trio.sleep_forever()

    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        observer = Observer(bus)
        for _ in range(12):
            nursery.start_soon(worker, bus)
        await wait_all_tasks_blocked()
        (party,) = (each for each in observer.state()["parties"] if each["name"] == "worker")
        assert party["tasks"] == 12
        nursery.cancel_scope.cancel()


async def test_another_thread_is_a_party(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus)
        thread = threading.Thread(target=bus.send_soon, args=("a", "k", "/1"))
        thread.start()
        thread.join()
        await wait_all_tasks_blocked()
        trio.lowlevel.current_trio_token().run_sync_soon(bus.send_nowait, "a", "k", "/2")
        await wait_all_tasks_blocked()
        assert [(s["party"], s["count"]) for s in observer.state()["sends"]] == [
            ("another thread", 2)
        ]


async def test_how_a_send_went(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        observer = Observer(bus, max_events=3)
        full = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("a", "k", "/2")
        nursery.start_soon(bus.send, "a", "k", "/3")
        await wait_all_tasks_blocked()
        assert [(r.event.path, r.fate) for r in observer._order] == [
            ("/1", "sent"),
            ("/2", "WouldBlock"),
            ("/3", "waits"),
        ]
        fates = [(e["path"], e["fate"]) for e in observer.state()["events"]]
        assert fates == [("/1", "sent"), ("/2", "WouldBlock")]  # the third is not routed yet
        position = observer.state()["position"]
        await full.receive()
        await wait_all_tasks_blocked()
        assert [e["path"] for e in observer.state(position)["events"]] == ["/3"]


async def test_forgetting_while_a_send_waits_does_no_harm(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        observer = Observer(bus, max_events=1)
        full = await bus.subscribe("a", max_buffer_size=1)
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        nursery.start_soon(bus.send, "a", "k", "/2")
        await wait_all_tasks_blocked()
        await bus.send("b", "k", "/3")
        assert [record.event.path for record in observer._order] == ["/3"]
        await full.receive()
        await wait_all_tasks_blocked()
        assert (await full.receive()).path == "/2"
        handled: list[str] = []

        async def handler(event: Event) -> None:
            await bus.send("d", "k", event.path)
            handled.append(event.path)

        await bus.on(handler, "c")
        bus.send_nowait("c", "k", "/4")
        bus.send_nowait("c", "k", "/5")  # forgets the one before
        await wait_all_tasks_blocked()
        assert handled == ["/4", "/5"]
        assert observer.tree(observer._count) is not None


async def test_no_more_than_500_names_are_distinguished(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_NAMES", 3)
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        observer = Observer(bus)
        await bus.subscribe("**", max_buffer_size=1000)
        for number in range(8):
            nursery.start_soon(bus.send, f"s{number}", "k", "/1", name=f"task {number}")
            await wait_all_tasks_blocked()
        state = observer.state()
        assert len(state["kinds"]) == 4
        assert counts(state)["others/others"] == 5
        assert {party["name"] for party in state["parties"]} == {
            "task 0",
            "task 1",
            "task 2",
            "others",
        }
        assert sum(route["count"] for route in state["routes"]) == 8
        assert len(observer._names) <= 6


async def test_refusals_are_problems(autojump_clock: MockClock) -> None:
    async with open_event_bus(policy=RulePolicy([])) as bus:
        observer = Observer(bus)
        for _ in range(3):
            with pytest.raises(PolicyDeniedError):
                await bus.for_actor("eve").send("secret", "k", "/1")
        with pytest.raises(PolicyDeniedError):
            await bus.subscribe("a.*")
        bus.send_soon("a", "k", "/1")
        await wait_all_tasks_blocked()
        state = observer.state()
        assert texts(state) == [
            "eve may not send to secret",
            "anybody may not subscribe to a.*",
            "anybody may not send to a",
            "send_soon could not send 1 event",
        ]
        assert state["problems"][0]["detail"] == "refused 3 times"
        assert state["problems"][1]["detail"] == "refused once"


async def test_other_problems(autojump_clock: MockClock) -> None:
    async def slow(event: Event) -> None:
        if event.path == "/bad":
            raise ValueError
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery, open_event_bus(drain_timeout=0) as bus:
        observer = Observer(bus)
        await bus.on(slow, "a", on_error=Log())
        await bus.subscribe("never.*", "sent", path="/x")
        for path in ("/bad", "/bad", "/1"):
            await bus.send("a", "k", path)
        await bus.send("nobody", "cares", "/1")
        losing = await bus.subscribe("l", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
        for _ in range(3):
            await bus.send("l", "k", "/1")
        await wait_all_tasks_blocked()
        await losing.receive()
        await trio.sleep(3)
        await wait_all_tasks_blocked()
        for watched in observer._watched.values():
            watched.since -= 2 * NEVER_MATCHED
        for _, call, *_ in observer._running.values():
            call.begun -= 90
        said = texts(observer.state())
        assert len([text for text in said if text.endswith("has lost events")]) == 1
        assert "slow has failed 2 times" in said
        assert "nothing has matched never.* · sent · /x" in said
        assert "nobody wants nobody cares" in said
        (problem,) = (p for p in observer.state()["problems"] if "nobody cares" in p["text"])
        assert problem["place"].startswith(__file__)
        assert any(s.startswith("slow has been busy for 1.5 min") for s in said)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rejects", [False, True])
async def test_a_reply_follows_from_its_request(rejects: bool, autojump_clock: MockClock) -> None:
    async def answer(event: Event) -> str:
        if rejects:
            raise Reject("sold out")
        return event.path

    async with open_event_bus() as bus:
        observer = Observer(bus)
        await bus.serve(answer, "a", "ask")
        await bus.request("a", "ask", "/1")
        await bus.request("a", "ask", "/2")
        for number in (1, 3):
            tree = observer.tree(number)
            assert tree is not None
            assert tree["number"] == number
            (call,) = tree["calls"]
            assert (call["handler"], call["error"]) == ("answer", None)
            (reply,) = tree["effects"]
            assert reply["kind"] == ("rejected" if rejects else "accepted")
            assert (reply["path"], reply["party"]) == (tree["path"], "answer")


async def test_what_was_read_before_it_was_closed_is_not_unread(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        observer = Observer(bus)
        nursery.start_soon(bus.wait_for, "a")
        await wait_all_tasks_blocked()
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        (row,) = observer.state()["rows"]
        assert (row["open"], row["matched"], row["was_read"]) == (0, 1, True)
        assert texts(observer.state()) == []


async def test_of_very_many_lines_the_latest_are_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parties, "_MAX_LINES", 2)
    async with open_event_bus() as bus:
        observer = Observer(bus)
        code = "async def main(bus):\n" + '    await bus.send("a", "k", "/")\n' * 5
        space: dict[str, Any] = {}
        exec(compile(code, "many.py", "exec"), space)  # five lines that send
        for _ in range(2):
            await space["main"](bus)
        await wait_all_tasks_blocked()
        lines = [event["line"] for event in observer.state()["events"]]
        assert lines == [f"many.py:{number}" for number in (2, 3, 4, 5, 6)] * 2
        assert len(observer._lines._known) <= 2


async def test_what_waits_for_the_first_event_is_the_reader(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus, trio.open_nursery() as nursery:
        observer = Observer(bus)
        subscription = await bus.subscribe("a")
        nursery.start_soon(bus.wait_for, "b", name="waiting")
        nursery.start_soon(subscription.receive, name="reading")
        await bus.subscribe("c")
        await wait_all_tasks_blocked()
        parties = {row["system"]: row["party"] for row in observer.state()["rows"]}
        assert parties == {"a": "reading", "b": "waiting", "c": ""}
        nursery.cancel_scope.cancel()


async def test_what_a_history_keeps_and_what_answers_a_request_is_not_unmatched(
    autojump_clock: MockClock,
) -> None:
    async def answer(event: Event) -> str:
        return event.path

    async with open_event_bus() as bus:
        observer = Observer(bus)
        await bus.open_history("kept")
        await bus.serve(answer, "asked", "ask")
        await bus.send("kept", "k", "/1")
        await bus.request("asked", "ask", "/2")
        await bus.send("lost", "k", "/3")
        await wait_all_tasks_blocked()
        state = observer.state()
        unmatched = {event["path"]: event["unmatched"] for event in state["events"]}
        assert unmatched == {"/1": False, "/2": False, "/3": True}
        assert [kind["unmatched"] for kind in state["kinds"]] == [0, 0, 0, 1]
        assert texts(state) == ["nobody wants lost k"]
        assert [row["system"] for row in state["rows"]] == ["asked"]


async def test_an_observer_that_comes_late_and_leaves_early(autojump_clock: MockClock) -> None:
    go = trio.Event()

    async def handler(event: Event) -> None:
        await go.wait()

    async with open_event_bus() as bus:
        waiting = await bus.subscribe("w", max_buffer_size=1)
        await bus.send("w", "k", "/1")
        await wait_all_tasks_blocked()
        await bus.on(handler, "a")
        closed = await bus.subscribe("c", max_buffer_size=2, overflow=Overflow.DROP_OLDEST)
        for number in range(3):
            await bus.send("c", "k", f"/{number}")
        await wait_all_tasks_blocked()
        closed.close()
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        observer = Observer(bus)
        with pytest.raises(trio.WouldBlock):
            bus.send_nowait("w", "k", "/2")
        go.set()
        await wait_all_tasks_blocked()  # a call that began before the observer came
        await trio.sleep(2)
        assert [event.path async for event in closed] == ["/1", "/2"]
        assert (await waiting.receive()).path == "/1"
        assert observer.state()["calls"] == {}
        observer.close()
        observer.close()
        await bus.send("a", "k", "/2")
        assert observer._count == 1


async def test_source_is_shown_around_known_places_only(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus)
        subscription = await bus.subscribe("a")  # this very line
        observer.state()
        lines = observer.source(subscription.origin)
        assert lines is not None
        number = int(subscription.origin.rpartition(":")[2])
        assert "this very line" in dict(lines)[number]
        assert len(lines) == 9
        for place in ("/etc/passwd:1", subscription.origin + "0", "", "x", "unknown"):
            assert observer.source(place) is None
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # so trio calls it
            nursery.start_soon(bus.subscribe, "b")
        assert "unknown" in [row["origin"] for row in observer.state()["rows"]]
        assert observer.source("unknown") is None


async def test_data_is_shown_short_and_whatever_it_does(autojump_clock: MockClock) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    class Worse(Odd):
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise ValueError

        __repr__ = None  # type: ignore[assignment]

    async with open_event_bus() as bus:
        observer = Observer(bus)
        for data in ("x" * 1000, Odd(), list(range(1000)), Worse(), {"a": "b" * 90, "c": "d" * 90}):
            await bus.send("a", "k", "/1", data)
        await wait_all_tasks_blocked()
        shown = [event["data"] for event in observer.state()["events"]]
        assert all(len(text) <= 120 for text in shown)
        assert shown[3]


async def test_mermaid(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus)
        await bus.on(charge, "orders")
        await bus.on(ship, "payments")
        await bus.subscribe("(web|payments)", overflow=Overflow.DROP_OLDEST)
        await bus.send("orders", 'say."<b>', "/1")
        await wait_all_tasks_blocked()
        graph = observer.mermaid()
        first, *lines = graph.splitlines()
        assert first == "flowchart LR"
        nodes = {line.strip()[2:] for line in lines if "-->" not in line}
        assert nodes == {
            f'["{module._escaped(short_name(trio.lowlevel.current_task().name))}"]',
            '(["orders say.#34;#60;b#62;"])',
            '["charge"]',
            '(["payments payment.received"])',
            '["ship"]',
            '(["shipping parcel.sent"])',
            '["nobody"]',
        }
        arrows = [line.strip() for line in lines if "-->" in line]
        assert len(arrows) == len(set(arrows)) == 6


async def test_a_tree_has_its_bounds(autojump_clock: MockClock) -> None:
    async def many(event: Event) -> None:
        for number in range(400):
            await events.send("b", "k", f"/{number}")

    async with open_event_bus() as bus:
        observer = Observer(bus)
        await bus.on(many, "a")
        await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        root = observer.tree(1)
        assert root is not None
        assert len(root["effects"]) == 400


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("trio_events handler Shop.ship", "Shop.ship"),
        ("tests.devtools.shop.report", "report"),
        (f"{__name__}.main.<locals>.work", "work"),
        ("a task of mine", "a task of mine"),
        ("trio_events follow 'orders.**'", "follow 'orders.**'"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    sys.modules.setdefault("tests.devtools.shop", types.ModuleType("tests.devtools.shop"))
    assert short_name(name) == short


async def test_it_holds_no_more_than_it_should(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus, max_events=10)
        await bus.on(charge, "orders")
        for number in range(200):
            await bus.send("orders", "order.placed", f"/{number}")
            await wait_all_tasks_blocked()
        gc.collect()
        assert len(observer._order) == len(observer._records) == 10
        assert len(observer._log) == 10
        chain, record = 0, observer._order[-1]
        while record.cause is not None:
            chain, record = chain + 1, record.cause
        assert chain <= 1


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("1", TypeError)])
async def test_the_number_of_events_is_checked(
    value: Any, error: type[Exception], autojump_clock: MockClock
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(error):
            Observer(bus, max_events=value)


async def test_a_subscription_that_loses_and_is_routed_to_after_its_end(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus)
        closed = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_INCOMING)
        await wait_all_tasks_blocked()
        for number in range(3):
            bus.send_nowait("a", "k", f"/{number}")
        closed.close()
        await wait_all_tasks_blocked()
        assert [route["count"] for route in observer.state()["routes"]] == []
        assert [event.path async for event in closed] == ["/0"]
        await trio.sleep(3)
        assert observer.state()["rows"][0]["losing"] is False


async def test_the_fullest_buffer_of_a_row_is_shown(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        observer = Observer(bus)
        for _ in range(2):
            await bus.subscribe("a")
            await bus.send("a", "k", "/1")
        await wait_all_tasks_blocked()
        (row,) = observer.state()["rows"]
        assert (row["open"], row["used"], row["queued"]) == (2, 2, 3)


async def test_a_sender_without_a_task_is_another_thread(autojump_clock: MockClock) -> None:
    class Sending(trio.abc.Instrument):
        sent = False

        def before_io_wait(self, timeout: float) -> None:
            if not self.sent:
                self.sent = True
                bus.send_nowait("a", "k", "/1")
                assert full.receive_nowait().path == "/0"

    async with open_event_bus() as bus:
        observer = Observer(bus)
        full = await bus.subscribe("b")
        await bus.send("b", "k", "/0")
        await wait_all_tasks_blocked()
        sending = Sending()
        trio.lowlevel.add_instrument(sending)
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(sending)
        state = observer.state()
        assert [sent["party"] for sent in state["sends"]][1:] == ["another thread"]
        assert [row["party"] for row in state["rows"]] == ["another thread"]


async def test_a_bridge_is_a_party(autojump_clock: MockClock) -> None:
    log = MemoryLog()
    async with open_event_bus() as one, open_event_bus() as other:
        await (await open_bridge(one, log)).export("orders")
        await (await open_bridge(other, log)).follow("orders")
        with Observer(one) as here, Observer(other) as there:
            await one.send("orders", "order.placed", "/orders/1")
            await trio.sleep(1)
            (row,) = here.state()["rows"]
            assert row["party"] == "export 'orders'"
            (sent,) = there.state()["sends"]
            assert sent["party"] == "follow 'orders'"
