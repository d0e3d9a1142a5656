"""Pair sets -> mixture: joined in order of precedence, split, decontaminated, sampled.

``pairs.parquet`` is the union of the pair sets' rows with ``pair_set``, ``split`` (train or test), ``group_id``,
``leak`` (the benchmark item that the pair repeats, and where, if such pairs are marked and not dropped), ``repeat``
(how often an epoch shows the pair) and ``weight`` (what it counts for in the loss); the last two are 1 for test pairs.
``leaks.parquet`` holds every text of a train pair that is one of a benchmark, ``boilerplate.parquet`` the n-grams that
were no evidence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import duckdb

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import Mixture, PairSetUse, Sample, Source, Split
from rm_workflow.database import quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.preferences.decontamination.boilerplate import listed_texts
from rm_workflow.preferences.decontamination.hits import HITS_ORDERED, USES_ORDERED, find_hits
from rm_workflow.preferences.decontamination.targets import load_targets
from rm_workflow.preferences.decontamination.words import words
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.splits import SHARE_DIGITS
from rm_workflow.preferences.sql import keyed_hash_sql, one_row, read_table, work_database
from rm_workflow.preferences.tables import EXCERPT_CHARACTERS
from rm_workflow.preferences.text import load_texts

RULES = ("duplicate_across_sources", "group_in_test", "leak", "sample")
# What the files under a split name of sources.yaml become.
SIDES = {"train": "train", "test": "test", "validation": "test"}
# File of what is kept -> the column that names a row of it.
ROW_IDS = {"pairs": "pair_id", "labelled": "label_id"}
PROMPTS_AT_ONCE = 10_000


class Part(Protocol):
    """What a mixture is made of: a pair set, or the labelled responses of a source."""

    @property
    def source_name(self) -> str:
        """Return the name of the source."""

    @property
    def source(self) -> Source:
        """Return the source, whose files tell the native split."""


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

# group_in_test: a train row whose group, or whose very prompt under another grouping, has rows in test
GROUP_IN_TEST = """
    with test as (select * from remaining where split = 'test')
    select position, pair_id, 'its group of prompts has {rows} in test' as reason, 'group ' || group_id as detail
    from remaining
    where split = 'train' and group_id in (select group_id from test)
    union all
    select position, pair_id, 'its prompt has {rows} in test' as reason, 'prompt ' || prompt_id as detail
    from remaining
    where split = 'train' and group_id not in (select group_id from test) and prompt_id in (select prompt_id from test)
"""

# what a person reads of a hit: the item, how it was found, and the span
LEAKING_PAIRS = """
    create temp table leaking_pairs as
    with told as (
        select
            * exclude (kind), case kind
                when 'exact' then 'a user turn of its prompt is a benchmark prompt'
                when 'ngram' then 'a user turn of its prompt repeats a benchmark prompt'
                when 'near_duplicate' then 'a user turn of its prompt is a benchmark prompt but for a few words'
                else 'a response repeats a benchmark response'
            end as reason,
            benchmark || '/' || item_id || if(label = '', '', ' (' || label || ')') || ': ' || kind
                || coalesce(', user turn ' || turn, '') || ', ' || round(100 * share)::integer
                || ' % of its words, characters ' || start || ' to ' || stop || ': ' || span as detail,
            if(side = 'prompt', {prompt_policy}, {response_policy}) as policy
        from hits
    ),
    met as (
        select position, pair_id, told.*
        from remaining join told on told.side = 'prompt' and told.prompt_id = remaining.prompt_id
        where split = 'train'
        union all
        select position, pair_id, told.*
        from remaining join told on told.response_id in (chosen_id, rejected_id)
        where split = 'train'
    )
    select position, pair_id, policy, unnest(arg_min(
        {{'reason': reason, 'detail': detail}}, (strength, place, item_id, turn, response_id)
    ))
    from met group by position, pair_id, policy
"""

# leak: a user turn of a train pair's prompt is one of a benchmark prompt, or a response one of a benchmark
LEAK = """
    select position, pair_id, reason, detail
    from remaining join leaking_pairs using (position, pair_id)
    where policy = 'drop'
"""

# leak, policy mark: the pair stays and names the item
MARK = """
    update remaining set leak = detail
    from leaking_pairs
    where
        (remaining.position, remaining.pair_id) = (leaking_pairs.position, leaking_pairs.pair_id)
        and split = 'train' and policy = 'mark'
"""

NO_DROPS = "create temp table drops as select *, '' as rule, '' as reason, '' as detail from remaining limit 0"
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
    """Write ``pairs.parquet``, ``dropped.parquet``, ``leaks.parquet`` and ``boilerplate.parquet`` of one mixture.

    Args:
        members: in the order of ``mixture.pair_sets``.
        benchmarks: name -> folder with prompts, responses and items, of all in ``mixture.decontaminate_against``.

    Returns:
        facts ``candidates``, ``kept``, ``dropped``, ``train``, ``test``, ``train_per_epoch`` (train pairs with their
        repeats), ``marked`` (train pairs kept with a leak mark), ``leaks`` (benchmark -> train prompts and responses
        that are its own), ``sources`` (name -> train and test).

    Raises:
        UserError: a file's split is unknown, a text file cannot be read, or nothing is left to train on.
    """
    with work_database(out) as con:
        load_texts(con, [member.raw for member in members])
        read_parts(con, map(_member_sql, range(len(members)), members), members, mixture.split, "pair set")
        find_leaks(con, mixture, benchmarks)
        (candidates,) = one_row(con, "select count(*) from remaining")
        dropped = _apply_rules(con, mixture)
        _weigh(con, mixture)
        write_parquet(con, KEPT, out / "pairs.parquet")
        write_parquet(con, DROPPED.format(characters=EXCERPT_CHARACTERS), out / "dropped.parquet")
        write_parquet(con, HITS_ORDERED, out / "leaks.parquet")
        write_parquet(con, USES_ORDERED, out / "boilerplate.parquet")
        facts = {"candidates": candidates, **count_kept(con, members, dropped)}
        check_train(facts, "pairs")
        (implied,) = one_row(
            con, f"select count(*) from {read_table(*(member.pairs / 'pairs.parquet' for member in members))}"
        )
        checks = check_files(con, mixture, out, "pairs", implied)
    return Built(facts, checks)


def read_parts(
    con: duckdb.DuckDBPyConnection, queries: Iterable[str], parts: Sequence[Part], split: Split, what: str
) -> None:
    """Create ``remaining``: all rows with position (of their part), pair_set, group_id, split, leak, repeat.

    Args:
        queries: one for each part, with position, pair_set (the part's name), file and group_id among its columns.
        what: a part is called, in a sentence.
    """
    con.execute("create temp table files (position integer, file varchar, side varchar)")
    rows = [(position, file, side) for position, part in enumerate(parts) for file, side in _sides(part).items()]
    con.executemany("insert into files values (?, ?, ?)", rows)
    union = " union all ".join(f"({query})" for query in queries)
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
            f"{what} '{unknown[0]}' has rows of the file {unknown[1]}, which its source does not list under a split; "
            "list it under train, test or validation in sources.yaml"
        )


def _sides(part: Part) -> dict[str, str]:
    """Return train or test for each file of a source."""
    lookup = part.source.lookup
    with_rows = {split: files for split, files in part.source.files.items() if not lookup or split != lookup.split}
    unknown = [split for split in with_rows if split not in SIDES]
    if unknown:
        raise UserError(
            f"source '{part.source_name}': files stand under the split '{unknown[0]}', and a mixture knows "
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


def find_leaks(con: duckdb.DuckDBPyConnection, mixture: Mixture, benchmarks: Mapping[str, Path]) -> None:
    """Create ``hits``, ``boilerplate_uses`` and ``leaking_pairs`` (position, pair_id, policy, reason, detail).

    One hit stands for all of a pair: the first by kind, benchmark in the order given, item and turn.
    """
    con.execute(
        "create temp table train_pairs as select prompt_id, chosen_id, rejected_id from remaining where split = 'train'"
    )
    load_targets(con, benchmarks, {Path(file).name: Path(file) for file in mixture.decontaminate_files})
    find_hits(con, mixture.guard, listed_texts(list(map(Path, mixture.guard.boilerplate_files))))
    policies = {"prompt_policy": mixture.leak_policy, "response_policy": mixture.response_leak_policy}
    con.execute(LEAKING_PAIRS.format(**{name: quote_literal(policy) for name, policy in policies.items()}))


def _apply_rules(con: duckdb.DuckDBPyConnection, mixture: Mixture) -> dict[str, int]:
    """Move what each rule selects from ``remaining`` to ``drops`` and return the numbers, in the order of the rules."""
    con.execute(NO_DROPS)
    queries = {"duplicate_across_sources": DUPLICATE_ACROSS_SOURCES, "leak": LEAK}
    queries["group_in_test"] = GROUP_IN_TEST.format(rows="pairs")
    if mixture.sample or any(use.count or use.fraction for use in mixture.pair_sets):
        queries["sample"] = _sample_sql(mixture)
    dropped = {rule: apply_rule(con, rule, queries[rule]) if rule in queries else 0 for rule in RULES}
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
        amount = f"(pairs::hugeint * {share.numerator} + {share.denominator - 1}) // {share.denominator}"
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
        weigh_part(con, position, use.repeat, use.loss_weight)
    if mixture.weight_per_prompt:
        con.execute(PER_PROMPT)


def weigh_part(con: duckdb.DuckDBPyConnection, position: int, repeat: int, loss_weight: float) -> None:
    """Set repeat and weight of the train rows of one part."""
    con.execute(
        f"""
        -- repeat, loss_weight
        update remaining set repeat = {repeat}, weight = weight * {loss_weight!r}::double
        where split = 'train' and position = {position}
        """
    )


def apply_rule(con: duckdb.DuckDBPyConnection, rule: str, query: str) -> int:
    """Move what a query selects (position, pair_id, reason, detail) from ``remaining`` to ``drops`` and count it."""
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


def count_kept(con: duckdb.DuckDBPyConnection, parts: Sequence[Part], dropped: Mapping[str, int]) -> dict[str, Any]:
    """Return the facts of what ``remaining`` still holds, the drops among them."""
    kept, train, per_epoch, marked = one_row(
        con,
        """
        select
            count(*), count(*) filter (where split = 'train'),
            coalesce(sum(repeat) filter (where split = 'train'), 0)::bigint, count(*) filter (where leak is not null)
        from remaining
        """,
    )
    sources = {part.source_name: {"train": 0, "test": 0} for part in parts}
    for position, split, number in con.execute(
        "select position, split, count(*) from remaining group by all order by all"
    ).fetchall():
        sources[parts[position].source_name][split] += number
    return {
        "kept": kept,
        "dropped": dict(dropped),
        "train": train,
        "test": kept - train,
        "train_per_epoch": per_epoch,
        "marked": marked,
        "leaks": _leaks(con),
        "sources": sources,
    }


def _leaks(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """Return how many prompts and responses of train pairs are those of each benchmark, whatever became of them."""
    found = con.execute(
        """
        select benchmark, count(distinct if(side = 'prompt', prompt_id, null)), count(distinct response_id)
        from hits group by place, benchmark order by place
        """
    )
    return {name: {"prompts": prompts, "responses": responses} for name, prompts, responses in found.fetchall()}


def check_train(facts: Mapping[str, Any], rows: str) -> None:
    """Refuse a mixture without rows to train on.

    Args:
        rows: what they are: pairs or responses.
    """
    if not facts["train"]:
        drops = ", ".join(f"{rule} {number}" for rule, number in facts["dropped"].items() if number)
        raise UserError(
            f"the mixture has no train {rows}: {facts['candidates']} candidates, {facts['test']} of them test, "
            f"dropped: {drops or 'none'}; change its 'split' or its {'pair sets' if rows == 'pairs' else 'sources'}"
        )


def check_files(
    con: duckdb.DuckDBPyConnection, mixture: Mixture, out: Path, rows: str, candidates: int
) -> tuple[Check, ...]:
    """Judge the written files.

    Args:
        rows: the file ``<rows>.parquet`` holds what is kept: pairs, or labelled responses.
        candidates: how many there must be, counted from the inputs themselves.
    """
    kept_file, dropped_file = read_table(out / f"{rows}.parquet"), read_table(out / "dropped.parquet")
    (dropped,) = one_row(con, f"select count(*) from {dropped_file}")
    kept, distinct = one_row(con, f"select count(*), count(distinct {ROW_IDS[rows]}) from {kept_file}")
    groups, prompts = (
        one_row(
            con,
            f"""
            select count(*) from (
                select {key} from {kept_file} group by {key} having count(distinct split) > 1
            )
            """,
        )[0]
        for key in ("group_id", "prompt_id")
    )
    leaks = _num_exact_leaks(con, kept_file, mixture.guard.min_words)
    return (
        Check(
            "candidates_accounted_for",
            candidates == kept + dropped and kept == distinct,
            "candidates = kept + sum(dropped by rule), each once",
            {"candidates": candidates, "kept": kept, "dropped": dropped, "distinct_ids": distinct},
        ),
        Check(
            "groups_stay_on_one_side",
            groups == prompts == 0,
            "no group and no prompt stands in train and in test",
            {"groups_on_both_sides": groups, "prompts_on_both_sides": prompts},
        ),
        Check(
            "no_benchmark_prompt_in_train",
            leaks == 0,
            "no unmarked train prompt has a user turn of a benchmark prompt",
            {"leaking_train_prompts": leaks, "policy": mixture.leak_policy},
        ),
    )


def _num_exact_leaks(con: duckdb.DuckDBPyConnection, kept_file: str, min_words: int) -> int:
    """Count the unmarked train prompts of the written file with a benchmark's user turn, text by text.

    The guard itself has no part in this, so that a fault in it cannot hide here.
    """
    asked = con.execute("select turn, text from target_turns").fetchall()
    benchmark = {normalise(text) for turn, text in asked if turn == 1 or len(words(text)) >= min_words}
    kept = con.execute(
        f"""
        select [message.content for message in messages if message.role = 'user'] from prompts
        where prompt_id in (select prompt_id from {kept_file} where split = 'train' and leak is null)
        """
    )
    leaks = 0
    while batch := kept.fetchmany(PROMPTS_AT_ONCE if benchmark else 0):
        leaks += sum(any(normalise(turn) in benchmark for turn in turns) for (turns,) in batch)
    return leaks
