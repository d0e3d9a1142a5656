"""Mixture -> tokens: each response is tokenised once with its prompt, pairs stay references.

One row of ``responses.parquet``: ``{"response_id": "5f..", "input_ids": [1, 9690, ..], "prompt_length": 41}``.
"""

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.database import connect, quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.map_batches import MapBatches, Work
from rm_workflow.models.tokens import Encoder

logger = logging.getLogger(__name__)

RULES = ("too_long", "collapsed", "special_token")
REASONS = {
    "too_long": "prompt and reply do not fit into max_length tokens",
    "collapsed": "both sides became the same token ids",
    "special_token": "a text holds the string of a special token",
}
ROWS_AT_ONCE = 1000
HISTOGRAM_BINS = 40

ENCODED = pa.schema(
    [
        ("response_id", pa.string()),
        ("prompt_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("length", pa.int32()),
        ("prompt_length", pa.int32()),
        ("ids_hash", pa.string()),
        ("special", pa.string()),
    ]
)

TEXTS = """
-- every response that the mixture refers to, once, with its prompt
with used as (
    select chosen_id as response_id from pairs
    union
    select rejected_id from pairs
),
distinct_prompts as (
    select prompt_id, any_value(messages) as messages from raw_prompts group by prompt_id
),
distinct_responses as (
    select response_id, any_value(prompt_id) as prompt_id, any_value(text) as text
    from raw_responses
    where response_id in (select response_id from used)
    group by response_id
)
select response_id, prompt_id, messages, text
from distinct_responses
join distinct_prompts using (prompt_id)
order by prompt_id, response_id
"""

FITTED = """
-- truncate_prompt_left: all replies of a prompt lose the same first tokens, so many that the longest reply that can
-- still be kept whole fits; drop: nothing is cut
create table fitted as
with prompt as (
    select prompt_id, min(prompt_length) as shared_length from encoded group by prompt_id
),
judged as (
    select
        response_id, prompt_id, length, prompt_length, ids_hash, special,
        length - case when $truncate then greatest(0, shared_length - $kept) else 0 end <= $max_length as fits
    from encoded
    join prompt using (prompt_id)
)
select
    *,
    greatest(0, coalesce(max(length) filter (fits) over (partition by prompt_id), 0) - $max_length) as cut
from judged
"""

JUDGED = """
-- too_long, collapsed, special_token, first match wins; the cut is the same on both sides, so sides that are equal
-- after it were equal before
create table judged as
select
    pairs.*,
    case
        when not (chosen.fits and rejected.fits) then 'too_long'
        when chosen.ids_hash = rejected.ids_hash then 'collapsed'
        when coalesce(chosen.special, rejected.special) is not null then 'special_token'
    end as rule,
    case rule
        when 'too_long'
            then format('chosen {} and rejected {} tokens, at most {}', chosen.length, rejected.length, $max_length)
        when 'special_token' then coalesce(chosen.special, rejected.special)
    end as detail
from pairs
join fitted as chosen on chosen.response_id = pairs.chosen_id
join fitted as rejected on rejected.response_id = pairs.rejected_id
"""

KEPT_PAIRS = """
-- pairs that no rule drops
select
    pair_id, pair_key, prompt_id, chosen_id, rejected_id, chosen_score, rejected_score, weight, repeat, source, split,
    group_id
from judged
where rule is null
order by prompt_id, pair_id
"""

KEPT_RESPONSES = """
-- the ids of every response that is kept, after the cut; BOS stays in front
select
    response_id,
    list_slice(input_ids, 1, $bos) || list_slice(input_ids, $bos + cut + 1, length) as input_ids,
    (prompt_length - cut)::integer as prompt_length
from encoded
join fitted using (response_id, prompt_id, length, prompt_length)
where response_id in ($kept)
order by response_id
"""
KEPT_SIDES = """
    select chosen_id from judged where rule is null
    union
    select rejected_id from judged where rule is null
"""

DROPPED_PAIRS = """
-- why each other pair is gone
select
    'pair' as stage, source, file, row, []::varchar[] as slots, pair_id, chosen_id, rejected_id,
    rule, reasons.reason, detail, left(response.text, 200) as excerpt
from judged
join reasons using (rule)
left join (select response_id, any_value(text) as text from raw_responses group by response_id) as response
    on response.response_id = judged.chosen_id
order by source, file, row, rule, pair_id
"""

BY_SOURCE = """
-- tokens of each response, once for every source whose pairs hold it
with used as (
    select source, unnest([chosen_id, rejected_id]) as response_id from pairs
)
select source, length
from (select distinct source, response_id from used)
join encoded using (response_id)
"""

COUNTS = """
-- pairs by verdict and split, as often as an epoch shows them, and the tokens of an epoch (both sides, no padding)
select
    coalesce(rule, 'kept') as verdict,
    split,
    count(*) as pairs,
    sum(repeat) as per_epoch,
    sum(repeat * (chosen.length - chosen.cut + rejected.length - rejected.cut)) as tokens
from judged
join fitted as chosen on chosen.response_id = judged.chosen_id
join fitted as rejected on rejected.response_id = judged.rejected_id
group by all
order by all
"""


class Tokeniser:
    """Responses with their prompts -> rows of ``ENCODED``, batch by batch.

    Args:
        model_folder: the base model in the form of the Hugging Face hub.
        recipe: a token recipe as JSON.
    """

    schema = ENCODED
    rows = "responses"

    def __init__(self, model_folder: str, recipe: str) -> None:
        self.arguments = {"model_folder": model_folder, "recipe": recipe}
        self.encoder = Encoder.load(Path(model_folder), TokenRecipe.model_validate_json(recipe))

    def __call__(self, texts: pa.RecordBatch) -> pa.Table:
        """Return a row for each response."""
        return pa.Table.from_pylist(list(_encode_rows(texts.to_pylist(), self.encoder)), self.schema)


class AnyTokeniser(Protocol):
    """What turns rows of texts into rows of token ids, here or where ``map_batches`` makes another one like it.

    Attributes:
        schema: of the rows of token ids.
        rows: what they are, for the log.
        arguments: by which one is made, as JSON has them.
    """

    schema: pa.Schema
    rows: str
    arguments: dict[str, Any]

    def __call__(self, texts: pa.RecordBatch) -> pa.Table:
        """Return the token ids of a batch."""


def build_tokens(
    mixture: Path,
    raws: Sequence[Path],
    model_folder: Path,
    recipe: TokenRecipe,
    out: Path,
    map_batches: MapBatches | None = None,
) -> Built:
    """Tokenise a mixture under a token recipe into ``out``.

    Args:
        mixture: folder with the mixture's ``pairs.parquet``.
        raws: folders of the raw artifacts that the mixture's texts come from.
        model_folder: the base model in the form of the Hugging Face hub.
        map_batches: has other processes tokenise; None does it here.

    Raises:
        UserError: the template refuses a conversation, or no train pair is left.
    """
    tokeniser = Tokeniser(str(model_folder), recipe.model_dump_json())
    encoder = tokeniser.encoder
    with tempfile.TemporaryDirectory(dir=out) as scratch, connect(Path(scratch)) as con:
        _open_inputs(con, mixture, raws)
        encode_all(con, TEXTS, tokeniser, Path(scratch) / "encoded.parquet", map_batches)
        fit(con, encoder)
        con.execute(JUDGED, {"max_length": recipe.max_length})
        counts = con.execute(COUNTS).fetchall()
        _write(con, encoder, out)
        facts = {
            **count_facts(counts),
            "histogram": histogram(con),
            "histogram_by_source": histogram_by_source(con),
            "template_hash": encoder.template_hash,
        }
        accounted = _accounted(con, facts)
    encoder.write_recipe(out)
    if facts["train"] == 0:
        raise UserError(
            f"no train pair is left after tokenising: of {facts['pairs']} pairs, {told_drops(facts['dropped'])} were "
            f"dropped; raise tokens.max_length ({recipe.max_length}) or set tokens.over_length to truncate_prompt_left"
        )
    return Built(facts, (accounted,))


def _open_inputs(con: duckdb.DuckDBPyConnection, mixture: Path, raws: Sequence[Path]) -> None:
    pairs = quote_literal(str(mixture / "pairs.parquet"))
    con.execute(f"create view pairs as select * from read_parquet({pairs})")
    open_texts(con, raws)


def open_texts(con: duckdb.DuckDBPyConnection, raws: Sequence[Path]) -> None:
    """Create the views ``raw_prompts`` and ``raw_responses`` over all raw folders."""
    for table in ("prompts", "responses"):
        files = ", ".join(quote_literal(str(raw / f"{table}.parquet")) for raw in raws)
        con.execute(f"create view raw_{table} as select * from read_parquet([{files}], union_by_name = true)")


def encode_all(
    con: duckdb.DuckDBPyConnection,
    texts: str,
    tokeniser: AnyTokeniser,
    path: Path,
    map_batches: MapBatches | None = None,
) -> None:
    """Create ``encoded`` for what a query gives, batch by batch in a scratch file, whatever the number of rows.

    Args:
        map_batches: has other processes tokenise; None does it here.
    """
    reader: Any = con.sql(texts).to_arrow_reader(ROWS_AT_ONCE)
    done = 0
    with (
        pq.ParquetWriter(path, tokeniser.schema, compression="zstd") as writer,
        contextlib.closing(_tokenised(reader, tokeniser, path.parent, map_batches)) as tables,
    ):
        for table in tables:
            writer.write_table(table)
            done += len(table)
            logger.info("tokenised %s %s", f"{done:,}", tokeniser.rows)
    con.execute(f"create view encoded as select * from read_parquet({quote_literal(str(path))})")


def _tokenised(
    reader: Any, tokeniser: AnyTokeniser, folder: Path, map_batches: MapBatches | None
) -> Generator[pa.Table]:
    """Yield tables of token ids, in no order: each row names what it is of."""
    if map_batches is None:
        yield from map(tokeniser, reader)
        return
    worker = f"{type(tokeniser).__module__}:{type(tokeniser).__name__}"
    with contextlib.closing(map_batches(Work(worker, tokeniser.arguments, reader.schema), reader, folder)) as found:
        for _, table in found:
            yield table


def _encode_rows(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> Iterator[dict[str, Any]]:
    conversations = [(row["messages"], row["text"]) for row in rows]
    for row, encoded in zip(rows, encoder.encode_many(conversations), strict=True):
        texts = [*(message["content"] for message in row["messages"]), row["text"]]
        found = (encoder.holds_special_token(text) for text in texts)
        yield {
            "response_id": row["response_id"],
            "prompt_id": row["prompt_id"],
            "input_ids": encoded.input_ids,
            "length": len(encoded.input_ids),
            "prompt_length": encoded.prompt_length,
            "ids_hash": ids_hash(encoded.input_ids),
            "special": next((token for token in found if token), None),
        }


def ids_hash(ids: Sequence[int]) -> str:
    """Return a hash by which equal token ids are told."""
    return hashlib.sha256(np.asarray(ids, dtype="<i4").tobytes()).hexdigest()


def fit(con: duckdb.DuckDBPyConnection, encoder: Encoder) -> None:
    """Create ``fitted`` (how many first tokens each response loses, whether it fits) and ``reasons`` of the rules."""
    recipe = encoder.recipe
    con.execute(
        FITTED,
        {
            "truncate": recipe.over_length == "truncate_prompt_left",
            "kept": encoder.kept_prompt_length,
            "max_length": recipe.max_length,
        },
    )
    con.execute("create table reasons (rule varchar, reason varchar)")
    con.executemany("insert into reasons values (?, ?)", list(REASONS.items()))


def _write(con: duckdb.DuckDBPyConnection, encoder: Encoder, out: Path) -> None:
    write_parquet(con, KEPT_PAIRS, out / "pairs.parquet")
    bos = str(int(encoder.starts_with_bos))
    write_parquet(con, KEPT_RESPONSES.replace("$bos", bos).replace("$kept", KEPT_SIDES), out / "responses.parquet")
    write_parquet(con, DROPPED_PAIRS, out / "dropped.parquet")


def count_facts(counts: Sequence[tuple[str, str, int, int, int]], rules: Sequence[str] = RULES) -> dict[str, Any]:
    """Return the facts of rows (verdict, split, number, number of an epoch, tokens of an epoch)."""

    def pairs(verdict: str, *splits: str) -> int:
        return sum(row[2] for row in counts if row[0] == verdict and row[1] in splits)

    kept = [row for row in counts if row[0] == "kept"]
    return {
        "pairs": sum(row[2] for row in counts),
        "kept": sum(row[2] for row in kept),
        "dropped": {rule: pairs(rule, "train", "test") for rule in rules},
        "train": pairs("kept", "train"),
        "test": pairs("kept", "test"),
        "train_per_epoch": int(sum(row[3] for row in kept if row[1] == "train")),
        "train_tokens": int(sum(row[4] for row in kept if row[1] == "train")),
    }


def histogram(con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
    """Return tokens of a conversation against number of responses, before any is cut or dropped."""
    return _binned(np.asarray(con.execute("select length from encoded").fetchnumpy()["length"], dtype=np.int64))


def histogram_by_source(con: duckdb.DuckDBPyConnection, query: str = BY_SOURCE) -> dict[str, dict[str, list[int]]]:
    """Return the same for the responses of each source.

    Args:
        query: gives source and length.
    """
    lengths = con.execute(query).fetchnumpy()
    sources, numbers = lengths["source"], np.asarray(lengths["length"], dtype=np.int64)
    return {str(name): _binned(numbers[sources == name]) for name in sorted(set(sources))}


def _binned(lengths: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, list[int]]:
    if lengths.size == 0:
        return {"edges": [], "counts": []}
    width = 8
    while width * HISTOGRAM_BINS <= lengths.max():
        width *= 2
    edges = np.arange(0, lengths.max() + width + 1, width)
    counts, _ = np.histogram(lengths, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _accounted(con: duckdb.DuckDBPyConnection, facts: Mapping[str, Any]) -> Check:
    row = con.execute("select count(*) from pairs").fetchone()
    assert row is not None
    dropped = sum(facts["dropped"].values())
    return Check(
        "pairs_accounted_for",
        row[0] == facts["kept"] + dropped,
        "pairs of the mixture = kept + dropped by rule",
        {"pairs": row[0], "kept": facts["kept"], "dropped": dropped},
    )


def told_drops(dropped: Mapping[str, int]) -> str:
    """Return the drops of each rule as words."""
    return ", ".join(f"{count} as {rule}" for rule, count in dropped.items())
