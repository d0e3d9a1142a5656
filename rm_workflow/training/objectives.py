"""What training minimises: one function for each objective, from rewards to losses.

An objective is trained on one of two kinds of data. On **pairs** it takes the rewards of both sides, float32 tensors of
shape [pairs], and returns the loss of each pair. On labelled **responses** it takes what the head says of each response
of a micro-batch, its labels and the item that it belongs to, and returns the loss of each item: a response, or a prompt
with all its responses. The trainer takes the weighted mean over the items of an optimiser step.

Adding an objective is adding one function and one line to ``PAIRWISE`` or ``ON_RESPONSES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PairLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
ResponseLoss = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
Unit = Literal["pairs", "prompts", "responses", "blocks"]

# The likelihood of k responses that share a rank takes 2^k terms.
MOST_TIED = 10


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


def smoothed(pair_loss: PairLoss, label_smoothing: float) -> PairLoss:
    """Return (1 - e) l(chosen, rejected) + e l(rejected, chosen) for a loss l of pairs (arXiv 2401.06080).

    With Bradley-Terry it is the cross-entropy of a label that is wrong with probability e: least where
    sigmoid(r_chosen - r_rejected) = 1 - e, so that rewards stay finite on data that can be separated.

    Args:
        label_smoothing: e, from 0 to below 0.5; 0 returns the loss itself.
    """
    if label_smoothing == 0:
        return pair_loss

    def loss(chosen: "Tensor", rejected: "Tensor", score_gap: "Tensor") -> "Tensor":
        right, wrong = pair_loss(chosen, rejected, score_gap), pair_loss(rejected, chosen, score_gap)
        return (1 - label_smoothing) * right + label_smoothing * wrong

    return loss


def center_rewards(chosen: "Tensor", rejected: "Tensor") -> "Tensor":
    """Return (r_chosen + r_rejected)^2, which pulls the mean reward to zero (arXiv 2312.09244, eq. 2).

    TRL's ``center_rewards_coefficient`` multiplies it before it is added to the loss. Its value at zero rewards is 0.
    """
    return (chosen + rejected) ** 2


def plackett_luce(outputs: "Tensor", ranks: "Tensor", item: "Tensor") -> "Tensor":
    """Return -log P(ranking) of each prompt's responses (Plackett 1975; ListMLE, Xia et al. 2008).

    Without ties -sum_i log(e^r_i / sum_{j ranked i or below} e^r_j). Responses that share a rank are in an order that
    nobody knows: P is the sum over all orders that the ranks allow, the marginal likelihood of Kalbfleisch and Prentice
    (1973) as Allison and Christakis (1994) use it for rankings with ties. So two responses give Bradley-Terry, one best
    among equals gives the softmax of a choice, and responses of one rank alone give 0 and no gradient. At equal rewards
    n different ranks give ln n!.

    Args:
        outputs: [R, 1] rewards.
        ranks: [R, 1], 1 the best.
        item: [R] which item (0 .. I - 1) each response belongs to; ascending.

    Returns:
        [I] losses.
    """
    import torch

    rewards, places = outputs.squeeze(-1), ranks.squeeze(-1)
    return torch.stack([_ranking_loss(rewards[rows], places[rows]) for rows in rows_of_items(item)])


def rows_of_items(item: "Tensor") -> list[slice]:
    """Return the rows of each item of a micro-batch.

    Args:
        item: [R], 0 .. I - 1, ascending.
    """
    ends = item.bincount().cumsum(0).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _ranking_loss(rewards: "Tensor", ranks: "Tensor") -> "Tensor":
    loss = rewards.sum() * 0
    *above_last, _ = sorted(set(ranks.tolist()))
    for rank in above_last:
        loss = loss - _log_all_first(rewards[ranks == rank], rewards[ranks > rank].logsumexp(0))
    return loss


def _log_all_first(tied: "Tensor", rest: "Tensor") -> "Tensor":
    """Return the log of the probability that all of ``tied`` come before the rest, in any order among themselves.

    With g(A) for the responses A that have not come yet: g(A) = log sum_{i in A} e^(r_i + g(A without i)) -
    log(sum_{A} e^r + e^rest), g of nothing = 0.

    Args:
        tied: [k] rewards.
        rest: [] log of the sum of e^r over what ranks below.
    """
    import torch

    found: dict[tuple[int, ...], Tensor] = {(): rest * 0}
    for size in range(1, len(tied) + 1):
        for waiting in combinations(range(len(tied)), size):
            next_one = [tied[i] + found[tuple(j for j in waiting if j != i)] for i in waiting]
            all_there = torch.stack([*(tied[i] for i in waiting), rest]).logsumexp(0)
            found[waiting] = torch.stack(next_one).logsumexp(0) - all_there
    return found[tuple(range(len(tied)))]


def regression(outputs: "Tensor", targets: "Tensor", item: "Tensor") -> "Tensor":
    """Return the mean over the attributes that have a label of (output - target)^2 (SteerLM, arXiv 2310.05344).

    Targets are ratings as standard scores (``TrainResponses.targets``), so that at an output of 0 it is about 1.

    Args:
        outputs: [R, A] one output for each attribute.
        targets: [R, A], NaN where the response has no rating of the attribute.
        item: [R], 0 .. R - 1: each response is an item.

    Returns:
        [R] losses; 0 for a response without any rating.
    """
    import torch

    del item
    rated = ~targets.isnan()
    # The missing target is replaced before the difference: NaN times 0 would be NaN in the gradient too.
    errors = (outputs - torch.where(rated, targets, 0.0)) ** 2
    return torch.where(rated, errors, 0.0).sum(-1) / rated.sum(-1).clamp(min=1)


def scalar_orm(outputs: "Tensor", targets: "Tensor", item: "Tensor") -> "Tensor":
    """Return -y log sigmoid(r) - (1 - y) log(1 - sigmoid(r)), y 1 for a right answer, 0 for a wrong one.

    An outcome reward model, Cobbe et al. 2021 (arXiv 2110.14168), read at the end of the solution as RLHFlow's scalar
    ORM. The reward is the logit: sigmoid(r) is the probability of a right answer. Its value at r = 0 is ln 2.

    Args:
        outputs: [R, 1] rewards.
        targets: [R, 1] outcomes.
        item: [R], 0 .. R - 1: each response is an item.

    Returns:
        [R] losses.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    del item
    return binary_cross_entropy_with_logits(outputs, targets, reduction="none").squeeze(-1)


def generative(outputs: "Tensor", targets: "Tensor", item: "Tensor") -> "Tensor":
    """Return -y log p(+) - (1 - y) log p(-), p over the whole vocabulary, y the probability that the step is right.

    The cross-entropy of the one token of a verdict, as RLHFlow trains its outcome and process models
    (RLHFlow/RLHF-Reward-Modeling, math-rm); of a soft label (Math-Shepherd, arXiv 2312.08935) that of both tokens.

    Args:
        outputs: [L, 2] log p(+) and log p(-) where each label is read.
        targets: [L, 1] probabilities from 0 to 1.
        item: [L], 0 .. L - 1: each label has its own loss.

    Returns:
        [L] losses.
    """
    del item
    right = targets[:, 0]
    return -right * outputs[:, 0] - (1 - right) * outputs[:, 1]


def token_prm(outputs: "Tensor", targets: "Tensor", item: "Tensor") -> "Tensor":
    """Return -y log sigmoid(r) - (1 - y) log(1 - sigmoid(r)) at the end of each step (Uesato et al., arXiv 2211.14275).

    Args:
        outputs: [L, 1] logits; [L, 1] targets and ``item`` as of ``generative``. Its value at r = 0 is ln 2.
    """
    return scalar_orm(outputs, targets, item)


def weighted_sum(losses: "Tensor", weights: "Tensor") -> "Tensor":
    """Return sum(w l), shape []; divided by sum(w) of the whole step it is the step's share of these items.

    Equal to TRL's mean where all weights are 1, whatever the split of the step into micro-batches.
    """
    return (weights * losses).sum()


@dataclass(frozen=True)
class OnResponses:
    """An objective on labelled responses.

    Attributes:
        loss: (outputs [R, A], targets [R, A], item [R]) -> [items].
        unit: what an item is.
        target: what the targets are: ``rank`` and ``outcome`` one column, ``ratings`` one for each attribute,
            ``labels`` one for each labelled token of a solution.
    """

    loss: ResponseLoss
    unit: Unit
    target: Literal["rank", "ratings", "outcome", "labels"]


PAIRWISE: dict[str, PairLoss] = {
    "bradley_terry": bradley_terry,
    "margin_bt": margin_bt,
    "scaled_bt": scaled_bt,
}
NEEDS_SCORES = frozenset({"margin_bt", "scaled_bt"})
ON_RESPONSES: dict[str, OnResponses] = {
    "plackett_luce": OnResponses(plackett_luce, "prompts", "rank"),
    "regression": OnResponses(regression, "responses", "ratings"),
    "scalar_orm": OnResponses(scalar_orm, "responses", "outcome"),
    "token_prm": OnResponses(token_prm, "blocks", "labels"),
    "generative_orm": OnResponses(generative, "blocks", "labels"),
    "generative_prm": OnResponses(generative, "blocks", "labels"),
}


def unit(name: str) -> Unit:
    """Return what an optimiser step of an objective counts."""
    return "pairs" if name in PAIRWISE else ON_RESPONSES[name].unit


def get(name: str) -> PairLoss:
    """Return the loss of an objective on pairs by name."""
    return PAIRWISE[name]


def _softplus(values: "Tensor") -> "Tensor":
    # log(1 + e^x) = -log sigmoid(-x), which torch computes without overflow on either side.
    from torch.nn.functional import logsigmoid

    return -logsigmoid(-values)
