"""Benchmarks, one file each: how its rows are read, its exact scoring rule, its tie policy.

A benchmark of the catalogue names its rule by ``scoring: <name of the file>``. To add one, add a file with
``aggregate`` and ``headline`` and, where it has data of its own, ``read_item`` and ``scored_row``.
"""

import importlib
import json
import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Benchmark
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.keys import canonical_json, content_id
from rm_workflow.preferences.files import BrokenLine, read_rows
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.tables import PROMPTS, RESPONSES

if TYPE_CHECKING:
    from rm_workflow.hub import SourceFile

DESCRIPTION = "benchmark.json"
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("benchmark", pa.string()),
        ("subset", pa.string()),
        ("prompt_id", pa.string()),
        ("response_ids", pa.list_(pa.string())),
        ("num_correct", pa.int32()),
        ("label", pa.string()),
        ("meta", pa.string()),
    ]
)


class Rule(Protocol):
    """What a module in this package offers."""

    def aggregate(self, rows: Iterable[Row]) -> dict[str, Any]:
        """Return all figures from the rows of a score file."""

    def headline(self, result: dict[str, Any]) -> dict[str, Any] | None:
        """Return the one score object of a run, or None where parts are missing."""


class RuleWithData(Rule, Protocol):
    """A rule whose benchmark has rows of its own."""

    def read_item(self, row: Row) -> Item:
        """Read a row of the native schema, or raise FieldError."""

    def scored_row(self, item: ScoredItem) -> dict[str, Any]:
        """Return the row of a score file."""


def names() -> list[str]:
    """Return the names of all rules: the files of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def rule(name: str) -> Rule:
    """Return a rule by name.

    Raises:
        UserError: there is none; the nearest name is told.
    """
    if name not in names():
        raise UserError(f"there is no scoring rule {name!r}; {nearest(name, names())}")
    return cast(Rule, importlib.import_module(f"{__name__}.{name}"))


def rule_with_data(name: str) -> RuleWithData:
    """Return a rule that reads benchmark rows."""
    found = rule(name)
    if not hasattr(found, "read_item"):
        raise UserError(f"scoring rule {name!r} has no rows of its own, so no benchmark can be built with it")
    return cast(RuleWithData, found)


def check_benchmark(name: str, benchmark: Benchmark) -> None:
    """Refuse a benchmark whose scoring rule does not exist or reads no rows.

    Raises:
        UserError: names the benchmark, the rule and what was meant.
    """
    try:
        rule_with_data(benchmark.scoring)
    except UserError as error:
        raise UserError(f"benchmark '{name}': scoring: {error}") from None


def build_benchmark(name: str, benchmark: Benchmark, files: "Sequence[SourceFile]", out: Path) -> Built:
    """Parse a benchmark to ``prompts``, ``responses`` and ``items`` in ``out``.

    Every row must be readable: an item that silently went missing would change the score.

    Raises:
        UserError: the first bad row, with file and row, or a file without rows.
    """
    reader = rule_with_data(benchmark.scoring)
    tables = _Tables(name)
    rows = 0
    for file in files:
        before = rows
        for item in _read_file(file, reader):
            tables.add(item)
            rows += 1
        if rows == before:
            raise UserError(f"benchmark {name}: {file.name} has no row; fetch it again")
    tables.write(out)
    description = {"name": name, "scoring": benchmark.scoring}
    (out / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", "utf-8")
    accounted = Check(
        "items_accounted_for",
        rows == len(tables.items),
        "Every row of the benchmark is one item.",
        {"rows": rows, "items": len(tables.items)},
    )
    subsets = Counter(item["subset"] for item in tables.items.values())
    return Built(facts={"items": len(tables.items), "subsets": dict(sorted(subsets.items()))}, checks=(accounted,))


def _read_file(file: "SourceFile", reader: RuleWithData) -> Iterator[Item]:
    for number, row in read_rows(file.path, file.name):
        if isinstance(row, BrokenLine):
            raise UserError(f"{file.name}: line {number}: {row.reason}; mend or fetch the file again")
        try:
            yield reader.read_item(row)
        except FieldError as error:
            raise UserError(f"{file.name}: row {number}: {error}") from None


class _Tables:
    """Rows of the three tables by their ids, so that an equal text is stored once."""

    def __init__(self, benchmark: str) -> None:
        self.benchmark = benchmark
        self.prompts: dict[str, dict[str, Any]] = {}
        self.responses: dict[tuple[str, str], dict[str, Any]] = {}
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self._seen: Counter[str] = Counter()

    def add(self, item: Item) -> None:
        """Take in one item."""
        prompt_id = content_id(item.messages)
        first_turn = next(turn["content"] for turn in item.messages if turn["role"] == "user")
        group_id = content_id(["group", normalise(first_turn)])
        self.prompts[prompt_id] = {"prompt_id": prompt_id, "group_id": group_id, "messages": item.messages}
        response_ids = [self._add_response(prompt_id, text) for text in item.responses]
        # Published files repeat ids inside a subset; the occurrence keeps such items apart.
        key = canonical_json([self.benchmark, item.subset, item.meta["id"]])
        item_id = content_id([self.benchmark, item.subset, item.meta["id"], self._seen[key]])
        self._seen[key] += 1
        self.items[item.subset, item_id] = {
            "item_id": item_id,
            "benchmark": self.benchmark,
            "subset": item.subset,
            "prompt_id": prompt_id,
            "response_ids": response_ids,
            "num_correct": item.num_correct,
            "label": item.label,
            "meta": canonical_json(item.meta),
        }

    def _add_response(self, prompt_id: str, text: str) -> str:
        response_id = content_id([prompt_id, text])
        row = {"response_id": response_id, "prompt_id": prompt_id, "text": text, "step_ends": None}
        self.responses[prompt_id, response_id] = row
        return response_id

    def write(self, out: Path) -> None:
        """Write the tables, each in the order of its key."""
        _write_table(self.prompts, PROMPTS, out / "prompts.parquet")
        _write_table(self.responses, RESPONSES, out / "responses.parquet")
        _write_table(self.items, ITEMS, out / "items.parquet")


def _write_table(rows: Mapping[Any, dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    ordered = [row for _, row in sorted(rows.items())]
    pq.write_table(pa.Table.from_pylist(ordered, schema), path, compression="zstd")
