"""Labelled responses of sources -> mixture of kind ``responses``: joined, split, decontaminated, sampled by prompt.

``labelled.parquet`` has a row for each response with its label::

    label_id 81ab..  response_id 77f0..  prompt_id 09ab..  values {helpfulness: 4, correctness: 3}  score 3.5  rank 2
    weight 1  repeat 1  source helpsteer  file train.jsonl.gz  row 17  slot 0  split train  group_id 5d..  leak null

``score`` is the mean of the named ratings that are there (or the outcome, 1 or 0); ``rank`` orders the responses of one
prompt in one source by it, 1 the best, where equal scores, compared as exact fractions, share a rank.

``pairs.parquet`` holds what these labels say of pairs: two responses of one prompt in one source with different ranks.
Of a prompt with more than 8 responses there the 8 with the smallest keyed hash are paired, so that 1,024 rollouts do
not become half a million pairs. The test pairs are what a checkpoint is scored on; training reads the labels.
``dropped.parquet``, ``leaks.parquet`` and ``boilerplate.parquet`` are as in a mixture of pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, ResponseUse, Source
from rm_workflow.database import quote_literal, write_parquet
from rm_workflow.errors import UserError
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

OUTCOME = "outcome"
RULES = ("rating", "exact_duplicate", "contradictory", "equal_score", *mixing.RULES)
MOST_PAIRED = 8
# As in pair sets: a rating as an exact number.
EXACT = "decimal(24, 9)"


@dataclass(frozen=True)
class ResponsePart:
    """The labelled responses of one source in a mixture.

    Attributes:
        raw: folder with the source's prompts, responses, occurrences and labels.
    """

    use: ResponseUse
    source: Source
    raw: Path

    @property
    def source_name(self) -> str:
        """Return the name of the source."""
        return self.use.name


# The rules of mixtures of pairs see a response as a pair of itself with itself.
LABELLED = """
    -- one row for each showing of a response, with its label; standing is the mean score times a common multiple of all
    -- numbers of ratings, so that equal means are equal
    select
        {position} as position, {name} as pair_set,
        {label_id} as pair_id, response_id as pair_key, prompt_id, response_id as chosen_id, response_id as rejected_id,
        1.0::double as weight, source, file, row, slot, group_id,
        map_from_entries(present) as values, total::double / len(present) as score,
        (total * ({common} // nullif(len(present), 0)))::{exact} as standing
    from (
        select
            *, row_number() over (partition by response_id order by file, row, slot) - 1 as n,
            list_filter([{named}], lambda one: one.value is not null) as present,
            list_sum([try_cast(one.value as {exact}) for one in present])::{exact} as total
        from {shown}
    )
    join {prompts} using (prompt_id)
"""

# rating: there is no label
NO_LABEL = """
    select position, pair_id, 'it has none of the labels that the mixture asks for' as reason, pair_set as detail
    from remaining
    where standing is null
"""

# exact_duplicate: the same response with the same label stands further up in its source
EXACT_DUPLICATE = """
    select position, pair_id, 'the same response has this label earlier in this source' as reason, twin as detail
    from (
        select *, first_value(pair_id) over (
            partition by position, pair_key, values::varchar order by file, row, slot
        ) as twin
        from remaining
    )
    where pair_id <> twin
"""

# contradictory: the same response with another label in its source; none of them stays
CONTRADICTORY = """
    select position, pair_id, 'the same response has another label in this source' as reason, told as detail
    from remaining join (
        select position, pair_key, string_agg(format('{:g}', score), ', ' order by score) as told
        from remaining group by all having count(*) > 1
    ) using (position, pair_key)
"""

# equal_score: no two responses of the prompt have different scores, so they rank nothing
EQUAL_SCORE = """
    select position, pair_id, 'all responses of its prompt have one score' as reason, format('{{:g}}', score) as detail
    from remaining join (
        select position, prompt_id from remaining group by all having min(standing) = max(standing)
    ) using (position, prompt_id)
    where position in ({positions})
"""

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
        pair_id as label_id, pair_key as response_id, prompt_id, values, score,
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


def build_response_mixture(
    mixture: Mixture, parts: Sequence[ResponsePart], benchmarks: Mapping[str, Path], out: Path
) -> Built:
    """Write ``labelled.parquet``, ``pairs.parquet`` and the other files of one mixture of responses.

    Args:
        parts: in the order of ``mixture.responses``.
        benchmarks: name -> folder with prompts, responses and items, of all in ``mixture.decontaminate_against``.

    Returns:
        the facts of a mixture of pairs, of which all numbers count labelled responses; and ``train_pairs`` and
        ``test_pairs``, the pairs that their labels make.

    Raises:
        UserError: a source has none of the named labels, a file's split is unknown, a text file cannot be read, or
            nothing is left to train on.
    """
    with work_database(out) as con:
        load_texts(con, [part.raw for part in parts])
        for part in parts:
            _check_labels(con, part)
        mixing.read_parts(con, map(_part_sql, range(len(parts)), parts), parts, mixture.split, "source")
        mixing.find_leaks(con, mixture, benchmarks)
        (candidates,) = one_row(con, "select count(*) from remaining")
        dropped = _apply_rules(con, mixture)
        _weigh(con, mixture)
        labelled = out / "labelled.parquet"
        write_parquet(con, KEPT, labelled)
        write_parquet(con, _pairs_sql(labelled), out / "pairs.parquet")
        write_parquet(con, DROPPED.format(characters=EXCERPT_CHARACTERS), out / "dropped.parquet")
        write_parquet(con, HITS_ORDERED, out / "leaks.parquet")
        write_parquet(con, USES_ORDERED, out / "boilerplate.parquet")
        facts = {"candidates": candidates, **mixing.count_kept(con, parts, dropped), **_num_pairs(con, out)}
        mixing.check_train(facts, "responses")
        (shown,) = one_row(
            con, f"select count(*) from {read_table(*(part.raw / 'occurrences.parquet' for part in parts))}"
        )
        checks = mixing.check_files(con, mixture, out, "labelled", shown)
    return Built(facts, checks)


def _check_labels(con: duckdb.DuckDBPyConnection, part: ResponsePart) -> None:
    """Refuse a rating that no response of the source has (most likely misspelt), and a source without outcomes."""
    if not part.use.ratings:
        labels = read_table(part.raw / "labels.parquet")
        if not one_row(con, f"select count(*) from {labels} where kind = '{OUTCOME}' and step is null")[0]:
            raise UserError(
                f"mixture.responses: source '{part.source_name}' has no outcome labels; name ratings of it, for "
                f"instance {part.source_name}: {{ratings: [helpfulness]}}"
            )
        return
    shown = read_table(part.raw / "occurrences.parquet")
    query = f"select distinct unnest(map_keys(ratings)) as rating from {shown} order by rating"
    known = [row[0] for row in con.execute(query).fetchall()]
    missing = [rating for rating in part.use.ratings if rating not in known]
    if missing:
        raise UserError(
            f"mixture.responses: no response of source '{part.source_name}' has the rating '{missing[0]}'; name some "
            f"of: {', '.join(known) or '(it has no ratings)'}"
        )


def _part_sql(position: int, part: ResponsePart) -> str:
    shown = read_table(part.raw / "occurrences.parquet")
    named = [f"{{'key': {quote_literal(name)}, 'value': ratings[{quote_literal(name)}]}}" for name in part.use.ratings]
    if not named:
        labels = read_table(part.raw / "labels.parquet")
        shown = f"""(
            from {shown} left join (
                select response_id, file, row, slot, value from {labels} where kind = '{OUTCOME}' and step is null
            ) using (response_id, file, row, slot)
        )"""
        named = [f"{{'key': '{OUTCOME}', 'value': value}}"]
    return LABELLED.format(
        position=position,
        name=quote_literal(part.source_name),
        label_id=content_id_sql(json_string("response_id"), json_string("source"), "n"),
        common=math.lcm(*range(1, len(named) + 1)),
        exact=EXACT,
        named=", ".join(named),
        shown=shown,
        prompts=read_table(part.raw / "prompts.parquet"),
    )


def _apply_rules(con: duckdb.DuckDBPyConnection, mixture: Mixture) -> dict[str, int]:
    con.execute(mixing.NO_DROPS)
    queries = {
        "rating": NO_LABEL,
        "exact_duplicate": EXACT_DUPLICATE,
        "contradictory": CONTRADICTORY,
        "duplicate_across_sources": DUPLICATE_ACROSS_SOURCES,
        "group_in_test": mixing.GROUP_IN_TEST.format(rows="responses"),
        "leak": mixing.LEAK,
    }
    ranked = [str(position) for position, use in enumerate(mixture.responses) if use.ranked]
    if ranked:
        queries["equal_score"] = EQUAL_SCORE.format(positions=", ".join(ranked))
    if mixture.sample:
        draw = keyed_hash_sql("sample", mixture.sample.seed, "prompt_id")
        queries["sample"] = SAMPLE.format(prompts=mixture.sample.train_prompts, draw=draw)
    dropped = {rule: mixing.apply_rule(con, rule, queries[rule]) if rule in queries else 0 for rule in RULES}
    con.execute(mixing.MARK)
    return dropped


def _weigh(con: duckdb.DuckDBPyConnection, mixture: Mixture) -> None:
    for position, use in enumerate(mixture.responses):
        mixing.weigh_part(con, position, use.repeat, use.loss_weight)
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
