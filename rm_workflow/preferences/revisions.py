"""What differs between two revisions of a source's files: bytes, rows and the types that stand in their columns.

A column inside another is named by its path: ``messages[].role`` is the role of each message.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.preferences.files import PARQUET, BrokenLine, read_rows

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}


@dataclass
class Contents:
    """The rows of one file.

    Attributes:
        columns: path -> types of the values found there, nulls left out.
    """

    num_rows: int = 0
    columns: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def compare(before: Sequence[SourceFile], after: Sequence[SourceFile]) -> list[dict[str, Any]]:
    """Return what differs, one entry for each file of either side, those of ``before`` first.

    Returns:
        ``{"file", "change", "rows_before", "rows_after", "added", "removed", "retyped"}``: ``change`` is ``same``,
        ``changed``, ``added`` or ``removed``; ``added`` and ``removed`` are columns, ``retyped`` is ``column: types
        before -> types after``. Rows of a file that is the same are not counted, and null.
    """
    sides = ({file.file: file for file in before}, {file.file: file for file in after})
    return [_difference(name, *(side.get(name) for side in sides)) for name in dict.fromkeys([*sides[0], *sides[1]])]


def removed(file: str) -> dict[str, Any]:
    """Return the entry of a file of which neither side is at hand any more."""
    return _entry(file, "removed", None, None)


def _difference(name: str, before: SourceFile | None, after: SourceFile | None) -> dict[str, Any]:
    if before and after and before.sha256 == after.sha256:
        return _entry(name, "same", None, None)
    old, new = (_contents(file) if file else None for file in (before, after))
    return _entry(name, "changed" if old and new else "added" if new else "removed", old, new)


def _entry(name: str, change: str, old: Contents | None, new: Contents | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file": name,
        "change": change,
        "rows_before": old.num_rows if old else None,
        "rows_after": new.num_rows if new else None,
    }
    if not (old and new):
        return {**entry, "added": [], "removed": [], "retyped": []}
    both = sorted(old.columns.keys() & new.columns.keys())
    return {
        **entry,
        "added": sorted(new.columns.keys() - old.columns.keys()),
        "removed": sorted(old.columns.keys() - new.columns.keys()),
        "retyped": [
            f"{column}: {_types(old.columns, column)} -> {_types(new.columns, column)}"
            for column in both
            if old.columns[column] != new.columns[column]
        ],
    }


def _types(columns: Mapping[str, set[str]], column: str) -> str:
    return " or ".join(sorted(columns[column])) or "null"


def _contents(file: SourceFile) -> Contents:
    if file.file.endswith(PARQUET):
        return _parquet_contents(file)
    contents = Contents()
    for _, row in read_rows(file.path, file.name):
        contents.num_rows += 1
        for column, value in ({} if isinstance(row, BrokenLine) else row).items():
            _note_value(column, value, contents.columns)
    return contents


def _note_value(path: str, value: Any, columns: dict[str, set[str]]) -> None:
    types = columns[path]
    if value is None:
        return
    types.add(JSON_TYPES[type(value)])
    if isinstance(value, dict):
        for name, inner in value.items():
            _note_value(f"{path}.{name}", inner, columns)
    elif isinstance(value, list):
        for inner in value:
            _note_value(f"{path}[]", inner, columns)


def _parquet_contents(file: SourceFile) -> Contents:
    try:
        with pq.ParquetFile(file.path) as parquet:
            contents = Contents(parquet.metadata.num_rows)
            for column in parquet.schema_arrow:
                _note_type(column.name, column.type, contents.columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.name}: no Parquet file ({str(error).splitlines()[0]}); fetch it again") from error
    return contents


def _note_type(path: str, kind: pa.DataType, columns: dict[str, set[str]]) -> None:
    if pa.types.is_struct(kind):
        columns[path].add("object")
        for index in range(kind.num_fields):
            _note_type(f"{path}.{kind.field(index).name}", kind.field(index).type, columns)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        columns[path].add("list")
        _note_type(f"{path}[]", kind.value_type, columns)
    else:
        columns[path].add(str(kind))
