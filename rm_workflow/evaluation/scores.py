"""Checkpoint -> scores: the test split and the benchmarks through one scorer, each with its interval.

Files: ``item_scores.parquet`` (benchmark, item_id, response_id, score), ``test_pairs.parquet`` (one scored pair a row),
``scores.json`` (all figures; facts hold the headlines).
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Evaluation
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation import test_split
from rm_workflow.evaluation.items import ScoredItem
from rm_workflow.evaluation.progress import Progress, progress_bar
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.evaluation.test_split import ScoredPairs

logger = logging.getLogger(__name__)

TEST = "test"
ITEM_SCORES = pa.schema(
    [("benchmark", pa.string()), ("item_id", pa.string()), ("response_id", pa.string()), ("score", pa.float64())]
)
TEST_PAIRS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("group_id", pa.string()),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
        ("chosen_length", pa.int32()),
        ("rejected_length", pa.int32()),
    ]
)

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

ITEM_ROWS = """
-- the items of a benchmark with their prompt and the texts of their replies, in the order of the item
select
    items.item_id, items.subset, items.num_correct, items.meta, items.response_ids, prompts.messages,
    list(responses.text order by place) as texts
from read_parquet({items}) as items
join read_parquet({prompts}) as prompts using (prompt_id)
cross join unnest(range(1, len(items.response_ids) + 1)) as places (place)
join read_parquet({responses}) as responses
    on responses.prompt_id = items.prompt_id and responses.response_id = items.response_ids[place]
group by all
order by items.subset, items.item_id
"""

Rows = list[dict[str, Any]]


@dataclass
class _Work:
    """Every sequence to score, and where its score goes.

    Attributes:
        sequences: token ids.
        keys: (benchmark, item_id, response_id) of each.
        truncated: benchmark replies whose prompt lost tokens on the left.
        special: benchmark replies that hold the string of a special token.
    """

    sequences: list[list[int]] = field(default_factory=list)
    keys: list[tuple[str, str, str]] = field(default_factory=list)
    truncated: int = 0
    special: int = 0

    def add(self, benchmark: str, item_id: str, response_id: str, input_ids: list[int]) -> None:
        """Put one sequence in."""
        self.sequences.append(input_ids)
        self.keys.append((benchmark, item_id, response_id))


def build_scores(
    model: Path,
    tokens: Path,
    benchmarks: Mapping[str, Path],
    evaluation: Evaluation,
    device: str,
    out: Path,
    progress: Progress | None = None,
) -> Built:
    """Score a checkpoint on the test split and on benchmarks.

    Args:
        model: folder of the reward model with its token recipe.
        tokens: folder of the tokens artifact that the checkpoint was trained from.
        benchmarks: name -> folder of a benchmark artifact.
        device: "cpu" or "cuda".
        progress: called with (scored, total); None shows a bar on stderr.

    Raises:
        UserError: the checkpoint cannot be loaded, or the test split is asked for and empty.
    """
    from rm_workflow.models.reward_model import resolve_precision

    precision = resolve_precision(evaluation.precision, device)
    scorer = Scorer.load(model, device, precision, evaluation.batch_tokens)
    work = _Work()
    test_rows = _test_rows(tokens, work) if TEST in evaluation.evaluate_on else []
    item_rows = {name: _item_rows(name, folder, scorer, work) for name, folder in sorted(benchmarks.items())}
    started = time.perf_counter()
    values = _score(scorer, work, progress)
    seconds = time.perf_counter() - started
    checks = _checks(values, work, test_rows, item_rows)
    facts = {
        "num_scored": len(values),
        "num_sequences": len({tuple(sequence) for sequence in work.sequences}),
        "seconds": round(seconds, 3),
        "responses_per_second": round(len(values) / seconds, 2) if len(values) else 0.0,
        "precision": precision,
        "device": device,
        "truncated": work.truncated,
        "with_special_tokens": work.special,
    }
    if not all(check.passed for check in checks):
        return Built({**facts, "scores": {}}, checks)
    scores = {key: float(value) for key, value in zip(work.keys, values, strict=True)}
    details: dict[str, Any] = {}
    if TEST in evaluation.evaluate_on:
        details[TEST] = _test_scores(test_rows, scores, scorer, out)
    details |= {name: _benchmark_scores(name, benchmarks[name], rows, scores) for name, rows in item_rows.items()}
    _write_item_scores(scores, out)
    (out / "scores.json").write_text(json.dumps(details, indent=1, sort_keys=True) + "\n", "utf-8")
    headlines = {name: detail["headline"] for name, detail in details.items()}
    histogram = {"margin_histogram": details[TEST]["margin_histogram"]} if TEST in details else {}
    return Built({"scores": headlines, **facts, **histogram}, checks)


def _test_rows(tokens: Path, work: _Work) -> Rows:
    rows = _select(TEST_ROWS, pairs=tokens / "pairs.parquet", responses=tokens / "responses.parquet")
    for row in rows:
        for side in ("chosen", "rejected"):
            work.add(TEST, row["pair_id"], row[f"{side}_id"], row[f"{side}_ids"])
    if not rows:
        raise UserError("evaluate_on names 'test', and the mixture has no test pair; raise test_share or take it out")
    return rows


def _item_rows(name: str, folder: Path, scorer: Scorer, work: _Work) -> Rows:
    files = {table: folder / f"{table}.parquet" for table in ("items", "prompts", "responses")}
    rows = _select(ITEM_ROWS, **files)
    replies = [(row, *reply) for row in rows for reply in zip(row["response_ids"], row["texts"], strict=True)]
    encoded = scorer.encoder.encode_many([(row["messages"], text) for row, _, text in replies])
    for (row, response_id, text), conversation in zip(replies, encoded, strict=True):
        # No item may be left out, so the length policy of training does not apply: only the model's window cuts.
        ids = scorer.fit_window(conversation)
        if ids is None:
            raise UserError(
                f"benchmark {name}: a reply of item {row['item_id']} (subset {row['subset']}) is longer than the "
                f"model's window of {scorer.window} tokens; take {name} out of evaluate_on"
            )
        work.truncated += len(ids) < len(conversation.input_ids)
        texts = (*(message["content"] for message in row["messages"]), text)
        work.special += any(scorer.encoder.holds_special_token(part) for part in texts)
        work.add(name, row["item_id"], response_id, ids)
    return rows


def _select(query: str, **files: Path) -> Rows:
    with connect() as con:
        literals = {name: quote_literal(str(path)) for name, path in files.items()}
        found: Any = con.sql(query.format(**literals)).to_arrow_table()
        rows: Rows = found.to_pylist()
        return rows


def _score(scorer: Scorer, work: _Work, progress: Progress | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    logger.info("scoring %s responses on %s in %s", f"{len(work.sequences):,}", scorer.device, scorer.precision)
    if progress:
        return scorer.score_ids(work.sequences, progress)
    with progress_bar("scoring") as shown:
        return scorer.score_ids(work.sequences, shown)


def _checks(
    values: np.ndarray[Any, np.dtype[np.float64]], work: _Work, test_rows: Rows, item_rows: Mapping[str, Rows]
) -> tuple[Check, ...]:
    expected = 2 * len(test_rows) + sum(len(row["response_ids"]) for rows in item_rows.values() for row in rows)
    wrong = np.flatnonzero(~np.isfinite(values))
    first = {"first": " ".join(work.keys[int(wrong[0])])} if len(wrong) else {}
    return (
        Check(
            "no_score_is_missing_or_nan",
            len(wrong) == 0,
            "Every item has a finite score.",
            {"scored": len(values), "not_finite": len(wrong), **first},
        ),
        Check(
            "rows_expected_equal_rows_scored",
            expected == len(values),
            "As many items were scored as the test split and the benchmarks hold.",
            {"expected": expected, "scored": len(values)},
        ),
    )


def _test_scores(rows: Rows, scores: Mapping[tuple[str, str, str], float], scorer: Scorer, out: Path) -> dict[str, Any]:
    table = []
    for row in rows:
        sides = {}
        for side in ("chosen", "rejected"):
            sides[f"score_{side}"] = scores[TEST, row["pair_id"], row[f"{side}_id"]]
            sides[f"{side}_length"] = _reply_length(scorer, row[f"{side}_ids"], row[f"{side}_prompt_length"])
        table.append({**{name: row[name] for name in ("pair_id", "source", "group_id")}, **sides})
    pq.write_table(pa.Table.from_pylist(table, TEST_PAIRS), out / "test_pairs.parquet", compression="zstd")
    columns = {name: [row[name] for row in table] for name in TEST_PAIRS.names}
    pairs = ScoredPairs(
        pair_ids=columns["pair_id"],
        score_chosen=columns["score_chosen"],
        score_rejected=columns["score_rejected"],
        sources=columns["source"],
        groups=columns["group_id"],
        chosen_lengths=columns["chosen_length"],
        rejected_lengths=columns["rejected_length"],
    )
    margins = [a - b for a, b in zip(columns["score_chosen"], columns["score_rejected"], strict=True)]
    return {"headline": test_split.summarise(pairs), "margin_histogram": test_split.margin_histogram(margins)}


def _reply_length(scorer: Scorer, input_ids: Sequence[int], prompt_length: int) -> int:
    """Return the characters of the reply; what the template writes after it is the same on both sides."""
    return len(scorer.encoder.tokenizer.decode(list(input_ids[prompt_length:]), skip_special_tokens=True))


def _benchmark_scores(
    name: str, folder: Path, rows: Rows, scores: Mapping[tuple[str, str, str], float]
) -> dict[str, Any]:
    description = json.loads((folder / rules.DESCRIPTION).read_text("utf-8"))
    rule = rules.rule_with_data(description["scoring"])
    scored = [
        ScoredItem(
            subset=row["subset"],
            scores=[scores[name, row["item_id"], response_id] for response_id in row["response_ids"]],
            num_correct=row["num_correct"],
            meta=json.loads(row["meta"]),
        )
        for row in rows
    ]
    result = rule.aggregate([rule.scored_row(item) for item in scored])
    for warning in result["warnings"]:
        logger.warning("benchmark %s: %s", name, warning)
    return {"headline": rule.headline(result) or _no_score(len(rows)), "scoring": description["scoring"], **result}


def _no_score(n: int) -> dict[str, Any]:
    return {"score": None, "n": n, "ci_low": None, "ci_high": None, "ties": None}


def _write_item_scores(scores: Mapping[tuple[str, str, str], float], out: Path) -> None:
    rows = [dict(zip(ITEM_SCORES.names, (*key, score), strict=True)) for key, score in sorted(scores.items())]
    pq.write_table(pa.Table.from_pylist(rows, ITEM_SCORES), out / "item_scores.parquet", compression="zstd")
