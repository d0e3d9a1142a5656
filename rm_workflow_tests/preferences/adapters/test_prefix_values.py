import gzip
import json
from pathlib import Path

import pytest

from rm_workflow.preferences.tables import RowDropped
from rm_workflow_tests.preferences.adapters.maths import read, said


def row(*starts: tuple[str, object]) -> dict:
    return {"question": "2 + 3?", "reasoning_steps": [{"solution_prefix": t, "mc_value": v} for t, v in starts]}


def test_each_start_is_labelled_at_its_own_end_and_cut_where_shorter_starts_end():
    example = read(
        row(("2 + 3?", 0.75), ("2 + 3?\n\nAdd.", 0.5), ("2 + 3?\n\nAdd. It is 5.", 1.0), ("2 + 3? No.", 0)),
        "prefix_values",
    )
    assert said(example) == [
        ("1", ["Add."], [("soft", 0.5, 0)]),
        ("2", ["Add.", "It is 5."], [("soft", 1.0, 1)]),
        ("3", ["No."], [("soft", 0.0, 0)]),
    ]


@pytest.mark.parametrize(
    "starts",
    [[("2 + 3?", 0.5)], [("2 + 3? 5.", 1.5)], [("2 + 3? 5.", None)], [("4? 5.", 0.5)], []],
)
def test_a_row_without_values_of_starts_is_a_bad_field(starts: list):
    with pytest.raises(RowDropped) as caught:
        read(row(*starts), "prefix_values")
    assert caught.value.rule == "bad_field"


@pytest.mark.shared_rows
def test_every_value_of_the_real_rows_is_one_label(shared_rows: Path):
    path = shared_rows / "data/prm_native_samples/samples_math-aps.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for native in map(json.loads, lines):
            expected = [
                one["mc_value"]
                for one in native["reasoning_steps"]
                if one["solution_prefix"].strip() != native["question"].strip()
            ]
            responses = read(native, "prefix_values").responses
            assert [label.value for response in responses for label in response.labels] == expected
            for response in responses:
                assert response.step_ends[response.labels[0].step] == len(response.text.rstrip())
