"""What the command does with a log: `tail`, `send` and `info`."""

from __future__ import annotations

import argparse
import datetime
import os
import secrets
import socket
from collections.abc import Callable

import msgspec
import trio

from .._event import Event
from .._names.interest import Interest
from .._names.pattern import plain_name, plain_path
from ._envelope import MalformedError, decode, encode
from ._log import EventLog, check_after
from ._sqlite import SqliteLog
from ._urls import open_log

_MAX_ENTRIES = 500
_WAIT = 5.0  # seconds that one call waits for entries

Print = Callable[[str], None]


def run(words: argparse.Namespace, show: Print, warn: Print) -> None:
    """Carry out a command about a log.

    Args:
      words: The parsed words of the command line.
      show: Called with each line of the answer.
      warn: Called with what should be known besides.

    Raises:
      ValueError: If something is not what it should be.
      EventBusError: As a session of the log.
      Exception: Whatever `show` raises.
    """
    log = open_log(words.log)
    if words.question == "tail":
        check_after(words.after)
        interest = Interest.of(words.system, words.kind)
        trio.run(_tail, log, interest, words.after, words.end, show, warn)
    elif words.question == "send":
        writer = secrets.token_hex(6)
        show(str(trio.run(_send, log, writer, _entry(words, writer))))
    elif isinstance(log, SqliteLog) and not os.path.exists(log.path):
        raise ValueError(f"there is no file {log.path!r}")
    else:
        trio.run(_info, log, show)


def _entry(words: argparse.Namespace, writer: str) -> bytes:
    system, kind = plain_name(words.system, "system"), plain_name(words.kind, "kind")
    path, now = plain_path(words.path), datetime.datetime.now(datetime.UTC)
    try:
        event = Event(system, kind, path, msgspec.json.decode(words.data))
        return encode(event, writer, 1, socket.gethostname(), now)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the data is not JSON: {error}") from error


async def _tail(
    log: EventLog, interest: Interest, after: int | None, end: bool, show: Print, warn: Print
) -> None:
    async with log.open() as session:
        _, last = await session.bounds()
        position = after if after is not None else 0 if end else last
        while not end or position < last:
            for entry in await session.read(position, _MAX_ENTRIES, _WAIT):
                if entry.position > position + 1:
                    warn(f"entries {position + 1} to {entry.position - 1} are gone")
                position = entry.position
                try:
                    envelope, text = decode(entry.event), _one_line(entry.event)
                except MalformedError as error:
                    warn(f"entry {position} is malformed: {error}")
                    continue
                if interest.matches(envelope.system, envelope.type, envelope.subject):
                    show(f"{position} {text}")


def _one_line(entry: bytes) -> str:
    try:
        return msgspec.json.format(entry, indent=-1).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error


async def _send(log: EventLog, writer: str, entry: bytes) -> int:
    async with log.open() as session:
        return await session.append(writer, 1, [entry], 0)


async def _info(log: EventLog, show: Print) -> None:
    async with log.open() as session:
        first, last = await session.bounds()
        groups = await session.groups()
    show(f"first {first}")
    show(f"last {last}")
    for group in groups:
        place = f"at {group.position}, open claims: {group.claims}"
        show(f"group {group.name!r} for {group.wants}: {place}")
