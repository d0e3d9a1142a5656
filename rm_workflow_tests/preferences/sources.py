"""Small sources on disk for the tests of this package."""

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Source
from rm_workflow.hub import resolve_files
from rm_workflow.preferences import raw
from rm_workflow.settings import Settings


def settings(home: Path, mirror: Path | None = None) -> Settings:
    return Settings(home=home, hub_mirror=mirror, catalog=None, project=None, device="cpu")


def transcript(*turns: tuple[str, str]) -> str:
    return "".join(f"\n\n{speaker}: {text}" for speaker, text in turns)


def hh_row(question: str, chosen: str, rejected: str) -> dict[str, str]:
    replies = {"chosen": chosen, "rejected": rejected}
    return {side: transcript(("Human", question), ("Assistant", reply)) for side, reply in replies.items()}


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON Lines; text and bytes stand for themselves, as broken lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else _line(row) for row in rows]
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as whatever the file is named: JSON Lines, CSV or Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=400)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_lines(path, rows)


def _line(row: Any) -> bytes:
    return (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode("utf-8")


def source(folder: Path, adapter: str = "hh_transcript", file: str = "train.jsonl", **fields: Any) -> Source:
    return Source(path=str(folder), files={"train": [file]}, adapter=adapter, licence="CC0", **fields)


def build(entry: Source, out: Path) -> Built:
    out.mkdir(parents=True, exist_ok=True)
    return raw.build_raw("tiny", entry, resolve_files(entry, settings(out.parent / "home")), out)


def build_rows(rows: Iterable[Any], folder: Path, adapter: str = "hh_transcript", **fields: Any) -> Built:
    """Write rows to a file under ``folder`` and build them to ``folder/out``."""
    write_lines(folder / "in" / "train.jsonl", rows)
    return build(source(folder / "in", adapter, **fields), folder / "out")


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a written table in file order."""
    cursor = duckdb.execute(f"select * from read_parquet('{folder / 'out' / name}.parquet')")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
