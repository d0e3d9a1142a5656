"""The fully resolved recipe of one checkpoint, as JSON; imports no torch."""

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rm_workflow.catalog.models import UNKEYED_TRAINING_FIELDS, Recipe, Training
from rm_workflow.errors import UserError
from rm_workflow.training import extras, objectives

if TYPE_CHECKING:
    from rm_workflow.training.data import PairKeys

FIELDS = frozenset(
    {
        "recipe",
        "base",
        "objective",
        "attributes",
        "token_recipe",
        "template_hash",
        "training",
        "device",
        "precision",
        "seed",
        "num_train_pairs",
        "num_validation_pairs",
        "num_train_tokens",
        "num_steps",
        "warmup_steps",
        "notes",
    }
)


# Of objectives on solutions, whose steps count blocks.
BLOCK_FIELDS = ("num_blocks", "block_tokens", "solutions_per_step")


def read(path: Path) -> dict[str, Any]:
    """Return the run config in a file.

    Raises:
        UserError: it is not there, or something else.
    """
    mend = "take run_config.json of a <recipe>_run_config artifact"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"--run-config {path} is not there; {mend}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"--run-config {path} cannot be read as JSON ({error}); {mend}") from None
    missing = sorted(FIELDS.difference(found if isinstance(found, dict) else ()))
    if missing:
        raise UserError(f"--run-config {path} has no field '{missing[0]}', so it is no run config; {mend}")
    run_config: dict[str, Any] = found
    return run_config


def resolve(
    recipe: Recipe,
    tokens_facts: Mapping[str, Any],
    device: str,
    precision: str,
    keys: "PairKeys | None" = None,
) -> dict[str, Any]:
    """Return everything that one checkpoint needs and that is not data or weights.

    Args:
        tokens_facts: facts of the tokens artifact; ``train_per_epoch`` is the number of train pairs (or labelled
            responses, see ``response_tokens.py``) with their repeats, ``test`` that of test ones, ``validation`` that
            of train pairs held out (not among ``train_per_epoch``).
        device: ``cpu`` or ``cuda``.
        precision: ``bf16`` (autocast) or ``fp32``, already resolved for the device.
        keys: of the train pairs; needed where ``training.grouping`` is prompts, and the train solutions themselves
            where a step counts blocks.

    Raises:
        UserError: the batch unit is not that of the objective, a package is missing, or there is no pair to train on or
            to test on.
    """
    training = recipe.training
    unit = objectives.unit(recipe.objective)
    if training.batch_unit != unit:
        raise UserError(
            f"recipe {recipe.name}: training.batch_unit is {training.batch_unit!r}, and an optimiser step of objective "
            f"{recipe.objective} counts {unit}; set it to {unit}"
        )
    num_pairs = num_per_epoch(tokens_facts, unit)
    if num_pairs == 0:
        raise UserError(
            f"recipe {recipe.name}: the tokens hold no train {_row(unit)}; raise tokens.max_length or add "
            f"{'pair sets' if unit == 'pairs' else 'sources whose responses have different labels'}"
        )
    # Solutions are tested by their labels too.
    num_test = tokens_facts["test"] if unit == "blocks" else tokens_facts.get("test_pairs", tokens_facts["test"])
    if "test" in recipe.evaluation.evaluate_on and int(num_test) == 0:
        raise UserError(
            f"recipe {recipe.name}: evaluate_on names 'test', and the tokens hold no test pair; set mixture.split to "
            "{by: hash, test_share: 0.1}, or take 'test' out of evaluation.evaluate_on"
        )
    if training.validation and unit != "pairs":
        raise UserError(
            f"recipe {recipe.name}: training.validation holds out pairs, and objective {recipe.objective} trains on "
            f"{unit}; take it out"
        )
    extras.check(training.model_dump())
    steps = num_steps(num_pairs, training.epochs, training.batch_size)
    if training.grouping == "prompts":
        steps = num_steps_of_prompts(keys, training)
    blocks: dict[str, Any] = {}
    if unit == "blocks":
        blocks = _blocks(keys, training, recipe.tokens.max_length)
        steps = math.ceil(blocks["num_blocks"] / training.batch_size)
    warmup = warmup_steps(training.warmup, steps)
    return {
        "recipe": recipe.name,
        "base": recipe.base,
        "objective": recipe.objective,
        "attributes": recipe.mixture.attributes if recipe.objective == "regression" else [],
        "token_recipe": recipe.tokens.model_dump(),
        "template_hash": tokens_facts["template_hash"],
        # By how many processes is no part of what is trained.
        "training": training.model_dump(exclude={"distributed"}),
        "device": device,
        "precision": precision,
        "seed": training.seed,
        "num_train_pairs": num_pairs,
        "num_validation_pairs": tokens_facts.get("validation", 0),
        "num_train_tokens": tokens_facts.get("train_tokens"),
        "num_steps": steps,
        "warmup_steps": warmup,
        **blocks,
        "notes": [*_notes(warmup, steps, training.learning_rate), *_unranked(tokens_facts, unit)],
    }


def keyed(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a run config decides what is trained: all but how the run is made and told."""
    training = {name: value for name, value in run_config["training"].items() if name not in UNKEYED_TRAINING_FIELDS}
    return {**run_config, "training": training}


def unkeyed(training: Training) -> dict[str, Any]:
    """Return how a run is made and told, as a run config holds it."""
    return training.model_dump(include=set(UNKEYED_TRAINING_FIELDS) - {"distributed"})


def complete(run_config: Mapping[str, Any], training: Training | None = None) -> dict[str, Any]:
    """Return a run config with everything that the trainer reads.

    Args:
        training: says how the run is made and told; None leaves that as it is, by default where it is not said.
    """
    said = run_config["training"]
    if training:
        return {**run_config, "training": {**said, **unkeyed(training)}}
    return {**run_config, "training": {**unkeyed(Training(learning_rate=1.0, batch_size=1)), **said}}


def num_per_epoch(tokens_facts: Mapping[str, Any], unit: str) -> int:
    """Return what an epoch shows, repeats included, in what an optimiser step counts: pairs, responses or prompts."""
    return int(tokens_facts["train_prompts_per_epoch" if unit == "prompts" else "train_per_epoch"])


def _unranked(tokens_facts: Mapping[str, Any], unit: str) -> list[str]:
    unranked = int(tokens_facts.get("unranked_prompts", 0))
    if unit != "prompts" or not unranked:
        return []
    return [f"{unranked} train prompts are left out: their responses have one rank, so they teach no order"]


def num_items(num_pairs: int, epochs: float) -> int:
    """Return the pairs seen over all epochs: ceil(num_pairs * epochs), exact for decimal epochs."""
    return math.ceil(num_pairs * Fraction(str(epochs)))


def num_steps(num_pairs: int, epochs: float, batch_size: int) -> int:
    """Return optimiser steps: ceil(num_pairs * epochs / batch_size); the short last step is kept.

    Epochs follow each other without a gap, so only the last step of the run can be short.
    """
    return math.ceil(num_items(num_pairs, epochs) / batch_size)


def num_steps_of_prompts(keys: "PairKeys | None", training: Training) -> int:
    """Return optimiser steps where each holds whole prompts, which only the pairs themselves tell."""
    from rm_workflow.training.data import training_steps

    assert keys is not None, "grouping prompts needs the keys of the pairs"
    return len(training_steps(keys, training.seed, training.epochs, training.batch_size, training.grouping))


def _blocks(keys: "PairKeys | None", training: Training, block_tokens: int) -> dict[str, Any]:
    """Return how many blocks all epochs make, their size, and how many solutions a step holds on average."""
    from rm_workflow.training.solutions import TrainSolutions

    assert isinstance(keys, TrainSolutions), "blocks need the solutions"
    steps, blocks = keys.block_steps(training.seed, training.epochs, training.batch_size, block_tokens)
    return {
        "num_blocks": sum(blocks),
        "block_tokens": block_tokens,
        "solutions_per_step": sum(map(len, steps)) / len(steps),
    }


def _row(unit: str) -> str:
    return "solution" if unit == "blocks" else unit[:-1]


def warmup_steps(warmup: float, steps: int) -> int:
    """Return warm-up steps: ``warmup`` itself from 1 on, else that share of all steps, rounded up as transformers does.

    A share never takes the last step: the learning rate of step k of a warm-up of n is k/n, so a run of one step would
    not learn at all.
    """
    if warmup >= 1:
        return int(warmup)
    return min(math.ceil(steps * warmup), steps - 1)


def _notes(warmup: int, steps: int, learning_rate: float) -> list[str]:
    if warmup < steps:
        return []
    return [f"the warm-up of {warmup} steps covers all {steps} steps: the learning rate never reaches {learning_rate}"]
