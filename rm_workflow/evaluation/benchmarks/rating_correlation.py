"""Rating correlation: do the rewards of a prompt's replies follow the ratings that people gave them?

One row, one rated reply, as in HelpSteer (arXiv 2311.09528) and HelpSteer2 (arXiv 2406.08673); the replies to one
prompt have the same ``prompt``::

    {"prompt": "Name a river.", "response": "The Danube.", "helpfulness": 4, "correctness": 4, "coherence": 4,
     "complexity": 1, "verbosity": 1}

One scored row, ``ratings`` (any names) optional::

    {"id": "a1", "group": "prompt 7", "score": 1.5, "rating": 4.0, "ratings": {"helpfulness": 4, "verbosity": 1}}

``rating`` of a HelpSteer row is the mean of helpfulness and correctness, by which RM-Mistral-7B ranks its replies.

Rule: for each prompt Spearman's rank correlation of score and rating, **ties sharing their mean rank**; the score is
the plain mean over prompts, from -1 to 1. A prompt whose ratings are all equal (or that has one reply) has no
correlation and is left out; one whose **scores are all equal counts 0**. ``spearman`` is the correlation over all
replies at once, in which prompts with better replies count too; its ``ties`` are replies whose score another reply has
as well.

Intervals: Wilson over prompts, on the scale from 0 to 1; for ``spearman`` the same with the variance of a
bootstrap that draws whole prompts and ranks anew.
"""

import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation import items, statistics
from rm_workflow.evaluation.composite import score_alone
from rm_workflow.evaluation.figures import OVERALL, Parts, part
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.keys import content_id
from rm_workflow.preferences.adapters._fields import prompt_messages

Scores = dict[str, Any]

RATED_BY = ("helpfulness", "correctness")
ATTRIBUTES = (*RATED_BY, "coherence", "complexity", "verbosity")
NO_SCORE = {"score": None, "n": 0, "ci_low": None, "ci_high": None, "ties": 0}
NUMBERS_AT_ONCE = 1 << 21  # 16 MB of weights


def read_item(row: Row) -> Item:
    """Read a row of the native schema; attributes that it does not have are left out."""
    prompt, response = items.text(row, "prompt"), items.text(row, "response")
    ratings = {name: items.score(row, name) for name in ATTRIBUTES if row.get(name) is not None or name in RATED_BY}
    return Item(
        subset="all",
        messages=[{"role": turn["role"], "content": turn["content"]} for turn in prompt_messages(prompt, "extra_id")],
        responses=[response],
        num_correct=0,
        meta={
            "id": content_id([prompt, response]),
            "group": content_id(prompt),
            "rating": sum(ratings[name] for name in RATED_BY) / len(RATED_BY),
            "ratings": ratings,
        },
    )


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    return {**{name: item.meta[name] for name in ("id", "group", "rating", "ratings")}, "score": item.scores[0]}


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute the rank correlation of scores and ratings.

    Args:
        rows: ``{"id", "group", "score", "rating"}``.

    Returns:
        a score object (n and ties count prompts; null where no prompt has two replies with different ratings) with
        ``spearman`` (a score object over all replies), ``subsets`` (by attribute of ``ratings``), ``prompts_left_out``,
        ``warnings``.

    Raises:
        RowError: a score or rating that is no finite number, a row given twice.
        UserError: all ratings are equal.
    """
    listed = list(rows)
    scored = items.parse_rows(listed, _parse)
    warnings: list[str] = [*items.check_repeats(listed, (), "group")]
    if len({item.rating for item in scored}) == 1:
        raise UserError("all ratings are equal, so that nothing can be correlated with them; give rated replies")
    names = sorted({name for item in scored for name in item.ratings})
    within = _within_prompts(scored, [item.rating for item in scored])
    if within is None:
        warnings.append("no prompt (group) has two replies with different ratings, so there is no score; see spearman")
    return {
        **(within or NO_SCORE),
        "spearman": _over_all(scored),
        "subsets": {name: _of_attribute(scored, name) for name in names},
        "prompts_left_out": len({item.group for item in scored}) - (within["n"] if within else 0),
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores | None:
    """Return the one score of a run: the mean correlation within prompts, or None where no prompt has one."""
    return None if result["score"] is None else score_alone(result)


def parts(rows: Iterable[Row]) -> Parts:
    """Return the correlations within prompts as one part; which prompts count depends on their ratings alone."""
    scored = items.parse_rows(rows, _parse)
    compared = _compared_prompts(scored, [item.rating for item in scored])
    if not compared:
        return Parts({}, (), None)
    correlations = part(OVERALL, [_spearman(np.array(found)) for found in compared])
    return Parts({OVERALL: replace(correlations, signed=True)}, (), {OVERALL: 1})


@dataclass(frozen=True)
class _Scored:
    group: Hashable
    score: float
    rating: float
    ratings: dict[str, float]


def _parse(row: Row) -> _Scored:
    items.item_id(row)
    _, group = items.source_and_group(row)
    if group is None:
        items.value(row, "group")
        raise FieldError("field group is None; it must be text or a number that the replies to one prompt share")
    ratings = row.get("ratings") or {}
    if not isinstance(ratings, dict):
        raise FieldError("field ratings must be an object, a number for each name")
    numbers = {name: items.finite(number, f"ratings.{name}") for name, number in ratings.items()}
    return _Scored(group, items.score(row, "score"), items.score(row, "rating"), numbers)


def _of_attribute(scored: Sequence[_Scored], name: str) -> Scores | None:
    rated = [item for item in scored if name in item.ratings]
    return _within_prompts(rated, [item.ratings[name] for item in rated])


def _within_prompts(scored: Sequence[_Scored], ratings: Sequence[float]) -> Scores | None:
    # In an order of their own, so that sums do not depend on that of the file.
    compared = sorted(sorted(found) for found in _compared_prompts(scored, ratings))
    if not compared:
        return None
    correlations = np.array([_spearman(np.array(found)) for found in compared])
    ties = sum(len({score for score, _ in found}) == 1 for found in compared)
    on_unit_scale = statistics.accuracy_with_interval((1 + correlations) / 2, ties=ties)
    bounds = (2 * on_unit_scale["ci_low"] - 1, 2 * on_unit_scale["ci_high"] - 1)
    return statistics.score_object(float(correlations.mean()), len(correlations), bounds, ties)


def _compared_prompts(scored: Sequence[_Scored], ratings: Sequence[float]) -> list[list[tuple[float, float]]]:
    """Return (score, rating) of the replies to each prompt whose ratings are not all equal."""
    by_prompt: dict[Hashable, list[tuple[float, float]]] = {}
    for item, rating in zip(scored, ratings, strict=True):
        by_prompt.setdefault(item.group, []).append((item.score, rating))
    return [found for found in by_prompt.values() if len({rating for _, rating in found}) > 1]


def _spearman(pairs: statistics.Floats) -> float:
    """Return Spearman's correlation of two columns, 0 where the first is constant; the second is not."""
    return 0.0 if np.ptp(pairs[:, 0]) == 0 else float(_weighted_spearman(pairs, np.ones((1, len(pairs))))[0])


def _over_all(scored: Sequence[_Scored]) -> Scores:
    # In an order of their own, so that the draws do not depend on that of the file.
    ordered = sorted(scored, key=lambda item: (str(item.group), item.score, item.rating))
    pairs = np.array([[item.score, item.rating] for item in ordered])
    _, group_of = np.unique([str(item.group) for item in ordered], return_inverse=True)
    value = _spearman(pairs)
    groups = int(group_of.max()) + 1
    variance = statistics.variance_of(_correlation_draws(pairs, group_of), groups)
    interval = statistics.signed_interval(value, variance, groups)
    _, replies = np.unique(pairs[:, 0], return_counts=True)
    return statistics.score_object(value, len(ordered), interval, int(replies[replies > 1].sum()))


def _correlation_draws(pairs: statistics.Floats, group_of: Any) -> statistics.Floats:
    """Return Spearman's correlation of resamples made of whole groups, shape [resamples]; NaN where one is constant."""
    num_groups = int(group_of.max()) + 1
    generator = np.random.default_rng(zlib.crc32(b"rating_correlation"))
    at_once = max(1, NUMBERS_AT_ONCE // len(pairs))
    parts = []
    for start in range(0, statistics.RESAMPLES, at_once):
        draws = min(at_once, statistics.RESAMPLES - start)
        chosen = generator.integers(0, num_groups, (draws, num_groups))
        places = chosen + num_groups * np.arange(draws)[:, None]
        times = np.bincount(places.ravel(), minlength=draws * num_groups).reshape(draws, num_groups)
        parts.append(_weighted_spearman(pairs, times[:, group_of].astype(np.float64)))
    return np.concatenate(parts)


def _weighted_spearman(pairs: statistics.Floats, times: statistics.Floats) -> statistics.Floats:
    """Return Spearman's correlation of rows that stand so many times in a sample, shape [draws, rows] -> [draws]."""
    ranks = [_mean_ranks(column, times) for column in pairs.T]
    total = times.sum(axis=1, keepdims=True)
    centred = [found - (times * found).sum(axis=1, keepdims=True) / total for found in ranks]
    covariance = (times * centred[0] * centred[1]).sum(axis=1)
    variances = [(times * found**2).sum(axis=1) for found in centred]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: statistics.Floats = covariance / np.sqrt(variances[0] * variances[1])
    return correlation


def _mean_ranks(values: statistics.Floats, times: statistics.Floats) -> statistics.Floats:
    """Return the rank of each row where every row stands so many times; equal values share their mean rank."""
    _, first, value_of = np.unique(np.sort(values), return_index=True, return_inverse=True)
    order = np.argsort(values, kind="stable")
    mass = np.add.reduceat(times[:, order], first, axis=1)
    rank_of_value = np.cumsum(mass, axis=1) - mass + (mass + 1) / 2
    ranks = np.empty_like(times)
    ranks[:, order] = rank_of_value[:, value_of]
    return ranks
