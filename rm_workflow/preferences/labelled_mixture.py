"""What mixtures of responses and of trajectories share: labels of single responses, joined, split, sampled by prompt.

Rows of ``labelled.parquet`` are showings of responses with their labels, rows of ``pairs.parquet`` what these say of
pairs: two responses of one prompt in one source with different ranks. Of a prompt with more than 8 responses there the
8 with the smallest keyed hash are paired, so that 1,024 rollouts do not become half a million pairs. The test pairs are
what a checkpoint is scored on; training reads the labels. ``dropped.parquet``, ``leaks.parquet`` and
``boilerplate.parquet`` are as in a mixture of pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import duckdb

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, ResponseUse, Source, TrajectoryUse
from rm_workflow.database import write_parquet
from rm_workflow.preferences import mixture as mixing
from rm_workflow.preferences.decontamination.hits import HITS_ORDERED, USES_ORDERED
from rm_workflow.preferences.sql import (
    content_id_sql,
    json_string,
    keyed_hash_sql,
    one_row,
    read_table,
    work_database,
)
from rm_workflow.preferences.tables import EXCERPT_CHARACTERS
from rm_workflow.preferences.text import load_texts

Use = TypeVar("Use", ResponseUse, TrajectoryUse)

MOST_PAIRED = 8
# As in pair sets: a label as an exact number.
EXACT = "decimal(24, 9)"


@dataclass(frozen=True)
class LabelledPart(Generic[Use]):
    """The labelled responses of one source in a mixture.

    Attributes:
        raw: folder with the source's prompts, responses, occurrences and labels.
    """

    use: Use
    source: Source
    raw: Path

    @property
    def source_name(self) -> str:
        """Return the name of the source."""
        return self.use.name


# duplicate_across_sources: the response has a label in an earlier source, which keeps it
DUPLICATE_ACROSS_SOURCES = """
    select
        later.position, later.pair_id, 'the same response has a label in source ' || twin.pair_set as reason,
        twin.pair_id as detail
    from remaining later join (
        select pair_key, arg_min(remaining, (position, pair_id)) as twin from remaining group by pair_key
    ) using (pair_key)
    where later.position > twin.position
"""

SAMPLE = """
    -- sample: all responses of the train prompts with the smallest content_id(["sample", seed, prompt_id]) stay
    select
        position, pair_id, 'its prompt is not among the {prompts} sampled train prompts' as reason,
        'place ' || place || ' by keyed hash' as detail
    from (
        select position, pair_id, dense_rank() over (order by {draw}, prompt_id) as place
        from remaining where split = 'train'
    )
    where place > {prompts}
"""

KEPT = """
    -- labelled.parquet: what no rule has dropped
    select
        pair_id as label_id, pair_key as response_id, prompt_id, {labels}, score,
        dense_rank() over (partition by position, prompt_id order by standing desc)::integer as rank,
        weight, repeat, source, file, row, slot, split, group_id, leak
    from remaining
    order by prompt_id, label_id
"""

PAIRS = """
    -- pairs.parquet: two responses of one prompt in one source with different ranks
    with drawn as (
        select *
        from {labelled}
        qualify row_number() over (partition by source, prompt_id order by {draw}, response_id) <= {most}
    ),
    paired as (
        select
            {pair_key} as pair_key, prompt_id, c.response_id as chosen_id, r.response_id as rejected_id,
            c.score as chosen_score, r.score as rejected_score, 1.0::double as weight, source, c.file, c.row,
            []::varchar[] as marks, source as pair_set, c.split, c.group_id, coalesce(c.leak, r.leak) as leak,
            1::integer as repeat
        from drawn c join drawn r using (source, prompt_id)
        where c.rank < r.rank
    )
    select {pair_id} as pair_id, *
    from paired
    order by prompt_id, pair_id
"""

DROPPED = """
    -- dropped.parquet: what a rule has dropped, with the start of the text
    select
        'response' as stage, drops.source, drops.file, drops.row, [drops.slot] as slots, pair_id, chosen_id,
        null::varchar as rejected_id, rule, reason, detail, left(text, {characters}) as excerpt
    from drops left join responses on response_id = chosen_id
    order by drops.source, drops.file, drops.row, rule, drops.slot, pair_id
"""


def build_labelled_mixture(
    mixture: Mixture,
    parts: Sequence[LabelledPart[Use]],
    labelled: Iterable[str],
    rules: Mapping[str, str | None],
    labels: Sequence[str],
    benchmarks: Mapping[str, Path],
    out: Path,
) -> Built:
    """Write ``labelled.parquet``, ``pairs.parquet`` and the other files of one mixture of labelled responses.

    Args:
        labelled: SQL for the rows of each part: label_id as pair_id, response_id as pair_key, chosen_id and
            rejected_id, prompt_id, position, pair_set (the source), weight, source, file, row, slot, group_id, score,
            standing (the score as an exact number, by which responses rank), and ``labels``.
        rules: the kind's own rules before those of all mixtures, with their SQL; None for one that is not asked for.
        labels: columns that ``labelled.parquet`` has beside those of all kinds.
        benchmarks: name -> folder with prompts, responses and items, of all in ``mixture.decontaminate_against``.

    Returns:
        the facts of a mixture of pairs, of which all numbers count labelled responses; and ``train_pairs`` and
        ``test_pairs``, the pairs that their labels make.

    Raises:
        UserError: a file's split is unknown, a text file cannot be read, or nothing is left to train on.
    """
    with work_database(out) as con:
        load_texts(con, [part.raw for part in parts])
        mixing.read_parts(con, labelled, parts, mixture.split, "source")
        mixing.find_leaks(con, mixture, benchmarks)
        (candidates,) = one_row(con, "select count(*) from remaining")
        dropped = _apply_rules(con, mixture, rules)
        _weigh(con, mixture, parts)
        kept = out / "labelled.parquet"
        write_parquet(con, KEPT.format(labels=", ".join(labels)), kept)
        write_parquet(con, _pairs_sql(kept), out / "pairs.parquet")
        write_parquet(con, DROPPED.format(characters=EXCERPT_CHARACTERS), out / "dropped.parquet")
        write_parquet(con, HITS_ORDERED, out / "leaks.parquet")
        write_parquet(con, USES_ORDERED, out / "boilerplate.parquet")
        facts = {"candidates": candidates, **mixing.count_kept(con, parts, dropped), **_num_pairs(con, out)}
        mixing.check_train(facts, mixture.kind)
        (shown,) = one_row(
            con, f"select count(*) from {read_table(*(part.raw / 'occurrences.parquet' for part in parts))}"
        )
        checks = mixing.check_files(con, mixture, out, "labelled", shown)
    return Built(facts, checks)


def _apply_rules(con: duckdb.DuckDBPyConnection, mixture: Mixture, rules: Mapping[str, str | None]) -> dict[str, int]:
    con.execute(mixing.NO_DROPS)
    queries = {
        **rules,
        "duplicate_across_sources": DUPLICATE_ACROSS_SOURCES,
        "group_in_test": mixing.GROUP_IN_TEST.format(rows="responses"),
        "leak": mixing.LEAK,
        "sample": None,
    }
    if mixture.sample:
        draw = keyed_hash_sql("sample", mixture.sample.seed, "prompt_id")
        queries["sample"] = SAMPLE.format(prompts=mixture.sample.train_prompts, draw=draw)
    dropped = {rule: mixing.apply_rule(con, rule, query) if query else 0 for rule, query in queries.items()}
    con.execute(mixing.MARK)
    return dropped


def _weigh(con: duckdb.DuckDBPyConnection, mixture: Mixture, parts: Sequence[LabelledPart[Use]]) -> None:
    for position, part in enumerate(parts):
        mixing.weigh_part(con, position, part.use.repeat, part.use.loss_weight)
    if mixture.weight_per_prompt:
        con.execute(mixing.PER_PROMPT)


def _pairs_sql(labelled: Path) -> str:
    ids = ("prompt_id", "c.response_id", "r.response_id")
    return PAIRS.format(
        labelled=read_table(labelled),
        draw=keyed_hash_sql("pairs", 0, "response_id"),
        most=MOST_PAIRED,
        pair_key=content_id_sql(*map(json_string, ids)),
        pair_id=content_id_sql(json_string("pair_key"), json_string("source"), "0"),
    )


def _num_pairs(con: duckdb.DuckDBPyConnection, out: Path) -> dict[str, int]:
    train, test = one_row(
        con,
        f"""
        select count(*) filter (where split = 'train'), count(*) filter (where split = 'test')
        from {read_table(out / "pairs.parquet")}
        """,
    )
    return {"train_pairs": train, "test_pairs": test}
