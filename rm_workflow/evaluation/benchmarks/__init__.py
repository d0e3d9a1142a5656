"""Benchmarks, one file each: how its rows are read, its exact scoring rule, its tie policy.

A benchmark of the catalogue names its rule by ``scoring: <name of the file>``. To add one, add a file with
``aggregate`` and ``headline`` and, where it has data of its own, ``scored_row`` and ``read_item`` (or ``joined_by`` and
``read_joined``).
"""

import importlib
import json
import pkgutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Benchmark
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.evaluation.native_rows import read_native_rows
from rm_workflow.keys import canonical_json, content_id
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.splits import is_test_group
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
    """What a module in this package offers.

    One with ``OPTIONS`` (name -> words that it takes) has them as further arguments of ``aggregate``, and options of
    ``rmw aggregate``. One with ``tables(result)`` says what tables people see.
    """

    def aggregate(self, rows: Iterable[Row], **options: str) -> dict[str, Any]:
        """Return all figures from the rows of a score file."""

    def headline(self, result: dict[str, Any]) -> dict[str, Any] | None:
        """Return the one score object of a run, or None where parts are missing."""


class RuleWithData(Rule, Protocol):
    """A rule whose benchmark has rows of its own."""

    def read_item(self, row: Row) -> Item:
        """Read a row of the native schema, or raise FieldError.

        A rule whose items are several rows each offers ``joined_by(row)``, which is equal for the rows of one item, and
        ``read_joined(rows)`` in its place. One whose file holds other rows too offers ``is_mine(row)``, and one that
        needs the catalogue's entry ``read_item_of(row, benchmark)`` in place of ``read_item``.
        """

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
    if not hasattr(found, "scored_row"):
        raise UserError(f"scoring rule {name!r} has no rows of its own, so no benchmark can be built with it")
    return cast(RuleWithData, found)


def names_with_data() -> list[str]:
    """Return the names of the rules that a benchmark of the catalogue may have."""
    return [name for name in names() if hasattr(rule(name), "scored_row")]


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
    drawn: list[tuple[Item, int]] = []
    rows, used, passed_over = 0, 0, 0
    for file in files:
        before = used
        found = list(read_native_rows(file))
        mine = [(place, row) for place, row in found if _is_mine(reader, row)]
        rows, passed_over = rows + len(found), passed_over + len(found) - len(mine)
        for item, num_rows in _read_items(file, mine, reader, benchmark):
            if benchmark.only_test_of and not is_test_group(group_of(item.messages), benchmark.only_test_of):
                passed_over += num_rows
                continue
            if benchmark.max_problems is None:
                tables.add(item)
            else:
                drawn.append((item, num_rows))
            used += num_rows
        if used == before:
            what = "a test problem" if benchmark.only_test_of and mine else f"an item of {benchmark.scoring}"
            why = f"none of its {len(found):,} rows is {what}" if found else "it has no row"
            raise UserError(f"benchmark {name}: {file.name}: {why}; look at the file, or fetch it again")
    kept = _capped(drawn, benchmark.max_problems)
    beyond = sum(num_rows for _, num_rows in drawn) - sum(num_rows for _, num_rows in kept)
    used, passed_over = used - beyond, passed_over + beyond
    for item, _ in kept:
        tables.add(item)
    tables.write(out)
    description = {"name": name, "scoring": benchmark.scoring}
    (out / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", "utf-8")
    accounted = Check(
        "items_accounted_for",
        rows == used + passed_over and tables.num_added == len(tables.items),
        "Every row of the benchmark belongs to one item.",
        {"rows": rows, "items": len(tables.items), "passed_over": passed_over},
    )
    subsets = Counter(item["subset"] for item in tables.items.values())
    facts = {"items": len(tables.items), "passed_over": passed_over, "subsets": dict(sorted(subsets.items()))}
    return Built(facts=facts, checks=(accounted,))


def _capped(found: list[tuple[Item, int]], most: int | None) -> list[tuple[Item, int]]:
    """Return the first so many items by a hash of their prompts, in the order of the file."""
    if most is None or len(found) <= most:
        return found
    drawn = [content_id(["max_problems", item.messages]) for item, _ in found]
    chosen = set(sorted(range(len(found)), key=drawn.__getitem__)[:most])
    return [one for place, one in enumerate(found) if place in chosen]


def _is_mine(reader: RuleWithData, row: Row) -> bool:
    return not hasattr(reader, "is_mine") or bool(reader.is_mine(row))


def _read_items(
    file: "SourceFile", rows: Sequence[tuple[str, Row]], reader: RuleWithData, benchmark: Benchmark
) -> Iterator[tuple[Item, int]]:
    """Yield each item with the number of rows that it is made of."""
    for place, joined in _joined(file, rows, reader):
        try:
            item = _read_item(joined, reader, benchmark)
        except FieldError as error:
            raise UserError(f"{file.name}: {place}: {error}") from None
        yield item, len(joined)


def _read_item(rows: list[Row], reader: RuleWithData, benchmark: Benchmark) -> Item:
    if hasattr(reader, "read_joined"):
        joined: Item = reader.read_joined(rows)
        return joined
    if hasattr(reader, "read_item_of"):
        item: Item = reader.read_item_of(rows[0], benchmark)
        return item
    return reader.read_item(rows[0])


def group_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the group of a prompt: its first user turn, as raw data sets without a group of their own have it."""
    first_turn = next(turn["content"] for turn in messages if turn["role"] == "user")
    return content_id(["group", normalise(first_turn)])


def _joined(
    file: "SourceFile", rows: Sequence[tuple[str, Row]], reader: RuleWithData
) -> Iterator[tuple[str, list[Row]]]:
    """Yield (place of the first row, rows) of each item: one row, or neighbours that the rule joins."""
    if not hasattr(reader, "joined_by"):
        yield from ((place, [row]) for place, row in rows)
        return
    keys = []
    for place, row in rows:
        try:
            keys.append(reader.joined_by(row))
        except FieldError as error:
            raise UserError(f"{file.name}: {place}: {error}") from None
    for _, found in groupby(zip(keys, rows, strict=True), key=lambda keyed: keyed[0]):
        neighbours = [placed for _, placed in found]
        yield neighbours[0][0], [row for _, row in neighbours]


class _Tables:
    """Rows of the three tables by their ids, so that an equal text is stored once."""

    def __init__(self, benchmark: str) -> None:
        self.benchmark = benchmark
        self.prompts: dict[str, dict[str, Any]] = {}
        self.responses: dict[tuple[str, str], dict[str, Any]] = {}
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.num_added = 0
        self._seen: Counter[str] = Counter()

    def add(self, item: Item) -> None:
        """Take in one item."""
        self.num_added += 1
        prompt_id = content_id(item.messages)
        group_id = group_of(item.messages)
        self.prompts[prompt_id] = {"prompt_id": prompt_id, "group_id": group_id, "messages": item.messages}
        response_ids = [
            self._add_response(prompt_id, text, item.step_ends[place] if item.step_ends else None)
            for place, text in enumerate(item.responses)
        ]
        # Published files repeat ids inside a subset; the occurrence keeps such items apart.
        key = canonical_json([self.benchmark, item.subset, item.meta["id"]])
        repeats = self._seen[key]
        item_id = content_id([self.benchmark, item.subset, item.meta["id"], repeats])
        meta = {**item.meta, "occurrence": repeats + 1} if repeats else item.meta
        self._seen[key] += 1
        self.items[item.subset, item_id] = {
            "item_id": item_id,
            "benchmark": self.benchmark,
            "subset": item.subset,
            "prompt_id": prompt_id,
            "response_ids": response_ids,
            "num_correct": item.num_correct,
            "label": item.label,
            "meta": canonical_json(meta),
        }

    def _add_response(self, prompt_id: str, text: str, step_ends: list[int] | None) -> str:
        response_id = content_id([prompt_id, text])
        row = {"response_id": response_id, "prompt_id": prompt_id, "text": text, "step_ends": step_ends}
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
