from pathlib import Path

import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters import chosen_rejected
from rm_workflow.preferences.files import read_rows
from rm_workflow.preferences.tables import ColumnMissing, Example, RowDropped

USER = {"role": "user", "content": "Name a river."}
YES = {"role": "assistant", "content": "The Danube."}
NO = {"role": "assistant", "content": "No."}

SAID = {"from": "human", "value": "Name a river."}


def read(row: dict, **columns: str) -> Example:
    entry = Source(path="f", files={"train": ["a.jsonl"]}, adapter="chosen_rejected", columns=columns, licence="CC0")
    return chosen_rejected.read(row, entry)


def dropped(row: dict, **columns: str) -> RowDropped:
    with pytest.raises(RowDropped) as caught:
        read(row, **columns)
    return caught.value


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."},
        {"prompt": [USER], "chosen": "The Danube.", "rejected": "No."},
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "a title", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": [{**USER, "name": None}, YES], "rejected": [USER, NO]},
        {"prompt": {"messages": [USER]}, "chosen": [YES], "rejected": [NO]},
        {"prompt": [SAID], "chosen": "The Danube.", "rejected": "No."},
        {"prompt": [SAID], "chosen": {"from": "gpt", "value": "The Danube."}, "rejected": NO},
    ],
)
def test_every_form_gives_the_same_example(row: dict) -> None:
    example = read(row)
    assert example.messages == [USER]
    assert [(response.slot, response.text) for response in example.responses] == [
        ("chosen", "The Danube."),
        ("rejected", "No."),
    ]


def test_mapped_columns_give_scores_models_system_turn_and_extras() -> None:
    row = {
        "system": "Be brief.",
        "question": "Name a river.",
        "winner": "The Danube.",
        "loser": "No.",
        "score_w": 4,
        "score_l": "N/A",
        "model_w": "m-a",
        "model_l": None,
        "status": "unchanged",
    }
    example = read(
        row,
        system="system",
        prompt="question",
        chosen="winner",
        rejected="loser",
        chosen_score="score_w",
        rejected_score="score_l",
        chosen_model="model_w",
        rejected_model="model_l",
        extra_status="status",
    )
    assert example.messages == [{"role": "system", "content": "Be brief."}, USER]
    chosen, rejected = example.responses
    assert (chosen.ratings, chosen.model, chosen.extra) == ({"score": 4.0}, "m-a", {"status": "unchanged"})
    assert (rejected.ratings, rejected.model) == ({}, None)


@pytest.mark.parametrize("system", ["", " \n", None])
def test_an_empty_system_column_gives_no_system_turn(system: str | None) -> None:
    row = {"system": system, "prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."}
    assert read(row, system="system").messages == [USER]


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({"prompt": "Hi", "chosen": None, "rejected": "No."}, "chosen"),
        ({"prompt": "Hi", "chosen": "Yes", "rejected": 3}, "rejected"),
        ({"prompt": None, "chosen": "Yes", "rejected": "No."}, "prompt"),
        ({"chosen": [USER, {"role": "gpt", "content": "x"}], "rejected": [USER, NO]}, "chosen[1].role"),
        ({"chosen": [USER, {"role": "assistant"}], "rejected": [USER, NO]}, "chosen[1].content"),
        ({"chosen": [USER, "x"], "rejected": [USER, NO]}, "chosen[1]"),
        ({"chosen": [], "rejected": [USER, NO]}, "chosen"),
    ],
)
def test_a_field_of_another_kind_is_a_bad_field(row: dict, detail: str) -> None:
    drop = dropped(row)
    assert (drop.rule, drop.detail) == ("bad_field", detail)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ColumnMissing) as caught:
        read({"chosen": "The Danube.", "rejected": "No."})
    assert caught.value.column == "prompt"
    with pytest.raises(ColumnMissing) as caught:
        read({"chosen": [USER, YES], "rejected": [USER, NO]}, chosen_score="score_w")
    assert caught.value.column == "score_w"


@pytest.mark.parametrize(
    ("chosen", "rejected", "rule"),
    [
        ([USER, YES], [{"role": "user", "content": "Name a lake."}, NO], "context_differs"),
        ([USER, YES], [USER, {"role": "assistant", "content": "\n"}], "empty_message"),
        ([USER, YES], [USER, {"role": "system", "content": "No."}], "not_alternating"),
        ([USER, USER, YES], [USER, USER, NO], "not_alternating"),
        ([{"role": "system", "content": "Be brief."}, YES], [{"role": "system", "content": "Be brief."}, NO], None),
    ],
)
def test_the_row_rules_hold_for_message_lists(chosen: list, rejected: list, rule: str | None) -> None:
    assert dropped({"chosen": chosen, "rejected": rejected}).rule == (rule or "not_alternating")


@pytest.mark.shared_rows
def test_native_rows_of_published_sets_are_understood(shared_rows: Path) -> None:
    capybara = {"chosen_score": "rating_chosen", "rejected_score": "rating_rejected", "chosen_model": "chosen_model"}
    orca = {"prompt": "input", "system": "system", "chosen_score": "chosen_score", "extra_status": "status"}
    for file, columns in {
        "capybara_dpo": capybara,
        "orca_dpo_argilla": orca,
        "orca_dpo_intel": {"prompt": "question", "system": "system"},
        "skywork_80k_v02": {},
        "tulu3_preference": {},
    }.items():
        path = shared_rows / f"data/native_samples/{file}.handmade.jsonl"
        examples = [read(row, **columns) for _, row in read_rows(path, path.name)]
        assert examples


REPLIES = {"chosen": "The Danube.", "rejected": "No."}


def test_the_input_of_an_instruction_goes_on_with_the_prompt() -> None:
    row = {"task": "Put into capitals.", "more": "a river", **REPLIES}
    assert read(row, prompt="task", prompt_input="more").messages == [
        {"role": "user", "content": "Put into capitals.\n\na river"}
    ]
    for empty in ("", " \n", None):
        (turn,) = read({**row, "more": empty}, prompt="task", prompt_input="more").messages
        assert turn["content"] == "Put into capitals."


def test_a_column_may_be_a_field_of_an_object() -> None:
    row = {"question": {"text": "Name a river."}, "a.b": "The Danube.", "rejected": "No."}
    example = read(row, prompt="question.text", chosen="a.b")
    assert (example.messages, example.responses[0].text) == ([USER], "The Danube.")
    assert dropped({**row, "question": {}}, prompt="question.text", chosen="a.b").detail == "question.text"
    assert dropped({**row, "question": "text"}, prompt="question.text", chosen="a.b").rule == "bad_field"
    missing = dropped({"rejected": "No.", "chosen": "The Danube."}, prompt="question.text")
    assert isinstance(missing, ColumnMissing)
    assert missing.column == "question.text"


@pytest.mark.parametrize("part", [{"type": "text", "text": "No."}, {"type": "text", "value": "No."}])
def test_a_message_of_one_text_part_is_its_text_and_other_parts_are_bad_fields(part: dict) -> None:
    parts = {"prompt": [USER], "chosen": [YES], "rejected": [{**NO, "content": [part]}]}
    assert read(parts).responses[1].text == "No."
    for content in ([part, part], [], [{"type": "image"}], [{**part, "type": "image"}]):
        assert dropped({**parts, "rejected": [{**NO, "content": content}]}).rule == "bad_field"
