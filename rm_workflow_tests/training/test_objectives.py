import math

import pytest
import torch

from rm_workflow.errors import UserError
from rm_workflow.training import objectives

CHOSEN = torch.tensor([0.3, -1.2, 40.0, -400.0], dtype=torch.float64)
REJECTED = torch.tensor([0.1, 0.8, -2.0, 400.0], dtype=torch.float64)
GAP = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
ZERO = torch.zeros(1, dtype=torch.float64)


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


@pytest.mark.parametrize("name", sorted(objectives.PAIRWISE))
def test_gradients_agree_with_finite_differences(name):
    chosen, rejected = CHOSEN[:3].clone().requires_grad_(), REJECTED[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda c, r: objectives.get(name)(c, r, GAP[:3]), (chosen, rejected))


def test_centering_pulls_the_sum_of_both_rewards_to_zero():
    assert objectives.center_rewards(CHOSEN[:2], REJECTED[:2]).tolist() == pytest.approx([0.16, 0.16])


def test_an_objective_that_is_not_built_is_named():
    with pytest.raises(UserError, match="objective plackett_luce is not built yet"):
        objectives.get("plackett_luce")
