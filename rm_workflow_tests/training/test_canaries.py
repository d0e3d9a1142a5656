import dataclasses
import math

import numpy as np
import pytest
import torch

from rm_workflow.errors import UserError
from rm_workflow.models.reward_model import head_module, load_reward_model
from rm_workflow.training import canaries, objectives

REWARDS = torch.tensor([0.01, -0.02, 0.03])
WEIGHTS = torch.ones(3)
LN2 = torch.full((3,), math.log(2))


def start(chosen, rejected, fresh_head=True):
    losses = objectives.bradley_terry(chosen, rejected, WEIGHTS)
    return canaries.check_start(chosen, rejected, losses, LN2, WEIGHTS, fresh_head)


def test_a_healthy_start_returns_its_loss():
    assert start(REWARDS, -REWARDS) == pytest.approx(math.log(2), abs=0.02)


def test_equal_rewards_of_all_first_pairs_stop_the_run():
    with pytest.raises(UserError, match="equal in all 3 first pairs"):
        start(REWARDS, REWARDS.clone())


def test_one_different_pair_is_enough_to_go_on():
    assert start(REWARDS, torch.tensor([0.01, -0.02, 0.0]))


def test_a_fresh_head_with_a_loss_far_from_that_of_equal_rewards_stops_the_run():
    with pytest.raises(UserError, match=r"loss of a fresh head is 5\.000 where equal rewards give 0\.693"):
        start(torch.full((3,), -5.0), torch.tensor([0.0, 0.0, -0.02]))


def test_a_head_that_was_trained_before_may_start_anywhere():
    assert start(torch.full((3,), -5.0), torch.zeros(3), fresh_head=False) == pytest.approx(5.0067, abs=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(UserError, match="the loss of the first pairs is nan"):
        start(torch.tensor([math.nan, 0.0, 0.0]), REWARDS)


def test_no_pad_token_or_the_end_token_as_pad_is_refused(pairs):
    with pytest.raises(UserError, match="has no pad token"):
        canaries.check_tokens(pairs, None, 2)
    with pytest.raises(UserError, match=r"the pad token is the end token \(id 2\)"):
        canaries.check_tokens(pairs, 2, 2)


def test_a_conversation_that_ends_with_or_holds_the_pad_token_is_refused(pairs, encoder):
    canaries.check_tokens(pairs, encoder.pad_token_id, encoder.tokenizer.eos_token_id)
    last = int(pairs.ids(5)[-1])
    with pytest.raises(UserError, match=f"response {pairs.response_ids[0]} (ends with|holds) the pad token"):
        canaries.check_tokens(pairs, last, None)
    ids = pairs.token_ids.copy()
    ids[pairs.starts[4] - 1] = encoder.pad_token_id
    changed = dataclasses.replace(pairs, token_ids=ids)
    with pytest.raises(UserError, match=f"response {pairs.response_ids[3]} ends with the pad token"):
        canaries.check_tokens(changed, encoder.pad_token_id, None)


def test_missing_scores_are_refused_where_the_objective_needs_them(pairs):
    gaps = pairs.score_gap.copy()
    gaps[2] = np.nan
    changed = dataclasses.replace(pairs, score_gap=gaps)
    canaries.check_scores(changed, "bradley_terry")
    with pytest.raises(UserError, match="1 train pairs have no score, which objective margin_bt needs"):
        canaries.check_scores(changed, "margin_bt")


@pytest.mark.parametrize("objective", sorted(objectives.NEEDS_SCORES))
def test_scores_against_the_label_are_refused_where_the_objective_takes_them_for_a_gap(objective, pairs):
    canaries.check_scores(pairs, objective)
    gaps = pairs.score_gap.copy()
    gaps[2] = -0.5
    changed = dataclasses.replace(pairs, score_gap=gaps)
    canaries.check_scores(changed, "bradley_terry")
    with pytest.raises(UserError, match=f"1 train pairs have a chosen score below the rejected one.*{objective}"):
        canaries.check_scores(changed, objective)


def test_equal_scores_of_all_pairs_are_refused_where_the_loss_would_be_zero(pairs):
    equal = dataclasses.replace(pairs, score_gap=np.zeros_like(pairs.score_gap))
    canaries.check_scores(equal, "margin_bt")
    with pytest.raises(UserError, match="the loss of objective scaled_bt is 0 whatever the rewards are"):
        canaries.check_scores(equal, "scaled_bt")


@pytest.mark.parametrize("objective", [objectives.scaled_bt, objectives.margin_bt])
def test_large_gaps_of_scores_are_no_reason_to_stop_at_the_start(objective):
    gaps, zero = torch.full((3,), 1000.0), torch.zeros(3)

    def started(chosen):
        losses, at_zero = objective(chosen, zero, gaps), objective(zero, zero, gaps)
        return canaries.check_start(chosen, zero, losses, at_zero, WEIGHTS, fresh_head=True)

    assert started(torch.tensor([0.01, 0.0, 0.002])) == pytest.approx(objective(zero, zero, gaps)[0].item(), rel=0.01)
    with pytest.raises(UserError, match="loss of a fresh head"):
        started(torch.full((3,), -400.0))


def test_first_pairs_of_weight_zero_have_a_loss_before_training():
    losses = objectives.bradley_terry(REWARDS, -REWARDS, WEIGHTS)
    loss = canaries.check_start(REWARDS, -REWARDS, losses, LN2, WEIGHTS * 0, fresh_head=True)
    assert loss == pytest.approx(math.log(2), abs=0.02)


def test_tokens_without_a_row_in_the_embedding_are_refused(pairs, encoder):
    largest = int(pairs.token_ids.max())
    canaries.check_embedding(pairs, encoder.pad_token_id, largest + 1)
    with pytest.raises(UserError, match=rf"holds token {largest}, and the base model's embedding has {largest} rows"):
        canaries.check_embedding(pairs, encoder.pad_token_id, largest)
    with pytest.raises(UserError, match=r"the pad token has id 999, and the base model's embedding has 999 rows"):
        canaries.check_embedding(pairs, 999, 999)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_weights_that_are_no_numbers_from_zero_on_are_refused(pairs, weight):
    weights = pairs.weight.copy()
    weights[4] = weight
    changed = dataclasses.replace(pairs, weight=weights)
    with pytest.raises(UserError, match=f"1 train pairs whose 'weight' is not.*{pairs.pair_id[4]} with {weight}"):
        canaries.check_weights(changed, [range(len(pairs))], "pairs")


def test_a_step_of_weight_zero_is_refused(pairs):
    weights = pairs.weight.copy()
    weights[4:6] = 0
    changed = dataclasses.replace(pairs, weight=weights)
    canaries.check_weights(changed, [[3, 4], [5, 6]], "pairs")
    with pytest.raises(UserError, match="all pairs of step 2 have weight 0"):
        canaries.check_weights(changed, [[2, 3], [4, 5]], "pairs")


def test_a_head_of_two_labels_is_refused(tiny_base):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(tiny_base), num_labels=2)
    with pytest.raises(UserError, match="num_labels 2 and a head of 2 rows"):
        canaries.check_head(model)


def test_a_head_of_zeros_is_refused(tiny_base):
    model = load_reward_model(tiny_base)
    canaries.check_head(model)
    with torch.no_grad():
        head_module(model).weight.zero_()
    with pytest.raises(UserError, match="head is all zero or not finite"):
        canaries.check_head(model)


def test_a_reload_with_other_rewards_or_a_missing_head_is_refused():
    assert canaries.check_reload(REWARDS, REWARDS + 1e-4, [], "model", "float32") == pytest.approx(1e-4, rel=1e-2)
    with pytest.raises(UserError, match=r"differ by up to 2\.00e-03 \(tolerance 1e-03\)"):
        canaries.check_reload(REWARDS, REWARDS + 2e-3, [], "model", "float32")
    with pytest.raises(UserError, match="other rewards"):
        canaries.check_reload(REWARDS, REWARDS * math.nan, [], "model", "float32")
    with pytest.raises(UserError, match=r"lacks the weights score\.weight"):
        canaries.check_reload(REWARDS, REWARDS, ["score.weight"], "model", "float32")


def test_a_base_with_a_head_of_its_own_is_told_from_one_without(tiny_base, tmp_path):
    load_reward_model(tiny_base).save_pretrained(str(tmp_path))
    assert canaries.holds_head(tmp_path)
    assert not canaries.holds_head(tiny_base)


def test_two_bos_in_front_are_refused(pairs):
    canaries.check_bos(pairs, None)
    first, second = (int(pairs.token_ids[pairs.starts[3] + n]) for n in (0, 1))
    assert first != second
    canaries.check_bos(pairs, first)
    ids = pairs.token_ids.copy()
    ids[pairs.starts[3] + 1] = first
    with pytest.raises(UserError, match=rf"1 of {len(pairs.response_ids)} conversations begin with two BOS tokens"):
        canaries.check_bos(dataclasses.replace(pairs, token_ids=ids), first)


def test_a_learning_rate_for_lora_is_refused_for_all_weights_of_a_real_model():
    canaries.check_learning_rate(5e-3, 134_515_008, is_full=False)
    canaries.check_learning_rate(2e-4, 134_515_008, is_full=True)
    canaries.check_learning_rate(5e-3, 100_000, is_full=True)
    with pytest.raises(UserError, match=r"learning_rate 0\.005 is absurd for full tuning of 134,515,008 parameters"):
        canaries.check_learning_rate(5e-3, 134_515_008, is_full=True)


def test_margins_and_losses_must_be_one_number_a_pair():
    canaries.check_shapes(REWARDS, WEIGHTS, LN2)
    with pytest.raises(UserError, match=r"the score gap has shape \[3, 1\] where the pairs are \[3\]"):
        canaries.check_shapes(REWARDS, WEIGHTS[:, None], LN2)
    with pytest.raises(UserError, match=r"the loss of the objective has shape \[3, 3\]"):
        canaries.check_shapes(REWARDS, WEIGHTS, objectives.margin_bt(REWARDS, REWARDS, WEIGHTS[:, None]))


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused(norm):
    canaries.check_gradient(3.0, 7)
    with pytest.raises(UserError, match=f"the gradient norm of step 7 is {norm}, and the weights are still"):
        canaries.check_gradient(norm, 7)


def test_equal_rewards_in_all_pairs_since_the_last_line_are_refused():
    canaries.check_margins(1e-9, 64, 40)
    with pytest.raises(UserError, match="the rewards of both sides are equal in all of the last 64 pairs"):
        canaries.check_margins(0.0, 64, 40)
