"""Model folders and training states of strangers: nothing in them runs, whatever stands in place of weights.

A payload would leave its mark in the working folder.
"""

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rm_workflow.errors import UserError
from rm_workflow.models.base import check_model_folder
from rm_workflow.models.loading import LoadedCheckpoint, load_checkpoint
from rm_workflow.models.reward_model import load_reward_model
from rm_workflow.training.training_state import newest_whole
from rm_workflow_tests import hostile
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.test_loading import write_adapter
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_tokenizer, write_tiny_model

# Names that transformers, peft and the Trainer unpickle where they look for them.
PICKLE_NAMES = (
    *("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt"),
    *(
        "rng_state.pth",
        "rng_state_0.pth",
        "scaler.pt",
        "model.pkl",
        "pytorch_model.bin.index.json",
        "random_states_0.pkl",
    ),
)
CODE = f"import os; os.makedirs({hostile.CANARY!r})\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reward model, in a working folder where a payload would leave its mark."""
    monkeypatch.chdir(tmp_path)
    # torch would refuse most payloads by itself, but no pickle is to come as far as that.
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was opened"))
    return write_checkpoint(tmp_path / "model")


def load(folder: Path) -> LoadedCheckpoint:
    """Load as the scorer does; fails where anything was written or run."""
    place = folder.parent
    with hostile.fence(place):
        return load_checkpoint(folder)


def refusal(folder: Path) -> str:
    with hostile.fence(folder.parent), pytest.raises(UserError) as told:
        load_checkpoint(folder)
    sentence = str(told.value)
    assert "\n" not in sentence
    return sentence


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_payload_would_leave_its_mark(model: Path):
    pickle.loads(hostile.PICKLED)
    assert Path(hostile.CANARY).is_dir()


def test_pickles_beside_whole_weights_are_not_opened(model: Path):
    for name in PICKLE_NAMES:
        (model / name).write_bytes(hostile.PICKLED)
    assert load(model).model.config.num_labels == 1


def test_pickles_in_place_of_weights_are_refused(model: Path):
    (model / "model.safetensors").unlink()
    for name in PICKLE_NAMES:
        (model / name).write_bytes(hostile.PICKLED)
    assert "only pickled weights" in refusal(model)


def test_pickled_weights_beside_a_decoy_are_not_opened(model: Path):
    (model / "model.safetensors").rename(model / "decoy.safetensors")
    (model / "pytorch_model.bin").write_bytes(hostile.PICKLED)
    assert "cannot be loaded as a reward model" in refusal(model)


def test_a_pickled_adapter_beside_a_decoy_is_refused(model: Path, tmp_path: Path):
    base = write_tiny_model(tmp_path / "base", tiny_tokenizer(LLAMA_LIKE))
    adapter = write_adapter(tmp_path / "adapter", base, str(base))
    (adapter / "adapter_model.safetensors").rename(adapter / "decoy.safetensors")
    (adapter / "adapter_model.bin").write_bytes(hostile.PICKLED)
    assert "has no adapter_model.safetensors; save the adapter as safetensors there" in refusal(adapter)


@pytest.mark.parametrize("weights", hostile.WEIGHTS)
def test_weights_that_lie_about_themselves_are_refused(model: Path, weights: str):
    (model / "model.safetensors").write_bytes(hostile.WEIGHTS[weights])
    assert "model.safetensors: it is no whole safetensors file" in refusal(model)


def test_an_index_that_names_files_elsewhere_is_refused(model: Path, tmp_path: Path):
    save_file({"score.weight": torch.zeros(1, 32)}, model / "decoy.safetensors")
    (model / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"score.weight": "../outside.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names '../outside.safetensors', which is no file of the folder" in refusal(model)


def test_code_of_a_models_own_is_refused_and_never_imported(model: Path):
    (model / "modeling_intruder.py").write_text(CODE)
    change(model / "config.json", auto_map={"AutoModelForSequenceClassification": "modeling_intruder.Model"})
    assert "has auto_map" in refusal(model)
    # Whoever comes past this refusal finds that transformers takes its own class.
    with hostile.fence(model.parent), suppress(UserError):
        load_reward_model(model)


def test_code_of_a_tokenizers_own_is_never_imported(model: Path):
    (model / "tokenization_intruder.py").write_text(CODE)
    own = {"AutoTokenizer": ["tokenization_intruder.Own", "tokenization_intruder.Own"]}
    for unknown in ({}, {"tokenizer_class": "Own"}):
        change(model / "tokenizer_config.json", auto_map=own, **unknown)
        with hostile.fence(model.parent), suppress(UserError):
            load_checkpoint(model)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_repository_of_kernels_is_refused(model: Path, key: str):
    change(model / "config.json", **{key: "intruder/kernels"})
    assert f"{key} names a repository, whose code is never run" in refusal(model)
    with pytest.raises(UserError, match=f"{key} names a repository"):
        check_model_folder(model, "model")


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "../../intruder"},
        {"model_type": "intruder"},
        {"hidden_size": 2**62},
        {"vocab_size": 2**62},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 10**9},
        {"hidden_size": None},
        {"torch_dtype": "intruder", "dtype": "intruder"},
        {"architectures": ["os.system"], "model_type": 5},
    ],
)
def test_a_config_that_lies_is_one_sentence(model: Path, values: dict[str, object]):
    change(model / "config.json", **values)
    refusal(model)


def test_a_deep_config_is_one_sentence(model: Path):
    (model / "config.json").write_text('{"a": ' + "[" * hostile.DEEP)
    assert "it is no JSON" in refusal(model)


def test_links_out_of_a_folder_are_read_as_files_of_the_hubs_cache_are_and_nothing_is_written_there(
    model: Path, tmp_path: Path
):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(model.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(os.path.relpath(blobs / path.name, model))
    assert load(model).model.config.num_labels == 1
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("/etc/passwd")
    assert "root:" not in refusal(model)


def write_state(states: Path, step: int) -> Path:
    from rm_workflow_tests.training.test_training_state import write

    return write(states, step)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_that_is_slipped_into_a_training_state_refuses_the_state(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    older, newer = write_state(tmp_path, 1), write_state(tmp_path, 2)
    (newer / name).write_bytes(hostile.PICKLED)
    said: list[str] = []
    found = newest_whole(tmp_path, said.append)
    assert found is not None
    assert found.folder == older
    assert f"{name} is not in its COMPLETE.json" in said[0]
    assert not Path(hostile.CANARY).exists()
