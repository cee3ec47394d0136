"""The small examples print what they should. The web pages have test_live_page, test_dashboard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def run(name: str) -> tuple[str, str]:
    """What an example writes to stdout and to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("0*.py")), ids=lambda path: path.stem)
def test_a_small_example_is_small(path: Path) -> None:
    most = 120 if path.name == "08_map.py" else 59  # a whole shop, with everything to see
    assert len(path.read_text(encoding="utf-8").splitlines()) <= most


HELLO = """\
Hello, world!
system greetings.english, kind greeting.said, path /world
"""

MANY_SUBSCRIBERS = """\
audit         /orders/1 /orders/1/payment /orders/2/payment /orders/1/cancellation /mail/7
billing       /orders/1/payment /orders/2/payment
warehouse     /orders/1/payment /orders/1/cancellation
Berlin office /orders/2/payment /mail/7
support       /mail/7
"""

THREADS = """\
/attic: temperature.measured, 20.5
/attic: temperature.measured, 21.0
/attic: temperature.measured, 21.5
/attic: temperature.measured, 22.0
/door: bell.rung, Ada
/door: bell.rung, Grace
6 accepted, 0 refused
"""

GRACEFUL_SHUTDOWN = """\
stopped by SIGTERM
the bus is closed
sent     100
packing  100
billing  100
"""

PIPELINE = """\
stopped by SIGTERM
nothing is on its way any more
100 taken, 100 developed, 100 shrunk, 100 published
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("01_hello.py", HELLO),
        ("02_many_subscribers.py", MANY_SUBSCRIBERS),
        ("04_threads.py", THREADS),
        ("05_graceful_shutdown.py", GRACEFUL_SHUTDOWN),
        ("07_pipeline.py", PIPELINE),
    ],
    ids=["hello", "many subscribers", "threads", "graceful shutdown", "pipeline"],
)
def test_an_example_prints_what_it_should(name: str, expected: str) -> None:
    assert run(name) == (expected, "")


SLOW_SUBSCRIBER = """\
BLOCK
  senders waiting: 1
  read /1
  read /2
  read /3
  read /4
  read /5
  read /6
  6 matched = 6 read + 0 dropped
DROP_OLDEST
  senders waiting: 0
  read /4
  read /5
  read /6
  6 matched = 3 read + 3 dropped
DROP_INCOMING
  senders waiting: 0
  read /1
  read /2
  read /3
  6 matched = 3 read + 3 dropped
CLOSE
  senders waiting: 0
  read /1
  read /2
  read /3
  ended by the overflow
  4 matched = 3 read + 1 dropped
LATEST
  senders waiting: 0
  read /4
  read /5
  read /6
  6 matched = 3 read + 3 dropped
"""


def test_a_slow_subscriber_shows_each_policy_and_the_log_names_each_loss() -> None:
    stdout, stderr = run("03_slow_subscriber.py")
    assert stdout == SLOW_SUBSCRIBER
    warnings = r"WARNING: subscription 'numbers' \(.*03_slow_subscriber\.py:\d+\) .*\((\w+)\); .*\n"
    assert re.findall(warnings, stderr) == ["drop_oldest", "drop_incoming", "close", "latest"]
    assert stderr.count("\n") == 4


def test_ctrl_c_ends_the_shop_of_the_map_quietly() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "08_map.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shop:
        assert shop.stdout is not None
        assert shop.stdout.readline().startswith(b"The map: http://")
        shop.send_signal(signal.SIGINT)
        stdout, stderr = shop.communicate(timeout=60)
    assert (shop.returncode, stdout) == (0, b"")
    assert b"KeyboardInterrupt" not in stderr


def test_the_shop_of_the_map_says_where_the_map_is() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "08_map.py", "0.5"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"The map: http://127\.0\.0\.1:\d+/[\w-]{22}/\n", done.stdout)
