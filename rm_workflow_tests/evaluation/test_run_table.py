"""Runs of a sweep side by side: rows, spread of seeds, and what each part of a mixture earns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.evaluation.attribution import attribution_rows
from rm_workflow.evaluation.run_table import MISSING, RETIRED, SCORED, Run, flat_rows, run_rows, seed_rows
from rm_workflow_tests.evaluation.stored_scores import publish_scores


def margins(num_right: int, num_pairs: int = 200) -> list[float]:
    """Return margins of which the first ones are right, two to a group."""
    return [1.0 if number < num_right else -1.0 for number in range(num_pairs)]


def settings(data: str, seed: int) -> dict[str, Any]:
    return {"data": data, "base": None, "learning_rate": 1e-5, "epochs": 1.0, "seed": seed}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def scored(store: ArtifactStore, num_right: int, prefix: str = "p") -> Artifact:
    return publish_scores(store, "toy", margins(num_right), prefix=prefix)


def rows_of(runs: list[Run]) -> list[dict[str, Any]]:
    return run_rows(runs, ["test"])["test"]


def test_the_best_run_is_first_and_one_without_scores_last(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Run, "parts", lambda run, benchmark: {})
    runs = [
        Run("none__s0", settings("none", 0), None),
        Run("low__s0", settings("low", 0), scored(store, 100)),
        Run("old__s0", {}, scored(store, 150), is_retired=True),
        Run("high__s0", settings("high", 0), scored(store, 180)),
    ]
    rows = rows_of(runs)
    assert [(row["run"], row["score"], row["state"]) for row in rows] == [
        *(("high__s0", 0.9, SCORED), ("old__s0", 0.75, RETIRED), ("low__s0", 0.5, SCORED), ("none__s0", None, MISSING)),
    ]
    assert rows[0]["checkpoint"].startswith("toy_checkpoint@")
    assert rows[0]["ci_low"] < 0.9 < rows[0]["ci_high"]


def test_rows_of_a_half_finished_sweep_have_the_same_columns(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    part = {"score": 0.25, "n": 4, "ci_low": 0.1, "ci_high": 0.6}
    monkeypatch.setattr(Run, "parts", lambda run, benchmark: {"Maths": part} if run.scores else {})
    rows = flat_rows(
        rows_of([Run("a__s0", settings("a", 0), scored(store, 150)), Run("b__s0", settings("b", 0), None)])
    )

    assert list(rows[0]) == list(rows[1])
    assert [row["Maths"] for row in rows] == [0.25, None]


def test_the_spread_of_seeds_is_students_interval_of_their_mean(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Run, "parts", lambda run, benchmark: {})
    right = {0: 100, 1: 110, 2: 126}
    runs = [Run(f"a__s{seed}", settings("a", seed), scored(store, number)) for seed, number in right.items()]
    (spread,) = seed_rows(rows_of([*runs, Run("b__s0", settings("b", 0), scored(store, 140))]))
    scores = np.array([number / 200 for number in right.values()])
    half = t.ppf(0.975, 2) * scores.std(ddof=1) / np.sqrt(3)
    assert (spread["data"], spread["seeds"]) == ("a", 3)
    assert spread["mean"] == pytest.approx(scores.mean())
    assert [spread["ci_low"], spread["ci_high"]] == pytest.approx([scores.mean() - half, scores.mean() + half])


def test_a_part_earns_what_the_run_on_all_parts_has_more_than_the_run_without_it(store: ArtifactStore):
    right = {"all": 160, "without_useful": 110, "without_harmful": 198, "without_idle": 160}
    runs = [Run(f"{data}__s0", settings(data, 0), scored(store, number)) for data, number in right.items()]
    left_out = {name: name.removeprefix("without_") for name in right if name != "all"}
    rows = attribution_rows(store, runs, left_out, ["test"])
    overall = {row["part"]: row for row in rows if row["figure"] == "overall"}
    assert {part: row["earns"] for part, row in overall.items()} == pytest.approx(
        {"useful": 0.25, "harmful": -0.19, "idle": 0.0}
    )
    assert {part: row["verdict"] for part, row in overall.items()} == {
        "useful": "earns",
        "harmful": "costs",
        "idle": "not distinguishable",
    }
    assert all(row["ci_low"] <= row["earns"] <= row["ci_high"] for row in rows)
    assert {row["figure"] for row in rows if row["part"] == "useful"} == {"overall", "hh", "shp"}


def test_runs_of_another_seed_or_without_scores_are_not_compared(store: ArtifactStore):
    runs = [
        Run("all__s0", settings("all", 0), scored(store, 160)),
        Run("without_a__s1", settings("without_a", 1), scored(store, 120)),
        Run("without_b__s0", settings("without_b", 0), None),
        Run("without_c__s0", settings("without_c", 0), scored(store, 121, prefix="other")),
    ]
    (row,) = attribution_rows(store, runs, {f"without_{part}": part for part in "abc"}, ["test"])
    assert (row["part"], row["earns"]) == ("c", None)
    assert row["verdict"].startswith("not comparable: benchmark test: A has 200 items and B 200, and none is common")


def test_what_a_part_earns_over_several_seeds_stands_before_each_seed(store: ArtifactStore):
    right = {("all", 0): 160, ("all", 1): 150, ("without_a", 0): 100, ("without_a", 1): 140}
    runs = [Run(f"{data}__s{seed}", settings(data, seed), scored(store, n)) for (data, seed), n in right.items()]
    rows = attribution_rows(store, runs, {"without_a": "a"}, ["test"])
    overall = [row for row in rows if row["figure"] == "overall"]
    assert [(row["seed"], row["seeds"]) for row in overall] == [(None, 2), (0, 1), (1, 1)]
    assert [row["earns"] for row in overall] == pytest.approx([0.175, 0.3, 0.05])
    pooled, first, _ = overall
    assert first["verdict"] == "earns"
    # Two seeds that differ by so much do not tell whether a third one would earn anything.
    assert pooled["verdict"] == "not distinguishable"
    assert pooled["ci_low"] < 0 < pooled["ci_high"]
