"""Rollouts, graded: outcome, hard and soft labels against shares counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from rm_workflow.annotation.rollouts import Problem, build_rollouts
from rm_workflow.annotation.step_labels import Grader, build_step_labels
from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Mixture, Source, Split
from rm_workflow.evaluation.grading import Verdict
from rm_workflow.preferences.trajectory_mixture import TrajectoryPart, build_trajectory_mixture
from rm_workflow_tests.annotation.conftest import Scripted, annotation
from rm_workflow_tests.preferences.raw_tables import read


def graded(gold: str, answer: str) -> Verdict:
    return Verdict(gold == answer, None if answer.isdigit() else "unparsable")


def label(problems: list[Problem], generator: Scripted, folder: Path, **fields: Any) -> tuple[Built, list[dict]]:
    asked = annotation(**fields)
    for name in ("work", "rollouts", "out"):
        (folder / name).mkdir()
    build_rollouts(problems, asked, generator, folder / "work", folder / "rollouts")
    built = build_step_labels("mine", problems, folder / "rollouts", asked, folder / "out", Grader(graded))
    assert built.checks[0].passed
    return built, read(folder / "out" / "labels.parquet")


def labels_of(rows: list[dict], slot: str, kind: str) -> list[float]:
    return [row["value"] for row in rows if (row["slot"], row["kind"]) == (slot, kind)]


def scripted(gold: str) -> Scripted:
    """Return two solutions: of the first one of four completions is right from step 1, none from step 2."""

    def say(prompt: str, number: int) -> str:
        if prompt.endswith("bad\n"):
            return "The answer is: 77"
        if prompt.endswith("good\n"):
            return f"so\nThe answer is: {gold if number == 0 else 78}"
        if prompt.endswith("other\n"):
            return f"The answer is: {gold}"
        return ["good\nbad\nThe answer is: 79", f"other\nThe answer is: {gold}"][number]

    return Scripted(say)


def test_a_step_has_the_share_of_right_completions_and_the_last_the_solution_s_own_outcome(
    problems: list[Problem], tmp_path: Path
):
    built, rows = label(problems[:1], scripted(problems[0].gold), tmp_path)
    assert labels_of(rows, "0", "outcome") == [0]
    assert labels_of(rows, "0", "soft") == [0.25, 0, 0]
    assert labels_of(rows, "0", "hard") == [1, 0, 0]
    assert labels_of(rows, "1", "outcome") == [1]
    assert labels_of(rows, "1", "soft") == [1, 1]
    assert built.facts["num_labels"]["outcome"] == {"0": 1, "1": 1}


def test_a_solution_without_an_answer_is_wrong_and_an_empty_one_is_dropped(problems: list[Problem], tmp_path: Path):
    built, rows = label(problems[:1], Scripted(lambda prompt, number: ["I do not know.", " "][number]), tmp_path)
    assert [(row["kind"], row["value"]) for row in rows] == [("outcome", 0), ("hard", 0), ("soft", 0)]
    assert (built.facts["rows"], built.facts["used"], built.facts["dropped"]["empty_message"]) == (2, 1, 1)
    assert built.facts["grader"]["no_answer"] == 1


def test_what_the_grader_cannot_read_is_counted_and_an_answer_is_graded_once(problems: list[Problem], tmp_path: Path):
    asked: list[str] = []

    def grade(gold: str, answer: str) -> Verdict:
        asked.append(answer)
        return graded(gold, answer)

    for name in ("work", "rollouts", "out"):
        (tmp_path / name).mkdir()
    generator = Scripted(lambda prompt, number: "first\nThe answer is: \\frac{")
    wanted = annotation()
    build_rollouts(problems[:1], wanted, generator, tmp_path / "work", tmp_path / "rollouts")
    built = build_step_labels("mine", problems[:1], tmp_path / "rollouts", wanted, tmp_path / "out", Grader(grade))
    assert len(asked) == 1
    assert (built.facts["grader"]["graded"], built.facts["grader"]["unparsable"]) == (6, 6)
    assert built.facts["grader"]["name"] == "math-verify"


@pytest.mark.parametrize(("labels", "values"), [("hard", [1, 0, 0]), ("soft", [0.25, 0, 0])])
def test_the_labels_are_a_source_that_a_mixture_of_trajectories_takes(
    problems: list[Problem], tmp_path: Path, labels: str, values: list[float]
):
    label(problems[:1], scripted(problems[0].gold), tmp_path)
    mixture = Mixture(
        kind="trajectories", trajectories=[{"annotation": {"labels": labels}}], split=Split(by="hash", test_share=0)
    )
    source = Source(path="annotation", files={"train": ["rollouts"]}, adapter="annotation", licence="")
    (tmp_path / "mix").mkdir()
    part = TrajectoryPart(mixture.trajectories[0], source, tmp_path / "out")
    build_trajectory_mixture(mixture, [part], {}, tmp_path / "mix")
    found = {row["slot"]: row for row in read(tmp_path / "mix" / "labelled.parquet")}
    assert found["0"]["values"] == values
    assert found["0"]["group_id"] == problems[0].group_id
