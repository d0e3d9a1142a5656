"""Mixture x benchmarks -> overlap: which texts of the train pairs are texts of a benchmark, and a verdict for each.

The guard of the mixture (``decontamination/hits.py``) runs once more over the pairs that were kept, against every
benchmark that the recipe is decontaminated against or evaluated on, the mixture's own test split among them.

``overlap.parquet`` has a row for each text of a train pair and each item that it repeats: benchmark, item_id, label
(the item's name in the benchmark's file), side (prompt or response), prompt_id, response_id, turn, kind, share, start,
stop and span (the longest common run of words in the train text), num_pairs (train pairs with this text), pair_id (one
of them) and origin (``source:file:row`` of that). ``boilerplate.parquet`` has the n-grams that were no evidence.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Mixture
from rm_workflow.database import connect, write_parquet
from rm_workflow.preferences.decontamination.boilerplate import listed_texts
from rm_workflow.preferences.decontamination.hits import USES_ORDERED, find_hits
from rm_workflow.preferences.decontamination.targets import load_targets
from rm_workflow.preferences.sql import dict_rows, one_row, read_table, work_database
from rm_workflow.preferences.text import load_texts

# the mixture's own test split as a benchmark; an item is a prompt
TEST_TARGETS = """
    with kept as (select distinct prompt_id from {pairs} where split = 'test'),
    asked as (
        select prompt_id, [message.content for message in messages if message.role = 'user'] as texts
        from prompts where prompt_id in (select prompt_id from kept)
    )
    insert into target_turns
    select {place}, 'test', prompt_id, '', unnest(range(1, len(texts) + 1)), unnest(texts) from asked;

    with shown as (
        select distinct unnest([chosen_id, rejected_id]) as response_id from {pairs} where split = 'test'
    )
    insert into target_responses
    select {place}, 'test', prompt_id, '', prompt_id, text
    from responses where response_id in (select response_id from shown)
"""

# a labelled response of a mixture of responses, as a pair of itself with itself
LABELLED_AS_PAIRS = """
    (
        select
            label_id as pair_id, prompt_id, response_id as chosen_id, response_id as rejected_id, split,
            source, file, row
        from {labelled}
    )
"""

OVERLAP = """
    -- overlap.parquet: each hit with the train pairs that hold its text
    with held as (
        select 'prompt' as side, prompt_id as text_id, pair_id, {origin} as origin from {pairs} where split = 'train'
        union all
        select distinct 'response', unnest([chosen_id, rejected_id]), pair_id, {origin}
        from {pairs} where split = 'train'
    ),
    counted as (
        select
            side, text_id, count(*) as num_pairs,
            unnest(min({{'pair_id': pair_id, 'origin': origin}}))
        from held group by side, text_id
    )
    select
        benchmark, item_id, label, side, prompt_id, response_id, turn, kind, share, start, stop, span,
        num_pairs, pair_id, origin
    from (select *, coalesce(response_id, prompt_id) as text_id from hits) join counted using (side, text_id)
    order by place, item_id, side, prompt_id, response_id, turn, strength, share, start, stop, span
"""

ORIGIN = "source || ':' || file || ':' || row"

VERDICTS = """
    -- one row a benchmark: what could be compared, what was found
    with texts as (
        select place, benchmark, item_id, regexp_matches(text, '[\\pL\\pN_]') as is_comparable from target_turns
        union all
        select place, benchmark, item_id, false from target_responses
    ),
    benchmarks as (
        select place, benchmark, count(distinct item_id) as items, bool_or(is_comparable) as is_comparable
        from texts group by all
    ),
    found as (
        select
            benchmark,
            count(distinct item_id) as leaked_items,
            count(distinct if(side = 'prompt', prompt_id, null)) as train_prompts,
            count(distinct response_id) as train_responses
        from hits group by benchmark
    ),
    leaking as (
        select benchmark, pair_id from {pairs} join hits using (prompt_id) where side = 'prompt' and split = 'train'
        union
        select benchmark, pair_id from {pairs} join hits on response_id = chosen_id where split = 'train'
        union
        select benchmark, pair_id from {pairs} join hits on response_id = rejected_id where split = 'train'
    ),
    counted as (select benchmark, count(*) as train_pairs from leaking group by benchmark)
    select
        benchmark,
        case when leaked_items > 0 then 'leaky' when is_comparable then 'clean' else 'unknown' end as verdict,
        items, coalesce(leaked_items, 0) as leaked_items, coalesce(train_pairs, 0) as train_pairs,
        coalesce(train_prompts, 0) as train_prompts, coalesce(train_responses, 0) as train_responses
    from benchmarks left join found using (benchmark) left join counted using (benchmark)
    order by place
"""

# rows to look at: first one of each benchmark and kind, then the second of each, and so on
SOME_ROWS = """
    with placed as (
        select *, row_number() over (partition by benchmark, kind order by item_id, pair_id, turn) as place
        from {overlap}
    )
    select benchmark, item_id, label, side, turn, kind, share, span, num_pairs, pair_id, origin
    from placed order by place, benchmark, kind, item_id, pair_id limit $n
"""


def build_overlap(
    mixture: Mixture,
    folder: Path,
    raw_folders: Sequence[Path],
    benchmarks: Mapping[str, Path],
    with_test: bool,
    out: Path,
) -> Built:
    """Write ``overlap.parquet`` and ``boilerplate.parquet`` of one mixture.

    Args:
        folder: of the mixture artifact.
        raw_folders: where the texts of its pairs are.
        benchmarks: name -> folder with prompts, responses and items.
        with_test: whether the mixture's own test split is one of the benchmarks.

    Returns:
        facts ``train``, ``hits`` and ``benchmarks``: name -> ``verdict``, ``items``, ``leaked_items``,
        ``train_pairs``, ``train_prompts``, ``train_responses``. ``leaky``: something was found; ``clean``:
        nothing was; ``unknown``: nothing was, and no prompt of the benchmark has a word that could be compared.

    Raises:
        UserError: a text file cannot be read.
    """
    pairs = read_table(folder / "pairs.parquet")
    if mixture.kind != "pairs":
        pairs = LABELLED_AS_PAIRS.format(labelled=read_table(folder / "labelled.parquet"))
    with work_database(out) as con:
        load_texts(con, raw_folders)
        con.execute(
            "create temp table train_pairs as "
            f"select prompt_id, chosen_id, rejected_id from {pairs} where split = 'train'"
        )
        files = {Path(file).name: Path(file) for file in mixture.decontaminate_files}
        load_targets(con, benchmarks, files)
        if with_test:
            con.execute(TEST_TARGETS.format(pairs=pairs, place=len(benchmarks) + len(files)))
        find_hits(con, mixture.guard, listed_texts(list(map(Path, mixture.guard.boilerplate_files))))
        write_parquet(con, OVERLAP.format(pairs=pairs, origin=ORIGIN), out / "overlap.parquet")
        write_parquet(con, USES_ORDERED, out / "boilerplate.parquet")
        verdicts = dict_rows(con, VERDICTS.format(pairs=pairs))
        (train,) = one_row(con, "select count(*) from train_pairs")
        check = _every_row_names_a_train_pair(con, out, pairs)
    named = {row["benchmark"]: {key: value for key, value in row.items() if key != "benchmark"} for row in verdicts}
    return Built({"train": train, "hits": check.metadata["hits"], "benchmarks": named}, (check,))


def _every_row_names_a_train_pair(con: duckdb.DuckDBPyConnection, out: Path, pairs: str) -> Check:
    rows, wrong = one_row(
        con,
        f"""
        select count(*), count(*) filter (where pair_id not in (select pair_id from {pairs} where split = 'train'))
        from {read_table(out / "overlap.parquet")}
        """,
    )
    (hits,) = one_row(con, "select count(*) from hits")
    return Check(
        "every_hit_names_a_train_pair",
        rows == hits and wrong == 0,
        "Every hit is written with a train pair of the mixture that holds its text.",
        {"hits": hits, "rows": rows, "rows_without_train_pair": wrong},
    )


def overlap_rows(folder: Path, n: int) -> list[dict[str, Any]]:
    """Return up to ``n`` rows of an overlap artifact, by turns from each benchmark and kind."""
    with connect() as con:
        return dict_rows(con, SOME_ROWS.format(overlap=read_table(folder / "overlap.parquet")), {"n": n})
