"""From raw rows to scores through the real command line, Dagster, Pipes and trainer, on a tiny random model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow_tests.cli.conftest import Answer, Project, lines
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

Rmw = Callable[..., Answer]

RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-3, batch_size: 4, epochs: EPOCHS, logging_steps: 1, precision: fp32}
evaluation: {precision: fp32}
"""
START_SECONDS = 120


@pytest.fixture
def tiny_project(project: Project) -> Project:
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_rows(lines(range(20)))
    write_recipe(project, epochs=1)
    return project


def write_recipe(project: Project, epochs: int) -> None:
    base = str(project.folder / "base")
    project.write_catalog(recipe=RECIPE.replace("BASE", base).replace("EPOCHS", str(epochs)))


def test_a_recipe_runs_to_scores_and_a_second_run_reuses_everything(tiny_project: Project, rmw: Rmw):
    answer = rmw("run", "toy", "--json")
    assert answer.code == 0, answer.err
    first = json.loads(answer.out)
    test = first["scores"]["test"]
    assert test["n"] == 10
    assert test["ci_low"] <= test["score"] <= test["ci_high"]
    assert {"ties", "pick_longer", "pick_shorter", "per_source"} <= set(test)
    assert list(test["per_source"]) == ["toy"]

    second = json.loads(rmw("run", "toy", "--json").out)
    assert all(asset["reused"] for asset in second["assets"].values())
    assert second["scores"] == first["scores"]
    assert second["checkpoint"] == first["checkpoint"]

    chain = json.loads(rmw("lineage", "toy_checkpoint", "--json").out)
    assert {"file", "raw", "pairs", "mixture", "tokens", "base", "run_config", "checkpoint"} == {
        node["kind"] for node in chain["nodes"]
    }
    traced = json.loads(rmw("trace", "train.jsonl:1", "--json").out)
    assert traced["checkpoints"] == [first["checkpoint"]]

    (tiny_project.folder / "in.jsonl").write_text('{"prompt": "Question 1?", "response": "Answer 1."}\n')
    scored = rmw("score", "toy_checkpoint", "in.jsonl", "-o", "out.jsonl")
    assert scored.code == 0, scored.err
    assert isinstance(json.loads((tiny_project.folder / "out.jsonl").read_text())["score"], float)


def start(project: Project) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rm_workflow.cli.main", "run", "toy"], cwd=project.folder, start_new_session=True
    )


def trainer_pids(project: Project) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"rm_workflow.training.entry" in arguments and str(project.home).encode() in arguments:
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {START_SECONDS} s for {what}"
        time.sleep(0.2)


def wait_until_training(project: Project) -> None:
    wait_for(lambda: list(project.home.glob("work/toy_checkpoint/*/metrics.jsonl")), "the first step")


@pytest.mark.parametrize("killed", ["step", "trainer"])
def test_after_a_kill_nothing_lives_nothing_is_visible_and_the_next_run_completes(
    tiny_project: Project, rmw: Rmw, killed: str
):
    write_recipe(tiny_project, epochs=40)
    process = start(tiny_project)
    try:
        wait_until_training(tiny_project)
        if killed == "step":
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.kill(trainer_pids(tiny_project)[0], signal.SIGKILL)
        assert process.wait(timeout=60) == (-signal.SIGKILL if killed == "step" else 1)
        wait_for(lambda: not trainer_pids(tiny_project), "the trainer's end")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "toy_checkpoint" not in tiny_project.published()
    answer = rmw("run", "toy", "--json")
    assert answer.code == 0, answer.err
    assets = json.loads(answer.out)["assets"]
    assert not assets["toy_checkpoint"]["reused"]
    assert assets["toy_tokens"]["reused"]
