"""What a pair costs: one function for each objective, from two rewards to one loss.

Every function takes float32 tensors of shape [pairs] and returns the loss of each pair, shape [pairs]; the trainer
takes the weighted mean over the pairs of an optimiser step. Adding an objective is adding one function to ``PAIRWISE``.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rm_workflow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PairLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


def bradley_terry(chosen: "Tensor", rejected: "Tensor", score_gap: "Tensor") -> "Tensor":
    """Return -log sigmoid(r_chosen - r_rejected) (Bradley and Terry 1952; InstructGPT, arXiv 2203.02155).

    Its value at equal rewards is ln 2 = 0.6931. The score gap is not used.
    """
    del score_gap
    return _softplus(rejected - chosen)


def margin_bt(chosen: "Tensor", rejected: "Tensor", score_gap: "Tensor") -> "Tensor":
    """Return -log sigmoid(r_chosen - r_rejected - m) with m the score gap (Llama 2, arXiv 2307.09288, eq. 2).

    Its value at equal rewards is log(1 + e^m), ln 2 for m = 0.
    """
    return _softplus(rejected - chosen + score_gap)


def scaled_bt(chosen: "Tensor", rejected: "Tensor", score_gap: "Tensor") -> "Tensor":
    """Return -m log sigmoid(r_chosen - r_rejected) with m the score gap (HelpSteer2-Preference, arXiv 2410.01257).

    Its value at equal rewards is m ln 2.
    """
    return score_gap * _softplus(rejected - chosen)


def center_rewards(chosen: "Tensor", rejected: "Tensor") -> "Tensor":
    """Return (r_chosen + r_rejected)^2, which pulls the mean reward to zero (arXiv 2312.09244, eq. 2).

    TRL's ``center_rewards_coefficient`` multiplies it before it is added to the loss. Its value at zero rewards is 0.
    """
    return (chosen + rejected) ** 2


def weighted_sum(losses: "Tensor", weights: "Tensor") -> "Tensor":
    """Return sum(w l), shape []; divided by sum(w) of the whole step it is the step's share of these pairs.

    Equal to TRL's mean where all weights are 1, whatever the split of the step into micro-batches.
    """
    return (weights * losses).sum()


PAIRWISE: dict[str, PairLoss] = {
    "bradley_terry": bradley_terry,
    "margin_bt": margin_bt,
    "scaled_bt": scaled_bt,
}
NEEDS_SCORES = frozenset({"margin_bt", "scaled_bt"})


def get(name: str) -> PairLoss:
    """Return the loss of an objective by name.

    Raises:
        UserError: the objective is known to the catalogue and not built yet.
    """
    if name not in PAIRWISE:
        raise UserError(f"objective {name} is not built yet; set 'objective' to one of {', '.join(PAIRWISE)}")
    return PAIRWISE[name]


def _softplus(values: "Tensor") -> "Tensor":
    # log(1 + e^x) = -log sigmoid(-x), which torch computes without overflow on either side.
    from torch.nn.functional import logsigmoid

    return -logsigmoid(-values)
