"""Best-of-N on the real command line: any checkpoint on a set of candidates, stored scores, who picks how well."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.evaluation.checkpoints import write_checkpoint
from rm_workflow_tests.reporting.published import best_of_n_result

Rmw = Callable[..., Answer]

CANDIDATES = """
sums:
  path: ../candidates
  files: {test: [rows.jsonl]}
  scoring: best_of_n
  step_separator: ки
  licence: CC0
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def sums(project: Project) -> Project:
    """A catalogue with ten questions and four answers each, two of them the same text."""
    folder = project.folder / "candidates"
    folder.mkdir()
    rows = []
    for number in range(10):
        texts = [f"Step 1: add. ки\nThe answer is: {number + shift} ки" for shift in (1, 2, 2)]
        rows.append({"prompt": f"{number} + 1?", "answers": [*texts, ""], "label": [1, 0, 0, 0]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (project.folder / "catalog/benchmarks.yaml").write_text(CANDIDATES, "utf-8")
    return project


def test_a_checkpoint_picks_among_candidates_and_its_stored_scores_give_the_same_numbers(
    rmw: Rmw, sums: Project, tmp_path: Path
):
    checkpoint = write_checkpoint(tmp_path / "tiny")
    out = tmp_path / "items.jsonl"

    answer = rmw("evaluate", str(checkpoint), "--benchmark", "sums", "--precision", "fp32", "-o", str(out), "--json")

    assert answer.code == 0, answer.err
    evaluated = json.loads(answer.out)
    assert evaluated.pop("evaluated")["num_sequences"] == 30
    assert evaluated == json.loads(rmw("aggregate", "best-of-n", str(out), "--json").out)
    assert evaluated["counts"]["problems"] == 10
    assert evaluated["counts"]["without_answer"] == 10
    assert evaluated["n"]["1"]["pass"] == 0.25
    assert evaluated["n"]["4"]["majority"] == 0
    graded = json.loads(rmw("aggregate", "sums", str(out), "--equivalence", "math-verify", "--json").out)
    assert graded["grader"]["name"] == "math-verify"
    assert graded["n"] == evaluated["n"]


def test_people_read_accuracy_over_n_baselines_and_what_was_read(rmw: Rmw, project: Project, tmp_path: Path):
    file = tmp_path / "scores.jsonl"
    file.write_text(
        json.dumps(
            {
                "problem": "a",
                "candidates": [
                    {"answer": "5", "correct": 1, "step_scores": [0.9, 0.4]},
                    {"answer": "6", "correct": 0, "step_scores": [0.8, 0.8]},
                ],
            }
        )
    )
    told = rmw("aggregate", "best_of_n", str(file), "--scores", "probability").out
    for words in ("accuracy over n", "best_of_n, product", "weighted_majority, last", "against the baselines"):
        assert words in told
    assert "probability" in told


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("best_of_n", "FILE", "--scores", "odds"), 2, "'odds' is none of logit, probability"),
        (("best_of_n", "FILE", "--equivalence", "sympy"), 2, "'sympy' is none of string, math-verify"),
        (("pairs", "FILE", "--scores", "logit"), 2, "pairs has no such option; leave it out"),
        (("best_of_n", "FILE", "--scores", "probability"), 1, "line 2: candidate 1: its score 1.5 is no probability"),
        (("best_of_n", "BAD"), 1, "line 1: candidate 1: field score is NaN"),
    ],
)
def test_bad_input_is_one_sentence(
    rmw: Rmw, project: Project, tmp_path: Path, arguments: tuple[str, ...], code: int, sentence: str
):
    files = {"FILE": (0.5, 1.5), "BAD": (float("nan"), 0.5)}
    for name, scores in files.items():
        rows = [
            {"problem": number, "candidates": [{"answer": "1", "correct": True, "score": score}]}
            for number, score in enumerate(scores)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = rmw("aggregate", *(str(tmp_path / part) if part in files else part for part in arguments))
    assert answer.code == code
    assert sentence.lower() in answer.error.lower()


def publish(store: ArtifactStore, recipe: str, name: str) -> None:
    def checkpoint(out: Path) -> Built:
        (out / "model").mkdir()
        return Built({})

    def scores(out: Path) -> Built:
        result = best_of_n_result()
        (out / "scores.json").write_text(json.dumps({name: result}))
        return Built({"scores": {name: result["headline"]}})

    made = store.materialize(Request(f"{recipe}_checkpoint", "checkpoint", "1", {}), checkpoint, "run").artifact
    store.materialize(Request(f"{recipe}_scores", "scores", "1", {}, inputs=(made,)), scores, "run")


def test_who_picks_among_whose_solutions_is_a_view_over_all_checkpoints(rmw: Rmw, project: Project):
    store = ArtifactStore(project.home)
    publish(store, "orm", "deepseek_math500_best_of_n")
    publish(store, "prm", "deepseek_math500_best_of_n")

    answer = rmw("leaderboard", "--best-of-n", "--json")

    assert answer.code == 0, answer.err
    rows = [row for row in json.loads(answer.out) if row["candidates"] == "deepseek_math500_best_of_n"]
    ours = [(row["method"], (row["verifier"] or "").partition("@")[0]) for row in rows if not row["published"]]
    assert ours == [
        *[("pass", ""), ("majority", ""), ("baseline: longest", ""), ("baseline: strongest_generator: strong", "")],
        *[("best_of_n", "orm_checkpoint"), ("weighted_majority", "orm_checkpoint")],
        *[("best_of_n", "prm_checkpoint"), ("weighted_majority", "prm_checkpoint")],
    ]
    assert all(row["ci_low"] <= row["score"] <= row["ci_high"] for row in rows if not row["published"])
    # The publisher's card and repository differ about single answers; both stand.
    singles = {row["source"]: row["score"] for row in rows if row["published"] and row["method"] == "pass@1"}
    assert sorted(singles.values()) == [0.384, 0.424]
    sets = {row["candidates"] for row in json.loads(answer.out)}
    assert {"mistral_gsm8k_best_of_n", "mistral_math500_best_of_n", "deepseek_gsm8k_best_of_n"} <= sets

    table = rmw("leaderboard", "--best-of-n", "--benchmark", "deepseek-math500-best-of-n").out
    assert "0.424" in table
    assert "mistral_gsm8k" not in table
    refused = rmw("leaderboard", "--best-of-n", "--benchmark", "nothing")
    assert refused.code == 1
    assert "no candidates are called 'nothing'" in refused.error
