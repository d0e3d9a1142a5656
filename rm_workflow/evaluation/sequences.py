"""How rows become sequences: the token ids of a test split and of the items of a benchmark, and where scores go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rm_workflow.catalog.models import TEST
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.models.readout import stored_readout

TEST_ROWS = """
-- the test pairs of a tokens artifact with the ids of both replies
select
    pairs.pair_id, pairs.source, pairs.group_id, pairs.chosen_id, pairs.rejected_id,
    chosen.input_ids as chosen_ids, chosen.prompt_length as chosen_prompt_length,
    rejected.input_ids as rejected_ids, rejected.prompt_length as rejected_prompt_length
from read_parquet({pairs}) as pairs
join read_parquet({responses}) as chosen on chosen.response_id = pairs.chosen_id
join read_parquet({responses}) as rejected on rejected.response_id = pairs.rejected_id
where pairs.split = 'test'
order by pairs.pair_id
"""

FIRST_GROUPS = """
-- the test groups, in the order of a hash, that hold so many pairs or fewer together; the first one always
with sized as (
    select group_id, count(*) as num_pairs from read_parquet({pairs}) where split = 'test' group by group_id
),
ordered as (
    select group_id, row_number() over by_hash as place, sum(num_pairs) over by_hash as so_far
    from sized
    window by_hash as (order by md5('max_test_pairs' || group_id), group_id rows unbounded preceding)
)
select group_id from ordered where so_far <= {most} or place = 1
"""

ITEM_ROWS = """
-- the items of a benchmark with their prompt, the texts of their replies and where their steps end, in the order of
-- the item
select
    items.item_id, items.subset, items.num_correct, items.meta, items.response_ids, prompts.messages,
    list(responses.text order by place) as texts, list(responses.step_ends order by place) as step_ends
from read_parquet({items}) as items
join read_parquet({prompts}) as prompts using (prompt_id)
cross join unnest(range(1, len(items.response_ids) + 1)) as places (place)
join read_parquet({responses}) as responses
    on responses.prompt_id = items.prompt_id and responses.response_id = items.response_ids[place]
group by all
order by items.subset, items.item_id
"""

PLACES = """
-- the labelled test solutions of a tokens artifact with their ids and the places of their labels
select
    labelled.label_id, labelled.source, labelled.group_id, labelled.response_id, labelled.label_positions,
    labelled.label_values, responses.input_ids, responses.places
from read_parquet({labelled}) as labelled
join read_parquet({responses}) as responses using (response_id)
where labelled.split = 'test'
order by labelled.label_id
"""

Rows = list[dict[str, Any]]


@dataclass
class Work:
    """Every sequence to score, and where its score goes.

    Attributes:
        sequences: token ids.
        keys: (benchmark, item_id, response_id) of each.
        reads: where scores of each are read: at its last token, or at each of its steps.
        truncated: benchmark replies whose prompt lost tokens on the left.
        special: benchmark replies that hold the string of a special token.
    """

    sequences: list[list[int]] = field(default_factory=list)
    keys: list[tuple[str, str, str]] = field(default_factory=list)
    reads: list[Sequence[int]] = field(default_factory=list)
    truncated: int = 0
    special: int = 0

    def add(
        self, benchmark: str, item_id: str, response_id: str, input_ids: list[int], reads: Sequence[int] | None = None
    ) -> None:
        """Put one sequence in, to be read at its last token or where ``reads`` says."""
        self.sequences.append(input_ids)
        self.keys.append((benchmark, item_id, response_id))
        self.reads.append([len(input_ids) - 1] if reads is None else reads)


def test_rows(tokens: Path, work: Work, max_pairs: int | None) -> tuple[Rows, Rows]:
    """Return the test pairs of a tokens artifact and its labelled test solutions, where it has such, put into ``work``.

    Args:
        max_pairs: at most so many pairs, of whole groups; None for all.

    Returns:
        the pairs; and the solutions, each with ``steps``: which of its steps have its labels.

    Raises:
        UserError: there is neither.
    """
    rows = _select(TEST_ROWS, pairs=tokens / "pairs.parquet", responses=tokens / "responses.parquet")
    if max_pairs is not None and len(rows) > max_pairs:
        first = FIRST_GROUPS.replace("{most}", str(max_pairs))
        kept = {row["group_id"] for row in _select(first, pairs=tokens / "pairs.parquet")}
        rows = [row for row in rows if row["group_id"] in kept]
    solutions, reads = _test_solutions(tokens)
    for row in rows:
        for side in ("chosen", "rejected"):
            work.add(TEST, row["pair_id"], row[f"{side}_id"], row[f"{side}_ids"], reads.get(row[f"{side}_id"]))
    for row in solutions:
        work.add(TEST, row["label_id"], row["response_id"], row["input_ids"], reads[row["response_id"]])
    if not rows and not solutions:
        raise UserError("evaluate_on names 'test', and the mixture has no test pair; raise test_share or take it out")
    return rows, solutions


def _test_solutions(tokens: Path) -> tuple[Rows, dict[str, list[int]]]:
    """Return the labelled test solutions of tokens that hold such, and where each response is read."""
    readout = stored_readout(tokens)
    if readout is None:
        return [], {}
    before = 1 if readout.kind == "signs" else 0
    rows = _select(PLACES, labelled=tokens / "labelled.parquet", responses=tokens / "responses.parquet")
    for row in rows:
        row["steps"] = [row["places"].index(place) for place in row["label_positions"]]
    return rows, {row["response_id"]: [place - before for place in row["places"]] for row in rows}


def item_rows(name: str, folder: Path, scorer: Scorer, work: Work) -> Rows:
    """Return the items of a benchmark artifact, their replies put into ``work``.

    Raises:
        UserError: the template refuses an item, or a reply is longer than the model's window.
    """
    files = {table: folder / f"{table}.parquet" for table in ("items", "prompts", "responses")}
    rows = _select(ITEM_ROWS, **files)
    replies = [
        (row, *reply) for row in rows for reply in zip(row["response_ids"], row["texts"], row["step_ends"], strict=True)
    ]
    conversations = [(row["messages"], text) for row, _, text, _ in replies]
    # No item may be left out, so the length policy of training does not apply: only the model's window cuts.
    fitted = scorer.in_window(conversations, [ends for *_, ends in replies])
    for (row, response_id, text, _), found in zip(replies, fitted, strict=True):
        if found is None:
            raise UserError(
                f"benchmark {name}: a reply of item {row['item_id']} (subset {row['subset']}) is longer than the "
                f"model's window of {scorer.window} tokens; leave {name} out for this model"
            )
        work.truncated += found.truncated
        texts = (*(message["content"] for message in row["messages"]), text)
        work.special += any(scorer.encoder.holds_special_token(part) for part in texts)
        work.add(name, row["item_id"], response_id, found.input_ids, found.reads)
    return rows


def _select(query: str, **files: Path) -> Rows:
    with connect() as con:
        literals = {name: quote_literal(str(path)) for name, path in files.items()}
        found: Any = con.sql(query.format(**literals)).to_arrow_table()
        rows: Rows = found.to_pylist()
        return rows
