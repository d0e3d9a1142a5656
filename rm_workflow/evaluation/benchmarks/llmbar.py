"""LLMBar: which of two replies follows the instruction? (arXiv 2310.07641, princeton-nlp/LLMBar)

One row as its authors publish it, one file a set, or as it stands among the pairs of RewardBench (all 419 are there)::

    {"input": "Name a river.", "output_1": "The Danube.", "output_2": "Rivers are long.", "label": 1}
    {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "Rivers are long.", "subset": "llmbar-natural",
     "id": 3}

One scored row::

    {"id": 3, "subset": "natural", "score_chosen": 1.5, "score_rejected": -0.2}

Rule: an item counts 1 if score_chosen > score_rejected, else 0. **A tie is a loss.** adversarial = plain mean of the
sets neighbor, gptinst, gptout and manual, as in the paper; overall = plain mean of all five, ours.

Intervals: Wilson for a set; for adversarial and overall Wilson on the stratified variance of their sets.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from rm_workflow.catalog.names import nearest
from rm_workflow.evaluation import items, statistics
from rm_workflow.evaluation.composite import measured_mean, plain_mean
from rm_workflow.evaluation.figures import Parts, part
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem, shown
from rm_workflow.keys import content_id

Scores = dict[str, Any]

NATURAL = "natural"
ADVERSARIAL = ("neighbor", "gptinst", "gptout", "manual")
SUBSETS = (NATURAL, *ADVERSARIAL)
# What other names of a set begin with: llmbar-adver-GPTInst, Adversarial/Neighbor, ...
PREFIX = re.compile(r"(llmbar[-_/])?(adver(sarial)?[-_/])?")
OF_REWARDBENCH = "llmbar-"


def is_mine(row: Row) -> bool:
    """Return whether a row belongs to the benchmark: RewardBench's file holds other pairs too."""
    return "input" in row or str(row.get("subset", OF_REWARDBENCH)).startswith(OF_REWARDBENCH)


def read_item(row: Row) -> Item:
    """Read a row of either schema; where it names no subset, the split that its file stands under is the set."""
    if "input" in row:
        return _authors_item(row)
    prompt, chosen, rejected = (items.text(row, name) for name in ("prompt", "chosen", "rejected"))
    return _item(_subset(row, "subset"), items.item_id(row), prompt, [chosen, rejected])


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    chosen, rejected = item.scores
    return {"id": item.meta["id"], "subset": item.subset, "score_chosen": chosen, "score_rejected": rejected}


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute strict accuracy of the five sets.

    Args:
        rows: ``{"id", "subset", "score_chosen", "score_rejected"}``.

    Returns:
        ``subsets`` (score objects, null where absent), ``sections`` (``adversarial``, of the sets that are there),
        ``overall`` (null unless all five are there) and ``overall_interval``, ``missing_subsets``, ``warnings``.

    Raises:
        RowError: an unknown set, a score that is no finite number, a row given twice.
    """
    listed = list(rows)
    margins = _margins_by_set(listed)
    warnings = items.check_repeats(listed)
    measured = {
        name: measured_mean((found > 0).astype(np.float64), ties=int(np.sum(found == 0)))
        for name, found in margins.items()
    }
    missing = [name for name in SUBSETS if name not in measured]
    adversarial = [measured[name] for name in ADVERSARIAL if name in measured]
    overall = None if missing else plain_mean(list(measured.values()))
    return {
        "subsets": {name: measured[name].score if name in measured else None for name in SUBSETS},
        "sections": {"adversarial": plain_mean(adversarial) if adversarial else None},
        "overall": overall and overall["score"],
        "overall_interval": overall,
        "missing_subsets": missing,
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores | None:
    """Return the one score of a run: the plain mean of the five sets, or None where one is missing."""
    found: Scores | None = result["overall_interval"]
    return found


def parts(rows: Iterable[Row]) -> Parts:
    """Return the five sets, the mean of the four adversarial ones and the mean of all."""
    found = {name: part(name, (margins > 0).astype(np.float64)) for name, margins in _margins_by_set(rows).items()}
    adversarial = {name: 1.0 for name in ADVERSARIAL if name in found}
    overall = dict.fromkeys(SUBSETS, 1.0) if len(found) == len(SUBSETS) else None
    return Parts(found, tuple(found), overall, {"adversarial": adversarial} if adversarial else {})


def _margins_by_set(rows: Iterable[Row]) -> dict[str, statistics.Floats]:
    margins: dict[str, list[float]] = {}
    for subset, margin in items.parse_rows(rows, _parse):
        margins.setdefault(subset, []).append(margin)
    return {name: np.array(margins[name]) for name in SUBSETS if name in margins}


def _authors_item(row: Row) -> Item:
    prompt, first, second = (items.text(row, name) for name in ("input", "output_1", "output_2"))
    label = items.count(row, "label")
    if label not in (1, 2):
        raise FieldError(f"field label is {label}; it must be 1 or 2, the number of the better output")
    subset = _subset(row, "subset" if "subset" in row else "split")
    return _item(
        subset, content_id([prompt, first, second]), prompt, [first, second] if label == 1 else [second, first]
    )


def _item(subset: str, identity: Any, prompt: str, responses: list[str]) -> Item:
    return Item(subset, [{"role": "user", "content": prompt}], responses, num_correct=1, meta={"id": identity})


def _subset(row: Row, field: str) -> str:
    found = items.text(row, field)
    name = PREFIX.sub("", found.lower(), count=1)
    if name not in SUBSETS:
        raise FieldError(f"field {field} is {shown(found)}, which is none of the benchmark's; {nearest(name, SUBSETS)}")
    return name


def _parse(row: Row) -> tuple[str, float]:
    items.item_id(row)
    return _subset(row, "subset"), items.score(row, "score_chosen") - items.score(row, "score_rejected")
