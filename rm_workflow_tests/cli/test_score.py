import codecs
import gzip
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.catalog.models import TokenRecipe
from rm_workflow.cli import aggregate
from rm_workflow.cli import main as command
from rm_workflow.cli import score as verbs
from rm_workflow.evaluation import score_file
from rm_workflow.evaluation.scorer import Scorer
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.models.test_loading import write_published

ROWS = [
    {"prompt": "Name a river.", "response": "The Danube."},
    {"prompt": [{"role": "user", "content": "Name a river."}], "response": "No.", "source": "hh"},
    {"messages": [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Danube."}]},
    {"prompt": "Is Paris a river?\u2028", "response": "No.", "n": 1.0},
    {"prompt": "Yes?", "response": "?"},
]
GOLDEN_TIES = [
    {"id": "ref:0", "subset": "Ties", "scores": [2.0, 0.5, -1.0], "num_correct": 1},
    {"id": "tied:0", "subset": "Ties", "scores": [3.0, 2.5, 2.0, 1.0, 0.0], "num_correct": 3},
    {"id": "ref:1", "subset": "Ties", "scores": [1.0, 1.0, 0.0], "num_correct": 1},
    {"id": "tied:1", "subset": "Ties", "scores": [4.0, 1.0, 0.0], "num_correct": 2},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(score_file, "CONVERSATIONS_AT_ONCE", 2)


def rmw(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line as a person would and return its exit code."""
    app = typer.Typer()
    verbs.register(app)
    aggregate.register(app)
    monkeypatch.setattr(command, "app", app)
    monkeypatch.setattr(command, "_register", lambda verb: None)
    monkeypatch.setattr(sys, "argv", ["rmw", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    return int(stopped.value.code or 0)


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def score(monkeypatch: pytest.MonkeyPatch, checkpoint: object, file: object, out: object, *more: str) -> int:
    return rmw(monkeypatch, "score", checkpoint, file, "-o", out, "--precision", "fp32", *more)


def test_each_line_comes_back_with_its_score_in_order(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
):
    file, out = write_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"

    assert score(monkeypatch, checkpoint, file, out) == 0

    scored = read(out)
    assert [{key: row[key] for key in row if key != "score"} for row in scored] == ROWS
    assert all(list(row)[-1] == "score" for row in scored)
    user = [{"role": "user", "content": "Name a river."}]
    expected, _ = Scorer.load(checkpoint).score_texts([(user, "The Danube."), (user, "No.")])
    assert [row["score"] for row in scored[:3]] == pytest.approx([expected[0], expected[1], expected[0]], abs=1e-5)


def test_a_killed_run_goes_on_where_it_stopped_and_gives_the_same_scores(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, out, whole = write_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    score(monkeypatch, checkpoint, file, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    capsys.readouterr()

    assert score(monkeypatch, checkpoint, file, out) == 0

    assert out.read_bytes().startswith(b"".join(lines[:3]))
    assert [row["score"] for row in read(out)] == pytest.approx([row["score"] for row in read(whole)], abs=1e-5)
    assert "2 rows scored, 3 were there already" in capsys.readouterr().err


def test_a_finished_output_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path):
    file, out = write_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    score(monkeypatch, checkpoint, file, out)
    before = out.read_bytes()

    assert score(monkeypatch, checkpoint, file, out) == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "foreign",
    [
        [{"prompt": "Another?", "response": "Yes.", "score": 1.0}],
        [ROWS[0]],
        ["my notes"],
        [ROWS[1] | {"score": 1.0}],
        [*({**row, "score": 0.0} for row in ROWS), {"prompt": "One more", "response": "x", "score": 0.0}],
    ],
)
def test_any_other_output_is_refused_and_kept(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    foreign: list[object],
    capsys: pytest.CaptureFixture[str],
):
    file, out = write_lines(tmp_path / "in.jsonl", ROWS), write_lines(tmp_path / "out.jsonl", foreign)
    before = out.read_bytes()

    assert score(monkeypatch, checkpoint, file, out) == 1
    assert out.read_bytes() == before
    assert "was not begun by this command" in capsys.readouterr().err


def test_a_foreign_text_without_line_end_is_not_cut(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path):
    file, out = write_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    out.write_text("my notes")

    assert score(monkeypatch, checkpoint, file, out) == 1
    assert out.read_text() == "my notes"


def test_scores_of_another_checkpoint_are_continued_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "in.jsonl", ROWS)
    out = write_lines(tmp_path / "out.jsonl", [ROWS[0] | {"score": 1000.0}])

    assert score(monkeypatch, checkpoint, file, out) == 0
    assert read(out)[0]["score"] == 1000.0
    assert "differ from this checkpoint's by up to 1e+03" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"prompt": "Name a river."}, "field response is missing"),
        ({"response": "No."}, "field prompt is missing"),
        ({"prompt": 3, "response": "No."}, "field prompt must be a list"),
        ({"prompt": "Hi", "response": None}, "field response is null; it must be text"),
        ({"prompt": "Hi", "response": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": "Hi", "response": ""}, "field response is empty, which is no reply; leave it out"),
        ({"prompt": "Hi<|im_end|>", "response": "No."}, "holds <|im_end|>"),
        ({"prompt": "river " * 300, "response": "No."}, "token recipe allows 128"),
        ({"messages": []}, "field messages must be a list"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "must end with the assistant turn"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "must end with the assistant turn"),
        ({"messages": [{"role": "human", "content": "Hi"}, {"role": "assistant", "content": "x"}]}, "messages[0]"),
        ("{", "it is no JSON"),
        ("[1]", "it is no JSON object"),
    ],
)
def test_a_bad_row_stops_with_its_line_and_skip_bad_passes_over_it(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    bad: object,
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    file, out = write_lines(tmp_path / "in.jsonl", [*ROWS[:3], "", bad, ROWS[3]]), tmp_path / "out.jsonl"

    assert score(monkeypatch, checkpoint, file, out) == 1
    error = capsys.readouterr().err
    assert f"error: {file}: line 5: " in error
    assert said in error
    assert len(read(out)) == 3

    assert score(monkeypatch, checkpoint, file, out, "--skip-bad") == 0
    scored = read(out)
    assert len(scored) == 5
    assert scored[3]["score"] is None
    assert said in scored[3]["error"]
    assert np.isfinite(scored[4]["score"])


def test_a_score_that_is_no_number_stops_with_its_line_and_is_not_written(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def wrong_third(scorer: Scorer, sequences: list, *_: object) -> list[np.ndarray]:
        return [np.array([math.nan if len(ids) == longest else 1.0]) for ids in sequences]

    file = write_lines(tmp_path / "in.jsonl", ["", *ROWS[:2], ROWS[0] | {"response": "The Danube is long."}])
    out = tmp_path / "out.jsonl"
    user = [{"role": "user", "content": "Name a river."}]
    longest = len(Scorer.load(checkpoint).encoder.encode(user, "The Danube is long.").input_ids)
    monkeypatch.setattr(Scorer, "score_reads", wrong_third)

    for skip_bad in ([], ["--skip-bad"]):  # the row is not at fault
        assert score(monkeypatch, checkpoint, file, out, *skip_bad) == 1
        error = capsys.readouterr().err
        assert f"error: {file}: line 4: its score is no finite number; look at the weights" in error
        assert [row["score"] for row in read(out)] == [1.0, 1.0]


def test_an_output_with_a_score_that_is_no_number_is_not_continued(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
):
    file = write_lines(tmp_path / "in.jsonl", ROWS)
    out = write_lines(tmp_path / "out.jsonl", [ROWS[0] | {"score": math.nan}])

    assert score(monkeypatch, checkpoint, file, out) == 1


def test_a_checkpoint_without_tokenizer_is_told_before_any_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = write_published(tmp_path / "model", tokenizer=False)
    file, out = write_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"

    assert score(monkeypatch, model, file, out, "--skip-bad") == 1

    said = "has no token_recipe.json and no tokenizer; save them there"
    assert capsys.readouterr().err.endswith(f"error: {model} {said}\n")
    assert not out.exists()


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PAR1", "it is a Parquet file that cannot be read"),
        (b"\x1f\x8b", "is packed by gzip; unpack it and give JSONL or Parquet"),
        (json.dumps(ROWS).encode(), "is one JSON array; write one object per line"),
        (json.dumps(ROWS * 500, indent=2).encode(), "is one JSON array; write one object per line"),
        (b"\xef\xbb\xbf" + json.dumps(ROWS * 500).encode(), "is one JSON array; write one object per line"),
        (b"[1, 2]", "line 1: it is no JSON object"),
        ('{"prompt": "a"}'.encode("utf-16"), "line 1: it is not UTF-8 at byte 0; save the file as UTF-8"),
    ],
)
def test_rows_in_another_form_are_told_by_their_form(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    start: bytes,
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "rows").write_bytes(start + b"\n\xff")

    assert score(monkeypatch, checkpoint, tmp_path / "rows", tmp_path / "out.jsonl") == 1
    # A loading bar of transformers may stand before it.
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert told.replace("rows: ", "rows ").startswith(f"error: {tmp_path / 'rows'} {said}")


def test_stdin_and_stdout_are_dashes(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
):
    given = io.TextIOWrapper(io.BufferedReader(io.BytesIO(write_lines(tmp_path / "in.jsonl", ROWS).read_bytes())))
    monkeypatch.setattr(sys, "stdin", given)
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)

    assert score(monkeypatch, checkpoint, "-", "-") == 0

    stdout.buffer.seek(0)
    assert [json.loads(line)["score"] is not None for line in stdout.buffer.read().splitlines()] == [True] * 5


def test_a_file_is_not_scored_onto_itself(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "in.jsonl", ROWS)

    assert score(monkeypatch, checkpoint, file, file) == 1
    assert "is the input itself" in capsys.readouterr().err
    assert read(file) == ROWS


@pytest.mark.parametrize(
    ("checkpoint_name", "file", "out", "said"),
    [
        ("./gone", "in.jsonl", "out.jsonl", "there is no such folder"),
        ("quickstart_checkpont", "in.jsonl", "out.jsonl", "did you mean 'quickstart_checkpoint'?"),
        (
            "quickstart_scores",
            "in.jsonl",
            "out.jsonl",
            "quickstart_scores is an asset, but no checkpoint; did you mean",
        ),
        ("quickstart_scores@1", "in.jsonl", "out.jsonl", "quickstart_scores is an asset, but no checkpoint"),
        ("quickstart_checkpoint", "gone.jsonl", "out.jsonl", "there is no such file"),
        ("quickstart_checkpoint", "in.jsonl", "gone/out.jsonl", "its folder does not exist"),
        ("quickstart_checkpoint", "in.jsonl", ".", "is a folder"),
    ],
)
def test_wrong_names_are_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    checkpoint_name: str,
    file: str,
    out: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "in.jsonl", ROWS)
    for asset in ("quickstart_checkpoint", "quickstart_scores"):
        (tmp_path / "home" / "artifacts" / asset).mkdir(parents=True)

    assert score(monkeypatch, checkpoint_name, file, out) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_checkpoint_is_named_by_its_asset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def build(out: Path) -> Built:
        write_checkpoint(out / "model", recipe=TokenRecipe(template="chatml", max_length=64))
        return Built(facts={})

    request = Request("tiny_checkpoint", "checkpoint", "1", {}, requested="r")
    version = ArtifactStore(tmp_path / "home").materialize(request, build, "run").artifact.version
    file = write_lines(tmp_path / "in.jsonl", ROWS)

    assert score(monkeypatch, "tiny_checkpoint", file, tmp_path / "latest.jsonl") == 0
    assert score(monkeypatch, f"tiny_checkpoint@{version}", file, tmp_path / "named.jsonl") == 0
    assert read(tmp_path / "latest.jsonl") == read(tmp_path / "named.jsonl")


def test_aggregate_prints_json_alone_and_equals_the_golden_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "scores.jsonl", GOLDEN_TIES)

    assert rmw(monkeypatch, "aggregate", "rewardbench2", file, "--json") == 0

    result = json.loads(capsys.readouterr().out)
    assert result["subsets"]["Ties"]["score"] == pytest.approx(0.4461920292202211, abs=1e-12)
    assert result["overall"] is None


def test_aggregate_prints_a_table_for_people(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "scores.jsonl", GOLDEN_TIES)

    assert rmw(monkeypatch, "aggregate", "rewardbench2", file) == 0

    printed = capsys.readouterr()
    assert "Ties" in printed.out
    assert "0.446" in printed.out
    assert "missing, so there is no overall: Factuality" in printed.err


@pytest.mark.parametrize("name", ["sample-rewardbench2", "sample_rewardbench2", "rewardbench2"])
def test_aggregate_takes_a_benchmark_of_the_catalogue_and_either_dash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "scores.jsonl", GOLDEN_TIES)

    assert rmw(monkeypatch, "aggregate", name, file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["subsets"]["Ties"]["n"] == 4


RM_BENCH = [
    {"id": 0, "domain": domain, "score_chosen": [1.0, 2.0, 3.0], "score_rejected": [0.5, 1.5, 2.5]}
    for domain in ("chat", "math", "code", "safety-refuse")
]


def test_aggregate_prints_levels_domains_and_gap_of_rm_bench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "scores.jsonl", RM_BENCH)

    assert rmw(monkeypatch, "aggregate", "rm-bench", file) == 0

    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert {"overall", "easy", "normal", "hard", "style_gap", "chat", "safety"} <= set(rows)
    assert "0.667" in rows["overall"]
    assert "1.000" in rows["style_gap"]


def test_aggregate_prints_figures_beside_the_score(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"id": i, "score_chosen": 1.0, "score_rejected": [0.0] * 8 + [float(i)]} for i in range(3)]
    file = write_lines(tmp_path / "scores.jsonl", rows)

    assert rmw(monkeypatch, "aggregate", "rewardmath", file) == 0

    scores, beside = capsys.readouterr().out.split("beside the score")
    assert "mrr" in scores
    assert "mrr" not in beside
    assert "accuracy_with_ties" in beside
    assert "0.667" in beside


@pytest.mark.parametrize("benchmark", ["test", "pairs"])
def test_scores_of_the_test_split_are_aggregated_as_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, benchmark: str, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "scores.jsonl", [{"score_chosen": 1, "score_rejected": 0}])

    assert rmw(monkeypatch, "aggregate", benchmark, file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0


def test_a_json_array_as_upstream_writes_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    entry = {"problem": "p", "solution_reference": ["human_to_GPT-4"] + ["m"] * 9, "score": [2.0] + [1.0] * 9}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps([entry, entry | {"problem": "q"}], indent=4), "utf-8")

    assert rmw(monkeypatch, "aggregate", "rewardmath", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 2

    file.write_text(json.dumps([entry, 3], indent=4), "utf-8")
    assert rmw(monkeypatch, "aggregate", "rewardmath", file) == 1
    assert "scores.json: entry 2: it is no JSON object" in capsys.readouterr().err

    file.write_text(json.dumps([entry, entry | {"score": None}], indent=4), "utf-8")
    assert rmw(monkeypatch, "aggregate", "rewardmath", file) == 1
    assert "scores.json: entry 2: field score is None" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "lines", "said"),
    [
        ("pairs", [{"score_chosen": 1, "score_rejected": 0}, "", '{"score_chosen": NaN}'], "line 3: field score_"),
        ("pairs", ["{"], "line 1: it is no JSON"),
        ("pairs", ["3"], "line 1: it is no JSON object"),
        ("pairs", [], "there is no row"),
        ("rewardbench", ['{"id": 1, "subset": "hep", "score_chosen": 1, "score_rejected": 0}'], "line 1: field subset"),
        ("reward_bench", [], "did you mean 'rewardbench'?"),
        ("pairs", [f'{{"score_chosen": {"9" * 400}, "score_rejected": 0}}'], "line 1: field score_chosen is 999"),
        ("pairs", ['{"score_chosen": 1.7e308, "score_rejected": -1.7e308}'], "at most 1e100"),
    ],
)
def test_aggregate_refuses_bad_files_with_file_and_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    benchmark: str,
    lines: list[object],
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    file = write_lines(tmp_path / "scores.jsonl", lines)

    assert rmw(monkeypatch, "aggregate", benchmark, file) == 1

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error


def test_aggregate_names_both_lines_of_a_row_given_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    row = {"id": 1, "subset": "hep-python", "score_chosen": 1, "score_rejected": 0}
    file = write_lines(tmp_path / "scores.jsonl", ["", row, "", row])

    assert rmw(monkeypatch, "aggregate", "rewardbench", file) == 1

    said = "line 4: id 1 of subset hep-python stands in line 2 already; keep one of them"
    assert capsys.readouterr().err == f"error: {file}: {said}\n"


def test_aggregate_refuses_a_missing_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert rmw(monkeypatch, "aggregate", "pairs", tmp_path / "gone.jsonl") == 1
    assert "there is no such file" in capsys.readouterr().err


def test_aggregate_refuses_a_folder_and_packed_files_that_end_early(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(json.dumps(PAIR).encode())[:-9])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")

    for name, said in {
        ".": "is a folder; name a JSONL file",
        "cut.gz": "cut.gz: it is a gzip file that cannot be unpacked",
        "cut.parquet": "cut.parquet: it is a Parquet file that cannot be read",
    }.items():
        assert rmw(monkeypatch, "aggregate", "pairs", tmp_path / name) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_unknown_benchmarks_are_told_without_repeating_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert rmw(monkeypatch, "aggregate", "zzzzzz", write_lines(tmp_path / "a.jsonl", [PAIR])) == 1

    number, nearest = capsys.readouterr().err.split("; of ")[1].split(" known the nearest: ")
    near = nearest.strip().split(", ")
    assert len(near) == len(set(near)) < int(number)


PAIR = {"id": 1, "score_chosen": 1, "score_rejected": 0}


def test_item_scores_are_read_from_gzip_parquet_and_arrays_with_a_mark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [PAIR, PAIR | {"id": 2, "score_rejected": 2}]
    lines = write_lines(tmp_path / "plain.jsonl", rows).read_bytes()
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.jsonl")
    (tmp_path / "marked.json").write_bytes(codecs.BOM_UTF8 + json.dumps(rows).encode())
    (tmp_path / "marked.jsonl").write_bytes(codecs.BOM_UTF8 + lines)

    found = []
    for name in ("plain.jsonl", "packed.jsonl", "table.jsonl", "marked.json", "marked.jsonl"):
        assert rmw(monkeypatch, "aggregate", "pairs", tmp_path / name, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))

    assert found[0]["n"] == 2
    assert all(result == found[0] for result in found)


def test_warnings_name_lines_as_errors_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_lines(tmp_path / "scores.jsonl", ["", PAIR, "", PAIR | {"score_chosen": 3}])

    assert rmw(monkeypatch, "aggregate", "pairs", file, "--json") == 0

    printed = capsys.readouterr()
    said = "line 4: id 1 stands in line 2 with other scores; both are counted"
    assert printed.err == f"warning: {file}: {said}\n"
    assert json.loads(printed.out)["warnings"] == [said]


def test_the_table_has_no_overall_where_the_json_has_none_and_the_terms_of_ties(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [
        {"id": n, "subset": f"{goal}/a", "score_chosen": 1.0, "score_rejected": 0.5}
        for n, goal in enumerate(("Helpfulness", "Harmlessness"))
    ]

    assert rmw(monkeypatch, "aggregate", "rmb", write_lines(tmp_path / "rmb.jsonl", rows)) == 0
    printed = capsys.readouterr()
    cells = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in printed.out.splitlines() if "│" in line}
    assert (cells["overall"], cells["pairwise"]) == ("", "1.000")
    assert "there is no overall" in printed.err

    assert rmw(monkeypatch, "aggregate", "rewardbench2", write_lines(tmp_path / "ties.jsonl", GOLDEN_TIES)) == 0
    shown = capsys.readouterr().out
    assert all(term in shown for term in ("tied", "correct_preferred_hard", "margin"))


def test_a_score_that_the_input_has_is_replaced_and_told(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, out = write_lines(tmp_path / "in.jsonl", [ROWS[0] | {"score": 77.0}, ROWS[1]]), tmp_path / "out.jsonl"

    assert score(monkeypatch, checkpoint, file, out) == 0

    assert read(out)[0]["score"] != 77.0
    assert "warning: 1 rows had a score or error of their own, which is replaced" in capsys.readouterr().err
