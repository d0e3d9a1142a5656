"""Which column of a user's file is which field of an adapter, by name and kind; what is not clear is asked for.

Names are taken only where the file has no column with the adapter's own name for the field and the user named none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from rm_workflow.preferences import adapters
from rm_workflow.preferences.adapters._fields import RATING, number
from rm_workflow.preferences.adapters.labelled_list import RESPONSE
from rm_workflow.preferences.files import Row

Columns = dict[str, str]

PROMPTS = (
    "question",
    "instruction",
    "query",
    "conversations",
    "conversation",
    "context",
    "history",
    "messages",
    "input",
)
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": PROMPTS,
    "chosen": ("preferred", "preferred_output", "better", "accepted", "chosen_response", "chosen_messages"),
    "rejected": ("dispreferred", "non_preferred_output", "worse", "rejected_response", "rejected_messages"),
    "completions": ("responses", "answers", "outputs", "candidates"),
    "responses": ("answers", "outputs", "completions", "candidates"),
    "response": ("answer", "output", "completion", "reply"),
    "label": ("winner", "preference", "preferred", "vote", "choice", "labels", "verdict", "better"),
    "labels": ("preferences", "preference"),
}
# Columns that stand in two: response a and b, votes for a and b.
SIDES = {
    "response": (
        ("answer_a", "answer_b"),
        ("output_a", "output_b"),
        ("completion_a", "completion_b"),
        ("reply_a", "reply_b"),
        ("response_0", "response_1"),
        ("response_1", "response_2"),
        ("response1", "response2"),
        ("answer_0", "answer_1"),
        ("answer_1", "answer_2"),
        ("output_1", "output_2"),
    ),
    "votes": (("votes_a", "votes_b"), ("num_votes_a", "num_votes_b")),
}
TIES = ("votes_tie", "num_votes_tie", "votes_ties")
TEXTS = ("answer", "output", "completion", "content", "reply")
SCORES = ("scores", "ratings", "rewards")
# Numbers that are no ratings.
NO_RATING = re.compile(
    r"(^|_)(id|idx|index|row|seed|turns?|len(gth)?|tokens|time(stamp)?|date|year|worker|annotator|user)$"
)


class Unclear(Exception):
    """A form that the file seems to have, and what the user must say for it."""


def guess(adapter: str, rows: Sequence[Row], given: Mapping[str, str]) -> Columns:
    """Return ``columns`` of a source: those given, and guessed ones for what is missing.

    Raises:
        Unclear: several columns could be meant.
    """
    names = dict.fromkeys(column for row in rows for column in row)
    module = adapters.get(adapter)
    columns = dict(given)
    for field, default in module.COLUMNS.items():
        taken = columns.values()
        if field in columns or default is None or default in names or field not in ALIASES:
            continue
        found = next((alias for alias in ALIASES[field] if alias in names and alias not in taken), None)
        if found:
            columns[field] = found
    if columns.get("prompt") == "instruction" and "input" in names and "prompt_input" in module.COLUMNS:
        columns.setdefault("prompt_input", "input")  # Alpaca's two halves of a prompt
    return FORMS.get(adapter, _as_it_is)(rows, list(names), columns)


def _as_it_is(rows: Sequence[Row], names: Sequence[str], columns: Columns) -> Columns:
    return columns


def _pair(rows: Sequence[Row], names: Sequence[str], columns: Columns) -> Columns:
    """Add both responses, and the votes for them, if they stand under other names."""
    for field, known in SIDES.items():
        keys = [f"{field}_{side}" for side in ("a", "b")]
        own = all(key in names for key in keys) and field == "response"
        if own or columns.keys() & set(keys):
            continue
        found = next((pair for pair in known if set(pair) <= set(names)), None)
        if found:
            columns.update(zip(keys, found, strict=True))
    if "votes_a" not in columns:
        _ask_for_label(names, columns)
        return columns
    columns.pop("label", None)
    ties = next((name for name in TIES if name in names), None)
    return {**columns, **({"votes_tie": ties} if ties else {})}


def _ask_for_label(names: Sequence[str], columns: Columns) -> None:
    """Ask for the column that says which response wins, where both responses are there and none is called so."""
    sides = [columns.get(key, key) for key in ("response_a", "response_b")]
    if set(sides) <= set(names) and columns.get("label", "label").split(".")[0] not in names:
        others = [name for name in names if name not in (*columns.values(), *sides)]
        raise Unclear(
            f"the columns {' and '.join(sides)} hold two responses, and none is called a label; name the column that "
            f"says which wins with --column label=COLUMN (there are: {', '.join(others) or 'none'})"
        )


def _rated_list(rows: Sequence[Row], names: Sequence[str], columns: Columns) -> Columns:
    """Add where the ratings of a list of completions stand."""
    lists = [row.get(columns.get("completions", "completions")) for row in rows]
    completions = next((value for value in lists if isinstance(value, list) and value), [])
    if any(key in ("ratings", "rank", "scores") or key.startswith(RATING) for key in columns):
        return columns
    if completions and all(isinstance(value, str) for value in completions):
        scores = next((name for name in SCORES if name in names), None)
        return {**columns, **({"scores": scores} if scores else {})}
    fields = completions[0] if completions and isinstance(completions[0], Mapping) else {}
    if "text" not in columns and not {"text", "response"} & fields.keys():
        found = next((name for name in TEXTS if name in fields), None)
        columns.update({"text": found} if found else {})
    if "ratings" in fields:
        return columns
    if "rank" in fields:
        return {**columns, "rank": "rank"}
    return {**columns, **_one_rating([value for value in completions if isinstance(value, Mapping)], columns, "field")}


def _rated_row(rows: Sequence[Row], names: Sequence[str], columns: Columns) -> Columns:
    """Add the rating of a file with one response a row."""
    response = columns.get("response", "response")
    if response not in names or any(key.startswith(RATING) for key in columns):
        return columns
    return {**columns, **_one_rating(rows, columns, "column")}


def _one_rating(rows: Sequence[Mapping[str, Any]], columns: Columns, place: str) -> Columns:
    """Return the one column that holds numbers; of several only the user knows which rate a response."""
    names = dict.fromkeys(name for row in rows for name in row)
    numeric = [
        name
        for name in names
        if name not in columns.values() and not NO_RATING.search(name.lower()) and _all_numbers(rows, name)
    ]
    if len(numeric) > 1:
        example = " ".join(f"--column {RATING}{_plain(name)}={name}" for name in numeric[:2])
        raise Unclear(
            f"the {place}s {', '.join(numeric)} hold numbers; name those that rate a response, for instance {example}"
        )
    return {f"{RATING}{_plain(name)}": name for name in numeric}


def _all_numbers(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    stated = [value for value in values if value not in (None, "", "N/A")]
    return bool(stated) and all(number(value) is not None for value in stated)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "value"


def _labelled_list(rows: Sequence[Row], names: Sequence[str], columns: Columns) -> Columns:
    """Leave a file alone whose lists do not have one label for each two responses."""
    if any(key.startswith(RESPONSE) for key in columns):
        return columns
    lists = [(row.get(columns.get("responses", "responses")), row.get(columns.get("labels", "labels"))) for row in rows]
    fits = [
        len(labels) == len(list(combinations(responses, 2)))
        for responses, labels in lists
        if isinstance(responses, list) and isinstance(labels, list)
    ]
    return columns if fits and any(fits) else {key: name for key, name in columns.items() if key != "labels"}


FORMS: Mapping[str, Callable[[Sequence[Row], Sequence[str], Columns], Columns]] = {
    "labelled_pair": _pair,
    "labelled_list": _labelled_list,
    "scored_completions": _rated_list,
    "rated_response": _rated_row,
}
