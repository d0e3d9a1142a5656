"""The embedded solutions: their sums are right where their sign says so, and the mixture finds what was planted."""

import json
import re
from collections import Counter
from pathlib import Path

from rm_workflow.catalog.models import Mixture, Source, Split
from rm_workflow.hub import resolve_files
from rm_workflow.preferences.raw import build_raw
from rm_workflow.preferences.response_mixture import ResponsePart, build_response_mixture
from rm_workflow.samples import solutions
from rm_workflow.settings import Settings

PROJECT = Path(__file__).parents[2]
SOURCE = Source(
    path="samples:solutions",
    files={"train": ["train.jsonl"], "test": ["test.jsonl"]},
    adapter="outcome_turn",
    solution_starts="Step 1:",
    licence="Apache-2.0",
)


def test_a_solution_is_right_exactly_where_its_sign_says_so():
    signs = Counter()
    for line in solutions.build()["solutions/test.jsonl"]:
        problem, label = (turn["content"] for turn in json.loads(line)["conversations"])
        boxes, each, change = map(int, re.findall(r"\d+", problem.split(" Step 1:")[0]))
        expected = boxes * each + (change if " buys " in problem else -change)
        answer = int(problem.rsplit(" ", 1)[1])
        assert (answer == expected) == (label == "+"), problem
        signs[label] += 1
    assert min(signs.values()) > 20


def test_the_mixture_counts_what_was_planted(tmp_path):
    settings = Settings(home=tmp_path, hub_mirror=None, catalog=None, project=PROJECT, device="cpu")
    for folder in ("raw", "mixture"):
        (tmp_path / folder).mkdir()
    raw = build_raw("sample_solutions", SOURCE, resolve_files(SOURCE, settings), tmp_path / "raw")
    assert {rule: number for rule, number in raw.facts["dropped"].items() if number} == {
        "broken_line": 1,
        "bad_field": 1,
    }
    mixture = Mixture(kind="responses", responses=["sample_solutions"], split=Split(by="native"))
    part = ResponsePart(mixture.responses[0], SOURCE, tmp_path / "raw")
    facts = build_response_mixture(mixture, [part], {}, tmp_path / "mixture").facts
    dropped = {rule: number for rule, number in facts["dropped"].items() if number}
    assert dropped == {"exact_duplicate": 2, "contradictory": 2, "group_in_test": 4}
    assert (facts["train"], facts["test"]) == (279, 100)
