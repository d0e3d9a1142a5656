import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.errors import UserError
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.revisions import compare
from rm_workflow_tests.preferences.sources import write_lines


def as_file(path: Path) -> SourceFile:
    return SourceFile("train", path.name, path, f"org/rows/{path.name}", file_sha256(path))


def lines(folder: Path, *rows: Any, name: str = "train.jsonl") -> SourceFile:
    write_lines(folder / name, rows)
    return as_file(folder / name)


def parquet(folder: Path, rows: list[dict[str, Any]]) -> SourceFile:
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return as_file(folder / "train.parquet")


def test_equal_bytes_are_the_same_and_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "train.unknown").write_text("not rows")
    file = as_file(tmp_path / "train.unknown")
    (found,) = compare([file], [file])
    assert (found["change"], found["rows_before"]) == ("same", None)


def test_rows_are_lines_and_broken_ones_count(tmp_path: Path) -> None:
    before = lines(tmp_path / "a", {"text": "one\u2028line"}, "{broken", {"text": "two"})
    (found,) = compare([before], [lines(tmp_path / "b", {"text": "one"})])
    assert (found["rows_before"], found["rows_after"]) == (3, 1)
    assert (found["added"], found["removed"], found["retyped"]) == ([], [], [])


def test_a_column_is_added_removed_or_has_other_types(tmp_path: Path) -> None:
    before = lines(tmp_path / "a", {"gone": 1, "score": 1, "maybe": None, "flag": True}, {"score": 0.5})
    after = lines(tmp_path / "b", {"new": 1, "score": "1", "maybe": "text", "flag": 1})
    (found,) = compare([before], [after])
    assert (found["added"], found["removed"]) == (["new"], ["gone"])
    assert found["retyped"] == [
        "flag: boolean -> integer",
        "maybe: null -> string",
        "score: integer or number -> string",
    ]


@pytest.mark.parametrize("write", [lambda folder, rows: lines(folder, *rows), parquet], ids=["jsonl", "parquet"])
def test_what_stands_inside_a_column_is_compared_too(tmp_path: Path, write: Any) -> None:
    before = write(tmp_path / "a", [{"messages": [{"role": "user", "content": "Hi"}]}])
    after = write(tmp_path / "b", [{"messages": [{"from": "user", "content": ["Hi"]}]}])
    (found,) = compare([before], [after])
    assert found["added"] == ["messages[].content[]", "messages[].from"]
    assert found["removed"] == ["messages[].role"]
    assert found["retyped"] == ["messages[].content: string -> list"]


def test_a_file_on_one_side_only_is_added_or_removed(tmp_path: Path) -> None:
    old, new = lines(tmp_path, {"a": 1}, name="old.jsonl"), lines(tmp_path, {"a": 1}, {"a": 2}, name="new.jsonl")
    removed, added = compare([old], [new])
    assert (removed["file"], removed["change"], removed["rows_before"]) == ("old.jsonl", "removed", 1)
    assert (added["file"], added["change"], added["rows_after"]) == ("new.jsonl", "added", 2)


def test_a_damaged_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    good = parquet(tmp_path / "a", [{"a": 1}])
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"org/rows/train\.parquet: no Parquet file \(.*\); fetch it again"):
        compare([good], [as_file(tmp_path / "train.parquet")])


def test_the_difference_is_json(tmp_path: Path) -> None:
    before, after = lines(tmp_path / "a", {"a": 1}), lines(tmp_path / "b", {"a": "1"})
    assert json.loads(json.dumps(compare([before], [after])))[0]["retyped"] == ["a: integer -> string"]
