from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rm_workflow.models.reward_model import rewards
from rm_workflow.training.data import load_pairs
from rm_workflow.training.layouts import StepCollator, choose, padded_batch, shared_batch, token_ratio, within_budget
from rm_workflow_tests.models.tiny import tiny_config
from rm_workflow_tests.training import toy

ARCHITECTURES = ("llama", "qwen2", "mistral", "gemma")


@pytest.fixture
def strange_pairs(encoder, tmp_path):
    """Pairs that begin alike, one with a side that begins as the whole other, one with nothing in common."""
    pairs = load_pairs(toy.write_tokens(tmp_path, encoder, toy.rows(6)))
    ids = [pairs.ids(int(row)).tolist() for row in range(len(pairs.starts) - 1)]
    chosen, rejected = int(pairs.chosen[0]), int(pairs.rejected[0])
    ids[rejected] = [*ids[chosen], 9, 8]
    ids[int(pairs.rejected[1])] = [7, *ids[int(pairs.chosen[1])]]
    ids[int(pairs.chosen[2])] *= 9
    return with_token_ids(pairs, ids)


def with_token_ids(pairs, ids):
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    return replace(pairs, token_ids=np.concatenate(ids).astype(np.int32), starts=starts)


def loss_and_gradients(model, batch):
    model.zero_grad()
    layout = {name: batch[name] for name in ("position_ids", "attention_mask") if name in batch}
    chosen, rejected = rewards(model, batch["input_ids"], batch["end_index"], batch["row_index"], **layout).chunk(2)
    loss = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_shared_layout_gives_the_loss_and_gradients_of_the_padded_one(model_type, strange_pairs, encoder):
    torch.manual_seed(0)
    config = tiny_config(model_type, len(encoder.tokenizer))
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.score.weight, 0, 0.5)
    positions = range(len(strange_pairs))
    padded = loss_and_gradients(model, padded_batch(strange_pairs, positions, encoder.pad_token_id))
    shared = loss_and_gradients(model, shared_batch(strange_pairs, positions, encoder.pad_token_id))
    assert shared[0] == pytest.approx(padded[0], rel=1e-5)
    assert (shared[1] - padded[1]).norm() <= 1e-5 * padded[1].norm()


def test_pairs_without_a_common_beginning_and_sides_that_begin_as_the_other_are_laid_out_too(strange_pairs):
    chosen, rejected = strange_pairs.lengths(0)
    assert strange_pairs.num_common[0] == min(chosen, rejected) - 1
    assert strange_pairs.num_common[1] == 0


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


def test_a_shared_row_holds_common_tokens_once_and_counts_positions_on_for_either_side(pairs, encoder):
    batch = shared_batch(pairs, [4], encoder.pad_token_id)
    chosen, rejected = pairs.ids(pairs.chosen[4]).tolist(), pairs.ids(pairs.rejected[4]).tolist()
    common = int(pairs.num_common[4])
    assert common > 5
    assert batch["input_ids"][0].tolist() == chosen + rejected[common:]
    assert batch["position_ids"][0].tolist() == [*range(len(chosen)), *range(common, len(rejected))]
    assert batch["end_index"].tolist() == [len(chosen) - 1, len(chosen) + len(rejected) - common - 1]
    assert batch["row_index"].tolist() == [0, 0]


def test_the_rejected_side_attends_to_the_common_tokens_and_itself_only(pairs, encoder):
    mask = shared_batch(pairs, [4], encoder.pad_token_id)["attention_mask"][0, 0]
    chosen, common = pairs.lengths(4)[0], int(pairs.num_common[4])
    last = mask[-1]
    assert last[:common].all()
    assert not last[common:chosen].any()
    assert last[chosen:].all()
    assert mask[0].tolist() == [True] + [False] * (len(mask) - 1)


def test_no_query_is_without_a_key(strange_pairs, encoder):
    mask = shared_batch(strange_pairs, range(6), encoder.pad_token_id)["attention_mask"]
    assert mask.any(dim=-1).all()


@pytest.mark.parametrize("layout", ["grouped", "shared"])
def test_a_step_is_cut_into_micro_batches_of_like_length_within_the_budget(layout, pairs, encoder):
    collate = StepCollator(pairs, layout, 150, encoder.pad_token_id)
    step = collate([{"pair": n} for n in range(12)])["micro_batches"]
    assert sorted(n for batch in step for n in batch["pair"].tolist()) == list(range(12))
    widths = [batch["input_ids"].shape[1] for batch in step]
    assert len(step) > 2
    assert widths == sorted(widths)
    assert all(batch["input_ids"].numel() <= 150 for batch in step)


def test_the_padded_layout_keeps_the_order_of_the_step(pairs, encoder):
    step = StepCollator(pairs, "padded", 150, encoder.pad_token_id)([{"pair": n} for n in (5, 3, 8, 1)])
    assert [n for batch in step["micro_batches"] for n in batch["pair"].tolist()] == [5, 3, 8, 1]


def test_a_pair_longer_than_the_budget_stands_alone_and_none_is_lost():
    assert [list(run) for run in within_budget([1, 2, 3, 4], [4, 20, 5, 5], 10)] == [[1], [2], [3, 4]]
    assert [list(run) for run in within_budget([1], [99], 10)] == [[1]]


def test_auto_shares_where_it_saves_tokens_and_says_why_not_elsewhere(pairs, encoder):
    class Config(SimpleNamespace):
        def get_text_config(self):
            return self

    def chosen(requested="auto", device="cpu", dropout=0.0, **config):
        model = SimpleNamespace(config=Config(**{"_attn_implementation": "sdpa", **config}))
        return choose(requested, pairs, model, device, dropout)

    assert token_ratio(pairs) > 1.25
    assert chosen()[0] == "shared"
    assert chosen("padded")[0] == "padded"
    assert chosen("grouped")[0] == "grouped"
    assert chosen(sliding_window=10_000)[0] == "shared"
    layout, reason = chosen(sliding_window=8)
    assert layout == "grouped"
    assert "attends to 8 tokens" in reason
    layout, reason = chosen("shared", device="cuda")
    assert layout == "grouped"
    assert "for the CPU only" in reason
    assert chosen(_attn_implementation="eager")[0] == "grouped"
    assert chosen(dropout=0.1)[0] == "grouped"
