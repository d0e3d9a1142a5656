"""Toy solutions in steps with labels, and a mixture of trajectories written by hand: steps with "No" are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rm_workflow.catalog.models import Recipe, TokenRecipe
from rm_workflow.keys import content_id
from rm_workflow.training.solution_tokens import build_solution_tokens
from rm_workflow_tests.preferences.raw_tables import RawRow, Shown, write, write_raw
from rm_workflow_tests.training import toy

LABELLED = pa.schema(
    [
        *((name, pa.string()) for name in ("label_id", "response_id", "prompt_id")),
        ("step_ends", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("rank", pa.int32()),
        ("weight", pa.float64()),
        ("repeat", pa.int32()),
        *((name, pa.string()) for name in ("source", "file")),
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("slot", "split", "group_id", "leak")),
    ]
)
OUTCOMES = LABELLED.set(3, pa.field("values", pa.map_(pa.string(), pa.float64()))).remove(4)
PAIRS = pa.schema(
    [
        *((name, pa.string()) for name in ("pair_id", "pair_key", "prompt_id", "chosen_id", "rejected_id")),
        *((name, pa.float64()) for name in ("chosen_score", "rejected_score", "weight")),
        ("repeat", pa.int32()),
        *((name, pa.string()) for name in ("source", "split", "group_id")),
    ]
)
OBJECTIVES = ("generative_orm", "generative_prm", "token_prm")


@dataclass(frozen=True)
class Solved:
    """One solution: its steps with their labels."""

    problem: str
    steps: Sequence[str]
    labels: Sequence[float | None]
    split: str = "train"
    weight: float = 1.0
    repeat: int = 1
    source: str = "src"

    @property
    def text(self) -> str:
        return "\n".join(self.steps)

    @property
    def step_ends(self) -> list[int]:
        return [len("\n".join(self.steps[: number + 1])) for number in range(len(self.steps))]

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.problem}]


def solved(count: int, split: str = "train", first: int = 0) -> list[Solved]:
    """Return solutions of one to four ragged steps, formulas with signs, soft and missing labels, uneven weights."""
    made = []
    for n in range(first, first + count):
        labels = [float((n + step) % 3 > 0) for step in range(1 + n % 4)]
        texts = [
            f"{'Yes' if label else 'No'}. 2 + {n} - {step}{toy.ENDS[(n + step) % 3]}"
            for step, label in enumerate(labels)
        ]
        given: list[float | None] = [None if (n + step) % 7 == 6 else label for step, label in enumerate(labels)]
        given = [0.25 if label == 0.0 and n % 5 == 0 else label for label in given]
        if not any(label is not None for label in given):
            given = [*labels]
        made.append(Solved(f"{toy.PROMPTS[n % 4]} ({n // 2})", texts, given, split, 1.0 + n % 3))
    return made


def write_mixture(folder: Path, solutions: Sequence[Solved], kind: str = "trajectories") -> tuple[Path, Path]:
    """Write the raw tables and the mixture of solutions; returns (mixture, raw)."""
    rows = [RawRow(one.problem, [Shown("0", one.text)], number) for number, one in enumerate(solutions)]
    raw = write_raw(folder / "raw", rows)
    (folder / "mixture").mkdir()
    table: list[dict[str, Any]] = []
    for number, one in enumerate(solutions):
        response_id = content_id([rows[number].prompt_id, one.text])
        known = [label for label in one.labels if label is not None]
        score = min(known) if known else None
        values: Any = one.labels if kind == "trajectories" else ({} if score is None else {"outcome": score})
        table.append(
            {
                "label_id": content_id([response_id, one.source, number]),
                "response_id": response_id,
                "prompt_id": rows[number].prompt_id,
                "step_ends": one.step_ends,
                "values": values,
                "score": score,
                "rank": 1,
                "weight": one.weight,
                "repeat": one.repeat,
                "source": one.source,
                "file": "train.jsonl",
                "row": number,
                "slot": "0",
                "split": one.split,
                "group_id": rows[number].group_id,
            }
        )
    write(folder / "mixture" / "labelled.parquet", table, LABELLED if kind == "trajectories" else OUTCOMES)
    write(folder / "mixture" / "pairs.parquet", list(_pairs(table)), PAIRS)
    return folder / "mixture", raw


def _pairs(table: Sequence[dict[str, Any]]) -> Any:
    for chosen in table:
        for rejected in table:
            is_pair = chosen["prompt_id"] == rejected["prompt_id"] and None not in (chosen["score"], rejected["score"])
            if is_pair and chosen["score"] > rejected["score"]:
                sides = {"chosen_id": chosen["response_id"], "rejected_id": rejected["response_id"]}
                key = content_id([chosen["prompt_id"], *sides.values()])
                scores = {"chosen_score": chosen["score"], "rejected_score": rejected["score"]}
                shared = {name: chosen[name] for name in ("prompt_id", "source", "split", "group_id")}
                yield {"pair_id": key, "pair_key": key, "weight": 1.0, "repeat": 1, **sides, **scores, **shared}


def write_tokens(folder: Path, base: Path, solutions: Sequence[Solved], objective: str, **recipe: Any) -> Any:
    """Build the tokens of solutions; returns their folder and their facts."""
    kind = "responses" if objective == "generative_orm" else "trajectories"
    mixture, raw = write_mixture(folder, solutions, kind)
    (folder / "tokens").mkdir()
    tokens = TokenRecipe(**{**toy.TOKENS.model_dump(), **recipe})
    built = build_solution_tokens(mixture, [raw], base, tokens, folder / "tokens", objective, kind)
    assert all(check.passed for check in built.checks)
    return folder / "tokens", built.facts


def recipe(objective: str, max_length: int = 256, **training: Any) -> Recipe:
    """Return the toy recipe for an objective on solutions."""
    made = toy.recipe(**{"batch_size": 1, **training})
    return made.model_copy(
        update={
            "objective": objective,
            "training": made.training.model_copy(update={"batch_unit": "blocks"}),
            "tokens": made.tokens.model_copy(update={"max_length": max_length}),
        }
    )
