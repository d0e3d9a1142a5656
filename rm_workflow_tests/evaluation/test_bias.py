import numpy as np
import pytest
from scipy import stats

from rm_workflow.evaluation import bias
from rm_workflow.evaluation.items import ScoredItem

CHOSEN, REJECTED = np.array([2.0, 1.0, 0.0, 1.0, 3.0]), np.array([0.0, 1.0, 1.0, 0.0, 0.0])
LONG, SHORT = np.array([10.0, 10, 5, 7, 20]), np.array([5.0, 20, 9, 7, 2])


def test_accuracy_is_split_by_the_longer_side():
    found = bias.length_figures(CHOSEN, REJECTED, LONG, SHORT)

    assert (found["chosen_longer"]["score"], found["chosen_longer"]["n"]) == (1.0, 2)
    assert (found["chosen_shorter"]["score"], found["chosen_shorter"]["n"], found["chosen_shorter"]["ties"]) == (
        0,
        2,
        1,
    )
    assert found["num_equal"] == 1


def test_correlations_are_spearmans():
    found = bias.length_figures(CHOSEN, REJECTED, LONG, SHORT)

    expected = stats.spearmanr(CHOSEN - REJECTED, LONG - SHORT).statistic
    assert found["spearman_margin_length"] == pytest.approx(expected)
    expected = stats.spearmanr([*CHOSEN, *REJECTED], [*LONG, *SHORT]).statistic
    assert found["spearman_reward_length"] == pytest.approx(expected)


def test_lengths_that_are_all_equal_have_no_correlation_and_no_accuracy():
    found = bias.length_figures(CHOSEN, REJECTED, SHORT, SHORT)

    assert found["chosen_longer"] is None
    assert found["chosen_shorter"] is None
    assert found["spearman_margin_length"] is None


def test_accuracy_by_length_is_clustered_by_group():
    n = 60
    chosen, longer = np.tile([1.0, -1.0], n // 2).repeat(4), np.ones(4 * n)

    alone = bias.length_figures(chosen, 0 * chosen, longer, 0 * longer)["chosen_longer"]
    grouped = bias.length_figures(chosen, 0 * chosen, longer, 0 * longer, list(np.arange(n).repeat(4)))["chosen_longer"]

    assert grouped["ci_high"] - grouped["ci_low"] > 1.7 * (alone["ci_high"] - alone["ci_low"])


def test_nulls_of_the_test_split_count_a_tie_as_one_half_as_its_headline_does():
    found = bias.split_nulls(LONG, SHORT, list(range(5)))

    assert (found["pick_longer"]["score"], found["pick_shorter"]["score"]) == (0.5, 0.5)
    assert found["pick_longer"]["ties"] == 1


def items(subset: str, *lengths: list[float]) -> dict[str, ScoredItem]:
    return {f"{subset} {n}": ScoredItem(subset, scores, 1, {"id": n}) for n, scores in enumerate(lengths)}


def test_nulls_of_a_benchmark_follow_its_own_rule():
    lengths = {}
    for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus"):
        lengths |= items(subset, [9.0, 9, 2, 1], [1.0, 5, 5, 5])
    for number, (kind, scores) in enumerate([("ref", [9.0, 1.0]), ("tied", [9.0, 8.0, 1.0])]):
        lengths[f"Ties {number}"] = ScoredItem("Ties", scores, len(scores) - 1, {"id": f"{kind}:0"})

    found = bias.benchmark_nulls("rewardbench2", lengths)

    # longest shares the point with one other in half of the items; all Ties terms hold
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * np.tanh(7 / 1 - 1)
    assert found["pick_longer"]["score"] == pytest.approx((5 * 0.25 + ties) / 6)
    assert found["pick_shorter"]["score"] == pytest.approx((5 * 0.5 + 0 - 0.01 * np.tanh(9)) / 6, abs=1e-6)
    assert set(found["pick_longer"]) == {"score", "n", "ci_low", "ci_high", "ties"}


def test_a_rule_without_score_gives_no_null():
    assert bias.benchmark_nulls("rewardbench", items("math-prm", [2.0, 1.0])) == {
        "pick_longer": None,
        "pick_shorter": None,
    }


def test_items_of_one_id_and_the_same_lengths_are_two_items():
    twins = {name: ScoredItem("math-prm", [2.0, 1.0], 1, {"id": 7}) for name in ("a", "b")}

    assert bias.benchmark_nulls("rewardbench", twins)["pick_longer"] is None


def test_swapped_sides_turn_accuracy_around():
    found = bias.flip_test(CHOSEN, REJECTED)

    assert (found["accuracy"], found["flipped"], found["ties"]) == (0.6, 0.2, 0.2)
    assert found["holds"] is True


def test_the_flip_test_fails_for_a_rule_that_looks_at_the_side(monkeypatch: pytest.MonkeyPatch):
    class SecondWinsTies:
        def aggregate(self, rows):
            margins = [row["score_chosen"] - row["score_rejected"] for row in rows]
            return {"score": np.mean([margin >= 0 for margin in margins]), "ties": margins.count(0)}

    monkeypatch.setattr(bias.rules, "rule", lambda name: SecondWinsTies())

    assert bias.flip_test(CHOSEN, REJECTED)["holds"] is False
