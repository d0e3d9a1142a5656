import pytest

from rm_workflow.reporting import plots

PNG = b"\x89PNG"
METRICS = [{"step": n, "loss": 0.7, "accuracy": 0.5, "margin": 0.1, "learning_rate": 1e-4} for n in range(3)]

SIDES = {"chosen": [0, 3, 1], "rejected": [0, 0, 0]}
LENGTHS = {"edges": [0, 8], "counts": {"one": SIDES, "two": SIDES, "three": SIDES}}


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
        lambda: plots.length_histograms(LENGTHS, "words"),
        lambda: plots.length_histograms({"edges": [0], "counts": {}}, "words"),
        lambda: plots.matrix(["one", "two"], [[1, 0.02], [0.5, 1]], "shared"),
    ],
)
def test_every_plot_is_a_png_and_the_same_twice(draw):
    first = draw()
    assert first.startswith(PNG)
    assert len(first) > 1000
    assert draw() == first
