import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.preferences import adapters


def entry(adapter: str, columns: dict[str, str]) -> Source:
    return Source(path="folder", files={"train": ["a.jsonl"]}, adapter=adapter, columns=columns, licence="CC0")


def test_each_file_is_an_adapter() -> None:
    assert adapters.names() == [
        *("chosen_rejected", "hh_transcript", "labelled_answers", "labelled_list", "labelled_pair"),
        *("labelled_steps", "marked_steps", "outcome_turn", "prefix_values", "rated_response", "reference_answer"),
        *("scored_completions", "step_ratings", "step_turns", "wrong_steps"),
    ]
    for name in adapters.names():
        assert adapters.get(name).COLUMNS


def test_an_unknown_adapter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"source 'mine': adapter 'hh_transcripts' .*did you mean 'hh_transcript'"):
        adapters.check_source("mine", entry("hh_transcripts", {}))


def test_a_misspelt_field_under_columns_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"source 'mine': columns: .*'choosen' \(did you mean 'chosen'"):
        adapters.check_source("mine", entry("chosen_rejected", {"choosen": "winner"}))


@pytest.mark.parametrize(
    ("adapter", "fields", "said"),
    [
        ("outcome_turn", {}, "adapter outcome_turn needs 'solution_starts'.*solution_starts: \"Step 1:\""),
        ("marked_steps", {"solution_starts": "Step 1:"}, "adapter marked_steps needs 'step_separator'"),
        ("labelled_answers", {"solution_starts": "Step 1:"}, "adapter labelled_answers reads no 'solution_starts'"),
        ("wrong_steps", {"neutral": "positive"}, "adapter wrong_steps reads no 'neutral'"),
        ("chosen_rejected", {"step_separator": "\n"}, "adapter chosen_rejected reads no 'step_separator'"),
    ],
)
def test_a_field_of_worked_solutions_is_refused_where_it_is_not_read_and_missed_where_it_is_needed(
    adapter: str, fields: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=f"source 'mine': {said}"):
        adapters.check_source("mine", entry(adapter, {}).model_copy(update=fields))


def test_a_column_may_be_carried_along_for_a_rule() -> None:
    adapters.check_source("mine", entry("chosen_rejected", {"extra_status": "status"}))
