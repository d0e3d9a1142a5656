import json
from typing import Any

from rm_workflow.assets.publishing import (
    MAX_CELL_CHARACTERS,
    MAX_METADATA_CHARACTERS,
    MAX_TABLE_BYTES,
    MAX_TABLE_ROWS,
    markdown,
    presented,
    table,
)

MEGABYTE = "reply " * (1 << 18)


def records(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table(rows).records]  # type: ignore[attr-defined]


def test_people_read_four_digits():
    score = 0.5913978494623656
    row = {"name": "test", "score": score, "n": 467, "rate": 5.123456e-6, "seconds": 12345.678, "known": True}
    assert records([row]) == [{**row, "score": 0.5914, "rate": 5.123e-06, "seconds": 12346.0}]
    assert presented({"test_score": score, "n": 467}) == {"test_score": 0.5914, "n": 467}
    assert row["score"] == score


def test_what_is_no_number_is_a_word():
    assert records([{"score": float("nan"), "margin": float("-inf"), "ties": None}]) == [
        {"score": "nan", "margin": "-inf", "ties": None}
    ]


def test_a_cell_of_a_megabyte_is_cut_with_a_mark():
    ((cell,),) = ([*record.values()] for record in records([{"warning": MEGABYTE}]))
    assert cell[:MAX_CELL_CHARACTERS] == MEGABYTE[:MAX_CELL_CHARACTERS]
    assert cell[MAX_CELL_CHARACTERS:] == " … (1,572,864 characters, cut)"
    for entry in (presented({"text": MEGABYTE})["text"], markdown(MEGABYTE).value):
        assert len(entry) < MAX_METADATA_CHARACTERS + 50
        assert entry.endswith("(1,572,864 characters, cut)")


def test_a_table_has_so_many_rows_and_says_how_many_are_left_out():
    shown = records([{"value": f"{n}", "labels": n} for n in range(2_000)])
    assert shown[:MAX_TABLE_ROWS] == [{"value": f"{n}", "labels": n} for n in range(MAX_TABLE_ROWS)]
    assert shown[MAX_TABLE_ROWS:] == [{"value": "… and 1,500 more rows", "labels": None}]
    assert len(records([{"value": n} for n in range(MAX_TABLE_ROWS)])) == MAX_TABLE_ROWS


def test_a_table_of_long_texts_has_so_many_bytes():
    shown = records([{"row": n, "text": "é" * 900} for n in range(200)])
    assert len(json.dumps(shown[:-1]).encode()) <= MAX_TABLE_BYTES + 2 * len(shown)
    assert len(json.dumps([*shown[:-1], {"row": 0, "text": "é" * 900}]).encode()) > MAX_TABLE_BYTES
    assert shown[-1] == {"row": f"… and {200 - len(shown) + 1} more rows", "text": None}


def test_an_empty_table_has_no_columns():
    assert records([]) == []
