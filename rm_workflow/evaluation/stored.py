"""Stored item scores as rows of a score file, each under the name of its item.

Two places hold them: the folder of a scores artifact (``item_scores.parquet``, ``test_pairs.parquet``) and JSONL files
in the formats of ``rmw aggregate``. Either way a row can be given to the benchmark's rule, and two checkpoints are
joined item by item.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation.items import Row, ScoredItem, scored_item
from rm_workflow.keys import canonical_json

# What evaluate_on calls the mixture's own test split, and the rule of its pairs.
TEST, TEST_RULE = "test", "pairs"
ITEM_SCORES, TEST_PAIRS, FIGURES = "item_scores.parquet", "test_pairs.parquet", "scores.json"
# Fields by which files name an item, the first that is there; what stands beside it tells items of one name apart.
ID_FIELDS = ("id", "pair_id", "item_id", "problem")
PART_FIELDS = ("subset", "domain", "source")
# What two rows in one place must share to be the same item, where no id says so.
PLACE_FIELDS = (*PART_FIELDS, "group", "label")

SCORED_ITEMS = """
-- the items of a benchmark with the scores of their replies, each a list: of its steps, or of the whole as step null
with scored as (
    select
        item_id, response_id, bool_or({step} is not null) as has_steps,
        list(score order by {step}) filter (score is not null) as values
    from read_parquet({scores})
    where benchmark = {benchmark}
    group by all
)
select
    items.item_id, items.subset, items.num_correct, items.meta,
    list(coalesce(scored.values, []) order by place) as scores, bool_or(scored.has_steps) as has_steps
from read_parquet({items}) as items
cross join unnest(range(1, len(items.response_ids) + 1)) as places (place)
join scored on scored.item_id = items.item_id and scored.response_id = items.response_ids[place]
group by all
order by items.subset, items.item_id
"""

LENGTHS = """
-- the items of a benchmark with the characters of their replies, in the order of the item
select
    items.item_id, items.subset, items.num_correct, items.meta, list([len(responses.text)] order by place) as scores,
    false as has_steps
from read_parquet({items}) as items
cross join unnest(range(1, len(items.response_ids) + 1)) as places (place)
join read_parquet({responses}) as responses
    on responses.prompt_id = items.prompt_id and responses.response_id = items.response_ids[place]
group by all
order by items.subset, items.item_id
"""


@dataclass(frozen=True)
class StoredRows:
    """Scored rows of one benchmark.

    Attributes:
        scoring: the rule.
        rows: name of the item -> row of a score file.
        by_place: of rows that no id names, their place in the file and what else tells them apart.
    """

    scoring: str
    rows: Mapping[str, Row]
    by_place: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def without(self, names: Iterable[str]) -> "StoredRows":
        """Return the rows of all other items."""
        left_out = set(names)
        return replace(self, rows={name: row for name, row in self.rows.items() if name not in left_out})

    def only(self, names: Sequence[str]) -> list[Row]:
        """Return the rows of some items, in the order of their names given."""
        return [self.rows[name] for name in names]


def scoring_of(benchmark_folder: Path) -> str:
    """Return the rule of a benchmark artifact."""
    description: dict[str, str] = json.loads((benchmark_folder / rules.DESCRIPTION).read_text("utf-8"))
    return description["scoring"]


def scored_items(scores_folder: Path, benchmark: str, benchmark_folder: Path) -> dict[str, ScoredItem]:
    """Return the items of a benchmark with their scores, by item id."""
    files = {"items": benchmark_folder / "items.parquet", "scores": scores_folder / ITEM_SCORES}
    with_steps = "step" in pq.read_schema(files["scores"]).names
    figures = scores_folder / FIGURES
    known = json.loads(figures.read_text("utf-8")).get(benchmark, {}) if figures.is_file() else {}
    return _items(SCORED_ITEMS, files, benchmark, "step" if with_steps else "null::integer", known.get("scores"))


def reply_lengths(benchmark_folder: Path) -> dict[str, ScoredItem]:
    """Return the items of a benchmark with the number of characters of each reply in place of its score."""
    files = {name: benchmark_folder / f"{name}.parquet" for name in ("items", "responses")}
    return _items(LENGTHS, files, "")


def _items(
    query: str, files: Mapping[str, Path], benchmark: str, step: str = "", scale: str | None = None
) -> dict[str, ScoredItem]:
    literals = {name: quote_literal(str(path)) for name, path in files.items()}
    with connect() as con:
        found: Any = con.sql(query.format(**literals, benchmark=quote_literal(benchmark), step=step)).to_arrow_table()
    return {
        row["item_id"]: scored_item(
            subset=row["subset"],
            scores=row["scores"] if row["has_steps"] else [float(score) for (score,) in row["scores"]],
            num_correct=row["num_correct"],
            meta=json.loads(row["meta"]),
            scale=scale,
        )
        for row in found.to_pylist()
    }


def rows_of_items(scoring: str, items: Mapping[str, ScoredItem]) -> StoredRows:
    """Return items as rows of a score file under their item ids."""
    rule = rules.rule_with_data(scoring)
    return StoredRows(scoring, {item_id: rule.scored_row(item) for item_id, item in items.items()})


def benchmark_rows(scores_folder: Path, benchmark: str, benchmark_folder: Path) -> StoredRows:
    """Return what a scores artifact holds on a benchmark, by item id."""
    return rows_of_items(scoring_of(benchmark_folder), scored_items(scores_folder, benchmark, benchmark_folder))


def split_rows(scores_folder: Path) -> StoredRows:
    """Return what a scores artifact holds on the mixture's own test split, by pair id."""
    table = pq.read_table(scores_folder / TEST_PAIRS).to_pylist()
    rows = {
        row["pair_id"]: {
            "id": row["pair_id"],
            "source": row["source"],
            "group": row["group_id"],
            "score_chosen": row["score_chosen"],
            "score_rejected": row["score_rejected"],
        }
        for row in table
    }
    return StoredRows(TEST_RULE, dict(sorted(rows.items())))


def file_rows(scoring: str, rows: Sequence[Row]) -> StoredRows:
    """Return the rows of a score file by the names of their items.

    A row is named by its subset (domain, source) and id; of rows with one name, which published files have
    (reward-bench#273), the second one of A is compared with the second one of B. Rows without id are named by their
    place in the file.
    """
    seen: Counter[str] = Counter()
    named: dict[str, Row] = {}
    by_place = {}
    for place, row in enumerate(rows, start=1):
        id_field = next((name for name in ID_FIELDS if row.get(name) is not None), None)
        item = [id_field, row[id_field]] if id_field else ["row", place]
        if id_field is None:
            by_place[place] = {name: row[name] for name in PLACE_FIELDS if row.get(name) is not None}
        name = canonical_json([*item, *(row.get(part) for part in PART_FIELDS)])
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = row
    return StoredRows(scoring, named, by_place)


@dataclass(frozen=True)
class Joined:
    """The items that two checkpoints both have.

    Attributes:
        names: of these items.
        only_a, only_b: how many one alone has.
        num_by_place: how many are joined by their place in two files, as no id names them.
    """

    names: tuple[str, ...]
    only_a: int
    only_b: int
    num_by_place: int


def join(a: StoredRows, b: StoredRows, benchmark: str) -> Joined:
    """Join two checkpoints' rows item by item.

    Raises:
        UserError: the rules differ, rows without id are not the same items line by line, or no item is common.
    """
    if a.scoring != b.scoring:
        raise UserError(
            f"benchmark {benchmark} is scored by {a.scoring!r} for A and by {b.scoring!r} for B; compare like with like"
        )
    _check_places(a.by_place, b.by_place, benchmark)
    names = tuple(sorted(a.rows.keys() & b.rows.keys()))
    if not names:
        raise UserError(
            f"benchmark {benchmark}: A has {len(a.rows):,} items and B {len(b.rows):,}, and none is common; "
            "score both on the same items"
        )
    only_a, only_b = len(a.rows) - len(names), len(b.rows) - len(names)
    return Joined(names, only_a, only_b, len(a.by_place))


def _check_places(a: Mapping[int, Row], b: Mapping[int, Row], benchmark: str) -> None:
    """Refuse rows without id that cannot be the same items in the same order."""
    if not (a and b):
        return
    if a.keys() != b.keys():
        raise UserError(
            f"benchmark {benchmark}: {len(a):,} rows of A and {len(b):,} of B have no id, so they cannot be joined "
            "line by line; give each row an id"
        )
    for place, row in a.items():
        for name in PLACE_FIELDS:
            if row.get(name) != b[place].get(name):
                raise UserError(
                    f"benchmark {benchmark}: row {place} has no id, and its {name} is {row.get(name)!r} for A and "
                    f"{b[place].get(name)!r} for B; give each row an id"
                )
