import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.evaluation.analysis import of_benchmark
from rm_workflow.evaluation.items import ScoredItem
from rm_workflow_tests.evaluation.stored_scores import item_ids, publish_benchmark, publish_scores

SCORE_KEYS = {"score", "n", "ci_low", "ci_high", "ties"}
ROWS = [
    {"id": n, "prompt": f"Question {n}?", "subset": "hep-cpp", "chosen": "Yes." * (1 + n % 3), "rejected": "No, never."}
    for n in range(12)
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = ArtifactStore(tmp_path_factory.mktemp("home"))
    bench = publish_benchmark(store, "mine", "rewardbench", ROWS)
    scores = {name: [float(place), 3.0] for place, name in enumerate(item_ids(bench))}
    return publish_scores(store, "toy", [1.5, -0.5, 0.0, 2.0, 0.7, -0.1, 1.1, 0.4], {"mine": (bench, scores)})


@pytest.fixture(scope="module")
def analysis(artifact: Artifact) -> dict:
    return json.loads(artifact.file("analysis.json").read_text())


def test_the_test_split_has_calibration_length_nulls_flip_and_margins(analysis: dict):
    test = analysis["test"]

    assert set(test) == {"calibration", "length", "nulls", "flip", "margin", "leaked_left_out"}
    assert sum(found["n"] for found in test["calibration"]["bins"]) == 8
    assert set(test["nulls"]["pick_longer"]) == SCORE_KEYS
    assert (test["nulls"]["pick_longer"]["score"], test["nulls"]["pick_shorter"]["score"]) == (0.5625, 0.4375)
    assert test["nulls"]["prompt_ablated"] is None
    assert test["flip"] == {"accuracy": 0.625, "flipped": 0.25, "ties": 0.125, "holds": True}
    assert (test["margin"]["mean"], test["margin"]["median"]) == (pytest.approx(0.6375), pytest.approx(0.55))
    assert sum(test["margin"]["counts"]) == 8
    # lengths of the chosen side are 10 to 16 in turn against 12: 13 to 16 are longer
    assert test["length"]["chosen_longer"]["n"] == 4
    assert test["length"]["num_equal"] == 1


def test_a_benchmark_has_nulls_by_its_rule_and_length_figures(analysis: dict):
    mine = analysis["mine"]

    # one subset of 23 gives no overall, so choosing by length has none either
    assert mine["nulls"] == {"pick_longer": None, "pick_shorter": None}
    assert mine["length"]["chosen_shorter"]["n"] == 8
    assert mine["length"]["chosen_longer"]["n"] == 4
    assert mine["length"]["chosen_longer"]["score"] == 0.75  # items 2, 5, 8, 11 against 3.0
    assert -1 <= mine["length"]["spearman_reward_length"] <= 1


def test_facts_hold_the_headline_figures(artifact: Artifact, analysis: dict):
    facts = artifact.facts["analysis"]

    assert facts["test"]["ece"] == analysis["test"]["calibration"]["ece"]
    assert facts["test"]["pick_longer"] == analysis["test"]["nulls"]["pick_longer"]["score"]
    assert facts["test"]["chosen_longer"] == analysis["test"]["length"]["chosen_longer"]["score"]
    assert facts["test"]["flip_holds"] is True
    assert facts["mine"]["pick_longer"] is None
    assert "ece" not in facts["mine"]


def test_leaked_items_are_left_out_of_every_figure(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    bench = publish_benchmark(store, "mine", "rewardbench", ROWS)
    names = item_ids(bench)
    scores = {name: [float(place), 3.0] for place, name in enumerate(names)}
    leaked = {"test": ["p1", "p2"], "mine": names[:3]}

    found = publish_scores(store, "toy", [1.5, -0.5, 0.0, 2.0], {"mine": (bench, scores)}, leaked)

    analysis = json.loads(found.file("analysis.json").read_text())
    assert analysis["test"]["flip"] == {"accuracy": 1.0, "flipped": 0.0, "ties": 0.0, "holds": True}
    assert (analysis["test"]["leaked_left_out"], analysis["mine"]["leaked_left_out"]) == (2, 3)
    length = analysis["mine"]["length"]
    assert length["chosen_longer"]["n"] + length["chosen_shorter"]["n"] + length["num_equal"] == 9


def test_pairs_of_one_prompt_are_clustered_in_the_length_figures_of_a_benchmark():
    def width(group_of: Callable[[int], str]) -> float:
        items = {
            f"{n}": ScoredItem("s", [1.0 if n // 4 % 3 else -1.0, 0.0], 1, {"id": n, "group": group_of(n)})
            for n in range(200)
        }
        lengths = {name: replace(item, scores=[9.0, 1.0]) for name, item in items.items()}
        found = of_benchmark("pairs", items, lengths)["length"]["chosen_longer"]
        return float(found["ci_high"] - found["ci_low"])

    assert width(lambda n: f"{n // 4}") > 1.7 * width(lambda n: f"{n}")
