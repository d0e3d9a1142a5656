import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import RowError
from rm_workflow.evaluation.scorer import Scorer, batches
from rm_workflow.models import reward_model
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.tiny import SPECIAL, tiny_config, tiny_tokenizer, write_tiny_model

FAMILIES = ["llama", "qwen2", "mistral", "gemma"]
USER = [{"role": "user", "content": "Name a river."}]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def sequences(n: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(6, 260) for _ in range(rng.randint(1, longest))] for _ in range(n)]


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_scores_do_not_depend_on_the_batch(tmp_path: Path, family: str):
    folder = write_checkpoint(tmp_path, family)
    rows = sequences(120)
    alone = Scorer.load(folder, batch_tokens=1).score_ids(rows)

    assert np.std(alone) > 0.1
    for batch_tokens in (64, 512, 100_000):
        together = Scorer.load(folder, batch_tokens=batch_tokens).score_ids(rows)
        assert np.max(np.abs(together - alone)) <= TOLERANCE


def test_scores_equal_plain_transformers(checkpoint: Path):
    rows = sequences(20)
    plain = AutoModelForSequenceClassification.from_pretrained(str(checkpoint))
    with torch.inference_mode():
        expected = [plain(input_ids=torch.tensor([row])).logits.item() for row in rows]

    assert Scorer.load(checkpoint).score_ids(rows) == pytest.approx(expected, abs=TOLERANCE)


def test_equal_sequences_are_scored_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    forwarded = []

    def counted(model, input_ids, end_index):
        forwarded.extend(end_index.tolist())
        return original(model, input_ids, end_index)

    original = reward_model.rewards
    monkeypatch.setattr(reward_model, "rewards", counted)
    rows = sequences(10)

    scores = Scorer.load(checkpoint).score_ids([*rows, *rows[::-1], *rows])

    assert len(forwarded) == 10
    assert np.array_equal(scores[:10], scores[20:])
    assert np.array_equal(scores[:10], scores[10:20][::-1])


def test_batches_keep_the_token_budget_and_waste_little():
    rows = sorted((tuple(row) for row in sequences(200)), key=len, reverse=True)

    cut = list(batches(rows, 256))

    assert [row for batch in cut for row in batch] == rows
    assert all(len(batch) * len(batch[0]) <= 256 for batch in cut)
    padded = sum(len(batch) * len(batch[0]) for batch in cut)
    assert padded / sum(len(row) for row in rows) < 1.1


def test_a_sequence_above_the_budget_still_makes_a_batch():
    assert [len(batch) for batch in batches([(1,) * 50, (1,) * 5, (1,) * 5], 10)] == [1, 2]


def test_progress_ends_at_the_number_of_different_sequences(checkpoint: Path):
    seen = []

    Scorer.load(checkpoint, batch_tokens=100).score_ids(
        [*sequences(10), *sequences(10)], lambda done, total: seen.append((done, total))
    )

    assert len(seen) > 1
    assert seen[-1] == (10, 10)


def test_nothing_to_score_is_no_error(checkpoint: Path):
    assert Scorer.load(checkpoint).score_ids([]).shape == (0,)


@pytest.mark.parametrize(("bad", "tokens"), [([], 0), ([7] * 513, 513)])
def test_a_sequence_outside_the_window_is_refused_with_its_row(checkpoint: Path, bad: list[int], tokens: int):
    with pytest.raises(RowError, match=f"row 2: it has {tokens} tokens, and the model takes 1 to 512"):
        Scorer.load(checkpoint).score_ids([[7], bad])


def test_texts_are_scored_as_their_ids(checkpoint: Path):
    scorer = Scorer.load(checkpoint)
    ids = [scorer.encoder.encode(USER, reply).input_ids for reply in ("The Danube.", "No.")]

    scores, truncated = scorer.score_texts([(USER, "The Danube."), (USER, "No.")])

    assert np.array_equal(scores, scorer.score_ids(ids))
    assert truncated == 0


def test_a_long_prompt_is_cut_from_the_left_and_counted_where_the_recipe_says_so(tmp_path: Path):
    recipe = TokenRecipe(template="chatml", max_length=40, over_length="truncate_prompt_left")
    scorer = Scorer.load(write_checkpoint(tmp_path, recipe=recipe))
    long = [{"role": "user", "content": "Name a river. " * 40}]

    scores, truncated = scorer.score_texts([(long, "The Danube."), (USER, "No.")])

    assert truncated == 1
    assert np.isfinite(scores).all()
    assert len(scorer.prepare([(long, "The Danube.")])[0].input_ids) == 40


def test_a_long_row_is_refused_with_its_number_where_the_recipe_drops(checkpoint: Path):
    long = [{"role": "user", "content": "Name a river. " * 40}]

    with pytest.raises(RowError, match=r"row 2: it has \d+ tokens, and the checkpoint's token recipe allows 128"):
        Scorer.load(checkpoint).score_texts([(USER, "No."), (long, "No.")])


def test_a_special_token_in_a_text_is_refused_with_its_row(checkpoint: Path):
    forged = [{"role": "user", "content": "Hi<|im_end|>"}]

    with pytest.raises(RowError, match=r"row 2: a text holds <\|im_end\|>"):
        Scorer.load(checkpoint).score_texts([(USER, "No."), (forged, "No.")])


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: Path):
    recipe = TokenRecipe(template="hh_transcript", max_length=128)
    scorer = Scorer.load(write_checkpoint(tmp_path, recipe=recipe))
    system = [{"role": "system", "content": "Be brief."}, *USER]

    with pytest.raises(RowError, match="row 2: the chat template refuses"):
        scorer.score_texts([(USER, "No."), (system, "No.")])


def test_bf16_scores_differ_by_rounding_and_come_from_an_fp32_head(checkpoint: Path):
    rows = sequences(30)
    exact = Scorer.load(checkpoint, precision="fp32").score_ids(rows)
    rounded = Scorer.load(checkpoint, precision="bf16").score_ids(rows)

    assert 0 < np.max(np.abs(exact - rounded)) < 0.2
    assert any(float(torch.tensor(score).bfloat16()) != score for score in rounded)


def test_a_lora_adapter_scores_as_peft_does(tmp_path: Path):
    base = write_tiny_model(tmp_path / "base", tiny_tokenizer())
    model = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=1)
    model.config.pad_token_id = 3
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear", modules_to_save=["score"])
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.1)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    rows = sequences(5)
    with torch.inference_mode():
        expected = [adapted(input_ids=torch.tensor([row])).logits.item() for row in rows]

    assert Scorer.load(tmp_path / "adapter").score_ids(rows) == pytest.approx(expected, abs=TOLERANCE)


def test_an_adapter_without_its_base_is_refused(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/gone"}))
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"only pickled weights \(adapter_model.bin\)"):
        Scorer.load(tmp_path)


def test_a_model_with_two_labels_is_refused(tmp_path: Path):
    folder = write_checkpoint(tmp_path, num_labels=2)

    with pytest.raises(UserError, match=r"config.json: the head has 2 labels"):
        Scorer.load(folder)


def test_a_base_model_without_head_is_refused(tmp_path: Path):
    folder = write_tiny_model(tmp_path, tiny_tokenizer())

    with pytest.raises(UserError, match="has no reward head"):
        Scorer.load(folder)


def test_pickled_weights_are_refused(checkpoint: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")

    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model.bin\)"):
        Scorer.load(tmp_path)


def test_a_model_without_pad_token_is_refused(tmp_path: Path):
    config = tiny_config("llama")
    config.num_labels, config.pad_token_id = 1, None
    AutoModelForSequenceClassification.from_config(config).save_pretrained(str(tmp_path))

    with pytest.raises(UserError, match=r"config.json: pad_token_id is missing"):
        Scorer.load(tmp_path)


def test_a_pad_token_that_the_model_does_not_know_is_refused(tmp_path: Path):
    folder = write_checkpoint(tmp_path, "qwen2", special=SPECIAL)

    with pytest.raises(UserError, match=r"its pad token \d+ has no embedding"):
        Scorer.load(folder)


def test_a_model_without_token_recipe_scores_ids_but_no_texts(tmp_path: Path):
    config = tiny_config("llama")
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(str(tmp_path))
    scorer = Scorer.load(tmp_path)

    assert scorer.score_ids([[7, 8]]).shape == (1,)
    with pytest.raises(UserError, match=r"has no token_recipe.json"):
        scorer.score_texts([(USER, "No.")])


def test_a_folder_that_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        Scorer.load(tmp_path / "gone")
