"""One row of a source -> a prompt with its responses, or the rule that drops the row; and what a file holds of both.

Shared by what builds a source (``raw.py``) and by what only looks at it (``preview.py``).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.keys import content_id
from rm_workflow.preferences.adapters import Adapter
from rm_workflow.preferences.files import WHOLE, BrokenLine, Row, Share, read_rows
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.tables import ColumnMissing, Example, RowDropped, excerpt, printable

# (group id, example), or why the row is left out
Outcome = tuple[str, Example] | RowDropped
# key of ``lookup`` as text -> row
LookedUp = dict[str, Row]


@dataclass
class FileCount:
    """What was met in one file."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    first_broken: int | None = None
    columns: dict[str, None] = field(default_factory=dict)
    missing_columns: dict[str, None] = field(default_factory=dict)

    @staticmethod
    def of_shares(shares: Sequence["FileCount"]) -> "FileCount":
        """Return the counts of a file that was read in shares."""
        return FileCount(
            rows=sum(share.rows for share in shares),
            dropped=sum((share.dropped for share in shares), Counter[str]()),
            broken=sum(share.broken for share in shares),
            first_broken=min((share.first_broken for share in shares if share.first_broken is not None), default=None),
            columns={name: None for share in shares for name in share.columns},
            missing_columns={name: None for share in shares for name in share.missing_columns},
        )


def with_rows(source: Source, files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files that hold rows of their own."""
    return [file for file in files if source.lookup is None or file.split != source.lookup.split]


def look_up(name: str, source: Source, files: Sequence[SourceFile]) -> LookedUp:
    """Return key -> row of the files that rows refer to; keys are compared as text, as a CSV file has no numbers.

    Raises:
        UserError: a looked-up row is broken, has no key, or has that of another one.
    """
    found: LookedUp = {}
    if source.lookup is None:
        return found
    for file in files:
        if file.split != source.lookup.split:
            continue
        for number, row in read_rows(file.path, file.name):
            key = None if isinstance(row, BrokenLine) else row.get(source.lookup.key)
            if isinstance(row, BrokenLine) or key is None or str(key) in found:
                problem = (
                    row.reason if isinstance(row, BrokenLine) else "has no key" if key is None else "is there twice"
                )
                raise UserError(
                    f"source '{name}': {file.name}:{number}, looked up by {source.lookup.key!r}: {problem}; mend the "
                    "file or correct `lookup` in sources.yaml"
                )
            found[str(key)] = row
    return found


def outcomes(
    source: Source, adapter: Adapter, file: SourceFile, count: FileCount, looked_up: LookedUp, share: Share = WHOLE
) -> Iterator[tuple[int, Row | BrokenLine, Outcome]]:
    """Yield (row number, row, what it was understood as) of a share of a file and count what is met."""
    for found in looked_up.values():
        count.columns.update(dict.fromkeys(found))
        break
    for number, row in read_rows(file.path, file.name, share):
        count.rows += 1
        outcome = _outcome(row, source, adapter, looked_up)
        if isinstance(outcome, RowDropped):
            _note_dropped(count, number, row, outcome)
        if isinstance(row, dict):
            count.columns.update(dict.fromkeys(row))
        yield number, row, outcome


def _outcome(row: Row | BrokenLine, source: Source, adapter: Adapter, looked_up: LookedUp) -> Outcome:
    try:
        return understand(_joined(row, source, looked_up), source, adapter)
    except RowDropped as drop:
        return drop


def _joined(row: Row | BrokenLine, source: Source, looked_up: LookedUp) -> Row | BrokenLine:
    """Return a row with the columns of the looked-up row that it names; its own columns win."""
    if source.lookup is None or isinstance(row, BrokenLine):
        return row
    if source.lookup.key not in row:
        raise ColumnMissing(source.lookup.key)
    found = looked_up.get(str(row[source.lookup.key]))
    if found is None:
        raise RowDropped("bad_field", "no looked-up row has this key", f"{source.lookup.key} {row[source.lookup.key]}")
    return {**found, **row}


def understand(row: Row | BrokenLine, source: Source, adapter: Adapter) -> tuple[str, Example]:
    """Return (group id, example) of a row.

    Raises:
        RowDropped: one of the row rules matches.
    """
    if isinstance(row, BrokenLine):
        raise RowDropped("broken_line", "the row cannot be read", row.reason)
    group = _group_value(row, source)
    example = adapter.read(row, source)
    named = _first_user_turn(example) if group is None else group
    # Two spellings of one question are one group, whether it stands in a column of its own or not.
    return content_id(["group", normalise(named) if isinstance(named, str) else named]), example


def _group_value(row: Row, source: Source) -> str | int | None:
    column = source.group_column
    if column is None:
        return None
    if column not in row:
        raise ColumnMissing(column)
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise RowDropped("bad_field", "the group is neither text nor a whole number", column)
    return value


def _first_user_turn(example: Example) -> str:
    return next(message["content"] for message in example.messages if message["role"] == "user")


def dropped_row(place: Mapping[str, Any], row: Row | BrokenLine, drop: RowDropped) -> dict[str, Any]:
    """Return a row of the table ``dropped``; ``place`` holds its source, file and row."""
    shown = row.text if isinstance(row, BrokenLine) else json.dumps(row, ensure_ascii=False, default=str)
    return {
        **place,
        "stage": "row",
        "slots": [],
        "pair_id": None,
        "chosen_id": None,
        "rejected_id": None,
        "rule": drop.rule,
        "reason": drop.reason,
        "detail": None if drop.detail is None else printable(drop.detail),
        "excerpt": excerpt(shown),
    }


def _note_dropped(count: FileCount, number: int, row: Row | BrokenLine, drop: RowDropped) -> None:
    count.dropped[drop.rule] += 1
    if isinstance(row, BrokenLine):
        count.broken += 1
        count.first_broken = number if count.first_broken is None else count.first_broken
    if isinstance(drop, ColumnMissing):
        count.missing_columns[drop.column] = None


def refuse_bad_file(name: str, source: Source, file: SourceFile, count: FileCount) -> None:
    """Refuse a file as a whole.

    Raises:
        UserError: it has no row, too many broken lines, or lacks a column in all its rows.
    """
    if count.rows == 0:
        raise UserError(f"source '{name}': {file.name} has 0 rows; fetch it again or take it out of `files`")
    share = count.broken / count.rows
    if share > source.max_broken_share:
        broken = "1 broken line" if count.broken == 1 else f"{count.broken} broken lines"
        raise UserError(
            f"source '{name}': {file.name} has {broken} of {count.rows} ({share:.2%}, the first is line "
            f"{count.first_broken}); mend the file, or raise max_broken_share (now {source.max_broken_share:g}) "
            "in sources.yaml"
        )
    for column in count.missing_columns:
        if column not in count.columns and column.split(".")[0] not in count.columns:
            raise UserError(
                f"source '{name}': column {column!r} is missing in every row of {file.name} (it has: "
                f"{printable(', '.join(count.columns))}); map it under `columns` (or `group_column`) in sources.yaml"
            )


def nothing_used(name: str, dropped: Mapping[str, int], first: Mapping[str, Any]) -> str:
    """Return the sentence on a source of which no row could be used; ``first`` is its first dropped row."""
    place = f"{first['file']}:{first['row']}"
    rules = ", ".join(f"{rule} {number}" for rule, number in dropped.items() if number)
    return (
        f"source '{name}': no row could be used ({rules}); the first, {place}: {first['reason']} "
        f"({first['detail']}); is `adapter` in sources.yaml the right one?"
    )
