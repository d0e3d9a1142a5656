"""A look at a source tells what a build would, and keeps nothing."""

import gzip
import json
from pathlib import Path

import pytest

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.hub import resolve_files
from rm_workflow.preferences import preview as preview_module
from rm_workflow.preferences import raw
from rm_workflow.preferences.preview import preview
from rm_workflow_tests.preferences import sources
from rm_workflow_tests.preferences.sources import hh_row, write_lines

GOOD = [hh_row(f"Question {number}?", f"Good {number}.", f"Bad {number}.") for number in range(200)]


def test_a_preview_shows_what_the_first_rows_were_understood_as(tmp_path: Path) -> None:
    write_lines(tmp_path / "in/train.jsonl", [GOOD[0], "{broken", GOOD[1], GOOD[2]])
    entry = sources.source(tmp_path / "in")
    shown = preview("tiny", entry, resolve_files(entry, sources.settings(tmp_path)), 3)
    (file,) = shown["files"]
    assert (file["file"], file["split"], file["columns"]) == ("train.jsonl", "train", ["chosen", "rejected"])
    understood, broken, _ = file["rows"]
    assert understood["messages"] == [{"role": "user", "content": "Question 0?"}]
    assert [response["text"] for response in understood["responses"]] == ["Good 0.", "Bad 0."]
    assert (broken["row"], broken["rule"]) == (2, "broken_line")
    assert (file["num_rows"], file["num_used"], file["dropped"]["broken_line"]) == (4, 3, 1)
    json.dumps(shown)


GZIPPED = gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD * 50).encode())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train.jsonl", b""),
        ("train.jsonl", b'{"better": "Yes.", "worse": "No."}\n' * 9),
        ("train.jsonl", b'{"chosen": "Yes.", "rejected": "No."}\n' * 9),
        ("train.jsonl", b"{broken\n" + json.dumps(GOOD[0]).encode() + b"\n"),
        ("train.jsonl.gz", GZIPPED[: len(GZIPPED) // 2]),
        ("train.parquet", b"PAR1"),
        ("train.csv", b"chosen,rejected\n"),
    ],
)
def test_a_preview_refuses_what_the_build_refuses_in_the_same_words(tmp_path: Path, file: str, content: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / file).write_bytes(content)
    (tmp_path / "out").mkdir()
    entry = sources.source(tmp_path / "in", file=file)
    files = resolve_files(entry, sources.settings(tmp_path))
    with pytest.raises(UserError) as refusal:
        raw.build_raw("tiny", entry, files, tmp_path / "out")
    assert preview("tiny", entry, files)["refused"] == str(refusal.value)


def _two_files(folder: Path, *files: str) -> Source:
    return sources.source(folder).model_copy(update={"files": {"train": list(files)}})


def test_a_preview_of_several_files_tells_what_the_build_tells_first(tmp_path: Path) -> None:
    for file in ("b.jsonl", "a.jsonl"):
        write_lines(tmp_path / "in" / file, [{"chosen": f"{file}?", "rejected": "No."}] * 3)
    (tmp_path / "out").mkdir()
    entry = _two_files(tmp_path / "in", "b.jsonl", "a.jsonl")
    files = resolve_files(entry, sources.settings(tmp_path))
    with pytest.raises(UserError) as refusal:
        raw.build_raw("tiny", entry, files, tmp_path / "out")
    assert preview("tiny", entry, files)["refused"] == str(refusal.value)


def test_a_preview_tells_its_progress_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_module, "PROGRESS_ROWS", 2)
    for file in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / "in" / file, GOOD[:3])
    entry = _two_files(tmp_path / "in", "a.jsonl", "b.jsonl")
    seen: list[int] = []
    preview("tiny", entry, resolve_files(entry, sources.settings(tmp_path)), 1, lambda rows, _: seen.append(rows))
    assert seen == [2, 5]
