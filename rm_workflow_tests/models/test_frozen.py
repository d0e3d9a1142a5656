"""Frozen weights held in bf16 change the memory of a LoRA run and no number of it."""

import pytest
import torch
from safetensors.torch import load_file

from rm_workflow.models import frozen
from rm_workflow.models.reward_model import load_reward_model
from rm_workflow.training import building
from rm_workflow_tests.models.tiny import SPECIAL, tiny_tokenizer, write_tiny_model
from rm_workflow_tests.training import toy
from rm_workflow_tests.training.test_resuming import metrics_of

LORA = {"r": 4, "alpha": 8, "dropout": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return the folder of a tiny model whose weights are stored in bf16."""
    tokenizer = tiny_tokenizer(special=[*SPECIAL, "<|endoftext|>"])
    return write_tiny_model(tmp_path_factory.mktemp("bf16"), tokenizer, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def encoder(base):
    from rm_workflow.models.tokens import Encoder

    return Encoder.load(base, toy.TOKENS)


@pytest.fixture(scope="module")
def tokens(encoder, tmp_path_factory):
    return toy.write_tokens(tmp_path_factory.mktemp("tokens"), encoder, toy.rows(22))


def adapted(base, encoder, **values):
    config = toy.resolved(toy.recipe(lora=LORA, **values), encoder, 22, "bf16")
    return building.make_model(config, encoder, base, has_weights=True)


def test_only_a_base_stored_in_bf16_is_held_in_bf16(base, encoder, tmp_path):
    in_fp32 = write_tiny_model(tmp_path / "fp32", tiny_tokenizer())
    assert frozen.is_stored_in_bf16(base)
    assert not frozen.is_stored_in_bf16(in_fp32)
    assert not frozen.is_stored_in_bf16(tmp_path)
    assert not any(isinstance(module, frozen.FrozenLinear) for module in adapted(in_fp32, encoder).modules())


def test_every_frozen_matrix_of_the_body_and_nothing_else_is_bf16(base, encoder):
    weights = {name: weight.dtype for name, weight in adapted(base, encoder).named_parameters()}
    halved = {name for name, dtype in weights.items() if dtype == torch.bfloat16}
    assert halved == {name for name in weights if name.endswith("base_layer.weight")}
    assert len(halved) == 2 * 7
    assert set(weights.values()) == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["without_bias", "with_bias"])
def test_rewards_outside_autocast_are_those_of_fp32_weights_bit_for_bit(family, tmp_path):
    model = load_reward_model(write_tiny_model(tmp_path, tiny_tokenizer(), family, dtype=torch.bfloat16), 0.5, 0, 3)
    ids = torch.randint(6, 300, (3, 40))
    with torch.no_grad():
        before = model(ids).logits
        model.requires_grad_(False)
        frozen.hold_in_bf16(model)
        assert torch.equal(model(ids).logits, before)
        frozen.hold_in_fp32(model)
        assert torch.equal(model(ids).logits, before)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("layout", "family", "values"),
    [
        ("padded", "llama", {}),
        ("packed", "llama", {}),
        ("shared", "llama", {"lora": {**LORA, "dropout": 0.0}}),
        ("padded", "qwen2", {"activation_checkpointing": True}),
        ("packed", "gemma", {"lora": {**LORA, "target_modules": ["q_proj", "v_proj"]}}),
    ],
    ids=["padded", "packed", "shared", "qwen2_with_activation_checkpointing", "gemma_with_two_of_seven_modules"],
)
def test_a_run_is_the_same_bit_for_bit(layout, family, values, encoder, tokens, tmp_path, monkeypatch):
    # transformers adds Qwen2's own pad to a tokenizer without it.
    tokenizer = tiny_tokenizer(special=[*SPECIAL, "<|endoftext|>"])
    base = write_tiny_model(tmp_path / "base", tokenizer, family, dtype=torch.bfloat16)
    values = {"lora": LORA, "epochs": 2, "learning_rate": 5e-3, "logging_steps": 1, **values}
    recipe = toy.recipe(layout=layout, **values)
    config = toy.resolved(recipe, encoder, 22, "bf16")
    for held in (True, False):
        out = tmp_path / str(held)
        out.mkdir()
        monkeypatch.setattr(building, "holds_bf16", lambda *_, held=held: held)
        run_config = toy.write_run_config(tmp_path / "run_config.json", config)
        assert toy.train(run_config, tokens, base, out)["layout"] == layout
    ours, theirs = (metrics_of(tmp_path / str(held)) for held in (True, False))
    assert ours == theirs
    assert ours[-1]["loss"] < ours[0]["loss"]
    for part in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = (load_file(tmp_path / str(held) / part) for held in (True, False))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
