import json
from pathlib import Path

import pytest

from rm_workflow.catalog.models import Benchmark
from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import build_benchmark, llmbar
from rm_workflow.evaluation.benchmarks.llmbar import SUBSETS, aggregate, headline
from rm_workflow.evaluation.items import FieldError, ScoredItem
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256


def rows(subset: str, won: int, n: int) -> list[dict]:
    return [{"id": i, "subset": subset, "score_chosen": float(i < won), "score_rejected": 0.5} for i in range(n)]


def full() -> list[dict]:
    return [
        *rows("natural", 3, 4),
        *rows("neighbor", 1, 2),
        *rows("gptinst", 0, 5),
        *rows("gptout", 1, 1),
        *rows("manual", 1, 4),
    ]


def test_adversarial_is_the_plain_mean_of_four_sets_and_overall_of_five():
    result = aggregate(full())

    assert {name: score["score"] for name, score in result["subsets"].items()} == {
        "natural": 0.75,
        "neighbor": 0.5,
        "gptinst": 0.0,
        "gptout": 1.0,
        "manual": 0.25,
    }
    assert result["sections"]["adversarial"]["score"] == pytest.approx((0.5 + 0 + 1 + 0.25) / 4)
    assert result["overall"] == pytest.approx((0.75 + 0.5 + 0 + 1 + 0.25) / 5)
    assert (headline(result)["n"], headline(result)["score"]) == (16, result["overall"])


def test_a_tie_is_a_loss_and_is_counted():
    result = aggregate([{"id": 0, "subset": "manual", "score_chosen": 1.0, "score_rejected": 1.0}])

    assert (result["subsets"]["manual"]["score"], result["subsets"]["manual"]["ties"]) == (0.0, 1)


def test_an_absent_set_is_null_and_so_is_the_overall():
    result = aggregate(rows("natural", 1, 1))

    assert result["missing_subsets"] == list(SUBSETS[1:])
    assert result["subsets"]["gptout"] is None
    assert result["sections"] == {"adversarial": None}
    assert (result["overall"], headline(result)) == (None, None)


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("llmbar-natural", "natural"),
        ("llmbar-adver-GPTInst", "gptinst"),
        ("Adversarial_Neighbor", "neighbor"),
        ("Adversarial/Manual", "manual"),
    ],
)
def test_sets_are_known_by_the_names_that_others_give_them(name: str, subset: str):
    assert aggregate(rows(name, 1, 1))["subsets"][subset]["n"] == 1


def test_figures_do_not_depend_on_the_order_of_rows():
    assert aggregate(full()[::-1]) == aggregate(full())


GOOD = rows("natural", 1, 1)[0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD | {"subset": "nature"}, r"row 2: field subset is 'nature'.*did you mean 'natural'\?"),
        (GOOD | {"score_chosen": float("inf")}, "field score_chosen is inf"),
        (GOOD | {"id": [1]}, r"field id is \[1\]"),
        (GOOD, "row 2: id 0 of subset natural stands in row 1 already"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_and_field(bad: dict, said: str):
    with pytest.raises(UserError, match=said):
        aggregate([GOOD, bad])


AUTHORS = {"input": "Name a river.", "output_1": "Rivers are long.", "output_2": "The Danube.", "label": 2}
IN_REWARDBENCH = {
    "prompt": "Name a river.",
    "chosen": "The Danube.",
    "rejected": "Rivers are long.",
    "subset": "llmbar-adver-neighbor",
    "id": 7,
}


@pytest.mark.parametrize("native", [AUTHORS | {"split": "neighbor"}, IN_REWARDBENCH])
def test_a_row_of_either_schema_becomes_an_item_and_its_scores_a_row_again(native: dict):
    item = llmbar.read_item(native)

    assert item.messages == [{"role": "user", "content": "Name a river."}]
    assert item.responses == ["The Danube.", "Rivers are long."]
    row = llmbar.scored_row(ScoredItem(item.subset, [1.0, 0.5], item.num_correct, item.meta))
    assert row == {"id": item.meta["id"], "subset": "neighbor", "score_chosen": 1.0, "score_rejected": 0.5}


def test_a_label_that_is_none_is_refused():
    with pytest.raises(FieldError, match="field label is 0; it must be 1 or 2"):
        llmbar.read_item(AUTHORS | {"split": "natural", "label": 0})


def build(tmp_path: Path, native: list[dict]) -> dict:
    path = tmp_path / "filtered.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in native), "utf-8")
    entry = Benchmark(path="somewhere", files={"filtered": [path.name]}, scoring="llmbar", licence="CC0")
    files = [SourceFile("filtered", path.name, path, path.name, file_sha256(path))]
    built = build_benchmark("llmbar", entry, files, tmp_path)
    return {"subsets": built.facts["subsets"], **built.checks[0].metadata, "passed": built.checks[0].passed}


def test_other_pairs_of_rewardbench_are_passed_over_and_counted(tmp_path: Path):
    other = IN_REWARDBENCH | {"subset": "math-prm", "id": 8}

    assert build(tmp_path, [other, IN_REWARDBENCH, other | {"id": 9}]) == {
        "subsets": {"neighbor": 1},
        "rows": 3,
        "items": 1,
        "passed_over": 2,
        "passed": True,
    }


def test_a_file_without_any_pair_of_llmbar_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="none of its 1 rows is an item of llmbar"):
        build(tmp_path, [IN_REWARDBENCH | {"subset": "math-prm"}])
