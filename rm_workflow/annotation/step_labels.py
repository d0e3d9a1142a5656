"""``<recipe>_step_labels``: rollouts, graded -> the tables of a source, with outcome, hard and soft labels.

A solution's outcome is 1 where its final answer equals the reference answer. Each of its steps but the last has the
share of completions from there whose answer is right (soft) and 1 where any is (hard); the last has the solution's own
outcome. A solution without a final answer is wrong. Answers are found and compared by ``evaluation/grading.py``
(math-verify).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rm_workflow.annotation.rollouts import Problem, prefix_id, prefixes_of, start_after
from rm_workflow.artifacts import Built
from rm_workflow.catalog.models import Annotation
from rm_workflow.evaluation.grading import Tally, Verdict, extract_answer, grade
from rm_workflow.preferences.raw import Understood, build_understood
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

FILE = "rollouts"
Grade = Callable[[str, str], Verdict]


class Grader:
    """Grades solutions, equal answers to a problem once.

    Attributes:
        tally: what the grader said; no_answer: solutions in which no mark says which is their answer.
    """

    def __init__(self, grade_answer: Grade = grade) -> None:
        self.tally = Tally()
        self.no_answer = 0
        self._grade = grade_answer
        self._known: dict[tuple[str, str], Verdict] = {}

    def is_right(self, gold: str, solution: str) -> bool:
        """Return whether the final answer of a solution equals the reference answer."""
        answer = extract_answer(solution)
        if answer is None:
            self.no_answer += 1
            return False
        if (gold, answer) not in self._known:
            self._known[gold, answer] = self._grade(gold, answer)
        verdict = self._known[gold, answer]
        self.tally.add(verdict)
        return verdict.right


def build_step_labels(
    name: str,
    problems: Sequence[Problem],
    rollouts: Path,
    annotation: Annotation,
    out: Path,
    grader: Grader | None = None,
) -> Built:
    """Write prompts, responses, occurrences, labels and dropped rows.

    Args:
        name: of the source that these tables are.
        rollouts: folder of the rollouts of these very problems.

    Returns:
        the facts of a source, of which each solution is a row, and ``grader``: name, version, how many texts were
        graded, time-outs, answers that could not be read, and ``no_answer``.
    """
    grader = grader or Grader()
    completions = _completions(rollouts / "completions.parquet")
    trajectories = _by_prompt(rollouts / "trajectories.parquet")
    rows = _rows(problems, trajectories, completions, annotation, grader)
    built = build_understood(name, FILE, rows, out)
    return replace(built, facts={**built.facts, "grader": {**grader.tally.described(), "no_answer": grader.no_answer}})


def _rows(
    problems: Sequence[Problem],
    trajectories: Mapping[str, Sequence[Mapping[str, Any]]],
    completions: Mapping[str, Sequence[str]],
    annotation: Annotation,
    grader: Grader,
) -> Iterator[tuple[int, Mapping[str, Any], Understood]]:
    number = 0
    for problem in problems:
        shares = _Shares(problem, completions, annotation, grader)
        for row in trajectories[problem.prompt_id]:
            number += 1
            yield number, {"prompt_id": problem.prompt_id, "text": row["text"]}, _understood(problem, row, shares)


class _Shares:
    """The share of right completions from each start of a problem's solutions, each computed once."""

    def __init__(
        self, problem: Problem, completions: Mapping[str, Sequence[str]], annotation: Annotation, grader: Grader
    ) -> None:
        self._problem, self._completions = problem, completions
        self.annotation, self.grader = annotation, grader
        self._known: dict[str, float] = {}

    def of(self, prefix: str) -> float:
        if prefix not in self._known:
            start = start_after(prefix, self.annotation)
            written = self._completions[prefix_id(self._problem.prompt_id, prefix)]
            right = [self.grader.is_right(self._problem.gold, start + text) for text in written]
            self._known[prefix] = sum(right) / len(right)
        return self._known[prefix]


def _understood(problem: Problem, row: Mapping[str, Any], shares: _Shares) -> Understood:
    text = row["text"]
    if not text.strip():
        return RowDropped("empty_message", "the generator wrote nothing", f"trajectory {row['trajectory']}")
    outcome = float(shares.grader.is_right(problem.gold, text))
    soft = [*(shares.of(prefix) for prefix in prefixes_of(text, shares.annotation)), outcome]
    labels = [Label("outcome", outcome)]
    for step, share in enumerate(soft):
        labels += [Label("hard", float(share > 0), step), Label("soft", share, step)]
    response = Response(
        slot=str(row["trajectory"]),
        text=text,
        model=shares.annotation.generator,
        extra={"final_answer": extract_answer(text), "finished": row["finished"]},
        step_ends=row["step_ends"],
        labels=labels,
    )
    return problem.group_id, Example(problem.messages, [response])


def _by_prompt(path: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        found[row["prompt_id"]].append(row)
    return found


def _completions(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in pq.read_table(path, columns=["prefix_id", "text"]).to_pylist():
        found[row["prefix_id"]].append(row["text"])
    return found
