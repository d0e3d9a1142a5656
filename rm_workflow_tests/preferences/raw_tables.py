"""Small raw folders written by hand, in the tables that sources publish."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.evaluation.benchmarks import ITEMS
from rm_workflow.keys import canonical_json, content_id
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.tables import DROPPED, LABELS, OCCURRENCES, PROMPTS, RESPONSES


@dataclass(frozen=True)
class Shown:
    """One response of a row; ``labels`` of steps are (kind, step, value)."""

    slot: str
    text: str
    ratings: Mapping[str, float] = field(default_factory=dict)
    outcome: float | None = None
    step_ends: Sequence[int] | None = None
    labels: Sequence[tuple[str, int | None, float]] = ()


@dataclass(frozen=True)
class RawRow:
    """One row of a source; ``prompt`` is the user turn, or whole turns."""

    prompt: str | Sequence[Mapping[str, str]]
    responses: Sequence[Shown]
    row: int
    file: str = "train.jsonl"
    group: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, str]]:
        if isinstance(self.prompt, str):
            return [{"role": "user", "content": self.prompt}]
        return [dict(message) for message in self.prompt]

    @property
    def prompt_id(self) -> str:
        return content_id(self.messages)

    @property
    def group_id(self) -> str:
        first = next(message["content"] for message in self.messages if message["role"] == "user")
        return content_id(["group", self.group or normalise(first)])


def given(prompt: str, chosen: str, rejected: str, row: int, file: str = "train.jsonl", **scores: float) -> RawRow:
    """Return a row of a given pair; ``chosen_votes=3, rejected_votes=1`` rates the sides."""
    sides = [("chosen", chosen), ("rejected", rejected)]
    ratings = {
        slot: {"votes": scores[f"{slot}_votes"]} if f"{slot}_votes" in scores else {} for slot in ("chosen", "rejected")
    }
    return RawRow(prompt, [Shown(slot, text, ratings[slot]) for slot, text in sides], row, file)


def vote(prompt: str, better: str, worse: str, row: int, tie: bool = False, file: str = "train.jsonl") -> RawRow:
    """Return a row of one vote on two responses."""
    sides = [("chosen", better, 0.0 if tie else 1.0), ("rejected", worse, 0.0)]
    return RawRow(prompt, [Shown(slot, text, {"preference": value}) for slot, text, value in sides], row, file)


def rated(
    prompt: str, responses: Sequence[tuple[str, Mapping[str, float]]], row: int, file: str = "train.jsonl"
) -> RawRow:
    """Return a row of rated responses."""
    return RawRow(prompt, [Shown(str(i), text, ratings) for i, (text, ratings) in enumerate(responses)], row, file)


def write_raw(folder: Path, rows: Iterable[RawRow], source: str = "src") -> Path:
    """Write the tables of a source and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts, responses, occurrences, labels = {}, {}, [], []
    for row in rows:
        prompts[row.prompt_id] = {"prompt_id": row.prompt_id, "group_id": row.group_id, "messages": row.messages}
        for shown in row.responses:
            response_id = content_id([row.prompt_id, shown.text])
            responses[response_id] = {
                "response_id": response_id,
                "prompt_id": row.prompt_id,
                "text": shown.text,
                "step_ends": shown.step_ends,
            }
            occurrences.append(
                {"response_id": response_id, "prompt_id": row.prompt_id, "source": source, "file": row.file}
                | {
                    "row": row.row,
                    "slot": shown.slot,
                    "ratings": dict(shown.ratings),
                    "extra": canonical_json(row.extra),
                }
            )
            outcomes = [] if shown.outcome is None else [("outcome", None, shown.outcome)]
            place = {name: occurrences[-1][name] for name in ("response_id", "source", "file", "row", "slot")}
            for kind, step, value in (*outcomes, *shown.labels):
                labels.append({**place, "step": step, "value": value, "kind": kind})
    write(folder / "prompts.parquet", sorted(prompts.values(), key=lambda one: one["prompt_id"]), PROMPTS)
    write(folder / "responses.parquet", sorted(responses.values(), key=lambda one: one["response_id"]), RESPONSES)
    write(folder / "occurrences.parquet", occurrences, OCCURRENCES)
    write(folder / "labels.parquet", labels, LABELS)
    write(folder / "dropped.parquet", [], DROPPED)
    return folder


def write_benchmark(
    folder: Path,
    prompts: Mapping[str, str | Sequence[Mapping[str, str]]],
    responses: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write prompts, responses and items of a benchmark: item_id -> user turn (or whole turns), item_id -> replies."""
    responses = responses or {}
    shown = {
        item: RawRow(prompt, [Shown(str(i), text) for i, text in enumerate(responses.get(item, ()))], 0)
        for item, prompt in prompts.items()
    }
    write_raw(folder, shown.values())
    items = [
        {
            "item_id": item,
            "benchmark": folder.name,
            "subset": "made",
            "prompt_id": row.prompt_id,
            "response_ids": [content_id([row.prompt_id, shown.text]) for shown in row.responses],
            "meta": canonical_json({"id": number}),
        }
        for number, (item, row) in enumerate(shown.items())
    ]
    write(folder / "items.parquet", items, ITEMS)
    return folder


def write(path: Path, rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def read(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()
