"""The saved folders, loaded as the published systems' cards load theirs; every comparison is in fp32."""

import json

import pytest
import torch

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.models.reward_model import head_module, load_reward_model, rewards
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import reloading, saving
from rm_workflow.training.layouts import padded_batch
from rm_workflow.training.trainer import add_lora
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_tokenizer, write_tiny_model

MESSAGES = [{"role": "user", "content": "Name a river."}]
REPLY = "The Danube."
DIALOGUE = [*MESSAGES, {"role": "assistant", "content": "The Danube."}, {"role": "user", "content": "Is it long?"}]
# The string of the Qwen2.5-7B reward model's card: bare marks, no template, no end token.
CARD_TEXT = "Human: What is the capital of France?\n\nAssistant: Paris is the capital of France."


def reward_of(model, ids):
    with torch.no_grad():
        return rewards(model.eval(), torch.tensor([ids]), torch.tensor([len(ids) - 1])).item()


def save_and_prove(model, encoder, base, save_dtype, probe, out):
    before = saving.trained_rewards(model, probe)
    saving.save(model, encoder, save_dtype, out)
    return saving.prove(out, base, encoder.pad_token_id, save_dtype, probe, before, reloading.here, print)


@pytest.fixture(scope="module")
def saved(tiny_base, encoder, pairs, tmp_path_factory):
    """Return the folder of a LoRA checkpoint with weights far from their start, its proof and its own rewards."""
    out = tmp_path_factory.mktemp("saved")
    torch.manual_seed(3)
    model = add_lora(
        load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id),
        {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"},
        str(tiny_base),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    texts = {"template": encoder.render(MESSAGES, REPLY), "card": CARD_TEXT}
    own = {
        name: reward_of(model, encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
        for name, text in texts.items()
    }
    probe = padded_batch(pairs, range(8), encoder.pad_token_id)
    proof = save_and_prove(model, encoder, tiny_base, "float32", probe, out)
    return out, proof, texts, own


def test_the_proof_of_a_saved_lora_checkpoint_states_its_differences(saved):
    _, proof, _, _ = saved
    assert proof["passed"]
    assert proof["num_responses"] == 16
    assert proof["max_difference"] <= 1e-5
    assert proof["adapter_max_difference"] <= 1e-5
    assert 0 < proof["bf16_max_difference"] < 0.5


def test_the_adapter_loads_as_on_the_qwen_card_and_gives_our_reward_of_the_bare_card_text(saved, tiny_base):
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    out, _, texts, own = saved
    assert PeftConfig.from_pretrained(str(out / "adapter")).base_model_name_or_path == str(tiny_base)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = AutoModelForSequenceClassification.from_pretrained(str(tiny_base), num_labels=1, dtype=dtype)
        model = PeftModel.from_pretrained(base, str(out / "adapter")).eval()
        inputs = AutoTokenizer.from_pretrained(str(tiny_base))(texts["card"], return_tensors="pt", truncation=True)
        with torch.no_grad():
            found[dtype] = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.item()
    print(f"adapter on the card's text: bf16 differs by {abs(found[torch.bfloat16] - found[torch.float32]):.1e}")
    assert found[torch.float32] == pytest.approx(own["card"], abs=1e-5)


def test_the_merged_model_loads_by_pipeline_and_gives_our_reward_of_the_rendered_template(saved, encoder):
    from transformers import AutoTokenizer, pipeline

    out, _, texts, own = saved
    folder = str(out / "model")
    # The string it is fed: the saved tokenizer's own template, rendered.
    conversation = [*MESSAGES, {"role": "assistant", "content": REPLY}]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(conversation, tokenize=False)
    assert text == texts["template"]
    scores = {
        dtype: pipeline("text-classification", model=folder, dtype=dtype)(text, function_to_apply="none")[0]["score"]
        for dtype in (torch.float32, torch.bfloat16)
    }
    print(f"pipeline: bf16 differs by {abs(scores[torch.bfloat16] - scores[torch.float32]):.1e}")
    assert scores[torch.float32] == pytest.approx(own["template"], abs=1e-5)
    assert Encoder.from_checkpoint(out / "model").encode(MESSAGES, REPLY) == encoder.encode(MESSAGES, REPLY)


@pytest.mark.parametrize(
    ("template", "adds_bos"), [("native", True), ("chatml", False)], ids=["rm_mistral_7b", "rm_mistral_7b_mini"]
)
def test_a_checkpoint_loads_as_on_the_rm_mistral_card_and_gives_the_scores_of_our_scorer(template, adds_bos, tmp_path):
    from transformers import AutoTokenizer, pipeline

    tokenizer = tiny_tokenizer(LLAMA_LIKE, adds_bos=adds_bos)
    base = write_tiny_model(tmp_path / "base", tokenizer, "mistral")
    encoder = Encoder.load(base, TokenRecipe(template=template, max_length=256))
    folder = tmp_path / "model"
    saving.save_model(load_reward_model(base, 0.5, 0, encoder.pad_token_id), encoder, "float32", folder)
    # From here on as the card does it, with the names that transformers 5 has for its arguments.
    rm_tokenizer = AutoTokenizer.from_pretrained(str(folder))
    rm_pipe = pipeline(
        "sentiment-analysis",
        model=str(folder),
        device="cpu",
        tokenizer=rm_tokenizer,
        model_kwargs={"dtype": torch.float32},
    )
    replies = ["The Danube.", "Paris is the capital of France.", "No."]
    chats = [[*DIALOGUE, {"role": "assistant", "content": reply}] for reply in replies]
    test_texts = [
        rm_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False).replace(
            rm_tokenizer.bos_token, ""
        )
        for chat in chats
    ]
    outputs = rm_pipe(test_texts, top_k=None, function_to_apply="none", batch_size=1)
    scores, _ = Scorer.load(folder).score_texts([(DIALOGUE, reply) for reply in replies])
    assert len(set(scores)) == len(replies)
    assert [output[0]["score"] for output in outputs] == pytest.approx(scores, abs=1e-5)


def test_the_saved_files_are_safetensors_and_text_and_older_transformers_finds_its_keys(saved, encoder):
    out, _, _, _ = saved
    suffixes = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja"}
    config = json.loads((out / "model" / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert len(config["id2label"]) == 1
    assert config["pad_token_id"] == encoder.pad_token_id
    assert (config["torch_dtype"], config["rope_theta"]) == ("float32", 10_000.0)
    tokenizer = json.loads((out / "model" / "tokenizer_config.json").read_text("utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_full_model_is_saved_in_the_dtype_of_the_recipe(tiny_base, encoder, pairs, tmp_path):
    model = load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id)
    probe = padded_batch(pairs, range(4), encoder.pad_token_id)
    proof = save_and_prove(model, encoder, tiny_base, "bfloat16", probe, tmp_path)
    assert json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))["torch_dtype"] == "bfloat16"
    assert proof["adapter_max_difference"] is None
    assert not (tmp_path / "adapter").exists()
    assert 1e-5 < proof["max_difference"] <= proof["tolerance"]


def test_a_head_that_changes_on_saving_is_found(tiny_base, encoder, pairs, tmp_path, monkeypatch):
    model = load_reward_model(tiny_base, 0.5, 0, encoder.pad_token_id)
    honest = saving.save_model

    def forgets_the_head(model, *rest):
        with torch.no_grad():
            head_module(model).weight.normal_()
        honest(model, *rest)

    monkeypatch.setattr(saving, "save_model", forgets_the_head)
    probe = padded_batch(pairs, range(4), encoder.pad_token_id)
    with pytest.raises(UserError, match="the saved model gives other rewards than the trained model"):
        save_and_prove(model, encoder, tiny_base, "float32", probe, tmp_path)
