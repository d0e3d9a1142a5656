import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.preferences import adapters
from rm_workflow.preferences.adapters import labelled_list
from rm_workflow.preferences.tables import ColumnMissing, Example, RowDropped

ROW = {"prompt": "Name a river.", "responses": ["The Danube.", "No.", "The Rhine."], "labels": [1, 0, 2]}


def read(row: dict, **columns: str) -> Example:
    location = {"path": "f", "files": {"train": ["a.jsonl"]}, "licence": "CC0"}
    winner = {"a": [1], "b": [2], "tie": [0]}
    source = Source(**location, adapter="labelled_list", columns=columns, winner=winner)
    adapters.check_source("mine", source)
    return labelled_list.read(row, source)


def ratings(example: Example) -> list[dict[str, float]]:
    return [dict(response.ratings) for response in example.responses]


def test_labels_are_those_of_the_pairs_in_order_and_stand_on_both_sides() -> None:
    example = read(ROW)
    assert [(response.slot, response.text) for response in example.responses] == [
        ("0", "The Danube."),
        ("1", "No."),
        ("2", "The Rhine."),
    ]
    assert ratings(example) == [
        {"preference_1": 1.0, "preference_2": 0.0},
        {"preference_0": 0.0, "preference_2": 0.0},
        {"preference_0": 0.0, "preference_1": 1.0},
    ]


def test_responses_may_stand_in_columns_of_their_own() -> None:
    row = {"q": "Name a river.", "one": "The Danube.", "two": "No.", "better": [2]}
    example = read(row, prompt="q", response_1="one", response_2="two", labels="better")
    assert ratings(example) == [{"preference_1": 0.0}, {"preference_0": 1.0}]


def test_a_pair_that_nobody_compared_has_no_rating() -> None:
    assert ratings(read({**ROW, "labels": [None, 1, None]})) == [{"preference_2": 1.0}, {}, {"preference_0": 0.0}]


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({**ROW, "labels": [1, 0]}, "labels"),
        ({**ROW, "labels": [1, 0, 7]}, "7"),
        ({**ROW, "labels": 1}, "labels"),
        ({**ROW, "responses": ["The Danube."]}, "responses"),
        ({**ROW, "responses": "The Danube."}, "responses"),
        ({**ROW, "responses": ["The Danube.", None, "No."]}, "response 1"),
    ],
)
def test_what_is_no_list_of_labels_is_a_bad_field(row: dict, detail: str) -> None:
    with pytest.raises(RowDropped) as caught:
        read(row)
    assert (caught.value.rule, caught.value.detail) == ("bad_field", detail)


def test_a_missing_column_and_a_source_without_winners_are_told() -> None:
    with pytest.raises(ColumnMissing):
        read(ROW, response_1="one", response_2="two")
    location = {"path": "f", "files": {"train": ["a.jsonl"]}, "licence": "CC0"}
    with pytest.raises(UserError, match="set 'winner' in"):
        adapters.check_source("mine", Source(**location, adapter="labelled_list"))
