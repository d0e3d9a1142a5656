"""Trainings on real Ray clusters of this machine: what they train, how they end, and what is said when one vanishes."""

import contextlib
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from rm_workflow.catalog.models import Distributed
from rm_workflow.training import launchers, training_state
from rm_workflow.training.launch import TRAINER
from rm_workflow.training.launchers import Running, Training
from rm_workflow_tests.training import toy
from rm_workflow_tests.training.ray_cluster import running_cluster

pytestmark = pytest.mark.slow(seconds=30)

SECONDS = 120.0
LONG = {"epochs": 1000, "logging_steps": 1, "save": {"steps": 5}}
# In the environment of what a launcher starts, and of a cluster of its own; no name that the trainer would be given.
MARK = "A_MARK_OF_THE_TEST"


@dataclass(frozen=True)
class Started:
    running: Running
    told: list[str]
    out: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < deadline, self.told
            time.sleep(0.1)

    def steps(self) -> list[dict[str, float]]:
        path = self.out / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def processes(self) -> list[str]:
        """Return the commands of all that runs for it: the trainer, what started it, a cluster of its own."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            if command and (str(self.out).encode() in command or self.mark.encode() in environment):
                found.append(command.replace(b"\0", b" ").decode())
        return found

    def trainers(self) -> list[bytes]:
        """Return the environments of the two processes that train."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                command = process.cmdline()
                is_trainer = TRAINER in command and "accelerate.commands.launch" not in command
                if is_trainer and str(self.out) in command:
                    found.append(Path(f"/proc/{process.pid}/environ").read_bytes())
        assert len(found) == 2
        return found

    def last_step(self) -> float:
        steps = self.steps()
        return steps[-1]["step"] if steps else 0

    def state(self) -> int:
        return training_state.kept_states(self.out / "states", 1)[0].step


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def starting(tiny_base, encoder, tokens, tmp_path) -> Iterator[Callable[..., Started]]:
    """Start the toy task under a launcher; what runs in the end is stopped."""
    started: list[Started] = []

    def start(launcher: str, name: str, variables: dict[str, str], *, machines: int, processes: int, **training):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        config = toy.resolved(toy.recipe(**training), encoder, 22)
        options = {
            "--run-config": toy.write_run_config(tmp_path / f"{name}.json", config),
            "--tokens": tokens,
            "--base": tiny_base,
            "--out": out,
        }
        flat = [str(part) for option in options.items() for part in option]
        told: list[str] = []
        mark = secrets.token_hex(8)
        distributed = Distributed(machines=machines, processes=processes)
        asked = Training(flat, distributed, out, "cpu", {**variables, MARK: mark})
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            running = launchers.get(launcher).start(asked, told.append)
        started.append(Started(running, told, out, mark))
        return started[-1]

    yield start
    for one in started:
        one.running.stop()


def test_two_machines_of_a_cluster_take_the_steps_of_two_local_processes(cluster, starting):
    short = {"epochs": 3, "logging_steps": 1}
    spread = starting("ray", "ray", cluster, machines=2, processes=1, **short)
    together = starting("local", "local", {}, machines=1, processes=2, **short)
    assert together.running.wait() == 0, together.told
    assert spread.running.wait() == 0, spread.told
    ours, theirs = spread.steps(), together.steps()
    assert len(ours) == len(theirs) == 9
    for our, their in zip(ours, theirs, strict=True):
        assert our["loss"] == pytest.approx(their["loss"], abs=2e-5, rel=2e-5)
        for exact in ("step", "epoch", "accuracy", "pairs", "tokens"):
            assert our[exact] == their[exact], exact
    result = json.loads((spread.out / "result.json").read_text("utf-8"))
    assert result["num_processes"] == 2
    assert result["reload"]["passed"]
    # The lines that a person sees are the same ones too, but for their speeds.
    first_words = [[line[:24] for line in one.told if line.startswith("step ")] for one in (spread, together)]
    assert first_words[0] == first_words[1]
    assert len(first_words[0]) == 9


def test_more_than_the_cluster_has_is_refused_in_one_sentence(cluster, starting):
    started = starting("ray", "greedy", {**cluster, "RMW_RAY_WAIT": "1"}, machines=1, processes=64)
    assert started.running.wait() == 1
    started.running.stop()
    assert started.told[-1].startswith("error: the Ray cluster has 2 CPUs and the training asks for 64 CPUs; add mach")


def test_a_training_is_ended_without_a_process_left_goes_on_and_survives_its_cluster(cluster, starting):
    # A cluster of its own, which has to end too.
    started = starting("ray", "long", {}, machines=1, processes=2, **LONG)
    started.wait_until(lambda: started.last_step() > 7)
    assert len(started.processes()) > 5
    started.running.stop()
    # As accelerate says it of itself.
    assert started.running.wait() == 1
    started.wait_until(lambda: not started.processes())
    reached = started.state()
    assert reached >= 7
    assert f"ended by SIGTERM; nothing is published; the same command goes on after step {reached}" in started.told

    # The cluster is killed whole, as a machine that loses its power.
    secrets_of_others = {"RMW_SERVE_TOKEN": "of-the-server", "RMW_ENDPOINT_API_KEY": "of-a-generator"}
    carried = {"RMW_THREADS": "1"}
    variables = {**cluster, **secrets_of_others, **carried}
    again = starting("ray", "long", variables, machines=1, processes=2, **LONG)
    again.wait_until(lambda: any(f"resuming after step {reached}" in line for line in again.told))
    again.wait_until(lambda: again.last_step() > reached + 6)
    for environment in again.trainers():
        assert b"RMW_THREADS=1" in environment
        assert not [secret for secret in secrets_of_others.values() if secret.encode() in environment]
    os.killpg(int(cluster["HEAD"]), signal.SIGKILL)
    assert again.running.wait() == 1
    again.running.stop()
    (error,) = (line for line in again.told if line.startswith("error: "))
    later = again.state()
    assert later > reached
    assert re.fullmatch(
        r"error: the Ray cluster no longer answers \(\w+\); start it again and run the recipe again; "
        rf"the same command goes on after step {later}",
        error,
    )
    again.wait_until(lambda: not again.processes())


def test_where_no_cluster_answers_the_sentence_says_so(starting):
    started = starting("ray", "nowhere", {"RAY_ADDRESS": "127.0.0.1:1"}, machines=1, processes=1)
    assert started.running.wait() == 1
    started.running.stop()
    assert started.told[-1].startswith("error: no Ray cluster answers at RAY_ADDRESS 127.0.0.1:1 (")
