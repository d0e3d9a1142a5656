"""SQL that pair sets and mixtures share: content ids, keyed hashes, a scratch database beside the output."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.database import connect, quote_literal
from rm_workflow.keys import ID_DIGITS


def json_string(expression: str) -> str:
    """Return SQL for the JSON string of a text that needs no escaping (ids and catalogue names)."""
    return f"""'"' || {expression} || '"'"""


def content_id_sql(*fragments: str) -> str:
    """Return SQL for ``keys.content_id`` of a list.

    Args:
        fragments: SQL of each element's JSON text: ``json_string("pair_key")``, or a column of whole numbers.
    """
    listed = " || ',' || ".join(fragments)
    return f"substr(sha256('[' || {listed} || ']'), 1, {ID_DIGITS})"


def keyed_hash_sql(purpose: str, seed: int, column: str) -> str:
    """Return SQL for the hash that stands in for a random number: ``content_id([purpose, seed, column])``.

    It depends on content alone, so a choice by it survives a change of row order, threads or machine.
    """
    head = quote_literal(json.dumps([purpose, seed], separators=(",", ":"))[1:-1])
    return content_id_sql(head, json_string(column))


def num_words_sql(text: str) -> str:
    """Return SQL for the number of words of a text: what stands between spaces, tabs, line ends and no-break spaces.

    By splitting, as a regular expression takes three times as long.
    """
    for character in (9, 10, 13, 160):
        text = f"replace({text}, chr({character}), ' ')"
    return f"len(list_filter(string_split({text}, ' '), lambda word: word <> ''))"


def read_table(*paths: Path) -> str:
    """Return SQL that reads Parquet files as one table."""
    return f"read_parquet([{', '.join(quote_literal(str(path)) for path in paths)}])"


def one_row(con: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    """Return the only row of a query that counts."""
    row = con.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def dict_rows(
    con: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a query by column name."""
    found = con.execute(query, dict(values or {}))
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@contextmanager
def work_database(out: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database that spills into ``out`` while it works and leaves nothing there."""
    with tempfile.TemporaryDirectory(prefix=".spill-", dir=out) as scratch, connect(Path(scratch)) as con:
        yield con
