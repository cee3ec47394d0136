"""Possible problems of a bus, in sentences, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Final

LONG_CALL: Final = 1.0
"""Seconds after which a call of a handler is reported."""

NEVER_MATCHED: Final = 30.0
"""Seconds after which a pattern that has not matched anything is reported."""

BAD, WARNING = "bad", "warning"


def problems(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The problems of a state, each with a level, a sentence, details and its subject."""
    found = [*_of_rows(state["rows"]), *_of_calls(state["running"])]
    found += _of_kinds(state["kinds"], state["sends"])
    found += _of_denials(state["denied"])
    if state["refused"]:
        found.append(
            _problem(WARNING, f"send_soon could not send {_events(state['refused'])}", "", "")
        )
    return sorted(found, key=lambda problem: problem["level"] != BAD)


def _of_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        who, what = row["party"] or "nobody", patterns(row)
        about = {"row": row["id"], "place": row["origin"]}
        at = place(row["origin"])
        if row["waiting"]:
            longest = max(sender["for"] for sender in row["waiting"])
            senders = sorted({sender["party"] for sender in row["waiting"]})
            count = len(row["waiting"])
            detail = f"{what} is full: {count} waiting to send, the first for {seconds(longest)}"
            yield _problem(BAD, f"{who} holds up {', '.join(senders)}", detail, at, **about)
        if row["dropped"]:
            level = BAD if row["losing"] else WARNING
            sentence = f"{who} loses events" if row["losing"] else f"{who} has lost events"
            detail = f"{what}: {row['dropped']} of {row['matched']} dropped ({row['overflow']})"
            yield _problem(level, sentence, detail, at, **about)
        if row["failures"]:
            times = "once" if row["failures"] == 1 else f"{row['failures']} times"
            yield _problem(WARNING, f"{who} has failed {times}", what, at, **about)
        if not row["was_read"] and not row["is_handler"] and row["matched"]:
            detail = f"{_events(row['queued'])} unread"
            yield _problem(WARNING, f"nobody has read {what}", detail, at, **about)
        if row["open"] and not row["matched"] and row["age"] > NEVER_MATCHED:
            detail = f"in {seconds(row['age'])}"
            yield _problem(WARNING, f"nothing has matched {what}", detail, at, **about)


def _of_calls(running: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for call in running:
        if call["for"] > LONG_CALL:
            sentence = f"{call['party']} has been busy for {seconds(call['for'])}"
            number = "" if call["number"] is None else f"with event #{call['number']}"
            yield _problem(WARNING, sentence, number, "", party=call["party"])


def _of_kinds(kinds: list[dict[str, Any]], sends: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    lines = {sent["kind"]: sent["line"] for sent in reversed(sends)}
    for kind in kinds:
        if kind["unmatched"]:
            name = f"{kind['system']} {kind['kind']}"
            if kind["unmatched"] == kind["count"]:
                sentence = f"nobody wants {name}"
            else:
                sentence = f"nobody wanted some of {name}"
            detail = f"{kind['unmatched']} of {_events(kind['count'])}"
            line = lines.get(kind["id"], "")
            yield _problem(WARNING, sentence, detail, place(line), kind=kind["id"], place=line)


def _of_denials(denied: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in denied:
        verb = "send to" if each["action"].endswith("send") else "subscribe to"
        sentence = f"{each['actor']} may not {verb} {each['system']}"
        yield _problem(WARNING, sentence, f"refused {_times(each['times'])}", "")


def _problem(level: str, sentence: str, detail: str, at: str, **about: object) -> dict[str, Any]:
    return {"level": level, "text": sentence, "detail": detail, "at": at, **about}


def patterns(row: dict[str, Any]) -> str:
    """The patterns of a row, such as `orders · order.*`."""
    return " · ".join(filter(None, [row["system"], row["kind"], row["path"]]))


def place(origin: str) -> str:
    """A file and line, without its directory."""
    return PurePath(origin).name


def seconds(count: float) -> str:
    """A duration in a short form."""
    if count < 1:
        return f"{count * 1000:.0f} ms"
    return f"{count:.1f} s" if count < 60 else f"{count / 60:.1f} min"


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
