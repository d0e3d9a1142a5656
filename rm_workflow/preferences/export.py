"""A mixture as flat files that other tools read: ``train.parquet`` and ``test.parquet``, texts in every row.

Formats:

- ``trl``: TRL's conversational preferences (docs/source/dataset_formats.md), ``prompt``, ``chosen`` and ``rejected``
  lists of messages, the last two of one assistant turn.
- ``standard``: as RLHFlow's published sets, ``chosen`` and ``rejected`` whole conversations that begin alike.
- ``labelled``: ``prompt``, ``completion`` and ``labels`` (name -> value) of a mixture of responses; of one of
  trajectories ``prompt``, ``completions`` (the steps) and ``labels`` (one a step, null where a step has none).

A row stands as often as an epoch shows it (``repeat``), in the order of its id, which is that of a hash. ``margin``,
which TRL adds to its loss without being asked, is chosen_score - rejected_score and there only where it is asked for.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import duckdb
import pyarrow.parquet as pq

from rm_workflow.database import connect
from rm_workflow.errors import UserError
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import load_texts

Format = Literal["trl", "standard", "labelled"]
FORMATS: tuple[str, ...] = get_args(Format)
SPLITS = ("train", "test")
ROWS_AT_ONCE = 8192

MARGIN = "chosen_score - rejected_score as margin,"

# The pairs of a split with their texts; a pair that an epoch shows n times stands n times.
PAIRS = """
    select
        {columns}, chosen_score, rejected_score, {margin} pairs.weight, pairs.source, pairs.pair_id
    from {pairs} pairs
    cross join unnest(range(repeat)) as shown (time)
    join prompts using (prompt_id)
    join responses c on c.response_id = chosen_id
    join responses r on r.response_id = rejected_id
    where split = $split
    order by pair_id, time
"""
TURN = "[{{'role': 'assistant', 'content': {text}}}]"
COLUMNS = {
    "trl": f"""messages as prompt, {TURN.format(text="c.text")} as chosen, {TURN.format(text="r.text")} as rejected""",
    "standard": f"""
        messages || {TURN.format(text="c.text")} as chosen, messages || {TURN.format(text="r.text")} as rejected
    """,
}

# The labelled responses of a split with their texts; one that an epoch shows n times stands n times.
LABELLED = """
    select messages as prompt, {columns}, labelled.weight, labelled.source, labelled.label_id
    from {labelled} labelled
    cross join unnest(range(repeat)) as shown (time)
    join prompts using (prompt_id)
    join responses using (response_id)
    where split = $split
    order by label_id, time
"""
WHOLE = f"{TURN.format(text='text')} as completion, map_entries(values) as labels"
STEPS = """
    [
        text[coalesce(labelled.step_ends[step - 1], 0) + 1 : labelled.step_ends[step]]
        for step in generate_series(1, len(labelled.step_ends))
    ] as completions, values as labels
"""

WITHOUT_SCORES = """
    -- pairs without the scores that a margin is made of, by source
    select source, count(*) as num_pairs
    from {pairs}
    where chosen_score is null or rejected_score is null
    group by source
    order by source
"""


def export_mixture(
    folder: Path,
    raw_folders: Sequence[Path],
    out: Path,
    form: Format = "trl",
    margin: bool = False,
    describe: Callable[[Path], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, int]:
    """Write a mixture's splits as Parquet files into a new or empty folder; a split without rows has no file.

    The folder is there whole or not at all.

    Args:
        folder: of the mixture's artifact.
        raw_folders: where its texts are.
        margin: write ``margin``, of pairs alone.
        describe: called with the folder of the Parquet files before it gets its name, to write beside them.
        progress: called with the number of rows of a split written so far, and 0, as their total is not known.

    Returns:
        the rows of each split that was written.

    Raises:
        UserError: OUT holds something or cannot be written, the mixture has no pairs (or labels), or a pair has no
            scores for its margin.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(f"{out} is there and not an empty folder; name a new one")
    with connect() as con:
        query = _query(con, folder, form, margin)
        load_texts(con, raw_folders)
        with _staged(out) as staging:
            num_rows = {split: _write(con, query, split, staging, progress) for split in SPLITS}
            if not any(num_rows.values()):
                raise UserError(f"mixture {folder.parent.name}: it has nothing to write as {form}; {_other(form)}")
            for split in SPLITS:
                if not num_rows[split]:
                    (staging / f"{split}.parquet").unlink()
            if describe:
                describe(staging)
    return {split: number for split, number in num_rows.items() if number}


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``out`` when the block ends well; what was killed is in no folder that is loaded."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another folder") from error
    try:
        yield staging
        staging.chmod(0o755)
        # In place of an empty folder too.
        os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _query(con: duckdb.DuckDBPyConnection, folder: Path, form: Format, margin: bool) -> str:
    if form != "labelled":
        pairs = read_table(folder / "pairs.parquet")
        if margin:
            _require_scores(con, pairs, folder)
        return PAIRS.format(columns=COLUMNS[form], margin=MARGIN if margin else "", pairs=pairs)
    if margin:
        raise UserError("--margin: labelled responses have none; leave it out, or take --format trl or standard")
    if not (folder / "labelled.parquet").is_file():
        raise UserError(f"mixture {folder.parent.name}: it holds pairs and no labelled response; {_other(form)}")
    labelled = read_table(folder / "labelled.parquet")
    names = {row["column_name"] for row in dict_rows(con, f"describe select * from {labelled}")}
    return LABELLED.format(columns=STEPS if "step_ends" in names else WHOLE, labelled=labelled)


def _require_scores(con: duckdb.DuckDBPyConnection, pairs: str, folder: Path) -> None:
    without = dict_rows(con, WITHOUT_SCORES.format(pairs=pairs))
    if without:
        told = ", ".join(f"{row['num_pairs']:,} of {row['source']}" for row in without)
        raise UserError(
            f"mixture {folder.parent.name}: pairs without scores ({told}) have no margin; leave out --margin"
        )


def _other(form: Format) -> str:
    return "take --format trl or standard" if form == "labelled" else "take --format labelled"


def _write(
    con: duckdb.DuckDBPyConnection, query: str, split: str, folder: Path, progress: Callable[[int, int], object] | None
) -> int:
    """Write one split batch by batch and return its number of rows."""
    reader = con.sql(query, params={"split": split}).to_arrow_reader(ROWS_AT_ONCE)
    num_rows = 0
    with pq.ParquetWriter(folder / f"{split}.parquet", reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            num_rows += batch.num_rows
            if progress:
                progress(num_rows, 0)
    return num_rows
