from pathlib import Path

import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters import scored_completions
from rm_workflow.preferences.files import read_rows
from rm_workflow.preferences.tables import Example, RowDropped

GOOD = {"text": "The Danube.", "model": "m-a", "ratings": {"helpfulness": 5, "honesty": "N/A"}}
BAD = {"text": "No.", "model": "m-b", "ratings": {"helpfulness": 1, "honesty": 3}}


def read(row: dict, **columns: str) -> Example:
    entry = Source(path="f", files={"train": ["a.jsonl"]}, adapter="scored_completions", columns=columns, licence="CC0")
    return scored_completions.read(row, entry)


def dropped(row: dict) -> RowDropped:
    with pytest.raises(RowDropped) as caught:
        read(row)
    return caught.value


def test_completions_keep_their_slots_models_and_ratings() -> None:
    example = read({"prompt": "Name a river.", "completions": [GOOD, BAD]})
    assert example.messages == [{"role": "user", "content": "Name a river."}]
    assert [(r.slot, r.text, r.model, r.ratings) for r in example.responses] == [
        ("0", "The Danube.", "m-a", {"helpfulness": 5.0}),
        ("1", "No.", "m-b", {"helpfulness": 1.0, "honesty": 3.0}),
    ]


@pytest.mark.parametrize(
    ("rating", "expected"),
    [
        (4, 4.0),
        ("4", 4.0),
        (0.5, 0.5),
        ({"Rating": "3", "Rationale": "ok"}, 3.0),
        ("N/A", None),
        (None, None),
        (True, None),
        ("nan", None),
        (float("inf"), None),
        ([], None),
        ({"Rating": "N/A"}, None),
        (10**400, None),
    ],
)
def test_only_finite_numbers_are_ratings(rating: object, expected: float | None) -> None:
    example = read({"prompt": "Hi", "completions": [{**GOOD, "ratings": {"quality": rating}}]})
    assert example.responses[0].ratings == ({} if expected is None else {"quality": expected})


def test_a_map_column_of_parquet_reads_as_an_object_does() -> None:
    example = read({"prompt": "Hi", "completions": [{**GOOD, "ratings": [("b", 2.0), ("a", 1.0)]}]})
    assert list(example.responses[0].ratings.items()) == [("a", 1.0), ("b", 2.0)]


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({"prompt": None, "completions": [GOOD]}, "prompt"),
        ({"prompt": "Hi", "completions": "see above"}, "completions"),
        ({"prompt": "Hi", "completions": []}, "completions"),
        ({"prompt": "Hi", "completions": [GOOD, "No."]}, "completions[1]"),
        ({"prompt": "Hi", "completions": [GOOD, {**BAD, "text": None}]}, "completions[1].text"),
        ({"prompt": "Hi", "completions": [{**GOOD, "model": 4}]}, "completions[0].model"),
        ({"prompt": "Hi", "completions": [{**GOOD, "ratings": 5}]}, "completions[0].ratings"),
        ({"prompt": "Hi", "completions": [{"text": "The Danube.", "scores": {"a": 1}}]}, "completions[0].ratings"),
        ({"prompt": "Hi"}, "completions"),
    ],
)
def test_a_field_of_another_kind_is_a_bad_field(row: dict, detail: str) -> None:
    drop = dropped(row)
    assert (drop.rule, drop.detail) == ("bad_field", detail)


def test_an_empty_completion_drops_the_whole_row() -> None:
    drop = dropped({"prompt": "Hi", "completions": [GOOD, {**BAD, "text": " \n"}]})
    assert (drop.rule, drop.detail) == ("empty_message", "response 1")


def test_a_prompt_that_ends_in_an_assistant_turn_is_dropped() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert dropped({"prompt": turns, "completions": [GOOD]}).rule == "not_alternating"
    assert read({"prompt": [*turns, turns[0]], "completions": [GOOD]}).messages == [*turns, turns[0]]


@pytest.mark.shared_rows
def test_native_ultrafeedback_is_read_by_naming_its_columns(shared_rows: Path) -> None:
    columns = {"prompt": "instruction", "ratings": "annotations", "extra_principle": "principle"}
    for file in ("ultrafeedback.handmade.jsonl", "ultrafeedback.real_1_completion.jsonl"):
        path = shared_rows / "data/native_samples" / file
        for _, row in read_rows(path, file):
            example = read(row, **columns)
            assert len(example.responses) == len(row["completions"])
            for response, native in zip(example.responses, row["completions"], strict=True):
                assert response.text == native["response"]
                rated = {key: value["Rating"] for key, value in native["annotations"].items()}
                assert response.ratings == {key: float(value) for key, value in rated.items() if value != "N/A"}
                assert response.extra == {"principle": native["principle"]}


def test_the_best_rank_has_the_highest_rating() -> None:
    ranked = [{"text": "The Danube.", "rank": 1}, {"text": "No.", "rank": "2"}, {"text": "?", "rank": None}]
    example = read({"prompt": "Hi", "completions": ranked}, rank="rank")
    assert [dict(response.ratings) for response in example.responses] == [{"rank": -1.0}, {"rank": -2.0}, {}]


def test_ratings_may_be_fields_of_a_completion_or_a_column_of_the_row() -> None:
    row = {"prompt": "Hi", "completions": [{"text": "The Danube.", "tone": "4"}, {"text": "No.", "tone": 1}]}
    example = read(row, rating_style="tone")
    assert [dict(response.ratings) for response in example.responses] == [{"style": 4.0}, {"style": 1.0}]
    example = read({"prompt": "Hi", "completions": ["The Danube.", "No."], "points": [5, "N/A"]}, scores="points")
    assert [(response.text, response.ratings) for response in example.responses] == [
        ("The Danube.", {"score": 5.0}),
        ("No.", {}),
    ]


@pytest.mark.parametrize(
    ("row", "columns", "detail"),
    [
        ({"completions": ["a", "b"], "points": [1]}, {"scores": "points"}, "points"),
        ({"completions": ["a", "b"], "points": 3}, {"scores": "points"}, "points"),
        ({"completions": ["a", "b"]}, {}, "completions[0]"),
        ({"completions": [{"text": "a"}]}, {"rating_style": "tone"}, "completions[0].tone"),
        ({"completions": [{"text": "a"}]}, {"rank": "rank"}, "completions[0].rank"),
    ],
)
def test_a_rating_that_is_not_where_it_is_named_is_a_bad_field(row: dict, columns: dict, detail: str) -> None:
    with pytest.raises(RowDropped) as caught:
        read({"prompt": "Hi", **row}, **columns)
    assert (caught.value.rule, caught.value.detail) == ("bad_field", detail)


def test_turns_of_a_transcript_are_turns_of_the_prompt() -> None:
    location = {"path": "f", "files": {"train": ["a.jsonl"]}, "licence": "CC0"}
    source = Source(**location, adapter="scored_completions", prompt_form="transcript")
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a river.\n\nAssistant: "
    for text in (prompt, prompt.removesuffix("\n\nAssistant: ")):
        assert scored_completions.read({"prompt": text, "completions": [GOOD]}, source).messages == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Name a river."},
        ]
    with pytest.raises(RowDropped, match="does not begin with a turn mark"):
        scored_completions.read({"prompt": "Name a river.", "completions": [GOOD]}, source)
