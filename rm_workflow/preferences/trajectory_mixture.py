"""Solutions with step labels -> mixture of kind ``trajectories``: joined, split, decontaminated, sampled by prompt.

``labelled.parquet`` has a row for each solution::

    label_id 81ab..  response_id 77f0..  prompt_id 09ab..  step_ends [18, 41, 60]  values [1, null, 0]  score 0  rank 2
    weight 1  repeat 1  source prm800k  file phase1_train.jsonl  row 9  slot path  split train  group_id 5d..  leak null

``values`` has one number for each of ``step_ends`` (places in the response's text, see ``tables.py``): 1 for a right
step, 0 for a wrong one, what lies between for a soft label, null for a step without label. ``score`` is the least of
them: 1 says that no labelled step is wrong. ``rank`` orders the solutions of one prompt in one source by it, 1 the
best. A solution that a source shows several times stands once, with the labels of all its showings.
``labelled_mixture.py`` says what the other files hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, TrajectoryUse
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.preferences import mixture as mixing
from rm_workflow.preferences.labelled_mixture import EXACT, LabelledPart, build_labelled_mixture
from rm_workflow.preferences.sql import content_id_sql, dict_rows, json_string, read_table

RULES = ("no_step", "no_label", "exact_duplicate", "contradictory", *mixing.RULES)
TrajectoryPart = LabelledPart[TrajectoryUse]

# What ``labels`` of a part asks for -> the kinds of labels that give it, the first that the source has.
KINDS = {"hard": ("hard", "rating", "soft"), "soft": ("soft",)}
NEUTRAL = {"drop_step": "null", "positive": "1", "negative": "0", None: "null"}
# (asked for, kind of label) -> its value as SQL.
VALUES = {
    ("hard", "hard"): "value",
    ("hard", "rating"): "case when value > 0 then 1 when value < 0 then 0 else {neutral} end",
    ("hard", "soft"): "if(value > 0, 1, 0)",
    ("soft", "soft"): "value",
}

LABELLED = """
    -- one row for each showing of a solution, with the labels that all its showings in this source give to its steps;
    -- told names the first step that has two of them
    with given as (
        select response_id, step, ({value})::double as value
        from {labels}
        where kind = '{kind}' and step is not null
    ),
    of_step as (
        select response_id, step, min(value) as least, max(value) as most
        from given
        where value is not null
        group by all
    ),
    of_response as (
        select
            response_id, map_from_entries(list((step, least) order by step)) as labels,
            arg_min(format('values[{{}}]: {{:g}} and {{:g}}', step, least, most), step) filter (least < most) as told
        from of_step
        group by response_id
    ),
    valued as (
        select
            response_id, step_ends, told,
            list_transform(range(len(step_ends)), lambda step: labels[step::integer])::double[] as values
        from {responses} left join of_response using (response_id)
    )
    select
        {position} as position, {name} as pair_set,
        {label_id} as pair_id, response_id as pair_key, prompt_id, response_id as chosen_id, response_id as rejected_id,
        1.0::double as weight, source, file, row, slot, group_id,
        step_ends, values, list_min(values) as score, list_min(values)::{exact} as standing, told
    from (
        select *, row_number() over (partition by response_id order by file, row, slot) - 1 as n
        from {shown}
    )
    join valued using (response_id)
    join {prompts} using (prompt_id)
"""

# no_step: the source found no step in the solution
NO_STEP = """
    select position, pair_id, 'its source found no step in it' as reason, pair_set as detail
    from remaining
    where coalesce(len(step_ends), 0) = 0
"""

# no_label: none of its steps has a label, neutral ones that are dropped among them
NO_LABEL = """
    select position, pair_id, 'none of its steps has a label' as reason, len(step_ends) || ' steps' as detail
    from remaining
    where score is null
"""

# exact_duplicate: the same solution stands further up in its source, which keeps the labels of both
EXACT_DUPLICATE = """
    select position, pair_id, 'the same solution stands earlier in this source' as reason, twin as detail
    from (
        select *, first_value(pair_id) over (partition by position, pair_key order by file, row, slot, pair_id) as twin
        from remaining
        where told is null
    )
    where pair_id <> twin
"""

# contradictory: two showings of the solution in its source label one step differently; none of them stays
CONTRADICTORY = """
    select position, pair_id, 'one of its steps has two labels in this source' as reason, told as detail
    from remaining
    where told is not null
"""

STEPS = """
    -- steps of a split by label
    select
        split, count(*) filter (value = 1) as right, count(*) filter (value = 0) as wrong,
        count(*) filter (value > 0 and value < 1) as between, count(*) filter (value is null) as unlabelled
    from (select split, unnest(values) as value from {labelled})
    group by split
    order by split
"""


def build_trajectory_mixture(
    mixture: Mixture, parts: Sequence[TrajectoryPart], benchmarks: Mapping[str, Path], out: Path
) -> Built:
    """Write the files of one mixture of trajectories.

    Args:
        parts: in the order of ``mixture.trajectories``.
        benchmarks: name -> folder with prompts, responses and items, of all in ``mixture.decontaminate_against``.

    Returns:
        the facts that ``build_labelled_mixture`` tells; and ``steps``: for each split how many are ``right``,
        ``wrong``, ``between`` (soft) and ``unlabelled``.

    Raises:
        UserError: a source has no step labels of the kind that is asked for, or neutral ratings of which the recipe
            does not say what they are; a file's split is unknown, a text file cannot be read, or nothing is left to
            train on.
    """
    labelled = [_part_sql(position, part) for position, part in enumerate(parts)]
    rules = {
        "no_step": NO_STEP,
        "no_label": NO_LABEL,
        "exact_duplicate": EXACT_DUPLICATE,
        "contradictory": CONTRADICTORY,
    }
    built = build_labelled_mixture(mixture, parts, labelled, rules, ["step_ends", "values"], benchmarks, out)
    return replace(built, facts={**built.facts, "steps": _steps(out / "labelled.parquet")})


def _part_sql(position: int, part: TrajectoryPart) -> str:
    kind = _kind(part)
    return LABELLED.format(
        position=position,
        name=quote_literal(part.source_name),
        label_id=content_id_sql(json_string("response_id"), json_string("source"), "n"),
        kind=kind,
        value=VALUES[part.use.labels, kind].format(neutral=NEUTRAL[part.use.neutral]),
        exact=EXACT,
        labels=read_table(part.raw / "labels.parquet"),
        responses=f"(select response_id, step_ends from {read_table(part.raw / 'responses.parquet')})",
        shown=read_table(part.raw / "occurrences.parquet"),
        prompts=read_table(part.raw / "prompts.parquet"),
    )


def _kind(part: TrajectoryPart) -> str:
    """Return the kind of label that gives what is asked of a source."""
    labels = read_table(part.raw / "labels.parquet")
    with connect() as con:
        query = f"select kind, count(*) filter (value = 0) from {labels} where step is not null group by kind"
        zeros = dict(con.execute(query).fetchall())
    kinds = [kind for kind in KINDS[part.use.labels] if kind in zeros]
    name = part.source_name
    if not kinds:
        mend = f"it has {', '.join(sorted(zeros))} ones" if zeros else "take it into a mixture of kind responses"
        raise UserError(f"mixture.trajectories: source '{name}' has no {part.use.labels} labels of steps; {mend}")
    if kinds[0] == "rating" and zeros["rating"] and part.use.neutral is None:
        raise UserError(
            f"mixture.trajectories: source '{name}' has {zeros['rating']} neutral ratings; say what becomes of them: "
            f"{name}: {{neutral: drop_step}} (or positive, negative)"
        )
    return kinds[0]


def _steps(labelled: Path) -> dict[str, dict[str, Any]]:
    with connect() as con:
        rows = dict_rows(con, STEPS.format(labelled=read_table(labelled)))
    return {row.pop("split"): row for row in rows}
