"""A toy task that a tiny random model learns: replies with "Yes." are chosen over replies with "No."."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.catalog.models import Recipe, TokenRecipe
from rm_workflow.keys import content_id
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import run_config
from rm_workflow.training.data import PairKeys

PROMPTS = ("Name a river.", "What is the capital of France?", "Is the river long?", "Name a capital.")
ENDS = ("", " Paris.", " The Danube is a river.")
TOKENS = TokenRecipe(template="chatml", max_length=256)


def recipe(objective: str = "bradley_terry", **training: Any) -> Recipe:
    """Return a recipe for the toy task with changed training values."""
    values = {"learning_rate": 5e-3, "batch_size": 8, "micro_batch_tokens": 128, "schedule": "constant", "warmup": 0.0}
    return Recipe.model_validate(
        {
            "name": "toy",
            "base": "toy/tiny",
            "objective": objective,
            "mixture": {"pair_sets": ["toy"], "split": {"by": "hash"}},
            "tokens": TOKENS.model_dump(),
            "training": {**values, **training},
        }
    )


def rows(count: int) -> list[dict[str, Any]]:
    """Return pairs as texts: ragged lengths, two sources, weights that are not all 1, a score gap."""
    made = []
    for n in range(count):
        end, other = ENDS[n % 3], ENDS[(n // 3) % 3]
        made.append(
            {
                "prompt": f"{PROMPTS[n % 4]} ({n})",
                "chosen": f"Yes.{end}",
                "rejected": f"No.{other}",
                "weight": 1.0 + n % 3,
                "gap": 0.5 * (n % 4),
                "source": "odd" if n % 2 else "even",
            }
        )
    return made


def messages(prompt: str | list[str]) -> list[dict[str, str]]:
    """Return the turns of a prompt: one user turn, or system, user, assistant, user, .. in turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    roles = ["system", *["user", "assistant"] * len(prompt)]
    return [{"role": role, "content": text} for role, text in zip(roles, prompt, strict=False)]


def rows_of_prompts(*replies: int) -> list[dict[str, Any]]:
    """Return all pairs of the replies of each prompt, 6 for a prompt of 4 replies; long prompts and ragged replies."""
    made = []
    for n, count in enumerate(replies):
        prompt = ["Be short.", f"{PROMPTS[n % 4]} ({n})", "The Danube.", "Is it long? " * (1 + n % 3)]
        texts = [f"Yes. {reply}{ENDS[(n + reply) % 3] * reply}" for reply in range(count)]
        for chosen, rejected in itertools.combinations(texts, 2):
            weight = 1.0 + (len(made) % 3)
            made.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "weight": weight})
    return [{**row, "gap": 0.5 * (n % 4), "source": "prompts"} for n, row in enumerate(made)]


def write_tokens(folder: Path, encoder: Encoder, pairs: list[dict[str, Any]], reverse: bool = False) -> Path:
    """Write a tokens artifact of these pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    responses: dict[str, dict[str, Any]] = {}
    table = []
    for pair in pairs:
        ids = {}
        for side in ("chosen", "rejected"):
            encoded = encoder.encode(messages(pair["prompt"]), pair[side])
            ids[side] = content_id([pair["prompt"], pair[side]])
            responses[ids[side]] = {
                "response_id": ids[side],
                "input_ids": encoded.input_ids,
                "prompt_length": encoded.prompt_length,
            }
        key = content_id([pair["prompt"], ids["chosen"], ids["rejected"]])
        table.append(
            {
                "pair_id": content_id([key, pair["source"], 0]),
                "pair_key": key,
                "prompt_id": content_id([pair["prompt"]]),
                "chosen_id": ids["chosen"],
                "rejected_id": ids["rejected"],
                "chosen_score": 1.0 + pair["gap"],
                "rejected_score": 1.0,
                "weight": pair["weight"],
                "repeat": pair.get("repeat", 1),
                "source": pair["source"],
                "split": pair.get("split", "train"),
                "group_id": key,
            }
        )
    response_rows = list(responses.values())
    if reverse:
        table.reverse()
        response_rows.reverse()
    pq.write_table(pa.Table.from_pylist(response_rows), folder / "responses.parquet")
    pq.write_table(pa.Table.from_pylist(table), folder / "pairs.parquet")
    return folder


def resolved(
    toy_recipe: Recipe,
    encoder: Encoder,
    num_pairs: int,
    precision: str = "fp32",
    keys: PairKeys | None = None,
    validation: int = 0,
) -> dict[str, Any]:
    """Return the run config of a toy recipe."""
    facts = {"train_per_epoch": num_pairs, "test": 1, "train_tokens": 0, "template_hash": encoder.template_hash}
    facts["validation"] = validation
    return run_config.resolve(toy_recipe, facts, "cpu", precision, keys)


def write_run_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a run config as the trainer's process reads it."""
    path.write_text(json.dumps(config), "utf-8")
    return path


def train(
    run_config_file: Path, tokens: Path, base: Path, out: Path, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train a checkpoint whose saved files this very process loads again; a fresh one takes seconds to start."""
    from rm_workflow.training import checkpoint, reloading

    return checkpoint.train(run_config_file, tokens, base, out, tell, reloading.here)
