"""A comparison of two checkpoints draws the parts of a rule: they must be the figures that the rule itself gives."""

import numpy as np
import pytest

from rm_workflow.evaluation.benchmarks import (
    judgebench,
    llmbar,
    ppe_preference,
    rating_correlation,
    rewardmath,
    rm_bench,
    rmb,
    rule,
)
from rm_workflow.evaluation.composite import SCORE_KEYS
from rm_workflow.evaluation.figures import Parts, weighted

NUM_ROWS = 48


def row(name: str, i: int, scores: np.ndarray) -> dict:
    """Return a scored row of a rule; scores have few values, so that there are ties."""
    values = scores.tolist()
    chosen, rejected = values[0], values[1:]
    sources = (*judgebench.CATEGORIES, "mmlu-pro-law")
    return {
        "rm_bench": {"domain": rm_bench.DOMAINS[i % 4], "score_chosen": values[:3], "score_rejected": values[3:6]},
        "judgebench": {
            "pair_id": i,
            "source": sources[i % 5],
            "label": judgebench.LABELS[i % 2],
            "score_A": chosen,
            "score_B": values[1],
            "group": i // 3,
        },
        "rewardmath": {
            "source": ("Algebra", "Geometry")[i % 2],
            "score_chosen": chosen + 1,
            "score_rejected": rejected,
        },
        "llmbar": {"subset": llmbar.SUBSETS[i % 5], "score_chosen": chosen, "score_rejected": values[1]},
        "rmb": {
            "subset": ("Helpfulness/Chat/Discussion", "Harmlessness/S1")[i % 2],
            "score_chosen": chosen,
            "score_rejected": values[1] if i % 4 < 2 else values[1:3],
            "group": i // 5,
        },
        "ppe_preference": {
            "question_id": i,
            "winner": ppe_preference.WINNERS[i % 2],
            "score_1": chosen,
            "score_2": values[1],
            "source": (ppe_preference.ENGLISH, ppe_preference.OTHER)[i % 3 > 0],
            "group": i // 2,
        },
        "ppe_correctness": {
            "group": i // 4,
            "source": f"model {i % 4}",
            "correct": [place % 3 == i % 3 for place in range(10)],
            "scores": values,
            "pairs": [[i % 3, (i + 1) % 3], [6 + (i + 2) % 3, 6 + i % 3]],
        },
        "rating_correlation": {"group": i // 3, "score": chosen, "rating": values[1]},
    }[name] | {"id": i}


def rows(name: str) -> list[dict]:
    scores = np.random.default_rng(11).integers(0, 4, (NUM_ROWS, 10)).astype(float)
    return [row(name, i, values) for i, values in enumerate(scores)]


def values(parts: Parts) -> dict[str, float]:
    return {name: part.value for name, part in parts.parts.items()}


NEW = (
    "rm_bench",
    "judgebench",
    "rewardmath",
    "llmbar",
    "rmb",
    "ppe_preference",
    "ppe_correctness",
    "rating_correlation",
)


@pytest.mark.parametrize("name", NEW)
def test_the_overall_of_the_parts_is_the_headline(name: str):
    given = rows(name)
    parts = rule(name).parts(given)

    assert weighted(parts.overall, values(parts)) == pytest.approx(
        rule(name).headline(rule(name).aggregate(given))["score"]
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rm_bench", lambda result: {**result["domains"], **{level: result[level] for level in rm_bench.CELLS}}),
        ("judgebench", lambda result: result["subsets"]),
        ("rewardmath", lambda result: result["subsets"]),
        ("llmbar", lambda result: {**result["subsets"], **result["sections"]}),
        ("ppe_preference", lambda result: result["subsets"]),
        ("ppe_correctness", lambda result: result["subsets"]),
        ("rmb", lambda result: {**result["sections"], **{form: result[form] for form in rmb.FORMS}}),
    ],
)
def test_subsets_and_composites_of_the_parts_are_those_that_are_shown(name: str, shown):
    given = rows(name)
    parts = rule(name).parts(given)

    found = values(parts)
    of_parts = {subset: found[subset] for subset in parts.subsets}
    of_parts |= {composite: weighted(weights, found) for composite, weights in parts.composites.items()}
    expected = {subset: score["score"] for subset, score in shown(rule(name).aggregate(given)).items()}
    assert of_parts == pytest.approx(expected)


@pytest.mark.parametrize("name", NEW)
def test_the_headline_is_a_score_object_and_nothing_else(name: str):
    assert tuple(rule(name).headline(rule(name).aggregate(rows(name)))) == SCORE_KEYS


@pytest.mark.parametrize("name", NEW)
def test_two_checkpoints_on_the_same_rows_have_the_same_groups(name: str):
    given = rows(name)
    fields = ("score", "scores", "score_chosen", "score_A", "score_1")
    other = [
        {key: np.negative(value).tolist() if key in fields else value for key, value in row.items()} for row in given
    ]

    a, b = rule(name).parts(given), rule(name).parts(other)

    assert [part.table.shape for part in a.parts.values()] == [part.table.shape for part in b.parts.values()]
    assert values(a) != values(b)


@pytest.mark.parametrize(
    ("rule_", "given"),
    [
        (rm_bench, rows("rm_bench")[:1]),
        (llmbar, rows("llmbar")[:1]),
        (rmb, rows("rmb")[:1]),
        (rating_correlation, rows("rating_correlation")[:1]),
    ],
)
def test_without_all_its_parts_a_file_has_no_overall(rule_, given: list[dict]):
    assert rule_.parts(given).overall is None


def test_any_file_of_one_table_has_an_overall():
    assert rewardmath.parts(rows("rewardmath")[:1]).overall == {"overall": 1}
