"""The catalogue's sources of worked solutions on real rows: every label against the raw file, read anew here."""

import gzip
import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.artifacts import Built
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.hub import SourceFile, resolve_files
from rm_workflow.keys import file_sha256
from rm_workflow.preferences.normalise import normalise
from rm_workflow.preferences.raw import build_raw
from rm_workflow_tests.preferences.sources import settings

pytestmark = pytest.mark.shared_rows

ORM = "gsm8k_rollouts/derived_rlhflow_orm_schema.train.jsonl.gz"
PRM = "prmbench_prm800k/derived_rlhflow_prm_schema.train.jsonl.gz"
PRMBENCH = "prmbench_prm800k/train_p1_classified.jsonl.gz"
OPENAI_SOLUTIONS = "gsm8k_rollouts/openai_example_model_solutions.train.jsonl.gz"
PRM800K = "prm_native_samples/samples_prm800k.jsonl.gz"
SHEPHERD = "prm_native_samples/samples_math-shepherd.jsonl.gz"

# What the published tables say of each showing of a response: its question, its text and its labels by step.
SHOWN = """
    with of_showing as (
        select file, row, slot, map_from_entries(list((coalesce(step, -1), value))) as labels
        from read_parquet('{folder}/labels.parquet') group by all
    )
    select
        row, slot, messages[1].content as question, group_id, text, step_ends, extra,
        coalesce(labels, map {{}}) as labels
    from read_parquet('{folder}/occurrences.parquet') occurrences
    join read_parquet('{folder}/responses.parquet') responses using (response_id, prompt_id)
    join read_parquet('{folder}/prompts.parquet') prompts using (prompt_id)
    left join of_showing using (file, row, slot)
    order by row, slot
"""


@dataclass(frozen=True)
class Made:
    """A built source beside the raw rows of its file."""

    built: Built
    native: list[dict[str, Any]]
    shown: list[dict[str, Any]]

    def of_row(self, row: int) -> list[dict[str, Any]]:
        return [one for one in self.shown if one["row"] == row]


def steps(shown: dict[str, Any]) -> list[str]:
    """Cut a text at its step ends, in words of its own."""
    return [
        shown["text"][0 if number == 0 else shown["step_ends"][number - 1] : end].strip()
        for number, end in enumerate(shown["step_ends"])
    ]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Cut at newlines only: GSM8K has other line separators inside its texts."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


@pytest.fixture(scope="module")
def make(shared_rows: Path, tmp_path_factory: pytest.TempPathFactory):
    @cache
    def made(source: str, file: str) -> Made:
        path, out = shared_rows / "data" / file, tmp_path_factory.mktemp(source)
        files = [SourceFile("train", path.name, path, f"native/{path.name}", file_sha256(path))]
        built = build_raw(source, load_catalog(settings(out)).sources[source], files, out)
        assert all(check.passed for check in built.checks)
        cursor = duckdb.execute(SHOWN.format(folder=out))
        names = [column[0] for column in cursor.description]
        return Made(built, json_lines(path), [dict(zip(names, row, strict=True)) for row in cursor.fetchall()])

    return made


def test_every_outcome_label_stands_with_its_own_question_and_solution(make):
    made = make("mistral_orm", ORM)
    signs = Counter(row["conversations"][1]["content"] for row in made.native)
    assert (signs["+"], signs["-"]) == (1610, 2683)
    assert made.built.facts["num_labels"] == {"outcome": {"0": signs["-"], "1": signs["+"]}}
    assert len(made.shown) == len(made.native)
    for native, shown in zip(made.native, made.shown, strict=True):
        user, label = (turn["content"] for turn in native["conversations"])
        assert f"{shown['question']} {shown['text']}" == user
        assert shown["labels"] == {-1: 1.0 if label == "+" else 0.0}
        assert [step.split(":")[0] for step in steps(shown)] == [f"Step {n + 1}" for n in range(len(steps(shown)))]


def test_the_solutions_of_one_problem_are_one_group(make, shared_rows: Path):
    made = make("mistral_orm", ORM)
    path = shared_rows / "data" / OPENAI_SOLUTIONS
    problems = {row["question"] for row in json_lines(path)}
    assert {shown["question"] for shown in made.shown} == problems
    groups = {(shown["group_id"], normalise(shown["question"])) for shown in made.shown}
    assert len(groups) == len({group for group, _ in groups}) == len({normalise(problem) for problem in problems})


def test_every_step_label_stands_at_its_own_step(make):
    made = make("mistral_prm", PRM)
    signs = Counter(turn["content"] for row in made.native for turn in row["conversations"][1::2])
    assert (signs["+"], signs["-"]) == (59_192, 6_125)
    assert made.built.facts["num_labels"] == {"hard": {"0": signs["-"], "1": signs["+"]}}
    for native, shown in zip(made.native, made.shown, strict=True):
        texts = [turn["content"].strip() for turn in native["conversations"][::2]]
        cut = steps(shown)
        assert [f"{shown['question']} {cut[0]}", *cut[1:]] == texts
        values = [{"+": 1.0, "-": 0.0}[turn["content"]] for turn in native["conversations"][1::2]]
        assert [shown["labels"][step] for step in range(len(cut))] == values


def test_math_shepherd_is_read_back_from_text_and_labels(make):
    made = make("math_shepherd", SHEPHERD)
    assert made.built.facts["used"] == len(made.native) == 7
    for native, shown in zip(made.native, made.shown, strict=True):
        assert f"{shown['question']} {shown['text']}" == native["input"]
        labelled = f"{shown['question']} "
        for number, step in enumerate(shown["text"].split("ки")[:-1]):
            labelled += step + {1.0: "+", 0.0: "-"}[shown["labels"][number]]
        assert labelled == native["label"]
        assert all(step.endswith("ки") for step in steps(shown))
        assert json.loads(shown["extra"]) == {"task": native["task"]}


def test_each_rating_of_prm800k_is_one_label_at_the_step_that_was_rated(make):
    made = make("prm800k", PRM800K)
    assert made.built.facts["used"] == len(made.native) == 6
    for number, native in enumerate(made.native, start=1):
        given = Counter(
            (place, completion["text"], completion["rating"])
            for place, step in enumerate(native["label"]["steps"])
            for completion in step["completions"] or ()
            if completion["rating"] is not None
        )
        shown = made.of_row(number)
        assert given == Counter(
            (step, text, value) for one in shown for step, value in one["labels"].items() for text in [steps(one)[step]]
        )
        assert {one["question"] for one in shown} == {native["question"]["problem"]}


def test_prm800k_keeps_a_written_step_and_the_end_of_a_row_that_was_given_up(make):
    made = make("prm800k", PRM800K)
    by_reason = {json.loads(shown["extra"])["finish_reason"]: shown for shown in made.shown if shown["slot"] == "path"}
    row = next(row for row in made.native if row["label"]["finish_reason"] == "give_up")["label"]["steps"]
    path = by_reason["give_up"]
    assert len(steps(path)) == len(row) - 1
    assert steps(path)[-1] == row[-2]["human_completion"]["text"]
    assert len(path["labels"]) == len(row) - 2
    errors = next(row for row in made.native if row["label"]["finish_reason"] == "found_error")["label"]["steps"]
    assert len(steps(by_reason["found_error"])) == len(errors) - 1


def test_the_wrong_steps_of_prmbench_are_those_that_it_names(make):
    made = make("prmbench_modified", PRMBENCH)
    assert made.built.facts["dropped"]["bad_field"] == 52
    assert made.built.facts["dropped"]["empty_message"] == 1
    for shown in made.shown:
        native = made.native[shown["row"] - 1]
        assert shown["question"] == native["modified_question"]
        assert steps(shown) == [step.strip() for step in native["modified_process"]]
        wrong = [step + 1 for step, value in shown["labels"].items() if value == 0]
        assert sorted(wrong) == sorted(native["error_steps"])
        assert len(shown["labels"]) == len(native["modified_process"])


def test_all_wordings_of_a_problem_of_prmbench_are_one_group(make):
    groups: dict[str, set[str]] = {}
    for source in ("prmbench_original", "prmbench_modified"):
        made = make(source, PRMBENCH)
        for shown in made.shown:
            groups.setdefault(made.native[shown["row"] - 1]["question"], set()).add(shown["group_id"])
    assert {len(ids) for ids in groups.values()} == {1}


def test_right_solutions_of_prmbench_have_no_wrong_step(make):
    made = make("prmbench_original", PRMBENCH)
    num_steps = sum(len(made.native[shown["row"] - 1]["original_process"]) for shown in made.shown)
    assert made.built.facts["num_labels"] == {"hard": {"1": num_steps}}


def test_each_row_of_gsm8k_is_a_question_with_its_reference_answer(make):
    made = make("gsm8k", "gsm8k/train.jsonl.gz")
    assert made.built.facts["used"] == len(made.native) == 7473
    assert made.built.facts["num_labels"] == {}
    for native, shown in zip(made.native, made.shown, strict=True):
        assert (shown["question"], shown["text"]) == (native["question"], native["answer"])
        assert json.loads(shown["extra"])["final_answer"] == native["answer"].split("#### ")[-1].strip()


def test_a_solution_with_errors_stands_in_the_group_of_the_problem_that_it_was_made_from(
    shared_rows: Path, tmp_path: Path
):
    """Where it answers another wording: else the other wording would be a test problem beside it."""
    catalog, groups, questions = load_catalog(settings(tmp_path)), {}, {}
    for name in ("prmbench_prm800k_original", "prmbench_prm800k_modified"):
        entry = catalog.sources[name]
        (tmp_path / name).mkdir()
        files = resolve_files(entry, replace(settings(tmp_path), rows=shared_rows / "data"))
        build_raw(name, entry, files, tmp_path / name)
        shown: Any = duckdb.execute(SHOWN.format(folder=tmp_path / name)).to_arrow_table().to_pylist()
        groups[name] = {row["row"]: row["group_id"] for row in shown}
        questions[name] = {row["row"]: row["question"] for row in shown}
    original, modified = groups.values()
    common = original.keys() & modified.keys()
    assert len(common) > 2700
    assert all(original[row] == modified[row] for row in common)
    first, second = questions.values()
    assert sum(first[row] != second[row] for row in common) > 100


@pytest.mark.parametrize(
    ("source", "repository", "sample", "labels"),
    [
        ("mistral_orm", "RLHFlow/Mistral-ORM-Data", "rlhflow_orm", {"outcome": {"0": 1, "1": 1}}),
        ("deepseek_orm", "RLHFlow/Deepseek-ORM-Data", "rlhflow_orm", {"outcome": {"0": 1, "1": 1}}),
        ("mistral_prm", "RLHFlow/Mistral-PRM-Data", "rlhflow_prm", {"hard": {"0": 1, "1": 1}}),
    ],
)
def test_rows_in_parquet_are_read_from_a_mirror_of_the_hub(
    shared_rows: Path, tmp_path: Path, source: str, repository: str, sample: str, labels: dict
):
    entry = load_catalog(settings(tmp_path)).sources[source]
    rows = (shared_rows / f"data/native_samples/{sample}.handmade.jsonl").read_text("utf-8").splitlines()
    path = tmp_path / "mirror" / repository / entry.files["train"][0]
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([json.loads(row) for row in rows]), path)
    out = tmp_path / "out"
    out.mkdir()
    built = build_raw(source, entry, resolve_files(entry, settings(tmp_path, tmp_path / "mirror")), out)
    assert (built.facts["used"], built.facts["num_labels"]) == (len(rows), labels)
