"""``rmw export`` and ``rmw import`` through the real command line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.models.importing import licence_of, model_files
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.test_loading import write_adapter, write_published
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_tokenizer, write_tiny_model

Rmw = Callable[..., Answer]
CONVERSATION = {"prompt": "Name a river.", "response": "The Danube."}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def score(rmw: Rmw, checkpoint: str, folder: Path) -> float:
    rows, out = folder / "rows.jsonl", folder / f"{checkpoint.rpartition('/')[2]}.jsonl"
    rows.write_text(json.dumps(CONVERSATION) + "\n")
    answer = rmw("score", checkpoint, str(rows), "-o", str(out), "--precision", "fp32")
    assert answer.code == 0, answer.err
    found: float = json.loads(out.read_text())["score"]
    return found


def test_a_mixture_is_exported_by_its_recipes_name(rmw: Rmw, project: Project, tmp_path: Path):
    assert rmw("run", "toy", "--until", "mixture").code == 0

    answer = rmw("export", "toy", "flat", "--format", "standard", "--json")

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["rows"] == {"train": 100, "test": 10}
    assert found["mixture"].startswith("toy_mixture@")
    assert pq.read_table(tmp_path / "flat/test.parquet").num_rows == 10
    assert json.loads((tmp_path / "flat/croissant.json").read_text())["license"] == ["CC0-1.0"]
    assert "not an empty folder" in rmw("export", found["mixture"], "flat").error
    assert "take one of trl, standard, labelled" in rmw("export", "toy", "other", "--format", "csv").error
    assert "there is no recipe or mixture 'nothing'" in rmw("export", "nothing", "other").error
    assert "asset pairs_toy is no mixture but of kind pairs" in rmw("export", "pairs_toy", "other").error
    assert "make it first: rmw run quickstart --until mixture" in rmw("export", "quickstart", "other").error
    assert "rb2_llama31_70b_mini_hh_mixture" in rmw("export", "rb2_llama31_70b_mini", "other").error
    assert "cannot be written" in rmw("export", "toy", "/proc/nowhere").error


def test_an_imported_model_scores_as_its_folder_and_stands_in_the_lineage(rmw: Rmw, project: Project, tmp_path: Path):
    folder = write_checkpoint(tmp_path / "elsewhere/model")

    answer = rmw("import", str(folder), "mine", "--json")

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["reused"], found["token_recipe_origin"]) == (False, "stored")
    expected = score(rmw, str(folder), tmp_path)
    for path in folder.iterdir():
        path.unlink()
    assert score(rmw, "mine_checkpoint", tmp_path) == expected
    lineage = rmw("lineage", "mine_checkpoint").out
    assert re.search(r"file:model-[0-9a-f]{8}/model.safetensors", lineage)
    assert rmw("verify").code == 0
    assert rmw("lineage", "rebuild").code == 0


def test_files_of_two_folders_of_one_name_are_told_apart(tmp_path: Path):
    folders = [write_checkpoint(tmp_path / name / "model") for name in ("one", "two")]
    same = {file.name for file in model_files(folders[0], None)}
    assert {file.name for file in model_files(folders[1], None)} == same
    (folders[1] / "config.json").write_text((folders[1] / "config.json").read_text() + "\n")
    assert not same & {file.name for file in model_files(folders[1], None)}
    assert {file.name.rpartition("/")[0] for file in model_files(folders[0], "org/name")} == {"org/name"}


def test_of_two_who_publish_the_same_at_once_one_is_told_that_it_is_there(tmp_path: Path):
    store = ArtifactStore(tmp_path / "home")
    request = Request("mine_checkpoint", "checkpoint", "1", {})

    def build_beside_another(out: Path) -> Built:
        assert not store.materialize(request, lambda out: Built({}), "other").reused
        return Built({})

    assert store.materialize(request, build_beside_another, "this").reused


def test_importing_the_same_files_again_copies_nothing(rmw: Rmw, project: Project, tmp_path: Path):
    folder = write_checkpoint(tmp_path / "model")

    first, second = (json.loads(rmw("import", str(folder), "mine", "--json").out) for _ in range(2))

    assert (first["checkpoint"], second["reused"]) == (second["checkpoint"], True)


@pytest.mark.parametrize("first", [0, 1])
def test_the_same_files_under_the_name_of_a_published_model_are_another_checkpoint(
    rmw: Rmw, project: Project, tmp_path: Path, first: int
):
    names = ("Skywork/Skywork-Reward-Llama-3.1-8B", "mine/model")
    made = write_published(tmp_path / "made")
    for name in names:
        shutil.copytree(made, tmp_path / name)
    origins = {}
    for name in (names[first], names[1 - first]):
        origins[name] = json.loads(rmw("import", name, "one", "--json").out)["token_recipe_origin"]

    assert origins == {names[0]: "published", names[1]: "guessed"}


def test_a_folder_of_the_home_is_no_model_from_elsewhere(rmw: Rmw, project: Project, tmp_path: Path):
    found = json.loads(rmw("import", str(write_checkpoint(tmp_path / "model")), "mine", "--json").out)
    folder = project.home / "artifacts" / found["checkpoint"].replace("@", "/")

    assert "is a checkpoint under RMW_HOME already" in rmw("import", str(folder), "again").error


def test_the_card_of_an_imported_model_says_what_is_known_and_that_the_data_are_not(
    rmw: Rmw, project: Project, tmp_path: Path
):
    folder = write_checkpoint(tmp_path / "model")
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Model\n")
    assert rmw("import", str(folder), "mine").code == 0

    answer = rmw("card", "mine_checkpoint")

    assert answer.code == 0, answer.err
    assert "\nlicense: apache-2.0\n" in answer.out.partition("# mine")[0]
    for part in (
        "Trained elsewhere: its data are unknown",
        "contamination: unknown",
        "/model.safetensors |",
        "template",
    ):
        assert part in answer.out
    assert str(tmp_path) not in answer.out
    assert rmw("card", "mine_checkpoint", "-o", str(tmp_path / "README.md")).code == 0


@pytest.mark.parametrize("written", ["mit", "'mit'", '"mit"', "mit  # as the base"])
def test_a_licence_is_read_however_it_is_quoted(written: str, tmp_path: Path):
    (tmp_path / "README.md").write_text(f"---\ntags: [x]\nlicense: {written}\n---\nlicense: none\n")
    assert licence_of(tmp_path) == "mit"


def test_a_licence_that_is_added_later_is_taken_over(rmw: Rmw, project: Project, tmp_path: Path):
    folder = write_checkpoint(tmp_path / "model")
    assert json.loads(rmw("import", str(folder), "mine", "--json").out)["licence"] is None
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")

    found = json.loads(rmw("import", str(folder), "mine", "--json").out)

    assert (found["reused"], found["licence"]) == (False, "mit")


def test_an_adapter_on_a_changed_base_is_imported_anew(rmw: Rmw, project: Project, tmp_path: Path):
    base = write_tiny_model(tmp_path / "base", tiny_tokenizer(LLAMA_LIKE))
    adapter = write_adapter(tmp_path / "adapter", base, str(base))
    before = json.loads(rmw("import", str(adapter), "tuned", "--json").out)["checkpoint"]
    write_tiny_model(base, tiny_tokenizer(LLAMA_LIKE), seed=1)

    assert json.loads(rmw("import", str(adapter), "tuned", "--json").out)["checkpoint"] != before


def test_a_model_without_token_recipe_gets_one_that_is_called_guessed(rmw: Rmw, project: Project, tmp_path: Path):
    folder = write_published(tmp_path / "plain")

    answer = rmw("import", str(folder), "plain")

    assert answer.code == 0
    assert "its token recipe is guessed from the tokenizer's chat template" in answer.err
    assert score(rmw, "plain_checkpoint", tmp_path) == pytest.approx(score(rmw, str(folder), tmp_path), abs=1e-6)


def test_an_adapter_is_merged_so_that_it_needs_its_base_no_more(
    rmw: Rmw, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = write_tiny_model(tmp_path / "base", tiny_tokenizer(LLAMA_LIKE))
    adapter = write_adapter(tmp_path / "adapter", base, str(base))
    expected = score(rmw, str(adapter), tmp_path)

    answer = rmw("import", str(adapter), "tuned", "--json")

    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["base"] == str(base)
    base.rename(tmp_path / "gone")
    assert score(rmw, "tuned_checkpoint", tmp_path) == pytest.approx(expected, abs=1e-5)


def test_what_is_no_reward_model_or_no_name_is_refused(rmw: Rmw, project: Project, tmp_path: Path):
    base = write_tiny_model(tmp_path / "base", tiny_tokenizer(LLAMA_LIKE))
    assert "has no reward head" in rmw("import", str(base), "mine").error
    assert "NAME 'My model': take small letters" in rmw("import", str(base), "My model").error
    assert "NAME 'toy' is a recipe" in rmw("import", str(base), "toy").error
    assert "no such folder" in rmw("import", str(tmp_path / "nowhere"), "mine").error
    assert project.published() == []


def test_an_imported_model_is_neither_pushed_nor_reported_on(rmw: Rmw, project: Project, tmp_path: Path):
    rmw("import", str(write_checkpoint(tmp_path / "model")), "mine")

    for verb in (("push", "mine_checkpoint", "me/mine"), ("report", "mine_checkpoint")):
        assert "nothing is known of its data and training" in rmw(*verb).error
