"""Files of rows, in and out: JSON Lines and Parquet, or a stream of JSON Lines.

What is written grows line by line and is continued after a kill. Parquet cannot grow, so its rows are collected in
``OUT.part.jsonl`` beside it and become ``OUT`` in one step when the last one is there.
"""

import codecs
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rm_workflow.durable_files import replaced
from rm_workflow.errors import UserError
from rm_workflow.preferences.files import refuse_constant, unique_keys

if TYPE_CHECKING:
    import pyarrow as pa

STREAM = "-"
PARQUET, GZIP = b"PAR1", b"\x1f\x8b"  # how such files begin
PARQUET_NAME = ".parquet"
PART = ".part.jsonl"
BATCH_ROWS = 512


@dataclass(frozen=True)
class RawRow:
    """One row as it stands in a file.

    Attributes:
        place: what a person calls it: ``line 3`` (1-based, blank ones counted), ``row 0`` of Parquet.
        row: the object, or what identifies a row that cannot be read.
        problem: why it cannot be read, or None.
    """

    place: str
    row: dict[str, Any]
    problem: str | None = None


def read_json_lines(file: Iterable[bytes]) -> Iterator[RawRow]:
    """Yield the rows of a JSONL stream, blank lines passed over, bad ones with their problem."""
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield _json_row(number, raw)


def _json_row(number: int, raw: bytes) -> RawRow:
    place = f"line {number}"
    unread = {"line": number}
    try:
        row = json.loads(raw.decode("utf-8-sig"), parse_constant=refuse_constant, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        return RawRow(place, unread, f"it is not UTF-8 at byte {error.start}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return RawRow(place, unread, f"it is no JSON ({error}); mend or remove it")
    if not isinstance(row, dict):
        return RawRow(place, unread, "it is no JSON object; write {...} on each line")
    return RawRow(place, row)


def read_parquet(path: str) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file; dates and decimals become text, as JSON has none.

    Raises:
        UserError: the file ends early or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    held = next((name for name, found in row.items() if isinstance(found, bytes)), None)
                    problem = held and f"field {held} holds bytes, which JSON has not; leave the column out"
                    yield RawRow(f"row {number}", {name: _plain(found) for name, found in row.items()}, problem)
                    number += 1
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: it is a Parquet file that cannot be read ({reason}); write it again") from None


def _plain(found: Any) -> Any:
    """Return a value of Parquet as JSON has it; not a number is null."""
    if isinstance(found, dict):
        return {name: _plain(inner) for name, inner in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(inner) for inner in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found if isinstance(found, str | int | float | bool | None) else str(found)


@contextmanager
def opened_rows(path: str) -> Iterator[tuple[Iterator[RawRow], int]]:
    """Give the rows of a file or of stdin, and their number, 0 where it is not known.

    Raises:
        UserError: the file is packed, one JSON array, or a Parquet file in a stream.
    """
    name = "stdin" if path == STREAM else path
    with _opened(path) as file:
        start = file.peek(len(PARQUET))
        if start.startswith(GZIP):
            raise UserError(f"{name} is packed by gzip; unpack it and give JSONL or Parquet")
        if start.startswith(PARQUET) and path == STREAM:
            raise UserError("stdin is a Parquet file, which cannot be read from a stream; name the file")
        if start.startswith(PARQUET):
            yield read_parquet(path), _count_parquet(path)
            return
        if _begins_array(start):
            raise UserError(f"{name} is one JSON array; write one object per line, for instance with: jq -c '.[]'")
        yield read_json_lines(file), _count_lines(path)


@contextmanager
def _opened(path: str) -> Iterator[io.BufferedReader]:
    if path == STREAM:
        yield cast(io.BufferedReader, sys.stdin.buffer)
        return
    with Path(path).open("rb") as file:
        yield file


def _begins_array(start: bytes) -> bool:
    """Return whether a file is an array of objects, in one line or in many, and not lines of which one is a list."""
    first = start.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        return first.startswith(b"[")
    return isinstance(found, list) and any(isinstance(entry, dict) for entry in found)


def _count_lines(path: str) -> int:
    if path == STREAM:
        return 0
    with Path(path).open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def _count_parquet(path: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return 0  # reading its rows says why


def is_parquet(output: str) -> bool:
    """Return whether an output is to be a Parquet file, by its name."""
    return output != STREAM and output.lower().endswith(PARQUET_NAME)


def begun_output(output: str) -> Path | None:
    """Return the JSONL file with the rows that an output holds already, None where there is none.

    Raises:
        UserError: the output is to be Parquet and something else stands there.
    """
    if output == STREAM or not is_parquet(output):
        return Path(output) if output != STREAM and Path(output).is_file() else None
    part, made = Path(output + PART), Path(output)
    if not part.exists() and made.is_file():
        with made.open("rb") as file:
            if file.read(len(PARQUET)) != PARQUET:
                raise UserError(f"{output} exists and is no Parquet file; remove it or name another output")
        with replaced(part) as draft, draft.open("wb") as file:
            file.writelines(to_line(row.row) for row in read_parquet(output))
    return part if part.exists() else None


def forget_begun(output: str) -> None:
    """Remove the rows that were only taken from a finished Parquet file, which is left as it is."""
    if is_parquet(output) and Path(output).is_file():
        Path(output + PART).unlink(missing_ok=True)


@contextmanager
def opened_output(output: str) -> Iterator[IO[bytes]]:
    """Give what lines are written to; a Parquet file is made of them when the block ends well.

    Raises:
        UserError: the rows have no common schema, as Parquet needs; they are kept as lines.
    """
    if output == STREAM:
        yield sys.stdout.buffer
        return
    part = Path(output + PART) if is_parquet(output) else Path(output)
    is_new = not part.exists()
    try:
        with part.open("ab") as file:
            yield file
    except BaseException:
        if is_new and part.is_file() and part.stat().st_size == 0:
            part.unlink()  # nothing was written before the first row failed
        raise
    if is_parquet(output):
        _write_parquet(part, Path(output))
        part.unlink()


def _write_parquet(part: Path, output: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with part.open("rb") as file:
        rows = [json.loads(line) for line in file]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column(name, [row.get(name) for row in rows], part, output) for name in names}
    try:
        with replaced(output) as draft:
            pq.write_table(pa.table(columns), draft, compression="zstd")
    except pa.ArrowException as error:
        raise UserError(
            f"{output}: Parquet does not take the rows ({str(error).splitlines()[0]}); they stand in {part}, take that"
        ) from None


def _column(name: str, found: list[Any], part: Path, output: Path) -> "pa.Array":
    import pyarrow as pa

    try:
        return pa.array(found)
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(
            f"{output}: field {name} is of several kinds, which a column of Parquet cannot be "
            f"({str(error).splitlines()[0]}); the rows stand in {part}, take that or make the field one kind"
        ) from None


def to_line(row: Mapping[str, Any]) -> bytes:
    """Return a row as one line of JSON."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return json.dumps(row).encode() + b"\n"
