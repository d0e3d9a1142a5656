import json
import random

import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.compare import Comparison, parts_of
from rm_workflow.evaluation.stored import StoredRows, file_rows, join


def rows(ids: list, shift: float = 0.0) -> list[dict]:
    return [
        {"id": name, "subset": "math-prm", "score_chosen": float(place) + shift, "score_rejected": 2.0}
        for place, name in enumerate(ids)
    ]


def without_id(num: int) -> list[dict]:
    return [{"score_chosen": 1.0, "score_rejected": float(n), "source": "a"} for n in range(num)]


def test_items_are_joined_by_subset_and_id_whatever_their_order():
    a, b = rows([1, 2, 3]), rows([3, 4, 1], 10.0)

    joined = join(file_rows("rewardbench", a), file_rows("rewardbench", b), "rewardbench")

    assert [json.loads(name)[1] for name in joined.names] == [1, 3]
    assert (joined.only_a, joined.only_b, joined.num_by_place) == (1, 1, 0)


def test_one_id_in_two_subsets_is_two_items():
    other = [{**row, "subset": "hep-cpp"} for row in rows([1])]

    joined = join(file_rows("rewardbench", rows([1, 2])), file_rows("rewardbench", other + rows([1])), "rewardbench")

    assert [json.loads(name) for name in joined.names] == [["id", 1, "math-prm", None, None]]
    assert (joined.only_a, joined.only_b) == (1, 1)


def test_a_repeated_id_is_two_items():
    named = file_rows("rewardbench", rows([1, 1]))

    assert [row["score_chosen"] for row in named.rows.values()] == [0.0, 1.0]


def test_rows_without_id_are_joined_by_their_place():
    a = file_rows("pairs", without_id(3))

    joined = join(a, file_rows("pairs", without_id(3)), "pairs")

    assert [row["score_rejected"] for row in a.only(joined.names)] == [0.0, 1.0, 2.0]
    assert joined.num_by_place == 3


def test_rows_without_id_that_cannot_be_the_same_items_are_refused():
    a, other = file_rows("pairs", without_id(3)), without_id(3)
    other[1]["source"] = "b"

    with pytest.raises(UserError, match="3 rows of A and 2 of B have no id, so they cannot be joined line by line"):
        join(a, file_rows("pairs", without_id(2)), "pairs")
    with pytest.raises(UserError, match="row 2 has no id, and its source is 'a' for A and 'b' for B"):
        join(a, file_rows("pairs", other), "pairs")


def test_no_common_item_is_refused():
    with pytest.raises(UserError, match="A has 2 items and B 1, and none is common"):
        join(file_rows("rewardbench", rows([1, 2])), file_rows("rewardbench", rows([3])), "rewardbench")


def test_two_rules_are_refused():
    with pytest.raises(UserError, match="compare like with like"):
        join(StoredRows("pairs", {}), StoredRows("rewardbench", {}), "mine")


def test_the_order_of_rows_changes_no_figure():
    generator = random.Random(0)
    a, b = rows(list(range(60))), rows(list(range(60)), 0.5)
    for side in (a, b):
        for row in side:
            row["score_chosen"] = generator.gauss(2.4, 1)

    def figures(first: list[dict], second: list[dict]) -> dict:
        sides = [file_rows("rewardbench", side) for side in (first, second)]
        names = join(*sides, "rewardbench").names
        return Comparison(*(parts_of("rewardbench", side.only(names)) for side in sides)).figures()

    expected = figures(a, b)
    assert figures(generator.sample(a, 60), generator.sample(b, 60)) == expected
