"""``rmw ui`` from the command to its first page, and from Ctrl-C to its end.

``python -m benchmarks.web_ui [rounds]``; each start is a process of its own with the whole catalogue, on the home that
RMW_HOME names, which may be empty. Seconds as a person waits, which other work on the machine stretches: its load is
printed beside them.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

import psutil

from rm_workflow.pages import addresses
from rm_workflow_tests.assets.web import free_port

NUM_ROUNDS = 5
MOST_SECONDS = 120
BETWEEN_ASKING = 0.05


def main(num_rounds: int = NUM_ROUNDS) -> None:
    """Print the seconds of several starts and ends."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.environ.get("RMW_HOME") or folder)
        load = os.getloadavg()[0]
        rounds = [_round(home) for _ in range(num_rounds)]
    print(f"rmw ui, median of {num_rounds} (least to most), seconds; load of the machine before: {load:.1f}")
    for name in rounds[0]:
        seconds = [one[name] for one in rounds]
        print(f"{name}: {median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})")


def _round(home: Path) -> dict[str, float]:
    """Return how long one start and its end took."""
    port = free_port()
    command = [sys.executable, "-m", "rm_workflow.cli.main", "ui", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(
            command, env={**os.environ, "RMW_HOME": str(home)}, stderr=log, stdout=log, start_new_session=True
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}{addresses.START}", process)
        except OSError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        answered = time.monotonic()
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.wait()
        ended = time.monotonic()
        while any(map(_lives, family)):
            time.sleep(BETWEEN_ASKING)
    return {
        "command to first page": answered - started,
        "Ctrl-C to its end": ended - answered,
        "Ctrl-C to the end of all its processes": time.monotonic() - answered,
    }


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=MOST_SECONDS).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(BETWEEN_ASKING)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_ROUNDS)
