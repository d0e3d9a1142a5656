"""ProcessBench: the first wrong step of a worked solution (arXiv 2412.06559, QwenLM/ProcessBench at e802463).

One native row; ``label`` is the first wrong step counted from **0**, -1 where all are right::

    {"id": "gsm8k-0", "generator": "Qwen2-7B-Instruct", "problem": "2 + 3?", "steps": ["2 + 3 = 6.", "So 6."],
     "final_answer_correct": false, "label": 0}

One scored row, a probability to be right for each step::

    {"id": "gsm8k-0", "subset": "gsm8k", "label": 0, "step_scores": [0.2, 0.4]}

Rule (code/run_eval.py): the model names the first step whose score is below 0.5, where ``-`` is likelier than ``+``; a
score of exactly 0.5 counts as right. ``errors``: share of solutions with a wrong step where it is named exactly;
``corrects``: share of right solutions where none is. **F1 = harmonic mean of the two**, 0 where both are; overall =
plain mean of the four configs' F1. ``tuned``: the same with the threshold that is best on gsm8k, as its authors do for
scalar models; gsm8k is then no test and left out.

``steps``: accuracy of single steps up to the first wrong one (what follows it has no label), balanced figures first.

Intervals: from a bootstrap over solutions; for the overall the stratified variance.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_workflow.catalog.names import nearest
from rm_workflow.evaluation import items, statistics
from rm_workflow.evaluation.composite import MeasuredScore, plain_mean
from rm_workflow.evaluation.figures import Part, Parts
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.evaluation.two_classes import class_table, harmonic, measured, step_accuracy
from rm_workflow.preferences.adapters._steps import joined
from rm_workflow.preferences.tables import RowDropped

Scores = dict[str, Any]

CHOSEN_FIRST = False
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
TUNED_ON = "gsm8k"
THRESHOLD = 0.5
ALL_RIGHT = -1


def read_item(row: Row) -> Item:
    """Read a solution; ``split`` is the config that its file stands under."""
    subset = items.one_of(row, "split", SUBSETS, nearest)
    steps = items.texts(row, "steps")
    label = _label(row, len(steps))
    try:
        text, step_ends = joined(steps, "\n", "steps")
    except RowDropped as error:
        raise FieldError(f"field steps: {error.reason}; mend or fetch the file again") from None
    meta = {"id": items.item_id(row), "label": label, "generator": row.get("generator")}
    messages = [{"role": "user", "content": items.text(row, "problem")}]
    return Item(subset, messages, [text], int(label == ALL_RIGHT), meta, step_ends=[step_ends])


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    row = {"id": item.meta["id"], "subset": item.subset, "label": item.meta["label"]}
    return {**row, "step_scores": item.step_scores[0]} if item.step_scores else {**row, "score": item.scores[0]}


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute F1 of the first wrong step by config and over all.

    Returns:
        ``subsets`` (config -> score object of F1, null where a class is missing), ``errors`` and ``corrects`` (the two
        shares), ``overall`` and ``overall_interval`` (null unless all four are there), ``tuned`` (null without gsm8k),
        ``steps`` (see ``step_accuracy``), ``missing_subsets``, ``warnings``.

    Raises:
        RowError: an unknown config, a label beyond the steps, a score that is no probability, a row given twice.
    """
    listed = list(rows)
    scored = items.parse_rows(listed, _parse)
    warnings = items.check_repeats(listed)
    found = {subset: [item for item in scored if item.subset == subset] for subset in SUBSETS}
    present = {subset: of_subset for subset, of_subset in found.items() if of_subset}
    measured_ = {subset: _f1(of_subset, THRESHOLD) for subset, of_subset in present.items()}
    all_there = [score for score in measured_.values() if score]
    overall = plain_mean(all_there) if len(all_there) == len(SUBSETS) else None
    return {
        "overall": overall and overall["score"],
        "overall_interval": overall,
        "subsets": {subset: _score(measured_.get(subset)) for subset in SUBSETS},
        "errors": {subset: _share(of_subset, wrong=True) for subset, of_subset in present.items()},
        "corrects": {subset: _share(of_subset, wrong=False) for subset, of_subset in present.items()},
        "tuned": _tuned(present),
        "steps": _steps(scored),
        "missing_subsets": [subset for subset in SUBSETS if not measured_.get(subset)],
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores | None:
    """Return the one score of a run: the plain mean of the four configs' F1."""
    found: Scores | None = result["overall_interval"]
    return found


def tables(result: Scores) -> Iterator[tuple[str, list[Scores]]]:
    """Yield (title, rows) of what a person sees."""
    scores = {"overall": result["overall_interval"], **result["subsets"]}
    yield "F1 of the first wrong step, with 95 % intervals", _rows(scores)
    steps = {name.replace("_", " "): score for name, score in result["steps"].items() if isinstance(score, dict)}
    yield "single steps up to the first wrong one", _rows(steps)
    shares = {f"{subset}: the wrong step is named": score for subset, score in result["errors"].items()}
    shares |= {f"{subset}: no step of a right solution is": score for subset, score in result["corrects"].items()}
    yield "the two shares behind F1", _rows(shares)


def _rows(scores: Mapping[str, Scores | None]) -> list[Scores]:
    columns = ("score", "n", "ci_low", "ci_high", "ties")
    return [{"": name, **{column: (score or {}).get(column) for column in columns}} for name, score in scores.items()]


def parts(rows: Iterable[Row]) -> Parts:
    """Return F1 of each config, and their plain mean."""
    scored = items.parse_rows(rows, _parse)
    found = {}
    for subset in SUBSETS:
        of_subset = [item for item in scored if item.subset == subset]
        if of_subset and _f1(of_subset, THRESHOLD):
            found[subset] = Part(subset, _table(of_subset, THRESHOLD), len(of_subset), harmonic)
    overall = dict.fromkeys(SUBSETS, 1.0) if len(found) == len(SUBSETS) else None
    return Parts(found, tuple(found), overall)


@dataclass(frozen=True)
class _Scored:
    key: str
    subset: str
    label: int
    step_scores: tuple[float, ...]

    def named(self, threshold: float) -> int:
        """Return the step that the model takes for the first wrong one, -1 for none."""
        return next((place for place, score in enumerate(self.step_scores) if score < threshold), ALL_RIGHT)


def _parse(row: Row) -> _Scored:
    subset = items.one_of(row, "subset", SUBSETS, nearest)
    if "step_scores" not in row and "score" in row:
        raise FieldError("field step_scores is missing; ProcessBench needs a model that scores each step")
    scores = items.scores(row, "step_scores")
    wrong = next((score for score in scores if not 0 <= score <= 1), None)
    if wrong is not None:
        raise FieldError(f"field step_scores holds {wrong:g}; the score of a step is a probability, from 0 to 1")
    key = f"{subset}/{items.item_id(row)}"
    return _Scored(key, subset, _label(row, len(scores)), tuple(scores))


def _label(row: Row, num_steps: int) -> int:
    label = items.value(row, "label")
    if isinstance(label, bool) or not isinstance(label, int | float) or label != int(label):
        raise FieldError(f"field label is {label!r}; it must be the number of the first wrong step from 0, or -1")
    if not ALL_RIGHT <= label < num_steps:
        raise FieldError(
            f"field label is {label:g}, and there are {num_steps} steps, counted from 0; -1 means none is wrong"
        )
    return int(label)


def _table(scored: Sequence[_Scored], threshold: float) -> statistics.Floats:
    hits = np.array([item.named(threshold) == item.label for item in scored])
    with_error = np.array([item.label != ALL_RIGHT for item in scored])
    return class_table(hits, with_error, [item.key for item in scored])


def _f1(scored: Sequence[_Scored], threshold: float) -> MeasuredScore | None:
    ties = sum(threshold in item.step_scores for item in scored)
    return measured(_table(scored, threshold), harmonic, ties)


def _score(found: MeasuredScore | None) -> Scores | None:
    return found.score if found else None


def _share(scored: Sequence[_Scored], wrong: bool) -> Scores | None:
    chosen = [item for item in scored if (item.label != ALL_RIGHT) == wrong]
    if not chosen:
        return None
    return statistics.accuracy_with_interval([item.named(THRESHOLD) == item.label for item in chosen])


def _tuned(present: Mapping[str, Sequence[_Scored]]) -> Scores | None:
    """Return F1 of the other configs with the threshold that is best on gsm8k, the lowest of equally good ones."""
    tuning = present.get(TUNED_ON)
    if not tuning or not _f1(tuning, THRESHOLD):
        return None
    candidates = sorted({score for item in tuning for score in item.step_scores})
    thresholds = [*np.unique(np.quantile(candidates, np.linspace(0, 1, 101), method="lower")).tolist(), THRESHOLD]
    sums = np.stack([_table(tuning, threshold).sum(axis=0) for threshold in sorted(thresholds)])
    best = sorted(thresholds)[int(np.argmax(harmonic(sums)))]
    others = {subset: _score(_f1(found, best)) for subset, found in present.items() if subset != TUNED_ON}
    return {"threshold": best, "subsets": others}


def _steps(scored: Sequence[_Scored]) -> Scores:
    labels, scores, groups = [], [], []
    for item in scored:
        last = len(item.step_scores) if item.label == ALL_RIGHT else item.label + 1
        for place in range(last):
            labels.append(place != item.label)
            scores.append(item.step_scores[place])
            groups.append(item.key)
    return step_accuracy(labels, scores, groups)
