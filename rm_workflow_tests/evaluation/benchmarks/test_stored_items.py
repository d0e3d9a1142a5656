"""What a benchmark artifact keeps of its rows is all that the rule needs later: here reply lengths stand for scores."""

import json
from pathlib import Path

import pytest

from rm_workflow.catalog.models import Benchmark
from rm_workflow.evaluation.benchmarks import build_benchmark, rule
from rm_workflow.evaluation.stored import reply_lengths, rows_of_items
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256


def styles(length: int) -> list[str]:
    return ["x" * length, "x" * (length + 2), "x" * (length + 4)]


def solution(problem: int, length: int, kind: str) -> dict:
    steps = ["x" * length, "y"]
    return {"problem_id": problem, "problem": f"P{problem}", "eval_solution": steps, "solution_type": kind}


def turns(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


NATIVE = {
    # lengths 3 5 7 against 4 6 8: right below the diagonal only
    "rm_bench": [
        {"id": 0, "prompt": domain, "chosen": styles(3), "rejected": styles(4), "domain": domain}
        for domain in ("chat", "math", "code", "safety-response")
    ],
    # the longer reply is right, wrong, and as long as the other where B is right
    "judgebench": [
        {"pair_id": i, "original_id": i, "source": "livecodebench", "question": f"Q{i}", **sides}
        for i, sides in enumerate(
            [
                {"response_A": "xxx", "response_B": "x", "label": "A>B"},
                {"response_A": "xxx", "response_B": "x", "label": "B>A"},
                {"response_A": "xx", "response_B": "yy", "label": "B>A"},
            ]
        )
    ],
    "rewardmath": [
        solution(problem, length, kind)
        for problem, right in ((1, 12), (2, 5))
        for length, kind in [(right, "chosen"), *((n, "rejected") for n in range(1, 10))]
    ],
    "llmbar": [
        {"input": f"I{i}", "output_1": "x", "output_2": "xx", "label": 1 + (i > 0), "subset": name}
        for i, name in enumerate(("natural", "neighbor", "gptinst", "gptout", "manual"))
    ],
    "rmb": [
        {
            "pair_uid": "1",
            "bon_uid": "1",
            "conversation_input": turns(goal),
            "chosen": {"answer": "xx"},
            "reject": {"answer": "x"},
            "category_path": f"Pairwise_set/{goal}/S1",
        }
        for goal in ("Helpfulness", "Harmlessness")
    ],
    # the longer reply is preferred, not, and of two alike; then a row without a winner
    "ppe_preference": [
        {
            "question_id": f"q{i}",
            "winner": winner,
            "prompt": f"P{i}",
            "language": "English",
            "response_1": "xxx",
            **reply,
        }
        for i, (winner, reply) in enumerate(
            [
                ("model_a", {"response_2": "x"}),
                ("model_b", {"response_2": "x"}),
                ("model_b", {"response_2": "yyy"}),
                ("tie (bothbad)", {"response_2": "yyy"}),
            ]
        )
    ],
    # the longer reply is right and wrong
    "ppe_correctness": [
        {
            "question_id": f"q{i}",
            "model_name": "m",
            "prompt": f"P{i}",
            "response_1": "x",
            "response_2": "xx",
            "scores": [i == 0, i != 0],
            "sampled_conflict_pairs": [[0, 1]],
        }
        for i in range(4)
    ],
    "rating_correlation": [
        {"prompt": f"P{i // 2}", "response": "x" * (1 + i), "helpfulness": rating, "correctness": rating}
        for i, rating in enumerate([1, 3, 4, 2, 0, 4])
    ],
}
PICK_LONGER = {
    "rm_bench": 1 / 3,
    "judgebench": 2 / 3,
    "rewardmath": 1 / 2,
    "llmbar": 4 / 5,
    "rmb": 1.0,
    "ppe_preference": 1 / 3,
    "ppe_correctness": 3 / 4,
    "rating_correlation": (1 - 1 + 1) / 3,
}


@pytest.mark.parametrize("name", NATIVE)
def test_items_read_from_an_artifact_are_scored_by_their_rule(tmp_path: Path, name: str):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(NATIVE[name]), "utf-8")
    entry = Benchmark(path="somewhere", files={"test": [path.name]}, scoring=name, licence="CC0")
    built = build_benchmark(name, entry, [SourceFile("test", path.name, path, path.name, file_sha256(path))], tmp_path)

    rows = list(rows_of_items(name, reply_lengths(tmp_path)).rows.values())

    assert built.checks[0].passed
    assert rule(name).headline(rule(name).aggregate(rows))["score"] == pytest.approx(PICK_LONGER[name])
    assert json.loads(json.dumps(rows)) == rows
