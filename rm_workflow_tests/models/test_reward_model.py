import copy
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from rm_workflow.errors import UserError
from rm_workflow.models import reward_model
from rm_workflow.models.reward_model import (
    head_module,
    keep_head_fp32,
    load_reward_model,
    resolve_device,
    resolve_precision,
    rewards,
)
from rm_workflow_tests.models.tiny import tiny_config, tiny_tokenizer, write_tiny_model

ARCHITECTURES = ["llama", "qwen2", "mistral", "gemma"]
LENGTHS = [12, 7, 1, 9]
PAD = 3


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("llama"), tiny_tokenizer())


def tiny_classifier(model_type: str):
    torch.manual_seed(1)
    config = tiny_config(model_type)
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config).eval()


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return right-padded random ids and the end indices of four rows."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(4, 400, (length,), generator=generator)
    return ids, torch.tensor(LENGTHS) - 1


def mask_of(ids: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Return the mask that plain transformers takes, 0 at padding."""
    return (torch.arange(ids.shape[1]) <= end[:, None]).long()


def lora(model):
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    wrapped = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.1)
    return wrapped


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("wrap", [lambda model: model, lora], ids=["plain", "peft"])
def test_rewards_equal_plain_transformers_pooling(model_type: str, wrap) -> None:
    model = wrap(tiny_classifier(model_type))
    ids, end = padded_batch()
    with torch.inference_mode():
        plain = model(input_ids=ids, attention_mask=mask_of(ids, end)).logits.squeeze(-1)
        ours = rewards(model, ids, end)
    assert ours.dtype == torch.float32
    assert ours.std() > 1e-4
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


def test_merged_lora_gives_the_rewards_of_the_adapter() -> None:
    wrapped = lora(tiny_classifier("llama"))
    batch = padded_batch()
    with torch.inference_mode():
        before = rewards(wrapped, *batch)
        merged = wrapped.merge_and_unload()
        torch.testing.assert_close(rewards(merged, *batch), before, rtol=0, atol=1e-5)


def test_the_end_index_decides_not_the_pad_token() -> None:
    """A reply that ends in the pad token is pooled one token early by plain transformers."""
    model = tiny_classifier("llama")
    ids, end = padded_batch()
    ids[0, LENGTHS[0] - 1] = PAD
    with torch.inference_mode():
        hidden = model.model(ids[:1], attention_mask=mask_of(ids, end)[:1]).last_hidden_state
        ours = rewards(model, ids, end)[0]
        plain = model(input_ids=ids, attention_mask=mask_of(ids, end)).logits[0, 0]
        expected = model.score(hidden[0, -1])[0]
    torch.testing.assert_close(ours, expected)
    assert abs(ours - plain) > 1e-4


def test_padding_never_changes_a_reward() -> None:
    model = tiny_classifier("llama")
    ids, end = padded_batch()
    with torch.inference_mode():
        together = rewards(model, ids, end)
        alone = torch.cat([rewards(model, ids[i : i + 1, :n], end[i : i + 1]) for i, n in enumerate(LENGTHS)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_head_and_rewards_stay_fp32_under_bf16_autocast() -> None:
    model = tiny_classifier("llama")
    batch = padded_batch()
    seen: list[torch.dtype] = []
    model.score.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.inference_mode():
        exact = rewards(model, *batch)
        seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = rewards(model, *batch)
    assert seen == [torch.float32, torch.float32]
    assert mixed.dtype == torch.float32
    # The body really ran in bf16, and a reward is no bf16 number.
    assert not torch.equal(mixed, exact)
    assert not torch.equal(mixed, mixed.bfloat16().float())


def test_a_bf16_body_keeps_an_fp32_head() -> None:
    model = tiny_classifier("llama").to(torch.bfloat16)
    with torch.inference_mode(), pytest.raises((RuntimeError, ValueError)):
        rewards(model, *padded_batch())
    keep_head_fp32(model)
    with torch.inference_mode():
        assert rewards(model, *padded_batch()).dtype == torch.float32


def test_rewards_carry_gradients_to_body_and_head() -> None:
    model = tiny_classifier("llama")
    rewards(model, *padded_batch()).sum().backward()
    assert model.score.weight.grad.abs().sum() > 0
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_two_labels_are_refused() -> None:
    config = tiny_config("llama")
    config.num_labels = 2
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ValueError, match="one fp32 number"):
        rewards(model, *padded_batch())


def test_a_fresh_head_is_seeded_and_of_the_stated_size(llama_folder: Path) -> None:
    torch.manual_seed(5)
    first = head_module(load_reward_model(llama_folder, None, seed=7)).weight
    torch.manual_seed(6)
    again = head_module(load_reward_model(llama_folder, None, seed=7)).weight
    other = head_module(load_reward_model(llama_folder, None, seed=8)).weight
    wide = head_module(load_reward_model(llama_folder, 1.0, seed=7)).weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(wide / first, torch.full_like(wide, 33.0))
    assert first.dtype == torch.float32
    assert 0.5 < wide.std() < 1.5


def test_a_saved_head_is_kept_and_the_pad_stands_in_the_config(llama_folder: Path, tmp_path: Path) -> None:
    model = load_reward_model(llama_folder, None, seed=7, pad_token_id=0)
    model.save_pretrained(str(tmp_path))
    again = load_reward_model(tmp_path, None, seed=99)
    assert torch.equal(head_module(again).weight, head_module(model).weight)
    assert again.config.pad_token_id == 0
    assert again.config.num_labels == 1


def test_missing_weights_are_told(llama_folder: Path, tmp_path: Path) -> None:
    model = copy.deepcopy(load_reward_model(llama_folder))
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    model.save_pretrained(str(tmp_path), state_dict=weights)
    with pytest.raises(UserError, match=r"1 weights are missing.*up_proj"):
        load_reward_model(tmp_path)


def test_a_folder_without_safetensors_is_told(tmp_path: Path) -> None:
    tiny_config("llama").save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded as a reward model"):
        load_reward_model(tmp_path)


def test_precision_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_model, "has_bf16", lambda device: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert resolve_precision("auto", "cpu") == "bf16"
    assert resolve_precision("fp32", "cpu") == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for vendor, faster in (("AuthenticAMD", "bf16"), ("GenuineIntel", "fp32"), ("", "fp32")):
        monkeypatch.setattr(reward_model, "_cpu", lambda vendor=vendor: f"vendor_id : {vendor}")
        assert resolve_precision("auto", "cpu") == faster
        assert resolve_precision("bf16", "cpu") == "bf16"
    monkeypatch.setattr(reward_model, "has_bf16", lambda device: False)
    assert resolve_precision("auto", "cpu") == "fp32"
    with pytest.raises(UserError, match="precision bf16 is asked for"):
        resolve_precision("bf16", "cpu")


def test_emulated_bf16_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not reward_model.has_bf16("cpu")
    assert not reward_model.prefers_bf16("cpu")


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match="no CUDA device"):
        resolve_device("cuda")


def test_a_base_with_a_head_of_two_labels_is_refused_by_name_and_shape(tmp_path):
    from transformers import AutoModelForSequenceClassification

    base = write_tiny_model(tmp_path / "base", tiny_tokenizer())
    two = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=2)
    two.save_pretrained(str(tmp_path / "two"))
    told = r"two: its weight score\.weight is \[2, 32\] where .* has \[1, 32\]; take a model whose head"
    with pytest.raises(UserError, match=told):
        load_reward_model(tmp_path / "two")


def test_an_embedding_of_another_size_is_told_without_blaming_the_head(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.deepcopy(load_reward_model(llama_folder)).save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 64, "head_dim": 16}))
    words = logging.getLogger("transformers")
    monkeypatch.setattr(words, "handlers", [caplog.handler])
    monkeypatch.setattr(words, "level", logging.WARNING)

    with pytest.raises(UserError, match=r"embed_tokens\.weight is \[\d+, 32\] .*; put back the config\.json of these"):
        load_reward_model(tmp_path)

    assert caplog.messages == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": ', r"config\.json: it is no JSON \(.*\); fetch or save the model again"),
        ("[1]", r"config\.json: it is no JSON object"),
        ('{"model_type": "llama", "hidden_size": "sixteen"}', r"config\.json: .*'hidden_size'.*sixteen.*; mend it"),
        (
            '{"model_type": "llama", "pad_token_id": 99999}',
            r"cannot be loaded as a reward model \(AssertionError: .*mend",
        ),
    ],
)
def test_a_broken_config_is_told_in_one_sentence(llama_folder: Path, tmp_path: Path, text: str, said: str) -> None:
    shutil.copytree(llama_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(UserError, match=said):
        load_reward_model(tmp_path)


def test_loading_leaves_the_words_of_transformers_as_they_were(llama_folder: Path) -> None:
    words = logging.getLogger("transformers")
    before = words.level
    words.setLevel(logging.INFO)
    try:
        load_reward_model(llama_folder)
        assert words.level == logging.INFO
    finally:
        words.setLevel(before)
