"""Another commit of the package, for subprocesses that run the same benchmark with each."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent


@attrs.frozen
class Checkout:
    """A directory with a package `trio_events` in it."""

    label: str
    directory: Path

    def environment(self) -> dict[str, str]:
        """What a subprocess needs to import that package, and the benchmarks from here."""
        # ROOT has a package `trio_events`, too, so it comes second.
        paths = os.pathsep.join(map(str, (self.directory, ROOT)))
        return {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}

    def run(
        self, module: str, *arguments: str, prefix: tuple[str, ...] = (), limit: float | None = None
    ) -> str:
        """Run a module of the benchmarks with that package; returns what it printed.

        Raises:
          RuntimeError: If it failed.
          subprocess.TimeoutExpired: If it took more than `limit` seconds.
        """
        done = subprocess.run(
            [*prefix, sys.executable, "-m", module, *arguments],
            capture_output=True,
            cwd=ROOT,
            env=self.environment(),
            text=True,
            timeout=limit,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
        return done.stdout


HERE: Final = Checkout("here", ROOT)


@contextmanager
def checkout(where: str) -> Iterator[Checkout]:
    """The package of a directory or of a git revision, without any other file of it.

    Raises:
      SystemExit: If there is neither.
    """
    with TemporaryDirectory(prefix="trio_events-") as temporary:
        directory = Path(temporary)
        package = Path(where, "trio_events").resolve()
        if package.is_dir():
            (directory / "trio_events").symlink_to(package)
        else:
            command = ["git", "-C", str(ROOT), "archive", where, "trio_events"]
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{where!r} is neither a directory with the package nor a git revision")
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                archive.extractall(directory, filter="data")
        yield Checkout(where, directory)
