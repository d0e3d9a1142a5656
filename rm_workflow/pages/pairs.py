"""The page of a pair or of a benchmark's item: its texts, its scores, and what became of it."""

from typing import Any

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog.models import TEST
from rm_workflow.database import connect
from rm_workflow.errors import UserError
from rm_workflow.evaluation.stored import TEST_PAIRS
from rm_workflow.lineage import questions
from rm_workflow.pages import addresses
from rm_workflow.pages.checkpoints import item_tables, scored_on, sql
from rm_workflow.pages.site import Link, NotFoundError, Row, Site
from rm_workflow.preferences import trace
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import conversation
from rm_workflow.reporting.words import artifact_name

# No person reads on, and a browser is slow with more.
MOST_CHARACTERS = 50_000
MIXTURE = "_mixture"


def whole(text: str | None) -> str | None:
    """Return a text, cut where a browser would be slow with it; one that is cut says how long it was."""
    if text is None or len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} … ({len(text):,} characters, cut)"


def pair_page(site: Site, pair_id: str) -> dict[str, Any]:
    """Return what the page of a pair (or of a labelled response) shows: texts, scores, rules met, what used it.

    Raises:
        NotFoundError: no raw, pairs or mixture asset holds it.
    """
    if not trace.PAIR_ID.fullmatch(pair_id):
        raise NotFoundError(f"{pair_id[:100]!r} is no id of a pair, which is 32 hex digits")
    try:
        found = trace.trace(pair_id, _latest(site))
    except UserError as error:
        raise NotFoundError(str(error)) from error
    site.lineage.catch_up()
    trained = questions.checkpoints_trained_on(site.lineage, site.store, [*found["pairs"], *found["labels"]])
    texts = {name: whole(found[name]) for name in ("prompt", "chosen", "rejected", "response", "excerpt")}
    if texts["chosen"] is not None:
        texts["response"] = None  # a row that shows one side alone: the side stands there already
    return {
        "id": pair_id,
        "texts": {name: text for name, text in texts.items() if text is not None},
        "origin": f"{found['source']}:{found['file']}:{found['row']}",
        "scores": _scores(site, pair_id),
        "drops": [{name: drop[name] for name in ("asset", "rule", "reason", "detail")} for drop in found["drops"]],
        "pair_sets": found["pair_sets"],
        "mixtures": [_mixture(site, name) for name in found["mixtures"]],
        "checkpoints": [Link(artifact_name(name), addresses.checkpoint(name)) for name in trained],
    }


def _latest(site: Site) -> dict[str, list[Artifact]]:
    """Return the latest artifacts that a pair may stand in, by kind."""
    names = sorted(folder.name for folder in site.store.artifacts.glob("*"))
    latest = [artifact for artifact in map(site.store.latest, names) if artifact]
    return {kind: [artifact for artifact in latest if artifact.kind == kind] for kind in trace.KINDS}


def _mixture(site: Site, asset: str) -> Link | str:
    recipes = [name for name in site.catalog.recipes if asset == name + MIXTURE or asset.startswith(f"{name}_")]
    return Link(asset, addresses.recipe(max(recipes, key=len))) if recipes else asset


def _scores(site: Site, pair_id: str) -> list[Row]:
    """Return what each checkpoint gave the two sides, the lowest margin first."""
    scored = [one for one in site.scored().values() if TEST in one.scores]
    tables = {one.id: read_table(one.scores[TEST].file(TEST_PAIRS)) for one in scored}
    rows: list[tuple[float, str, Row]] = []
    with connect() as con:
        for checkpoint, table in tables.items():
            query = f"select score_chosen, score_rejected from {table} where pair_id = $pair_id"
            found = dict_rows(con, query, {"pair_id": pair_id})
            rows += [(row["score_chosen"] - row["score_rejected"], checkpoint, row) for row in found]
    return [
        {
            "checkpoint": Link(artifact_name(checkpoint), addresses.checkpoint(checkpoint)),
            "margin": f"{margin:+.3f}",
            "chosen": f"{row['score_chosen']:+.3f}",
            "rejected": f"{row['score_rejected']:+.3f}",
        }
        for margin, checkpoint, row in sorted(rows, key=lambda one: one[:2])
    ]


def item_page(site: Site, name: str, benchmark: str, item_id: str) -> dict[str, Any]:
    """Return what the page of a benchmark's item shows: prompt, and each reply with the score of a checkpoint.

    Raises:
        NotFoundError: there is no such checkpoint, benchmark or item.
    """
    scored = scored_on(site, name, benchmark)
    if benchmark == TEST:
        raise NotFoundError(f"{benchmark} has pairs and no items; open {addresses.pair(item_id[:100])}")
    tables = item_tables(site, scored.scores[benchmark], benchmark)
    with connect() as con:
        found = dict_rows(con, sql("one_item.sql").format(**tables), {"benchmark": benchmark, "item": item_id})
    if not found:
        raise NotFoundError(f"{benchmark} has no item {item_id[:100]!r}")
    return {
        "id": item_id,
        "name": artifact_name(name, scored.run),
        "benchmark": Link(benchmark, addresses.benchmark(name, benchmark)),
        "checkpoint": addresses.checkpoint(name),
        "part": found[0]["subset"],
        "prompt": whole(conversation(found[0]["messages"])) if found[0]["messages"] else None,
        "replies": [
            {
                "is_correct": row["is_correct"],
                "score": ", ".join(f"{score:+.3f}" for score in row["scores"] or [] if score is not None),
                "text": whole(row["text"] or ""),
            }
            for row in found
        ],
    }
