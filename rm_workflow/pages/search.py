"""Search of pairs by text in the latest mixtures."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from rm_workflow.artifacts import Artifact
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.pages import addresses
from rm_workflow.pages.checkpoints import excerpt, sql
from rm_workflow.pages.site import Link, Row, Site
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import conversation

MOST_HITS = 50
MOST_SECONDS = 10.0
MOST_CHARACTERS = 200
PLACES = ("prompt", "chosen", "rejected")
PAIRS, LABELLED = "pairs.parquet", "labelled.parquet"

# A search reads all texts with all cores, so they take turns.
_turn = threading.Lock()


def search_page(site: Site, text: str) -> dict[str, Any]:
    """Return the pairs whose prompt or reply holds a text, whatever its case: the first 50 by pair_id.

    Raises:
        UserError: the text is too long, or the search takes too long.
    """
    asked = text.strip()
    if len(asked) > MOST_CHARACTERS:
        raise UserError(
            f"a text of {len(asked):,} characters is too long to search for; give at most {MOST_CHARACTERS}"
        )
    mixtures = site.mixtures()
    found = _found(site, mixtures, asked) if asked and mixtures else []
    return {
        "text": text,
        "asked": bool(asked),
        "mixtures": [mixture.asset for mixture in mixtures],
        "more": len(found) > MOST_HITS,
        "rows": found[:MOST_HITS],
        "most": MOST_HITS,
    }


def _found(site: Site, mixtures: list[Artifact], text: str) -> list[Row]:
    raws = {raw.id: raw for mixture in mixtures for raw in site.raws_of(mixture)}.values()
    if not raws:
        return []
    prompts = read_table(*(raw.file("prompts.parquet") for raw in raws))
    tables = {
        "pairs": " union all ".join(_pairs_of(mixture) for mixture in mixtures),
        "prompts": prompts,
        "responses": read_table(*(raw.file("responses.parquet") for raw in raws)),
    }
    with _turn, connect() as con, _interrupted(con, MOST_SECONDS):
        rows = dict_rows(con, sql("search.sql").format(**tables), {"text": text, "limit": MOST_HITS + 1})
        ids = ", ".join(quote_literal(row["prompt_id"]) for row in rows) or "null"
        messages = dict(con.execute(f"select prompt_id, messages from {prompts} where prompt_id in ({ids})").fetchall())
    return [
        {
            "pair": Link(row["pair_id"][:12], addresses.pair(row["pair_id"])),
            "source": row["source"],
            "found in": ", ".join(place for place in PLACES if row[f"in_{place}"]),
            "mixtures": ", ".join(row["mixtures"]),
            "prompt": excerpt(conversation(messages[row["prompt_id"]])) if row["prompt_id"] in messages else "",
        }
        for row in rows
    ]


def _pairs_of(mixture: Artifact) -> str:
    """Return SQL for what a mixture keeps; a labelled response stands as the chosen one, without another side."""
    asset = f"{quote_literal(mixture.asset)} as mixture"
    if LABELLED in mixture.manifest["files"]:
        columns = "label_id as pair_id, source, prompt_id, response_id as chosen_id, null::varchar as rejected_id"
        return f"select {columns}, {asset} from {read_table(mixture.file(LABELLED))}"
    return f"select pair_id, source, prompt_id, chosen_id, rejected_id, {asset} from {read_table(mixture.file(PAIRS))}"


@contextmanager
def _interrupted(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Let what runs within end after a time.

    Raises:
        UserError: it was ended.
    """
    timer = threading.Timer(seconds, con.interrupt)
    timer.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise UserError(
            f"the search was stopped after {seconds:g} s; a home as large as this is searched with duckdb itself, see "
            "docs/lineage.md"
        ) from error
    finally:
        timer.cancel()
