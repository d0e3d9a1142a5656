import pytest

from rm_workflow.reporting import plots
from rm_workflow_tests.reporting.published import best_of_n_result

PNG = b"\x89PNG"
METRICS = [{"step": n, "loss": 0.7, "accuracy": 0.5, "margin": 0.1, "learning_rate": 1e-4} for n in range(3)]

SCORE = {"score": 0.7, "ci_low": 0.6, "ci_high": 0.8}
BIN = {"low": 0.5, "high": 0.75, "confidence": 0.6, "accuracy": 0.4, "n": 10}
SIDES = {"chosen": [0, 3, 1], "rejected": [0, 0, 0]}
LENGTHS = {"edges": [0, 8], "counts": {"one": SIDES, "two": SIDES, "three": SIDES}}
BIN = {"low": 0.6, "high": 0.65, "confidence": 0.62, "accuracy": 0.7, "n": 12}

CHANGE = {"mean_change": 0.2, "ci_low": 0.1, "ci_high": 0.3, "num_changed": 48, "expected": "falls"}
NO_CHANGE = {"mean_change": None, "ci_low": None, "ci_high": None, "num_changed": 0, "expected": "unchanged"}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.funnel([("candidates", 0, 10), ("equal_score", 4, 6)], "pairs"),
        lambda: plots.funnel([("candidates", 0, 0)], "nothing"),
        lambda: plots.training_curves(METRICS, "checkpoint"),
        lambda: plots.training_curves(METRICS, "checkpoint", [{"step": 1, "loss": 0.6, "accuracy": 0.5}]),
        lambda: plots.histogram([0, 8, 16], [3, 1], "tokens", "lengths"),
        lambda: plots.scores_with_intervals([("test", 0.7, 0.6, 0.8)], "scores"),
        lambda: plots.scores_with_intervals([], "scores"),
        lambda: plots.scores_with_nulls([("test", SCORE, [0.5, 0.52]), ("other", {"score": 0.6}, [])], "scores"),
        lambda: plots.scores_with_nulls([], "scores"),
        lambda: plots.reliability([BIN, {**BIN, "low": 0.75, "high": 1.0, "confidence": 0.9}], "test"),
        lambda: plots.reward_changes({"injection": CHANGE, "quoted": {**CHANGE, "expected": "unchanged"}}, "probes"),
        lambda: plots.reward_changes({"injection": {**CHANGE, "ci_low": None}, "quoted": NO_CHANGE}, "probes"),
        lambda: plots.length_histograms(LENGTHS, "words"),
        lambda: plots.length_histograms({"edges": [0], "counts": {}}, "words"),
        lambda: plots.reliability([BIN], "reliability"),
        lambda: plots.reliability([], "reliability"),
        lambda: plots.accuracy_over_n(best_of_n_result(), "best of n"),
        lambda: plots.matrix(["one", "two"], [[1, 0.02], [0.5, 1]], "shared"),
    ],
)
def test_every_plot_is_a_png_and_the_same_twice(draw):
    first = draw()
    assert first.startswith(PNG)
    assert len(first) > 1000
    assert draw() == first


def test_the_curve_of_best_of_n_has_a_line_for_each_method_and_aggregator():
    result = best_of_n_result()
    lines = [name for name, _ in plots._methods(result)]
    assert lines == ["pass", "majority", "weighted_majority", "best_of_n", "longest"]
    steps = {"n": {"1": {"best_of_n": {"min": 0.5, "mean": 0.6}, "pass": 0.5, "pass_prefix": 0.5}}}
    assert plots._methods(steps) == [
        ("best_of_n, min", ("best_of_n", "min")),
        ("best_of_n, mean", ("best_of_n", "mean")),
        ("pass", ("pass",)),
    ]
