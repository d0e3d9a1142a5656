"""What became of one pair or one raw row: where it was kept, which rule dropped it and why."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from rm_workflow.artifacts import Artifact
from rm_workflow.catalog.names import nearest
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.lineage.questions import LABELLED, has_train_row
from rm_workflow.preferences.sql import dict_rows, read_table
from rm_workflow.preferences.text import conversation

# Kind of asset -> its place in the flow of data. Step labels by rollouts are a source like raw rows.
FLOW = {"raw": 0, "labels": 0, "pairs": 1, "mixture": 2, "tokens": 3}
KINDS = tuple(FLOW)
SOURCES = [kind for kind, place in FLOW.items() if place == 0]
PAIR_ID = re.compile("[0-9a-f]{32}")
FILE_AND_ROW = re.compile(r"(?P<file>.+):(?P<row>\d+)", re.DOTALL)

# What a file may be called: as the source calls it, or with the source before it, as `rmw show` prints it.
IS_FILE = "$file in (file, source || ':' || file) and row = $row"

# A pair stands at one row, and others take part in it: where each row shows one response, that of the other side; where
# rows are votes, all but the first vote. The latter have no pair of their own.
TAKES_PART = f"""
    with shown as (
        select source, file, list(response_id) as ids from occurrences where {IS_FILE} group by source, file
    )
    select distinct pair_id
    from places join shown using (source, file)
    where pair_id is not null and case len(ids)
        when 1 then chosen_id = ids[1] or rejected_id = ids[1]
        when 2 then list_sort([chosen_id, rejected_id]) = list_sort(ids)
            and not exists (from places where {IS_FILE} and pair_id is not null)
        else false
    end
    order by pair_id
"""

# The columns of a place, in data-flow order: kind of asset, asset, place of the rule among the asset's rules.
NO_PLACE = """
    select
        0 as flow, '' as asset, 0 as step, '' as source, '' as file, 0::bigint as row, '' as pair_id, '' as label_id,
        '' as chosen_id, '' as rejected_id,
        '' as rule, '' as reason, '' as detail, '' as excerpt
    limit 0
"""

Row = dict[str, Any]


def trace(target: str, artifacts: Mapping[str, Sequence[Artifact]]) -> dict[str, Any]:
    """Follow a pair or a raw row through artifacts.

    Args:
        target: a pair_id or label_id, or ``FILE:ROW`` (``SOURCE:FILE:ROW`` where several sources have a file of that
            name).
        artifacts: kind (one of ``KINDS``) -> artifacts to look into; a kind that is not there has none.

    Returns:
        ``pair_id`` (null where the row has no pair or several), ``pairs`` (all pair_ids that the row takes part in),
        ``labels`` (label_ids of its responses in mixtures that train on labels), ``prompt``, ``chosen``, ``rejected``
        (texts), ``response`` (the text that a label_id is of, or that of a row that shows one alone), ``excerpt`` (of a
        row that could not be used), ``source``, ``file``, ``row``, ``drops`` (asset, rule, reason, detail, pair_id in
        data-flow order: within an asset by its rules, then by pair_id), ``dropped_by`` (rule of the first of them),
        ``reason``, ``pair_sets`` and ``mixtures`` (assets that keep it), ``trained_on`` (tokens assets that have it in
        their train split).

    Raises:
        UserError: nothing is known by that name, or several sources are.
    """
    if not _of_kinds(artifacts, SOURCES):
        raise UserError("there is no raw asset under RMW_HOME to look into; materialize a recipe first (rmw run)")
    with connect() as con:
        con.execute(f"create view all_occurrences as from {_raw_tables(artifacts, 'occurrences')}")
        of_prompts = _prompts_sql(con, target)
        for name in ("prompts", "responses", "occurrences"):
            # As they are: a text that several sources hold comes several times, and one of them is shown.
            con.execute(f"create view {name} as from {_raw_tables(artifacts, name)} where {of_prompts}")
        con.execute(f"create view places as {_places_sql(artifacts, of_prompts)}")
        places = _places_of(con, target)
        pair_ids, label_ids = ({place[name] for place in places if place[name]} for name in ("pair_id", "label_id"))
        tokens = [one for one in artifacts.get("tokens", ()) if has_train_row(one, [*pair_ids, *label_ids])]
        texts = _texts(con, places, sorted(pair_ids))
        if PAIR_ID.fullmatch(target) and label_ids:
            texts["response"] = _labelled(con, places)
        return {**texts, "labels": sorted(label_ids), **_fate(places), "trained_on": [one.asset for one in tokens]}


def _of_kinds(artifacts: Mapping[str, Sequence[Artifact]], kinds: Sequence[str]) -> list[Artifact]:
    return [artifact for kind in kinds for artifact in artifacts.get(kind, ())]


def _raw_tables(artifacts: Mapping[str, Sequence[Artifact]], name: str) -> str:
    return read_table(*(artifact.folder / f"{name}.parquet" for artifact in _of_kinds(artifacts, SOURCES)))


def _prompts_sql(con: duckdb.DuckDBPyConnection, target: str) -> str:
    """Return SQL that holds for the prompts of a raw row: its pairs have no other, and tables are ordered by prompt."""
    named = None if PAIR_ID.fullmatch(target) else FILE_AND_ROW.fullmatch(target)
    if not named:
        return "true"
    at = {"file": named["file"], "row": int(named["row"])}
    query = f"select distinct prompt_id from all_occurrences where {IS_FILE} order by prompt_id"
    found = con.execute(query, at).fetchall()
    listed = ", ".join(quote_literal(prompt_id) for (prompt_id,) in found)
    return f"prompt_id in ({listed})" if listed else "false"


def _places_sql(artifacts: Mapping[str, Sequence[Artifact]], of_prompts: str) -> str:
    """Return SQL for every place where a pair or row stands: used by a source, kept or dropped by an asset.

    Args:
        of_prompts: condition on the prompts of what is kept.
    """
    used = "0 as flow, null as asset, source, file, row, null as pair_id"
    parts = [f"select {used} from occurrences"]
    for kind, flow in FLOW.items():
        for artifact in artifacts.get(kind, ()):
            asset = f"{flow} as flow, {quote_literal(artifact.asset)} as asset, source, file, row"
            dropped = read_table(artifact.folder / "dropped.parquet")
            rules = ", ".join(quote_literal(rule) for rule in artifact.facts["dropped"])
            step = f"list_position([{rules}], rule) as step"
            parts.append(
                f"select {asset}, pair_id, chosen_id, rejected_id, {step}, rule, reason, detail, excerpt from {dropped}"
            )
            # Tokens say of a kept pair its id and split only.
            if kind in ("pairs", "mixture"):
                kept = read_table(artifact.folder / "pairs.parquet")
                parts.append(f"select {asset}, pair_id, chosen_id, rejected_id from {kept} where {of_prompts}")
            if kind == "mixture" and LABELLED in artifact.manifest["files"]:
                kept = read_table(artifact.folder / LABELLED)
                parts.append(f"select {asset}, label_id, response_id as chosen_id from {kept} where {of_prompts}")
    return f"from ({NO_PLACE}) union all by name " + " union all by name ".join(parts)


def _places_of(con: duckdb.DuckDBPyConnection, target: str) -> list[Row]:
    if PAIR_ID.fullmatch(target):
        return _distinct_places(con, "$id in (pair_id, label_id)", {"id": target}, target)
    named = FILE_AND_ROW.fullmatch(target)
    if not named:
        raise UserError(f"{target!r} is neither a pair_id (32 hex digits) nor FILE:ROW; rmw show prints both")
    at = {"file": named["file"], "row": int(named["row"])}
    places = _distinct_places(con, IS_FILE, at, target)
    sources = sorted({place["source"] for place in places})
    if len(sources) > 1:
        raise UserError(f"{target} stands in the sources {', '.join(sources)}; name one of them: {sources[0]}:{target}")
    pair_ids = [pair_id for (pair_id,) in con.execute(TAKES_PART, at).fetchall()]
    if not pair_ids:
        return places
    return _distinct_places(
        con, f"({IS_FILE}) or pair_id in (select unnest($pair_ids))", {**at, "pair_ids": pair_ids}, target
    )


def _require_file(con: duckdb.DuckDBPyConnection, file: str | None) -> None:
    query = "select distinct source, file from all_occurrences union select source, file from places"
    known = con.execute(query).fetchall()
    names = {*(name for _, name in known), *(f"{source}:{name}" for source, name in known)}
    if file is not None and file not in names:
        raise UserError(f"no raw asset under RMW_HOME has a file {file}; {nearest(file, names)}")


def _distinct_places(con: duckdb.DuckDBPyConnection, where: str, values: Row, target: str) -> list[Row]:
    places = dict_rows(con, f"select distinct * from places where {where} order by all", values)
    if not places:
        _require_file(con, values.get("file"))
        raise UserError(
            f"{target} stands in no raw, pairs or mixture asset under RMW_HOME; rmw show prints pair_ids and rows"
        )
    return places


def _texts(con: duckdb.DuckDBPyConnection, places: Sequence[Row], pair_ids: Sequence[str]) -> Row:
    at = {name: places[0][name] for name in ("source", "file", "row")}
    prompts = dict_rows(
        con,
        """
        select messages from prompts where prompt_id in (
            select prompt_id from occurrences where source = $source and file = $file and row = $row
        ) order by prompt_id
        """,
        at,
    )
    pair_id = pair_ids[0] if len(pair_ids) == 1 else None
    chosen, rejected = _sides(con, places) if pair_id else (None, None)
    return {
        "pair_id": pair_id,
        "pairs": list(pair_ids),
        "prompt": conversation(prompts[0]["messages"]) if prompts else None,
        "chosen": chosen,
        "rejected": rejected,
        "response": _only_response(con, at),
        "excerpt": next((place["excerpt"] for place in places if place["flow"] == 0), None),
        **at,
    }


def _only_response(con: duckdb.DuckDBPyConnection, at: Row) -> str | None:
    """Return the text of the one response that a row shows, None where it shows several or none."""
    query = """
        select distinct text from responses join occurrences using (response_id)
        where source = $source and file = $file and row = $row
    """
    found = con.execute(query, at).fetchall()
    return str(found[0][0]) if len(found) == 1 else None


def _labelled(con: duckdb.DuckDBPyConnection, places: Sequence[Row]) -> str | None:
    """Return the text of the one response that a label is of, whatever else its row shows."""
    response_id = next(place["chosen_id"] for place in places if place["label_id"])
    found = con.execute("select text from responses where response_id = ?", [response_id]).fetchone()
    return str(found[0]) if found else None


def _sides(con: duckdb.DuckDBPyConnection, places: Sequence[Row]) -> tuple[str | None, str | None]:
    """Return the chosen and the rejected text of the one pair that stands in ``places``."""
    place = next(place for place in places if place["pair_id"])
    ids = [place["chosen_id"], place["rejected_id"]]
    texts = dict(con.execute("select response_id, text from responses where response_id in (?, ?)", ids).fetchall())
    return texts.get(ids[0]), texts.get(ids[1])


def _fate(places: Sequence[Row]) -> Row:
    """Return what dropped the pairs, and what keeps them; ``places`` stand in data-flow order."""
    drops = [
        {key: place[key] for key in ("asset", "rule", "reason", "detail", "pair_id")}
        for place in places
        if place["rule"]
    ]
    return {
        "drops": drops,
        "dropped_by": drops[0]["rule"] if drops else None,
        "reason": drops[0]["reason"] if drops else None,
        "pair_sets": _keeping(places, "pairs"),
        "mixtures": _keeping(places, "mixture"),
    }


def _keeping(places: Sequence[Row], kind: str) -> list[str]:
    kept = (place for place in places if place["chosen_id"] and not place["rule"] and place["flow"] == FLOW[kind])
    return sorted({place["asset"] for place in kept})
