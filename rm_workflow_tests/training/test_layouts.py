from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rm_workflow.models import attention
from rm_workflow.models.reward_model import rewards
from rm_workflow.training.data import load_pairs
from rm_workflow.training.layouts import (
    LAYOUTS,
    ONE_ROW,
    StepCollator,
    bundles,
    choose,
    one_row,
    padded_batch,
    token_ratio,
    trees,
    within_budget,
)
from rm_workflow_tests.models.tiny import tiny_config
from rm_workflow_tests.training import toy

ARCHITECTURES = ("llama", "qwen2", "mistral", "gemma")
UNLIMITED = 10**6


@pytest.fixture(scope="module")
def many_pairs(encoder, tmp_path_factory):
    """Prompts of 4, 3 and 2 replies with system and earlier turns, and pairs of every kind that shares little."""
    rows = [*toy.rows_of_prompts(4, 3, 2), *toy.rows(6)]
    pairs = load_pairs(toy.write_tokens(tmp_path_factory.mktemp("many"), encoder, rows))
    ids = [pairs.ids(row).tolist() for row in range(len(pairs.starts) - 1)]
    extending, other_context, repeating, merged = (len(pairs) - n for n in (1, 2, 3, 4))
    ids[pairs.rejected[extending]] = [*ids[pairs.chosen[extending]], 9, 8]
    ids[pairs.rejected[other_context]] = [7, *ids[pairs.chosen[other_context]]]
    ids[pairs.chosen[repeating]] *= 9
    prompt_length = pairs.prompt_length.copy()
    prompt_length[pairs.rejected[merged]] -= 1
    ids[pairs.rejected[merged]][prompt_length[pairs.rejected[merged]]] = 7
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    token_ids = np.concatenate(ids).astype(np.int32)
    return replace(pairs, token_ids=token_ids, starts=starts, prompt_length=prompt_length)


@pytest.fixture(scope="module")
def four_replies(encoder, tmp_path_factory):
    return load_pairs(toy.write_tokens(tmp_path_factory.mktemp("four"), encoder, toy.rows_of_prompts(4)))


def model_of(model_type, encoder, **changes):
    torch.manual_seed(0)
    config = tiny_config(model_type, len(encoder.tokenizer))
    config.num_labels = 1
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.score.weight, 0, 0.5)
    return model


def row_of(pairs, positions, layout, budget=UNLIMITED, multiple=1):
    (bundled,) = StepCollator(pairs, layout, budget, 0).cut(list(bundles(pairs, positions, layout, budget)), budget)
    return one_row(pairs, bundled, 3, multiple)


def loss_and_gradients(model, batches):
    """The loss of a step, whatever its micro-batches."""
    model.zero_grad()
    total, weights = 0.0, sum(batch["weight"].sum() for batch in batches)
    for batch in batches:
        found = rewards(model, batch["input_ids"], batch["end_index"], batch["row_index"], **attention.arguments(batch))
        chosen, rejected = found.chunk(2)
        loss = -(batch["weight"] * torch.nn.functional.logsigmoid(chosen - rejected)).sum() / weights
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def assert_layouts_agree(model, pairs, budget, layouts=LAYOUTS):
    positions = [*range(len(pairs)), 2]
    padded = loss_and_gradients(model, [padded_batch(pairs, positions, 3)])
    attention.use_segments(model, "cpu")
    for layout in layouts:
        step = list(StepCollator(pairs, layout, budget, 3).micro_batches(positions))
        assert sorted(n for batch in step for n in batch["pair"].tolist()) == sorted(positions)
        loss, gradients = loss_and_gradients(model, step)
        assert loss == pytest.approx(padded[0], rel=1e-5), layout
        assert (gradients - padded[1]).norm() <= 1e-5 * padded[1].norm(), layout


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_layout_gives_the_loss_and_gradients_of_the_padded_one(model_type, many_pairs, encoder):
    assert many_pairs.unshared == {"prompt_not_prefix": 1, "other_context": 1}
    model = model_of(model_type, encoder)
    assert_layouts_agree(model, many_pairs, UNLIMITED)
    assert_layouts_agree(model, many_pairs, 300, ONE_ROW)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2"])
def test_a_sliding_window_shorter_than_a_conversation_is_kept_in_every_layout(model_type, many_pairs, encoder):
    assert many_pairs.longest > 24
    changes = {"sliding_window": 24} | ({"attn_logit_softcapping": None} if model_type == "gemma2" else {})
    model = model_of(model_type, encoder, **changes)
    everything = model_of(model_type, encoder, **{**changes, "sliding_window": 4096})
    batch = padded_batch(many_pairs, [0, len(many_pairs) - 3], 3)
    seen = [rewards(found, batch["input_ids"], batch["end_index"]) for found in (model, everything)]
    assert not torch.allclose(*seen, atol=1e-3)
    assert_layouts_agree(model, many_pairs, UNLIMITED)


def test_padding_behind_a_row_changes_nothing(many_pairs, encoder):
    model = model_of("llama", encoder)
    attention.use_segments(model, "cpu")
    plain, filled = (row_of(many_pairs, range(8), "kwise", multiple=multiple) for multiple in (1, 128))
    assert filled["input_ids"].shape[1] % 128 == 0
    assert filled["input_ids"].shape[1] > plain["input_ids"].shape[1]
    assert torch.equal(filled["end_index"], plain["end_index"])
    assert loss_and_gradients(model, [filled])[0] == pytest.approx(loss_and_gradients(model, [plain])[0], rel=1e-6)


def test_a_row_on_a_gpu_has_one_of_eight_lengths(many_pairs):
    collator = StepCollator(many_pairs, "packed", 2048, 3, "cuda")
    lengths = {batch["input_ids"].shape[1] for batch in collator.micro_batches(range(len(many_pairs)))}
    assert all(length % 256 == 0 for length in lengths)


def test_a_padded_batch_holds_chosen_rows_then_rejected_rows_and_where_they_end(pairs, encoder):
    batch = padded_batch(pairs, [4, 1, 9], encoder.pad_token_id)
    for row, (side, position) in enumerate((side, p) for side in ("chosen", "rejected") for p in (4, 1, 9)):
        ids = pairs.ids(getattr(pairs, side)[position])
        assert np.array_equal(batch["input_ids"][row, : len(ids)], ids)
        assert set(batch["input_ids"][row, len(ids) :].tolist()) <= {encoder.pad_token_id}
        assert batch["end_index"][row] == len(ids) - 1
    assert batch["weight"].tolist() == [2.0, 2.0, 1.0]
    assert batch["score_gap"].tolist() == [0.0, 0.5, 0.5]
    assert batch["num_tokens"].tolist() == [sum(pairs.lengths(position)) for position in (4, 1, 9)]


def test_a_shared_row_holds_common_tokens_once_and_counts_positions_on_for_either_side(pairs):
    row = row_of(pairs, [4], "shared")
    chosen, rejected = pairs.ids(pairs.chosen[4]).tolist(), pairs.ids(pairs.rejected[4]).tolist()
    common = pairs.num_common([pairs.chosen[4], pairs.rejected[4]])
    assert common >= pairs.prompt_length[pairs.chosen[4]] > 5
    assert row["input_ids"][0].tolist() == chosen + rejected[common:]
    assert row["position_ids"][0].tolist() == [*range(len(chosen)), *range(common, len(rejected))]
    assert row["segments"].tolist() == [
        [0, common, -1],
        [common, len(chosen), 0],
        [len(chosen), len(chosen) + len(rejected) - common, 0],
    ]
    assert row["end_index"].tolist() == [len(chosen) - 1, len(chosen) + len(rejected) - common - 1]
    assert row["row_index"].tolist() == [0, 0]


def test_packed_responses_lie_side_by_side_with_positions_of_their_own(pairs):
    row = row_of(pairs, [4, 1], "packed")
    sides = [pairs.ids(side[position]).tolist() for position in (4, 1) for side in (pairs.chosen, pairs.rejected)]
    assert row["input_ids"][0].tolist() == [token for side in sides for token in side]
    assert row["position_ids"][0].tolist() == [place for side in sides for place in range(len(side))]
    assert {prefix for _, _, prefix in row["segments"].tolist()} == {-1}


def test_kwise_holds_each_of_four_replies_once_for_all_six_pairs(four_replies):
    row = row_of(four_replies, range(6), "kwise")
    assert len(row["pair"]) == 6
    assert len(row["segments"]) == 5
    assert len(set(row["end_index"].tolist())) == 4
    replies = set(four_replies.chosen.tolist()) | set(four_replies.rejected.tolist())
    common = four_replies.num_common(list(replies))
    assert row["input_ids"].shape[1] == sum(len(four_replies.ids(reply)) for reply in replies) - 3 * common


def test_a_prompt_of_more_tokens_than_the_budget_is_cut_by_pairs(four_replies):
    whole = row_of(four_replies, range(6), "kwise")["input_ids"].shape[1]
    cut = list(bundles(four_replies, range(6), "kwise", whole - 1))
    assert len(cut) > 1
    assert [position for bundle in cut for position in bundle.positions] == list(range(6))
    assert all(bundle.num_tokens < whole for bundle in cut)


def test_responses_of_prompts_that_differ_in_a_token_share_nothing(many_pairs):
    merged = len(many_pairs) - 4
    sides = [int(many_pairs.chosen[merged]), int(many_pairs.rejected[merged])]
    assert many_pairs.num_common(sides) > 0
    assert [tree.num_common for tree in trees(many_pairs, sides)] == [0, 0]


@pytest.mark.parametrize("layout", [*sorted(ONE_ROW), "grouped"])
def test_a_step_is_cut_into_micro_batches_within_the_budget(layout, pairs, encoder):
    collate = StepCollator(pairs, layout, 150, encoder.pad_token_id)
    step = collate([{"pair": n} for n in range(12)])["micro_batches"]
    assert sorted(n for batch in step for n in batch["pair"].tolist()) == list(range(12))
    assert len(step) > 2
    assert all(batch["input_ids"].numel() <= 150 for batch in step)


def test_grouped_pairs_stand_in_order_of_length(pairs):
    step = list(StepCollator(pairs, "grouped", 150, 3).micro_batches(range(12)))
    widths = [batch["input_ids"].shape[1] for batch in step]
    assert widths == sorted(widths)


def test_the_padded_layout_keeps_the_order_of_the_step(pairs, encoder):
    step = StepCollator(pairs, "padded", 150, encoder.pad_token_id)([{"pair": n} for n in (5, 3, 8, 1)])
    assert [n for batch in step["micro_batches"] for n in batch["pair"].tolist()] == [5, 3, 8, 1]


def test_a_pair_longer_than_the_budget_stands_alone_and_none_is_lost():
    assert [list(run) for run in within_budget([1, 2, 3, 4], [4, 20, 5, 5], 10)] == [[1], [2], [3, 4]]
    assert [list(run) for run in within_budget([1], [99], 10)] == [[1]]


def test_a_bundle_larger_than_the_budget_is_a_run_of_its_own(pairs):
    sizes = [bundle.num_tokens for bundle in bundles(pairs, range(5), "packed", UNLIMITED)]
    runs = list(StepCollator(pairs, "packed", 1, 0).cut(list(bundles(pairs, range(5), "packed", UNLIMITED)), 1))
    assert [[bundle.num_tokens for bundle in run] for run in runs] == [[size] for size in sizes]


def test_the_token_ratio_is_that_of_tokens_computed(four_replies):
    stated = sum(sum(four_replies.lengths(position)) for position in range(6))
    computed = row_of(four_replies, range(6), "kwise")["input_ids"].numel()
    assert token_ratio(four_replies, [range(6)], "kwise", UNLIMITED) == stated / computed > 3
    assert token_ratio(four_replies, [range(6)], "packed", UNLIMITED) == 1


class Config(SimpleNamespace):
    def get_text_config(self):
        return self


def chosen(pairs, requested="auto", device="cpu", dropout=0.0, **config):
    model = SimpleNamespace(
        config=Config(**{"_attn_implementation": "sdpa", **config}), _can_set_attn_implementation=lambda: True
    )
    return choose(requested, pairs, [list(range(len(pairs)))], UNLIMITED, model, device, dropout)


def test_auto_takes_the_layout_that_computes_the_fewest_tokens(pairs, four_replies, many_pairs):
    assert chosen(four_replies)[0] == "kwise"
    assert chosen(pairs)[0] == "shared"
    nothing_common = replace(pairs, prompt_length=np.arange(len(pairs.prompt_length)))
    assert chosen(nothing_common)[0] == "packed"
    assert [chosen(pairs, layout)[0] for layout in LAYOUTS] == list(LAYOUTS)


def test_what_a_body_cannot_take_is_said_and_grouped_instead(pairs):
    assert chosen(pairs, sliding_window=8)[0] == "shared"
    obstacles = {
        "attends to 8 tokens": chosen(pairs, device="cuda", sliding_window=8),
        "shared is not taken: attention eager takes no segments": chosen(pairs, _attn_implementation="eager"),
        "layers of kind linear_attention": chosen(pairs, layer_types=["full_attention", "linear_attention"]),
        "dropout would draw once": chosen(pairs, "shared", dropout=0.1),
    }
    for words, (layout, reason) in obstacles.items():
        assert layout == "grouped"
        assert words in reason
    assert chosen(pairs, "packed", dropout=0.1)[0] == "packed"


def test_auto_takes_the_layout_of_one_row_that_dropout_leaves(pairs, four_replies):
    assert chosen(four_replies, dropout=0.1)[0] == chosen(pairs, dropout=0.1)[0] == "packed"
