"""PPE, correctness: does a reward tell right replies from wrong ones of the same model? (arXiv 2410.14872, lmarena/PPE)

One row of ``lmarena-ai/PPE-{MMLU-Pro,MATH,GPQA,IFEval,MBPP-Plus}-Best-of-K``, K = 32 replies of one model to one
prompt, more fields allowed::

    {"question_id": "q7", "model_name": "gpt-4o-mini", "prompt": "What is 7 x 8?", "response_1": "56",
     "response_2": "54", ..., "scores": [true, false, ...], "sampled_conflict_pairs": [[0, 1], ...]}

One scored row, ``source`` (the model that replied) optional::

    {"id": "q7 gpt-4o-mini", "group": "q7", "correct": [true, false], "scores": [1.5, -0.2], "pairs": [[0, 1]]}

Rules:

- ``accuracy``, the headline: of the pairs that the file samples, each of a right and a wrong reply, the share whose
  right reply scores higher. **A tie is a loss**.
- ``best_of_k``: expected share of right replies when the one with the highest of k scores is taken, exact over all
  subsets of k replies, **tied scores sharing what they give**; at k = 1, 2, 4, ... K with ``best_possible`` beside it.
  ``end_score`` is that at K, ``max_score`` the largest at any k, ``max_at`` its k: below K, more replies mislead.
- ``roc_auc``: over all replies of a model at once, the chance that a right one scores above a wrong one, a tie counting
  half; the plain mean over the models, null where a model has replies of one kind only.

Published figures of PPE are means over its five sets, which are benchmarks of their own here.

Intervals: Wilson, clustered by question; of ``best_of_k`` Wilson's bounds on the variance of a bootstrap over
questions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_workflow.evaluation import best_of_n, items, judged_pairs
from rm_workflow.evaluation.benchmarks.best_of_n import is_right
from rm_workflow.evaluation.best_of_n import Resamples
from rm_workflow.evaluation.composite import score_alone
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.items import FieldError, Item, Row, RowError, ScoredItem, shown
from rm_workflow.evaluation.judged_pairs import JudgedPair
from rm_workflow.evaluation.statistics import Floats

Scores = dict[str, Any]

CHOSEN_FIRST = False  # replies stand as the file has them, right ones and wrong ones
REPLY = "response_{}"


def read_item(row: Row) -> Item:
    """Read a row of the native schema."""
    correct = _labels(items.value(row, "scores"), "scores")
    responses = [items.text(row, REPLY.format(number)) for number in range(1, len(correct) + 1)]
    if REPLY.format(len(correct) + 1) in row:
        raise FieldError(f"field scores has {len(correct)} entries and there are more replies; give one a reply")
    question, model = items.item_id(row, "question_id"), items.text(row, "model_name")
    return Item(
        subset=model,
        messages=[{"role": "user", "content": items.text(row, "prompt")}],
        responses=responses,
        num_correct=sum(correct),
        meta={
            "id": f"{question} {model}",
            "group": str(question),
            "correct": correct,
            "pairs": _pairs(items.value(row, "sampled_conflict_pairs"), "sampled_conflict_pairs", correct),
        },
    )


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    kept = {name: item.meta[name] for name in ("id", "group", "correct", "pairs")}
    return {**kept, "source": item.subset, "scores": list(item.scores)}


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute accuracy on the sampled pairs, the best-of-K curve and the area under the ROC curve.

    Args:
        rows: ``{"id", "correct": [K], "scores": [K], "pairs": [[right or wrong, the other]]}``, K alike in all rows.

    Returns:
        a score object with ``accuracy`` (the same figure), ``accuracy_ties_half``, ``mean_margin``, ``subsets`` by
        source, ``best_of_k`` (k -> ``{"score", "ci_low", "ci_high", "best_possible"}``), ``end_score``, ``max_score``,
        ``max_at``, ``roc_auc``, ``warnings``.

    Raises:
        RowError: a score that is no finite number, labels or pairs that do not fit, another K, a row given twice.
    """
    listed = list(rows)
    questions = items.parse_rows(listed, _parse)
    warnings = items.check_repeats(listed, subset=None)
    _check_same_number(questions)
    pairs = _judged(questions)
    return {
        **judged_pairs.summarise(pairs),
        "subsets": judged_pairs.by_source(pairs),
        **_curve(questions),
        "roc_auc": _mean_area(questions),
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores:
    """Return the one score of a run: accuracy on the sampled pairs."""
    return score_alone(result)


def parts(rows: Iterable[Row]) -> Parts:
    """Return the accuracy on all sampled pairs and on those of each source."""
    return judged_pairs.parts_of(_judged(items.parse_rows(rows, _parse)))


@dataclass(frozen=True)
class _Question:
    """The scored replies of one model to one prompt, shape [K]."""

    group: str
    source: str | None
    correct: Floats
    scores: Floats
    pairs: list[list[int]]


def _parse(row: Row) -> _Question:
    identity = items.item_id(row)
    correct = _labels(items.value(row, "correct"), "correct")
    scores = items.scores(row, "scores", len(correct), "one a reply")
    pairs = _pairs(items.value(row, "pairs"), "pairs", correct)
    source, group = items.source_and_group(row)
    return _Question(
        str(identity if group is None else group), source, np.array(correct, dtype=np.float64), np.array(scores), pairs
    )


def _labels(found: Any, name: str) -> list[bool]:
    if not isinstance(found, list) or not found:
        raise FieldError(f"field {name} is {shown(found)}; it must be a list with true or false for each reply")
    return [is_right(label, f"{name}[{place}]") for place, label in enumerate(found)]


def _pairs(found: Any, name: str, correct: Sequence[bool]) -> list[list[int]]:
    """Return pairs of places of which one is right and one is wrong, the right one first."""
    if not isinstance(found, list):
        raise FieldError(f"field {name} is {shown(found)}; it must be a list of pairs of places")
    return [_pair(entry, f"{name}[{number}]", correct) for number, entry in enumerate(found)]


def _pair(entry: Any, name: str, correct: Sequence[bool]) -> list[int]:
    is_pair = isinstance(entry, list) and len(entry) == 2 and all(type(place) is int for place in entry)
    if not is_pair or not all(0 <= place < len(correct) for place in entry):
        raise FieldError(f"field {name} is {shown(entry)}; it must be two places from 0 to {len(correct) - 1}")
    first, second = entry
    if correct[first] == correct[second]:
        raise FieldError(f"field {name} names two replies that are both {'right' if correct[first] else 'wrong'}")
    return [first, second] if correct[first] else [second, first]


def _check_same_number(questions: Sequence[_Question]) -> None:
    first = len(questions[0].correct)
    for index, question in enumerate(questions):
        if len(question.correct) != first:
            raise RowError(index, f"it has {len(question.correct)} replies and the first row {first}; give all alike")


def _judged(questions: Sequence[_Question]) -> list[JudgedPair]:
    """Return the sampled pairs; a question without any has replies of one kind only."""
    margins = [
        (float(question.scores[right] - question.scores[wrong]), question)
        for question in questions
        for right, wrong in question.pairs
    ]
    if not margins:
        raise RowError(0, "neither it nor any other row has a pair of a right and a wrong reply; give sampled pairs")
    return [JudgedPair(margin, margin > 0, question.source, question.group) for margin, question in margins]


def _curve(questions: Sequence[_Question]) -> Scores:
    scores = np.stack([question.scores for question in questions])
    correct = np.stack([question.correct for question in questions])
    every_size = list(range(1, scores.shape[1] + 1))
    picked = best_of_n.expected_best(scores, correct, every_size)
    possible = best_of_n.pass_at(correct, every_size).mean(axis=0)
    resamples = Resamples([question.group for question in questions])
    means = picked.mean(axis=0)
    shown_sizes = best_of_n.subset_sizes(len(every_size))
    return {
        "best_of_k": {
            str(size): _point(picked[:, size - 1], float(possible[size - 1]), resamples) for size in shown_sizes
        },
        "end_score": float(means[-1]),
        "max_score": float(means.max()),
        "max_at": int(means.argmax()) + 1,
    }


def _point(values: Floats, possible: float, resamples: Resamples) -> Scores:
    low, high = resamples.interval(values)
    return {"score": float(values.mean()), "ci_low": low, "ci_high": high, "best_possible": possible}


def _mean_area(questions: Sequence[_Question]) -> float | None:
    areas = [_area([q for q in questions if q.source == source]) for source in {q.source for q in questions}]
    known = [area for area in areas if area is not None]
    return sum(sorted(known)) / len(known) if known and len(known) == len(areas) else None


def _area(questions: Sequence[_Question]) -> float | None:
    """Return the chance that a right reply scores above a wrong one, by ranks that ties share (Mann and Whitney)."""
    from scipy.stats import rankdata

    scores = np.concatenate([question.scores for question in questions])
    right = np.concatenate([question.correct for question in questions]) == 1
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if not num_right or not num_wrong:
        return None
    above = float(rankdata(scores)[right].sum()) - num_right * (num_right + 1) / 2
    return above / (num_right * num_wrong)
