"""Token recipes of models that came without one."""

from pathlib import Path

import pytest

from rm_workflow.errors import UserError
from rm_workflow.models.published import load_encoder, published
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_tokenizer

WINDOW = 512
TALK = [{"role": "user", "content": "Name a river."}]
BOS = "<s>"


def rendered(folder: Path, hub_id: str | None, template: str | None = LLAMA_LIKE) -> str:
    """The conversation as a model with this hub id reads it, special tokens spelt out."""
    tokenizer = tiny_tokenizer(template, adds_bos=True)
    tokenizer.save_pretrained(str(folder))
    encoder, _ = load_encoder(folder, hub_id, WINDOW, 3, "the model")
    return str(encoder.tokenizer.decode(encoder.encode(TALK, "The Danube.").input_ids))


@pytest.mark.parametrize(
    "hub_id",
    [
        "weqweasdas/RM-Mistral-7B",
        "sfairXC/FsfairX-LLaMA3-RM-v0.1",
        "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2",
        "Skywork/Skywork-Reward-Gemma-2-27B",
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B",
        "allenai/Llama-3.1-Tulu-3-8B-RM",
        "allenai/Llama-3.1-70B-Instruct-RM-RB2",
        "usama10/qwen-7b-reward-model",
    ],
)
def test_well_known_reward_models_are_in_the_table(hub_id: str):
    assert published(hub_id)


@pytest.mark.parametrize("hub_id", [None, "org/RM-Mistral-7B", "weqweasdas/RM-Mistral-7B-v2", "allenai/Llama-3.1-8B"])
def test_other_models_are_not(hub_id: str | None):
    assert published(hub_id) is None


def test_one_bos_stands_in_front_where_the_published_model_has_one(tmp_path: Path):
    assert rendered(tmp_path, "weqweasdas/RM-Mistral-7B").count(BOS) == 1


def test_the_template_without_bos_gets_the_tokenizers(tmp_path: Path):
    template = LLAMA_LIKE.replace("{{ bos_token }}", "")

    assert rendered(tmp_path, "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2", template).startswith(BOS + "[user]")


def test_fsfairx_reads_no_bos_though_template_and_tokenizer_have_one(tmp_path: Path):
    assert rendered(tmp_path, "sfairXC/FsfairX-LLaMA3-RM-v0.1").startswith("[user] Name a river.")


def test_the_hh_adapter_reads_the_text_of_a_transcript(tmp_path: Path):
    text = rendered(tmp_path, "usama10/qwen-7b-reward-model", None)

    assert text == f"{BOS}\n\nHuman: Name a river.\n\nAssistant: The Danube.</s>"


def test_an_unknown_model_is_guessed_from_its_template_up_to_its_window(tmp_path: Path):
    tiny_tokenizer(LLAMA_LIKE).save_pretrained(str(tmp_path))

    encoder, origin = load_encoder(tmp_path, "org/model", WINDOW, 5, "the model")

    assert origin == "guessed"
    assert (encoder.recipe.max_length, encoder.recipe.over_length) == (WINDOW, "truncate_prompt_left")
    assert encoder.pad_token_id == 5


def test_a_published_length_within_the_window_is_kept(tmp_path: Path):
    tiny_tokenizer(LLAMA_LIKE).save_pretrained(str(tmp_path))

    encoder, origin = load_encoder(tmp_path, "weqweasdas/RM-Mistral-7B", 32768, None, "the model")

    assert (origin, encoder.recipe.max_length) == ("published", 4096)


def test_without_a_template_there_is_nothing_to_guess_from(tmp_path: Path):
    tiny_tokenizer(None).save_pretrained(str(tmp_path))

    with pytest.raises(UserError, match=r"the model has no token_recipe.json and its tokenizer no chat template"):
        load_encoder(tmp_path, None, WINDOW, 3, "the model")
