"""How ``rmw sources check`` shows labels and steps."""

import json
from collections.abc import Callable

import pytest

from rm_workflow.cli import sources
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]

SOLUTION = "2 + 3? Step 1: 2 + 3 = 5. ки\nStep 2: [it] is 6. ки"
ROWS = {
    "marked": {"input": SOLUTION, "label": SOLUTION.replace("ки", "+", 1).replace("ки", "-")},
    "answers": {"prompt": "2 + 3?", "answers": [f"It is {n}." for n in range(1024)], "label": [0] * 1023 + [1]},
    "reference": {"question": "2 + 3?", "answer": "It is 5.\n#### 5"},
}
SOURCES = """
marked:
  {path: ../rows, files: {train: [marked.jsonl]}, adapter: marked_steps, solution_starts: "Step 1:",
   step_separator: ки, licence: CC0}
answers:
  {path: ../rows, files: {test: [answers.jsonl]}, adapter: labelled_answers, licence: CC0}
reference:
  {path: ../rows, files: {train: [reference.jsonl]}, adapter: reference_answer, step_separator: "\\n", licence: CC0}
"""


@pytest.fixture
def check(project: Project, rmw: Rmw):
    (project.folder / "catalog").mkdir(exist_ok=True)
    (project.folder / "rows").mkdir(exist_ok=True)
    (project.folder / "catalog/sources.yaml").write_text(SOURCES)
    (project.folder / "catalog/pair_sets.yaml").unlink(missing_ok=True)
    (project.folder / "catalog/recipes/toy.yaml").unlink(missing_ok=True)
    for name, row in ROWS.items():
        (project.folder / f"rows/{name}.jsonl").write_text(json.dumps(row) + "\n")
    return lambda *arguments: rmw("sources", "check", *arguments).out


def test_each_step_stands_on_its_own_line_with_its_label(check):
    lines = [line.rstrip() for line in check("marked").splitlines()]
    assert lines[lines.index("  user: 2 + 3?") + 1 :] == [
        "  -> 0, 2 steps",
        "     step 0 [hard 1]: Step 1: 2 + 3 = 5. ки",
        "     step 1 [hard 0]: Step 2: [it] is 6. ки",
    ]


def test_of_a_thousand_answers_the_first_ones_are_shown_and_the_rest_counted(check):
    text = check("answers")
    assert "  -> 0 [outcome 0]: It is 0." in text
    assert text.count("[outcome 0]: It is") == sources.SHOWN_RESPONSES
    assert f"... and {1024 - sources.SHOWN_RESPONSES:,} more responses" in text
    row = json.loads(check("answers", "--json"))["files"][0]["rows"][0]
    assert [response["labels"][0]["value"] for response in row["responses"]] == ROWS["answers"]["label"]


def test_what_stands_after_the_last_step_is_shown(check):
    text = check("reference")
    assert "     step 0: It is 5." in text
    assert "     after the steps: #### 5" in text
