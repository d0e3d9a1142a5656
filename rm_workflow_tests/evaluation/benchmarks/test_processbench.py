"""ProcessBench: F1 of the first wrong step, by hand, and rows that are refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rm_workflow.catalog.models import Benchmark
from rm_workflow.evaluation.benchmarks import build_benchmark, processbench
from rm_workflow.evaluation.compare import Comparison
from rm_workflow.evaluation.items import FieldError, RowError, scored_item
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256

NATIVE = {
    "id": "gsm8k-0",
    "generator": "m",
    "problem": "2 + 3?",
    "steps": ["2 + 3 = 6.", "So\n6."],
    "final_answer_correct": False,
    "label": 0,
}


def row(number: int, label: int, scores: list[float], subset: str = "gsm8k") -> dict[str, Any]:
    return {"id": f"{subset}-{number}", "subset": subset, "label": label, "step_scores": scores}


FIVE = [
    row(0, 1, [0.9, 0.2, 0.9]),  # named
    row(1, 1, [0.4, 0.2]),  # a step too early
    row(2, 0, [0.6, 0.1]),  # a step too late
    row(3, -1, [0.5, 0.9]),  # right: 0.5 is no wrong step
    row(4, -1, [0.9, 0.3]),  # a right solution in which a step is named
]


def test_f1_is_the_harmonic_mean_of_two_shares():
    result = processbench.aggregate(FIVE)

    assert result["errors"]["gsm8k"]["score"] == pytest.approx(1 / 3)
    assert result["corrects"]["gsm8k"]["score"] == pytest.approx(1 / 2)
    f1 = result["subsets"]["gsm8k"]
    assert f1["score"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert (f1["n"], f1["ties"]) == (5, 1)
    assert 0 < f1["ci_low"] < f1["score"] < f1["ci_high"] < 1
    assert result["missing_subsets"] == ["math", "olympiadbench", "omnimath"]
    assert processbench.headline(result) is None


def test_the_overall_is_the_plain_mean_of_four():
    rows = [{**one, "subset": subset} for subset in processbench.SUBSETS for one in FIVE]
    rows += [row(9, -1, [0.9], "math")]
    result = processbench.aggregate(rows)
    values = [result["subsets"][subset]["score"] for subset in processbench.SUBSETS]
    assert len(set(values)) == 2
    assert result["overall"] == pytest.approx(sum(values) / 4)
    headline = processbench.headline(result)
    assert headline is not None
    assert headline["n"] == 21


def test_f1_is_0_where_nothing_is_named_rightly_and_null_where_a_class_is_missing():
    assert processbench.aggregate([row(0, 0, [0.9]), row(1, -1, [0.1])])["subsets"]["gsm8k"]["score"] == 0
    assert processbench.aggregate([row(0, 0, [0.9])])["subsets"]["gsm8k"] is None


def test_the_threshold_of_scalar_models_is_tuned_on_gsm8k_and_judged_elsewhere():
    high = [row(0, 0, [0.7]), row(1, -1, [0.9])]
    result = processbench.aggregate([*high, *({**one, "subset": "math"} for one in high)])
    assert result["subsets"]["math"]["score"] == 0
    assert result["tuned"]["threshold"] == 0.9
    assert result["tuned"]["subsets"].keys() == {"math"}
    assert result["tuned"]["subsets"]["math"]["score"] == 1


def test_single_steps_are_judged_up_to_the_first_wrong_one_balanced_first():
    steps = processbench.aggregate(FIVE)["steps"]
    assert next(iter(steps)) == "balanced_accuracy"
    # Right steps: 0.9, 0.4, 0.5, 0.9, 0.9, 0.3; wrong ones: 0.2, 0.2, 0.6.
    assert (steps["right_steps"]["score"], steps["right_steps"]["n"]) == (pytest.approx(4 / 6), 6)
    assert (steps["wrong_steps"]["score"], steps["wrong_steps"]["n"]) == (pytest.approx(2 / 3), 3)
    assert steps["balanced_accuracy"]["score"] == pytest.approx((4 / 6 + 2 / 3) / 2)
    assert steps["accuracy"]["score"] == pytest.approx(6 / 9)
    assert steps["always_right"] == pytest.approx(6 / 9)


def test_a_model_that_always_says_right_has_a_balanced_accuracy_of_one_half():
    rows = [row(place, 8, [0.9] * 9) for place in range(5)]
    steps = processbench.aggregate(rows)["steps"]
    assert (steps["accuracy"]["score"], steps["balanced_accuracy"]["score"]) == (pytest.approx(8 / 9), 0.5)


def test_two_models_are_compared():
    better = [{**one, "step_scores": [0.9] * 2 if one["label"] < 0 else one["step_scores"]} for one in FIVE]
    found = Comparison(processbench.parts(better), processbench.parts(FIVE)).figures()
    assert found["difference"] == pytest.approx(0.5 - 0.4)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"subset": "gsm9k"}, "gsm8k"),
        ({"label": 2}, "field label is 2, and there are 2 steps, counted from 0; -1 means none is wrong"),
        ({"label": -2}, "field label is -2"),
        ({"label": True}, "field label is True"),
        ({"label": 0.5}, "field label is 0.5"),
        ({"step_scores": [0.5, 1.5]}, "holds 1.5; the score of a step is a probability"),
        ({"step_scores": []}, "field step_scores is"),
        ({"step_scores": [0.5, None]}, "step_scores"),
    ],
)
def test_a_bad_row_is_refused(bad: dict[str, Any], sentence: str):
    with pytest.raises(RowError, match=r"^row 1: ") as caught:
        processbench.aggregate([{**row(0, 0, [0.5, 0.5]), **bad}])
    assert sentence in str(caught.value)


def test_a_model_that_scores_whole_solutions_is_told_so():
    with pytest.raises(RowError, match="needs a model that scores each step"):
        processbench.aggregate([{"id": 1, "subset": "gsm8k", "label": 0, "score": 0.3}])


def test_a_native_row_becomes_one_solution_with_its_steps(tmp_path: Path):
    path = tmp_path / "gsm8k.json"
    path.write_text(json.dumps([NATIVE]), "utf-8")
    entry = Benchmark(path="x", files={"gsm8k": ["gsm8k.json"]}, scoring="processbench", licence="Apache-2.0")
    out = tmp_path / "out"
    out.mkdir()
    build_benchmark("p", entry, [SourceFile("gsm8k", path.name, path, "x/gsm8k.json", file_sha256(path))], out)

    (response,) = pq.read_table(out / "responses.parquet").to_pylist()
    (item,) = pq.read_table(out / "items.parquet").to_pylist()
    assert (response["text"], response["step_ends"]) == ("2 + 3 = 6.\nSo\n6.", [10, 16])
    assert (item["subset"], item["num_correct"]) == ("gsm8k", 0)
    meta = json.loads(item["meta"])
    scored = processbench.scored_row(scored_item(item["subset"], [[0.1, 0.9]], 0, meta))
    assert scored == {"id": "gsm8k-0", "subset": "gsm8k", "label": 0, "step_scores": [0.1, 0.9]}


def test_a_step_without_text_and_a_label_beyond_the_steps_are_refused():
    native = {**NATIVE, "split": "gsm8k"}
    with pytest.raises(FieldError, match="field steps: a step is only white space"):
        processbench.read_item({**native, "steps": ["a", " "]})
    with pytest.raises(FieldError, match="field label is 2"):
        processbench.read_item({**native, "label": 2})
