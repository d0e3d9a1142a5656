"""Best-of-N of stored scores: GSM8K's 1,319 problems with 1,024 candidates each, by ``rmw aggregate best_of_n``.

The candidates are drawn: a problem's chance of a right answer from Beta(2, 2), wrong answers from a long tail, scores
from a normal distribution around 1 for right ones and 0 for wrong ones. Printed are seconds and the largest resident
memory of the whole command, that reads the file, votes, resamples and prints.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROBLEMS, CANDIDATES = 1_319, 1_024
ROUNDS = 3
SEED = 7


def write_scores(path: Path, problems: int, candidates: int, steps: int) -> None:
    """Write a file of scored candidates; with ``steps`` above 0 each has so many step scores in place of one score."""
    generator = np.random.default_rng(SEED)
    with path.open("w", encoding="utf-8") as file:
        for problem in range(problems):
            right = generator.random(candidates) < generator.beta(2, 2)
            answers = np.where(right, 42, 43 + generator.geometric(0.1, candidates))
            scores = np.round(generator.normal(right.astype(float), 1.0), 4)
            of_steps = np.round(generator.random((candidates, steps)), 4).tolist()
            rows = [
                {"answer": str(answer), "correct": bool(correct)}
                | ({"step_scores": found} if found else {"score": score})
                for answer, correct, score, found in zip(answers, right, scores.tolist(), of_steps, strict=True)
            ]
            file.write(json.dumps({"problem": problem, "candidates": rows}) + "\n")


def measure(path: Path) -> tuple[float, float]:
    """Return seconds and GB of one run of the command."""
    before = time.perf_counter()
    command = [sys.executable, "-m", "rm_workflow.cli.main", "aggregate", "best_of_n", str(path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("rmw aggregate failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - before, usage.ru_maxrss * unit / 1e9


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--steps", type=int, default=0, help="step scores a candidate; 0: one score")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args([] if arguments is None else arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.jsonl"
        write_scores(path, options.problems, options.candidates, options.steps)
        runs = [measure(path) for _ in range(options.rounds)]
        size = path.stat().st_size / 1e6
    seconds = [run[0] for run in runs]
    what = f"{options.steps} step scores" if options.steps else "one score"
    print(f"{options.problems:,} problems x {options.candidates:,} candidates, {what} each, {size:.0f} MB of JSON")
    spread = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
    print(f"  rmw aggregate best_of_n: {spread}, {max(run[1] for run in runs):.2f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
