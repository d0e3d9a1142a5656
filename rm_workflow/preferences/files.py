"""Rows of a file, one at a time: JSON Lines (plain, gzip or xz) and Parquet.

A row number is the 1-based physical line in JSON Lines and 0-based in Parquet. Lines end at b"\\n" only: JSON strings
may hold U+2028 and other characters at which ``str.splitlines`` would cut.
"""

import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.errors import UserError

Row = dict[str, Any]

# SHP calls its JSON Lines .json; a file that is one JSON array gives broken lines and is refused for it.
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".json")
PARQUET = (".parquet",)
# Rows held at once when reading Parquet; small, as one row may hold a long dialogue.
PARQUET_BATCH_ROWS = 512
# A broken line is shown, not kept: this much of it is decoded.
SHOWN_BYTES = 1000


@dataclass(frozen=True)
class BrokenLine:
    """A line that is no JSON object.

    Attributes:
        reason: what is wrong with it.
        text: its start, with undecodable bytes replaced.
    """

    reason: str
    text: str


def read_rows(path: Path, name: str) -> Iterator[tuple[int, Row | BrokenLine]]:
    """Yield (row number, row) of a file in order, a broken line in its place.

    Args:
        name: what errors call the file.

    Raises:
        UserError: the kind of file is not known, or the file ends early. A file without rows yields nothing.
    """
    if name.endswith(JSON_LINES):
        yield from _read_json_lines(path, name)
    elif name.endswith(PARQUET):
        yield from _read_parquet(path, name)
    else:
        raise UserError(f"{name}: unknown kind of file; use one of {', '.join((*JSON_LINES, *PARQUET))}")


def _read_json_lines(path: Path, name: str) -> Iterator[tuple[int, Row | BrokenLine]]:
    try:
        with _open_lines(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, _parse_line(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        kind = "xz" if name.endswith(".xz") else "gzip"
        raise UserError(f"{name}: the {kind} file ends early or is damaged ({error}); fetch it again") from error


def _open_lines(path: Path) -> BinaryIO:
    openers: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".xz": lzma.open}
    return cast(BinaryIO, openers.get(path.suffix, _open_plain)(path))


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _parse_line(line: bytes) -> Row | BrokenLine:
    if not line.strip():
        return BrokenLine("the line is empty", "")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return _broken(line, f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return _broken(line, f"not JSON: {error.msg} at character {error.pos}")
    except (ValueError, RecursionError) as error:
        return _broken(line, f"not JSON: {error}")
    if not isinstance(value, dict):
        return _broken(line, f"not a JSON object but {type(value).__name__}")
    return value


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON number")


def _broken(line: bytes, reason: str) -> BrokenLine:
    return BrokenLine(reason, line[:SHOWN_BYTES].decode("utf-8", "replace").rstrip("\r\n"))


def _read_parquet(path: Path, name: str) -> Iterator[tuple[int, Row | BrokenLine]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: the Parquet file ends early or is damaged ({first_line}); fetch it again") from error
