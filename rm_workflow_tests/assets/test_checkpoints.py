"""What a checkpoint's asset does with a training that ended already; the trainer itself is a stand-in."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rm_workflow.artifacts import ArtifactStore, Built
from rm_workflow.assets import checkpoints, trainer_process
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import RecipeSettings
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings
from rm_workflow.training import outputs
from rm_workflow.training.launchers import Launcher, Training

FACTS = {"base": "tiny", "objective": "bradley_terry", "num_train_pairs": 1, "num_steps": 1, "seconds": 1.0}
METRICS = json.dumps({"step": 1, "loss": 0.7}) + "\n"


def result(passed: bool) -> dict[str, Any]:
    return {"num_steps": 1, "seconds": 1.0, "reload": {"passed": passed, "max_difference": 0.0}}


class Trainer:
    """Writes what it is told to write, one result for each start."""

    def __init__(self, *results: dict[str, Any]) -> None:
        self.results = list(results)

    def __call__(self, context: dg.AssetExecutionContext, launcher: Launcher, training: Training) -> None:
        out = training.out
        (out / "model").mkdir(exist_ok=True)
        # As the trainer does: what an earlier one left may be linked into an artifact.
        for name, text in {"model/model.safetensors": "weights", "metrics.jsonl": METRICS}.items():
            (out / name).unlink(missing_ok=True)
            (out / name).write_text(text)
        outputs.write_result(out, self.results.pop(0), ("model", "metrics.jsonl"))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dg.AssetsDefinition:
    """The quickstart's checkpoint asset in a home that holds stand-ins of its inputs."""
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    catalog = load_catalog(load_settings())
    store = ArtifactStore(tmp_path / "home")

    def build(out: Path) -> Built:
        (out / "run_config.json").write_text('{"device": "cpu", "training": {"learning_rate": 0.1}}')
        (out / "base.json").write_text(json.dumps({"base": "tiny", "folder": "."}))
        (out / "config.json").write_text("{}")
        return Built(FACTS)

    for planned in Flow(catalog).checkpoint(catalog.recipes["quickstart"]).upstream:
        store.materialize(planned.request((), overridden=False), build, "run-1")
    return checkpoints.checkpoint_asset(catalog, catalog.recipes["quickstart"])


def run(asset: dg.AssetsDefinition, **overrides: object) -> bool:
    return dg.materialize(
        [asset], resources={"recipe_settings": RecipeSettings(overrides=overrides)}, raise_on_error=False
    ).success


def test_a_training_that_ended_well_is_not_repeated_when_its_publish_failed(
    checkpoint: dg.AssetsDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer = Trainer(result(passed=True))
    monkeypatch.setattr(checkpoints, "run_trainer", trainer)
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "publish", fail)
        assert not run(checkpoint)
    assert trainer.results == []
    assert run(checkpoint)
    assert not list((tmp_path / "home/work").glob("*/*"))


def fail(*arguments: object) -> None:
    raise RuntimeError("the publish failed")


def test_a_training_without_a_proven_result_is_repeated(
    checkpoint: dg.AssetsDefinition, monkeypatch: pytest.MonkeyPatch
):
    trainer = Trainer(result(passed=False), result(passed=True))
    monkeypatch.setattr(checkpoints, "run_trainer", trainer)
    assert not run(checkpoint)
    assert run(checkpoint)
    assert trainer.results == []


def flip_a_bit(path: Path) -> None:
    """Damage a file where it lies, with all names that it has."""
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(damaged)


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: os.truncate(path, 20), Path.unlink])
@pytest.mark.parametrize("name", ["model/model.safetensors", "metrics.jsonl", "result.json", "outputs.json"])
def test_what_a_training_left_is_not_published_once_it_is_damaged(
    checkpoint: dg.AssetsDefinition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    name: str,
):
    trainer = Trainer(result(passed=True), result(passed=True))
    monkeypatch.setattr(checkpoints, "run_trainer", trainer)
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "publish", fail)
        assert not run(checkpoint)
    (work,) = (tmp_path / "home/work").glob("*/*")
    damage(work / name)
    assert run(checkpoint)
    assert trainer.results == []
    assert weights(tmp_path) == "weights"


def weights(folder: Path) -> str:
    artifact = ArtifactStore(folder / "home").require("quickstart_checkpoint")
    return artifact.file("model/model.safetensors").read_text()


def test_a_damage_that_artifact_and_work_folder_share_is_not_published_anew(
    checkpoint: dg.AssetsDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer = Trainer(result(passed=True), result(passed=True))
    monkeypatch.setattr(checkpoints, "run_trainer", trainer)
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "clear_work", fail)
        assert not run(checkpoint)
    (work,) = (tmp_path / "home/work").glob("*/*")
    (folder,) = (tmp_path / "home/artifacts/quickstart_checkpoint").iterdir()
    assert (work / "model/model.safetensors").samefile(folder / "model/model.safetensors")
    flip_a_bit(folder / "model/model.safetensors")
    with pytest.raises(UserError, match="delete the folder"):
        ArtifactStore(tmp_path / "home").take("quickstart_checkpoint", folder.name)
    shutil.rmtree(folder)
    assert run(checkpoint)
    assert trainer.results == []
    assert weights(tmp_path) == "weights"


def test_a_run_that_was_killed_is_gone_on_with_in_the_folder_of_its_key(
    checkpoint: dg.AssetsDefinition, monkeypatch: pytest.MonkeyPatch
):
    trainer = Trainer(result(passed=True))
    found = []

    def killed_once(context: dg.AssetExecutionContext, launcher: Launcher, training: Training) -> None:
        state = training.out / "states/step_00000007"
        found.append(state.exists())
        state.mkdir(parents=True, exist_ok=True)
        if len(found) == 1:
            raise RuntimeError("the trainer was killed")
        trainer(context, launcher, training)

    monkeypatch.setattr(checkpoints, "run_trainer", killed_once)
    assert not run(checkpoint)
    assert run(checkpoint)
    assert found == [False, True]


def test_a_run_goes_on_after_a_change_of_how_it_is_made(
    checkpoint: dg.AssetsDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer = Trainer(result(passed=True))
    seen = []

    def killed_once(context: dg.AssetExecutionContext, launcher: Launcher, training: Training) -> None:
        options = dict(zip(training.arguments[::2], training.arguments[1::2], strict=True))
        values = json.loads(Path(options["--run-config"]).read_text())["training"]
        seen.append((options["--out"], values["micro_batch_tokens"], values["learning_rate"]))
        if len(seen) == 1:
            raise RuntimeError("out of memory")
        trainer(context, launcher, training)

    monkeypatch.setattr(checkpoints, "run_trainer", killed_once)
    how = {"layout": "padded", "logging_steps": 7, "report_to": ["tensorboard"], "save": {"steps": 3}}
    overrides = {f"training.{name}": value for name, value in how.items()}
    assert not run(checkpoint)
    assert run(checkpoint, **overrides, **{"training.micro_batch_tokens": 77})
    (first, of_recipe, rate), (second, changed, same_rate) = seen
    assert first == second
    assert (of_recipe != 77, changed, rate) == (True, 77, same_rate)
    found = ArtifactStore(tmp_path / "home").find("quickstart_checkpoint", Path(first).name)
    assert found is not None
    assert found.facts["trained_with"]["micro_batch_tokens"] == 77


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_where_files_cannot_be_linked_they_are_copied(
    checkpoint: dg.AssetsDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    def refuse(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(checkpoints, "run_trainer", Trainer(result(passed=True)))
    assert run(checkpoint)
    artifact = ArtifactStore(tmp_path / "home").require("quickstart_checkpoint")
    assert artifact.file("model/model.safetensors").read_text() == "weights"
    assert artifact.file("metrics.jsonl").read_text() == METRICS


def test_the_trainers_sentence_survives_what_a_launcher_prints_after_it(capsys: pytest.CaptureFixture[str]):
    told = trainer_process.Told()
    for line in ("step 1", "error: lower it", *["noise"] * 100):
        told(line)
    assert trainer_process._reason(1, list(told.last_lines), told.errors) == "lower it"
    # Whoever ran the step prints the sentence; the launcher's noise is nobody's.
    printed = capsys.readouterr().err.splitlines()
    assert "error: lower it" not in printed
    assert printed.count("noise") == 100


@pytest.mark.parametrize("code", [-9, 137])
def test_a_trainer_that_was_killed_most_likely_had_no_memory_left(code: int):
    assert trainer_process._reason(code, ["step 1"], []) == trainer_process.KILLED
    assert trainer_process._reason(3, ["step 1"], []) == "the trainer ended with code 3; its last line: step 1"
