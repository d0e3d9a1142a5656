"""Several responses of one prompt and a label for each two of them: k-wise comparisons, as in FineGrainedRLHF.

Example row, with ``columns: {response_1: first, response_2: second, response_3: third, labels: better}`` and
``winner: {a: [1], b: [2], tie: [0]}``::

    {"prompt": "Name a river.", "first": "The Danube.", "second": "No.", "third": "The Rhine.", "better": [1, 0, 2]}

The labels are those of the pairs (1, 2), (1, 3), (2, 3), as ``itertools.combinations`` orders them: ``a`` is the first
of two, ``b`` the second; null means that nobody compared the two. The responses may stand in one list as well, with
``columns: {responses: answers}``. Labels may contradict each other in a circle, so they are kept as they are: a
response in slot i has the rating ``preference_j`` against slot j (1 better, 0 worse, both 0 for a tie). A pair set of
such a source has ``candidates: labelled`` and ``score: [preference]``.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import EXTRA, Fields, answered, text
from rm_workflow.preferences.adapters.labelled_pair import winner_of
from rm_workflow.preferences.tables import PREFERENCE, Example, Response, RowDropped

RESPONSE = "response_"
COLUMNS: Mapping[str, str | None] = {
    "prompt": "prompt",
    "prompt_input": None,
    "system": None,
    "responses": "responses",
    "labels": "labels",
}
PREFIXES = (EXTRA, RESPONSE)
READS_WINNER = True

# Which side of a label's two responses has which preference.
PREFERENCES = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.0, 0.0)}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and its responses as slots "0", "1", ..."""
    fields = Fields(row, source, COLUMNS)
    responses = _responses(fields)
    ratings = _ratings(fields, len(responses))
    extra = fields.extra()
    return answered(
        fields.prompt(),
        [Response(str(slot), response, ratings=ratings[slot], extra=extra) for slot, response in enumerate(responses)],
    )


def _responses(fields: Fields) -> list[str]:
    named = fields.named(RESPONSE)
    values = list(named.values()) if named else fields.required("responses")
    if not isinstance(values, list) or len(values) < 2:
        raise RowDropped("bad_field", "a list of two or more responses is expected", "responses")
    return [text(value, f"response {index}") for index, value in enumerate(values)]


def _ratings(fields: Fields, num_responses: int) -> list[dict[str, float]]:
    labels = fields.required("labels")
    pairs = list(combinations(range(num_responses), 2))
    if not isinstance(labels, list) or len(labels) != len(pairs):
        raise RowDropped(
            "bad_field", f"a list of {len(pairs)} labels is expected, one for each two responses", "labels"
        )
    ratings: list[dict[str, float]] = [{} for _ in range(num_responses)]
    for (first, second), label in zip(pairs, labels, strict=True):
        if label is not None:
            sides = PREFERENCES[winner_of(label, fields.source)]
            ratings[first][f"{PREFERENCE}_{second}"], ratings[second][f"{PREFERENCE}_{first}"] = sides
    return ratings
