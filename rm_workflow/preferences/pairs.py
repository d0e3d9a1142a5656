"""Occurrences -> candidates -> pairs: one source put through an ordered list of rules, by SQL over keys.

Text is never touched but for the excerpts of dropped rows, which are joined last. ``pairs.parquet`` holds references::

    pair_id 5c1e..  prompt_id 09ab..  chosen_id 77f0..  rejected_id 1d2c..  chosen_score 4.5  rejected_score 3.0
    source helpsteer  file train.jsonl.gz  row 17  marks []

A candidate is one unordered pair of responses of one row. A given pair keeps its label; of a rated one the higher score
is chosen, and where the scores are equal or missing the lower slot stands first until a rule drops the candidate.
``marks`` are the rules that marked a pair and kept it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import PairSet
from rm_workflow.database import quote_identifier, quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.preferences.rules import BoundRule, bind_rules
from rm_workflow.preferences.sql import (
    content_id_sql,
    json_string,
    keyed_hash_sql,
    one_row,
    read_table,
    work_database,
)
from rm_workflow.preferences.tables import EXCERPT_CHARACTERS, PREFERENCE
from rm_workflow.preferences.text import load_texts

# A rating as an exact number. Beyond 15 digits before the point, and for NaN, there is none.
RATING = "decimal(24, 9)"

SLOTS_OF = {"given": "chosen and rejected", "rated": "0, 1, 2, ...", "rated_prompt": "0"}
# What holds the responses that are compared with each other.
LIST_OF = {"given": "row", "rated": "row", "rated_prompt": "prompt_id"}

# given: the two sides of a row, as the source labels them
GIVEN = """
    select
        c.prompt_id, c.response_id as chosen_id, r.response_id as rejected_id,
        c.total as chosen_sum, c.present as chosen_count, r.total as rejected_sum, r.present as rejected_count,
        c.source, c.file, c.row, [c.slot, r.slot] as slots, c.extra
    from scored c join scored r using (prompt_id, source, file, row)
    where c.slot = 'chosen' and r.slot = 'rejected'
"""

# rated: all C(k, 2) pairs of a list's responses; the exact higher mean is chosen. A pair stands where its first
# response stands; where the responses have rows of their own, the slots are these rows.
RATED = """
    with pairs as (
        select
            a, b, coalesce(a.total * b.present < b.total * a.present, false) as turned, a.row as row,
            if(a.row = b.row, [a.slot, b.slot], [a.row::varchar, b.row::varchar]) as places
        from scored a join scored b
            on a.source = b.source and a.file = b.file and a.listing = b.listing and a.prompt_id = b.prompt_id
            and a.place < b.place
    ),
    oriented as (
        select if(turned, b, a) as c, if(turned, a, b) as r, row, if(turned, list_reverse(places), places) as slots
        from pairs
    )
    select
        c.prompt_id, c.response_id as chosen_id, r.response_id as rejected_id,
        c.total as chosen_sum, c.present as chosen_count, r.total as rejected_sum, r.present as rejected_count,
        c.source, c.file, oriented.row, slots, c.extra
    from oriented
"""

# best_vs_worst: of each list the best response and, of the others, the worst. Of equal scores the smallest
# content_id(["best_vs_worst", 0, response_id]) is the best and the largest the worst; a response without a score is
# either only where no other is left. The order is exact: standing is the mean times a common multiple of all counts.
BEST_AND_WORST = """
    with drawn as (
        select *, total * ({common} // nullif(present::bigint, 0))::decimal(14, 0) as standing, {draw} as draw
        from scored
    ),
    best_known as (
        select *, row_number() over (
            partition by source, file, prompt_id, listing order by standing desc nulls last, draw, place
        ) = 1 as best
        from drawn
    )
    select * exclude (standing, draw, best)
    from best_known
    qualify best or row_number() over (
        partition by source, file, prompt_id, listing, best order by standing nulls last, draw desc, place desc
    ) = 1
"""

# How many candidates there must be, counted from the rows without pairing them.
GIVEN_EXPECTED = "select count(*) from occurrences where slot = 'chosen'"
LISTS_EXPECTED = """
    select coalesce(sum({of_k}), 0)::bigint
    from (select count(*) as k from occurrences group by source, file, prompt_id, {listing})
"""
OF_K = {"all": "k * (k - 1) // 2", "best_vs_worst": "(k >= 2)::integer"}

KEPT = """
    -- pairs.parquet: what no rule has dropped
    select
        pair_id, pair_key, prompt_id, chosen_id, rejected_id, chosen_score, rejected_score, 1.0::double as weight,
        source, file, row, marks
    from candidates
    order by prompt_id, pair_id
"""

DROPPED = """
    -- dropped.parquet: what a rule has dropped, with the start of the chosen text
    select
        'pair' as stage, source, file, row, slots, pair_id, chosen_id, rejected_id, rule, reason, detail,
        left(text, {characters}) as excerpt
    from drops left join responses on response_id = chosen_id
    order by source, file, row, rule, pair_id, slots
"""


def check_pair_set(name: str, pair_set: PairSet) -> None:
    """Refuse unknown rules, wrong parameters and wrong orders before any row is read.

    Raises:
        UserError: naming the pair set, the rule and what is allowed.
    """
    bind_rules(name, pair_set)


def build_pair_set(name: str, pair_set: PairSet, raw: Path, out: Path) -> Built:
    """Write ``pairs.parquet`` and ``dropped.parquet`` of one pair set.

    Args:
        raw: folder with occurrences and responses of the pair set's source.

    Returns:
        facts ``candidates``, ``kept``, ``dropped`` (every declared rule), ``marked`` (kept pairs by rule, of the rules
        that mark), ``published``.

    Raises:
        UserError: the pair set does not fit the source: rules, slots, ratings.
    """
    rules = bind_rules(name, pair_set)
    with work_database(out) as con:
        load_texts(con, [raw])
        _check_ratings(con, name, pair_set)
        _check_extra(con, name, pair_set, rules)
        _make_candidates(con, pair_set)
        candidates = _check_candidates(con, name, pair_set)
        dropped = _apply_rules(con, rules)
        write_parquet(con, KEPT, out / "pairs.parquet")
        write_parquet(con, DROPPED.format(characters=EXCERPT_CHARACTERS), out / "dropped.parquet")
        marked = _marked(con, rules)
        checks = _checks(con, pair_set, out)
    facts = {
        "candidates": candidates,
        "kept": candidates - sum(dropped.values()),
        "dropped": dropped,
        "marked": marked,
        "published": pair_set.published,
    }
    return Built(facts, checks)


def _check_ratings(con: duckdb.DuckDBPyConnection, name: str, pair_set: PairSet) -> None:
    """Refuse a rating that no response of the source has: most likely it is misspelt."""
    query = "select distinct unnest(map_keys(ratings)) as rating from occurrences order by rating"
    known = [row[0] for row in con.execute(query).fetchall()]
    missing = [rating for rating in pair_set.score if rating not in known]
    if missing:
        raise UserError(
            f"pair set '{name}': score names the rating '{missing[0]}', which no response of source "
            f"'{pair_set.source}' has; name one of: {', '.join(known) or '(it has no ratings)'}"
        )
    if pair_set.candidates != "given" and not pair_set.score:
        raise UserError(
            f"pair set '{name}': candidates '{pair_set.candidates}' are ranked by ratings, and 'score' names none; "
            f"name some of: {', '.join(known) or '(the source has no ratings)'}"
        )


def _check_extra(con: duckdb.DuckDBPyConnection, name: str, pair_set: PairSet, rules: Sequence[BoundRule]) -> None:
    """Refuse a rule on a column that the source does not carry along."""
    query = "select distinct unnest(json_keys(extra)) from occurrences"
    known = [row[0] for row in con.execute(query).fetchall()]
    for rule in rules:
        missing = [column for column in rule.needs_extra if column not in known]
        if missing:
            raise UserError(
                f"pair set '{name}': rule '{rule.name}' reads '{missing[0]}', which source '{pair_set.source}' does "
                f"not carry along; add columns: {{extra_{missing[0]}: <its column>}} to the source"
            )


def _make_candidates(con: duckdb.DuckDBPyConnection, pair_set: PairSet) -> None:
    ratings = ", ".join(f"try_cast(ratings[{quote_literal(rating)}] as {RATING})" for rating in pair_set.score)
    con.execute(
        f"""
        -- a response's score is total / present: the mean of the named ratings that are there
        create temp table scored as
        select
            response_id, prompt_id, source, file, row, slot, extra, {LIST_OF[pair_set.candidates]} as listing,
            if(try_cast(slot as integer) is null, null, row_number() over (
                partition by source, file, prompt_id, listing order by row, try_cast(slot as integer)
            )) as place,
            try_cast(list_sum([{ratings}]::{RATING}[]) as {RATING}) as total,
            list_count([{ratings}]::{RATING}[])::decimal(4, 0) as present
        from occurrences
        """
    )
    if pair_set.pairing == "best_vs_worst":
        common = math.lcm(*range(1, len(pair_set.score) + 1))
        draw = keyed_hash_sql("best_vs_worst", 0, "response_id")
        con.execute(f"create or replace temp table scored as {BEST_AND_WORST.format(common=common, draw=draw)}")
    pair_key = content_id_sql(*map(json_string, ("prompt_id", "chosen_id", "rejected_id")))
    con.execute(
        f"""
        -- candidates with ids; n is the 0-based occurrence of a pair_key by file, row, slots
        create temp table candidates as
        with keyed as (
            select *, {pair_key} as pair_key from ({GIVEN if pair_set.candidates == "given" else RATED})
        ),
        counted as (
            select *, row_number() over (partition by source, pair_key order by file, row, slots) - 1 as n from keyed
        )
        select
            {content_id_sql(json_string("pair_key"), json_string("source"), "n")} as pair_id,
            *,
            chosen_sum::double / chosen_count::double as chosen_score,
            rejected_sum::double / rejected_count::double as rejected_score,
            []::varchar[] as marks
        from counted
        """
    )


def _check_candidates(con: duckdb.DuckDBPyConnection, name: str, pair_set: PairSet) -> int:
    """Return the number of candidates, or say why there are none, or none that can be ranked."""
    total, unranked = one_row(
        con, "select count(*), count_if(chosen_score is null or rejected_score is null) from candidates"
    )
    if not total:
        slots = con.execute("select distinct slot from occurrences order by slot limit 6").fetchall()
        raise UserError(
            f"pair set '{name}': candidates '{pair_set.candidates}' needs rows with the slots "
            f"{SLOTS_OF[pair_set.candidates]}, and source '{pair_set.source}' has only "
            f"{', '.join(slot for (slot,) in slots) or 'no rows'}; see 'candidates' of the pair set"
        )
    ties = one_row(con, f"select count(*) from occurrences where slot = 'chosen' and ratings['{PREFERENCE}'] = 0")[0]
    if ties and not (PREFERENCE in pair_set.score and "equal_score" in [use.name for use in pair_set.rules]):
        raise UserError(
            f"pair set '{name}': {ties} rows of source '{pair_set.source}' are ties; set score: [{PREFERENCE}] and add "
            "the rule 'equal_score' to drop and count them"
        )
    if unranked and pair_set.candidates != "given" and "rating" not in [use.name for use in pair_set.rules]:
        raise UserError(
            f"pair set '{name}': {unranked} of {total} candidates have a response without any of the ratings "
            f"{', '.join(pair_set.score)}; add the rule 'rating' to drop and count them"
        )
    return total


def _apply_rules(con: duckdb.DuckDBPyConnection, rules: Sequence[BoundRule]) -> dict[str, int]:
    """Move what each rule selects from ``candidates`` to ``drops`` and return the numbers."""
    con.execute(
        """
        create temp table drops as
        select *, '' as rule, '' as reason, '' as detail from candidates limit 0
        """
    )
    return {rule.name: _apply(con, rule) for rule in rules}


def _marked(con: duckdb.DuckDBPyConnection, rules: Sequence[BoundRule]) -> dict[str, int]:
    """Return the kept pairs that each rule marked, of the rules that mark."""
    marked = dict(
        con.execute(
            "select mark, count(*) from (select unnest(marks) as mark from candidates) group by mark"
        ).fetchall()
    )
    return {rule.name: marked.get(rule.name, 0) for rule in rules if rule.marks}


def _apply(con: duckdb.DuckDBPyConnection, rule: BoundRule) -> int:
    matched, name = quote_identifier(f"matched_{rule.name}"), quote_literal(rule.name)
    if rule.prepare:
        rule.prepare(con)
    con.execute(f"create temp table {matched} as {rule.sql}")
    if rule.marks:
        con.execute(
            f"""
            update candidates set marks = list_append(marks, {name}) where pair_id in (select pair_id from {matched})
            """
        )
        return 0
    con.execute(
        f"""
        insert into drops by name
        select candidates.*, {name} as rule, reason, detail
        from candidates join {matched} using (pair_id)
        """
    )
    con.execute(f"delete from candidates where pair_id in (select pair_id from {matched})")
    (number,) = one_row(con, f"select count(*) from {matched}")
    return number


def _expected_sql(pair_set: PairSet) -> str:
    if pair_set.candidates == "given":
        return GIVEN_EXPECTED
    return LISTS_EXPECTED.format(of_k=OF_K[pair_set.pairing], listing=LIST_OF[pair_set.candidates])


def _checks(con: duckdb.DuckDBPyConnection, pair_set: PairSet, out: Path) -> tuple[Check, ...]:
    """Judge the written files, against the number of candidates that the rows themselves imply."""
    kept, identical = one_row(
        con, f"select count(*), count_if(chosen_id = rejected_id) from {read_table(out / 'pairs.parquet')}"
    )
    (dropped,) = one_row(con, f"select count(*) from {read_table(out / 'dropped.parquet')}")
    (distinct,) = one_row(
        con,
        f"""
        select count(distinct pair_id) from (
            select pair_id from {read_table(out / "pairs.parquet")}
            union all select pair_id from {read_table(out / "dropped.parquet")}
        )
        """,
    )
    (expected,) = one_row(con, _expected_sql(pair_set))
    figures: Mapping[str, Any] = {
        "candidates": expected,
        "kept": kept,
        "dropped": dropped,
        "distinct_pair_ids": distinct,
    }
    return (
        Check(
            "candidates_accounted_for",
            kept + dropped == expected == distinct,
            "candidates = kept + sum(dropped by rule), each pair once",
            figures,
        ),
        Check(
            "no_pair_is_identical",
            identical == 0,
            "no kept pair has the same text on both sides; the rule identical_responses drops such pairs",
            {"identical": identical},
        ),
    )
