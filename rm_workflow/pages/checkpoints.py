"""The page of a checkpoint, and the rows behind each of its scores, those it is most wrong about first."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog.models import TEST
from rm_workflow.catalog.names import nearest
from rm_workflow.database import connect, quote_literal
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.stored import ITEM_SCORES, TEST_PAIRS
from rm_workflow.pages import addresses
from rm_workflow.pages.site import Link, NotFoundError, Row, Site
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import conversation
from rm_workflow.reporting import plots
from rm_workflow.reporting.words import artifact_name, duration, fraction, interval, number, plural

PAGE_ROWS = 50
EXCERPT_CHARACTERS = 160
# The others are found by their mark.
MOST_LEAKED = 10
METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"


def sql(name: str) -> str:
    """Return the text of a query of the pages."""
    return resources.files(__package__).joinpath("queries", name).read_text("utf-8")


def excerpt(text: str) -> str:
    """Return the end of a text on one line: of a prompt it asks the question."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARACTERS else "…" + line[1 - EXCERPT_CHARACTERS :]


def checkpoint_page(site: Site, name: str) -> dict[str, Any]:
    """Return what the page of a checkpoint shows.

    Raises:
        NotFoundError: there is no such checkpoint.
    """
    checkpoint = site.checkpoint(name)
    scored = site.scored().get(name)
    facts = checkpoint.facts
    recipe = checkpoint.asset.removesuffix("_checkpoint")
    return {
        "id": name,
        "name": artifact_name(name, checkpoint.manifest["partition"]),
        "recipe": Link(recipe, addresses.recipe(recipe)) if recipe in site.catalog.recipes else None,
        "created": checkpoint.manifest["created"][:10],
        "base": facts.get("base"),
        "objective": facts.get("objective"),
        "trained": [
            plural(facts[key], what)
            for key, what in (("num_train_pairs", "pair"), ("num_steps", "step"))
            if facts.get(key) is not None
        ],
        "took": duration(facts["seconds"]) if "seconds" in facts else None,
        "scores": [_score(scored, benchmark) for benchmark in scored.scores] if scored else [],
        "curves": addresses.curves(name) if METRICS in checkpoint.manifest["files"] else None,
        "asset": f"/assets/{checkpoint.asset}",
    }


def _score(scored: ScoredCheckpoint, benchmark: str) -> Row:
    headline = scored.headline(benchmark)
    return {
        "benchmark": Link(benchmark, addresses.benchmark(scored.id, benchmark)),
        "score": fraction(headline["score"]),
        "95 % interval": interval(headline),
        "n": number(headline["n"]) if headline.get("n") else "",
        "ties": number(headline["ties"]) if headline.get("ties") is not None else "",
        "train data": headline["contamination"],
    }


def curves(site: Site, name: str) -> bytes:
    """Return a checkpoint's training curves as PNG.

    Raises:
        NotFoundError: there is no such checkpoint, or it was not trained here.
    """
    checkpoint = site.checkpoint(name)
    if METRICS not in checkpoint.manifest["files"]:
        raise NotFoundError(f"checkpoint {name} has no metrics of its training")
    return plots.training_curves(_lines(checkpoint, METRICS), checkpoint.asset, _lines(checkpoint, VALIDATION))


def _lines(checkpoint: Artifact, file: str) -> list[dict[str, Any]]:
    if file not in checkpoint.manifest["files"]:
        return []
    return [json.loads(line) for line in checkpoint.file(file).read_text("utf-8").splitlines()]


def scored_on(site: Site, name: str, benchmark: str) -> ScoredCheckpoint:
    """Return a checkpoint that has scores on a benchmark.

    Raises:
        NotFoundError: it has none.
    """
    site.checkpoint(name)
    scored = site.scored().get(name)
    if scored is None or benchmark not in scored.scores:
        known = list(scored.scores) if scored else []
        raise NotFoundError(f"checkpoint {name} has no scores on {benchmark!r}; {nearest(benchmark, known)}")
    return scored


def scores_page(site: Site, name: str, benchmark: str, page: int) -> dict[str, Any]:
    """Return one page of the rows behind a score, the lowest margin first.

    Args:
        page: from 1.

    Raises:
        NotFoundError: there is no such checkpoint, benchmark or page.
    """
    scored = scored_on(site, name, benchmark)
    leaked = set(scored.leaked(benchmark))
    number_of, rows = (_pairs if benchmark == TEST else _items)(site, scored, benchmark, page, leaked)
    pages = max(1, -(-number_of // PAGE_ROWS))
    if not 1 <= page <= pages:
        raise NotFoundError(f"there is no page {page} of the scores on {benchmark}; they have {plural(pages, 'page')}")
    return {
        "id": name,
        "name": artifact_name(name, scored.run),
        "checkpoint": addresses.checkpoint(name),
        "benchmark": benchmark,
        "headline": _score(scored, benchmark),
        "number": number(number_of),
        "what": "pairs" if benchmark == TEST else "items",
        "leaked": number(len(leaked)) if leaked else None,
        "first_leaked": [_row_link(scored, benchmark, one) for one in sorted(leaked)[:MOST_LEAKED]],
        "leaves_out": leaves_out(scored.headline(benchmark)),
        "rows": rows,
        "page": page,
        "pages": pages,
        "before": addresses.benchmark(name, benchmark, page - 1) if page > 1 else None,
        "after": addresses.benchmark(name, benchmark, page + 1) if page < pages else None,
    }


def _row_link(scored: ScoredCheckpoint, benchmark: str, name: str) -> Link:
    """Return a link to the page of a test pair or of an item."""
    return Link(name[:12], addresses.pair(name) if benchmark == TEST else addresses.item(scored.id, benchmark, name))


def leaves_out(headline: Mapping[str, Any]) -> bool:
    """Return whether a score is of the items alone that are not in the train data."""
    return bool(headline.get("all_items")) and headline["n"] != headline["all_items"]["n"]


def _bounds(page: int) -> dict[str, int]:
    return {"limit": PAGE_ROWS, "offset": min(max(page - 1, 0), 2**31) * PAGE_ROWS}


def _pairs(site: Site, scored: ScoredCheckpoint, benchmark: str, page: int, leaked: set[str]) -> tuple[int, list[Row]]:
    """Return how many test pairs were scored, and a page of them."""
    scores = scored.scores[benchmark]
    table = read_table(scores.file(TEST_PAIRS))
    with connect() as con:
        (number_of,) = con.execute(f"select count(*) from {table}").fetchone() or (0,)
        found = dict_rows(con, sql("scored_pairs.sql").format(scored=table), _bounds(page))
    asked = prompts_of_pairs(site, scores, [row["pair_id"] for row in found])
    return number_of, [
        {
            "pair": Link(row["pair_id"][:12], addresses.pair(row["pair_id"])),
            "source": row["source"],
            "margin": f"{row['margin']:+.3f}",
            "chosen": f"{row['score_chosen']:+.3f}",
            "rejected": f"{row['score_rejected']:+.3f}",
            **_marked(row["pair_id"], leaked),
            "prompt": asked.get(row["pair_id"], ""),
        }
        for row in found
    ]


def _marked(name: str, leaked: set[str]) -> Row:
    """Return the cell that marks a row of which a text stands in the train data; other rows' cells are empty."""
    return {"train data": "leaked" if name in leaked else ""} if leaked else {}


def prompts_of_pairs(site: Site, scores: Artifact, pair_ids: Sequence[str]) -> Mapping[str, str]:
    """Return the end of the prompt of each pair, of those whose mixture is still there."""
    tokens = site.inputs_of_kind(scores, "tokens")
    mixtures = [mixture for one in tokens for mixture in site.inputs_of_kind(one, "mixture")]
    raws = [raw for mixture in mixtures for raw in site.raws_of(mixture)]
    if not (mixtures and raws and pair_ids):
        return {}
    with connect() as con:
        names = {
            "pairs": read_table(*(mixture.file("pairs.parquet") for mixture in mixtures)),
            "prompts": read_table(*(raw.file("prompts.parquet") for raw in raws)),
            "ids": ", ".join(map(quote_literal, pair_ids)),
        }
        found = dict_rows(con, sql("prompts_of_pairs.sql").format(**names))
    return {row["pair_id"]: excerpt(conversation(row["messages"])) for row in found}


def _items(site: Site, scored: ScoredCheckpoint, benchmark: str, page: int, leaked: set[str]) -> tuple[int, list[Row]]:
    """Return how many items of a benchmark were scored, and a page of them."""
    scores = scored.scores[benchmark]
    names = item_tables(site, scores, benchmark)
    with connect() as con:
        query = sql("scored_items.sql").format(**names)
        found = dict_rows(con, query, {"benchmark": benchmark, **_bounds(page)})
        count = f"select count(distinct item_id) from {names['scores']} where benchmark = $benchmark"
        (number_of,) = con.execute(count, {"benchmark": benchmark}).fetchone() or (0,)
    return number_of, [
        {
            "item": Link(row["item_id"][:12], addresses.item(scored.id, benchmark, row["item_id"])),
            "part": row["subset"] or "",
            "margin": "" if row["margin"] is None else f"{row['margin']:+.3f}",
            "correct": "" if row["correct"] is None else f"{row['correct']:+.3f}",
            "others": "" if row["others"] is None else f"{row['others']:+.3f}",
            **_marked(row["item_id"], leaked),
            "prompt": excerpt(conversation(row["messages"])) if row["messages"] else "",
        }
        for row in found
    ]


def item_tables(site: Site, scores: Artifact, benchmark: str) -> dict[str, str]:
    """Return SQL that reads the items of a benchmark, their texts and their scores.

    Raises:
        NotFoundError: the benchmark that was scored is gone.
    """
    found = site.input_of(scores, f"bench_{benchmark}")
    if found is None:
        raise NotFoundError(f"the version of {benchmark} that was scored is gone from RMW_HOME; score it again")
    tables = {name: read_table(found.file(f"{name}.parquet")) for name in ("items", "prompts", "responses")}
    return {**tables, "scores": read_table(scores.file(ITEM_SCORES))}
