import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.preferences import adapters


def entry(adapter: str, columns: dict[str, str]) -> Source:
    return Source(path="folder", files={"train": ["a.jsonl"]}, adapter=adapter, columns=columns, licence="CC0")


def test_each_file_is_an_adapter() -> None:
    assert adapters.names() == [
        *("chosen_rejected", "hh_transcript", "labelled_list", "labelled_pair", "rated_response", "scored_completions"),
    ]
    for name in adapters.names():
        assert adapters.get(name).COLUMNS


def test_an_unknown_adapter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"source 'mine': adapter 'hh_transcripts' .*did you mean 'hh_transcript'"):
        adapters.check_source("mine", entry("hh_transcripts", {}))


def test_a_misspelt_field_under_columns_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"source 'mine': columns: .*'choosen' \(did you mean 'chosen'"):
        adapters.check_source("mine", entry("chosen_rejected", {"choosen": "winner"}))


def test_a_column_may_be_carried_along_for_a_rule() -> None:
    adapters.check_source("mine", entry("chosen_rejected", {"extra_status": "status"}))
