"""Mixture of responses or trajectories -> tokens of labelled solutions, with the place of each label.

``responses.parquet`` has the token ids of every solution (``models/solutions.py`` says how it is read) and the
``places`` of the labels that its steps have or could have, and ``labelled.parquet`` beside what a mixture says of it::

    label_positions [61, 83]  label_values [1.0, 0.0]

the index in ``input_ids`` of each label's token and the probability that it is right. Steps without a label have none.
Train solutions are tokenised with their own verdicts, test solutions as they are scored, with ``+`` everywhere.
``pairs.parquet`` has the pairs of solutions that are both kept.

Nothing is cut through a label: under ``truncate_prompt_left`` an over-long solution of an outcome model loses the
beginning of its problem, one of a process model its last steps with their labels, which is counted.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rm_workflow.artifacts import Built, Check
from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.database import connect, quote_literal, write_parquet
from rm_workflow.errors import UserError
from rm_workflow.map_batches import MapBatches
from rm_workflow.models.solutions import Marked, Solution, SolutionEncoder
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import tokens

OUTCOME = "outcome"
RULES = ("too_long", "collapsed", "special_token", "no_label")
REASONS = {**tokens.REASONS, "collapsed": "another solution of its problem has the same token ids"}
REASONS["no_label"] = "no step that is left has a label"
# Of each label's own column; a mixture of responses has one outcome for the whole solution.
LABELS_OF = {
    "responses": f"null::integer[] as step_ends, [values['{OUTCOME}']]::double[] as labels",
    "trajectories": "step_ends::integer[] as step_ends, values::double[] as labels",
}

TEXTS = """
-- every labelled solution with its problem, in the order of the mixture
with distinct_prompts as (
    select prompt_id, any_value(messages) as messages from raw_prompts group by prompt_id
),
distinct_responses as (
    select response_id, any_value(text) as text from raw_responses group by response_id
)
select label_id, response_id, prompt_id, source, split, {labels}, messages, text
from labelled
join distinct_responses using (response_id)
join distinct_prompts using (prompt_id)
order by prompt_id, label_id
"""

ENCODED = pa.schema(
    [
        ("label_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("places", pa.list_(pa.int32())),
        ("label_positions", pa.list_(pa.int32())),
        ("label_values", pa.list_(pa.float32())),
        ("length", pa.int32()),
        ("cut_labels", pa.int32()),
        ("fits", pa.bool_()),
        ("ids_hash", pa.string()),
        ("special", pa.string()),
    ]
)

JUDGED = """
-- too_long, collapsed, special_token, no_label, first match wins; of the solutions of a problem and source that have
-- the same token ids the first by id stays
create table judged as
with marked as (
    select *, first_value(response_id) over (partition by source, prompt_id, ids_hash order by response_id) as twin
    from labelled
    join (select * exclude (input_ids, places) from encoded) using (label_id)
)
select
    *,
    case
        when not fits then 'too_long'
        when response_id <> twin then 'collapsed'
        when special is not null then 'special_token'
        when len(label_positions) = 0 then 'no_label'
    end as rule,
    case rule
        when 'too_long' then format('{} tokens, at most {}', length, $max_length)
        when 'collapsed' then twin
        when 'special_token' then special
    end as detail
from marked
"""

KEPT_LABELS = """
-- labelled solutions that no rule drops
select
    label_id, response_id, prompt_id, label_positions, label_values, score, rank, weight, repeat, source, split,
    group_id
from judged
where rule is null
order by prompt_id, label_id
"""

KEPT_RESPONSES = """
-- the ids of every solution that is kept, and where all of its steps are judged, with or without a label
select response_id, input_ids, prompt_length, places
from encoded
join (select label_id, response_id from judged where rule is null) using (label_id)
order by response_id
"""

KEPT_PAIRS = """
-- pairs of solutions that are both kept
select
    pair_id, pair_key, prompt_id, chosen_id, rejected_id, chosen_score, rejected_score, weight, repeat, source, split,
    group_id
from mixture_pairs
where
    (source, chosen_id) in (select (source, response_id) from judged where rule is null)
    and (source, rejected_id) in (select (source, response_id) from judged where rule is null)
order by prompt_id, pair_id
"""

DROPPED = """
-- why each other solution is gone
select
    'response' as stage, source, file, row, [slot] as slots, label_id as pair_id, response_id as chosen_id,
    null::varchar as rejected_id, rule, reasons.reason, detail, left(response.text, 200) as excerpt
from judged
join reasons using (rule)
left join (select response_id, any_value(text) as text from raw_responses group by response_id) as response
    using (response_id)
order by source, file, row, rule, label_id
"""

COUNTS = """
-- solutions by verdict and split, as often as an epoch shows them, and the tokens of an epoch (no padding)
select
    coalesce(rule, 'kept') as verdict, split, count(*) as solutions, sum(repeat) as per_epoch,
    sum(repeat * num_tokens) as tokens
from judged
join (select label_id, len(input_ids) as num_tokens from encoded) using (label_id)
group by all
order by all
"""

LABELS = """
-- labels of what is kept: those an epoch trains on, how many of them are wrong, and those lost with steps that were cut
select
    coalesce(sum(repeat * len(label_values)) filter (split = 'train'), 0)::bigint,
    coalesce(sum(repeat * len(list_filter(label_values, lambda one: one < 0.5))) filter (split = 'train'), 0)::bigint,
    coalesce(sum(cut_labels), 0)::bigint,
    count(*) filter (cut_labels > 0)
from judged
where rule is null
"""


class SolutionTokeniser:
    """Labelled solutions with their problems -> rows of ``ENCODED``, batch by batch.

    Args:
        model_folder: the base model in the form of the Hugging Face hub.
        recipe: a token recipe as JSON.
        objective: ``generative_orm``, ``generative_prm`` or ``token_prm``.
    """

    schema = ENCODED
    rows = "solutions"

    def __init__(self, model_folder: str, recipe: str, objective: str) -> None:
        self.arguments = {"model_folder": model_folder, "recipe": recipe, "objective": objective}
        loaded = Encoder.load(Path(model_folder), TokenRecipe.model_validate_json(recipe))
        self.encoder = SolutionEncoder(loaded, objective)

    def __call__(self, texts: pa.RecordBatch) -> pa.Table:
        """Return a row for each solution."""
        return pa.Table.from_pylist(list(_encoded_rows(texts.to_pylist(), self.encoder)), self.schema)


def build_solution_tokens(
    mixture: Path,
    raws: Sequence[Path],
    model_folder: Path,
    recipe: TokenRecipe,
    out: Path,
    objective: str,
    kind: str,
    map_batches: MapBatches | None = None,
) -> Built:
    """Tokenise the labelled solutions of a mixture for an objective into ``out``.

    Args:
        mixture: folder with the mixture's ``labelled.parquet`` and ``pairs.parquet``.
        raws: folders of the raw artifacts that the mixture's texts come from.
        model_folder: the base model in the form of the Hugging Face hub.
        objective: ``generative_orm``, ``generative_prm`` or ``token_prm``.
        kind: of the mixture, ``responses`` or ``trajectories``; the fact that counts all solutions is called so.
        map_batches: has other processes tokenise; None does it here.

    Returns:
        facts as of tokens of pairs, in solutions; and ``test_pairs``, ``train_labels`` and ``train_labels_wrong`` (an
        epoch's), ``cut_labels`` and ``cut_solutions``.

    Raises:
        UserError: the template refuses a conversation, one solution has two sets of labels, or no train solution is
            left.
    """
    tokeniser = SolutionTokeniser(str(model_folder), recipe.model_dump_json(), objective)
    encoder = tokeniser.encoder
    with tempfile.TemporaryDirectory(dir=out) as scratch, connect(Path(scratch)) as con:
        _open_inputs(con, mixture, raws)
        texts = TEXTS.format(labels=LABELS_OF[kind])
        tokens.encode_all(con, texts, tokeniser, Path(scratch) / "encoded.parquet", map_batches)
        con.execute("create table reasons (rule varchar, reason varchar)")
        con.executemany("insert into reasons values (?, ?)", list(REASONS.items()))
        con.execute(JUDGED, {"max_length": recipe.max_length})
        write_parquet(con, KEPT_LABELS, out / "labelled.parquet")
        write_parquet(con, KEPT_PAIRS, out / "pairs.parquet")
        write_parquet(con, KEPT_RESPONSES, out / "responses.parquet")
        write_parquet(con, DROPPED, out / "dropped.parquet")
        facts = _facts(con, encoder, out, kind)
        (rows,) = con.execute("select count(*) from labelled").fetchone() or (0,)
    encoder.encoder.write_recipe(out)
    encoder.readout.write(out)
    if facts["train"] == 0:
        raise UserError(
            f"no train solution is left after tokenising: of {facts[kind]}, {tokens.told_drops(facts['dropped'])} were "
            f"dropped; raise tokens.max_length ({recipe.max_length}) or set tokens.over_length to truncate_prompt_left"
        )
    return Built(facts, (_accounted(rows, facts),))


def _open_inputs(con: duckdb.DuckDBPyConnection, mixture: Path, raws: Sequence[Path]) -> None:
    tokens.open_texts(con, raws)
    for view, name in (("labelled", "labelled"), ("mixture_pairs", "pairs")):
        con.execute(f"create view {view} as from read_parquet({quote_literal(str(mixture / f'{name}.parquet'))})")
    # Ids are stored once a response, so its history may not differ.
    twice = con.execute(
        "select response_id from labelled group by response_id having count(*) > 1 order by response_id limit 1"
    ).fetchone()
    if twice:
        raise UserError(
            f"labelled.parquet: response {twice[0]} has labels more than once; rebuild the mixture, whose rules leave "
            "one of them"
        )


def _encoded_rows(rows: Sequence[Mapping[str, Any]], encoder: SolutionEncoder) -> Iterator[dict[str, Any]]:
    solutions = [
        Solution(row["messages"], row["text"], row["step_ends"], row["labels"] if row["split"] == "train" else None)
        for row in rows
    ]
    for row, solution, marked in zip(rows, solutions, encoder.encode_many(solutions), strict=True):
        fitted = _fitted(encoder, marked)
        kept = fitted or Marked([], [], 0)
        labels = zip(kept.places, row["labels"], strict=False)
        labelled = [(place, value) for place, value in labels if value is not None]
        yield {
            "label_id": row["label_id"],
            "input_ids": kept.input_ids,
            "prompt_length": kept.num_prompt,
            "places": kept.places,
            "label_positions": [place for place, _ in labelled],
            "label_values": [value for _, value in labelled],
            "length": len(marked.input_ids),
            "cut_labels": sum(value is not None for value in row["labels"]) - len(labelled),
            "fits": fitted is not None,
            "ids_hash": tokens.ids_hash(marked.input_ids),
            "special": encoder.special_token(solution),
        }


def _fitted(encoder: SolutionEncoder, marked: Marked) -> Marked | None:
    recipe = encoder.encoder.recipe
    if recipe.over_length == "drop":
        return marked if len(marked.input_ids) <= recipe.max_length else None
    cut = encoder.cut_steps if encoder.readout.is_stepwise else encoder.cut_problem
    return cut(marked, recipe.max_length)


def _facts(con: duckdb.DuckDBPyConnection, encoder: SolutionEncoder, out: Path, kind: str) -> dict[str, Any]:
    counted = tokens.count_facts(con.execute(COUNTS).fetchall(), RULES)
    labels, wrong, cut_labels, cut_solutions = con.execute(LABELS).fetchone() or (0, 0, 0, 0)
    (test_pairs,) = con.execute(
        "select count(*) from read_parquet(?) where split = 'test'", [str(out / "pairs.parquet")]
    ).fetchone() or (0,)
    con.execute("create view lengths as select source, length from labelled join encoded using (label_id)")
    return {
        kind: counted.pop("pairs"),
        **counted,
        "test_pairs": test_pairs,
        "train_labels": labels,
        "train_labels_wrong": wrong,
        "cut_labels": cut_labels,
        "cut_solutions": cut_solutions,
        "histogram": tokens.histogram(con),
        "histogram_by_source": tokens.histogram_by_source(con, "select source, length from lengths"),
        "template_hash": encoder.encoder.template_hash,
    }


def _accounted(rows: int, facts: Mapping[str, Any]) -> Check:
    dropped = sum(facts["dropped"].values())
    return Check(
        "pairs_accounted_for",
        rows == facts["kept"] + dropped,
        "labelled solutions of the mixture = kept + dropped by rule",
        {"solutions": rows, "kept": facts["kept"], "dropped": dropped},
    )
