"""The examples run, and print what they should."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path, PurePath
from types import ModuleType
from typing import TypeAlias

import pytest
import trio

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
ORDERS, FILE_INDEX = EXAMPLES / "orders.py", EXAMPLES / "file_index.py"
CHECKOUT = EXAMPLES / "checkout.py"

INTRODUCTION = """\
One task walks the directory and sends an event for each file. Four subscribers receive them:
they count the suffixes, rank the sizes, compare contents, and show the progress."""
"""What file_index.py does, in its own words, printed before it begins."""

Row: TypeAlias = tuple[str, str, str]
"""What stands in the three columns of a line of the table: count, bytes, text."""


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=120,
        check=False,
    )


def output(*arguments: str | Path, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def patched(patch: str) -> str:
    """A program like `file_index.py`, after a patch."""
    return "\n".join(
        [
            "import signal, sys",
            # A child inherits that SIGINT is ignored, as it is in `nohup make test &`.
            "signal.signal(signal.SIGINT, signal.default_int_handler)",
            f"sys.path.insert(0, {str(EXAMPLES)!r})",
            patch,
            "import file_index",
            "sys.exit(file_index.main())",
        ]
    )


# orders.py


def test_orders_prints_what_each_reader_got() -> None:
    assert (
        output(ORDERS)
        == """\
Refused: path must not be empty. Kind: INVALID. Retryable: False.

Events for "orders.*": 2
  orders.eu  order.created      /orders/124  {'total': 12.5}
  orders.us  order.created      /orders/125  {'total': 7.25}

Events for "users", "user.created": 1
  users      user.created       /users/7     {'user_id': 7, 'email': 'ada@example.org'}

Events for "payments", until it was closed: 1
  payments   payment.completed  /payments/9  {'order_id': '123', 'amount': 99.99}

Events for "**": 8
  orders     order.created      /orders/123  {'order_id': '123', 'total': 99.99}
  orders.eu  order.created      /orders/124  {'total': 12.5}
  orders.us  order.created      /orders/125  {'total': 7.25}
  users      user.registered    /users/7     {'user_id': 7, 'email': 'ada@example.org'}
  users      user.created       /users/7     {'user_id': 7, 'email': 'ada@example.org'}
  payments   payment.completed  /payments/9  {'order_id': '123', 'amount': 99.99}
  system     heartbeat          /health      None
  payments   payment.refunded   /payments/9  {'order_id': '123', 'amount': 99.99}

"""
    )


# checkout.py


def test_checkout_retries_payments_keeps_dead_letters_and_finishes_before_it_closes() -> None:
    assert (
        output(CHECKOUT)
        == """\
 0.0 s  shop:    Ada orders tea
 0.0 s  cashier: 3 euros from Ada
 1.0 s  shop:    tea for Ada, receipt for 3 euros
 1.0 s  shop:    about to close
 1.0 s  shop:    Bob orders cake
 1.0 s  cashier: 5 euros from Bob
 4.0 s  cashier: 5 euros from Bob
 9.0 s  cashier: 5 euros from Bob
10.0 s  shop:    cake for Bob, receipt for 5 euros
10.0 s  shop:    Cleo orders tea
10.0 s  shop:    tea is sold out
10.0 s  shop:    Dan orders cake
10.0 s  cashier: 5 euros from Dan
13.0 s  cashier: 5 euros from Dan
18.0 s  cashier: 5 euros from Dan
19.0 s  shop:    no money from Dan
19.5 s  shop:    closed

The books:
  /orders/1: order.completed, tea for Ada
  /orders/2: order.completed, cake for Bob
  /orders/3: order.rejected, tea for Cleo
  /orders/4: order.rejected, cake for Dan

Unpaid:
  /orders/4: no answer about 5 euros
"""
    )


# file_index.py: the table is what the file system says


def table(stdout: str) -> list[Row]:
    """The table in the output, without its heading and empty lines; the rate is masked."""
    lines = stdout[stdout.index("     count") :].splitlines()[1:]
    rows = [(line[:10].strip(), line[10:27].strip(), line[29:]) for line in lines if line]
    return [
        ("RATE", "", "RATE") if re.fullmatch(r"events a second, in \d+\.\d\d s", text) else row
        for row in rows
        for _, _, text in [row]
    ]


def expected(
    root: Path,
    systems: dict[str, str] | None = None,
    names: dict[str, str] | None = None,
    problems: list[Row] | None = None,
) -> list[Row]:
    """The table that `root` should give.

    Args:
      root: The directory.
      systems: The systems of those files for which it is not simply their suffix.
      names: How paths are printed, if not as they are.
      problems: The lines about problems.
    """
    directories = 0
    content: dict[str, bytes] = {}
    for folder, _, files in os.walk(root):
        directories += 1
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink() and path.is_file():
                content[str(path.relative_to(root))] = path.read_bytes()

    by_system: defaultdict[str, list[int]] = defaultdict(list)
    by_content: defaultdict[bytes, list[str]] = defaultdict(list)
    for name, data in content.items():
        by_system[(systems or {}).get(name, f"fs{PurePath(name).suffix}")].append(len(data))
        if data:
            by_content[hashlib.md5(data).digest()].append(name)

    def shown(name: str) -> str:
        return (names or {}).get(name, name)

    def first_ten(rows: list[Row]) -> list[Row]:
        more = len(rows) - 10
        return rows[:10] + ([("", "", f"  and {more:,} more")] if more > 0 else [])

    suffixes = sorted(by_system.items(), key=lambda item: (-len(item[1]), item[0]))
    largest = sorted(content, key=lambda name: (-len(content[name]), name))[:10]
    copies = [
        (len(content[copy]), copy, min(group))
        for group in by_content.values()
        for copy in group
        if copy != min(group)
    ]
    copies.sort(key=lambda copy: (-copy[0], copy[1], copy[2]))
    events = f"{len(content) + directories:,}"
    return [
        (events, "", "events sent, one for each file and directory"),
        *[(f"{len(content):,}", "", f"  delivered to {name}") for name in PARTS],
        (events, "", "  delivered to progress"),
        ("RATE", "", "RATE"),
        (f"{len(content):,}", f"{sum(map(len, content.values())):,}", "files"),
        *first_ten([(f"{len(s):,}", f"{sum(s):,}", f"  {system}") for system, s in suffixes]),
        (
            f"{len(largest)}",
            f"{sum(len(content[name]) for name in largest):,}",
            "largest files",
        ),
        *[("", f"{len(content[name]):,}", f"  {shown(name)}") for name in largest],
        (f"{len(copies):,}", f"{sum(size for size, _, _ in copies):,}", "duplicates"),
        *first_ten([("", f"{n:,}", f"  {shown(a)} = {shown(b)}") for n, a, b in copies]),
        (f"{len(problems or [])}", "", "problems"),
        *(problems or []),
    ]


PARTS = ["suffixes", "largest", "duplicates"]


def test_file_index_says_of_a_strange_tree_what_is_there(tmp_path: Path) -> None:
    systems: dict[str, str] = {}
    names: dict[str, str] = {}

    def write(name: bytes | str, size: int, system: str, shown: str | None = None) -> None:
        path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "wb") as file:
                file.write(b"x" * size)
        except OSError:  # not every file system takes every name
            return
        systems[os.fsdecode(name)] = system
        names[os.fsdecode(name)] = shown or os.fsdecode(name)

    write("a.txt", 100, "fs.txt")
    write("b/same as a.TXT", 100, "fs.txt")
    write("b/c/d/same as a", 100, "fs.<none>")
    write("b/other.py", 99, "fs.py")
    write("empty.py", 0, "fs.py")
    write("b/empty too.py", 0, "fs.py")
    write(".hidden", 98, "fs.<none>")
    write("dot at the end.", 97, "fs.<none>")
    write("two.tar.gz", 96, "fs.gz")
    write("stars.*", 95, "fs.%2A")
    write("two stars.**", 94, "fs.%2A%2A")
    write("group.(a|b)", 93, "fs.%28a%7Cb%29")
    write("money.$cash", 92, "fs.%24cash")
    write("percent.%2A", 91, "fs.%252a")
    write("space. ", 90, "fs.%20")
    write("none.<none>", 89, "fs.%3Cnone%3E")
    write("umlaut.ü", 1003, "fs.%C3%BC")
    write("as long as can be." + "s" * 32, 87, "fs." + "s" * 32)
    write("longer than that." + "s" * 33, 86, "fs.<none>")
    write("longest." + "s" * 240, 85, "fs.<none>")
    write("line\nend.\x1b[1m", 1002, "fs.%1B%5B1m", "line\\nend.\\x1b[1m")
    write(b"caf\xe9/no text.\xff", 1001, "fs.%FF", "caf\\udce9/no text.\\udcff")
    write(b"caf\xe9/same.\xfe\x80", 1001, "fs.%FE%80", "caf\\udce9/same.\\udcfe\\udc80")
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "broken link.txt").symlink_to("nowhere")
    (tmp_path / "link to a directory").symlink_to("b")
    (tmp_path / "link to itself").symlink_to(".")
    (tmp_path / "empty directory").mkdir()
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.txt")

    stdout = output(FILE_INDEX, tmp_path)

    assert stdout.startswith(
        f"Index of {tmp_path}\n{INTRODUCTION}\n\n     count            bytes\n"
    )
    assert table(stdout) == expected(tmp_path, systems, names)
    assert output(FILE_INDEX, tmp_path, PYTHONIOENCODING="ascii").isascii()


@pytest.mark.parametrize("package", ["json", "email"])
def test_file_index_says_of_a_package_what_is_there(package: str) -> None:
    root = Path(sysconfig.get_path("stdlib"), package)
    assert table(output(FILE_INDEX, root)) == expected(root)


def test_file_index_prints_a_line_now_and_then_and_cuts_long_lists(tmp_path: Path) -> None:
    for number in range(14):
        (tmp_path / f"{number}.{number}").write_text("the same")
    patch = "import file_index; file_index.LINE_EVERY = 5"
    stdout = output("-c", patched(patch), tmp_path)
    assert stdout.startswith(f"Index of {tmp_path}\n{INTRODUCTION}\n5 files ...\n10 files ...\n\n")
    assert table(stdout) == expected(tmp_path)
    assert stdout.count("  and 4 more\n") == 1
    assert stdout.count("  and 3 more\n") == 1


def test_file_index_says_of_an_empty_directory_that_it_is_empty(tmp_path: Path) -> None:
    assert table(output(FILE_INDEX, tmp_path)) == expected(tmp_path)


def test_without_an_argument_file_index_takes_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("pass")
    patch = f"import sysconfig; sysconfig.get_path = {{'stdlib': {str(tmp_path)!r}}}.__getitem__"
    assert table(output("-c", patched(patch))) == expected(tmp_path)


# file_index.py: what goes wrong


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("missing", "'missing' does not exist"),
        ("", "'' does not exist"),
        (str(FILE_INDEX), "is not a directory"),
    ],
)
def test_file_index_refuses_what_is_not_a_directory(argument: str, problem: str) -> None:
    done = run(FILE_INDEX, argument)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: ")
    assert "argument DIR: " in done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_file_index_reports_what_it_may_not_read(tmp_path: Path) -> None:
    directory, file = tmp_path / "directory", tmp_path / "file"
    directory.mkdir()
    (directory / "unseen").touch()
    file.write_text("same")
    (tmp_path / "copy").write_text("same")
    directory.chmod(0)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("root may read everything, and so may everybody on Windows")
    try:
        rows = table(output(FILE_INDEX, tmp_path))
    finally:
        directory.chmod(0o700)
        file.chmod(0o600)
    assert ("2", "8", "files") in rows
    assert rows[-4:] == [
        ("0", "0", "duplicates"),
        ("2", "", "problems"),
        ("", "", "  directory: Permission denied"),
        ("", "", "  file: Permission denied"),
    ]


@pytest.fixture
def file_index(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("file_index", FILE_INDEX)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "file_index", module)
    spec.loader.exec_module(module)
    return module


def test_file_index_reports_what_vanishes_meanwhile(
    tmp_path: Path, file_index: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.txt").write_text("same")
    (tmp_path / "second.txt").write_text("same")
    (tmp_path / "third.txt").write_text("same")
    (tmp_path / "directory").mkdir()

    def vanish(path: str) -> str:  # called for each file when its directory has been listed
        if path.endswith("first.txt"):
            Path(path).unlink()
            (tmp_path / "directory").rmdir()
        return "fs.txt"

    monkeypatch.setattr(file_index, "system_of", vanish)

    async def main() -> None:
        report = await file_index.index(tmp_path, progress=file_index.progress_lines)
        assert report.files == Counter({"fs.txt": 3})
        assert report.delivered == {**dict.fromkeys(PARTS, 3), "progress": 5}
        assert [(Path(path).name, type(why)) for path, why in report.problems] == [
            ("directory", FileNotFoundError),
            ("first.txt", FileNotFoundError),
        ]
        assert report.duplicates == [(4, str(tmp_path / "third.txt"), str(tmp_path / "second.txt"))]

    trio.run(main)


INTERRUPT_AND_HANG = """
import file_index, os, signal, threading
def scan(directories):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait()
file_index.scan = scan
"""


def test_ctrl_c_ends_file_index_even_while_a_thread_hangs(tmp_path: Path) -> None:
    done = run("-c", patched(INTERRUPT_AND_HANG), tmp_path)
    assert done.returncode == 130
    assert done.stderr == "Interrupted.\n"
    assert done.stdout == f"Index of {tmp_path}\n{INTRODUCTION}\n"


def test_ctrl_c_ends_file_index_even_if_these_tests_run_where_it_is_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = run("-c", patched(INTERRUPT_AND_HANG), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


INTERRUPT_WHILE = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
name = sys.argv.pop(1)
class Finder:
    def find_spec(self, module, path=None, target=None):
        if module == name:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
finder = Finder()
sys.meta_path.insert(0, finder)
script = sys.argv[1]
del sys.argv[0]
if name == "argparse.ArgumentParser":
    import argparse
    def interrupted(**_):
        signal.raise_signal(signal.SIGINT)
    argparse.ArgumentParser = interrupted
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize(
    "moment", ["trio", "trio_events", "rich.progress", "argparse.ArgumentParser"]
)
def test_ctrl_c_in_its_first_moments_ends_file_index_without_a_traceback(
    moment: str, tmp_path: Path
) -> None:
    done = run("-c", INTERRUPT_WHILE, moment, FILE_INDEX, tmp_path)
    if moment == "rich.progress" and done.returncode == 0:
        pytest.skip("it does not draw a bar here, so it does not import rich")
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def make_demo(tmp_path: Path, *arguments: str) -> list[str]:
    """The arguments that `make demo` calls Python with, given those of make."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    show = "import sys; print(sys.argv[1:], file=sys.stderr)"
    # By way of sh, because a path after #! can't have spaces.
    python.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{show}' \"$@\"\n")
    python.chmod(0o700)
    for step in ("made", "demo"):
        (tmp_path / "venv" / step).touch()
    done = subprocess.run(
        ["make", "-C", str(EXAMPLES.parent), "demo", f"VENV={tmp_path / 'venv'}", *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = ast.literal_eval(done.stderr)
    return found


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("name", ["plain", "a b", " a", "a;b", "(a)", "*", "it's", 'a"b'])
def test_make_demo_takes_a_directory_of_any_name(name: str, tmp_path: Path) -> None:
    directory = f"{tmp_path}/{name}"
    assert make_demo(tmp_path, f"DIR={directory}") == ["examples/file_index.py", directory]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_demo_without_a_directory_passes_none(tmp_path: Path) -> None:
    assert make_demo(tmp_path) == ["examples/file_index.py"]


SCAN_AFTER_A_LINE_OF_INPUT = """
import file_index
real_scan = file_index.scan
def scan(directories):
    sys.stdin.readline()
    return real_scan(directories)
file_index.scan = scan
"""


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="there is no SIGPIPE here")
def test_file_index_ends_when_its_output_is_closed(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", "-c", patched(SCAN_AFTER_A_LINE_OF_INPUT)]
    with subprocess.Popen([*command, tmp_path], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"Index of ")
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


# file_index.py on a terminal


def on_terminal(*arguments: str | Path) -> tuple[str, int]:
    """What a program writes to a terminal, and its exit code."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    terminal, end = pty.openpty()
    command: list[str | Path] = [sys.executable, "-W", "error", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    with subprocess.Popen(command, stdout=end, stderr=end, env=environment) as process:
        os.close(end)
        written = b""
        try:
            while chunk := os.read(terminal, 4096):
                written += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(terminal)
    return written.decode().replace("\r\n", "\n"), process.returncode


def test_file_index_draws_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="rich draws the bar")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").touch()
    written, exit_code = on_terminal(FILE_INDEX, tmp_path)
    assert exit_code == 0
    assert "2 of 2 directories, 1 files" in written
    assert table(written) == expected(tmp_path, {"directory/file": "fs.<none>"})
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is back


INTERRUPT_THE_BAR = """
import file_index, signal
def number(event):
    signal.raise_signal(signal.SIGINT)
file_index.number = number
"""


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="rich draws the bar")
    written, exit_code = on_terminal("-c", patched(INTERRUPT_THE_BAR), tmp_path)
    assert exit_code == 130
    assert written.endswith("Interrupted.\n")
    assert "Traceback" not in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_without_rich_there_are_lines_on_a_terminal_too(tmp_path: Path) -> None:
    patch = "sys.modules['rich'] = None"
    written, exit_code = on_terminal("-c", patched(patch), tmp_path)
    assert exit_code == 0
    assert "pip install rich" in written
    assert "\x1b" not in written
    assert table(written) == expected(tmp_path)
