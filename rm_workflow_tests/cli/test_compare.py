import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.reporting.words import artifact_name
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.evaluation.stored_scores import item_ids, publish_benchmark, publish_scores

Rmw = Callable[..., Answer]
PAIRS = [
    {"id": n, "prompt": f"Question {n}?", "subset": "math-prm", "chosen": "Yes.", "rejected": "No."} for n in range(80)
]


def margins(seed: int, gain: float, n: int = 120) -> list[float]:
    return (np.random.default_rng(seed).normal(size=n) + gain).tolist()


@pytest.fixture
def store(project: Project) -> ArtifactStore:
    return ArtifactStore(project.home)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def score_file(path: Path, gain: float, numbers: range = range(60)) -> str:
    generator = np.random.default_rng(int(100 * gain))
    noise = {n: float(generator.normal()) for n in range(200)}
    return write(path, [{"id": n, "score_chosen": noise[n] + gain, "score_rejected": 0.0} for n in numbers])


def test_checkpoints_are_compared_on_their_stored_scores(store: ArtifactStore, rmw: Rmw):
    better = publish_scores(store, "good", margins(0, 1.5))
    publish_scores(store, "bad", margins(1, 0.0))

    answer = rmw("compare", "good_checkpoint", "bad_checkpoint", "--json")

    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    test = found["benchmarks"]["test"]
    assert found["a"].startswith("good_checkpoint@")
    assert test["difference"] == pytest.approx(better.facts["scores"]["test"]["score"] - test["score_b"])
    assert 0 < test["ci_low"] < test["difference"] < test["ci_high"]
    assert (test["verdict"], test["n"], test["test"]) == ("A better", 120, "swaps of groups")
    assert test["p_value"] < 0.05
    assert set(test["subsets"]) == {"hh", "shp"}
    assert test["items"] == {"compared": 120, "only_a": 0, "only_b": 0, "leaked_left_out": 0}


def test_a_version_a_folder_and_scores_name_the_same_checkpoint(store: ArtifactStore, rmw: Rmw):
    scores = publish_scores(store, "good", margins(0, 1.5))
    (checkpoint,) = store.inputs_of(scores)
    names = [checkpoint.id, str(checkpoint.folder), str(checkpoint.folder / "model"), "good_scores"]

    for name in names:
        answer = rmw("compare", name, "good_checkpoint", "--json")
        found = json.loads(answer.out)
        assert answer.err == f"A and B are one and the same: {artifact_name(checkpoint.id)}\n"
        assert (found["a"], found["b"]) == (checkpoint.id, checkpoint.id)
        assert found["benchmarks"]["test"]["verdict"] == "not distinguishable"


def test_people_read_a_table_and_sentences(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "good", margins(0, 0.3))
    publish_scores(store, "bad", margins(1, 0.0)[:100])

    told = rmw("compare", "good_checkpoint", "bad_checkpoint", "--power", "0.02").out

    assert "100 items compared; 20 that A alone has left out." in told
    assert "test: not distinguishable (p =" in told
    found = json.loads(rmw("compare", "good_checkpoint", "bad_checkpoint", "--power", "0.02", "--json").out)
    power = found["benchmarks"]["test"]["power"]
    least, needed = power["least_difference"], power["items_needed"]
    assert f"100 items of this kind tell a difference of {least:.3f} in 80 % of cases, and a smaller one" in told
    assert f"To tell a difference of 0.02 in 80 % of cases, {needed:,} of them are needed." in told


def test_benchmarks_are_joined_item_by_item(store: ArtifactStore, rmw: Rmw):
    bench = publish_benchmark(store, "mine", "rewardbench", PAIRS)
    ids = item_ids(bench)
    for recipe, wrong in (("good", 4), ("bad", 24)):
        scores = {name: [0.0, 1.0] if place < wrong else [1.0, 0.0] for place, name in enumerate(ids)}
        publish_scores(store, recipe, margins(0, 1.0), {"mine": (bench, scores)}, {"mine": ids[:2]})

    found = json.loads(rmw("compare", "good_checkpoint", "bad_checkpoint", "--benchmark", "mine", "--json").out)

    mine = found["benchmarks"]["mine"]
    assert (mine["of"], mine["verdict"]) == ("all items", "A better")
    subset = mine["subsets"]["math-prm"]
    assert (subset["only_a"], subset["only_b"], subset["n"], subset["verdict"]) == (20, 0, 78, "A better")
    assert mine["items"]["leaked_left_out"] == 2
    all_items = rmw("compare", "good_checkpoint", "bad_checkpoint", "--benchmark", "mine", "--all-items", "--json")
    assert json.loads(all_items.out)["benchmarks"]["mine"]["subsets"]["math-prm"]["n"] == 80
    assert "the mean over all items stands for the overall" in rmw("compare", "good_checkpoint", "bad_checkpoint").out


def test_score_files_are_compared_with_their_benchmark_named(project: Project, rmw: Rmw):
    a, b = score_file(project.folder / "a.jsonl", 2.0), score_file(project.folder / "b.jsonl", 0.0, range(10, 70))

    found = json.loads(rmw("compare", a, b, "--benchmark", "pairs", "--json").out)["benchmarks"]["pairs"]

    assert (found["n"], found["verdict"], found["test"]) == (50, "A better", "McNemar, exact")
    assert found["items"] == {"compared": 50, "only_a": 10, "only_b": 10, "leaked_left_out": 0}


def test_a_checkpoint_is_compared_with_a_file(store: ArtifactStore, project: Project, rmw: Rmw):
    bench = publish_benchmark(store, "mine", "rewardbench", PAIRS)
    publish_scores(store, "good", margins(0, 1.0), {"mine": (bench, {name: [1.0, 0.0] for name in item_ids(bench)})})
    rows = [{"id": n, "subset": "math-prm", "score_chosen": 0.0, "score_rejected": 1.0} for n in range(40)]
    file = write(project.folder / "b.jsonl", rows)
    (project.folder / "catalog/benchmarks.yaml").write_text(
        "mine: {path: ../rows, files: {test: [test.jsonl]}, scoring: rewardbench, licence: CC0-1.0}\n"
    )

    found = json.loads(rmw("compare", "good_checkpoint", file, "--benchmark", "mine", "--json").out)

    assert found["benchmarks"]["mine"]["subsets"]["math-prm"]["difference"] == 1.0
    assert found["benchmarks"]["mine"]["items"]["compared"] == 40


def test_what_stands_below_the_table_is_true(project: Project, rmw: Rmw):
    def compared(scoring: str, *sides: list[dict]) -> Answer:
        files = [write(project.folder / f"{name}.jsonl", rows) for name, rows in zip("ab", sides, strict=True)]
        return rmw("compare", *files, "--benchmark", scoring)

    right, wrong = ([{"score_chosen": s, "score_rejected": 0.5, "source": "x"} for _ in range(3)] for s in (1.0, 0.0))
    three = compared("pairs", right, wrong)
    assert "too few to tell even the largest difference" in three.out
    assert "the test decides; so few items differ that it cannot fall below 0.25" in three.out
    assert "corrected by Holm" in three.out
    assert "3 rows have no id, so line N of A is compared with line N of B" in three.err
    same = compared("pairs", right, right)
    assert "No item tells A and B apart" in same.out
    rated = [{"id": f"{n}", "group": n // 3, "score": n % 3, "rating": n % 3} for n in range(36)]
    prompts = compared("rating-correlation", rated, [{**row, "score": -row["score"]} for row in rated])
    assert "36 rows compared, of which the rule makes 12 items of the overall" in prompts.out
    assert "corrected by Holm" not in prompts.out


def test_bad_input_is_one_sentence(store: ArtifactStore, project: Project, rmw: Rmw):
    publish_scores(store, "good", margins(0, 1.0))
    publish_scores(store, "other", margins(0, 1.0), prefix="q")
    a = score_file(project.folder / "a.jsonl", 1.0)
    nan = write(project.folder / "nan.jsonl", [{"id": 1, "score_chosen": float("nan"), "score_rejected": 0.0}])
    far = score_file(project.folder / "far.jsonl", 1.0, range(100, 110))
    (project.folder / "model").mkdir()

    def refused(*arguments: str) -> str:
        answer = rmw("compare", *arguments)
        assert answer.code == 1
        return answer.err.splitlines()[-1]

    assert "name one benchmark with --benchmark" in refused(a, a)
    assert "nan.jsonl: line 1: field score_chosen is nan" in refused(a, nan, "--benchmark", "pairs")
    assert "none is common" in refused(a, far, "--benchmark", "pairs")
    assert "there is no such file" in refused("absent.jsonl", a, "--benchmark", "pairs")
    assert "has no scores on 'llmbar'; it has: test" in refused(
        "good_checkpoint", "good_checkpoint", "--benchmark", "llmbar"
    )
    assert "A has 120 items and B 120, and none is common" in refused(
        "good_checkpoint", "other_checkpoint", "--benchmark", "test"
    )
    assert "have no item in common" in refused("good_checkpoint", "other_checkpoint")
    assert "is no artifact of RMW_HOME" in refused("model", "good_checkpoint")
    assert rmw("compare", "good_checkpoint", "good_checkpoint", "--power", "0").code == 2
