import math
from itertools import pairwise, permutations
from typing import get_args

import pytest
import torch

from rm_workflow.catalog.models import Objective
from rm_workflow.training import objectives

CHOSEN = torch.tensor([0.3, -1.2, 40.0, -400.0], dtype=torch.float64)
REJECTED = torch.tensor([0.1, 0.8, -2.0, 400.0], dtype=torch.float64)
GAP = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
ZERO = torch.zeros(1, dtype=torch.float64)
NAN = float("nan")


def column(*values, requires_grad=False):
    return torch.tensor(values, dtype=torch.float64)[:, None].requires_grad_(requires_grad)


def test_bradley_terry_is_minus_log_sigmoid_of_the_difference():
    losses = objectives.bradley_terry(CHOSEN, REJECTED, GAP)
    assert losses[:2].tolist() == pytest.approx([math.log1p(math.exp(-0.2)), math.log1p(math.exp(2.0))])
    assert losses[3].item() == 800.0


def test_margin_bt_needs_the_chosen_reward_to_lead_by_the_gap():
    losses = objectives.margin_bt(CHOSEN, REJECTED, GAP)
    assert losses[:2].tolist() == pytest.approx([math.log1p(math.exp(0.3)), math.log1p(math.exp(3.0))])


def test_scaled_bt_multiplies_the_loss_by_the_gap():
    plain = objectives.bradley_terry(CHOSEN, REJECTED, GAP)
    assert torch.equal(objectives.scaled_bt(CHOSEN, REJECTED, GAP), GAP * plain)


@pytest.mark.parametrize(
    ("name", "gap", "expected"),
    [("bradley_terry", 3.0, math.log(2)), ("margin_bt", 0.0, math.log(2)), ("scaled_bt", 3.0, 3 * math.log(2))],
)
def test_the_value_at_equal_rewards_is_the_one_in_the_docstring(name, gap, expected):
    assert objectives.get(name)(ZERO, ZERO, ZERO + gap).item() == pytest.approx(expected)


# The derivative of each loss of pairs by the chosen reward, written out.
SLOPES = {
    "bradley_terry": lambda c, r, m: torch.sigmoid(c - r) - 1,
    "margin_bt": lambda c, r, m: torch.sigmoid(c - r - m) - 1,
    "scaled_bt": lambda c, r, m: m * (torch.sigmoid(c - r) - 1),
}


@pytest.mark.parametrize("name", sorted(objectives.PAIRWISE))
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradients_of_pair_losses_are_those_of_the_formula(name, label_smoothing):
    chosen, rejected = CHOSEN[:3].clone().requires_grad_(), REJECTED[:3].clone().requires_grad_()
    loss = objectives.smoothed(objectives.get(name), label_smoothing)
    assert torch.autograd.gradcheck(lambda c, r: loss(c, r, GAP[:3]), (chosen, rejected))
    loss(chosen, rejected, GAP[:3]).sum().backward()
    with torch.no_grad():
        right, wrong = SLOPES[name](chosen, rejected, GAP[:3]), -SLOPES[name](rejected, chosen, GAP[:3])
        expected = (1 - label_smoothing) * right + label_smoothing * wrong
    assert torch.allclose(chosen.grad, expected, rtol=1e-12, atol=1e-15)
    assert torch.allclose(rejected.grad, -expected, rtol=1e-12, atol=1e-15)


def test_label_smoothing_mixes_both_labels_and_is_least_where_it_expects_the_error():
    loss = objectives.smoothed(objectives.bradley_terry, 0.2)
    expected = 0.8 * math.log1p(math.exp(-0.2)) + 0.2 * math.log1p(math.exp(0.2))
    assert loss(CHOSEN[:1], REJECTED[:1], GAP[:1]).item() == pytest.approx(expected)
    best = torch.tensor([math.log(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    loss(best, ZERO, ZERO).sum().backward()
    assert best.grad.abs().item() < 1e-15
    assert objectives.smoothed(objectives.margin_bt, 0.0) is objectives.margin_bt


def test_centering_pulls_the_sum_of_both_rewards_to_zero():
    assert objectives.center_rewards(CHOSEN[:2], REJECTED[:2]).tolist() == pytest.approx([0.16, 0.16])
    rewards = [CHOSEN[:3].clone().requires_grad_(), REJECTED[:3].clone().requires_grad_()]
    objectives.center_rewards(*rewards).sum().backward()
    assert torch.allclose(rewards[0].grad, 2 * (CHOSEN + REJECTED)[:3])
    assert torch.equal(rewards[0].grad, rewards[1].grad)


def test_a_weight_multiplies_loss_and_gradient_of_its_pair_alone():
    chosen = CHOSEN[:2].clone().requires_grad_()
    losses = objectives.bradley_terry(chosen, REJECTED[:2], GAP[:2])
    objectives.weighted_sum(losses, torch.tensor([3.0, 1.0])).backward()
    slopes = SLOPES["bradley_terry"](CHOSEN, REJECTED, GAP)
    assert chosen.grad.tolist() == pytest.approx([3 * slopes[0].item(), slopes[1].item()])


def probability_of_ranking(rewards, ranks):
    """Sum Plackett and Luce's formula over every order of the responses in which no rank comes before a better one."""
    total = 0.0
    for order in permutations(range(len(rewards))):
        if all(ranks[a] <= ranks[b] for a, b in pairwise(order)):
            product = 1.0
            for place, i in enumerate(order):
                product *= math.exp(rewards[i]) / sum(math.exp(rewards[j]) for j in order[place:])
            total += product
    return total


@pytest.mark.parametrize(
    "ranks",
    [(1, 2, 3, 4), (4, 1, 3, 2), (1, 1, 2, 3), (1, 2, 2, 2), (2, 2, 1, 2), (3, 3, 3, 1), (1, 1, 2, 2), (1, 1, 1, 5)],
)
def test_plackett_luce_is_the_probability_of_all_orders_that_the_ranks_allow(ranks):
    rewards = (0.3, -1.2, 2.0, 0.9)
    outputs = column(*rewards, requires_grad=True)
    item = torch.zeros(4, dtype=torch.long)
    (loss,) = objectives.plackett_luce(outputs, column(*ranks), item)
    assert loss.item() == pytest.approx(-math.log(probability_of_ranking(rewards, ranks)), rel=1e-12)
    assert torch.autograd.gradcheck(lambda out: objectives.plackett_luce(out, column(*ranks), item), (outputs,))


def test_plackett_luce_gradients_without_ties_are_those_of_the_formula():
    """Of each place: the softmax over what is left, less 1 for the response that comes there."""
    outputs = column(0.3, -1.2, 2.0, requires_grad=True)
    objectives.plackett_luce(outputs, column(2, 3, 1), torch.zeros(3, dtype=torch.long)).sum().backward()
    rewards = outputs.detach().squeeze(-1)
    expected = torch.zeros(3, dtype=torch.float64)
    left = [2, 0, 1]
    while left:
        expected[left] += rewards[left].softmax(0)
        expected[left.pop(0)] -= 1
    assert torch.allclose(outputs.grad.squeeze(-1), expected, rtol=1e-12)


def test_plackett_luce_of_two_responses_is_bradley_terry_and_of_one_rank_nothing():
    outputs = column(0.3, 0.1, -1.2, 0.8, 5.0, requires_grad=True)
    item = torch.tensor([0, 0, 1, 1, 2])
    losses = objectives.plackett_luce(outputs, column(1, 2, 4, 4, 1), item)
    assert losses[0].item() == pytest.approx(objectives.bradley_terry(CHOSEN, REJECTED, GAP)[0].item())
    assert losses[1:].tolist() == [0.0, 0.0]
    losses.sum().backward()
    assert outputs.grad[2:].tolist() == [[0.0], [0.0], [0.0]]


def test_plackett_luce_keeps_the_prompts_apart_and_does_not_overflow():
    ranks, rewards = (1, 2, 2, 1, 2), (400.0, -400.0, -400.0, -400.0, 400.0)
    losses = objectives.plackett_luce(column(*rewards), column(*ranks), torch.tensor([0, 0, 0, 1, 1]))
    assert losses.tolist() == pytest.approx([0.0, 800.0])
    assert objectives.plackett_luce(
        column(0, 0, 0, 0), column(3, 1, 4, 2), torch.zeros(4, dtype=torch.long)
    ).item() == (pytest.approx(math.log(24)))


def test_regression_is_the_mean_of_the_squared_errors_of_the_ratings_that_are_there():
    outputs = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0.0, 4.0], [NAN, 1.0], [NAN, NAN]], dtype=torch.float64)
    item = torch.arange(3)
    losses = objectives.regression(outputs, targets, item)
    assert losses.tolist() == [(1.0 + 4.0) / 2, 4.0, 0.0]
    losses.sum().backward()
    assert outputs.grad.tolist() == [[1.0, -2.0], [0.0, -4.0], [0.0, 0.0]]
    assert torch.autograd.gradcheck(lambda out: objectives.regression(out, targets, item), (outputs,))


def test_scalar_orm_is_the_cross_entropy_of_the_outcome():
    outputs, targets = column(0.3, -1.2, 400.0, 0.0, requires_grad=True), column(1, 0, 0, 1)
    item = torch.arange(4)
    losses = objectives.scalar_orm(outputs, targets, item)
    expected = [math.log1p(math.exp(-0.3)), math.log1p(math.exp(-1.2)), 400.0, math.log(2)]
    assert losses.tolist() == pytest.approx(expected)
    losses.sum().backward()
    assert torch.allclose(outputs.grad, torch.sigmoid(outputs.detach()) - targets, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda out: objectives.scalar_orm(out, targets, item), (outputs,))


def test_each_objective_says_what_a_step_counts():
    units = {name: objectives.unit(name) for name in get_args(Objective)}
    assert units == {
        **dict.fromkeys(("bradley_terry", "margin_bt", "scaled_bt"), "pairs"),
        "plackett_luce": "prompts",
        **dict.fromkeys(("regression", "scalar_orm"), "responses"),
        **dict.fromkeys(("token_prm", "generative_orm", "generative_prm"), "blocks"),
    }
