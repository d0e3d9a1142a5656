"""What is proven before training starts: the loss of the first batch, and that no reward depends on the layout."""

import itertools
from pathlib import Path

import torch
from torch import Tensor

from rm_workflow.models.reward_model import first_line, transformers_model
from rm_workflow.training import canaries, layouts
from rm_workflow.training.building import readout_of
from rm_workflow.training.data import TrainPairs
from rm_workflow.training.layouts import padded_batch
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.response_trainer import ResponseTrainer
from rm_workflow.training.responses import TrainResponses
from rm_workflow.training.trainer import PairTrainer

PROBE_PAIRS = 8
# In fp32, which a CPU is slow at.
LAYOUT_PROBE_PAIRS = 2
CAUSAL_PROBE_TOKENS = 8


def first_batch(trainer: PairTrainer, pairs: TrainPairs | TrainResponses, pad_token_id: int) -> MicroBatch:
    """Return the first pairs, or responses, of training in padded rows."""
    if isinstance(trainer, ResponseTrainer):
        return trainer.probe()
    assert isinstance(pairs, TrainPairs)
    first = list(itertools.islice(itertools.chain.from_iterable(trainer.steps), PROBE_PAIRS))
    return padded_batch(pairs, first, pad_token_id)


def check_start(trainer: PairTrainer, probe: MicroBatch, fresh_head: bool) -> float:
    """Run the start-up canaries on the first pairs, in the precision of training, and return their loss."""
    batch = trainer._prepare_inputs(dict(probe))
    if isinstance(trainer, ResponseTrainer):
        return _check_response_start(trainer, batch, fresh_head)
    with torch.no_grad():
        chosen, rejected = trainer.pair_rewards(trainer.trained_model.eval(), batch)
        zero = torch.zeros_like(chosen)
        losses = trainer.pair_loss(chosen, rejected, batch["score_gap"])
        losses_at_zero = trainer.pair_loss(zero, zero, batch["score_gap"])
    canaries.check_shapes(chosen, batch["score_gap"], losses)
    return canaries.check_start(chosen, rejected, losses, losses_at_zero, batch["weight"], fresh_head)


def _check_response_start(trainer: ResponseTrainer, batch: MicroBatch, fresh_head: bool) -> float:
    targets, item = batch["targets"], batch["item_index"]
    data = trainer.pairs
    rows = [data.prompt[data.rows_of(one)] for one in batch["pair"].tolist()]
    prompts = torch.tensor([int(prompt) for of_item in rows for prompt in of_item], device=targets.device)
    with torch.no_grad():
        outputs = trainer.outputs(trainer.trained_model.eval(), batch)
        losses = trainer.objective.loss(outputs, targets, item)
        losses_at_zero = trainer.objective.loss(torch.zeros_like(outputs), targets, item)
    return canaries.check_response_start(outputs, prompts, losses, losses_at_zero, batch["weight"], fresh_head)


def prove_layout(trainer: PairTrainer, probe: MicroBatch) -> None:
    """Let the trainer fall back to ``grouped``, with a word, where this body's rewards depend on the layout.

    Raises:
        UserError: they depend on what follows a reply, so not even padded rows can be computed together.
    """
    for batch in trainer.collator.micro_batches(_layout_probe(trainer, probe)):
        padded = trainer.padded(batch["pair"].tolist())
        rewards = _exact_rewards(trainer, padded)
        followed = layouts.followed(padded, CAUSAL_PROBE_TOKENS, trainer.collator.pad_token_id)
        canaries.check_causal(rewards, _exact_rewards(trainer, followed))
        if trainer.layout not in layouts.ONE_ROW:
            continue
        try:
            difference = canaries.relative_difference(rewards, _exact_rewards(trainer, batch))
        except (TypeError, ValueError, RuntimeError) as error:
            trainer.use_layout("grouped", f"the body refuses the {trainer.layout} layout ({first_line(error)})")
            return
        # Also where the difference is NaN.
        if not difference <= canaries.LAYOUT_TOLERANCE:
            reason = f"rewards of the {trainer.layout} layout differ by {difference:.1e} of the largest"
            trainer.use_layout("grouped", reason)
            return


def _layout_probe(trainer: PairTrainer, probe: MicroBatch) -> list[int]:
    """Return the first pairs, or items of responses; with the longest where it alone exceeds the body's window."""
    first: list[int] = list(dict.fromkeys(probe["pair"].tolist()))[:LAYOUT_PROBE_PAIRS]
    config = transformers_model(trainer.trained_model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return [*first, trainer.pairs.place_of_longest] if window and window < trainer.pairs.longest else first


def _exact_rewards(trainer: PairTrainer, batch: MicroBatch) -> Tensor:
    """Return the rewards of the chosen, then of the rejected sides, or of all responses, in float32."""
    with torch.no_grad(), trainer.exactly():
        if isinstance(trainer, ResponseTrainer):
            return trainer.outputs(trainer.trained_model.eval(), trainer._prepare_inputs(dict(batch)))
        return trainer.rewards(trainer.trained_model.eval(), trainer._prepare_inputs(dict(batch)))


def has_fresh_head(base: Path, pairs: TrainPairs | TrainResponses) -> bool:
    """Tell whether a base model holds no reward head, so that one was drawn."""
    return readout_of(pairs).has_drawn_head and not canaries.holds_head(base)
