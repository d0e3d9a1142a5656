import json
from pathlib import Path

import pytest

from rm_workflow.catalog.models import Benchmark
from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import build_benchmark, problems
from rm_workflow.evaluation.items import FieldError
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256
from rm_workflow_tests.preferences.raw_tables import read


@pytest.mark.parametrize("column", ["question", "problem"])
def test_a_problem_is_a_prompt_and_its_reference_answer_no_reply(tmp_path: Path, column: str):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({column: "2 + 3?", "answer": "5"}) + "\n")
    benchmark = Benchmark(path=str(tmp_path), files={"test": [path.name]}, scoring="problems", licence="MIT")
    file = SourceFile("test", path.name, path, path.name, file_sha256(path))
    out = tmp_path / "out"
    out.mkdir()
    built = build_benchmark("exam", benchmark, [file], out)
    assert built.facts["items"] == 1
    (item,) = read(out / "items.parquet")
    assert (item["response_ids"], item["num_correct"]) == ([], 0)
    assert read(out / "prompts.parquet")[0]["messages"] == [{"role": "user", "content": "2 + 3?"}]
    assert read(out / "responses.parquet") == []


def test_a_row_without_a_problem_is_told():
    with pytest.raises(FieldError, match=r"neither question nor problem is there \(have: text\)"):
        problems.read_item({"text": "2 + 3?"})


def test_problems_are_never_scored():
    with pytest.raises(UserError, match="no replies to score"):
        problems.aggregate([])
