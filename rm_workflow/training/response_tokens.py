"""Mixture of responses -> tokens: each labelled response is tokenised once with its prompt.

``responses.parquet`` has the token ids, as for a mixture of pairs; ``labelled.parquet`` the labels of what is kept, and
``pairs.parquet`` the pairs of responses that are both kept: the test pairs are what a checkpoint is scored on.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.database import connect, quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.map_batches import MapBatches
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import tokens

JUDGED = """
-- too_long, collapsed, special_token, first match wins; of the labelled responses of a prompt and source that have the
-- same token ids the first by id stays
create table judged_labels as
with kept_first as (
    select *, first_value(response_id) over (partition by source, prompt_id, ids_hash order by response_id) as twin
    from labelled
    join (select response_id, length, cut, fits, ids_hash, special from fitted) using (response_id)
)
select
    *,
    case
        when not fits then 'too_long'
        when response_id <> twin then 'collapsed'
        when special is not null then 'special_token'
    end as rule,
    case rule
        when 'too_long' then format('{} tokens, at most {}', length, $max_length)
        when 'collapsed' then twin
        when 'special_token' then special
    end as detail
from kept_first
"""

KEPT_LABELS = """
-- labelled responses that no rule drops
select
    label_id, response_id, prompt_id, values, score, rank, weight, repeat, source, split, group_id
from judged_labels
where rule is null
order by prompt_id, label_id
"""

KEPT_PAIRS = """
-- pairs of labelled responses that are both kept
select
    pair_id, pair_key, prompt_id, chosen_id, rejected_id, chosen_score, rejected_score, weight, repeat, source, split,
    group_id
from mixture_pairs
where
    (source, chosen_id) in (select (source, response_id) from judged_labels where rule is null)
    and (source, rejected_id) in (select (source, response_id) from judged_labels where rule is null)
order by prompt_id, pair_id
"""

KEPT_LABELLED = "select response_id from judged_labels where rule is null"

DROPPED_LABELS = """
-- why each other response is gone
select
    'response' as stage, source, file, row, [slot] as slots, label_id as pair_id, response_id as chosen_id,
    null::varchar as rejected_id, rule,
    if(rule = 'collapsed', 'another response of its prompt has the same token ids', reasons.reason) as reason, detail,
    left(response.text, 200) as excerpt
from judged_labels
join reasons using (rule)
left join (select response_id, any_value(text) as text from raw_responses group by response_id) as response
    using (response_id)
order by source, file, row, rule, label_id
"""

COUNTS = """
-- labelled responses by verdict and split, as often as an epoch shows them, and the tokens of an epoch (no padding)
select
    coalesce(rule, 'kept') as verdict, split, count(*) as pairs, sum(repeat) as per_epoch,
    sum(repeat * (length - cut)) as tokens
from judged_labels
group by all
order by all
"""

PROMPTS = """
-- train prompts of one source by whether their kept responses have different ranks, as often as an epoch shows them
select is_ranking, sum(repeat)::bigint
from (
    select any_value(repeat) as repeat, count(distinct rank) > 1 as is_ranking
    from judged_labels
    where rule is null and split = 'train'
    group by source, prompt_id
)
group by is_ranking
"""


def build_response_tokens(
    mixture: Path,
    raws: Sequence[Path],
    model_folder: Path,
    recipe: TokenRecipe,
    out: Path,
    map_batches: MapBatches | None = None,
) -> Built:
    """Tokenise a mixture of responses under a token recipe into ``out``.

    Args:
        mixture: folder with the mixture's ``labelled.parquet`` and ``pairs.parquet``.
        raws: folders of the raw artifacts that the mixture's texts come from.
        model_folder: the base model in the form of the Hugging Face hub.
        map_batches: has other processes tokenise; None does it here.

    Returns:
        facts as of tokens of pairs, where ``responses`` and all other numbers count labelled responses; and
        ``test_pairs``, ``train_prompts_per_epoch`` (prompts whose responses rank) and ``unranked_prompts`` (train
        prompts whose responses have one rank).

    Raises:
        UserError: the template refuses a conversation, or no train response is left.
    """
    tokeniser = tokens.Tokeniser(str(model_folder), recipe.model_dump_json())
    encoder = tokeniser.encoder
    with tempfile.TemporaryDirectory(dir=out) as scratch, connect(Path(scratch)) as con:
        _open_inputs(con, mixture, raws)
        tokens.encode_all(con, tokens.TEXTS, tokeniser, Path(scratch) / "encoded.parquet", map_batches)
        tokens.fit(con, encoder)
        con.execute(JUDGED, {"max_length": recipe.max_length})
        _write(con, encoder, out)
        facts = _facts(con, out, encoder)
        (rows,) = con.execute("select count(*) from labelled").fetchone() or (0,)
    encoder.write_recipe(out)
    if facts["train"] == 0:
        raise UserError(
            f"no train response is left after tokenising: of {facts['responses']}, "
            f"{tokens.told_drops(facts['dropped'])} were dropped; raise tokens.max_length ({recipe.max_length}) or set "
            "tokens.over_length to truncate_prompt_left"
        )
    return Built(facts, (_accounted(rows, facts),))


def _open_inputs(con: duckdb.DuckDBPyConnection, mixture: Path, raws: Sequence[Path]) -> None:
    """Open the labels, and ``pairs`` that hold each response with itself, which is how tokens of pairs find texts."""
    tokens.open_texts(con, raws)
    con.execute(f"create view labelled as from read_parquet({quote_literal(str(mixture / 'labelled.parquet'))})")
    con.execute(f"create view mixture_pairs as from read_parquet({quote_literal(str(mixture / 'pairs.parquet'))})")
    con.execute(
        "create view pairs as select source, response_id as chosen_id, response_id as rejected_id from labelled"
    )


def _write(con: duckdb.DuckDBPyConnection, encoder: Encoder, out: Path) -> None:
    bos = str(int(encoder.starts_with_bos))
    write_parquet(con, KEPT_LABELS, out / "labelled.parquet")
    write_parquet(con, KEPT_PAIRS, out / "pairs.parquet")
    write_parquet(
        con, tokens.KEPT_RESPONSES.replace("$bos", bos).replace("$kept", KEPT_LABELLED), out / "responses.parquet"
    )
    write_parquet(con, DROPPED_LABELS, out / "dropped.parquet")


def _facts(con: duckdb.DuckDBPyConnection, out: Path, encoder: Encoder) -> dict[str, Any]:
    counted = tokens.count_facts(con.execute(COUNTS).fetchall())
    prompts = dict(con.execute(PROMPTS).fetchall())
    (test_pairs,) = con.execute(
        "select count(*) from read_parquet(?) where split = 'test'", [str(out / "pairs.parquet")]
    ).fetchone() or (0,)
    return {
        "responses": counted.pop("pairs"),
        **counted,
        "test_pairs": test_pairs,
        "train_prompts_per_epoch": prompts.get(True, 0),
        "unranked_prompts": prompts.get(False, 0),
        "histogram": tokens.histogram(con),
        "histogram_by_source": tokens.histogram_by_source(con),
        "template_hash": encoder.template_hash,
    }


def _accounted(rows: int, facts: Mapping[str, Any]) -> Check:
    dropped = sum(facts["dropped"].values())
    return Check(
        "pairs_accounted_for",
        rows == facts["kept"] + dropped,
        "labelled responses of the mixture = kept + dropped by rule",
        {"responses": rows, "kept": facts["kept"], "dropped": dropped},
    )
