"""The trainer on labelled solutions: outcome and process models, generative ones and token classifiers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from rm_workflow.models import attention, readout, reward_model
from rm_workflow.models.readout import Readout
from rm_workflow.training import distributed, objectives
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.response_trainer import NEXT_TO_MIDDLE, ResponseTrainer
from rm_workflow.training.responses import choose_layout
from rm_workflow.training.solutions import SolutionCollator, TrainSolutions, solution_batch

PROBE_SOLUTIONS = 8


class SolutionTrainer(ResponseTrainer):
    """Trains on the labels of solutions; ``self.pairs`` are the solutions."""

    pairs: TrainSolutions
    collator: SolutionCollator
    readout: Readout

    def set_up(self, run_config: Mapping[str, Any], model: PreTrainedModel | PeftModel, pad_token_id: int) -> None:
        """Choose objective, blocks, steps and layout."""
        training, device = run_config["training"], run_config["device"]
        self.objective = objectives.ON_RESPONSES[run_config["objective"]]
        self.readout = self.pairs.readout
        self.steps, self.blocks_of_steps = self.pairs.block_steps(
            run_config["seed"], training["epochs"], training["batch_size"], run_config["token_recipe"]["max_length"]
        )
        dropout = training["lora"]["dropout"] if training["lora"] else 0.0
        self.layout, self.layout_reason = choose_layout(
            training["layout"], self.pairs, self.steps, reward_model.transformers_model(model), device, dropout
        )
        self.collator = SolutionCollator(self.pairs, self.layout, training["micro_batch_tokens"], pad_token_id, device)

    def outputs(self, model: torch.nn.Module, inputs: MicroBatch) -> torch.Tensor:
        """Return what the model says of each label, float32: log p(+) and log p(-) [L, 2], or a logit [L, 1]."""
        signs = self.readout.sign_ids

        def said(inner: torch.nn.Module) -> torch.Tensor:
            where = inputs["input_ids"], inputs["end_index"], inputs["row_index"]
            hidden = reward_model.hidden_states(inner, *where, **attention.arguments(inputs))
            return readout.sign_log_probs(inner, hidden, signs) if signs else reward_model.head_outputs(inner, hidden)

        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return distributed.within(model, said)

    def rewards(self, model: torch.nn.Module, inputs: MicroBatch) -> torch.Tensor:
        """Return the logit of "right" at each label, float32 [L]."""
        return self._logits(self.outputs(model, inputs))

    def _logits(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, 0] - outputs[:, 1] if self.readout.sign_ids else outputs[:, 0]

    def item_losses(self, model: torch.nn.Module, inputs: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and margin of each label, both [L].

        The margin is the logit, turned round where the label is below one half, NaN where it is one half.
        """
        outputs, targets = self.outputs(model, inputs), inputs["targets"]
        losses = self.objective.loss(outputs, targets, inputs["item_index"])
        with torch.no_grad():
            lean = targets[:, 0] - 0.5
            margins = torch.where(lean.abs() > NEXT_TO_MIDDLE, self._logits(outputs) * lean.sign(), math.nan)
        return losses, margins

    def padded(self, positions: Sequence[int]) -> MicroBatch:
        """Return solutions in padded rows; one that stands there for several labels is laid out once."""
        return solution_batch(self.pairs, list(dict.fromkeys(positions)), self.collator.pad_token_id)

    def probe(self) -> MicroBatch:
        """Return the first solutions of training."""
        first = dict.fromkeys(itertools.chain.from_iterable(self.steps))
        return self.padded(list(itertools.islice(first, PROBE_SOLUTIONS)))
