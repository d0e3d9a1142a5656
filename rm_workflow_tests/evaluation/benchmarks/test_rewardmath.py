import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.models import Benchmark
from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import build_benchmark, rewardmath
from rm_workflow.evaluation.benchmarks.rewardmath import aggregate, headline
from rm_workflow.evaluation.items import ScoredItem
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256

LOW = [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]  # eight wrong solutions; a test adds the ninth


def row(chosen: float, ninth: float, identity: int = 0, **more: object) -> dict:
    return {"id": identity, "score_chosen": chosen, "score_rejected": [*LOW, ninth], **more}


@pytest.mark.parametrize(
    ("chosen", "ninth", "strict", "with_ties", "reciprocal_rank"),
    [
        (1.0, 0.5, 1.0, 1.0, 1.0),
        (1.0, 1.0, 0.0, 1.0, 1 / 2),  # the tie is sorted against the right solution
        (1.0, 2.0, 0.0, 0.0, 1 / 2),
        (0.0, 2.0, 0.0, 0.0, 1 / 3),  # below the ninth, tied with the first
        (-9.0, -8.0, 0.0, 0.0, 1 / 10),
    ],
)
def test_the_right_solution_must_beat_all_nine(
    chosen: float, ninth: float, strict: float, with_ties: float, reciprocal_rank: float
):
    result = aggregate([row(chosen, ninth)])

    assert (result["score"], result["accuracy"], result["accuracy_with_ties"]) == (strict, strict, with_ties)
    assert result["mrr"] == pytest.approx(reciprocal_rank)


def test_accuracy_is_strict_with_ties_and_margin_beside_it():
    result = aggregate([row(1, 0.5, 0), row(1, 1, 1), row(1, 3, 2), row(2, 0, 3)])

    assert (result["score"], result["n"], result["ties"]) == (0.5, 4, 1)
    assert result["accuracy_ties_half"] == pytest.approx((2 + 0.5) / 4)
    assert result["mean_margin"] == pytest.approx((0.5 + 0 - 2 + 2) / 4)
    assert result["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 1) / 4)
    assert result["mrr_interval"]["ci_low"] < result["mrr"] < result["mrr_interval"]["ci_high"]
    assert headline(result)["score"] == 0.5


def test_subjects_are_scored_apart():
    result = aggregate(
        [row(1, 0, 0, source="Algebra"), row(1, 2, 1, source="Algebra"), row(1, 0, 2, source="Geometry")]
    )

    assert {name: score["score"] for name, score in result["subsets"].items()} == {"Algebra": 0.5, "Geometry": 1.0}


def test_the_order_of_rows_and_of_wrong_solutions_changes_nothing():
    rows = [row(-(i * 3 % 10), 0.5, i) for i in range(60)]
    turned = [{**given, "score_rejected": given["score_rejected"][::-1]} for given in rows]
    orders = [np.random.default_rng(seed).permutation(len(rows)) for seed in range(30)]

    # to the last bit, unlike a sum in the order of the file
    assert all(aggregate([turned[i] for i in order]) == aggregate(rows) for order in orders)


def test_a_constant_added_to_the_scores_of_a_problem_changes_nothing():
    rows = [row(i % 4, (i * 3) % 5, i) for i in range(20)]
    shifted = [
        {**given, "score_chosen": given["score_chosen"] + i, "score_rejected": [s + i for s in given["score_rejected"]]}
        for i, given in enumerate(rows)
    ]

    assert aggregate(shifted) == aggregate(rows)


def upstream(scores: list[float], right_at: int = 0) -> dict:
    names = ["model-a"] * len(scores)
    names[right_at] = "human_to_GPT-4"
    return {"problem": "What is 7 x 8?", "solution_reference": names, "score": scores}


def test_what_upstream_writes_gives_the_same_figures():
    ours = aggregate([row(1, 1)])

    assert aggregate([upstream([1, *LOW, 1])]) == ours
    assert aggregate([upstream([*LOW, 1, 1], right_at=9)]) == ours


GOOD = row(1.0, 0.5)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"score_rejected": LOW}, "row 2: field score_rejected holds 8 scores; give 9, one for each wrong"),
        (GOOD | {"score_rejected": [*LOW, 1, 2]}, "field score_rejected holds 10 scores; give 9"),
        (GOOD | {"score_rejected": 0.5}, "must be a list of numbers"),
        (GOOD | {"score_chosen": None}, "row 2: field score_chosen is None"),
        (GOOD | {"score_chosen": "1"}, "field score_chosen is '1'"),
        (GOOD | {"score_rejected": [*LOW, float("nan")]}, r"field score_rejected\[8\] is nan"),
        ({"score_chosen": 1.0, "score_rejected": [*LOW, 0]}, "row 2: field id is missing"),
        (GOOD, "row 2: id 0 stands in row 1 already"),
        (upstream([1, *LOW]), "names human_to_GPT-4 1 times among 9 solutions"),
        (upstream([1, *LOW, 2]) | {"solution_reference": ["model-a"] * 10}, "names human_to_GPT-4 0 times among 10"),
        (upstream([1, *LOW, 2]) | {"score": [1, *LOW]}, "field score holds 9 scores; give 10"),
        (upstream([[0.1, 0.9], *LOW, 2]), r"field score\[0\] is \[0.1, 0.9\]"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


def solutions(problem: int, num_wrong: int = 9) -> list[dict]:
    """Return the rows of a problem as upstream publishes them, one solution each, the right one last."""
    shared = {"problem": f"What is 7 x {problem}?", "subject": "Prealgebra", "level": 1, "problem_id": problem}
    wrong = [
        {**shared, "eval_solution": ["Guess.", f"It is {i}."], "solution_type": "rejected", "id": i}
        for i in range(num_wrong)
    ]
    right = {**shared, "eval_solution": ["Count.", f"It is {7 * problem}."], "solution_type": "chosen", "id": 99}
    return [*wrong, right]


def built(tmp_path: Path, rows: list[dict]) -> Path:
    path = tmp_path / "RewardMATH_direct.json"
    path.write_text(json.dumps(rows, indent=1), "utf-8")
    entry = Benchmark(path="somewhere", files={"test": [path.name]}, scoring="rewardmath", licence="CC0")
    out = tmp_path / "out"
    out.mkdir()
    result = build_benchmark("maths", entry, [SourceFile("test", path.name, path, path.name, file_sha256(path))], out)
    assert all(check.passed for check in result.checks)
    return out


def test_ten_rows_next_to_each_other_are_one_item(tmp_path: Path):
    out = built(tmp_path, [*solutions(3), *solutions(4)])

    items = pq.read_table(out / "items.parquet").to_pylist()
    texts = {row["response_id"]: row["text"] for row in pq.read_table(out / "responses.parquet").to_pylist()}
    assert sorted(json.loads(item["meta"])["id"] for item in items) == [3, 4]
    for item in items:
        replies = [texts[response] for response in item["response_ids"]]
        assert replies[0] == f"Count.\nIt is {7 * json.loads(item['meta'])['id']}."
        assert replies[1:] == [f"Guess.\nIt is {i}." for i in range(9)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [*solutions(3), *solutions(4, 8)],
            "entry 11: problem_id 4 has 9 solutions next to each other, 1 of them",
        ),
        (solutions(3)[:9], "entry 1: problem_id 3 has 9 solutions next to each other, 0 of them chosen and 9 rejected"),
        ([{"problem": "x"}], "entry 1: field problem_id is missing"),
        ([3], "entry 1 is no JSON object"),
    ],
)
def test_a_problem_without_its_ten_solutions_stops_the_build(tmp_path: Path, rows: list, said: str):
    with pytest.raises(UserError, match=said):
        built(tmp_path, rows)


def test_scores_go_back_to_a_row():
    item = rewardmath.read_joined(solutions(3))

    scored = rewardmath.scored_row(ScoredItem(item.subset, [1.0, *LOW, 0.5], item.num_correct, item.meta))

    assert scored == row(1.0, 0.5, 3, source="Prealgebra")
