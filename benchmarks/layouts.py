"""Pairs per second of one optimiser step in each layout: ``python -m benchmarks.layouts RECIPE``.

Two tables: the recipe's own pairs; and four responses a prompt, all six pairs of them, in steps of whole prompts. The
four are the two replies of a prompt of the recipe and two replies to other prompts: the speed depends on lengths alone,
and those are real.

The rival is ``padded``, TRL's own way with a right-padded row for each response, under the same model, pairs, precision
and budget of tokens. Every round takes the same step through all layouts in turn; the first round warms up. Beside the
ratio of times stand two that no clock is needed for: ``tokens``, those of both sides of all pairs over those computed
(padding included), and ``FLOPs`` of forward and backward as torch counts them (the half of a square that a causal mask
drops included) over those of ``padded``. The recipe's tokens and base model are made first where they are missing.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import end
from benchmarks.recipe import PreparedRecipe, count_flops, prepare

if TYPE_CHECKING:
    from rm_workflow.training.data import TrainPairs

NUM_ROUNDS = 5
MOST_PROMPTS = 200


def main(recipe_name: str = "quickstart") -> None:
    """Print both tables for a recipe."""
    from rm_workflow.settings import load_settings, wait_without_spinning

    wait_without_spinning()
    prepared = prepare(recipe_name, load_settings())
    _compare("its pairs", prepared)
    _compare("four responses a prompt, all six pairs", with_four_responses(prepared))


def with_four_responses(prepared: PreparedRecipe) -> PreparedRecipe:
    """Return a recipe whose steps are whole prompts with four responses and all their pairs."""
    batch_size = max(12, prepared.config["training"]["batch_size"])
    training = {**prepared.config["training"], "grouping": "prompts", "batch_size": batch_size}
    return replace(prepared, pairs=four_responses(prepared.pairs), config={**prepared.config, "training": training})


def four_responses(pairs: "TrainPairs") -> "TrainPairs":
    """Return all six pairs of each prompt's two replies and two replies to the pairs around it."""
    prompts = list({prompt: position for position, prompt in enumerate(pairs.prompt_id)}.values())[:MOST_PROMPTS]
    rows, prompt_length = [], []
    for n, position in enumerate(prompts):
        first = int(pairs.chosen[position])
        length = pairs.prompt_length[first]
        others = [prompts[(n + step) % len(prompts)] for step in (1, 2)]
        replies = [first, *pairs.rejected[[position, *others]]]
        rows += [np.concatenate([pairs.ids(first)[:length], _reply(pairs, reply)]) for reply in replies]
        prompt_length += [length] * 4
    fours = [range(4 * n, 4 * n + 4) for n in range(len(prompts))]
    sides = np.asarray([pair for four in fours for pair in itertools.combinations(four, 2)])
    keys = [str(n) for n in range(len(sides))]
    return replace(
        pairs,
        token_ids=np.concatenate(rows),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]),
        prompt_length=np.asarray(prompt_length),
        response_ids=[str(n) for n in range(len(rows))],
        chosen=sides[:, 0],
        rejected=sides[:, 1],
        weight=np.ones(len(sides), dtype=np.float32),
        repeat=np.ones(len(sides), dtype=np.int64),
        score_gap=np.ones(len(sides), dtype=np.float32),
        source=["four responses"] * len(sides),
        pair_key=keys,
        pair_id=keys,
        prompt_id=[str(side // 4) for side in sides[:, 0]],
    )


def _reply(pairs: "TrainPairs", response: int) -> Any:
    return pairs.ids(int(response))[pairs.prompt_length[response] :]


def _compare(what: str, prepared: PreparedRecipe) -> None:
    from rm_workflow.training.layouts import LAYOUTS

    trainer, pairs = prepared.trainer("packed"), prepared.pairs
    flops = {layout: _flops(trainer, layout, trainer.steps[1]) for layout in LAYOUTS}
    rounds = [{layout: _seconds(trainer, layout, number) for layout in LAYOUTS} for number in range(NUM_ROUNDS + 1)][1:]
    steps = [trainer.steps[number % len(trainer.steps)] for number in range(1, NUM_ROUNDS + 1)]
    num_pairs = sum(map(len, steps)) / len(steps)
    tokens = sum(sum(pairs.lengths(position)) for step in steps for position in step)
    print(f"{prepared.name}: {what}: steps of {num_pairs:g} pairs, {NUM_ROUNDS} rounds in turn: median (least to most)")
    for layout in LAYOUTS:
        speeds = [len(step) / seconds[layout] for step, seconds in zip(steps, rounds, strict=True)]
        ratios = [seconds["padded"] / seconds[layout] for seconds in rounds]
        print(
            f"  {layout:8s} {statistics.median(speeds):6.2f} pairs/s ({min(speeds):.2f} to {max(speeds):.2f})"
            f"  time {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  tokens {tokens / sum(_computed(trainer, layout, step) for step in steps):.2f}"
            f"  FLOPs {flops['padded'] / flops[layout]:.2f} ({flops[layout] / 1e12:.2f} TFLOP)"
        )


def _micro_batches(trainer: Any, layout: Any, step: Sequence[int]) -> list[Any]:
    trainer.use_layout(layout, "asked for")
    return list(trainer.collator.micro_batches(step))


def _seconds(trainer: Any, layout: Any, number: int) -> float:
    """Return the seconds of one step, collation left out; the same pairs in all layouts."""
    batches = _micro_batches(trainer, layout, trainer.steps[number % len(trainer.steps)])
    started = time.perf_counter()
    trainer.training_step(trainer.model, {"micro_batches": batches})
    seconds = time.perf_counter() - started
    trainer.model.zero_grad()
    return seconds


def _computed(trainer: Any, layout: Any, step: Sequence[int]) -> int:
    return sum(batch["input_ids"].numel() for batch in _micro_batches(trainer, layout, step))


def _flops(trainer: Any, layout: Any, step: Sequence[int]) -> int:
    batches = _micro_batches(trainer, layout, step)
    flops = count_flops(lambda: trainer.training_step(trainer.model, {"micro_batches": batches}))
    trainer.model.zero_grad()
    return flops


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
