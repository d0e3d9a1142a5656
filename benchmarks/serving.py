"""A server under load: ``python -m benchmarks.serving [SECONDS [CLIENTS [PRECISION]]]``.

SmolLM2-135M with a fresh reward head behind a real ``rmw serve`` on loopback. So many clients (32), each a thread of a
process of their own, send one conversation at a time and the next one when the answer is there, for so many seconds
(60), from rows with lengths like RewardBench's (``benchmarks.scoring``). Then ``rmw score`` scores the same rows from a
file, in one process with as many threads, its start not counted. Printed are both speeds, their ratio (at least 0.8 is
wanted), p50 and p99 of a request, and errors; then the server is killed by SIGKILL and started again on its port.

A closed loop of 32 clients waits: where a machine scores 3 conversations in a second, each answer takes 10 seconds, so
p50 says how fast the machine is, and p99 beside it whether anybody waits for much longer than the others.
"""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import end
from benchmarks.scoring import conversations_like_rewardbench, reward_model_folder

NUM_SECONDS, NUM_CLIENTS = 60, 32
STARTING_SECONDS = 120
LEAST = 0.8
# So many sets of 138 conversations: none is asked for twice in a minute on a CPU, as equal ones are scored once.
NUM_SEEDS = 10


def main(seconds: float | str = NUM_SECONDS, clients: int | str = NUM_CLIENTS, precision: str = "auto") -> None:
    """Print how a server does beside ``rmw score``."""
    seconds, clients = float(seconds), int(clients)
    scratch = Path(tempfile.mkdtemp(prefix="benchmark-"))
    os.environ["RMW_HOME"] = str(scratch / "home")
    folder = reward_model_folder(scratch)
    rows = [
        {"prompt": prompt, "response": reply}
        for seed in range(NUM_SEEDS)
        for prompt, *replies in conversations_like_rewardbench(seed)
        for reply in replies
    ]
    server, url = start(folder, "0", precision)
    ask(url, rows[0])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found, errors = pool.apply(load, (url, rows, seconds, clients))
    # The last requests end after the time is up: what counts is from the first byte to the last answer.
    took = max(at for at, _, _ in found)
    served = len(found) / took
    waits = sorted(wait for _, wait, _ in found)
    asked = [rows[index] for _, _, index in found]
    print(
        f"rmw serve, {clients} clients, {seconds:g} s: {len(found)} answers, {errors} errors, {served:.2f}/s, "
        f"p50 {percentile(waits, 50):.2f} s, p99 {percentile(waits, 99):.2f} s, longest {waits[-1]:.2f} s",
        flush=True,
    )
    port = url.rpartition(":")[2]
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    again, url = start(folder, port, precision)
    ask(url, rows[0])
    again.send_signal(signal.SIGTERM)
    print(f"killed by SIGKILL and started again on port {port}: answers; ended by SIGTERM with code {again.wait()}")
    from_file = score_file(scratch, folder, asked, precision)
    print(
        f"rmw score on the same rows: {from_file:.2f} conversations/s; ratio {served / from_file:.2f} (wanted: {LEAST})"
    )


def start(folder: Path, port: str, precision: str) -> tuple["subprocess.Popen[str]", str]:
    """Start a server and return it with its address."""
    command = [sys.executable, "-m", "rm_workflow.cli.main", "serve", str(folder), "--port", port]
    server = subprocess.Popen(
        [*command, "--precision", precision, "--timeout", "600"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + STARTING_SECONDS
    assert server.stderr is not None
    for line in server.stderr:
        if ": http://" in line:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, line.split(": ")[1].split(" ")[0]
        if time.monotonic() > deadline:
            break
    raise RuntimeError("the server did not start")


def ask(url: str, row: dict[str, Any]) -> float:
    """Return the reward of a row."""
    request = urllib.request.Request(f"{url}/score", json.dumps(row).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return float(json.load(answer)["scores"][0])


def load(
    url: str, rows: Sequence[dict[str, Any]], seconds: float, clients: int
) -> tuple[list[tuple[float, float, int]], int]:
    """Ask from so many threads; return (time of the answer, seconds waited, row) of each, and the number of errors."""
    found: list[tuple[float, float, int]] = []
    errors: list[Exception] = []
    numbers, started = count(), time.monotonic()

    def client() -> None:
        while time.monotonic() - started < seconds:
            index = next(numbers) % len(rows)
            sent = time.monotonic()
            try:
                ask(url, rows[index])
            except OSError as error:
                errors.append(error)
                continue
            found.append((time.monotonic() - started, time.monotonic() - sent, index))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, len(errors)


def score_file(scratch: Path, folder: Path, rows: Sequence[dict[str, Any]], precision: str) -> float:
    """Return the speed that ``rmw score`` tells of itself on these rows."""
    file = scratch / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [
        sys.executable,
        "-m",
        "rm_workflow.cli.main",
        "score",
        str(folder),
        str(file),
        "-o",
        str(scratch / "out"),
    ]
    ran = subprocess.run([*command, "--precision", precision], capture_output=True, text=True, check=True)
    return float(ran.stderr.partition("; ")[2].split(" ")[0].replace(",", ""))


def percentile(ordered: Sequence[float], share: int) -> float:
    """Return a percentile of sorted numbers."""
    if len(ordered) == 1:
        return ordered[0]
    return statistics.quantiles(ordered, n=100, method="inclusive")[share - 1]


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
