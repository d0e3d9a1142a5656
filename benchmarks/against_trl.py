"""Trained pairs per second against TRL's own trainer: ``python -m benchmarks.against_trl RECIPE [STEPS]``.

Three sides take the same optimiser steps: the same pairs in the same order, model, adapters, optimiser and learning
rate, each with a model of its own from the same seed.

- ``ours``: the project's trainer with ``layout: auto``.
- ``default``: TRL's ``RewardTrainer`` as it comes: 8 pairs a micro-batch, activations computed again.
- ``tuned``: the same with micro-batches of pairs of like length, activations kept, and the fastest size of micro-batch.

All compute in the recipe's precision. Printed: pairs per second, ratios by step, useful FLOP/s (those of ours in the
time of a step), how far the losses lie apart, and the FLOPs of one step, which need no clock. Where TRL's micro-batches
are of unequal size its loss is another one: the mean of their means weighs the pairs of a small one more.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import end
from benchmarks.layouts import with_four_responses
from benchmarks.recipe import PreparedRecipe, count_flops, prepare

NUM_STEPS = 5
DEFAULT_SIZE = 8
TRIED_SIZES = (2, 4, 8, 16)
# Padded tokens of a micro-batch whose kept activations fit into 16 GB (SmolLM2-135M); Linux kills what needs more.
MOST_CPU_TOKENS = 8192


@dataclass
class Side:
    """One way to train: a trainer, and how it takes a step of pairs."""

    trainer: Any
    size: int | None = None
    sorted_by_length: bool = False

    def step(self, positions: Sequence[int]) -> float:
        """Take one optimiser step and return its loss."""
        loss = self.gradients(positions)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        return loss

    def gradients(self, positions: Sequence[int]) -> float:
        """Add the gradients of one step."""
        if self.size is None:
            step = self.trainer.data_collator([{"pair": position} for position in positions])
            return float(self.trainer.training_step(self.trainer.model, step))
        rows = [self.trainer.train_dataset[position] for position in positions]
        if self.sorted_by_length:
            rows.sort(key=lambda row: max(len(row["chosen_ids"]), len(row["rejected_ids"])))
        batches = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
        # As gradient accumulation does: the mean of the micro-batches' means.
        self.trainer.current_gradient_accumulation_steps = len(batches)
        losses = [self.trainer.training_step(self.trainer.model, self._batch(batch)) for batch in batches]
        return float(sum(losses))

    def _batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.trainer.data_collator(rows)
        return batch


def main(recipe_name: str = "qwen25_7b_hh_lora_mini", num_steps: int | str = NUM_STEPS) -> None:
    """Print pairs per second of the three sides and their ratios."""
    from rm_workflow.settings import load_settings, wait_without_spinning

    wait_without_spinning()
    prepared = prepare(recipe_name, load_settings())
    compare("its pairs", prepared, int(num_steps))
    compare("four responses a prompt, all six pairs", with_four_responses(prepared), int(num_steps))


@dataclass(frozen=True)
class Timed:
    """One optimiser step.

    Attributes:
        memory: bytes of a GPU that it took beside what lay there before; 0 on a CPU.
    """

    seconds: float
    loss: float
    memory: int


def compare(what: str, prepared: PreparedRecipe, num_steps: int) -> float:
    """Time the sides on steps of a prepared recipe, after one step to warm up, and return our median pairs/s."""
    ours = Side(with_optimizer(prepared.trainer("auto")))
    steps = ours.trainer.steps[: num_steps + 2]
    sides = {
        "ours": ours,
        "default": Side(stock(prepared, recompute=True), DEFAULT_SIZE),
        "tuned": _tuned(prepared, steps[0]),
    }
    flops = {name: _flops(side, steps[0]) for name, side in sides.items()}
    rounds = [{name: _timed(side, step) for name, side in sides.items()} for step in steps[1:]][1:]
    pairs = sum(map(len, steps[2:])) / len(rounds)
    print(
        f"{prepared.name}: {what}: {len(rounds)} steps of {pairs:g} pairs in turn; ours: layout {ours.trainer.layout}, "
        f"{ours.trainer.layout_reason}; "
        f"tuned: {sides['tuned'].size} pairs a micro-batch; median (least to most)"
    )
    for name in sides:
        speeds = [len(step) / timed[name].seconds for step, timed in zip(steps[2:], rounds, strict=True)]
        ratios = [timed[name].seconds / timed["ours"].seconds for timed in rounds]
        rate = statistics.median(flops["ours"] / timed[name].seconds for timed in rounds)
        apart = max(abs(timed[name].loss - timed["ours"].loss) for timed in rounds)
        memory = max(timed[name].memory for timed in rounds)
        print(
            f"  {name:8s} {_spread(speeds)} pairs/s  ours is {_spread(ratios)} times as fast  "
            f"{rate / 1e12:.2f} useful TFLOP/s  {flops[name] / 1e12:.2f} TFLOP a step "
            f"({flops[name] / flops['ours']:.2f})  losses apart by {apart:.1e}"
            + (f"  {memory / 1e9:.1f} GB beside the weights" if memory else "")
        )
    return statistics.median(len(step) / timed["ours"].seconds for step, timed in zip(steps[2:], rounds, strict=True))


def alone(prepared: PreparedRecipe, num_steps: int) -> None:
    """Time our side only, where the memory does not hold a model for each."""
    ours = Side(with_optimizer(prepared.trainer("auto")))
    steps = ours.trainer.steps[: num_steps + 1]
    flops = [_flops(ours, step) for step in steps[1:]]
    rounds = [_timed(ours, step) for step in steps][1:]
    speeds = [len(step) / timed.seconds for step, timed in zip(steps[1:], rounds, strict=True)]
    rates = [count / timed.seconds / 1e12 for count, timed in zip(flops, rounds, strict=True)]
    print(
        f"{prepared.name}: ours alone, layout {ours.trainer.layout}: {_spread(speeds)} pairs/s  "
        f"{_spread(rates)} TFLOP/s"
    )


def _timed(side: Side, step: Sequence[int]) -> Timed:
    import torch

    if not torch.cuda.is_available():
        started = time.perf_counter()
        loss = side.step(step)
        return Timed(time.perf_counter() - started, loss, 0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    loss = side.step(step)
    torch.cuda.synchronize()
    return Timed(time.perf_counter() - started, loss, torch.cuda.max_memory_allocated() - before)


def _flops(side: Side, step: Sequence[int]) -> int:
    flops = count_flops(lambda: side.gradients(step))
    side.trainer.model.zero_grad()
    return flops


def _tuned(prepared: PreparedRecipe, step: Sequence[int]) -> Side:
    """Return TRL tuned by hand, at the fastest of some sizes of micro-batch."""
    trainer = stock(prepared, recompute=False)
    seconds = {}
    for size in TRIED_SIZES:
        if size > len(step) or (size > TRIED_SIZES[0] and _is_too_large(prepared, size, step)):
            continue
        side = Side(trainer, size, sorted_by_length=True)
        side.gradients(step)
        started = time.perf_counter()
        side.gradients(step)
        seconds[size] = time.perf_counter() - started
        trainer.model.zero_grad()
    return Side(trainer, min(seconds, key=seconds.__getitem__), sorted_by_length=True)


def _is_too_large(prepared: PreparedRecipe, size: int, step: Sequence[int]) -> bool:
    longest = max(max(prepared.pairs.lengths(position)) for position in step)
    return bool(prepared.config["device"] == "cpu" and 2 * size * longest > MOST_CPU_TOKENS)


def stock(prepared: PreparedRecipe, recompute: bool) -> Any:
    """Return TRL's trainer with a model like ours on the same token ids."""
    import torch
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    config, pairs = prepared.config, prepared.pairs
    training = config["training"]
    sides = {"chosen_ids": pairs.chosen, "rejected_ids": pairs.rejected}
    rows = Dataset.from_dict({name: [pairs.ids(row).tolist() for row in of] for name, of in sides.items()})
    arguments = RewardConfig(
        output_dir=tempfile.mkdtemp(prefix="against-trl-"),
        max_steps=config["num_steps"],
        learning_rate=training["learning_rate"],
        weight_decay=training["weight_decay"],
        optim=training["optimizer"],
        # accelerate keeps one precision for all trainers of a process; autocast is set below instead.
        bf16=False,
        activation_checkpointing=recompute,
        disable_dropout=training["lora"] is None,
        use_cpu=config["device"] == "cpu",
        max_length=None,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer: Any = RewardTrainer(
        model=prepared.model(), args=arguments, train_dataset=rows, processing_class=prepared.encoder.tokenizer
    )
    enabled = config["precision"] == "bf16"
    trainer.compute_loss_context_manager = lambda: torch.autocast(config["device"], torch.bfloat16, enabled)
    return with_optimizer(trainer)


def with_optimizer(trainer: Any) -> Any:
    """Prepare a trainer's model and optimiser as its loop would."""
    if trainer.args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable()
    trainer.create_optimizer()
    trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped = trainer.model
    return trainer


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
