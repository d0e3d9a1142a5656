"""Rows of a benchmark's own files, also of one that is a single JSON array."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rm_workflow.errors import UserError
from rm_workflow.evaluation.items import Row
from rm_workflow.preferences.files import BrokenLine, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    from rm_workflow.hub import SourceFile

PEEKED_BYTES = 4096


def read_native_rows(file: "SourceFile") -> Iterator[tuple[str, Row]]:
    """Yield (place as a person names it, row) of a file in order.

    A row without a field ``split`` gets the split that its file stands under.

    Raises:
        UserError: a row cannot be read; an item that silently went missing would change the score.
    """
    for place, row in _read_array(file) if _is_array(file.path) else _read_rows(file):
        yield place, row if "split" in row else {**row, "split": file.split}


def _is_array(path: "Path") -> bool:
    with path.open("rb") as opened:
        return path.suffix == ".json" and opened.read(PEEKED_BYTES).lstrip().startswith(b"[")


def _read_array(file: "SourceFile") -> Iterator[tuple[str, Row]]:
    try:
        entries = json.loads(file.path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name}: not JSON ({error}); mend or fetch the file again") from None
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise UserError(f"{file.name}: entry {number} is no JSON object; mend or fetch the file again")
        yield f"entry {number}", entry


def _read_rows(file: "SourceFile") -> Iterator[tuple[str, Row]]:
    for number, row in read_rows(file.path, file.name):
        if isinstance(row, BrokenLine):
            raise UserError(f"{file.name}: line {number}: {row.reason}; mend or fetch the file again")
        yield f"row {number}", row
