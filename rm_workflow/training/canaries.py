"""Cheap proofs that training means what it should; each failure is one sentence.

The silent failures of reward-model training that they catch: pooling inside the shared prompt (loss stuck at 0.693,
huggingface/trl#2758), a head that is not initialised or has two labels (huggingface/trl#4577), a head lost on saving
(huggingface/peft#876).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.training import objectives
from rm_workflow.training.data import TrainPairs
from rm_workflow.training.responses import TrainResponses

if TYPE_CHECKING:
    from torch import Tensor, nn

# Of the loss that equal rewards give, or of 1 where that is less.
FRESH_LOSS_TOLERANCE = 0.3
# Largest |reward before - reward after| for rewards up to 1 in size; beyond, relative to the largest.
RELOAD_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
EQUAL_REWARDS = 1e-6
# Largest difference of rewards between layouts in fp32, as a share of the largest reward; rounding gives about 1e-6.
LAYOUT_TOLERANCE = 1e-4
# Full tuning in published recipes takes 1e-6 to 2e-4; bodies below this size are toys, which may learn faster.
LARGEST_FULL_LEARNING_RATE = 1e-3
TOY_PARAMETERS = 50_000_000
SAFETENSORS_INDEX = "model.safetensors.index.json"


def check_tokens(pairs: TrainPairs | TrainResponses, pad_token_id: int | None, eos_token_id: int | None) -> None:
    """Refuse a pad token that stands for something else too.

    Plain transformers reads the reward at the last token that is not the pad: where the pad ends a turn, the reward is
    read too early, and where it occurs in the prompt, older versions read it inside the prompt that both sides share.

    Raises:
        UserError: there is no pad token, it is the end token, or a conversation holds it.
    """
    if pad_token_id is None:
        raise UserError(
            "the token recipe has no pad token; name an unused special token as pad in the base's tokenizer"
        )
    if pad_token_id == eos_token_id:
        raise UserError(
            f"the pad token is the end token (id {pad_token_id}), so the end of a conversation cannot be told from "
            "padding; name an unused special token as pad in the base's tokenizer"
        )
    hits = np.flatnonzero(pairs.token_ids == pad_token_id)
    if hits.size:
        response = int(np.searchsorted(pairs.starts, hits[0], side="right")) - 1
        where = "ends with" if hits[0] == pairs.starts[response + 1] - 1 else "holds"
        raise UserError(
            f"responses.parquet: response {pairs.response_ids[response]} {where} the pad token (id {pad_token_id}); "
            "rebuild the tokens with this token recipe"
        )


def check_embedding(pairs: TrainPairs | TrainResponses, pad_token_id: int, num_rows: int) -> None:
    """Refuse tokens that the base's embedding has no row for, as those that were added to its tokenizer alone.

    Args:
        num_rows: of the embedding; ids run from 0 to one less.
    """
    if pad_token_id >= num_rows:
        raise UserError(
            f"the pad token has id {pad_token_id}, and the base model's embedding has {num_rows} rows; name an unused "
            "special token below that as pad in the base's tokenizer"
        )
    beyond = np.flatnonzero(pairs.token_ids >= num_rows)
    if beyond.size:
        response = int(np.searchsorted(pairs.starts, beyond[0], side="right")) - 1
        raise UserError(
            f"responses.parquet: response {pairs.response_ids[response]} holds token {pairs.token_ids[beyond[0]]}, and "
            f"the base model's embedding has {num_rows} rows; take the tokens that were added out of the base's "
            "tokenizer, or save the base with a larger embedding"
        )


def check_weights(pairs: TrainPairs | TrainResponses, steps: Sequence[Sequence[int]], unit: str) -> None:
    """Refuse weights in the loss that are negative or no numbers, and steps of weight 0, which have no mean loss."""
    wrong = np.flatnonzero(~(np.isfinite(pairs.weight) & (pairs.weight >= 0)))
    if wrong.size:
        raise UserError(
            f"the tokens hold {wrong.size} train {unit} whose 'weight' is not a number from 0 on, for instance "
            f"{pairs.pair_id[wrong[0]]} with {pairs.weight[wrong[0]]}; mend the weights and rebuild the tokens"
        )
    empty = [number for number, step in enumerate(steps, 1) if not pairs.weight[list(step)].any()]
    if empty:
        raise UserError(
            f"all {unit} of step {empty[0]} have weight 0, so the step has no loss; take {unit} of weight 0 out, or "
            "raise training.batch_size"
        )


def check_bos(pairs: TrainPairs | TrainResponses, bos_token_id: int | None) -> None:
    """Refuse conversations that begin with two BOS, as a template with one and a tokenizer that adds one give.

    Scoring through plain transformers would then see one BOS less or more than training did.
    """
    starts = pairs.starts[:-1][np.diff(pairs.starts) > 1]
    doubled = np.flatnonzero((pairs.token_ids[starts] == bos_token_id) & (pairs.token_ids[starts + 1] == bos_token_id))
    if bos_token_id is not None and doubled.size:
        raise UserError(
            f"responses.parquet: {doubled.size} of {len(starts)} conversations begin with two BOS tokens (id "
            f"{bos_token_id}), from the template and from the tokenizer; take the BOS out of one of them and rebuild "
            "the tokens"
        )


def check_learning_rate(learning_rate: float, num_parameters: int, is_full: bool) -> None:
    """Refuse a learning rate for full tuning that is far above every published one; often it was meant for LoRA."""
    if is_full and num_parameters >= TOY_PARAMETERS and learning_rate > LARGEST_FULL_LEARNING_RATE:
        raise UserError(
            f"training.learning_rate {learning_rate:g} is absurd for full tuning of {num_parameters:,} parameters, "
            f"where published recipes take 1e-6 to 2e-4 (at most {LARGEST_FULL_LEARNING_RATE:g} is accepted); lower it "
            "or set training.lora"
        )


def check_shapes(chosen: "Tensor", score_gap: "Tensor", losses: "Tensor") -> None:
    """Refuse scores or losses that are not one number a pair: [pairs, 1] against [pairs] would give [pairs, pairs]."""
    for what, tensor in (("the score gap", score_gap), ("the loss of the objective", losses)):
        if tensor.shape != chosen.shape:
            raise UserError(
                f"{what} has shape {list(tensor.shape)} where the pairs are {list(chosen.shape)}; a margin is one "
                "number a pair"
            )


def check_gradient(grad_norm: float, step: int) -> None:
    """Refuse a step whose gradient is NaN or infinite, before it reaches the weights."""
    if not math.isfinite(grad_norm):
        raise UserError(
            f"the gradient norm of step {step} is {grad_norm}, and the weights are still those of the step before; "
            "lower training.learning_rate or set training.precision to fp32"
        )


def check_margins(largest: float, num_pairs: int, step: int) -> None:
    """Refuse to go on where all pairs since the last line have equal rewards, so that no gradient tells them apart.

    Args:
        num_pairs: those that have a margin.
    """
    if num_pairs and largest == 0.0:
        raise UserError(
            f"up to step {step} the rewards of both sides are equal in all of the last {num_pairs} pairs, so nothing "
            "is learnt any more; lower training.learning_rate"
        )


def relative_difference(rewards: "Tensor", others: "Tensor") -> float:
    """Return the largest difference as a share of the largest reward."""
    return float((rewards - others).abs().max() / rewards.abs().max())


def check_causal(rewards: "Tensor", followed: "Tensor") -> None:
    """Refuse a body in which a reply's reward depends on what follows it, so that rows cannot be computed together.

    Args:
        rewards: [rows], fp32.
        followed: of the same rows with more tokens behind them.
    """
    difference = relative_difference(rewards, followed)
    # Also where the difference is NaN.
    if not difference <= LAYOUT_TOLERANCE:
        raise UserError(
            f"rewards change by {difference:.1e} of the largest with what follows the reply, so the base model's "
            "attention is not causal; take a causal base model"
        )


def check_scores(pairs: TrainPairs, objective: str) -> None:
    """Refuse pairs without scores, or with scores against their label, where the objective is a function of their gap.

    Gaps that are all 0 leave nothing of ``scaled_bt``; they make ``margin_bt`` Bradley-Terry, which is accepted.
    """
    if objective not in objectives.NEEDS_SCORES:
        return
    missing = int(np.isnan(pairs.score_gap).sum())
    if missing:
        raise UserError(
            f"pairs.parquet: {missing} train pairs have no score, which objective {objective} needs; set 'score' in "
            "the pair sets or take objective bradley_terry"
        )
    against = int((pairs.score_gap < 0).sum())
    if against:
        raise UserError(
            f"pairs.parquet: {against} train pairs have a chosen score below the rejected one, which objective "
            f"{objective} takes for a gap; drop them by the rule score_gap in the pair sets or take objective "
            "bradley_terry"
        )
    if objective == "scaled_bt" and not pairs.score_gap.any():
        raise UserError(
            "pairs.parquet: the scores of both sides are equal in all train pairs, so the loss of objective scaled_bt "
            "is 0 whatever the rewards are; take objective bradley_terry"
        )


def check_head(model: "nn.Module") -> None:
    """Refuse a model that does not give exactly one finite number for a conversation."""
    import torch

    from rm_workflow.models.reward_model import head_module, transformers_model

    labels = transformers_model(model).config.num_labels
    weight = head_module(model).weight.detach()
    if labels != 1 or weight.shape[0] != 1:
        raise UserError(
            f"the model has num_labels {labels} and a head of {weight.shape[0]} rows, but a reward is one number; "
            "take a base model without a classification head of its own"
        )
    if not bool(torch.isfinite(weight).all()) or float(weight.abs().max()) == 0.0:
        raise UserError(
            "the reward head is all zero or not finite before training; set training.head_init_std to a positive number"
        )


def check_start(
    chosen: "Tensor",
    rejected: "Tensor",
    losses: "Tensor",
    losses_at_zero: "Tensor",
    weights: "Tensor",
    fresh_head: bool,
) -> float:
    """Refuse a start at which nothing can be learnt and return the loss of the first pairs.

    Args:
        chosen: [pairs] rewards of the first pairs before any step; the other tensors have the same shape.
        losses: what the objective makes of them.
        losses_at_zero: what the objective makes of equal rewards, ln 2 for Bradley-Terry.
        fresh_head: the head was drawn, not loaded; only then the rewards are known to be small.

    Raises:
        UserError: chosen and rejected are equal in every pair, the loss is not finite, or it is far from that of equal
            rewards.
    """
    loss = _finite_loss(losses, weights, "pairs")
    size = max(chosen.abs().max().item(), rejected.abs().max().item())
    if (chosen - rejected).abs().max().item() <= EQUAL_REWARDS * size:
        raise UserError(
            f"the rewards of the chosen and the rejected reply are equal in all {len(chosen)} first pairs, so "
            "nothing can be learnt: the reward is read inside the prompt they share; check the end and pad tokens of "
            "the token recipe"
        )
    if fresh_head:
        _check_fresh_loss(loss, _mean(losses_at_zero, weights))
    return loss


def check_response_start(
    outputs: "Tensor",
    prompts: "Tensor",
    losses: "Tensor",
    losses_at_zero: "Tensor",
    weights: "Tensor",
    fresh_head: bool,
) -> float:
    """Do for labelled responses what ``check_start`` does for pairs.

    Args:
        outputs: [R, A] of the first responses before any step.
        prompts: [R] number of the prompt that each answers.
        losses: [items]; ``losses_at_zero`` (outputs of zero) and ``weights`` have the same shape.

    Raises:
        UserError: the responses of each prompt have equal outputs, the loss is not finite, or far from that of a model
            that says nothing.
    """
    loss = _finite_loss(losses, weights, "responses")
    size = outputs.abs().max().item()
    of_prompts = [outputs[prompts == prompt] for prompt in sorted(set(prompts.tolist()))]
    spreads = [_spread(of_prompt) for of_prompt in of_prompts if len(of_prompt) > 1]
    if max(spreads or [_spread(outputs)]) <= EQUAL_REWARDS * size:
        raise UserError(
            f"the rewards of the responses of a prompt are equal in all {len(outputs)} first responses, so nothing can "
            "be learnt: the reward is read inside the prompt they share; check the end and pad tokens of the token "
            "recipe"
        )
    if fresh_head:
        _check_fresh_loss(loss, _mean(losses_at_zero, weights))
    return loss


def _spread(outputs: "Tensor") -> float:
    return float((outputs.max(0).values - outputs.min(0).values).max())


def _mean(losses: "Tensor", weights: "Tensor") -> float:
    if not weights.any():
        return float(losses.mean())
    return float((weights * losses).sum() / weights.sum())


def _finite_loss(losses: "Tensor", weights: "Tensor", what: str) -> float:
    loss = _mean(losses, weights)
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of the first {what} is {loss} before any step; set training.precision to fp32 or "
            "check the base model's weights"
        )
    return loss


def _check_fresh_loss(loss: float, expected: float) -> None:
    tolerance = FRESH_LOSS_TOLERANCE * max(1.0, expected)
    if abs(loss - expected) > tolerance:
        raise UserError(
            f"the loss of a fresh head is {loss:.3f} where equal rewards give {expected:.3f} (more than "
            f"{tolerance:.3g} apart); lower training.head_init_std"
        )


def check_reload(before: "Tensor", after: "Tensor", missing: list[str], what: str, save_dtype: str) -> float:
    """Refuse a saved model that is not the trained one and return the largest |difference| of its rewards.

    Args:
        before: [rows] rewards of the trained model, fp32.
        after: [rows] rewards of the saved one, loaded by plain transformers (and peft) and computed in fp32.
        missing: names of weights that transformers did not find in the saved files.
        what: the folder, for the sentence.
    """
    if missing:
        raise UserError(f"the saved {what} lacks the weights {', '.join(missing)}; nothing is published")
    difference = (before - after).abs().max().item()
    tolerance = reload_tolerance(before, save_dtype)
    if not difference <= tolerance:
        raise UserError(
            f"the saved {what} gives other rewards than the trained model: they differ by up to {difference:.2e} "
            f"(tolerance {tolerance:.0e}); nothing is published"
        )
    return difference


def reload_tolerance(rewards: "Tensor", save_dtype: str) -> float:
    """Return the largest difference that rounding in ``save_dtype`` explains for rewards of this size."""
    return RELOAD_TOLERANCE[save_dtype] * max(1.0, rewards.abs().max().item())


def holds_head(model_folder: Path) -> bool:
    """Tell whether the weights in a folder come with a reward head of their own."""
    from safetensors import safe_open

    index = model_folder / SAFETENSORS_INDEX
    if index.is_file():
        return "score.weight" in json.loads(index.read_text("utf-8"))["weight_map"]
    for path in sorted(model_folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as weights:
            if "score.weight" in weights.keys():  # noqa: SIM118 (not a mapping)
                return True
    return False
