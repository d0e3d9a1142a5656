"""The model of a run config, with its trainer, and in one piece again after several processes trained it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from rm_workflow.models import frozen, reward_model
from rm_workflow.models.base import hub_name
from rm_workflow.models.readout import END, Readout, check_signs
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import canaries, distributed, launch
from rm_workflow.training.data import TrainPairs
from rm_workflow.training.held_out import Positions
from rm_workflow.training.metrics import Progress
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.response_trainer import ResponseTrainer
from rm_workflow.training.responses import TrainResponses
from rm_workflow.training.solution_trainer import SolutionTrainer
from rm_workflow.training.solutions import TrainSolutions
from rm_workflow.training.trainer import PairTrainer, add_lora


def make_trainer(
    run_config: Mapping[str, Any],
    encoder: Encoder,
    pairs: TrainPairs | TrainResponses,
    base: Path,
    progress: Progress,
    out: Path,
    identity: str = "",
    positions: tuple[Positions, Positions] | None = None,
    strategy: launch.Strategy = "ddp",
) -> PairTrainer:
    """Return a trainer with the model of a run config, its fresh head and its adapters, all drawn by the seed.

    Args:
        identity: what its states are written for (``resuming.run_identity``).
        positions: of the pairs to train on and of those held out; None trains on all.
        strategy: how several processes hold the model.
    """
    is_sharded = strategy == "fsdp" and distributed.size() > 1
    readout = readout_of(pairs)
    model = make_model(run_config, encoder, base, launch.is_main() or not is_sharded, readout)
    if readout.sign_ids and not is_sharded:
        check_signs(model, readout.sign_ids)
    if is_sharded:
        distributed.shard(model, run_config["device"])
    embedding = reward_model.transformers_model(model).get_input_embeddings()
    canaries.check_embedding(pairs, encoder.pad_token_id, embedding.num_embeddings)
    kind: Any = _trainer_of(pairs)
    trainer: PairTrainer = kind(model, encoder.tokenizer, pairs, run_config, progress, out, identity, positions)
    canaries.check_weights(pairs, trainer.steps, run_config["training"]["batch_unit"])
    return trainer


def _trainer_of(pairs: TrainPairs | TrainResponses) -> type[PairTrainer]:
    if isinstance(pairs, TrainSolutions):
        return SolutionTrainer
    return ResponseTrainer if isinstance(pairs, TrainResponses) else PairTrainer


def readout_of(pairs: TrainPairs | TrainResponses) -> Readout:
    """Return how the rewards of a model that trains on this data are read."""
    return pairs.readout if isinstance(pairs, TrainSolutions) else END


def make_model(
    run_config: Mapping[str, Any], encoder: Encoder, base: Path, has_weights: bool, readout: Readout = END
) -> Any:
    """Return the model that a run config trains, with its adapters.

    Args:
        has_weights: read and draw its weights; else their places are on ``meta``, to be filled from another process.
    """
    training, seed = run_config["training"], run_config["seed"]
    model: Any
    if has_weights:
        model = reward_model.load_reward_model(
            base, training["head_init_std"], seed, encoder.pad_token_id, readout.kind
        )
        if readout.has_drawn_head:
            canaries.check_head(model)
    else:
        model = reward_model.empty_reward_model(base, encoder.pad_token_id, readout.kind)
    if len(run_config["attributes"]) > 1:
        reward_model.widen_head(model, len(run_config["attributes"]), training["head_init_std"], seed)
    set_seed(seed)
    if training["lora"]:
        model = add_lora(model, training["lora"], adapter_base(run_config["base"], base), readout.kind)
    if holds_bf16(run_config, base):
        frozen.hold_in_bf16(model)
    return model


def holds_bf16(run_config: Mapping[str, Any], base: Path) -> bool:
    """Tell whether the weights beside a LoRA are held in bf16, which then changes nothing but the memory."""
    is_frozen = run_config["training"]["lora"] is not None
    return is_frozen and run_config["precision"] == "bf16" and frozen.is_stored_in_bf16(base)


def whole_model(
    trainer: PairTrainer, run_config: Mapping[str, Any], encoder: Encoder, base: Path, probe: MicroBatch
) -> tuple[Any, Tensor | None]:
    """Return the trained model in one piece and, where it was cut into parts, the rewards that these gave the probe."""
    model = trainer.trained_model
    if not distributed.is_sharded(model):
        return model, None
    with torch.no_grad(), trainer.exactly():
        rewards = trainer.rewards(model.eval(), trainer._prepare_inputs(dict(probe))).cpu()
    weights = distributed.whole_weights(model)
    if not launch.is_main():
        return None, None
    whole = make_model(run_config, encoder, base, False, readout_of(trainer.pairs))
    whole.load_state_dict(weights, assign=True)
    # Assigned one by one, weights that are one tensor under two names are two.
    reward_model.transformers_model(whole).tie_weights()
    return whole, rewards


def adapter_base(base: str, folder: Path) -> str:
    """Return the base that an adapter names, by which others find it too: its hub id, with ``@revision`` where told.

    A base that is nowhere else is named by its folder, which transformers can load.
    """
    name = None if Path(base).is_dir() else hub_name(base)
    if name is None:
        return str(folder)
    _, _, revision = base.partition("@")
    return f"{name}@{revision}" if revision else name
