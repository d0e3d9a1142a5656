"""Pair sets -> mixture: joined in order of precedence, split, decontaminated, sampled.

``pairs.parquet`` is the union of the pair sets' rows with ``pair_set``, ``split`` (train or test), ``group_id``,
``leak`` (the benchmark item whose prompt the pair asks, where such pairs are marked and not dropped), ``repeat`` (how
often an epoch shows the pair) and ``weight`` (what it counts for in the loss); the last two are 1 for test pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Mixture, PairSetUse, Sample, Source, Split
from rm_workflow.database import quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.sql import keyed_hash_sql, one_row, read_table, work_database
from rm_workflow.preferences.tables import EXCERPT_CHARACTERS
from rm_workflow.preferences.text import load_texts

RULES = ("duplicate_across_sources", "group_in_test", "leak", "sample")
# What the files under a split name of sources.yaml become.
SIDES = {"train": "train", "test": "test", "validation": "test"}
# Digits of a hash that are compared with the share of test groups.
SHARE_DIGITS = 12
PROMPTS_AT_ONCE = 10_000
TURN_KEYS = pa.schema([("prompt_id", pa.string()), ("turn", pa.int32()), ("turn_key", pa.string())])


@dataclass(frozen=True)
class Member:
    """One pair set of a mixture.

    Attributes:
        pairs: folder with the pair set's ``pairs.parquet``.
        raw: folder with the source's prompts, responses and occurrences.
    """

    pair_set: str
    source_name: str
    source: Source
    pairs: Path
    raw: Path


# duplicate_across_sources: the pair_key stands in an earlier pair set, which keeps it
DUPLICATE_ACROSS_SOURCES = """
    select
        later.position, later.pair_id, 'the same pair stands in pair set ' || twin.pair_set as reason,
        twin.pair_id as detail
    from remaining later join (
        select pair_key, arg_min(remaining, (position, pair_id)) as twin from remaining group by pair_key
    ) using (pair_key)
    where later.position > twin.position
"""

# group_in_test: a train pair whose group, or whose very prompt under another grouping, has pairs in test
GROUP_IN_TEST = """
    with test as (select * from remaining where split = 'test')
    select position, pair_id, 'its group of prompts has pairs in test' as reason, 'group ' || group_id as detail
    from remaining
    where split = 'train' and group_id in (select group_id from test)
    union all
    select position, pair_id, 'its prompt has pairs in test' as reason, 'prompt ' || prompt_id as detail
    from remaining
    where split = 'train' and group_id not in (select group_id from test) and prompt_id in (select prompt_id from test)
"""

# leak: a user turn of a train pair's prompt is, normalised, a user turn of a benchmark prompt
LEAK = """
    select
        position, pair_id, 'a user turn of its prompt is a user turn of a benchmark prompt' as reason,
        item || ' (user turn ' || turn || '; policy drop)' as detail
    from remaining join leaking_prompts using (prompt_id)
    where split = 'train'
"""

# leak, policy mark: the pair stays and names the item
MARK = """
    update remaining set leak = item
    from leaking_prompts
    where remaining.prompt_id = leaking_prompts.prompt_id and split = 'train'
"""

NO_MATCH = "select position, pair_id, '' as reason, '' as detail from remaining where false"

KEPT = """
    -- pairs.parquet: what no rule has dropped
    select
        pair_id, pair_key, prompt_id, chosen_id, rejected_id, chosen_score, rejected_score, weight,
        source, file, row, marks, pair_set, split, group_id, leak, repeat
    from remaining
    order by prompt_id, pair_id
"""

# weight_per_prompt: all train pairs of a prompt together weigh as much as one pair
PER_PROMPT = """
    update remaining set weight = weight / pairs
    from (select prompt_id, count(*) as pairs from remaining where split = 'train' group by prompt_id) prompt
    where remaining.prompt_id = prompt.prompt_id and split = 'train'
"""

DROPPED = """
    -- dropped.parquet: what a rule has dropped, with the start of the chosen text
    select
        'pair' as stage, source, file, row, []::varchar[] as slots, pair_id, chosen_id, rejected_id,
        rule, reason, detail, left(text, {characters}) as excerpt
    from drops left join responses on response_id = chosen_id
    order by source, file, row, rule, pair_id, pair_set
"""


def build_mixture(mixture: Mixture, members: Sequence[Member], benchmarks: Mapping[str, Path], out: Path) -> Built:
    """Write ``pairs.parquet`` and ``dropped.parquet`` of one mixture.

    Args:
        members: in the order of ``mixture.pair_sets``.
        benchmarks: name -> folder with prompts and items, of every name in ``mixture.decontaminate_against``.

    Returns:
        facts ``candidates``, ``kept``, ``dropped``, ``train``, ``test``, ``train_per_epoch`` (train pairs with their
        repeats), ``marked`` (train pairs kept with a leak mark), ``sources`` (name -> train and test).

    Raises:
        UserError: a file's split is unknown, or nothing is left to train on.
    """
    with work_database(out) as con:
        load_texts(con, [member.raw for member in members])
        _read_members(con, members, mixture.split)
        _find_leaks(con, benchmarks)
        (candidates,) = one_row(con, "select count(*) from remaining")
        dropped = _apply_rules(con, mixture)
        _weigh(con, mixture)
        write_parquet(con, KEPT, out / "pairs.parquet")
        write_parquet(con, DROPPED.format(characters=EXCERPT_CHARACTERS), out / "dropped.parquet")
        facts = {"candidates": candidates, **_facts(con, members, dropped)}
        _check_train(facts)
        checks = _checks(con, mixture, members, out)
    return Built(facts, checks)


def _read_members(con: duckdb.DuckDBPyConnection, members: Sequence[Member], split: Split) -> None:
    """Create ``remaining``: all pairs with position (of their pair set), pair_set, group_id, split, leak."""
    con.execute("create temp table files (position integer, file varchar, side varchar)")
    rows = [(position, file, side) for position, member in enumerate(members) for file, side in _sides(member).items()]
    con.executemany("insert into files values (?, ?, ?)", rows)
    union = " union all ".join(_member_sql(position, member) for position, member in enumerate(members))
    con.execute(
        f"""
        create temp table remaining as
        select
            joined.*, {_split_sql(split)} as split, cast(null as varchar) as leak, 1::integer as repeat
        from ({union}) joined left join files using (position, file)
        """
    )
    unknown = con.execute("select pair_set, file from remaining where split is null order by all limit 1").fetchone()
    if unknown:
        raise UserError(
            f"pair set '{unknown[0]}' has rows of the file {unknown[1]}, which its source does not list under a split; "
            "list it under train, test or validation in sources.yaml"
        )


def _sides(member: Member) -> dict[str, str]:
    """Return train or test for each file of a source."""
    lookup = member.source.lookup
    with_rows = {split: files for split, files in member.source.files.items() if not lookup or split != lookup.split}
    unknown = [split for split in with_rows if split not in SIDES]
    if unknown:
        raise UserError(
            f"source '{member.source_name}': files stand under the split '{unknown[0]}', and a mixture knows "
            f"{', '.join(SIDES)}; list them under one of these in sources.yaml"
        )
    return {file: SIDES[split] for split, files in with_rows.items() for file in files}


def _member_sql(position: int, member: Member) -> str:
    return f"""
        select {position} as position, {quote_literal(member.pair_set)} as pair_set, pairs.*, group_id
        from {read_table(member.pairs / "pairs.parquet")} pairs
        join {read_table(member.raw / "prompts.parquet")} using (prompt_id)
    """


def _split_sql(split: Split) -> str:
    """Return SQL for train or test: the file's own side, or a share of the groups by keyed hash."""
    if split.by == "native":
        return "side"
    threshold = f"{int(split.test_share * 16**SHARE_DIGITS):0{SHARE_DIGITS + 1}x}"
    draw = f"'0' || left({keyed_hash_sql('split', split.seed, 'group_id')}, {SHARE_DIGITS})"
    return f"if({draw} < '{threshold}', 'test', 'train')"


def _find_leaks(con: duckdb.DuckDBPyConnection, benchmarks: Mapping[str, Path]) -> None:
    """Create ``leaking_prompts`` (prompt_id, item, turn): prompts of the mixture that hold a benchmark's user turn.

    One item stands for all that match: the first by benchmark in the order given, item_id and turn.
    """
    con.execute("create temp table benchmark_turns (turn_key varchar, place integer, item varchar)")
    for place, (name, folder) in enumerate(benchmarks.items()):
        keys = f"benchmark_keys_{place}"
        _key_user_turns(con, read_table(folder / "prompts.parquet"), keys)
        con.execute(
            f"""
            insert into benchmark_turns
            select turn_key, {place}, {quote_literal(name + "/")} || item_id
            from {keys} join {read_table(folder / "items.parquet")} using (prompt_id)
            """
        )
    asked = "(select * from prompts where prompt_id in (select prompt_id from remaining where split = 'train'))"
    _key_user_turns(con, asked if benchmarks else "(select * from prompts limit 0)", "mixture_turns")
    con.execute(
        """
        create temp table leaking_prompts as
        select prompt_id, arg_min(item, (place, item, turn)) as item, arg_min(turn, (place, item, turn)) as turn
        from mixture_turns join benchmark_turns using (turn_key)
        group by prompt_id
        """
    )


def _key_user_turns(con: duckdb.DuckDBPyConnection, prompts: str, table: str) -> None:
    """Create ``table`` (prompt_id, turn, turn_key): each user turn's number from 1 and the id of its normalised text.

    Normalised in Python, a batch of prompts at a time; only the ids are kept.
    """
    turns = con.execute(
        f"select prompt_id, [message.content for message in messages if message.role = 'user'] from {prompts}"
    )
    keys: list[tuple[str, int, str]] = []
    while batch := turns.fetchmany(PROMPTS_AT_ONCE):
        keys.extend(
            (prompt_id, number, content_id(normalise(text)))
            for prompt_id, texts in batch
            for number, text in enumerate(texts, start=1)
        )
    columns = list(zip(*keys, strict=True)) or [(), (), ()]
    arrow = pa.table(dict(zip(TURN_KEYS.names, columns, strict=True)), schema=TURN_KEYS)
    con.register("arrow_keys", arrow)
    con.execute(f"create temp table {table} as from arrow_keys")
    con.unregister("arrow_keys")


def _apply_rules(con: duckdb.DuckDBPyConnection, mixture: Mixture) -> dict[str, int]:
    """Move what each rule selects from ``remaining`` to ``drops`` and return the numbers, in the order of the rules."""
    con.execute("create temp table drops as select *, '' as rule, '' as reason, '' as detail from remaining limit 0")
    queries = {"duplicate_across_sources": DUPLICATE_ACROSS_SOURCES, "group_in_test": GROUP_IN_TEST}
    if mixture.leak_policy == "drop":
        queries["leak"] = LEAK
    if mixture.sample or any(use.count or use.fraction for use in mixture.pair_sets):
        queries["sample"] = _sample_sql(mixture)
    dropped = {rule: _apply(con, rule, queries[rule]) if rule in queries else 0 for rule in RULES}
    if mixture.leak_policy == "mark":
        con.execute(MARK)
    return dropped


def _sample_sql(mixture: Mixture) -> str:
    """Return SQL for what is sampled away: of each pair set by itself, then of what that leaves."""
    parts = [_part_sql(position, use) for position, use in enumerate(mixture.pair_sets) if use.count or use.fraction]
    return f"""
        with parts as ({" union all ".join(parts or [NO_MATCH])}),
        rest as (from remaining anti join parts using (position, pair_id))
        from parts
        union all
        {_capped_sql(mixture.sample) if mixture.sample else NO_MATCH}
    """


def _part_sql(position: int, use: PairSetUse) -> str:
    if use.count:
        amount, told = str(use.count), f"{use.count} sampled train pairs"
    else:
        share = Fraction(str(use.fraction))
        amount = f"(pairs * {share.numerator} + {share.denominator - 1}) // {share.denominator}"
        told = f"sampled train pairs, {use.fraction:g} of all,"
    # Its own hash: by that of the whole mixture's sample, a halved pair set would win all places there.
    return f"""
        -- sample: the train pairs of a pair set with the smallest content_id(["mix", seed, pair_key]) stay
        select
            position, pair_id, {quote_literal(f"not among the {told} of pair set {use.name}")} as reason,
            'place ' || place || ' of ' || pairs || ' by keyed hash' as detail
        from (
            select position, pair_id, row_number() over (order by draw, pair_id) as place, count(*) over () as pairs
            from (select *, {keyed_hash_sql("mix", use.seed, "pair_key")} as draw from remaining)
            where split = 'train' and position = {position}
        )
        where place > {amount}
    """


def _capped_sql(sample: Sample) -> str:
    return f"""
        -- sample: of the rest the train pairs with the smallest content_id(["sample", seed, pair_key]) stay
        select position, pair_id, 'not among the {sample.train_pairs} sampled train pairs' as reason,
            'place ' || place || ' by keyed hash' as detail
        from (
            select position, pair_id, row_number() over (order by draw, pair_id, position) as place
            from (select *, {keyed_hash_sql("sample", sample.seed, "pair_key")} as draw from rest)
            where split = 'train'
        )
        where place > {sample.train_pairs}
    """


def _weigh(con: duckdb.DuckDBPyConnection, mixture: Mixture) -> None:
    """Set repeat and weight of the train pairs as the parts of the mixture say."""
    for position, use in enumerate(mixture.pair_sets):
        con.execute(
            f"""
            -- repeat, loss_weight of one pair set
            update remaining set repeat = {use.repeat}, weight = weight * {use.loss_weight!r}::double
            where split = 'train' and position = {position}
            """
        )
    if mixture.weight_per_prompt:
        con.execute(PER_PROMPT)


def _apply(con: duckdb.DuckDBPyConnection, rule: str, query: str) -> int:
    con.execute(f"create or replace temp table matched as {query}")
    con.execute(
        f"""
        insert into drops by name
        select remaining.*, '{rule}' as rule, reason, detail
        from remaining join matched using (position, pair_id)
        """
    )
    con.execute("delete from remaining where (position, pair_id) in (select (position, pair_id) from matched)")
    (number,) = one_row(con, "select count(*) from matched")
    return number


def _facts(con: duckdb.DuckDBPyConnection, members: Sequence[Member], dropped: Mapping[str, int]) -> dict[str, Any]:
    kept, train, per_epoch, marked = one_row(
        con,
        """
        select
            count(*), count(*) filter (where split = 'train'),
            coalesce(sum(repeat) filter (where split = 'train'), 0)::bigint, count(*) filter (where leak is not null)
        from remaining
        """,
    )
    sources = {member.source_name: {"train": 0, "test": 0} for member in members}
    for position, split, number in con.execute(
        "select position, split, count(*) from remaining group by all order by all"
    ).fetchall():
        sources[members[position].source_name][split] += number
    return {
        "kept": kept,
        "dropped": dict(dropped),
        "train": train,
        "test": kept - train,
        "train_per_epoch": per_epoch,
        "marked": marked,
        "sources": sources,
    }


def _check_train(facts: Mapping[str, Any]) -> None:
    if not facts["train"]:
        drops = ", ".join(f"{rule} {number}" for rule, number in facts["dropped"].items() if number)
        raise UserError(
            f"the mixture has no train pairs: {facts['candidates']} candidates, {facts['test']} of them test, "
            f"dropped: {drops or 'none'}; change its 'split' or its pair sets"
        )


def _checks(
    con: duckdb.DuckDBPyConnection, mixture: Mixture, members: Sequence[Member], out: Path
) -> tuple[Check, ...]:
    """Judge the written files."""
    pairs, dropped_file = read_table(out / "pairs.parquet"), read_table(out / "dropped.parquet")
    (candidates,) = one_row(
        con, f"select count(*) from {read_table(*(member.pairs / 'pairs.parquet' for member in members))}"
    )
    (dropped,) = one_row(con, f"select count(*) from {dropped_file}")
    kept, distinct = one_row(con, f"select count(*), count(distinct pair_id) from {pairs}")
    groups, prompts = (
        one_row(
            con,
            f"""
            select count(*) from (
                select {key} from {pairs} group by {key} having count(distinct split) > 1
            )
            """,
        )[0]
        for key in ("group_id", "prompt_id")
    )
    (leaks,) = one_row(
        con,
        f"""
        select count(*) from {pairs}
        where split = 'train' and leak is null and prompt_id in (select prompt_id from leaking_prompts)
        """,
    )
    return (
        Check(
            "candidates_accounted_for",
            candidates == kept + dropped and kept == distinct,
            "candidates = kept of the pair sets = kept + sum(dropped by rule), each pair once",
            {"candidates": candidates, "kept": kept, "dropped": dropped, "distinct_pair_ids": distinct},
        ),
        Check(
            "groups_stay_on_one_side",
            groups == prompts == 0,
            "no group and no prompt has pairs in train and in test",
            {"groups_on_both_sides": groups, "prompts_on_both_sides": prompts},
        ),
        Check(
            "no_benchmark_prompt_in_train",
            leaks == 0,
            "no unmarked train pair has a user turn of a benchmark prompt",
            {"leaking_train_pairs": leaks, "policy": mixture.leak_policy},
        ),
    )
