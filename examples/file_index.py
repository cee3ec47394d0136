"""Index the files under a directory: how many of each suffix, the largest, the duplicates.

One task walks the directory and sends an event for each file. It doesn't know who uses them:
the three parts of the index and the progress bar are independent subscribers. None of them misses
an event, and the walk waits for the slowest.

Symbolic links are neither followed nor indexed, nor is anything else that is not a regular file.
Empty files are not duplicates of each other; hard links to one file are.
"""

from __future__ import annotations

import os
import signal
import sys


def interrupted(*_: object) -> None:
    """Ctrl-C before there is anything to clean up."""
    sys.stderr.write("Interrupted.\n")
    os._exit(130)  # what a shell makes of SIGINT


if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, interrupted)  # it could come during the imports

import argparse
import hashlib
import heapq
import io
import itertools
import logging
import sysconfig
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import attrs
import trio

from trio_events import Event, EventBus, Subscription, open_event_bus

FOUND = "file.found"  # system: fs.<suffix>; path: the file; data: its size in bytes
SCANNED = "directory.scanned"  # system: fs; path: the directory; data: how many are in it

INTRODUCTION = """\
One task walks the directory and sends an event for each file. Four subscribers receive them:
they count the suffixes, rank the sizes, compare contents, and show the progress."""

TOP = 10  # rows of each list that is printed
MAX_SUFFIX = 32  # characters; what is longer is no suffix, just a long name with a dot
LINE_EVERY = 5000  # files
SCAN_AT_ONCE = 16  # directories
HASHERS = 3  # tasks that read files, each with a thread
HASH_QUEUE = 16  # files that may wait for them before the walk waits

Consumer: TypeAlias = Callable[[Subscription], Awaitable[None]]
File: TypeAlias = tuple[int, str]  # size in bytes, and path
Problem: TypeAlias = tuple[str, OSError]  # the path of what could not be read, and why


@attrs.frozen
class Report:
    """The index, and how it came about."""

    files: Counter[str]
    """How many files there are of each system, which is `fs.<suffix>`."""

    sizes: Counter[str]
    """How many bytes there are in these files."""

    largest: list[File]
    """The largest files, the largest first."""

    duplicates: list[tuple[int, str, str]]
    """Size in bytes and path of each file that equals another one, and the other one's path."""

    problems: list[Problem]
    """What could not be read."""

    sent: int
    """Events that were sent."""

    delivered: dict[str, int]
    """Events that each subscriber received."""

    seconds: float
    """How long it took."""


async def index(root: Path, *, progress: Consumer) -> Report:
    """Walk everything under `root` once; the consumers work meanwhile."""
    began = trio.current_time()
    files, sizes = Counter[str](), Counter[str]()
    largest: list[File] = []
    hashed: defaultdict[tuple[int, bytes], list[str]] = defaultdict(list)
    problems: list[Problem] = []
    # The consumers outside, the bus inside: after the walk, leaving the bus ends the channels,
    # every consumer reads what is still in its own, and the nursery waits until it has.
    async with trio.open_nursery() as consumers, open_event_bus() as bus:
        subscriptions = {
            "suffixes": await bus.subscribe("fs.**", FOUND),
            "largest": await bus.subscribe("fs.**", FOUND),
            "duplicates": await bus.subscribe("fs.**", FOUND, max_buffer_size=HASH_QUEUE),
            "progress": await bus.subscribe("fs.**"),
        }
        consumers.start_soon(count_suffixes, subscriptions["suffixes"], files, sizes)
        consumers.start_soon(keep_largest, subscriptions["largest"], largest)
        consumers.start_soon(find_duplicates, subscriptions["duplicates"], hashed, problems)
        consumers.start_soon(progress, subscriptions["progress"])
        await walk(root, bus, problems)
    duplicates = [
        (size, path, original)
        for (size, _), paths in hashed.items()
        for original, *copies in [sorted(paths)]
        for path in copies
    ]
    return Report(
        files,
        sizes,
        largest,
        duplicates=sorted(duplicates, key=lambda file: (-file[0], *file[1:])),
        problems=sorted(problems, key=lambda problem: problem[0]),
        sent=bus.statistics().accepted,
        delivered={name: sub.statistics().delivered for name, sub in subscriptions.items()},
        seconds=trio.current_time() - began,
    )


# The producer


async def walk(root: Path, bus: EventBus, problems: list[Problem]) -> None:
    """Send an event for each file under `root`, and for each directory after the files in it."""
    waiting = deque([os.fspath(root)])
    while waiting:
        # A disk can be slow, a network disk very slow: in a thread it keeps nobody else waiting.
        # Some directories at a time, as going to a thread costs more than reading a small one.
        some = [waiting.popleft() for _ in range(min(len(waiting), SCAN_AT_ONCE))]
        listings = await trio.to_thread.run_sync(scan, some, abandon_on_cancel=True)
        for directory, listing in zip(some, listings, strict=True):
            directories = [path for path, what in listing if what is None]
            for path, what in listing:
                if isinstance(what, int):
                    await bus.send(system_of(path), FOUND, path, what)
                elif isinstance(what, OSError):
                    problems.append((path, what))
            waiting += directories
            await bus.send("fs", SCANNED, directory, len(directories))


def system_of(path: str) -> str:
    """The system of a file: `fs.` and the suffix in lower case, with %2A for `*` as in a URL."""
    suffix = os.path.splitext(path)[1].removeprefix(".").lower()
    segment = quote(suffix, safe="", errors="surrogateescape")
    return f"fs.{segment}" if 0 < len(segment) <= MAX_SUFFIX else "fs.<none>"


def scan(directories: list[str]) -> list[list[tuple[str, int | OSError | None]]]:
    """List each of the directories. Runs in a thread."""
    return [list(entries(directory)) for directory in directories]


def entries(directory: str) -> Iterator[tuple[str, int | OSError | None]]:
    """Each path in a directory with the size of a file, None for a directory, or an error."""
    try:
        with os.scandir(directory) as iterator:
            found = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        yield directory, error
        return
    for entry in found:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path, None
            elif entry.is_file(follow_symlinks=False):
                yield entry.path, entry.stat(follow_symlinks=False).st_size
        except OSError as error:  # for example, it is no longer there
            yield entry.path, error


# The consumers


async def count_suffixes(events: Subscription, files: Counter[str], sizes: Counter[str]) -> None:
    """Count the files of each suffix, and the bytes in them."""
    async for event in events:
        files[event.system] += 1
        sizes[event.system] += number(event)


async def keep_largest(events: Subscription, largest: list[File]) -> None:
    """Keep the largest files; of equally large ones, those that come first in the alphabet."""
    async for batch in events.channel().batches():  # all that waits, at once: the fast way
        candidates = itertools.chain(largest, ((number(event), event.path) for event in batch))
        largest[:] = heapq.nsmallest(TOP, candidates, key=lambda file: (-file[0], file[1]))


async def find_duplicates(
    events: Subscription,
    hashed: defaultdict[tuple[int, bytes], list[str]],
    problems: list[Problem],
) -> None:
    """Group files by size and hash. A file whose size no other file has is never opened."""
    first_of_size: dict[int, str | None] = {}  # None as soon as a second one has been found

    def candidates(event: Event) -> Iterator[File]:
        size = number(event)
        if size not in first_of_size:
            first_of_size[size] = event.path
        elif size > 0:
            if first := first_of_size[size]:
                first_of_size[size] = None
                yield size, first
            yield size, event.path

    async def work() -> None:
        async for batch in events.channel().batches():
            some = [file for event in batch for file in candidates(event)]
            hashes = await trio.to_thread.run_sync(hash_files, some, abandon_on_cancel=True)
            for (size, path), digest in zip(some, hashes, strict=True):
                if isinstance(digest, OSError):
                    problems.append((path, digest))
                else:
                    hashed[size, digest].append(path)

    async with trio.open_nursery() as workers:
        for _ in range(HASHERS):
            workers.start_soon(work)  # all read the same channel: each event goes to one of them


def hash_files(files: list[File]) -> list[bytes | OSError]:
    """Hash the content of each of the files. Runs in a thread."""
    hashes: list[bytes | OSError] = []
    for _, path in files:
        try:
            with open(path, "rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            hashes.append(error)
    return hashes


def number(event: Event) -> int:
    """The data of an event; here, that of every event is a number."""
    assert isinstance(event.data, int)
    return event.data


# Progress: one more consumer


async def progress_lines(events: Subscription) -> None:
    """Print a line now and then."""
    files = 0
    async for event in events:
        if event.kind == FOUND:
            files += 1
            if files % LINE_EVERY == 0:
                print(f"{files:,} files ...", flush=True)


async def progress_bar(events: Subscription) -> None:
    """Show how many directories are done, of those that are known so far."""
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - an extra

    text = "{task.completed:,.0f} of {task.total:,.0f} directories, {task.fields[files]:,} files"
    files, done, known = 0, 0, 1
    with Progress(BarColumn(), TextColumn(text)) as progress:
        bar = progress.add_task("", total=known, files=files)
        async for batch in events.channel().batches():
            for event in batch:
                if event.kind == FOUND:
                    files += 1
                else:
                    done += 1
                    known += number(event)
            progress.update(bar, completed=done, total=known, files=files)


def choose_progress() -> Consumer:
    """The bar on a terminal, if `rich` is there; otherwise lines."""
    if not sys.stdout.isatty():
        return progress_lines
    try:
        import rich.progress  # noqa: F401, PLC0415 - only to see whether it is there
    except ImportError:
        print("(For a progress bar, run: pip install rich)")
        return progress_lines
    return progress_bar


# The command


def table(report: Report, root: Path) -> Iterator[str]:
    """The final table, line by line."""

    def name(path: str) -> str:
        return printable(os.path.relpath(path, root))

    files, sizes = report.files, report.sizes
    suffixes = sorted(files, key=lambda system: (-files[system], system))
    rate = round(report.sent / report.seconds)
    yield row("count", "bytes", "")
    yield row(report.sent, "", "events sent, one for each file and directory")
    for subscriber, delivered in report.delivered.items():
        yield row(delivered, "", f"  delivered to {subscriber}")
    yield row(rate, "", f"events a second, in {report.seconds:.2f} s")
    yield ""
    yield row(files.total(), sizes.total(), "files")
    yield from some(row(files[system], sizes[system], f"  {system}") for system in suffixes)
    yield row(len(report.largest), sum(size for size, _ in report.largest), "largest files")
    yield from some(row("", size, f"  {name(path)}") for size, path in report.largest)
    yield row(len(report.duplicates), sum(size for size, *_ in report.duplicates), "duplicates")
    yield from some(row("", n, f"  {name(a)} = {name(b)}") for n, a, b in report.duplicates)
    yield row(len(report.problems), "", "problems")
    yield from some(row("", "", f"  {name(a)}: {e.strerror or e}") for a, e in report.problems)


def row(count: int | str, size: int | str, text: str) -> str:
    """One line of the table."""
    numbers = [f"{cell:,}" if isinstance(cell, int) else cell for cell in (count, size)]
    return f"{numbers[0]:>10} {numbers[1]:>16}  {text}".rstrip()


def some(rows: Iterable[str]) -> Iterator[str]:
    """The first of the rows, and how many there are more."""
    first = iter(rows)
    yield from itertools.islice(first, TOP)
    if more := sum(1 for _ in first):
        yield row("", "", f"  and {more:,} more")
    yield ""


def printable(text: str) -> str:
    """Show a name as one line, whatever it contains: line ends, or bytes that are no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def directory(text: str) -> Path:
    """Check the argument."""
    if not os.path.exists(text):
        raise argparse.ArgumentTypeError(f"{text!r} does not exist")
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    return Path(text)


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Index the files under a directory.")
    parser.add_argument(
        "root",
        metavar="DIR",
        nargs="?",
        type=directory,
        default=sysconfig.get_path("stdlib"),
        help="what to index; the Python standard library if not given",
    )
    root: Path = parser.parse_args().root
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals without UTF-8
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a traceback
    # The bus warns of senders that wait long. Here that is wanted.
    logging.getLogger("trio_events").setLevel(logging.ERROR)
    if signal.getsignal(signal.SIGINT) is interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    exit_code = 0
    try:
        print(f"Index of {printable(str(root))}", INTRODUCTION, sep="\n", flush=True)
        report = trio.run(partial(index, root, progress=choose_progress()))
        print("", *table(report, root), sep="\n")
    except* KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        exit_code = 130  # what a shell makes of SIGINT
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
