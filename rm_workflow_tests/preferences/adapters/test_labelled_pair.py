import hashlib

import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.preferences import adapters
from rm_workflow.preferences.adapters import labelled_pair
from rm_workflow.preferences.tables import ColumnMissing, Example, RowDropped

ROW = {"prompt": "Name a river.", "response_a": "The Danube.", "response_b": "No.", "label": 1}
WINNER = {"a": [1], "b": [2], "tie": [0]}


def entry(winner=WINNER, **columns: str) -> Source:
    location = {"path": "f", "files": {"train": ["a.jsonl"]}, "licence": "CC0"}
    return Source(**location, adapter="labelled_pair", columns=columns, winner=winner)


def read(row: dict, **columns: str) -> Example:
    return labelled_pair.read(row, entry(**columns))


def sides(example: Example) -> dict[str, tuple[str, dict[str, float]]]:
    return {response.slot: (response.text, dict(response.ratings)) for response in example.responses}


def test_the_label_says_which_side_is_chosen() -> None:
    better, worse = ("The Danube.", {"preference": 1.0}), ("No.", {"preference": 0.0})
    assert sides(read(ROW)) == {"chosen": better, "rejected": worse}
    turned = {**ROW, "response_a": "No.", "response_b": "The Danube.", "label": 2}
    assert sides(read(turned)) == {"chosen": better, "rejected": worse}


def test_a_tie_has_the_same_preference_on_both_sides() -> None:
    assert [ratings for _, ratings in sides(read({**ROW, "label": 0})).values()] == [{"preference": 0.0}] * 2


@pytest.mark.parametrize("label", [3, "1", None, True, 1.5])
def test_a_label_that_is_not_named_drops_the_row(label) -> None:
    with pytest.raises(RowDropped) as caught:
        read({**ROW, "label": label})
    assert (caught.value.rule, caught.value.reason) == ("bad_field", "the label is none of those under `winner`")


def test_scores_and_models_follow_their_side() -> None:
    row = {**ROW, "label": 2, "votes_a": 3, "votes_b": "7", "by_a": "m-a", "by_b": "m-b"}
    example = read(row, score_a="votes_a", score_b="votes_b", model_a="by_a", model_b="by_b")
    assert [(r.slot, r.text, r.ratings["score"], r.model) for r in example.responses] == [
        ("chosen", "No.", 7.0, "m-b"),
        ("rejected", "The Danube.", 3.0, "m-a"),
    ]


def test_an_empty_response_and_a_missing_column_are_named() -> None:
    with pytest.raises(RowDropped) as caught:
        read({**ROW, "response_b": "  "})
    assert (caught.value.rule, caught.value.detail) == ("empty_message", "response rejected")
    with pytest.raises(ColumnMissing, match="a column is missing"):
        read({key: value for key, value in ROW.items() if key != "label"})


def test_a_source_without_labels_of_both_sides_is_refused() -> None:
    with pytest.raises(UserError, match=r"source 'mine': .* set 'winner' in sources\.yaml"):
        adapters.check_source("mine", entry(winner={"a": [1]}))
    other = Source(path="f", files={"train": ["a"]}, adapter="chosen_rejected", winner=WINNER, licence="CC0")
    with pytest.raises(UserError, match="adapter chosen_rejected reads no label; take 'winner' out"):
        adapters.check_source("mine", other)


VOTED = {"prompt": "Name a river.", "response_a": "No.", "response_b": "The Danube.", "up_a": 1, "up_b": "3"}
UP = {"votes_a": "up_a", "votes_b": "up_b"}


def read_votes(row: dict, **columns: str) -> Example:
    source = entry(winner={}, **UP, **columns)
    adapters.check_source("mine", source)
    return labelled_pair.read(row, source)


def test_more_votes_win_and_a_tie_counts_half_for_either_side() -> None:
    assert sides(read_votes(VOTED)) == {
        "chosen": ("The Danube.", {"preference": 1.0, "votes": 3.0}),
        "rejected": ("No.", {"preference": 0.0, "votes": 1.0}),
    }
    example = read_votes({**VOTED, "same": 3}, votes_tie="same")
    assert [ratings["votes"] for _, ratings in sides(example).values()] == [4.5, 2.5]


def test_as_many_votes_for_either_are_a_tie() -> None:
    assert [ratings["preference"] for _, ratings in sides(read_votes({**VOTED, "up_b": 1})).values()] == [0.0, 0.0]


@pytest.mark.parametrize("votes", [-1, "many", None])
def test_what_is_no_number_of_votes_is_a_bad_field(votes) -> None:
    with pytest.raises(RowDropped) as caught:
        read_votes({**VOTED, "up_b": votes})
    assert (caught.value.rule, caught.value.detail) == ("bad_field", "up_b")


def test_votes_and_winner_together_are_refused() -> None:
    with pytest.raises(UserError, match="columns votes_a, votes_b say which side wins; take 'winner' out"):
        adapters.check_source("mine", entry(**UP))


def test_only_a_hash_that_is_there_and_wrong_drops_the_row() -> None:
    right = hashlib.sha256(b"Name a river.No.").hexdigest()
    columns = {"sha256_a": "hash_a", "sha256_b": "hash_b"}
    for stated in ({}, {"hash_b": right}, {"hash_b": None}):
        assert sides(read({**ROW, **stated}, **columns))["rejected"][0] == "No."
    with pytest.raises(RowDropped) as caught:
        read({**ROW, "hash_a": right}, **columns)
    assert (caught.value.rule, caught.value.detail) == ("bad_field", "sha256_a")
