"""TRL's RewardTrainer on pairs that are tokenised already, with an exact loss over the whole optimiser step.

What differs from the stock trainer (TRL 1.16), and why:

- One batch of the data loader is one optimiser step; its micro-batches are normalised by the weight of all its pairs,
  so neither their size nor a short last step changes loss or gradients. The stock mean over micro-batches of unequal
  size does not have this property.
- Rewards are read at an explicit end index by a head in float32, not at the last token that is not the pad.
- Which pairs a step holds is a function of their content and the seed.
- Accuracy, margin and loss are counted over pairs, by source.
- A run that was ended goes on as if it had not been (see ``resuming.py``).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ProgressCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.utils import disable_dropout_in_model

from rm_workflow.errors import UserError
from rm_workflow.models import attention, reward_model
from rm_workflow.models.readout import Kind
from rm_workflow.training import canaries, distributed, held_out, layouts, memory, objectives
from rm_workflow.training.data import TrainPairs, training_steps
from rm_workflow.training.held_out import Positions
from rm_workflow.training.layouts import StepCollator
from rm_workflow.training.metrics import Progress
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.resuming import AskForState, Schedule
from rm_workflow.training.validating import AskForValidation, ValidatedTrainer

HEAD = "score"
TASKS: dict[Kind, TaskType] = {"end": TaskType.SEQ_CLS, "steps": TaskType.TOKEN_CLS, "signs": TaskType.CAUSAL_LM}


class PairTrainer(ValidatedTrainer):
    """Trains a reward model on the pairs of a tokens artifact as a run config says."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: TrainPairs,
        run_config: Mapping[str, Any],
        progress: Progress,
        out: Path,
        identity: str = "",
        positions: tuple[Positions, Positions] | None = None,
    ) -> None:
        training = run_config["training"]
        self.out, self.identity = out, identity
        self.schedule = Schedule(**training["save"])
        self.trained, self.held_out = positions or (np.arange(len(pairs)), np.arange(0))
        self.validation, self.validations = training["validation"], []
        self.pairs = pairs
        self.progress = progress
        self.autocast = run_config["precision"] == "bf16"
        self.set_up(run_config, model, tokenizer.pad_token_id)
        if training["compile"]:
            classifier = reward_model.transformers_model(model)
            # In place: names of weights stay, and the reward is read from the body (see ``reward_model.rewards``).
            getattr(classifier, classifier.base_model_prefix).compile(dynamic=True)
        config = reward_model.transformers_model(model).config
        # TRL refuses any other number, which a causal model states although it has no labels.
        num_labels, config.num_labels = config.num_labels, 1
        super().__init__(
            model=model,
            args=training_arguments(run_config, out),
            data_collator=distributed.collator_of_this_process(self.collator),
            train_dataset=Dataset.from_dict({"pair": range(len(pairs))}),
            processing_class=tokenizer,
        )
        config.num_labels = num_labels
        self.use_layout(self.layout, self.layout_reason)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(LogLastStep())
        self.add_callback(AskForState(self.schedule))
        if self.validation:
            self.add_callback(AskForValidation(self.validation["steps"]))

    def set_up(self, run_config: Mapping[str, Any], model: PreTrainedModel | PeftModel, pad_token_id: int) -> None:
        """Choose objective, steps and layout."""
        training = run_config["training"]
        self.pair_loss = objectives.smoothed(objectives.get(run_config["objective"]), training["label_smoothing"])
        self.center_coefficient = float(training["center_rewards_coefficient"] or 0.0)
        keys = held_out.subset(self.pairs, self.trained)
        steps = training_steps(
            keys, run_config["seed"], training["epochs"], training["batch_size"], training["grouping"]
        )
        self.steps = [self.trained[step].tolist() for step in steps]
        classifier = reward_model.transformers_model(model)
        dropout = training["lora"]["dropout"] if training["lora"] else 0.0
        device, budget = run_config["device"], training["micro_batch_tokens"]
        self.layout, self.layout_reason = layouts.choose(
            training["layout"], self.pairs, self.steps, budget, classifier, device, dropout
        )
        self.collator = StepCollator(self.pairs, self.layout, budget, pad_token_id, device)

    def use_layout(self, layout: layouts.Layout, reason: str) -> None:
        """Lay the pairs out in another way from now on."""
        self.layout, self.layout_reason = layout, reason
        classifier = reward_model.transformers_model(self.trained_model)
        if layout in layouts.ONE_ROW:
            attention.use_segments(classifier, self.collator.device)
        else:
            attention.use_plain(classifier)
        self.collator = replace(self.collator, layout=layout)
        self.data_collator = distributed.collator_of_this_process(self.collator)

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Compute in float32 within the context, whatever the precision of training."""
        self.autocast, autocast = False, self.autocast
        try:
            yield
        finally:
            self.autocast = autocast

    @property
    def trained_model(self) -> PreTrainedModel | PeftModel:
        """Return the model itself, without the wrappers of a launcher."""
        model: PreTrainedModel | PeftModel = self.accelerator.unwrap_model(self.model)
        return model

    def finish(self, model: torch.nn.Module, out: Path) -> None:
        """Do to the trained model, in one piece, what is left before it is saved; a model of pairs is ready."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        """Return the rows as they are: the tokens artifact has dropped and counted what is too long."""
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the optimiser steps, the same in every process: each computes its share of all of them.

        accelerate would give every process other steps.
        """
        dataset: Any = self.train_dataset
        return DataLoader(
            dataset,
            batch_sampler=self.steps,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _wrap_model(self, model: torch.nn.Module, training: bool = True, dataloader: Any = None) -> torch.nn.Module:
        """Return the model as several processes train it; accelerate prepares what comes back unchanged."""
        return distributed.replicate(model)

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Add the gradients of one optimiser step and return its loss, shape [].

        Raises:
            UserError: the loss is NaN or infinite.
            Terminated: a signal came; weights and optimizer are still those after the step before.
        """
        self.enter_step()
        model.train()
        step = [self._prepare_inputs(batch) for batch in inputs["micro_batches"]]
        total_weight = distributed.summed(torch.stack([batch["weight"].sum() for batch in step]).sum())
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(step):
            distributed.end_if_asked()
            with distributed.gradients(model, exchange=number == len(step) - 1):
                loss += memory.guarded(self, batch, partial(self.add_gradient, model, batch, total_weight))
        loss = distributed.summed(loss)
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}; lower training.learning_rate "
                "or set training.precision to fp32"
            )
        self.progress.window.steps += 1
        self.leave_step()
        return loss

    def add_gradient(self, model: torch.nn.Module, batch: MicroBatch, total_weight: torch.Tensor) -> torch.Tensor:
        """Add the gradients of one micro-batch and return its share of the step's loss, shape []."""
        share = self.compute_loss(model, batch) / total_weight
        # Wrappers exchange the mean of all processes' gradients where a step needs their sum.
        self.accelerator.backward(share * distributed.size())
        return share.detach()

    def compute_loss(
        self, model: torch.nn.Module, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return the sum of weight x loss over the pairs of one micro-batch, shape []."""
        losses, margins = self.item_losses(model, inputs)
        loss = objectives.weighted_sum(losses, inputs["weight"])
        if distributed.FILLER in inputs:
            return loss
        self.progress.window.add(
            num_items=len(inputs["num_tokens"]),
            weighted_loss=loss.item(),
            weight=inputs["weight"].sum().item(),
            margins=margins.tolist(),
            sources=[self.pairs.source[pair] for pair in inputs["pair"].tolist()],
            tokens=int(inputs["num_tokens"].sum().item()),
            # No conversation holds the pad (see canaries), so this counts what is no padding in any layout.
            filled=int((inputs["input_ids"] != self.collator.pad_token_id).sum().item()),
            computed=inputs["input_ids"].numel(),
        )
        return loss

    def item_losses(self, model: torch.nn.Module, inputs: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and margin of each pair, both of shape [pairs]."""
        chosen, rejected = self.pair_rewards(model, inputs)
        losses = self.pair_loss(chosen, rejected, inputs["score_gap"])
        if self.center_coefficient:
            losses = losses + self.center_coefficient * objectives.center_rewards(chosen, rejected)
        return losses, (chosen - rejected).detach()

    def padded(self, positions: Sequence[int]) -> MicroBatch:
        """Return pairs in padded rows, the reference of every layout."""
        return layouts.padded_batch(self.pairs, positions, self.collator.pad_token_id)

    def rewards(self, model: torch.nn.Module, inputs: MicroBatch) -> torch.Tensor:
        """Return the float32 rewards of the chosen, then of the rejected sides, shape [2 pairs]."""
        return torch.cat(self.pair_rewards(model, inputs))

    def pair_rewards(self, model: torch.nn.Module, inputs: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the float32 rewards of the chosen and of the rejected side, each of shape [pairs]."""
        # The backbone is called below the model's own forward, so accelerate's autocast would not reach it.
        with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            rewards = distributed.within(
                model,
                lambda inner: reward_model.rewards(
                    inner,
                    inputs["input_ids"],
                    inputs["end_index"],
                    inputs["row_index"],
                    **attention.arguments(inputs),
                ),
            )
        chosen, rejected = rewards.chunk(2)
        return chosen, rejected

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write the line of a logging step; transformers' summary at the end is in ``result.json``."""
        if "loss" not in logs:
            return
        window = self.progress.window = distributed.summed_window(self.progress.window)
        step = self.state.global_step
        canaries.check_margins(window.largest_margin, window.judged, step)
        row = self.progress.record(step, logs["learning_rate"], logs["grad_norm"])
        if self.args.report_to:
            figures = {name: value for name, value in row.items() if isinstance(value, int | float)}
            super().log({**figures, **{f"{name}_accuracy": s["accuracy"] for name, s in row["sources"].items()}})

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        grad_norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        canaries.check_gradient(float(grad_norm), self.state.global_step + 1)
        return grad_norm

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Return 0: transformers would look for one ``input_ids`` in a batch of micro-batches."""
        return 0


class LogLastStep(TrainerCallback):
    """Makes the last step a logging step, so that no pair is missing from the metrics.

    The end of the epoch is that of the run, and the moment after an early stop.
    """

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a log where the last step had none."""
        control.should_log = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a log at the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = True


def training_arguments(run_config: Mapping[str, Any], out: Path) -> RewardConfig:
    """Return TRL's configuration of a run config; what is fixed here does not depend on the recipe."""
    training = run_config["training"]
    return RewardConfig(
        output_dir=str(out),
        max_steps=run_config["num_steps"],
        per_device_train_batch_size=training["batch_size"],
        learning_rate=training["learning_rate"],
        lr_scheduler_type=training["schedule"],
        warmup_steps=run_config["warmup_steps"],
        weight_decay=training["weight_decay"],
        max_grad_norm=training["max_grad_norm"],
        optim=training["optimizer"],
        seed=run_config["seed"],
        logging_steps=training["logging_steps"],
        logging_first_step=True,
        logging_nan_inf_filter=False,
        # TRL turns both on by default. Autocast is entered around the backbone instead (see pair_rewards).
        bf16=False,
        activation_checkpointing=training["activation_checkpointing"],
        disable_dropout=training["lora"] is None,
        use_cpu=run_config["device"] == "cpu",
        disable_tqdm=True,
        report_to=training["report_to"] or "none",
        run_name=run_config["recipe"],
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=run_config["device"] != "cpu",
        max_length=None,
    )


def add_lora(model: PreTrainedModel, lora: Mapping[str, Any], base: str, kind: Kind = "end") -> PeftModel:
    """Wrap a model with LoRA adapters; a drawn head is trained whole and saved with them.

    Args:
        base: hub id, with ``@revision`` where it is told, or folder that the adapter names as the model it belongs to.

    Raises:
        UserError: the base has no such modules.
    """
    # TRL would silence the adapters' own dropout with the body's, so it is told not to (see training_arguments).
    disable_dropout_in_model(model)
    config = LoraConfig(
        task_type=TASKS[kind],
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
        modules_to_save=None if kind == "signs" else [HEAD],
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        linear = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        raise UserError(
            f"training.lora.target_modules {lora['target_modules']} does not fit {base}; set it to all-linear or to "
            f"some of {', '.join(sorted(linear - {HEAD}))}"
        ) from error
    # get_peft_model names the folder that the model was loaded from.
    named = wrapped.peft_config["default"]
    name, _, revision = (base, "", "") if Path(base).is_dir() else base.partition("@")
    named.base_model_name_or_path, named.revision = name, revision or None
    return wrapped
