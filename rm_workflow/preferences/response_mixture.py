"""Labelled responses of sources -> mixture of kind ``responses``: joined, split, decontaminated, sampled by prompt.

``labelled.parquet`` has a row for each response with its label::

    label_id 81ab..  response_id 77f0..  prompt_id 09ab..  values {helpfulness: 4, correctness: 3}  score 3.5  rank 2
    weight 1  repeat 1  source helpsteer  file train.jsonl.gz  row 17  slot 0  split train  group_id 5d..  leak null

``score`` is the mean of the named ratings that are there (or the outcome, 1 or 0); ``rank`` orders the responses of one
prompt in one source by it, 1 the best, where equal scores, compared as exact fractions, share a rank.
``labelled_mixture.py`` says what the other files hold.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, ResponseUse
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.preferences import mixture as mixing
from rm_workflow.preferences.labelled_mixture import EXACT, LabelledPart, build_labelled_mixture
from rm_workflow.preferences.sql import content_id_sql, json_string, one_row, read_table

OUTCOME = "outcome"
RULES = ("empty_message", "rating", "exact_duplicate", "contradictory", "equal_score", *mixing.RULES)
ResponsePart = LabelledPart[ResponseUse]


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

# empty_message: an answer without a word, which some sources keep among many of one row
EMPTY = r"""
    select position, pair_id, 'the response is only white space' as reason, slot as detail
    from remaining
    where pair_key in (select response_id from responses where not regexp_matches(text, '[^\s\p{Z}]'))
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


def build_response_mixture(
    mixture: Mixture, parts: Sequence[ResponsePart], benchmarks: Mapping[str, Path], out: Path
) -> Built:
    """Write the files of one mixture of responses.

    Args:
        parts: in the order of ``mixture.responses``.
        benchmarks: name -> folder with prompts, responses and items, of all in ``mixture.decontaminate_against``.

    Returns:
        the facts that ``build_labelled_mixture`` tells.

    Raises:
        UserError: a source has none of the named labels, a file's split is unknown, a text file cannot be read, or
            nothing is left to train on.
    """
    for part in parts:
        _check_labels(part)
    ranked = [str(position) for position, use in enumerate(mixture.responses) if use.ranked]
    rules = {
        "empty_message": EMPTY,
        "rating": NO_LABEL,
        "exact_duplicate": EXACT_DUPLICATE,
        "contradictory": CONTRADICTORY,
        "equal_score": EQUAL_SCORE.format(positions=", ".join(ranked)) if ranked else None,
    }
    labelled = map(_part_sql, range(len(parts)), parts)
    return build_labelled_mixture(mixture, parts, labelled, rules, ["values"], benchmarks, out)


def _check_labels(part: ResponsePart) -> None:
    """Refuse a rating that no response of the source has (most likely misspelt), and a source without outcomes."""
    with connect() as con:
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
