"""From raw rows to scores through the real command line, Dagster, Pipes and trainer, on a tiny random model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.instance import open_instance
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.lineage.store import LineageStore
from rm_workflow.settings import load_settings
from rm_workflow_tests.assets.materialized import lacking
from rm_workflow_tests.cli.conftest import Answer, Project, lines
from rm_workflow_tests.lineage.homes import contents
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

Rmw = Callable[..., Answer]

RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-3, batch_size: 4, epochs: EPOCHS, logging_steps: 1, precision: fp32, save: SAVE}
evaluation: {precision: fp32}
promotion: {}
rejection_sampling: {candidates: toy}
"""
START_SECONDS = 120
SECRETS = {"HF_TOKEN": "hf_canaryCANARYcanaryCANARY", "WANDB_API_KEY": "canary-of-another-service"}


@pytest.fixture
def tiny_project(project: Project) -> Project:
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_rows(lines(range(20)))
    write_recipe(project, epochs=1)
    return project


def write_recipe(project: Project, epochs: int, save: str = "{}") -> None:
    base = str(project.folder / "base")
    project.write_catalog(recipe=RECIPE.replace("BASE", base).replace("EPOCHS", str(epochs)).replace("SAVE", save))


def files_that_hold(folder: Path, secret: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_recipe_runs_to_scores_and_a_second_run_reuses_everything(
    tiny_project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch
):
    for variable, secret in SECRETS.items():
        monkeypatch.setenv(variable, secret)
    answer = rmw("run", "toy", "--json")
    assert answer.code == 0, answer.err
    first = json.loads(answer.out)
    test = first["scores"]["test"]
    assert test["n"] == 10
    assert test["ci_low"] <= test["score"] <= test["ci_high"]
    assert {"ties", "pick_longer", "pick_shorter", "per_source"} <= set(test)
    assert list(test["per_source"]) == ["toy"]
    assert test["contamination"] == "clean"
    assert first["analysis"]["test"]["flip_holds"] is True

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

    shown = rmw("show", "toy_scores").out
    assert "calibration of margins" in shown
    assert "spearman_margin_length" in shown
    (row,) = json.loads(rmw("leaderboard", "--benchmark", "test", "--json").out)
    assert (row["checkpoint"], row["score"], row["too_few_items"]) == (first["checkpoint"], test["score"], True)
    same = json.loads(rmw("compare", "toy_checkpoint", first["checkpoint"], "--json").out)
    assert same["benchmarks"]["test"]["verdict"] == "not distinguishable"

    card = ArtifactStore(tiny_project.home).require("toy_card").file("README.md").read_text("utf-8")
    assert "a micro-batch x" in card
    assert "not recorded" not in card
    assert str(tiny_project.folder) not in card
    assert "**not supported**" in card

    assert rmw("audit", "toy", "--json").code == 0
    catalog = load_catalog(load_settings())
    kinds = {planned.asset: planned.kind for planned in Flow(catalog).of_recipe(catalog.recipes["toy"])}
    with open_instance(load_settings()) as instance:
        assert lacking(instance, kinds) == {}

    chosen = ArtifactStore(tiny_project.home).require("toy_sft_dpo")
    ranked = rmw("show", "toy_ranked", "-n", "1").out
    assert "[best] (reward " in ranked
    assert " ranked prompts" in ranked
    pairs = json.loads(rmw("show", "toy_sft_dpo", "--json").out)
    assert all(pair["score_gap"] > 0 and pair["chosen"] != pair["rejected"] for pair in pairs)
    assert [one.asset for one in ArtifactStore(tiny_project.home).inputs_of(chosen)] == ["toy_ranked"]
    assert chosen.facts["sft"] == chosen.facts["dpo"] + chosen.facts["dropped"]["min_gap"] > 0
    assert {"sft.parquet", "dpo.parquet"} <= set(chosen.manifest["files"])

    lineage = LineageStore(ArtifactStore(tiny_project.home))
    told = contents(lineage)
    assert [table for table, rows in told.items() if not rows] == []
    lineage.rebuild()
    assert contents(lineage) == told

    (tiny_project.folder / "in.jsonl").write_text('{"prompt": "Question 1?", "response": "Answer 1."}\n')
    scored = rmw("score", "toy_checkpoint", "in.jsonl", "-o", "out.jsonl")
    assert scored.code == 0, scored.err
    assert isinstance(json.loads((tiny_project.folder / "out.jsonl").read_text())["score"], float)

    for secret in SECRETS.values():
        assert files_that_hold(tiny_project.folder, secret) == []
        assert secret not in answer.out + answer.err + shown + scored.err


def start(project: Project, stderr: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rm_workflow.cli.main", "run", "toy"]
    return subprocess.Popen(command, cwd=project.folder, stderr=stderr, start_new_session=True)


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


@pytest.mark.slow(seconds=75)
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


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """Yield a memory cgroup that holds 1 MB: whoever is moved into it is killed when it takes more."""
    folders = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}
    for parent, limit in folders.items():
        group = parent / f"rmw_test_{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(1 << 20))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no memory cgroup can be made here (needs root)")


@pytest.mark.slow(seconds=75)
def test_a_trainer_that_the_kernel_ends_for_its_memory_is_told_and_goes_on(
    tiny_project: Project, rmw: Rmw, little_memory: Path
):
    write_recipe(tiny_project, epochs=100, save="{steps: 5}")
    process = start(tiny_project, stderr=subprocess.PIPE)
    wait_for(lambda: list(tiny_project.home.glob("work/toy_checkpoint/*/states/step_*")), "the first state")
    (trainer,) = trainer_pids(tiny_project)
    (little_memory / "cgroup.procs").write_text(str(trainer))
    _, told = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 1
    assert b"memory ran out" in told.splitlines()[-1]
    wait_for(lambda: not trainer_pids(tiny_project), "the trainer's end")
    with open_instance(load_settings()) as instance:
        assert instance.event_log_storage.get_concurrency_run_ids() == set()
    assert "toy_checkpoint" not in tiny_project.published()
    answer = rmw("run", "toy")
    assert answer.code == 0, answer.err
    assert "resuming after step" in answer.err
