import json
from pathlib import Path

import duckdb
import pytest

from rm_workflow.errors import UserError
from rm_workflow.preferences.decontamination.targets import load_targets
from rm_workflow_tests.preferences.raw_tables import write_benchmark


def load(benchmarks: dict[str, Path], files: dict[str, Path]) -> tuple[list, list]:
    with duckdb.connect() as con:
        load_targets(con, benchmarks, files)
        turns = con.execute("select * from target_turns order by all").fetchall()
        return turns, con.execute("select * exclude prompt_id from target_responses order by all").fetchall()


def test_benchmarks_give_their_user_turns_and_responses_in_the_order_named(tmp_path: Path):
    turns = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Two?"},
    ]
    late = write_benchmark(tmp_path / "late", {"a": turns}, {"a": ["First", "Second"]})
    early = write_benchmark(tmp_path / "early", {"b": "Three?"})
    assert load({"late": late, "early": early}, {}) == (
        [
            (0, "late", "a", "made 0", 1, "One?"),
            (0, "late", "a", "made 0", 2, "Two?"),
            (1, "early", "b", "made 0", 1, "Three?"),
        ],
        [(0, "late", "a", "made 0", "First"), (0, "late", "a", "made 0", "Second")],
    )


def test_lines_of_text_files_are_prompts_behind_the_benchmarks(tmp_path: Path):
    (tmp_path / "own.txt").write_bytes("\ufeffFirst\u2028line\r\n\n  \nFourth".encode())
    rows = [{"text": "Caf\u00e9"}, {"prompt": "P", "text": "T"}, {"prompt": "half \ud800 a pair"}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    turns, responses = load({}, {name: tmp_path / name for name in ("own.txt", "own.jsonl")})
    assert turns == [
        (0, "own.txt", "line 1", "", 1, "First\u2028line"),
        (0, "own.txt", "line 4", "", 1, "Fourth"),
        (1, "own.jsonl", "line 1", "", 1, "Café"),
        (1, "own.jsonl", "line 2", "", 1, "T"),
        (1, "own.jsonl", "line 3", "", 1, "half ? a pair"),
    ]
    assert responses == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "own.txt",
            b"\n \n",
            "own.txt has no text to compare with; add one or take it out of mixture.decontaminate_files",
        ),
        ("own.txt", b"caf\xe9", "own.txt is not UTF-8 at byte 3; convert it"),
        ("own.jsonl", b'{"text": "a"}\n{"text": ', "own.jsonl: line 2 is not JSON"),
        ("own.jsonl", b"[" * 100_000, "own.jsonl: line 1 is not JSON"),
        ("own.jsonl", b'{"question": "a"}', "own.jsonl: line 1 has no text under text or prompt; name the field so"),
        ("own.jsonl", b'{"text": 7}', "own.jsonl: line 1 has no text under text or prompt"),
        ("own.jsonl", b'["text"]', "own.jsonl: line 1 has no text under text or prompt"),
        ("gone.txt", None, "gone.txt cannot be read (No such file or directory); mend mixture.decontaminate_files"),
    ],
)
def test_a_text_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load({}, {name: tmp_path / name})
    assert str(error.value).startswith(message)
