"""``raw_<source>``: rows of a source's files -> prompts, responses, occurrences, labels and dropped rows.

Rows are streamed through the adapter into Arrow batches, those of a large file by several processes; DuckDB then keeps
each prompt and each response once and orders everything, so that a rerun gives identical bytes on any machine. Each row
is used or dropped under one of five named rules.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Source
from rm_workflow.database import connect, num_threads, quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.keys import canonical_json, content_id, texts_id
from rm_workflow.preferences import adapters
from rm_workflow.preferences.files import Share
from rm_workflow.preferences.tables import (
    DROPPED,
    LABELS,
    OCCURRENCES,
    PROMPTS,
    RESPONSES,
    ROW_RULES,
    Example,
    RowDropped,
)
from rm_workflow.preferences.understanding import (
    FileCount,
    LookedUp,
    dropped_row,
    look_up,
    nothing_used,
    outcomes,
    refuse_bad_file,
    with_rows,
)

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

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
# A file larger than this, as plain text, is understood by several processes: about two seconds of work for one.
PARALLEL_BYTES = 32e6
TYPICAL_COMPRESSION = 4
COMPRESSED = (".gz", ".xz", ".parquet")
# Each process reads the whole file and parses its share; more of them would mostly read.
MOST_READERS = 8

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
# (group_id, what the row says), or why it is dropped.
Understood = tuple[str, Example] | RowDropped
# Soft labels are counted as 0, 1 and what lies between; the others have few values.
NUM_LABELS = """
    -- labels of each kind by value
    select
        kind, if(kind = 'soft' and value > 0 and value < 1, 'between', value::int::varchar) as shown, count(*)
    from read_parquet(?)
    group by all
    order by all
"""


class _Tables:
    """The tables while they are written, in reading order and with repeats."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._writers = {
            name: pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="none", use_dictionary=False)
            for name, schema in TABLES.items()
        }
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
    counts: dict[str, int] = {}
    looked_up = look_up(name, source, files)
    with tempfile.TemporaryDirectory(dir=out, prefix="unordered-") as scratch, _readers(files) as readers:
        for place, file in enumerate(with_rows(source, files)):
            read = partial(_read_share, name, source, file, looked_up, Path(scratch) / str(place))
            shares = _shares(file)
            found = list((readers.map if readers and len(shares) > 1 else map)(read, shares))
            count = FileCount.of_shares(found)
            refuse_bad_file(name, source, file, count)
            counts[file.file] = count.rows
            if progress:
                progress(sum(counts.values()), None)
        return _publish(name, counts, Path(scratch), out)


def build_understood(
    name: str, file: str, rows: Iterable[tuple[int, Mapping[str, Any], Understood]], out: Path
) -> Built:
    """Write the tables of a source whose rows are understood already.

    Args:
        file: what they are said to stand in.
        rows: number, the row itself (of which a dropped one shows its start), and what it says.

    Returns:
        see ``build_raw``.
    """
    num_rows = 0
    with tempfile.TemporaryDirectory(dir=out, prefix="unordered-") as scratch:
        tables = _Tables(Path(scratch) / "0" / "0")
        for number, row, outcome in rows:
            _add_outcome(outcome, {"source": name, "file": file, "row": number}, row, tables)
            num_rows += 1
        tables.close()
        return _publish(name, {file: num_rows}, Path(scratch), out)


@contextmanager
def _readers(files: Sequence[SourceFile]) -> Iterator["ProcessPoolExecutor | None"]:
    """Yield processes that understand rows, or None where no file is worth their start."""
    most = max((len(_shares(file)) for file in files), default=1)
    if most == 1:
        yield None
        return
    from loky import ProcessPoolExecutor

    # loky's processes are neither forked, which is unsafe beside Dagster's threads, nor do they import the main script.
    with ProcessPoolExecutor(most) as readers:
        yield readers


def _shares(file: SourceFile) -> list[Share]:
    """Return the shares in which a file is read: one for each core, up to eight, and one for a small file."""
    plain = file.path.suffix not in COMPRESSED
    large = file.path.stat().st_size > PARALLEL_BYTES / (1 if plain else TYPICAL_COMPRESSION)
    num_shares = min(num_threads(), MOST_READERS) if large else 1
    return [Share(index, num_shares) for index in range(num_shares)]


def _read_share(
    name: str, source: Source, file: SourceFile, looked_up: LookedUp, folder: Path, share: Share
) -> FileCount:
    """Write the tables of one share of a file to a folder of its own; may run in another process."""
    tables = _Tables(folder / str(share.index))
    count = FileCount()
    for number, row, outcome in outcomes(source, adapters.get(source.adapter), file, count, looked_up, share):
        place = {"source": name, "file": file.file, "row": number}
        _add_outcome(outcome, place, row, tables)
    tables.close()
    return count


def _add_outcome(outcome: Understood, place: Mapping[str, Any], row: Any, tables: _Tables) -> None:
    if isinstance(outcome, RowDropped):
        tables.add("dropped", dropped_row(place, row, outcome))
    else:
        _add_example(outcome, place, tables)


def _add_example(understood: tuple[str, Example], place: Mapping[str, Any], tables: _Tables) -> None:
    group_id, example = understood
    prompt_id = content_id(example.messages)
    tables.add("prompts", {"prompt_id": prompt_id, "group_id": group_id, "messages": example.messages})
    for response in example.responses:
        response_id = texts_id(prompt_id, response.text)
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
                "extra": canonical_json(response.extra) if response.extra else "{}",
            },
        )


def _publish(name: str, counts: Mapping[str, int], scratch: Path, out: Path) -> Built:
    with connect(scratch=scratch) as connection:
        written = {
            table: write_parquet(
                connection,
                QUERIES[table].format(
                    path=quote_literal(str(scratch / "*" / "*" / f"{table}.parquet")),
                    responses=quote_literal(str(out / "responses.parquet")),
                ),
                out / f"{table}.parquet",
            )
            for table in TABLES
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
        raise UserError(nothing_used(name, dropped, first))
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
