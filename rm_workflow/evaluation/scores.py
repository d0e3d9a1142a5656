"""Checkpoint -> scores: the test split and the benchmarks through one scorer, each with its interval.

Files: ``item_scores.parquet`` (benchmark, item_id, response_id, step, score: of a model that scores steps a row for
each step, else step is null), ``test_pairs.parquet`` (one scored pair a row), ``test_steps.parquet`` (one labelled step
of a test solution a row, where there are such), ``scores.json`` (all figures; facts hold the headlines),
``analysis.json`` (calibration, length, nulls, flip test), ``probes.json`` and ``probe_scores.parquet`` (what rewritten
replies and missing prompts do to the reward, see ``probes/effects.py``), ``score_files/<benchmark>.jsonl`` (for
``rmw aggregate``; ``test.jsonl`` as ``pairs``).
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import TEST, Evaluation
from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation import test_split
from rm_workflow.evaluation.analysis import write_analysis
from rm_workflow.evaluation.batching import Layout
from rm_workflow.evaluation.items import scored_item
from rm_workflow.evaluation.parts import Parts
from rm_workflow.evaluation.pass_batches import elsewhere
from rm_workflow.evaluation.probes.effects import write_effects
from rm_workflow.evaluation.probes.sample import Probing, add_probes, answered
from rm_workflow.evaluation.progress import Progress, progress_bar
from rm_workflow.evaluation.scorer import Floats, Scorer
from rm_workflow.evaluation.sequences import Rows, Work, item_rows, test_rows
from rm_workflow.evaluation.steps import AGGREGATOR, aggregate, step_accuracy
from rm_workflow.evaluation.test_split import ScoredPairs
from rm_workflow.map_batches import MapBatches

logger = logging.getLogger(__name__)

SCORE_FILES = "score_files"
ITEM_SCORES = pa.schema(
    [
        ("benchmark", pa.string()),
        ("item_id", pa.string()),
        ("response_id", pa.string()),
        ("step", pa.int32()),
        ("score", pa.float64()),
    ]
)
TEST_STEPS = pa.schema(
    [
        ("label_id", pa.string()),
        ("source", pa.string()),
        ("group_id", pa.string()),
        ("response_id", pa.string()),
        ("step", pa.int32()),
        ("label", pa.float32()),
        ("score", pa.float64()),
    ]
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

Key = tuple[str, str, str]  # (benchmark, item_id, response_id)
Keyed = Mapping[Key, float]
Stepwise = Mapping[Key, list[float]]


def build_scores(
    model: Path,
    tokens: Path,
    raws: Sequence[Path],
    benchmarks: Mapping[str, Path],
    evaluation: Evaluation,
    device: str,
    out: Path,
    progress: Progress | None = None,
    work_folder: Path | None = None,
    leaked: Mapping[str, Sequence[str]] | None = None,
    map_batches: MapBatches | None = None,
) -> Built:
    """Score a checkpoint on the test split and on benchmarks.

    Args:
        model: folder of the reward model with its token recipe.
        tokens: folder of the tokens artifact that the checkpoint was trained from.
        raws: folders of the raw artifacts that hold the texts of its pairs, for the probes.
        benchmarks: name -> folder of a benchmark artifact.
        device: "cpu" or "cuda".
        progress: called with (scored, total); None shows a bar on stderr.
        work_folder: of this very scoring, where scores are kept as they come; None keeps none.
        leaked: items by benchmark, pair ids for the test split, that the analysis and the probes leave out.
        map_batches: has other processes score; None does it here.

    Raises:
        UserError: the checkpoint cannot be loaded, or the test split is asked for and empty.
    """
    from rm_workflow.models.reward_model import resolve_precision

    precision = resolve_precision(evaluation.precision, device)
    layout: Layout | None = "alone" if evaluation.deterministic else None
    scorer = Scorer.load(model, device, precision, evaluation.batch_tokens, layout)
    work = Work()
    of_test, solutions = (
        test_rows(tokens, work, evaluation.max_test_pairs) if TEST in evaluation.evaluate_on else ([], [])
    )
    of_items = {name: item_rows(name, folder, scorer, work) for name, folder in sorted(benchmarks.items())}
    num_items = len(work.keys)
    leaked_pairs = set((leaked or {}).get(TEST, ()))
    clean = [row for row in of_test if row["pair_id"] not in leaked_pairs]
    probing = add_probes(clean, tokens, raws, evaluation.probes, scorer, work)
    values, facts = score_work(scorer, work, work_folder, progress, map_batches)
    facts["num_probed"] = len(values) - num_items
    checks = _checks(values, work, 2 * len(of_test) + len(solutions) + facts["num_probed"], of_items)
    if not all(check.passed for check in checks):
        return Built({**facts, "scores": {}}, checks)
    keyed = [(key, aggregate(value)) for key, value in zip(work.keys, values, strict=True)]
    scores, probed = dict(keyed[:num_items]), dict(keyed[num_items:])
    stepwise = _stepwise(scorer, work, values)
    details: dict[str, Any] = {}
    (out / SCORE_FILES).mkdir()
    if TEST in evaluation.evaluate_on:
        details[TEST] = _test_scores(of_test, scores, scorer, out) if of_test else _no_pairs(out)
        if solutions:
            told = dict(zip(work.keys, values, strict=True))
            what = "steps" if scorer.readout.is_stepwise else "outcomes"
            details[TEST] = _with_labels(details[TEST], solutions, told, what, out)
    for name, rows in of_items.items():
        details[name] = _benchmark_scores(name, benchmarks[name], rows, scores, stepwise, scorer, out)
    _write_item_scores(scores, stepwise, out)
    (out / "scores.json").write_text(json.dumps(details, indent=1, sort_keys=True) + "\n", "utf-8")
    headlines = {name: detail["headline"] for name, detail in details.items()}
    histogram = {"margin_histogram": details[TEST]["margin_histogram"]} if of_test else {}
    probes = _probe_effects(probing, of_test, scores, probed, out)
    analysis = write_analysis(out, benchmarks, leaked)
    return Built({"scores": headlines, "analysis": analysis, "probes": probes, **facts, **histogram}, checks)


@dataclass(frozen=True)
class Evaluated:
    """A reward model on one benchmark.

    Attributes:
        rows: the rows of a score file, which ``rmw aggregate`` reads.
        result: what ``rmw aggregate`` makes of them.
        facts: how they were scored.
    """

    rows: list[dict[str, Any]]
    result: dict[str, Any]
    facts: dict[str, Any]


def evaluate_benchmark(
    scorer: Scorer,
    name: str,
    folder: Path,
    work_folder: Path,
    progress: Progress | None = None,
    map_batches: MapBatches | None = None,
) -> Evaluated:
    """Score any reward model on one benchmark artifact.

    Args:
        work_folder: of this model on this benchmark, where scores are kept as they come.
        progress: called with (scored, total); None shows a bar on stderr.
        map_batches: has other processes score; None does it here.

    Raises:
        UserError: an item cannot be scored, or its score is no finite number.
    """
    work = Work()
    rows = item_rows(name, folder, scorer, work)
    values, facts = score_work(scorer, work, work_folder, progress, map_batches)
    wrong = _not_finite(values)
    if wrong:
        _, item_id, response_id = work.keys[wrong[0]]
        raise UserError(
            f"benchmark {name}: {len(wrong)} of {len(values)} scores are no finite numbers, the first for response "
            f"{response_id} of item {item_id}; look at the weights, or score in fp32"
        )
    scores = {key: aggregate(value) for key, value in zip(work.keys, values, strict=True)}
    scored = _score_file(name, folder, rows, scores, _stepwise(scorer, work, values), scorer)
    return Evaluated(scored, _rule(folder).aggregate(scored), facts)


def score_work(
    scorer: Scorer,
    work: Work,
    work_folder: Path | None = None,
    progress: Progress | None = None,
    map_batches: MapBatches | None = None,
) -> tuple[list[Floats], dict[str, Any]]:
    """Return the scores of every sequence, one or one for each of its steps, and how they were scored.

    Args:
        work_folder: of this very scoring, where scores are kept as they come and taken up again; None keeps none.
        progress: called with (scored, total); None shows a bar on stderr.
        map_batches: has other processes score where there is a work folder; None does it here.

    Seconds, speed and computed tokens are of this run alone; ``num_continued`` sequences were scored by an earlier one.
    """
    logger.info("scoring %s responses on %s in %s", f"{len(work.sequences):,}", scorer.device, scorer.precision)
    parts = Parts(work_folder) if work_folder else None
    answered_before = scorer.num_answered
    started = time.perf_counter()
    compute = elsewhere(map_batches, scorer, work_folder) if map_batches and work_folder else None
    with nullcontext(progress) if progress else progress_bar("scoring") as shown:
        values = scorer.score_reads(work.sequences, work.reads, shown, parts, compute)
    seconds = time.perf_counter() - started
    num_answered = scorer.num_answered - answered_before
    return values, {
        "num_scored": len(values),
        "num_sequences": len({tuple(sequence) for sequence in work.sequences}),
        "num_continued": parts.num_found if parts else 0,
        "seconds": round(seconds, 3),
        "responses_per_second": round(num_answered / seconds, 2) if num_answered else 0.0,
        "tokens": sum(map(len, work.sequences)),
        "tokens_computed": scorer.num_computed,
        "precision": scorer.precision,
        "device": scorer.device,
        "layout": scorer.layout,
        "deterministic": scorer.deterministic,
        **({"objective": scorer.readout.objective, "aggregator": AGGREGATOR} if scorer.readout.is_stepwise else {}),
        "token_recipe": scorer.recipe_origin,
        "truncated": work.truncated,
        "with_special_tokens": work.special,
    }


def _not_finite(values: Sequence[Floats]) -> list[int]:
    """Return the sequences of which a score is NaN or infinite."""
    return [place for place, scores in enumerate(values) if not np.isfinite(scores).all()]


def _stepwise(scorer: Scorer, work: Work, values: Sequence[Floats]) -> Stepwise:
    """Return the scores of steps, of a model that scores them."""
    if not scorer.readout.is_stepwise:
        return {}
    return {key: value.tolist() for key, value in zip(work.keys, values, strict=True)}


def _checks(values: Sequence[Floats], work: Work, num_others: int, of_items: Mapping[str, Rows]) -> tuple[Check, ...]:
    """Return the checks of scores.

    Args:
        num_others: sequences that were to be scored beside the items of benchmarks.
    """
    expected = num_others + sum(len(row["response_ids"]) for rows in of_items.values() for row in rows)
    wrong = _not_finite(values)
    first = {"first": " ".join(work.keys[wrong[0]])} if wrong else {}
    return (
        Check(
            "no_score_is_missing_or_nan",
            not wrong,
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


def _test_scores(rows: Rows, scores: Keyed, scorer: Scorer, out: Path) -> dict[str, Any]:
    table = []
    for row in rows:
        sides = {}
        for side in ("chosen", "rejected"):
            sides[f"score_{side}"] = scores[TEST, row["pair_id"], row[f"{side}_id"]]
            sides[f"{side}_length"] = _reply_length(scorer, row[f"{side}_ids"], row[f"{side}_prompt_length"])
        table.append({**{name: row[name] for name in ("pair_id", "source", "group_id")}, **sides})
    pq.write_table(pa.Table.from_pylist(table, TEST_PAIRS), out / "test_pairs.parquet", compression="zstd")
    renamed = {"pair_id": "id", "source": "source", "group_id": "group"}
    scored = ("score_chosen", "score_rejected")
    write_score_file(
        out / SCORE_FILES / f"{TEST}.jsonl",
        [{new: row[old] for old, new in renamed.items()} | {name: row[name] for name in scored} for row in table],
    )
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


def _no_pairs(out: Path) -> dict[str, Any]:
    """Write that no two test solutions make a pair."""
    pq.write_table(TEST_PAIRS.empty_table(), out / "test_pairs.parquet", compression="zstd")
    return {}


def _with_labels(
    found: dict[str, Any], solutions: Rows, scores: Mapping[Key, Floats], what: str, out: Path
) -> dict[str, Any]:
    """Return the detail of the test split with how well its labels are told, and write the labelled steps.

    Where no two solutions of a problem make a pair, that is the headline.

    Args:
        what: ``steps``, or ``outcomes`` where a label is about the whole solution.
    """
    table = [
        {
            **{name: row[name] for name in ("label_id", "source", "group_id", "response_id")},
            "step": step,
            "label": label,
            "score": float(scores[TEST, row["label_id"], row["response_id"]][step]),
        }
        for row in solutions
        for step, label in zip(row["steps"], row["label_values"], strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(table, TEST_STEPS), out / "test_steps.parquet", compression="zstd")
    labels, of_steps = (np.array([row[name] for row in table], dtype=np.float64) for name in ("label", "score"))
    accuracy = step_accuracy(labels, of_steps, [row["group_id"] for row in table])
    return {**found, "headline": {**found.get("headline", accuracy), what: accuracy}}


def _reply_length(scorer: Scorer, input_ids: Sequence[int], prompt_length: int) -> int:
    """Return the characters of the reply; what the template writes after it is the same on both sides."""
    return len(scorer.encoder.tokenizer.decode(list(input_ids[prompt_length:]), skip_special_tokens=True))


def _benchmark_scores(
    name: str, folder: Path, rows: Rows, scores: Keyed, stepwise: Stepwise, scorer: Scorer, out: Path
) -> dict[str, Any]:
    rule, scored = _rule(folder), _score_file(name, folder, rows, scores, stepwise, scorer)
    write_score_file(out / SCORE_FILES / f"{name}.jsonl", scored)
    result = rule.aggregate(scored)
    for warning in result["warnings"]:
        logger.warning("benchmark %s: %s", name, warning)
    headline = rule.headline(result) or _no_score(len(rows))
    return {"headline": headline, "scoring": _description(folder)["scoring"], **result}


def _score_file(
    name: str, folder: Path, rows: Rows, scores: Keyed, stepwise: Stepwise, scorer: Scorer
) -> list[dict[str, Any]]:
    """Return the rows of a score file of a benchmark."""
    rule = _rule(folder)
    found = []
    for row in rows:
        keys = [(name, row["item_id"], response_id) for response_id in row["response_ids"]]
        scored = scored_item(
            subset=row["subset"],
            scores=[stepwise[key] if stepwise else scores[key] for key in keys],
            num_correct=row["num_correct"],
            meta=json.loads(row["meta"]),
            scale=scorer.scale,
        )
        found.append(rule.scored_row(scored))
    return found


def write_score_file(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows of a score file, one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _rule(folder: Path) -> rules.RuleWithData:
    return rules.rule_with_data(_description(folder)["scoring"])


def _description(folder: Path) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((folder / rules.DESCRIPTION).read_text("utf-8"))
    return description


def _no_score(n: int) -> dict[str, Any]:
    return {"score": None, "n": n, "ci_low": None, "ci_high": None, "ties": None}


def _probe_effects(probing: Probing, of_test: Rows, scores: Keyed, probed: Keyed, out: Path) -> dict[str, Any]:
    rewards = [scores[TEST, row["pair_id"], row[f"{side}_id"]] for row in of_test for side in ("chosen", "rejected")]
    return write_effects(probing, answered(probing, probed, scores), np.array(rewards), out)


def _write_item_scores(scores: Keyed, stepwise: Stepwise, out: Path) -> None:
    rows = [
        dict(zip(ITEM_SCORES.names, (*key, step, value), strict=True))
        for key, score in sorted(scores.items())
        for step, value in (enumerate(stepwise[key]) if stepwise else [(None, score)])
    ]
    pq.write_table(pa.Table.from_pylist(rows, ITEM_SCORES), out / "item_scores.parquet", compression="zstd")
