"""Rows of a file, one at a time: JSON Lines and CSV (plain, gzip or xz), and Parquet.

A row number is the 1-based physical line in JSON Lines and 0-based in Parquet; in CSV it is the 1-based line at which
the row begins, so that the header is line 1 and an editor shows the row there although a cell may hold line breaks.
Lines end at b"\\n" only: JSON strings may hold U+2028 and other characters at which ``str.splitlines`` would cut.
All cells of a CSV file are text, as they stand there: a reply "007" stays what it is.
"""

import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
CSV = (".csv", ".csv.gz", ".csv.xz")
TSV = (".tsv", ".tsv.gz", ".tsv.xz")
# Python's reader refuses cells beyond 131,072 characters unless told; a long dialogue is no mistake.
LONGEST_CELL = 2**31 - 1
# Rows that stand together in a share of a file.
BLOCK_ROWS = 256
# Rows held at once when reading Parquet; small, as one row may hold a long dialogue.
PARQUET_BATCH_ROWS = 512
# A broken line is shown, not kept: this much of it is decoded.
SHOWN_BYTES = 1000
# So much of a key that stands twice is shown.
SHOWN_KEY = 60
# What "surrogateescape" puts where a byte is no UTF-8.
NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class BrokenLine:
    """A line, or a row of Parquet, that cannot be read.

    Attributes:
        reason: what is wrong with it.
        text: its start, with undecodable bytes replaced.
    """

    reason: str
    text: str


@dataclass(frozen=True)
class Share:
    """One of ``num_shares`` parts of a file; each row belongs to exactly one of them, whatever the kind of file.

    Attributes:
        index: from 0.
    """

    index: int
    num_shares: int

    def holds(self, place: int) -> bool:
        """Return whether the row at ``place`` (from 0) belongs to this share: blocks of rows by turns."""
        return place // BLOCK_ROWS % self.num_shares == self.index


WHOLE = Share(0, 1)


def read_rows(path: Path, name: str, share: Share = WHOLE) -> Iterator[tuple[int, Row | BrokenLine]]:
    """Yield (row number, row) of a file in order, a broken line in its place.

    Args:
        name: what errors call the file.
        share: the rows to yield; the others are passed over without being parsed where the kind of file allows it.

    Raises:
        UserError: the kind of file is not known, or the file ends early. A file without rows yields nothing.
    """
    if name.endswith(JSON_LINES):
        yield from _read_json_lines(path, name, share)
    elif name.endswith(PARQUET):
        yield from _read_parquet(path, name, share)
    elif name.endswith((*CSV, *TSV)):
        yield from _share_of(_read_csv(path, name), share)
    else:
        kinds = (*JSON_LINES, *PARQUET, *CSV, *TSV)
        raise UserError(f"{name}: unknown kind of file; use one of {', '.join(kinds)}")


def _share_of(rows: Iterator[tuple[int, Row | BrokenLine]], share: Share) -> Iterator[tuple[int, Row | BrokenLine]]:
    return (row for place, row in enumerate(rows) if share.holds(place))


def _read_json_lines(path: Path, name: str, share: Share) -> Iterator[tuple[int, Row | BrokenLine]]:
    with _told_if_cut(name), _open_lines(path) as file:
        for number, line in enumerate(file, start=1):
            if not share.holds(number - 1):
                continue
            yield number, _parse_line(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)


@contextmanager
def _told_if_cut(name: str) -> Iterator[None]:
    try:
        yield
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
        value = json.loads(line.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        return _broken(line, f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return _broken(line, f"not JSON: {error.msg} at character {error.pos}")
    except (ValueError, RecursionError) as error:
        return _broken(line, f"not JSON: {error}")
    if not isinstance(value, dict):
        return _broken(line, f"not a JSON object but {type(value).__name__}")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, for ``json.loads(object_pairs_hook=...)``, which by itself keeps the last of equal keys.

    Raises:
        ValueError: a key stands twice, so that one of two values would be lost without a word.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise ValueError(f"the key {repeated[:SHOWN_KEY]!r} stands twice in one object")
    return found


def refuse_constant(token: str) -> NoReturn:
    """Refuse NaN and Infinity, for ``json.loads(parse_constant=...)``.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{token} is no JSON number")


def _broken(line: bytes, reason: str) -> BrokenLine:
    return BrokenLine(reason, line[:SHOWN_BYTES].decode("utf-8", "replace").rstrip("\r\n"))


def _read_csv(path: Path, name: str) -> Iterator[tuple[int, Row | BrokenLine]]:
    """Read cells as text; bytes that are no UTF-8 stand in for surrogates until the row is refused for them."""
    csv.field_size_limit(LONGEST_CELL)
    delimiter = "\t" if name.endswith(TSV) else ","
    with _told_if_cut(name), _open_lines(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header = _csv_header(reader, name)
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # a quote that is not closed takes in lines after it: each is lost, and is counted
                for line in range(number, reader.line_num + 1):
                    yield line, BrokenLine(f"not CSV: {error}", "")
            else:
                yield number, _csv_row(header, cells)


def _csv_header(reader: Iterator[list[str]], name: str) -> list[str]:
    """Return the names of the columns; a file without any line has none and no rows."""
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(f"{name}: the first line is no CSV header ({error}); write the names of the columns") from error
    if any(NOT_UTF8.search(column) for column in header):
        raise UserError(f"{name}: the header is not UTF-8; convert the file")
    _refuse_unclear(header, name)
    return header


def _refuse_unclear(header: Sequence[str], name: str) -> None:
    """Refuse columns of which a row could hold only one, or that no entry of the catalogue could name."""
    unclear = [column for column in header if not column.strip() or header.count(column) > 1]
    if unclear:
        raise UserError(
            f"{name}: the header has the column {unclear[0]!r} without a name or twice; give each column its own name"
        )


def _csv_row(header: list[str], cells: list[str]) -> Row | BrokenLine:
    if not cells:
        return BrokenLine("the line is empty", "")
    shown = ",".join(cells)[:SHOWN_BYTES].encode("utf-8", "replace").decode("utf-8")
    if len(cells) != len(header):
        return BrokenLine(f"{len(cells)} cells under {len(header)} columns", shown)
    if any(NOT_UTF8.search(cell) for cell in cells):
        return BrokenLine("not UTF-8", shown)
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path, name: str, share: Share) -> Iterator[tuple[int, Row | BrokenLine]]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_unclear(file.schema_arrow.names, name)
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                mine = [place for place in range(number, number + len(batch)) if share.holds(place)]
                rows = batch.take(pa.array([place - number for place in mine], pa.int64()))
                yield from zip(mine, _parquet_rows(rows), strict=True)
                number += len(batch)
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: the Parquet file ends early or is damaged ({first_line}); fetch it again") from error


def _parquet_rows(batch: pa.RecordBatch) -> list[Row | BrokenLine]:
    """Return the rows of a batch; Parquet does not check that text is UTF-8, so one row may be unreadable."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        return [_parquet_row(batch.slice(place, 1)) for place in range(len(batch))]


def _parquet_row(batch: pa.RecordBatch) -> Row | BrokenLine:
    try:
        return cast(Row, batch.to_pylist()[0])
    except UnicodeDecodeError:
        return BrokenLine("not UTF-8", "")
