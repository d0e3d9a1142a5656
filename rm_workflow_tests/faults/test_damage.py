"""A flipped bit, a cut, an emptied and a lost file in every kind of thing that is stored: named before it is used."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.cli.targets import find_artifact
from rm_workflow.errors import UserError
from rm_workflow.evaluation.checkpoint_scores import scored_checkpoints
from rm_workflow.evaluation.parts import Parts
from rm_workflow.training import training_state
from rm_workflow.training.tensor_files import write_safetensors
from rm_workflow_tests.faults import states


def flip(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 1
    path.write_bytes(data)


# What a fault of the disk leaves of a file. A bit may flip anywhere: in a head, in the data, in the last byte.
DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"flip at {share}": lambda path, share=share: flip(path, share) for share in (0.0, 0.2, 0.5, 0.9, 1.0)},
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
}


def damage(path: Path, how: str) -> None:
    before = path.stat()
    DAMAGES[how](path)
    if path.exists():
        # At the earliest a moment after it was published; the clock of a file system is coarse.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def build(out: Path) -> Built:
    pq.write_table(pa.table({"a": list(range(1000)), "b": ["text"] * 1000}), out / "rows.parquet", compression="zstd")
    (out / "model").mkdir()
    write_safetensors(out / "model/model.safetensors", {"score.weight": torch.ones(1, 64)})
    (out / "model/config.json").write_text('{"num_labels": 1}')
    (out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n')
    (out / "README.md").write_text("a card")
    return Built({"scores": {"test": {"score": 0.5}}})


FILES = ("rows.parquet", "model/model.safetensors", "model/config.json", "metrics.jsonl", "README.md")
CHECKPOINT = Request("toy_checkpoint", "checkpoint", "1", {}, requested="r")


def scores_of(store: ArtifactStore) -> Request:
    return Request("toy_scores", "scores", "1", {}, (store.require("toy_checkpoint"),), requested="r")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = ArtifactStore(tmp_path_factory.mktemp("published"))
    store.materialize(CHECKPOINT, build, "run-1")
    store.materialize(scores_of(store), build, "run-1")
    return store.home


@pytest.fixture
def store(published: Path, memory: Path) -> ArtifactStore:
    """A copy of a home whose files were all proven."""
    shutil.copytree(published, memory / "home")
    store = ArtifactStore(memory / "home")
    store.inputs_of(store.require("toy_scores"))
    return store


USES: dict[str, Callable[[ArtifactStore], object]] = {
    "by a consumer": lambda store: store.require("toy_checkpoint", "r"),
    "by what was made from it": lambda store: store.inputs_of(store.require("toy_scores")),
    "by its own asset": lambda store: store.materialize(CHECKPOINT, build, "run-2"),
    "by a person": lambda store: find_artifact(store, f"toy_checkpoint@{CHECKPOINT.version[:8]}"),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_damaged_file_of_an_artifact_is_named_before_anybody_uses_it(store: ArtifactStore, file: str, how: str):
    folder = store.artifacts / "toy_checkpoint" / CHECKPOINT.version
    damage(folder / file, how)
    for used, use in USES.items():
        if (file, how, used) == ("manifest.json", "gone", "by its own asset"):
            continue
        with pytest.raises(UserError) as told:
            use(store)
        sentence = str(told.value)
        assert (file in sentence) != (file == "manifest.json" and how == "gone"), used
        assert "toy_checkpoint" in sentence
    if how != "gone" or file != "manifest.json":
        assert f"delete the folder artifacts/toy_checkpoint/{CHECKPOINT.version} and run again" in sentence
    shutil.rmtree(folder)
    assert not store.materialize(CHECKPOINT, build, "run-3").reused
    assert store.require("toy_checkpoint", "r")


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_item_scores_are_named_before_they_are_compared(store: ArtifactStore, how: str):
    damage(store.require("toy_scores").file("rows.parquet"), how)
    with pytest.raises(UserError, match=r"artifact toy_scores@\w+: file rows\.parquet (is not|has)"):
        next(iter(scored_checkpoints(store).values())).rows(store, "test")


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "gone"])
def test_a_damaged_event_is_named_before_it_is_believed(store: ArtifactStore, how: str):
    event = store.events_folder / "00000001.publish.toy_checkpoint.json"
    damage(event, how)
    with pytest.raises(UserError, match=rf"{event.name} is damaged .*; delete it, then run rmw lineage rebuild"):
        store.latest("toy_checkpoint")


def test_a_copy_under_another_name_is_no_artifact_and_no_event(store: ArtifactStore):
    folder = store.require("toy_checkpoint").folder
    for copy in (folder.with_name("f" * 64), store.artifacts / "other_checkpoint" / folder.name):
        shutil.copytree(folder, copy)
        with pytest.raises(
            UserError, match=rf"its manifest is that of toy_checkpoint@{folder.name}; delete the folder"
        ):
            store.find(copy.parent.name, copy.name)
    event = store.events_folder / "00000001.publish.toy_checkpoint.json"
    shutil.copy(event, event.with_name("00000099.publish.toy_checkpoint.json"))
    with pytest.raises(UserError, match="its content is that of another event"):
        store.latest("toy_checkpoint")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", ["weights.safetensors", "progress.json", "metrics.jsonl", training_state.COMPLETE])
def test_a_damaged_training_state_is_named_and_the_one_before_is_used(memory: Path, file: str, how: str):
    for step in (1, 2):
        states.save(memory, step)
    damage(memory / "step_00000002" / file, how)
    said: list[str] = []
    found = training_state.newest_whole(memory, said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert said[0].startswith("the training state step_00000002 is not used, because ")
    # A flipped hash in the marker speaks of the file that it stands for.
    assert file in said[0] or file == training_state.COMPLETE


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "gone"])
def test_a_damaged_part_of_scores_is_named_and_computed_again(memory: Path, how: str, caplog: pytest.LogCaptureFixture):
    for key in (b"a", b"b"):
        parts = Parts(memory)
        parts.add([key], [1.0])
        parts.flush()
    damaged = sorted(memory.iterdir())[1]
    damage(damaged, how)
    parts = Parts(memory)
    assert f"{damaged} is damaged, by its sha256; its scores are computed again" in caplog.text
    assert (parts.find([b"a"]), parts.find([b"b"]), parts.num_found) == ([1.0], None, 1)
    parts.add([b"b"], [1.0])
    parts.flush()
    assert Parts(memory).find([b"a", b"b"]) == [1.0, 1.0]
