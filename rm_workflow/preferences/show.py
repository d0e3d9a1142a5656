"""Rows of raw, pairs and mixture artifacts as a person reads them, kept or dropped.

Which rows are shown is decided by a hash of what names them: the same rows each time, from all over the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.database import connect, quote_literal
from rm_workflow.preferences.sql import dict_rows, keyed_hash_sql, read_table
from rm_workflow.preferences.text import conversation, load_texts

Row = dict[str, Any]

CELL_CHARACTERS = 240

# Rows drawn from pairs.parquet, texts joined to the few that are drawn.
KEPT_PAIRS = """
    with drawn as (from {pairs} order by {draw}, pair_id limit $n)
    select
        drawn.pair_id, messages as prompt, c.text as chosen, r.text as rejected, chosen_score, rejected_score,
        {origin} as origin{more}
    from drawn
    left join prompts using (prompt_id)
    left join responses c on c.response_id = chosen_id
    left join responses r on r.response_id = rejected_id
    order by {draw}, drawn.pair_id
"""

# Rows drawn from labelled.parquet.
KEPT_LABELLED = """
    with drawn as (from {labelled} drawn order by {draw}, label_id limit $n)
    select label_id, messages as prompt, {shown}, rank, split, leak, {origin} as origin
    from drawn
    left join prompts using (prompt_id)
    left join responses using (response_id)
    order by {draw}, label_id
"""

LABELS = """
    text as response, array_to_string(
        [format('{} {:g}', label.key, label.value) for label in map_entries(values)], ', '
    ) as labels
"""
# A solution of a mixture of trajectories: a line a step, its label before it, a dash where it has none.
STEPS = """
    array_to_string([
        format('[{}] ', coalesce(format('{:g}', values[step]), '-'))
            || trim(text[coalesce(drawn.step_ends[step - 1], 0) + 1 : drawn.step_ends[step]], e' \\n\\r\\t')
        for step in generate_series(1, len(drawn.step_ends))
    ], e'\\n') as response, format('{:g}', score) as labels
"""

# Rows of a source with all their responses.
KEPT_RAW = """
    with rows as (select distinct source, file, row, prompt_id from occurrences),
    drawn as (select *, sha256({origin}) as draw from rows order by draw, prompt_id limit $n)
    select messages as prompt, list({{
        'slot': slot, 'text': text, 'model': model, 'ratings': ratings
    }} order by slot) as responses, {origin} as origin
    from drawn
    join prompts using (prompt_id)
    join occurrences using (source, file, row, prompt_id)
    join responses using (response_id)
    group by draw, prompt_id, messages, source, file, row
    order by draw, prompt_id
"""

# Candidates of a prompt with their rewards, as rejection sampling ranked them.
RANKED = """
    select
        messages as prompt, scores[best + 1] as best_reward, list_transform(responses, lambda text, place: {{
            'slot': if(place = best + 1, 'best', (place - 1)::varchar), 'text': text, 'model': null,
            'ratings': map {{'reward': scores[place]}}
        }}) as responses, 'prompt ' || prompt_id as origin
    from {table}
    order by prompt_id
    limit $n
"""

# Best against worst, as TRL's DPOTrainer reads them.
DPO = """
    select
        prompt, chosen[1].content as chosen, rejected[1].content as rejected, score_gap,
        'dpo.parquet:' || file_row_number as origin
    from read_parquet({path}, file_row_number = true)
    order by file_row_number
    limit $n
"""

# Rows drawn from dropped.parquet: first one of each rule, then the second of each, and so on.
DROPPED = """
    with hashed as (
        select *, sha256(concat_ws('/', source, file, row, pair_id)) as draw
        from {dropped}
        where $rule is null or rule = $rule
    ),
    placed as (
        select *, row_number() over (partition by rule order by draw, source, file, row, pair_id) as place from hashed
    ),
    drawn as (from placed order by place, rule limit $n),
    twins as (
        select
            pair_id as detail, any_value({origin}) as twin, any_value(chosen_id) as twin_chosen_id,
            any_value(rejected_id) as twin_rejected_id
        from ({named})
        where pair_id in (select detail from drawn)
        group by pair_id
    ),
    shown as (
        select unnest([chosen_id, rejected_id]) as response_id from drawn
        union
        select unnest([twin_chosen_id, twin_rejected_id]) from twins
    ),
    texts as materialized (
        select response_id, prompt_id, text from responses semi join shown using (response_id)
    )
    select
        rule, reason, detail, drawn.pair_id, messages as prompt, if(stage = 'response', c.text, null) as response,
        if(stage = 'response', null, c.text) as chosen, r.text as rejected,
        if(stage = 'row', excerpt, null) as excerpt, twin, nullif(twin_c.text, c.text) as twin_chosen,
        nullif(twin_r.text, r.text) as twin_rejected, {drawn_origin} as origin
    from drawn
    left join twins using (detail)
    left join texts c on c.response_id = chosen_id
    left join texts r on r.response_id = rejected_id
    left join texts twin_c on twin_c.response_id = twin_chosen_id
    left join texts twin_r on twin_r.response_id = twin_rejected_id
    left join prompts on prompts.prompt_id = c.prompt_id
    order by place, rule
"""
# What a detail may name: the pairs that an artifact keeps and those that it drops.
NAMED = "select pair_id, source, file, row, chosen_id, rejected_id from {table}"


def kept_rows(folder: Path, raw_folders: Sequence[Path], n: int) -> list[Row]:
    """Return up to ``n`` rows that an artifact keeps.

    Args:
        folder: of a pairs or mixture artifact, or of a raw one, whose rows come with all their responses.
        raw_folders: where the texts are.

    Returns:
        rows with pair_id, prompt, chosen, rejected, scores, origin (``source:file:row``) and marks (rules that marked
        the pair, or None); of a mixture also split, pair_set and leak. Of a mixture of responses label_id, prompt,
        response, labels, rank, split, leak and origin; of one of trajectories the response is told step by step, each
        with its label before it, and labels is the least of them.
    """
    with connect() as con:
        load_texts(con, raw_folders)
        if not (folder / "pairs.parquet").is_file():
            return _readable(dict_rows(con, KEPT_RAW.format(origin=_origin()), {"n": n}))
        if (folder / "labelled.parquet").is_file():
            draw = keyed_hash_sql("show", 0, "label_id")
            labelled = read_table(folder / "labelled.parquet")
            shown = STEPS if "step_ends" in _columns(con, labelled) else LABELS
            query = KEPT_LABELLED.format(labelled=labelled, draw=draw, shown=shown, origin=_origin("drawn."))
            return _readable(dict_rows(con, query, {"n": n}))
        pairs = read_table(folder / "pairs.parquet")
        more = ", nullif(array_to_string(marks, ', '), '') as marks"
        if "split" in _columns(con, pairs):
            more += ", split, pair_set, leak"
        draw = keyed_hash_sql("show", 0, "drawn.pair_id")
        query = KEPT_PAIRS.format(pairs=f"{pairs} drawn", draw=draw, more=more, origin=_origin("drawn."))
        return _readable(dict_rows(con, query, {"n": n}))


def chosen_rows(folder: Path, n: int) -> list[Row]:
    """Return the first ``n`` rows of what rejection sampling made.

    Args:
        folder: of a ranked artifact, or of one with what is chosen from it for TRL.

    Returns:
        rows with prompt, best_reward, responses with their rewards, origin; of the choice prompt, chosen, rejected,
        score_gap, origin.
    """
    ranked, pairs = folder / "ranked.parquet", folder / "dpo.parquet"
    query = DPO.format(path=quote_literal(str(pairs))) if pairs.is_file() else RANKED.format(table=read_table(ranked))
    with connect() as con:
        return _readable(dict_rows(con, query, {"n": n}))


def dropped_rows(folder: Path, raw_folders: Sequence[Path], n: int, rule: str | None = None) -> list[Row]:
    """Return up to ``n`` rows that an artifact's rules drop, by turns from each rule, or from one.

    Returns:
        rows with rule, reason, detail, pair_id, prompt, chosen, rejected, origin; a raw row that could not be read as
        a conversation has its excerpt instead of the texts. Where the detail names a pair of this artifact, ``twin`` is
        where that stands, and ``twin_chosen`` and ``twin_rejected`` its texts where they are others.
    """
    with connect() as con:
        load_texts(con, raw_folders)
        dropped, pairs = read_table(folder / "dropped.parquet"), folder / "pairs.parquet"
        named = [dropped]
        if pairs.is_file() and "file" in _columns(con, read_table(pairs)):
            named.append(read_table(pairs))
        query = DROPPED.format(
            dropped=dropped,
            named=" union all ".join(NAMED.format(table=table) for table in named),
            origin=_origin(),
            drawn_origin=_origin("drawn."),
        )
        rows = _readable(dict_rows(con, query, {"n": n, "rule": rule}))
    # Only a mixture of responses and its tokens drop responses.
    if any(row["response"] is not None for row in rows):
        return rows
    return [{name: value for name, value in row.items() if name != "response"} for row in rows]


def _origin(table: str = "") -> str:
    return f"{table}source || ':' || {table}file || ':' || {table}row"


def _columns(con: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    return [row["column_name"] for row in dict_rows(con, f"describe select * from {table}")]


def _readable(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [{**row, "prompt": conversation(row["prompt"]) if row["prompt"] else None} for row in rows]


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows for a terminal: a block each, texts whole, empty fields left out."""
    return "\n\n".join(_block(number, row) for number, row in enumerate(rows, start=1))


def _block(number: int, row: Mapping[str, Any]) -> str:
    lines = [f"=== {number}: {row['origin']}"]
    for name, value in row.items():
        if name == "origin" or value is None:
            continue
        text = _responses(value) if isinstance(value, list) else f"{value}"
        lines.append(f"{name}:\n{_indented(text)}" if "\n" in text else f"{name}: {text}")
    return "\n".join(lines)


def _responses(responses: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(f"[{one['slot']}] {_ratings(one)}{one['text']}" for one in responses)


def _ratings(response: Mapping[str, Any]) -> str:
    named = [f"{name} {value:g}" for name, value in (response["ratings"] or {}).items()]
    return f"({', '.join(named)}) " if named else ""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table with texts on one line, cut to 240 characters; empty columns are left out."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    if not names:
        return "none"
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = "" if value is None else _responses(value) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    text = text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
