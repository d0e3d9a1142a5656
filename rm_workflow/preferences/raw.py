"""``raw_<source>``: rows of a source's files -> prompts, responses, occurrences, labels and dropped rows.

Rows are streamed through the adapter into Arrow batches; DuckDB then keeps each prompt and each response once and
orders everything, so that a rerun gives identical bytes. Each row is used or dropped under one of five named rules.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Source
from rm_workflow.database import connect, quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.keys import canonical_json, content_id
from rm_workflow.preferences import adapters
from rm_workflow.preferences.adapters import Adapter
from rm_workflow.preferences.files import BrokenLine, Row, read_rows
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.tables import (
    DROPPED,
    LABELS,
    OCCURRENCES,
    PROMPTS,
    RESPONSES,
    ROW_RULES,
    ColumnMissing,
    Example,
    RowDropped,
    excerpt,
    printable,
)

# While reading, a label stands at a character of the text: rows may cut one text into different steps.
LABELS_READ = LABELS.set(LABELS.get_field_index("step"), pa.field("step_end", pa.int32()))
TABLES = {
    "prompts": PROMPTS,
    "responses": RESPONSES,
    "occurrences": OCCURRENCES,
    "labels": LABELS_READ,
    "dropped": DROPPED,
}
# Rows of one table that are held in memory before they are written.
BATCH_ROWS = 4096

# The same id stands for the same content, so any of the equal rows is the row. Only the group may differ, where
# the source's own group column puts one prompt in two groups.
QUERIES = {
    "prompts": """
        -- each prompt once
        select prompt_id, min(group_id) as group_id, any_value(messages) as messages
        from read_parquet({path})
        group by prompt_id
        order by prompt_id
    """,
    "responses": """
        -- each response of a prompt once, with every step end that a row gives it
        select
            response_id, any_value(prompt_id) as prompt_id, any_value(text) as text,
            list_sort(list_distinct(flatten(list(step_ends) filter (step_ends is not null)))) as step_ends
        from read_parquet({path})
        group by response_id
        order by any_value(prompt_id), response_id
    """,
    "occurrences": """
        -- each showing of a response, in the order of the files
        select *
        from read_parquet({path})
        order by file, row, slot
    """,
    "labels": """
        -- each label of each showing; step is the place of the label's end among the response's step ends, from 0
        select
            response_id, source, file, row, slot,
            if(step_end is null, null, list_position(step_ends, step_end) - 1)::int as step,
            value, kind
        from read_parquet({path}) join read_parquet({responses}) responses using (response_id)
        order by file, row, slot, step nulls first, kind
    """,
    "dropped": """
        -- each dropped row with its rule
        select *
        from read_parquet({path})
        order by source, file, row, rule, pair_id, slots
    """,
}

Progress = Callable[[int, int | None], None]
# Soft labels are counted as 0, 1 and what lies between; the others have few values.
NUM_LABELS = """
    -- labels of each kind by value
    select
        kind, if(kind = 'soft' and value > 0 and value < 1, 'between', value::int::varchar) as shown, count(*)
    from read_parquet(?)
    group by all
    order by all
"""
# (group id, example), or why the row is left out
Outcome = tuple[str, Example] | RowDropped
# key of ``lookup`` as text -> row
_LookedUp = dict[str, Row]


@dataclass
class _FileCount:
    """What was met in one file."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    first_broken: int | None = None
    columns: dict[str, None] = field(default_factory=dict)
    missing_columns: dict[str, None] = field(default_factory=dict)


class _Tables:
    """The tables while they are written, in reading order and with repeats."""

    def __init__(self, folder: Path) -> None:
        self.paths = {name: folder / f"{name}.parquet" for name in TABLES}
        self._writers = {name: pq.ParquetWriter(path, TABLES[name]) for name, path in self.paths.items()}
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def add(self, name: str, row: dict[str, Any]) -> None:
        self._rows[name].append(row)
        if len(self._rows[name]) >= BATCH_ROWS:
            self._flush(name)

    def close(self) -> None:
        for name, writer in self._writers.items():
            self._flush(name)
            writer.close()

    def _flush(self, name: str) -> None:
        rows, schema = self._rows[name], TABLES[name]
        columns = [pa.array([row[column.name] for row in rows], column.type) for column in schema]
        self._writers[name].write_table(pa.Table.from_arrays(columns, schema=schema))
        rows.clear()


def build_raw(
    name: str, source: Source, files: Sequence[SourceFile], out: Path, progress: Progress | None = None
) -> Built:
    """Write prompts, responses, occurrences, labels and dropped rows of a source to ``out``.

    Args:
        progress: told (rows read so far, None) after each file.

    Returns:
        facts ``rows, used, dropped {rule: rows}, files {file: rows}, num_prompts, num_responses, num_labels {kind:
        {value: labels}}``, and the check ``rows_accounted_for``.

    Raises:
        UserError: see ``read_rows``; a file has no row, too many broken lines, or lacks a column in all its rows; no
            row at all could be used.
    """
    adapters.check_source(name, source)
    adapter = adapters.get(source.adapter)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=out, prefix="unordered-") as scratch:
        tables = _Tables(Path(scratch))
        looked_up = _look_up(name, source, files)
        for file in _with_rows(source, files):
            counts[file.file] = _read_file(name, source, adapter, file, tables, looked_up).rows
            if progress:
                progress(sum(counts.values()), None)
        tables.close()
        return _publish(name, counts, tables.paths, out)


def _with_rows(source: Source, files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files that hold rows of their own."""
    return [file for file in files if source.lookup is None or file.split != source.lookup.split]


def _look_up(name: str, source: Source, files: Sequence[SourceFile]) -> _LookedUp:
    """Return key -> row of the files that rows refer to; keys are compared as text, as a CSV file has no numbers.

    Raises:
        UserError: a looked-up row is broken, has no key, or has that of another one.
    """
    found: _LookedUp = {}
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


def _read_file(
    name: str, source: Source, adapter: Adapter, file: SourceFile, tables: _Tables, looked_up: _LookedUp
) -> _FileCount:
    count = _FileCount()
    for number, row, outcome in _outcomes(source, adapter, file, count, looked_up):
        place = {"source": name, "file": file.file, "row": number}
        if isinstance(outcome, RowDropped):
            tables.add("dropped", _dropped_row(place, row, outcome))
        else:
            _add_example(outcome, place, tables)
    _refuse_bad_file(name, source, file, count)
    return count


def _outcomes(
    source: Source, adapter: Adapter, file: SourceFile, count: _FileCount, looked_up: _LookedUp
) -> Iterator[tuple[int, Row | BrokenLine, Outcome]]:
    """Yield (row number, row, what it was understood as) of a file and count what is met."""
    for found in looked_up.values():
        count.columns.update(dict.fromkeys(found))
        break
    for number, row in read_rows(file.path, file.name):
        count.rows += 1
        outcome = _outcome(row, source, adapter, looked_up)
        if isinstance(outcome, RowDropped):
            _note_dropped(count, number, row, outcome)
        if isinstance(row, dict):
            count.columns.update(dict.fromkeys(row))
        yield number, row, outcome


def _outcome(row: Row | BrokenLine, source: Source, adapter: Adapter, looked_up: _LookedUp) -> Outcome:
    try:
        return understand(_joined(row, source, looked_up), source, adapter)
    except RowDropped as drop:
        return drop


def _joined(row: Row | BrokenLine, source: Source, looked_up: _LookedUp) -> Row | BrokenLine:
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
        raise RowDropped("broken_line", "the line is no JSON object", row.reason)
    group = _group_value(row, source)
    example = adapter.read(row, source)
    return content_id(["group", normalise(_first_user_turn(example)) if group is None else group]), example


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


def _add_example(understood: tuple[str, Example], place: Mapping[str, Any], tables: _Tables) -> None:
    group_id, example = understood
    prompt_id = content_id(example.messages)
    tables.add("prompts", {"prompt_id": prompt_id, "group_id": group_id, "messages": example.messages})
    for response in example.responses:
        response_id = content_id([prompt_id, response.text])
        ids = {"response_id": response_id, "prompt_id": prompt_id}
        tables.add("responses", {**ids, "text": response.text, "step_ends": response.step_ends})
        for label in response.labels:
            step_end = None if label.step is None else (response.step_ends or ())[label.step]
            placed = {"response_id": response_id, **place, "slot": response.slot, "step_end": step_end}
            tables.add("labels", {**placed, "value": label.value, "kind": label.kind})
        tables.add(
            "occurrences",
            {
                **ids,
                **place,
                "slot": response.slot,
                "model": response.model,
                "ratings": sorted(response.ratings.items()),
                "extra": canonical_json(response.extra),
            },
        )


def _dropped_row(place: Mapping[str, Any], row: Row | BrokenLine, drop: RowDropped) -> dict[str, Any]:
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


def _note_dropped(count: _FileCount, number: int, row: Row | BrokenLine, drop: RowDropped) -> None:
    count.dropped[drop.rule] += 1
    if isinstance(row, BrokenLine):
        count.broken += 1
        count.first_broken = number if count.first_broken is None else count.first_broken
    if isinstance(drop, ColumnMissing):
        count.missing_columns[drop.column] = None


def _refuse_bad_file(name: str, source: Source, file: SourceFile, count: _FileCount) -> None:
    if count.rows == 0:
        raise UserError(f"source '{name}': {file.name} has 0 rows; fetch it again or take it out of `files`")
    share = count.broken / count.rows
    if share > source.max_broken_share:
        raise UserError(
            f"source '{name}': {file.name} has {count.broken} broken lines of {count.rows} ({share:.2%}, the first is "
            f"line {count.first_broken}); mend the file, or raise max_broken_share (now {source.max_broken_share:g}) "
            "in sources.yaml"
        )
    for column in count.missing_columns:
        if column not in count.columns and column.split(".")[0] not in count.columns:
            raise UserError(
                f"source '{name}': column {column!r} is missing in every row of {file.name} (it has: "
                f"{printable(', '.join(count.columns))}); map it under `columns` (or `group_column`) in sources.yaml"
            )


def _publish(name: str, counts: Mapping[str, int], paths: Mapping[str, Path], out: Path) -> Built:
    with connect(scratch=paths["prompts"].parent) as connection:
        written = {
            table: write_parquet(
                connection,
                QUERIES[table].format(
                    path=quote_literal(str(path)), responses=quote_literal(str(out / "responses.parquet"))
                ),
                out / f"{table}.parquet",
            )
            for table, path in paths.items()
        }
        # rows that stand in the published tables, counted there and not while reading
        row = connection.execute(
            "select count(*) from (select distinct file, row from read_parquet(?))", [str(out / "occurrences.parquet")]
        ).fetchone()
        by_rule = connection.execute(
            "select rule, count(*) from (select distinct file, row, rule from read_parquet(?)) group by all",
            [str(out / "dropped.parquet")],
        ).fetchall()
        num_labels: dict[str, dict[str, int]] = {}
        for kind, value, number in connection.execute(NUM_LABELS, [str(out / "labels.parquet")]).fetchall():
            num_labels.setdefault(kind, {})[value] = number
    used = int(row[0]) if row else 0
    dropped = {rule: dict(by_rule).get(rule, 0) for rule in ROW_RULES}
    rows = sum(counts.values())
    if used == 0 and rows == sum(dropped.values()):
        first = pq.read_table(out / "dropped.parquet").slice(0, 1).to_pylist()[0]
        raise UserError(_nothing_used(name, dropped, first))
    facts = {
        "rows": rows,
        "used": used,
        "dropped": dropped,
        "files": dict(counts),
        "num_prompts": written["prompts"],
        "num_responses": written["responses"],
        "num_labels": num_labels,
    }
    return Built(facts, (_rows_accounted_for(rows, used, dropped),))


def _rows_accounted_for(rows: int, used: int, dropped: Mapping[str, int]) -> Check:
    num_dropped = sum(dropped.values())
    return Check(
        "rows_accounted_for",
        rows == used + num_dropped,
        "Every row that was read is used or dropped under a named rule.",
        {"rows": rows, "used": used, "dropped": num_dropped},
    )


def _nothing_used(name: str, dropped: Mapping[str, int], first: Mapping[str, Any]) -> str:
    place = f"{first['file']}:{first['row']}"
    rules = ", ".join(f"{rule} {number}" for rule, number in dropped.items() if number)
    return (
        f"source '{name}': no row could be used ({rules}); the first, {place}: {first['reason']} "
        f"({first['detail']}); is `adapter` in sources.yaml the right one?"
    )


def preview(
    name: str, source: Source, files: Sequence[SourceFile], num_rows: int = 5, progress: Progress | None = None
) -> dict[str, Any]:
    """Read all rows as ``build_raw`` does, keep nothing, and return what the first rows were understood as.

    Args:
        num_rows: rows of each file to return.
        progress: told (rows of all files read so far, None) now and then.

    Returns:
        ``{"source", "adapter", "files": [file], "refused"}``. A file is ``{"file", "split", "sha256", "columns": [],
        "num_rows", "num_used", "dropped": {rule: rows}, "rows": [row]}``, a row ``{"row", "group_id", "messages",
        "responses": [{"slot", "text", "model", "ratings", "extra", "steps", "labels"}]}`` (``steps`` is the text cut at
        its step ends, a label ``{"kind", "value", "step"}``), or ``{"row", "rule", "reason", "detail",
        "excerpt"}`` where it was dropped. ``refused`` is the sentence with which ``build_raw`` refuses the files, or
        None.

    Raises:
        UserError: the adapter or a key of ``columns`` is unknown.
    """
    adapters.check_source(name, source)
    looks = []
    before = 0
    looked_up = _look_up(name, source, files)
    for file in _with_rows(source, files):
        looks.append(_look(name, source, file, num_rows, _counted_from(before, progress), looked_up))
        before += looks[-1].count.rows
    return {
        "source": name,
        "adapter": source.adapter,
        "files": [look.as_json() for look in looks],
        "refused": next((look.refused for look in looks if look.refused), None) or _unusable(name, looks),
    }


@dataclass
class _Look:
    """What a look at one file found, which may have ended early."""

    file: SourceFile
    count: _FileCount = field(default_factory=_FileCount)
    rows: list[dict[str, Any]] = field(default_factory=list)
    first_dropped: dict[str, Any] | None = None
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        dropped = {rule: self.count.dropped[rule] for rule in ROW_RULES}
        return {
            "file": self.file.file,
            "split": self.file.split,
            "sha256": self.file.sha256,
            "columns": list(self.count.columns),
            "num_rows": self.count.rows,
            "num_used": self.count.rows - self.count.dropped.total(),
            "dropped": dropped,
            "rows": self.rows,
        }


def _look(
    name: str, source: Source, file: SourceFile, num_rows: int, progress: Progress | None, looked_up: _LookedUp
) -> _Look:
    look = _Look(file)
    try:
        for number, row, outcome in _outcomes(source, adapters.get(source.adapter), file, look.count, looked_up):
            if look.first_dropped is None and isinstance(outcome, RowDropped):
                look.first_dropped = _dropped_row({"file": file.file, "row": number}, row, outcome)
            if len(look.rows) < num_rows:
                look.rows.append({"row": number, **_shown_outcome(row, outcome)})
            if progress and look.count.rows % BATCH_ROWS == 0:
                progress(look.count.rows, None)
        _refuse_bad_file(name, source, file, look.count)
    except UserError as error:
        look.refused = str(error)
    return look


def _counted_from(before: int, progress: Progress | None) -> Progress | None:
    return (lambda rows, total: progress(before + rows, total)) if progress else None


def _unusable(name: str, looks: Sequence[_Look]) -> str | None:
    """Return the sentence of ``_nothing_used``, or None where a row of any file can be used."""
    dropped = sum((look.count.dropped for look in looks), Counter[str]())
    if dropped.total() < sum(look.count.rows for look in looks):
        return None
    # The build tells the first row in the order of the published table.
    first = min((look.first_dropped for look in looks if look.first_dropped), key=lambda row: str(row["file"]))
    return _nothing_used(name, {rule: dropped[rule] for rule in ROW_RULES}, first)


def _shown_outcome(row: Row | BrokenLine, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, RowDropped):
        dropped = _dropped_row({}, row, outcome)
        return {key: dropped[key] for key in ("rule", "reason", "detail", "excerpt")}
    group_id, example = outcome
    responses = [
        {
            "slot": response.slot,
            "text": response.text,
            "model": response.model,
            "ratings": dict(response.ratings),
            "extra": dict(response.extra),
            "steps": response.steps,
            "labels": [asdict(label) for label in response.labels],
        }
        for response in example.responses
    ]
    return {"group_id": group_id, "messages": list(example.messages), "responses": responses}
