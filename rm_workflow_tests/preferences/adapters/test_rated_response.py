import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.preferences import adapters
from rm_workflow.preferences.adapters import rated_response
from rm_workflow.preferences.tables import ColumnMissing, Example

ROW = {"prompt": "Name a river.", "response": "The Danube.", "helpfulness": 4, "correctness": "3", "verbosity": None}
COLUMNS = {"rating_help": "helpfulness", "rating_correct": "correctness", "rating_length": "verbosity"}


def read(row: dict, form: str = "plain", **columns: str) -> Example:
    location = {"path": "f", "files": {"train": ["a.jsonl"]}, "licence": "CC0"}
    source = Source(**location, adapter="rated_response", columns={**COLUMNS, **columns}, prompt_form=form)
    adapters.check_source("mine", source)
    return rated_response.read(row, source)


def test_a_row_is_one_response_with_its_ratings() -> None:
    example = read(ROW)
    assert example.messages == [{"role": "user", "content": "Name a river."}]
    (response,) = example.responses
    assert (response.slot, response.text) == ("0", "The Danube.")
    assert response.ratings == {"help": 4.0, "correct": 3.0}


def test_turns_between_nvidias_marks_are_turns() -> None:
    prompt = "Hello\n<extra_id_1>Assistant\nHi, how can I help?\n<extra_id_1>User\nSpell 'rhythm'."
    assert read({**ROW, "prompt": prompt}, form="extra_id").messages == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi, how can I help?"},
        {"role": "user", "content": "Spell 'rhythm'."},
    ]
    assert len(read({**ROW, "prompt": prompt}).messages) == 1


def test_a_rating_whose_column_is_missing_is_named() -> None:
    with pytest.raises(ColumnMissing) as caught:
        read(ROW, rating_style="style")
    assert caught.value.column == "style"
