"""``rmw rank`` and ``rmw filter``, and Parquet, mixed and empty files in all three verbs over rows."""

import datetime
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.evaluation.row_verbs import read_conversation, read_each
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow_tests.cli.test_score import ROWS, checkpoint, quiet_machine, read, rmw, write_lines

__all__ = ["checkpoint", "quiet_machine"]

LISTS = [
    {"prompt": "Name a river.", "responses": ["No.", "The Danube.", "The Danube is long."], "id": 7},
    {"prompt": [{"role": "user", "content": "Is Paris a river?"}], "responses": ["No."]},
    {"prompt": "Yes?", "responses": ["Yes.", "No.", "Yes."]},
]
USER = [{"role": "user", "content": "Name a river."}]
SIDES = {
    side: [{"role": "assistant", "content": reply}] for side, reply in (("chosen", "The Danube."), ("rejected", "No."))
}
# One pair in each form, so that all three have the same scores.
PAIRS = [
    {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."},
    {"prompt": USER, **SIDES},
    {side: [*USER, *reply] for side, reply in SIDES.items()},
    {"prompt": "Is Paris a river?", "chosen": "Yes.", "rejected": "The Danube is long.", "source": "mine"},
]


def expected(checkpoint: Path, prompt: str, replies: list[str]) -> list[float]:
    turns = [{"role": "user", "content": prompt}]
    return list(Scorer.load(checkpoint).score_texts([(turns, reply) for reply in replies])[0])


def run(
    monkeypatch: pytest.MonkeyPatch, verb: str, checkpoint: object, file: object, out: object, *more: object
) -> int:
    return rmw(monkeypatch, verb, checkpoint, file, "-o", out, "--precision", "fp32", *more)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_rank_gives_each_reply_its_score_and_names_the_best(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
):
    file, out = write_lines(tmp_path / "in.jsonl", LISTS), tmp_path / "out.jsonl"

    assert run(monkeypatch, "rank", checkpoint, file, out) == 0

    ranked = read(out)
    assert [{key: row[key] for key in row if key not in ("scores", "best")} for row in ranked] == LISTS
    scores = expected(checkpoint, "Name a river.", LISTS[0]["responses"])
    assert ranked[0]["scores"] == pytest.approx(scores, abs=1e-5)
    assert ranked[0]["best"] == scores.index(max(scores))
    assert ranked[2]["scores"][0] == ranked[2]["scores"][2]
    assert ranked[2]["best"] in (0, 1), "of equal scores the first is the best"


def test_filter_gives_pairs_of_every_form_their_scores_and_keeps_all_without_a_bound(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
):
    file, out = write_lines(tmp_path / "in.jsonl", PAIRS), tmp_path / "out.jsonl"

    assert run(monkeypatch, "filter", checkpoint, file, out) == 0

    filtered = read(out)
    chosen, rejected = expected(checkpoint, "Name a river.", ["The Danube.", "No."])
    for row in filtered[:3]:
        assert [row["score_chosen"], row["score_rejected"]] == pytest.approx([chosen, rejected], abs=1e-5)
    assert all(row["score_gap"] == row["score_chosen"] - row["score_rejected"] for row in filtered)
    assert filtered[3]["source"] == "mine"


def test_filter_leaves_out_what_is_below_the_bound_and_goes_on_after_a_kill(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    rows = [row for both in zip(PAIRS, swapped, strict=True) for row in both]
    file, out, whole = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", tmp_path / "all.jsonl"
    run(monkeypatch, "filter", checkpoint, file, whole)
    wanted = [row for row in read(whole) if row["score_gap"] >= 0.01]
    assert 0 < len(wanted) < len(rows)

    capsys.readouterr()
    assert run(monkeypatch, "filter", checkpoint, file, out, "--min-margin", "0.01") == 0
    assert read(out) == wanted
    assert f"{len(rows)} rows scored, {len(rows) - len(wanted)} left out" in capsys.readouterr().err

    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(lines[0] + lines[1] + lines[2][:20])
    assert run(monkeypatch, "filter", checkpoint, file, out, "--min-margin", "0.01") == 0
    assert out.read_bytes() == b"".join(lines)


def test_an_output_of_another_bound_is_not_continued(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, out = write_lines(tmp_path / "in.jsonl", PAIRS), tmp_path / "out.jsonl"
    run(monkeypatch, "filter", checkpoint, file, out)
    gaps = sorted(row["score_gap"] for row in read(out))
    everything = out.read_bytes()

    assert run(monkeypatch, "filter", checkpoint, file, out, "--min-margin", gaps[-1] + 1) == 1
    assert "was not begun by this command" in error_of(capsys)
    assert out.read_bytes() == everything

    # The last row alone, as a run with another bound would leave it.
    last = everything.splitlines(keepends=True)[-1]
    out.write_bytes(last)
    assert run(monkeypatch, "filter", checkpoint, file, out, "--min-margin", gaps[0]) == 1
    assert "leaves out line 1, which is above --min-margin" in error_of(capsys)
    assert out.read_bytes() == last


@pytest.mark.parametrize(
    ("verb", "bad", "said", "nulls"),
    [
        ("rank", {"prompt": "Hi", "responses": []}, "field responses is empty; give at least one entry", "scores"),
        ("rank", {"prompt": "Hi", "responses": ["a", 3]}, "responses[1]: it is 3; it must be text", "best"),
        (
            "rank",
            {"prompt": "Hi", "responses": ["", "a", " "]},
            "2 entries cannot be scored: responses[0]: it is",
            "best",
        ),
        ("rank", {"prompt": "Hi", "responses": ["a", None]}, "responses[1]: it is null; it must be text", "best"),
        ("rank", {"prompt": "Hi", "responses": "a"}, "field responses is 'a'", "best"),
        ("rank", {"responses": ["a"]}, "field prompt is missing", "best"),
        ("rank", {"prompt": "Hi", "responses": ["a", "b<|im_end|>"]}, "holds <|im_end|>", "best"),
        ("filter", {"prompt": "Hi", "chosen": "a"}, "rejected", "score_gap"),
        ("filter", {"prompt": "Hi", "chosen": "a", "rejected": 3}, "rejected", "score_gap"),
        (
            "filter",
            {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"},
            "does not end in an assistant turn",
            "score_chosen",
        ),
    ],
)
def test_a_bad_row_of_rank_and_filter_stops_or_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    verb: str,
    bad: dict[str, Any],
    said: str,
    nulls: str,
    capsys: pytest.CaptureFixture[str],
):
    good = LISTS[0] if verb == "rank" else PAIRS[0]
    file, out = write_lines(tmp_path / "in.jsonl", [good, bad, good]), tmp_path / "out.jsonl"

    assert run(monkeypatch, verb, checkpoint, file, out) == 1
    told = error_of(capsys)
    assert "in.jsonl: line 2: " in told
    assert said in told

    first = write_lines(tmp_path / "first.jsonl", [bad, good])
    for name in ("first.out.jsonl", "first.parquet"):
        assert run(monkeypatch, verb, checkpoint, first, tmp_path / name) == 1
        assert "first.jsonl: line 1: " in error_of(capsys)
    assert [path.name for path in tmp_path.glob("first.*")] == ["first.jsonl"]  # no row, no output

    assert run(monkeypatch, verb, checkpoint, file, out, "--skip-bad") == 0
    rows = read(out)
    assert len(rows) == 3
    assert rows[1][nulls] is None
    assert said in rows[1]["error"]
    assert rows[2] == rows[0]
    assert run(monkeypatch, verb, checkpoint, file, out, "--skip-bad") == 0
    assert read(out) == rows


@pytest.mark.parametrize(
    ("verb", "rows"), [("score", ROWS[:1] + ROWS[3:]), ("rank", LISTS[::2]), ("filter", PAIRS[:1])]
)
def test_parquet_in_and_out_gives_what_json_lines_do(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, verb: str, rows: list[dict[str, Any]]
):
    lines = write_lines(tmp_path / "in.jsonl", rows)
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), tmp_path / "in.parquet")
    run(monkeypatch, verb, checkpoint, lines, tmp_path / "out.jsonl")

    for file in (lines, tmp_path / "in.parquet"):
        out = tmp_path / f"{file.suffix[1:]}.parquet"
        assert run(monkeypatch, verb, checkpoint, file, out) == 0
        found = [
            {key: value for key, value in row.items() if value is not None} for row in pq.read_table(out).to_pylist()
        ]
        assert found == read(tmp_path / "out.jsonl")
        assert [path.name for path in tmp_path.glob("*.part*")] == []
        before = out.read_bytes()
        assert run(monkeypatch, verb, checkpoint, file, out) == 0
        assert out.read_bytes() == before


def test_a_killed_parquet_output_goes_on_and_one_of_fewer_rows_too(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, part = tmp_path / "out.parquet", tmp_path / "out.parquet.part.jsonl"
    rows = [{"prompt": "Name a river.", "response": "The Danube." * n, "n": n} for n in range(1, 6)]
    short, whole = (write_lines(tmp_path / f"{n}.jsonl", rows[:n]) for n in (3, 5))
    run(monkeypatch, "score", checkpoint, short, tmp_path / "killed.jsonl")
    lines = (tmp_path / "killed.jsonl").read_bytes().splitlines(keepends=True)
    part.write_bytes(lines[0] + lines[1][:9])
    capsys.readouterr()

    assert run(monkeypatch, "score", checkpoint, short, out) == 0
    assert "2 rows scored, 1 were there already" in capsys.readouterr().err
    assert run(monkeypatch, "score", checkpoint, whole, out) == 0
    assert "2 rows scored, 3 were there already" in capsys.readouterr().err
    assert pq.read_table(out)["n"].to_pylist() == [1, 2, 3, 4, 5]
    assert not part.exists()

    assert run(monkeypatch, "score", checkpoint, short, out) == 1
    assert "was not begun by this command" in error_of(capsys)
    assert not part.exists()
    out.write_text("my notes")
    assert run(monkeypatch, "score", checkpoint, short, out) == 1
    assert "exists and is no Parquet file" in error_of(capsys)
    assert out.read_text() == "my notes"


def test_rows_without_a_common_schema_stay_as_lines_where_parquet_was_asked(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"prompt": "a", "response": "b", "tag": 1}, {"prompt": "a", "response": "c", "tag": "x"}]
    file = write_lines(tmp_path / "in.jsonl", rows)

    assert run(monkeypatch, "score", checkpoint, file, tmp_path / "out.parquet") == 1

    told = error_of(capsys)
    assert "field tag is of several kinds" in told
    assert f"the rows stand in {tmp_path}/out.parquet.part.jsonl" in told
    assert len(read(tmp_path / "out.parquet.part.jsonl")) == 2


def test_values_of_parquet_that_json_lacks_become_text_and_bytes_are_told(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    row = {"prompt": "a", "response": "b", "day": datetime.date(2026, 1, 2), "x": float("nan"), "messages": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    assert run(monkeypatch, "score", checkpoint, tmp_path / "in.parquet", tmp_path / "out.jsonl") == 0
    (scored,) = read(tmp_path / "out.jsonl")
    assert (scored["day"], scored["x"]) == ("2026-01-02", None)

    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "response": b"b"}]), tmp_path / "in.parquet")
    assert run(monkeypatch, "score", checkpoint, tmp_path / "in.parquet", tmp_path / "bytes.jsonl") == 1
    assert "in.parquet: row 0: field response holds bytes" in error_of(capsys)


@pytest.mark.parametrize("empty", [b"", b"\n \n", "parquet"])
def test_an_input_without_rows_is_refused_and_leaves_no_output(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    empty: bytes | str,
    capsys: pytest.CaptureFixture[str],
):
    file = tmp_path / "in"
    if isinstance(empty, bytes):
        file.write_bytes(empty)
    else:
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), file)

    assert run(monkeypatch, "rank", checkpoint, file, tmp_path / "out.jsonl") == 1
    assert error_of(capsys) == f"error: {file}: there is no row to read; give at least one"
    assert not (tmp_path / "out.jsonl").exists()


def test_parquet_from_stdin_is_told(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "in.parquet")
    stdin = io.BufferedReader(io.BytesIO((tmp_path / "in.parquet").read_bytes()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))

    assert run(monkeypatch, "score", checkpoint, "-", tmp_path / "out.jsonl") == 1
    assert "stdin is a Parquet file, which cannot be read from a stream; name the file" in error_of(capsys)


def test_a_terminal_of_60_columns_without_colour_shows_progress_and_speed(checkpoint: Path, tmp_path: Path):
    file, out = write_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "NO_COLOR": "1", "TERM": "xterm", "RMW_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "rm_workflow.cli.main", "score", str(checkpoint), str(file), "-o", str(out)]
    process = subprocess.Popen(command, stderr=theirs, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while process.poll() is None or shown == b"":
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == 0
    text = shown.decode()
    assert "scoring" in text
    assert "responses/s" in text
    assert "5/5" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text), "no colour"
    bars = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part) for part in re.split(r"[\r\n]+", text)]
    assert [bar for bar in bars if bar.startswith("scoring") and len(bar) > 60] == []
    assert json.loads(out.read_bytes().splitlines()[0])["score"] is not None


def test_rows_are_read_once_and_those_that_cannot_be_are_told_by_their_place():
    met: list[dict[str, Any]] = []

    def read(entry: dict[str, Any]) -> Any:
        met.append(entry)
        return read_conversation(entry)

    rows = [{"prompt": "a", "response": reply} for reply in ("b", None, "c")]
    good, problems = read_each(rows, read)
    assert met == rows
    assert [reply for _, reply in good] == ["b", "c"]
    assert problems == {1: "field response is null; it must be text"}
