"""Writing to stderr, which may be closed, full, or a pipe that nothing reads."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TextIO


def write_line(file: TextIO | None, text: str) -> None:
    """Write a line to `sys.stderr` if possible. It leaves nothing there that could fail later.

    Args:
      file: `sys.stderr`. None, if that was closed when the process started, writes nothing, where
        `print` would write to stdout.
      text: The line.
    """
    if file is None:
        return
    with suppress(OSError, ValueError):  # it can't be written, or has been closed
        try:
            descriptor = file.fileno()
        except io.UnsupportedOperation:  # something in its place
            print(text, file=file, flush=True)
            return
        # Not through `file`: Python would fail to flush it, and exit with another status.
        with open(
            descriptor, "w", encoding=file.encoding, errors=file.errors, closefd=False
        ) as out:
            print(text, file=out)
