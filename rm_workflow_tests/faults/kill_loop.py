"""Kills a tiny recipe at random moments, again and again: ``python -m rm_workflow_tests.faults.kill_loop``.

Each life of a home begins empty (or with the data stage made), is killed a number of times, and is left to end; then it
must hold what its unkilled twin holds, byte for byte. After every kill a reader must find nothing partial, and all that
was there before. Half of the moments are a time, half are one of the calls that change files.

The ledger is a file of JSON lines, one a kill and one a life, and is added to: 1,000 kills may take several calls. A
seed and the number of a life draw the same moments each time, though where in the work a time falls depends on the
machine::

    {"kill": 7, "seed": 0, "phase": "data", "moment": {"call": 31, "name": "fsync", "path": "..."},
     "lost": [], "partial": []}
    {"life": 2, "seed": 0, "phase": "data", "kills": 5, "error": null, "differs": []}

``error``: a start that nobody killed failed, so that somebody would have to repair something.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rm_workflow_tests.faults.homes import NOTHING, Found, look
from rm_workflow_tests.faults.pipeline import INTERVAL, Pipeline, Start
from rm_workflow_tests.faults.watched import Ended, forked, kill_at, watched

# phase -> share of the kills: data and publishing by the library; the same through Dagster; training, scoring and card;
# the process group of the real command.
SHARES = {"data": 0.84, "assets": 0.06, "models": 0.09, "rmw": 0.01}
MOST_KILLS_A_LIFE = 12
LONGEST_RMW_SECONDS = 600.0


@dataclass
class Phase:
    """One kind of work that is killed.

    Attributes:
        start: what is done; None is the real command.
        begun: a home to begin with, or None for an empty one.
        seconds: that an unkilled twin took.
        num_calls: that it made.
        twin: what it left.
    """

    name: str
    start: Start | None
    begun: Path | None = None
    seconds: float = 0.0
    num_calls: int = 0
    twin: Found = NOTHING


@dataclass
class Tally:
    """What was found, by phase."""

    kills: int = 0
    lives: int = 0
    lost: int = 0
    partial: int = 0
    repairs: int = 0
    differ: int = 0
    seconds: float = 0.0


@dataclass
class Loop:
    """The kills of one call.

    Attributes:
        next_number: of the next kill, in the whole ledger.
    """

    pipeline: Pipeline
    folder: Path
    seed: int
    write: Callable[[dict[str, Any]], object]
    next_number: int = 1
    next_life: int = 1
    left: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)

    def kill(self, phase: Phase, kills: int) -> None:
        """Live as many lives as the kills need."""
        self.left = kills
        started = time.monotonic()
        while self.left > 0:
            self._live(phase)
        self.tallies[phase.name].seconds += time.monotonic() - started

    def _live(self, phase: Phase) -> None:
        home = self.folder / f"life-{self.next_life}"
        if phase.begun:
            shutil.copytree(phase.begun, home)
        tally = self.tallies.setdefault(phase.name, Tally())
        kills = 0
        ended = self._start_once(phase, home, kills)
        while ended.killed:
            kills += 1
            ended = self._start_once(phase, home, kills)
        tally.kills += kills
        error = ended.error
        found = look(home)
        differs = [] if error else _differences(found, phase.twin)
        tally.lives += 1
        tally.repairs += error is not None
        tally.differ += bool(differs)
        told = {"kills": kills, "error": error, "differs": differs}
        self.write({"life": self.next_life, "seed": self.seed, "phase": phase.name, **told})
        self.next_life += 1
        if error is None and not differs:
            shutil.rmtree(home)

    def _start_once(self, phase: Phase, home: Path, kills: int) -> Ended:
        """Start the work and kill it, if it may be killed and lasts until its moment.

        Args:
            kills: in this life so far.
        """
        before = look(home)
        draw = random.Random(f"{self.seed}/{self.next_life}/{kills}")
        moment: dict[str, Any] = {}
        if self.left == 0 or kills == MOST_KILLS_A_LIFE:
            ended = self._run(phase, home, None)
        elif phase.start is not None and draw.random() < 0.5:
            number = draw.randint(1, phase.num_calls)
            start = phase.start
            ended = watched(lambda: start(home), home.parent, kill_at(number))
            last = ended.calls[-1] if ended.calls else None
            moment = {"call": number, "name": last and last.name, "path": last and str(last.path)}
        else:
            moment = {"seconds": round(draw.uniform(0.0, phase.seconds), 4)}
            ended = self._run(phase, home, moment["seconds"])
        if ended.killed:
            found = look(home)
            lost, partial = found.lost_since(before), list(found.partial)
            steps = steps_lost(home)
            if steps > INTERVAL:
                lost.append(f"{steps} training steps")
            self.tallies[phase.name].lost += bool(lost)
            self.tallies[phase.name].partial += bool(partial)
            told = {"moment": moment, "lost": lost, "partial": partial}
            self.write({"kill": self.next_number, "seed": self.seed, "phase": phase.name, **told})
            self.left -= 1
            self.next_number += 1
        return ended

    def _run(self, phase: Phase, home: Path, kill_after: float | None) -> Ended:
        start = phase.start
        if start is None:
            return _run_rmw(self.pipeline, home, kill_after)
        return forked(lambda: start(home), kill_after)


def _run_rmw(pipeline: Pipeline, home: Path, kill_after: float | None) -> Ended:
    """Run the real command and kill its whole process group, trainer and all, as a lost machine would."""
    process = pipeline.start_rmw(home)
    try:
        _, told = process.communicate(timeout=LONGEST_RMW_SECONDS if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        for group in {process.pid, *_groups_below(process.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        process.communicate()
        return Ended(killed=True)
    return Ended(error=None if process.returncode == 0 else told.decode()[-300:])


def _groups_below(pid: int) -> set[int]:
    """Return the process groups of all that a process has started: the trainer leads one of its own."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, ahead = set(), [pid]
    while ahead:
        parent = ahead.pop()
        ahead += [child for child, its_parent in parents.items() if its_parent == parent]
        with contextlib.suppress(ProcessLookupError):
            found.add(os.getpgid(parent))
    return found - {os.getpgrp()}


def _differences(found: Found, twin: Found) -> list[str]:
    """Return the files that are not those of the twin; a picture of a card shows times."""
    ours, theirs = found.results(), twin.results()
    names = {(artifact, file) for both in (ours, theirs) for artifact, files in both.items() for file in files}
    differ = [
        f"{artifact}/{file}"
        for artifact, file in sorted(names)
        if ours.get(artifact, {}).get(file) != theirs.get(artifact, {}).get(file)
    ]
    return [name for name in differ if not name.endswith("training_curves.png")]


def steps_lost(home: Path) -> int:
    """Return the steps that the trainer made, and noted, after the newest state that can be gone on from."""
    from rm_workflow.training import training_state

    lost = [0]
    for metrics in home.glob("work/*/*/metrics.jsonl"):
        # From here on the training is not repeated, and its states go.
        if (metrics.parent / "result.json").is_file():
            continue
        # The last line may be cut: it is no result.
        lines = metrics.read_text("utf-8").splitlines(keepends=True)
        steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
        states = training_state.kept_states(metrics.parent / "states", 9)
        whole = [state.step for state in states if training_state.fault(state.folder) is None]
        lost.append(max(steps, default=0) - max(whole, default=0))
    return max(lost)


def prepare(pipeline: Pipeline, folder: Path, names: set[str]) -> Iterator[Phase]:
    """Yield the phases that are asked for, each with its twin; what they import is then there for every fork."""
    if "data" in names:
        yield with_twin(Phase("data", pipeline.prepare_data()), folder)
    if names & {"assets", "models", "rmw"}:
        assets = with_twin(Phase("assets", pipeline.prepare_assets("mixture")), folder)
        if "assets" in names:
            yield assets
    if names & {"models", "rmw"}:
        models = with_twin(Phase("models", pipeline.prepare_assets("card"), folder / "twin-assets"), folder)
        if "models" in names:
            yield models
    if "rmw" in names:
        started = time.monotonic()
        ended = _run_rmw(pipeline, folder / "twin-rmw", None)
        assert ended.error is None, ended.error
        yield Phase("rmw", None, None, time.monotonic() - started, 0, models.twin)


def with_twin(phase: Phase, folder: Path) -> Phase:
    """Run a phase undisturbed, here, so that its forks find all imported; then in a fork, for its time and calls."""
    assert phase.start is not None
    start, home = phase.start, folder / f"twin-{phase.name}"
    if phase.begun:
        shutil.copytree(phase.begun, home)
    start(home)
    gc.collect()
    gc.freeze()
    phase.twin = look(home)
    again = folder / f"again-{phase.name}"
    if phase.begun:
        shutil.copytree(phase.begun, again)
    started = time.monotonic()
    ended = watched(lambda: start(again), folder)
    phase.seconds, phase.num_calls = time.monotonic() - started, len(ended.calls)
    assert ended.error is None, ended.error
    assert _differences(look(again), phase.twin) == []
    shutil.rmtree(again)
    return phase


def _shares(kills: int, names: list[str]) -> dict[str, int]:
    total = sum(SHARES[name] for name in names)
    shares = {name: round(kills * SHARES[name] / total) for name in names}
    return {**shares, names[0]: kills - sum(shares.values()) + shares[names[0]]}


def _last_numbers(ledger: Path) -> tuple[int, int]:
    if not ledger.is_file():
        return 0, 0
    lines = [json.loads(line) for line in ledger.read_text("utf-8").splitlines()]
    return tuple(max((line.get(kind, 0) for line in lines), default=0) for kind in ("kill", "life"))  # type: ignore[return-value]


def summary(ledger: Path) -> str:
    """Return a table of all that a ledger holds, and its failures."""
    lines = [json.loads(line) for line in ledger.read_text("utf-8").splitlines()]
    rows = [f"{'phase':8s} {'kills':>6s} {'lives':>6s} {'lost':>6s} {'partial':>8s} {'repairs':>8s} {'differ':>7s}"]
    for phase in [*SHARES, "all"]:
        own = [line for line in lines if phase in (line["phase"], "all")]
        kills, lives = ([line for line in own if kind in line] for kind in ("kill", "life"))
        counts = [len(kills), len(lives)]
        counts += [sum(bool(line[name]) for line in kills) for name in ("lost", "partial")]
        counts += [sum(bool(line[name]) for line in lives) for name in ("error", "differs")]
        rows.append("{:8s} {:6,} {:6,} {:6,} {:8,} {:8,} {:7,}".format(phase, *counts))
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Kill as often as is asked for and print what the whole ledger holds; exit 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="kill_loop", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", type=Path, default=Path("kills.jsonl"), help="added to; made where it is not there")
    parser.add_argument("--phases", nargs="+", choices=[*SHARES], default=[*SHARES])
    parser.add_argument("--folder", type=Path, help="where homes are made; the failed ones stay")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp(prefix="kills-", dir=options.folder))
    (folder / "project").mkdir()
    last_kill, last_life = _last_numbers(options.ledger)
    with options.ledger.open("a", encoding="utf-8", buffering=1) as ledger:

        def write(line: dict[str, Any]) -> None:
            ledger.write(json.dumps(line, ensure_ascii=False) + "\n")
            if "kill" in line and line["kill"] % 10 == 0:
                print(f"{line['kill']:,} kills", file=sys.stderr)

        loop = Loop(Pipeline(folder / "project"), folder, options.seed, write, last_kill + 1, last_life + 1)
        shares = _shares(options.kills, options.phases)
        for phase in prepare(loop.pipeline, folder, {*options.phases}):
            if shares[phase.name]:
                loop.kill(phase, shares[phase.name])
    print(summary(options.ledger))
    for name, tally in loop.tallies.items():
        print(f"{name}: {tally.kills} kills in {tally.seconds:.0f} s")
    failed = sum(tally.lost + tally.partial + tally.repairs + tally.differ for tally in loop.tallies.values())
    if failed:
        print(f"homes of failed lives are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    # Without Python's own shutdown: once torch is loaded, DuckDB's bindings print pages about leaks there.
    code = main()
    sys.stdout.flush()
    os._exit(code)
