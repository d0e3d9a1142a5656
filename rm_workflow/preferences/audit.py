"""What a mixture teaches beside the preferences that it means to: length, repeats, contradictions, overlaps, leftovers.

Each text is read once, and only numbers and 64-bit hashes of it are kept; all else is SQL over these. ``findings.py``
says in sentences what stands out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.func import PythonUDFType

from rm_workflow.artifacts import Built, Check
from rm_workflow.database import quote_literal, write_parquet
from rm_workflow.intervals import GroupSums, clustered_interval
from rm_workflow.preferences.findings import findings
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.phrases import strongest_phrases
from rm_workflow.preferences.rules import refusal
from rm_workflow.preferences.sql import dict_rows, one_row, read_table, work_database
from rm_workflow.preferences.text import load_texts

# Strings that a chat template or a transcript puts around turns: inside a text they are leftovers of another form.
MARKERS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<s>", "</s>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("\n\nHuman:", "\n\nAssistant:", "\nUSER:", "\nASSISTANT:"),
    *("### Instruction:", "### Response:", "<extra_id_0>", "<extra_id_1>"),
)
# Upper ends of the bins of the length histogram, in words: half steps of a power of two.
LENGTH_EDGES = (0, 2, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048, 4096, 8192)
GAP_QUANTILES = {"least": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "most": 1.0}
EXAMPLES = 3
SIDES = ("prompt", "chosen", "rejected")
REFUSAL_WORDS = 60

RARE_SPACES = " or ".join(f"contains(text, chr({code}))" for code in (11, 12, 28, 29, 30, 31))

NORMALISED = f"""
    -- normalised: every row of the table ``read`` with its text normalised as ``normalise`` does. SQL does it for ASCII
    -- whose only white space is blank, tab and line ends, and much faster; few texts have runs of blanks that three
    -- replacements leave. One step a table, or DuckDB would do the steps of a text several times.
    judged_texts as (
        select *, strlen(text) = length(text) and not ({RARE_SPACES}) as plain from read
    ),
    blanks as (
        select
            *, if(plain, replace(replace(replace(text, chr(10), ' '), chr(9), ' '), chr(13), ' '), '') as with_blanks
        from judged_texts
    ),
    squeezed as (
        select
            * exclude (with_blanks),
            replace(replace(replace(with_blanks, '    ', ' '), '  ', ' '), '  ', ' ') as squeezed
        from blanks
    ),
    normalised as (
        select
            * exclude (plain, squeezed),
            case
                when not plain then normalise(text)
                when contains(squeezed, '  ') then lower(array_to_string(
                    list_filter(string_split(squeezed, ' '), lambda word: word <> ''), ' '
                ))
                when starts_with(squeezed, ' ') or ends_with(squeezed, ' ') then lower(trim(squeezed))
                else lower(squeezed)
            end as normalised
        from squeezed
    )
"""

RESPONSES = """
    -- each response that the mixture refers to: characters, words, key of its normalised text, markers, and a short
    -- text itself, which may be a refusal
    create temp table response_facts as
    with used as (
        select chosen_id as response_id from pairs
        union
        select rejected_id from pairs
    ),
    read as (
        select response_id, text from responses semi join used using (response_id)
    ),
    {normalised},
    counted as (
        select *, strlen(normalised) - strlen(replace(normalised, ' ', '')) + (normalised <> '')::int as words
        from normalised
    )
    select
        response_id, length(text)::int as characters, words::int as words, hash(normalised) as text_key,
        {markers} as markers, if(words <= {refusal_words}, text, null) as short_text
    from counted
"""

PROMPTS = """
    -- each prompt that the mixture refers to: keys of the whole normalised prompt and of its first user turn, markers
    create temp table prompt_facts as
    with turns as (
        select prompt_id, unnest(messages) as message, generate_subscripts(messages, 1) as turn
        from prompts
        where prompt_id in (select prompt_id from pairs)
    ),
    read as (
        select prompt_id, turn, message.role as role, message.content as text from turns
    ),
    {normalised},
    keyed as (
        select prompt_id, turn, role, hash(normalised) as text_key, {markers} as markers from normalised
    )
    select
        prompt_id, hash(list(hash(role, text_key) order by turn)) as prompt_key,
        arg_min(text_key, turn) filter (role = 'user') as first_turn_key, bit_or(markers) as markers
    from keyed
    group by prompt_id
"""

JUDGED = """
    -- one row a pair, without its texts; where a text has no row the pair falls out, which the check sees
    create temp table judged as
    select
        pairs.pair_id, source, pair_set, split, group_id, prompt_key, first_turn_key,
        c.text_key as chosen_key, r.text_key as rejected_key,
        c.words as chosen_words, r.words as rejected_words,
        c.characters as chosen_characters, r.characters as rejected_characters,
        chosen_score - rejected_score as score_gap,
        prompt_facts.markers as prompt_markers, c.markers as chosen_markers, r.markers as rejected_markers,
        coalesce(contains(refusals.detail, 'chosen'), false) as chosen_refuses,
        coalesce(contains(refusals.detail, 'rejected'), false) as rejected_refuses
    from pairs
    join prompt_facts using (prompt_id)
    join response_facts c on c.response_id = chosen_id
    join response_facts r on r.response_id = rejected_id
    left join refusals using (pair_id)
"""

MEASURES = """
    -- plain counts and means of each {part}
    select
        {part} as name, count(*) as pairs, count_if(split = 'train') as train, count_if(split = 'test') as test,
        count(distinct prompt_key) as prompts, count(distinct group_id) as groups,
        avg(chosen_words) as chosen_words, avg(rejected_words) as rejected_words,
        avg(chosen_words - rejected_words) as mean_words, median(chosen_words - rejected_words) as median_words,
        avg(chosen_characters - rejected_characters) as mean_characters,
        median(chosen_characters - rejected_characters) as median_characters,
        avg((chosen_words = rejected_words)::int) as same_length,
        count_if(chosen_key = rejected_key) as same_text,
        avg(chosen_refuses::int) as chosen_refuses, avg(rejected_refuses::int) as rejected_refuses,
        avg((chosen_words = 0)::int) as chosen_empty, avg((rejected_words = 0)::int) as rejected_empty,
        count(score_gap) as with_gap, avg(score_gap) as mean_gap, quantile_cont(score_gap, {quantiles}) as gaps
    from judged
    group by {part}
    order by {part}
"""

GROUP_SUMS = """
    -- sums over groups of a result in [0, 1], for an interval clustered by group; null results are left out
    with by_group as (
        select {part} as name, group_id, count(result)::double as n, sum(result)::double as s
        from (select {part}, group_id, {result} as result from judged)
        where result is not null
        group by all
    )
    select name, count(*), sum(n), sum(s), sum(n * n), sum(s * n), sum(s * s) from by_group group by name order by name
"""

# Results for GROUP_SUMS. The leans are over the pairs whose sides differ: 0.5 is no lean.
RESULTS = {
    "chosen_longer": "(chosen_words > rejected_words)::int",
    "pick_longer": "(sign(chosen_words - rejected_words) + 1) / 2",
    "refusal_lean": "if(chosen_refuses = rejected_refuses, null, chosen_refuses::int)",
    "marker_lean": "if((chosen_markers > 0) = (rejected_markers > 0), null, (chosen_markers > 0)::int)",
}

REPEATS = """
    -- kept pairs that say the same as another of their {part} (same normalised prompt and responses), or the opposite
    with labels as (
        select
            {part} as name, prompt_key,
            least(chosen_key, rejected_key) as low, greatest(chosen_key, rejected_key) as high,
            count_if(chosen_key < rejected_key) as forward, count_if(chosen_key > rejected_key) as backward
        from judged
        where chosen_key <> rejected_key
        group by all
    )
    select
        name, sum(greatest(forward - 1, 0) + greatest(backward - 1, 0)) as repeated_pairs,
        sum(if(forward > 0 and backward > 0, forward + backward, 0)) as contradicting_pairs
    from labels
    group by name
    order by name
"""

MOST_PAIRS = """
    -- pairs of the prompt that has most of them
    select name, max(pairs) as most_pairs_of_a_prompt
    from (select {part} as name, count(*) as pairs from judged group by {part}, prompt_key)
    group by name
    order by name
"""

CONFLICTS = """
    -- conflicts.parquet: two sources that label the same two responses of the same normalised prompt in opposite ways
    with labels as (
        select
            source, prompt_key, least(chosen_key, rejected_key) as low, greatest(chosen_key, rejected_key) as high,
            chosen_key < rejected_key as forward, min(pair_id) as pair_id
        from judged
        where chosen_key <> rejected_key
        group by all
    )
    select
        a.source as source, b.source as other_source, a.pair_id as pair_id, b.pair_id as other_pair_id
    from labels a join labels b using (prompt_key, low, high)
    where a.forward <> b.forward and a.source < b.source
    order by all
"""

OVERLAP = """
    -- distinct normalised first user turns and responses that each pair of sources shares; with itself: all of them
    with keys as (
        select distinct 'first_turns' as what, source, first_turn_key as key from judged
        union all
        select distinct 'responses', source, key
        from (select source, unnest([chosen_key, rejected_key]) as key from judged)
    )
    select what, a.source as source, b.source as other_source, count(*) as shared
    from keys a join keys b using (what, key)
    group by all
    order by all
"""

MARKED = """
    -- markers.parquet: each side of a pair that holds a marker
    select marker, source, side, pair_id
    from (
        select source, pair_id, side, unnest(list_filter(range({num_markers}), lambda i: (mask >> i) & 1 = 1)) as number
        from (
            select
                source, pair_id, unnest(['prompt', 'chosen', 'rejected']) as side,
                unnest([prompt_markers, chosen_markers, rejected_markers]) as mask
            from judged
        )
        where mask > 0
    )
    join markers using (number)
    order by marker, source, side, pair_id
"""

LENGTHS = """
    -- words of the responses of each source and side, by bin
    select source, histogram(chosen_words, {edges}) as chosen, histogram(rejected_words, {edges}) as rejected
    from judged
    group by source
    order by source
"""


def build_audit(
    mixture: Path, pair_sets: Mapping[str, Path], raws: Sequence[Path], licences: Mapping[str, Any], out: Path
) -> Built:
    """Measure a mixture and write ``conflicts.parquet`` and ``markers.parquet``, which name every pair found.

    Args:
        mixture: folder with the mixture's ``pairs.parquet`` and ``dropped.parquet``.
        pair_sets: name -> folder of each of its pair sets.
        raws: folders with the texts.
        licences: what ``catalog.licences.roll_up`` returns, carried along.

    Returns:
        facts ``pairs``, ``sources`` and ``pair_sets`` (name -> measures), ``overlap``, ``conflicts``, ``markers``,
        ``lengths``, ``licences`` and ``findings`` (sentences).
    """
    with work_database(out) as con:
        phrases = _read(con, mixture, raws)
        facts: dict[str, Any] = {"pairs": one_row(con, "select count(*) from judged")[0]}
        dropped = _dropped(con, mixture, pair_sets)
        for stage, part in (("sources", "source"), ("pair_sets", "pair_set")):
            facts[stage] = _measures(con, part, dropped[stage])
        for name, one in facts["sources"].items():
            one["phrase"] = phrases.get(name)
        facts["overlap"] = dict_rows(con, OVERLAP)
        facts["conflicts"] = _conflicts(con, out)
        facts["markers"] = _markers(con, out)
        facts["lengths"] = _lengths(con)
        facts["licences"] = dict(licences)
        facts["findings"] = findings(facts)
        (pairs,) = one_row(con, "select count(*) from pairs")
    check = Check(
        "every_pair_is_measured",
        pairs == facts["pairs"] == sum(one["pairs"] for one in facts["sources"].values()),
        "pairs of the mixture = pairs whose texts were read = sum over sources",
        {"pairs": pairs, "measured": facts["pairs"]},
    )
    return Built(facts, (check,))


def _read(con: duckdb.DuckDBPyConnection, mixture: Path, raws: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Create ``judged`` and return the phrases of each source; nothing after it holds a text."""
    con.create_function("normalise", _normalise_column, ["varchar"], "varchar", type=PythonUDFType.ARROW)
    load_texts(con, raws)
    con.execute(f"create temp table pairs as from {read_table(mixture / 'pairs.parquet')}")
    phrases = strongest_phrases(con)
    con.execute("create temp table markers (number bigint, marker varchar)")
    con.executemany("insert into markers values (?, ?)", list(enumerate(MARKERS)))
    filled = {
        "normalised": NORMALISED,
        "markers": " | ".join(f"(contains(text, {_literal(m)})::bigint << {i})" for i, m in enumerate(MARKERS)),
        "refusal_words": REFUSAL_WORDS,
    }
    con.execute(RESPONSES.format(**filled))
    con.execute(PROMPTS.format(**filled))
    # The rule of pair sets is what a refusal is; it asks for these two tables.
    con.execute("create view candidates as select distinct pair_id, chosen_id, rejected_id from pairs")
    con.execute(
        "create or replace view responses as select response_id, short_text as text from response_facts "
        "where short_text is not null"
    )
    rule = refusal.sql(refusal.Parameters(side="either", max_words=REFUSAL_WORDS))
    con.execute(f"create temp table refusals as {rule}")
    con.execute(JUDGED)
    con.execute("drop view responses; drop table response_facts; drop table prompt_facts")
    return phrases


def _normalise_column(texts: pa.Array) -> pa.Array:
    return pa.array([None if text is None else normalise(text) for text in texts.to_pylist()], pa.string())


def _literal(text: str) -> str:
    """Return a SQL string; line feeds are spelled out, as they are not seen in a query."""
    return " || chr(10) || ".join(quote_literal(part) for part in text.split("\n"))


def _dropped(
    con: duckdb.DuckDBPyConnection, mixture: Path, pair_sets: Mapping[str, Path]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return candidates and drops by rule: of pair sets by their own rules, of sources by the mixture's as well.

    The candidates of a mixture of responses are labelled responses, which it takes from sources without pair sets.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {"sources": {}, "pair_sets": {}}
    labelled = mixture / "labelled.parquet"
    if labelled.is_file():
        for of_stage in found.values():
            _add_drops(con, of_stage, "source", mixture / "dropped.parquet", "candidates")
            _add_kept(con, of_stage, "source", labelled)
        return found
    for name, folder in pair_sets.items():
        for stage, label in (("pair_sets", quote_literal(name)), ("sources", "source")):
            _add_drops(con, found[stage], label, folder / "dropped.parquet", "candidates")
            _add_kept(con, found[stage], label, folder / "pairs.parquet")
    _add_drops(con, found["sources"], "source", mixture / "dropped.parquet", None)
    return found


def _add_drops(
    con: duckdb.DuckDBPyConnection, found: dict[str, dict[str, Any]], label: str, path: Path, counted: str | None
) -> None:
    query = f"select {label} as name, rule, count(*) from {read_table(path)} group by all order by all"
    for name, rule, number in con.execute(query).fetchall():
        entry = found.setdefault(name, {"candidates": 0, "dropped": {}})
        entry["dropped"][rule] = entry["dropped"].get(rule, 0) + number
        if counted:
            entry[counted] += number


def _add_kept(con: duckdb.DuckDBPyConnection, found: dict[str, dict[str, Any]], label: str, path: Path) -> None:
    query = f"select {label} as name, count(*) from {read_table(path)} group by all order by all"
    for name, number in con.execute(query).fetchall():
        found.setdefault(name, {"candidates": 0, "dropped": {}})["candidates"] += number


def _measures(
    con: duckdb.DuckDBPyConnection, part: str, dropped: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the measures of each source or pair set by name."""
    rows = dict_rows(con, MEASURES.format(part=part, quantiles=list(GAP_QUANTILES.values())))
    repeats = _by_name(dict_rows(con, REPEATS.format(part=part)))
    most = _by_name(dict_rows(con, MOST_PAIRS.format(part=part)))
    shares = {name: _shares(con, part, result) for name, result in RESULTS.items()}
    return {
        row["name"]: {
            **_measure(row, {name: share.get(row["name"]) for name, share in shares.items()}),
            "most_pairs_of_a_prompt": most[row["name"]]["most_pairs_of_a_prompt"],
            "repeated_pairs": int(repeats.get(row["name"], {}).get("repeated_pairs", 0)),
            "contradicting_pairs": int(repeats.get(row["name"], {}).get("contradicting_pairs", 0)),
            **dropped[row["name"]],
        }
        for row in rows
    }


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in rows}


def _measure(row: Mapping[str, Any], shares: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("pairs", "train", "test", "prompts", "groups")},
        "pairs_per_prompt": row["pairs"] / row["prompts"],
        "length": {
            "chosen_words": row["chosen_words"],
            "rejected_words": row["rejected_words"],
            "difference_words": {"mean": row["mean_words"], "median": row["median_words"]},
            "difference_characters": {"mean": row["mean_characters"], "median": row["median_characters"]},
            "same_length": row["same_length"],
            "chosen_longer": shares["chosen_longer"],
            "pick_longer": shares["pick_longer"],
        },
        "same_text": row["same_text"],
        "refusals": {
            "chosen": row["chosen_refuses"],
            "rejected": row["rejected_refuses"],
            "lean": shares["refusal_lean"],
        },
        "marker_lean": shares["marker_lean"],
        "empty": {"chosen": row["chosen_empty"], "rejected": row["rejected_empty"]},
        "score_gap": _score_gap(row),
    }


def _score_gap(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if not row["with_gap"]:
        return None
    quantiles = dict(zip(GAP_QUANTILES, row["gaps"], strict=True))
    return {"pairs": row["with_gap"], "mean": row["mean_gap"], **quantiles}


def _shares(con: duckdb.DuckDBPyConnection, part: str, result: str) -> dict[str, dict[str, float]]:
    """Return the share of a result with its interval, by source or pair set."""
    shares = {}
    for name, *sums in con.execute(GROUP_SUMS.format(part=part, result=result)).fetchall():
        low, high = clustered_interval(GroupSums(*sums))
        shares[name] = {"share": sums[2] / sums[1], "n": int(sums[1]), "ci_low": low, "ci_high": high}
    return shares


def _conflicts(con: duckdb.DuckDBPyConnection, out: Path) -> dict[str, Any]:
    path = out / "conflicts.parquet"
    number = write_parquet(con, CONFLICTS, path)
    between = dict_rows(
        con, f"select source, other_source, count(*) as conflicts from {read_table(path)} group by all order by all"
    )
    examples = dict_rows(con, f"from {read_table(path)} order by all limit {EXAMPLES}")
    return {"num_conflicts": number, "between": between, "examples": examples}


def _markers(con: duckdb.DuckDBPyConnection, out: Path) -> list[dict[str, Any]]:
    """Return each marker that was met: source, side, number of pairs and the first pair ids."""
    path = out / "markers.parquet"
    write_parquet(con, MARKED.format(num_markers=len(MARKERS)), path)
    return dict_rows(
        con,
        f"""
        select marker, source, side, count(*) as pairs, list(pair_id order by pair_id)[:{EXAMPLES}] as pair_ids
        from {read_table(path)}
        group by all
        order by marker, source, side
        """,
    )


def _lengths(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return ``edges`` and, by source and side, the responses with up to each edge, and last those with more words."""
    rows = dict_rows(con, LENGTHS.format(edges=list(LENGTH_EDGES)))
    counts = {row["source"]: {side: _bins(row[side]) for side in ("chosen", "rejected")} for row in rows}
    return {"edges": list(LENGTH_EDGES), "counts": counts}


def _bins(histogram: Mapping[int, int]) -> list[int]:
    within = [histogram.get(edge, 0) for edge in LENGTH_EDGES]
    return [*within, sum(histogram.values()) - sum(within)]
