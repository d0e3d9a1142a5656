"""A checkpoint pushed to a local server that speaks the hub's API, and loaded from there by its name."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow_tests.cli.conftest import Answer
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.hub.hub_server import FakeHub
from rm_workflow_tests.reporting.published import Home

Rmw = Callable[..., Answer]
REPO, MODELS = "org/reward", "models/org/reward"
CHECKPOINT = "quickstart_checkpoint"
# Loads main as a folder name would be, then runs the card's own snippet for the revision.
LOAD = """
import json, re, sys
from huggingface_hub import hf_hub_download
from transformers import AutoModelForSequenceClassification
first = AutoModelForSequenceClassification.from_pretrained("org/reward")
card = open(hf_hub_download("org/reward", "README.md", revision="2"), encoding="utf-8").read()
names = {}
for snippet in re.findall(r"```python\\n(.*?)```", card, re.DOTALL):
    exec(snippet, names)
again = AutoModelForSequenceClassification.from_pretrained("org/reward", revision="2")
same = all((a == b).all() for a, b in zip(names["model"].parameters(), again.parameters(), strict=True))
other = any((a != b).any() for a, b in zip(first.parameters(), again.parameters(), strict=True))
print(json.dumps({"reward": names["reward"], "same": bool(same), "main is another": bool(other)}))
"""


@pytest.fixture
def pushable(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("RMW_HOME", str(home.home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RMW_CATALOG", raising=False)
    home.model = lambda folder: (folder / "model.safetensors").write_bytes(b"weights")
    return home


@pytest.fixture
def hub(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("HF_TOKEN", fake_hub.write_token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return fake_hub


def test_what_was_pushed_is_loaded_by_its_name_with_the_same_rewards(
    pushable: Home, hub: FakeHub, rmw: Rmw, tmp_path: Path
):
    from rm_workflow.evaluation.scorer import Scorer

    for seed, revision in ((0, "main"), (1, "2")):
        pushable.model = lambda folder, seed=seed: write_checkpoint(folder, seed=seed)  # type: ignore[misc]
        pushable.recipe = pushable.recipe.model_copy(update={"description": f"seed {seed}"})
        training = pushable.recipe.training.model_copy(update={"seed": seed})
        pushable.recipe = pushable.recipe.model_copy(update={"training": training})
        checkpoint = pushable.publish()["checkpoint"]
        answer = rmw("push", checkpoint.id, REPO, "--revision", revision, "--json")
        assert answer.code == 0, answer.err
        told = json.loads(answer.out)
        assert {"README.md", "model.safetensors", "token_recipe.json", "scores.png"} <= set(told["files"])
    assert hub.branches[MODELS] == {"2": told["commit"]}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    *printed, last = ran.stdout.splitlines()
    loaded = json.loads(last)
    scorer = Scorer.load(checkpoint.folder / "model")
    ours, _ = scorer.score_texts([([{"role": "user", "content": "Name a river."}], "The Danube.")])
    assert loaded == {"reward": pytest.approx(ours[0], abs=1e-5), "same": True, "main is another": True}
    # The pipeline of the second snippet says the same as the model of the first.
    assert [float(line) for line in printed] == pytest.approx([ours[0]] * 2, abs=1e-5)


def test_a_dry_run_shows_the_files_and_asks_nobody(
    pushable: Home, hub: FakeHub, rmw: Rmw, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN")
    pushable.publish()
    answer = rmw("push", CHECKPOINT, REPO, "--dry-run")
    assert answer.code == 0, answer.err
    assert "model.safetensors" in answer.out
    assert "README.md" in answer.out
    assert hub.written == []


def test_without_a_token_it_is_refused_in_one_sentence(
    pushable: Home, hub: FakeHub, rmw: Rmw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    pushable.publish()
    answer = rmw("push", CHECKPOINT, REPO)
    assert answer.code == 1
    assert "there is no token to write with" in answer.error


def test_a_card_with_a_placeholder_is_refused(pushable: Home, hub: FakeHub, rmw: Rmw, tmp_path: Path):
    pushable.publish()
    (tmp_path / "own.md").write_text("---\ntags: [a]\n---\n# {{ NAME }}\n")
    answer = rmw("push", CHECKPOINT, REPO, "--card", "own.md")
    assert answer.code == 1
    assert "'{{ NAME }}' was left unresolved" in answer.error
    assert hub.written == []


def test_a_licence_that_forbids_to_pass_it_on_needs_a_yes(
    pushable: Home, hub: FakeHub, rmw: Rmw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pushable.publish()
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    entry = {
        "path": "samples:dialogues",
        "files": {"train": ["train.jsonl"], "test": ["test.jsonl"]},
        "adapter": "hh_transcript",
        "licence": "CC-BY-ND-4.0",
    }
    (catalog / "sources.yaml").write_text(json.dumps({"sample_dialogues": entry}))
    monkeypatch.setenv("RMW_CATALOG", str(catalog))
    answer = rmw("push", CHECKPOINT, REPO)
    assert answer.code == 1
    assert "source sample_dialogues (CC-BY-ND-4.0) says that adapted works may not be passed on" in answer.error
    assert hub.written == []
    answer = rmw("push", CHECKPOINT, REPO, "--yes")
    assert answer.code == 0, answer.err
    assert "warning: the licence of source sample_dialogues" in answer.err
    assert MODELS in hub.commits


def test_an_adapter_names_the_hubs_base_and_no_folder_of_this_machine(
    pushable: Home, hub: FakeHub, rmw: Rmw, tmp_path: Path
):
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder.parent / "adapter").mkdir()
        (folder.parent / "adapter/adapter_model.safetensors").write_bytes(b"adapter")
        config = {"base_model_name_or_path": str(tmp_path / "base"), "r": 32}
        (folder.parent / "adapter/adapter_config.json").write_text(json.dumps(config))

    pushable.model = write
    pushable.publish()
    answer = rmw("push", CHECKPOINT, REPO, "--adapter")
    assert answer.code == 0, answer.err
    files = hub.commits[MODELS][hub.newest[MODELS]]
    assert json.loads(files["adapter/adapter_config.json"]) == {
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": 32,
    }
    assert str(tmp_path).encode() not in b"".join(files.values())


def test_an_adapter_that_is_not_there_is_refused(pushable: Home, rmw: Rmw):
    pushable.publish()
    assert "all its weights were trained" in rmw("push", CHECKPOINT, REPO, "--adapter", "--dry-run").error


def test_a_name_that_is_no_repository_is_refused(pushable: Home, rmw: Rmw):
    assert "write it as org/name" in rmw("push", CHECKPOINT, "reward").error
