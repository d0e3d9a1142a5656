"""The texts that must not be trained on: prompts and responses of benchmarks, and text files that the user names.

They stand in two tables: ``target_turns`` (place, benchmark, item_id, label, turn, text) and ``target_responses`` (the
same with prompt_id for turn). ``place`` is the benchmark's number in the order given, ``label`` the item's name in the
benchmark's own file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from rm_workflow.database import quote_literal
from rm_workflow.errors import UserError
from rm_workflow.preferences.sql import read_table

FIELDS = ("text", "prompt")

TABLES = """
    create temp table target_turns (
        place integer, benchmark varchar, item_id varchar, label varchar, turn integer, text varchar
    );
    create temp table target_responses (
        place integer, benchmark varchar, item_id varchar, label varchar, prompt_id varchar, text varchar
    );
"""

# every user turn of a benchmark's items, numbered from 1
BENCHMARK_TURNS = """
    with asked as (
        select item_id, {label} as label, [message.content for message in messages if message.role = 'user'] as texts
        from {items} items join {prompts} using (prompt_id)
    )
    insert into target_turns
    select {place}, {name}, item_id, label, unnest(range(1, len(texts) + 1)), unnest(texts) from asked
"""

# every response of a benchmark's items
BENCHMARK_RESPONSES = """
    with shown as (
        select item_id, {label} as label, prompt_id, unnest(response_ids) as response_id from {items} items
    )
    insert into target_responses
    select {place}, {name}, item_id, label, prompt_id, text
    from shown join {responses} responses using (prompt_id, response_id)
"""


def load_targets(con: duckdb.DuckDBPyConnection, benchmarks: Mapping[str, Path], files: Mapping[str, Path]) -> None:
    """Create ``target_turns`` and ``target_responses``.

    Args:
        benchmarks: name -> folder with prompts, responses and items.
        files: name -> text file whose lines are prompts; they stand behind the benchmarks.

    Raises:
        UserError: a text file cannot be read.
    """
    con.execute(TABLES)
    for place, (name, folder) in enumerate(benchmarks.items()):
        tables = {table: read_table(folder / f"{table}.parquet") for table in ("items", "prompts", "responses")}
        label = "concat_ws(' ', subset, json_extract_string(meta, '$.id'))"
        for query in (BENCHMARK_TURNS, BENCHMARK_RESPONSES):
            con.execute(query.format(place=place, name=quote_literal(name), label=label, **tables))
    for place, (name, path) in enumerate(files.items(), start=len(benchmarks)):
        lines = list(_file_texts(name, path))
        columns = {"item_id": [item for item, _ in lines], "text": [text for _, text in lines]}
        con.register("arrow_lines", pa.table(columns, schema=pa.schema({name: pa.string() for name in columns})))
        con.execute(
            f"insert into target_turns select {place}, {quote_literal(name)}, item_id, '', 1, text from arrow_lines"
        )
        con.unregister("arrow_lines")


def _file_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield (``line 7``, text) of every line that is not empty.

    Raises:
        UserError: the file or a line of it cannot be read, or no line has a text.
    """
    num_texts = 0
    for number, line in enumerate(_lines(name, path), start=1):
        text = line if path.suffix == ".txt" else _field(f"{name}: line {number}", line)
        if text.strip():
            num_texts += 1
            yield f"line {number}", text
    if not num_texts:
        raise UserError(f"{name} has no text to compare with; add one or take it out of mixture.decontaminate_files")


def _lines(name: str, path: Path) -> list[str]:
    try:
        # Only a line feed ends a line: str.splitlines also cuts at U+2028, which a text may hold.
        return [line.removesuffix("\r") for line in path.read_bytes().decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); mend mixture.decontaminate_files") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 at byte {error.start}; convert it") from error


def _field(where: str, line: str) -> str:
    if not line.strip():
        return ""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}); mend or remove it") from error
    texts = [row[field] for field in FIELDS if field in row] if isinstance(row, dict) else []
    if not texts or not isinstance(texts[0], str):
        raise UserError(f"{where} has no text under {' or '.join(FIELDS)}; name the field so")
    return texts[0].encode("utf-8", "replace").decode("utf-8")
