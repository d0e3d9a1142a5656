"""The trainer on labelled responses: the same step, loop and canaries as on pairs, with a loss of its own."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel

from rm_workflow.models import attention, reward_model
from rm_workflow.training import distributed, objectives
from rm_workflow.training.data import training_steps
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.responses import ResponseCollator, TrainResponses, choose_layout, response_batch
from rm_workflow.training.trainer import PairTrainer

ATTRIBUTES = "attributes.safetensors"
PROBE_RESPONSES = 16
# A standard score this close to the mean is the rounding of a rating at the mean.
NEXT_TO_MIDDLE = 1e-6


class ResponseTrainer(PairTrainer):
    """Trains on the responses of a tokens artifact; ``self.pairs`` are its items."""

    pairs: TrainResponses  # type: ignore[assignment]
    collator: ResponseCollator  # type: ignore[assignment]
    objective: objectives.OnResponses
    attribute_weights: torch.Tensor

    def set_up(self, run_config: Mapping[str, Any], model: PreTrainedModel | PeftModel, pad_token_id: int) -> None:
        """Choose objective, steps and layout."""
        training = run_config["training"]
        self.objective = objectives.ON_RESPONSES[run_config["objective"]]
        self.attribute_weights = torch.tensor(list(attribute_weights(run_config).values()) or [1.0])
        self.steps = training_steps(self.pairs, run_config["seed"], training["epochs"], training["batch_size"])
        device, classifier = run_config["device"], reward_model.transformers_model(model)
        dropout = training["lora"]["dropout"] if training["lora"] else 0.0
        self.layout, self.layout_reason = choose_layout(
            training["layout"], self.pairs, self.steps, classifier, device, dropout
        )
        budget = training["micro_batch_tokens"]
        self.collator = ResponseCollator(self.pairs, self.layout, budget, pad_token_id, device)

    def outputs(self, model: torch.nn.Module, inputs: MicroBatch) -> torch.Tensor:
        """Return the float32 outputs of the head, [R, A]."""
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return distributed.within(
                model,
                lambda inner: reward_model.outputs(
                    inner,
                    inputs["input_ids"],
                    inputs["end_index"],
                    inputs["row_index"],
                    **attention.arguments(inputs),
                ),
            )

    def rewards(self, model: torch.nn.Module, inputs: MicroBatch) -> torch.Tensor:
        """Return the one reward of each response as the saved model gives it, float32 [R]."""
        outputs = self.outputs(model, inputs)
        return outputs @ self.attribute_weights.to(outputs)

    def item_losses(self, model: torch.nn.Module, inputs: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and margin of each item, both [I].

        The margin is above 0 where the reward is right: of a ranking the highest reward of the best rank - the highest
        of the rest; else the reward, turned round where the label is below the middle (the mean rating, or a wrong
        answer), NaN where the label is the middle itself.
        """
        outputs = self.outputs(model, inputs)
        targets, item = inputs["targets"], inputs["item_index"]
        losses = self.objective.loss(outputs, targets, item)
        with torch.no_grad():
            rewards = outputs @ self.attribute_weights.to(outputs)
            if self.objective.target == "rank":
                return losses, _lead_of_the_best(rewards, targets.squeeze(-1), item)
            middle = 0.5 if self.objective.target == "outcome" else 0.0
            labels = targets.nan_to_num(0.0) @ self.attribute_weights.to(targets) - middle
            return losses, torch.where(labels.abs() > NEXT_TO_MIDDLE, rewards * labels.sign(), math.nan)

    def padded(self, positions: Sequence[int]) -> MicroBatch:
        """Return items in padded rows, one a response."""
        return response_batch(self.pairs, positions, self.collator.pad_token_id)

    def probe(self) -> MicroBatch:
        """Return the first responses of training, whole prompts where a step holds no whole prompts."""
        data, chosen = self.pairs, dict[int, None]()
        by_prompt: dict[int, list[int]] = {}
        for item in range(len(data)):
            by_prompt.setdefault(int(data.prompt[data.item_starts[item]]), []).append(item)
        for item in itertools.chain.from_iterable(self.steps):
            if sum(len(data.rows_of(one)) for one in chosen) >= PROBE_RESPONSES:
                break
            chosen.update(dict.fromkeys(by_prompt[int(data.prompt[data.item_starts[item]])]))
        return self.padded(list(chosen))

    def finish(self, model: torch.nn.Module, out: Path) -> None:
        """Leave a model of one reward; the heads of several attributes are kept beside it.

        The one reward is the sum of weight x output over the attributes, which is one linear head again.
        """
        if self.objective.target != "ratings":
            return
        head = reward_model.head_module(model)
        rows = head.weight.detach().float().cpu()
        save_file({name: row.clone() for name, row in zip(self.pairs.scales, rows, strict=True)}, out / ATTRIBUTES)
        reward_model.combine_head(model, self.attribute_weights)


def attribute_weights(run_config: Mapping[str, Any]) -> dict[str, float]:
    """Return attribute -> weight in the one reward, in the order of the head's outputs; empty without attributes."""
    names = run_config["attributes"]
    given = run_config["training"]["attribute_weights"] or dict.fromkeys(names, 1 / max(len(names), 1))
    return {name: float(given[name]) for name in names}


def _lead_of_the_best(rewards: torch.Tensor, ranks: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    lists = [(rewards[rows], ranks[rows]) for rows in objectives.rows_of_items(item)]
    return torch.stack([one[rank == rank.min()].max() - one[rank > rank.min()].max() for one, rank in lists])
