"""Rejection sampling (RAFT, arXiv 2304.06767): candidates of a source, ranked by a checkpoint, as data for TRL.

A row of ``ranked.parquet``, and what stands in ``sft.parquet`` (TRL's SFTTrainer) and ``dpo.parquet`` (DPOTrainer)::

    prompt_id 09ab..  messages [{user, "Name a river."}]  response_ids [..]  responses ["No.", "The Danube."]
                      scores [-0.41, 1.93]  best 1
    messages [{user, "Name a river."}, {assistant, "The Danube."}]
    prompt [{user, ...}]  chosen [{assistant, "The Danube."}]  rejected [{assistant, "No."}]  score_gap 2.34

Best is the first of equal rewards, in the order of the response ids, as ``rmw rank`` has it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import RejectionSampling
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.evaluation.parts import Parts
from rm_workflow.evaluation.row_verbs import best_of
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow.evaluation.steps import aggregate
from rm_workflow.preferences.sql import dict_rows, keyed_hash_sql, read_table

Progress = Callable[[int, int], None]
Row = dict[str, Any]

RANKED, SFT, DPO = "ranked.parquet", "sft.parquet", "dpo.parquet"
FEWEST = 2  # candidates, below which nothing is chosen
# Why a prompt is not ranked, in the order in which it is asked.
DROPS = ("too_few", "sample", "unscorable")

TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMAS = {
    RANKED: pa.schema(
        [
            ("prompt_id", pa.string()),
            ("messages", TURNS),
            ("response_ids", pa.list_(pa.string())),
            ("responses", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float64())),
            ("best", pa.int32()),
        ]
    ),
    SFT: pa.schema([("messages", TURNS)]),
    DPO: pa.schema([("prompt", TURNS), ("chosen", TURNS), ("rejected", TURNS), ("score_gap", pa.float64())]),
}
CANDIDATES = """
    -- the candidates of each prompt of the train files: n of them by a keyed hash, in the order of their ids
    with found as (
        select distinct prompt_id, response_id
        from {occurrences}
        where file in ({files})
    ),
    kept as (
        from found
        qualify {n} is null or row_number() over (partition by prompt_id order by {draw_response}, response_id) <= {n}
    ),
    listed as (
        select prompt_id, list({{'id': response_id, 'text': text}} order by response_id) as candidates
        from kept join {responses} using (prompt_id, response_id)
        group by prompt_id
    )
    select prompt_id, messages, candidates
    from listed join {prompts} using (prompt_id)
    order by {draw_prompt}, prompt_id
"""


def build_ranked(
    raw: Path,
    train_files: Sequence[str],
    asked: RejectionSampling,
    scorer: Scorer,
    out: Path,
    progress: Progress | None = None,
    work_folder: Path | None = None,
) -> Built:
    """Write ``ranked.parquet``: the prompts whose candidates could be scored, in the order of their ids.

    Args:
        raw: folder of the source of candidates.
        train_files: of this source; replies to test prompts are never chosen among.
        progress: told (candidates scored, all).
        work_folder: of this very ranking, where rewards are kept as they come and taken up again; None keeps none.

    Returns:
        facts ``prompts``, ``ranked``, ``dropped`` by rule (``too_few`` candidates, left out by the ``sample``,
        ``unscorable``: fewer than two fit the token recipe), ``candidates`` (of the prompts that are not left out),
        ``candidates_refused`` (that do not fit), ``mean_reward`` and ``mean_best`` (None of no prompt).

    Raises:
        UserError: no prompt has two candidates.
    """
    prompts = _candidates(raw, train_files, asked)
    several = [row for row in prompts if len(row["candidates"]) >= FEWEST]
    if not several:
        raise UserError(
            f"rejection_sampling.candidates: no prompt in the train files of source '{asked.candidates}' has "
            f"{FEWEST} responses; name a source with several responses to a prompt"
        )
    taken = sorted(several[: asked.num_prompts], key=lambda row: str(row["prompt_id"]))
    rows, num_refused = _ranked_rows(taken, scorer, progress, Parts(work_folder) if work_folder else None)
    dropped = {
        "too_few": len(prompts) - len(several),
        "sample": len(several) - len(taken),
        "unscorable": len(taken) - len(rows),
    }
    _write(rows, out / RANKED)
    scores = [row["scores"] for row in rows]
    facts = {
        "prompts": len(prompts),
        "ranked": len(rows),
        "dropped": {rule: dropped[rule] for rule in DROPS},
        "candidates": sum(len(row["candidates"]) for row in taken),
        "candidates_refused": num_refused,
        "mean_reward": float(np.mean([np.mean(of_prompt) for of_prompt in scores])) if scores else None,
        "mean_best": float(np.mean([max(of_prompt) for of_prompt in scores])) if scores else None,
    }
    return Built(facts, (_accounted(facts), _finite(scores)))


def build_sft_dpo(ranked: Path, asked: RejectionSampling, out: Path) -> Built:
    """Write ``sft.parquet`` and ``dpo.parquet`` from a folder with ``ranked.parquet``.

    Returns:
        facts ``ranked``, ``sft``, ``dpo`` and ``dropped``: ranked prompts without a DPO row, as their rewards are too
        close (``min_gap``).
    """
    rows = pq.read_table(ranked / RANKED).to_pylist()
    pairs = [pair for row in rows if (pair := _dpo_row(row, asked.min_gap))]
    _write([{"messages": [*row["messages"], _reply(row, row["best"])]} for row in rows], out / SFT)
    _write(pairs, out / DPO)
    dropped = {"min_gap": len(rows) - len(pairs)}
    facts = {"ranked": len(rows), "sft": len(rows), "dpo": len(pairs), "dropped": dropped}
    return Built(facts)


def _candidates(raw: Path, train_files: Sequence[str], asked: RejectionSampling) -> list[Row]:
    query = CANDIDATES.format(
        occurrences=read_table(raw / "occurrences.parquet"),
        responses=read_table(raw / "responses.parquet"),
        prompts=read_table(raw / "prompts.parquet"),
        files=", ".join(map(quote_literal, train_files)) or "''",
        n="null" if asked.n is None else asked.n,
        draw_response=keyed_hash_sql("candidates", asked.seed, "response_id"),
        draw_prompt=keyed_hash_sql("candidate_prompts", asked.seed, "prompt_id"),
    )
    with connect() as con:
        return dict_rows(con, query)


def _ranked_rows(
    prompts: Sequence[Row], scorer: Scorer, progress: Progress | None, parts: Parts | None
) -> tuple[list[Row], int]:
    """Return the ranked prompts, and how many candidates the token recipe does not take."""
    every = [(row, candidate) for row in prompts for candidate in row["candidates"]]
    prepared = scorer.prepare([(row["messages"], candidate["text"]) for row, candidate in every])
    fit = [place for place, one in enumerate(prepared) if not one.problem]
    found = scorer.score_reads(
        [prepared[place].input_ids for place in fit], [prepared[place].reads for place in fit], progress, parts
    )
    scored: dict[str, list[tuple[Row, float]]] = {}
    for place, scores in zip(fit, found, strict=True):
        row, candidate = every[place]
        scored.setdefault(row["prompt_id"], []).append((candidate, aggregate(scores)))
    rows = [
        _ranked_row(row, scored[row["prompt_id"]]) for row in prompts if len(scored.get(row["prompt_id"], ())) >= FEWEST
    ]
    return rows, len(every) - len(fit)


def _ranked_row(row: Row, scored: Sequence[tuple[Row, float]]) -> Row:
    scores = [score for _, score in scored]
    return {
        "prompt_id": row["prompt_id"],
        "messages": row["messages"],
        "response_ids": [candidate["id"] for candidate, _ in scored],
        "responses": [candidate["text"] for candidate, _ in scored],
        "scores": scores,
        "best": best_of(scores),
    }


def _dpo_row(row: Row, min_gap: float) -> Row | None:
    """Return best and worst reply, or None where their rewards are too close to teach anything."""
    scores: list[float] = row["scores"]
    worst = min(range(len(scores)), key=scores.__getitem__)
    gap = scores[row["best"]] - scores[worst]
    if gap <= min_gap:
        return None
    sides = {"chosen": [_reply(row, row["best"])], "rejected": [_reply(row, worst)]}
    return {"prompt": row["messages"], **sides, "score_gap": gap}


def _reply(row: Row, index: int) -> dict[str, str]:
    return {"role": "assistant", "content": row["responses"][index]}


def _accounted(facts: Row) -> Check:
    dropped = sum(facts["dropped"].values())
    return Check(
        "prompts_accounted_for",
        facts["prompts"] == facts["ranked"] + dropped,
        "Every prompt is ranked or dropped under a named rule.",
        {"prompts": facts["prompts"], "ranked": facts["ranked"], "dropped": dropped},
    )


def _finite(scores: Sequence[Sequence[float]]) -> Check:
    wrong = sum(not np.isfinite(score) for of_prompt in scores for score in of_prompt)
    return Check("no_score_is_missing_or_nan", wrong == 0, "Every candidate has a finite score.", {"not_finite": wrong})


def _write(rows: Sequence[Row], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMAS[path.name]), path, compression="zstd")
