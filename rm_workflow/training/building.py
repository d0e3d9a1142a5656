"""The model of a run config, with its trainer, and in one piece again after several processes trained it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from rm_workflow.models import reward_model
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import canaries, distributed, launch
from rm_workflow.training.data import TrainPairs
from rm_workflow.training.held_out import Positions
from rm_workflow.training.metrics import Progress
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.response_trainer import ResponseTrainer
from rm_workflow.training.responses import TrainResponses
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
    model = make_model(run_config, encoder, base, has_weights=launch.is_main() or not is_sharded)
    if is_sharded:
        distributed.shard(model, run_config["device"])
    kind: Any = ResponseTrainer if isinstance(pairs, TrainResponses) else PairTrainer
    trainer: PairTrainer = kind(model, encoder.tokenizer, pairs, run_config, progress, out, identity, positions)
    return trainer


def make_model(run_config: Mapping[str, Any], encoder: Encoder, base: Path, has_weights: bool) -> Any:
    """Return the model that a run config trains, with its adapters.

    Args:
        has_weights: read and draw its weights; else their places are on ``meta``, to be filled from another process.
    """
    training, seed = run_config["training"], run_config["seed"]
    model: Any
    if has_weights:
        model = reward_model.load_reward_model(base, training["head_init_std"], seed, encoder.pad_token_id)
        canaries.check_head(model)
    else:
        model = reward_model.empty_reward_model(base, encoder.pad_token_id)
    if len(run_config["attributes"]) > 1:
        reward_model.widen_head(model, len(run_config["attributes"]), training["head_init_std"], seed)
    set_seed(seed)
    if training["lora"]:
        model = add_lora(model, training["lora"], adapter_base(run_config["base"], base))
    return model


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
    whole = make_model(run_config, encoder, base, has_weights=False)
    whole.load_state_dict(weights, assign=True)
    return whole, rewards


def adapter_base(base: str, folder: Path) -> str:
    """Return the base that an adapter names: the recipe's hub id, else the folder, which transformers can load."""
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).is_dir()
    return base if is_hub_id else str(folder)
