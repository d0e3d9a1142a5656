import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.errors import UserError
from rm_workflow.evaluation import parts
from rm_workflow.evaluation.batching import Pass, Tree
from rm_workflow.evaluation.items import RowError
from rm_workflow.evaluation.parts import Parts
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.models import attention, reward_model
from rm_workflow.models.tokens import Encoder
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.evaluation.killing import kill_at, killed_in_a_fork
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


def pairs_of_sequences(num_pairs: int, vocabulary: int = 260, longest: int = 40) -> list[list[int]]:
    """Chosen and rejected in turn; two pairs to a prompt, and all begin with the words of a template."""
    rng = random.Random(1)
    found = []
    for n in range(num_pairs):
        if n % 2 == 0:
            prompt = [6, 7, 8] + [rng.randrange(6, vocabulary) for _ in range(rng.randint(1, longest))]
        found += [prompt + [rng.randrange(6, vocabulary) for _ in range(rng.randint(1, longest))] for _ in range(2)]
    return found


@dataclass(frozen=True)
class Difference:
    """How far two scorings of the same pairs lie apart.

    Attributes:
        flips: pairs whose winner changes although the margin is at least the tolerance in one of the two.
        near_flips: pairs whose winner changes within the tolerance.
    """

    largest: float
    flips: int
    near_flips: int


def difference(found: np.ndarray, expected: np.ndarray) -> Difference:
    margins = [scores[0::2] - scores[1::2] for scores in (found, expected)]
    flipped = np.sign(margins[0]) != np.sign(margins[1])
    clear = np.maximum(*map(np.abs, margins)) >= TOLERANCE
    counts = int((flipped & clear).sum()), int((flipped & ~clear).sum())
    return Difference(float(np.max(np.abs(found - expected))), *counts)


def every_way(folder: Path, rows: list[list[int]], batch: int = 64) -> dict[str, np.ndarray]:
    """Score in batches of 1, 8 and so many rows, packed and with shared prompts."""
    longest = max(map(len, rows))
    ways = {
        "1": ("alone", 1),
        "8": ("padded", 8 * longest),
        f"{batch}": ("padded", batch * longest),
        "packed": ("packed", 8 * longest),
        "shared": ("shared", 8 * longest),
        "own choice": (None, 8 * longest),
    }
    return {
        name: Scorer.load(folder, layout=layout, batch_tokens=budget).score_ids(rows)
        for name, (layout, budget) in ways.items()
    }


def assert_invariant(folder: Path, rows: list[list[int]]) -> None:
    found = every_way(folder, rows)
    assert np.std(found["1"]) > 0.1
    # fp32 rounds in proportion: scores of SmolLM2 that reach 5 lie up to 3e-5 from those in fp64, in every layout.
    scale = max(1.0, float(np.max(np.abs(found["1"]))))
    for name, scores in found.items():
        measured = difference(scores / scale, found["1"] / scale)
        assert measured.largest <= TOLERANCE, (name, measured)
        assert measured.flips == 0, (name, measured)


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_scores_do_not_depend_on_the_batch(tmp_path: Path, family: str):
    assert_invariant(write_checkpoint(tmp_path, family), pairs_of_sequences(100))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_scores_of_10000_pairs_do_not_depend_on_the_batch(tmp_path: Path, family: str):
    assert_invariant(write_checkpoint(tmp_path, family), pairs_of_sequences(10_000 // len(FAMILIES)))


@pytest.mark.slow(seconds=340)
@pytest.mark.timeout(1200)
def test_fp32_scores_of_smollm2_do_not_depend_on_the_batch(tmp_path: Path, smollm2_folder: Path):
    encoder = Encoder.load(smollm2_folder, TokenRecipe())
    model = reward_model.load_reward_model(smollm2_folder, head_init_std=0.05, pad_token_id=encoder.pad_token_id)
    model.save_pretrained(str(tmp_path))
    encoder.save(tmp_path)

    # Short ones: six ways over longer sequences cost ten minutes on two cores.
    assert_invariant(tmp_path, pairs_of_sequences(300, vocabulary=40_000, longest=24))


def test_a_swapped_winner_is_counted_as_a_flip():
    expected = np.array([1.0, 0.0, 1.0, 1.0 + 4e-6, 0.0, 2.0])
    found = np.array([1.0, 2.0, 1.0, 1.0 - 4e-6, 0.0, 2.0])

    assert difference(found, expected) == Difference(2.0, 1, 1)


def test_deterministic_scores_do_not_depend_on_other_rows_by_a_bit(checkpoint: Path):
    rows = pairs_of_sequences(40)
    order = random.Random(2).sample(range(len(rows)), len(rows))
    expected = Scorer.load(checkpoint, layout="alone").score_ids(rows)

    shuffled = Scorer.load(checkpoint, layout="alone", batch_tokens=7).score_ids([rows[n] for n in order])
    few = Scorer.load(checkpoint, layout="alone").score_ids([rows[3], rows[50]])

    assert np.array_equal(shuffled, expected[order])
    assert np.array_equal(few, expected[[3, 50]])
    # Otherwise the rows would not show it.
    assert not np.array_equal(Scorer.load(checkpoint).score_ids(rows), expected)


def test_scoring_again_gives_the_same_bits_whatever_the_order_of_rows(checkpoint: Path):
    rows = pairs_of_sequences(40)
    scorer = Scorer.load(checkpoint)

    assert np.array_equal(scorer.score_ids(rows)[::-1], scorer.score_ids(rows[::-1]))


def test_prompts_are_shared_without_anyone_saying_which(checkpoint: Path):
    scorer = Scorer.load(checkpoint)
    rows = pairs_of_sequences(20)

    scorer.score_ids(random.Random(3).sample(rows, len(rows)))

    assert scorer.layout == "shared"
    assert scorer.num_computed < 0.8 * sum(map(len, rows))

    scorer.score_ids([[7, 8], [9, 9, 9]])
    assert scorer.layout == "packed"


def test_a_gpu_pads_where_too_few_tokens_would_be_saved_to_pay_for_compiling(checkpoint: Path):
    scorer, many = Scorer.load(checkpoint), [np.arange(2000), np.arange(2000) + 1]
    scorer.device = "cuda"
    planned = [Pass((0, 1), (Tree((0, 1), 1000, 3000),))]

    assert scorer._choose(many, planned)[0] == "padded"


def test_a_body_that_takes_no_segments_is_scored_in_padded_rows_with_a_word(checkpoint: Path):
    rows = pairs_of_sequences(20)
    scorer = Scorer.load(checkpoint)
    scorer.model.set_attn_implementation("eager")

    scores = scorer.score_ids(rows)

    assert (scorer.layout, scorer.layout_reason) == (
        "padded",
        "prompts are not shared: attention eager takes no segments",
    )
    assert difference(scores, Scorer.load(checkpoint).score_ids(rows)).largest <= TOLERANCE


@pytest.mark.parametrize("fault", ["forgets the segments", "refuses them"])
def test_a_layout_that_changes_scores_is_not_taken(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, fault: str, caplog: pytest.LogCaptureFixture
):
    def faulty(batch):
        if fault == "refuses them" and "segments" in batch:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return {}

    rows = pairs_of_sequences(20)
    expected = Scorer.load(checkpoint).score_ids(rows)
    monkeypatch.setattr(attention, "arguments", faulty)
    scorer = Scorer.load(checkpoint)

    assert difference(scorer.score_ids(rows), expected).largest <= TOLERANCE
    assert scorer.layout == "padded"
    assert "layout shared is not taken" in caplog.text


def test_a_body_that_attends_to_padding_is_scored_one_row_at_a_time(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    def sees_padding(model, input_ids, end_index, row_index):
        return original(model, input_ids, end_index, row_index) + (input_ids == 3).sum(dim=1)[:, None]

    original = reward_model.hidden_states
    rows = sequences(10)
    expected = Scorer.load(checkpoint, layout="alone").score_ids(rows)
    monkeypatch.setattr(reward_model, "hidden_states", sees_padding)
    scorer = Scorer.load(checkpoint)

    assert np.array_equal(scorer.score_ids(rows), expected)
    assert scorer.layout == "alone"


def test_a_pass_that_does_not_fit_is_told_in_one_sentence(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    def too_large(*arguments, **others):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(reward_model, "hidden_states", too_large)

    with pytest.raises(UserError, match=r"60 tokens do not fit into the memory of cpu in one pass; lower batch_tokens"):
        Scorer.load(checkpoint, layout="padded").score_ids([[7] * 20, [8] * 20, [9] * 20])


def test_a_scoring_that_was_killed_goes_on_and_gives_the_same_bits(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parts, "SECONDS_A_PART", 0.0)
    rows = pairs_of_sequences(30)
    scorer = Scorer.load(checkpoint, batch_tokens=200)
    expected = scorer.score_ids(rows)
    computed_at_once, scorer.num_computed = scorer.num_computed, 0
    seen: list[int] = []

    killed_in_a_fork(lambda: scorer.score_ids(rows, lambda done, total: kill_at(done, total // 2), Parts(tmp_path)))
    found = scorer.score_ids(rows, lambda done, total: seen.append(done), Parts(tmp_path))

    assert np.array_equal(found, expected)
    assert 0 < scorer.num_computed < 0.7 * computed_at_once
    assert seen[-1] == 60


def test_scores_equal_plain_transformers(checkpoint: Path):
    rows = sequences(20)
    plain = AutoModelForSequenceClassification.from_pretrained(str(checkpoint))
    with torch.inference_mode():
        expected = [plain(input_ids=torch.tensor([row])).logits.item() for row in rows]

    assert Scorer.load(checkpoint).score_ids(rows) == pytest.approx(expected, abs=TOLERANCE)


def test_equal_sequences_are_scored_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    forwarded = []

    def counted(model, input_ids, end_index, row_index):
        forwarded.extend(end_index.tolist())
        return original(model, input_ids, end_index, row_index)

    original = reward_model.hidden_states
    monkeypatch.setattr(reward_model, "hidden_states", counted)
    rows = sequences(10)

    scores = Scorer.load(checkpoint, layout="padded").score_ids([*rows, *rows[::-1], *rows])

    assert len(forwarded) == 10
    assert np.array_equal(scores[:10], scores[20:])
    assert np.array_equal(scores[:10], scores[10:20][::-1])


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


def test_a_prompt_is_cut_to_the_window_where_the_recipe_cuts_and_allows_more(tmp_path: Path):
    recipe = TokenRecipe(template="chatml", max_length=4096, over_length="truncate_prompt_left")
    scorer = Scorer.load(write_checkpoint(tmp_path, recipe=recipe))
    long = [{"role": "user", "content": "Name a river. " * 200}]
    whole = scorer.encoder.encode(long, "The Danube.").input_ids
    assert scorer.window < len(whole) < 4096

    scores, truncated = scorer.score_texts([(long, "The Danube."), (USER, "No.")])

    (prepared,) = scorer.prepare([(long, "The Danube.")])
    assert (truncated, prepared.truncated, prepared.input_ids) == (1, True, whole[-scorer.window :])
    assert scores[0] == pytest.approx(scorer.score_ids([whole[-scorer.window :]])[0], abs=1e-5)
    with pytest.raises(RowError, match=r"row 1: it has \d+ tokens, and the model has 512 positions"):
        scorer.score_texts([(USER, "The Danube. " * 180)])


def test_a_long_row_is_refused_with_its_number_where_the_recipe_drops(checkpoint: Path):
    long = [{"role": "user", "content": "Name a river. " * 40}]

    with pytest.raises(RowError, match=r"row 2: it has \d+ tokens, and the checkpoint's token recipe allows 128"):
        Scorer.load(checkpoint).score_texts([(USER, "No."), (long, "No.")])


def test_a_row_longer_than_the_window_is_refused_by_the_model_and_not_by_its_recipe(tmp_path: Path):
    scorer = Scorer.load(write_checkpoint(tmp_path, recipe=TokenRecipe(template="chatml", max_length=600)))
    reply = "The Danube. " * 180
    assert scorer.window < len(scorer.encoder.encode(USER, reply).input_ids) < 600

    with pytest.raises(RowError, match=r"tokens, and the model has 512 positions \(max_position_embeddings\); shorten"):
        scorer.score_texts([(USER, reply)])


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


def test_linear_weights_kept_in_bf16_give_the_scores_of_autocast(checkpoint: Path):
    rows = sequences(20)
    model = reward_model.load_reward_model(checkpoint)
    ids = [torch.tensor([row]) for row in rows]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = [float(reward_model.rewards(model, row, torch.tensor([row.shape[1] - 1]))) for row in ids]

    assert Scorer.load(checkpoint, precision="bf16", layout="alone").score_ids(rows).tolist() == expected


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
