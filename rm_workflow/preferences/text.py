"""The texts behind the ids, from one or several raw folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from rm_workflow.preferences.sql import read_table


def load_texts(con: duckdb.DuckDBPyConnection, raw_folders: Sequence[Path]) -> None:
    """Create views: ``prompts`` (prompt_id, messages), ``responses`` (response_id, prompt_id, text), ``occurrences``.

    Each id appears once, whatever number of folders hold it: the same id is the same text. ``group_id`` is left out, as
    sources may group the same prompt in different ways.
    """
    folders = list(dict.fromkeys(raw_folders))
    con.execute(
        f"create or replace view prompts as {_distinct(folders, 'prompts.parquet', 'prompt_id', 'prompt_id, messages')}"
    )
    columns = "response_id, prompt_id, text"
    con.execute(
        f"create or replace view responses as {_distinct(folders, 'responses.parquet', 'response_id', columns)}"
    )
    occurrences = read_table(*(folder / "occurrences.parquet" for folder in folders))
    con.execute(f"create or replace view occurrences as from {occurrences}")


def conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """Return a prompt as a person reads it: the text of a single user turn, else each turn after its role."""
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _distinct(folders: Sequence[Path], file: str, key: str, columns: str) -> str:
    """Return SQL for the union of the folders' tables, each without the keys of the folders before it."""
    parts = [f"select {columns} from {read_table(folders[0] / file)}"]
    for index, folder in enumerate(folders[1:], start=1):
        earlier = read_table(*(before / file for before in folders[:index]))
        parts.append(
            f"select {columns} from {read_table(folder / file)} where {key} not in (select {key} from {earlier})"
        )
    return " union all ".join(parts)
