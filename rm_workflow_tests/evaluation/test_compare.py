import numpy as np
import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.benchmarks import pairs, rewardbench, rewardbench2
from rm_workflow.evaluation.compare import Comparison, parts_of, verdict
from rm_workflow.evaluation.paired import mcnemar

SIZES = dict.fromkeys(rewardbench.SUBSETS, 6) | {"math-prm": 40}


def rewardbench_rows(seed: int, gain: float = 0.0, subsets=rewardbench.SUBSETS) -> list[dict]:
    generator = np.random.default_rng(seed)
    return [
        {
            "id": number,
            "subset": subset,
            "score_chosen": float(generator.normal() + gain),
            "score_rejected": float(generator.normal()),
        }
        for subset in subsets
        for number in range(SIZES[subset])
    ]


def rewardbench2_rows(seed: int, gain: float) -> list[dict]:
    generator = np.random.default_rng(seed)
    rows = [
        {
            "id": number,
            "subset": subset,
            "scores": [float(generator.normal() + gain), *generator.normal(size=3).tolist()],
        }
        for subset in rewardbench2.SUBSETS[:-1]
        for number in range(12)
    ]
    rows += [
        {"id": f"{kind}:{n}", "subset": "Ties", "scores": generator.normal(size=k + 2).tolist(), "num_correct": k}
        for n in range(10)
        for kind, k in (("ref", 1), ("tied", 3))
    ]
    return [{"num_correct": 1} | row for row in rows]


def compared(scoring: str, a: list[dict], b: list[dict], power: float | None = None) -> dict:
    return Comparison(parts_of(scoring, a), parts_of(scoring, b)).figures(power)


def test_the_figures_of_rewardbench_are_those_of_aggregate():
    a, b = rewardbench_rows(0, 1.0), rewardbench_rows(1)

    found = compared("rewardbench", a, b)

    of_a, of_b = rewardbench.aggregate(a), rewardbench.aggregate(b)
    assert found["score_a"] == pytest.approx(of_a["overall_sections_mean"])
    assert found["difference"] == pytest.approx(of_a["overall_sections_mean"] - of_b["overall_sections_mean"])
    assert found["n"] == sum(SIZES.values())
    for name, section in of_a["sections"].items():
        assert found["sections"][name]["score_a"] == pytest.approx(section["score"])
    for name, subset in of_b["subsets"].items():
        assert found["subsets"][name]["score_b"] == pytest.approx(subset["score"])


def test_the_figures_of_rewardbench_2_are_those_of_aggregate():
    a, b = rewardbench2_rows(0, 1.5), rewardbench2_rows(1, 0.0)

    found = compared("rewardbench2", a, b)

    assert found["score_a"] == pytest.approx(rewardbench2.aggregate(a)["overall"])
    assert found["score_b"] == pytest.approx(rewardbench2.aggregate(b)["overall"])
    assert found["verdict"] == "A better"
    assert found["only_a"] is None
    assert set(found["subsets"]) == set(rewardbench2.SUBSETS)


def test_the_figures_of_pairs_are_those_of_aggregate_and_groups_are_kept_together():
    generator = np.random.default_rng(4)
    rows = [
        [
            {"score_chosen": float(generator.normal() + gain), "score_rejected": 0.0, "source": "hh", "group": n // 3}
            for n in range(90)
        ]
        for gain in (0.7, 0.0)
    ]

    found = compared("pairs", *rows)

    assert found["score_a"] == pytest.approx(pairs.aggregate(rows[0])["score"])
    assert found["test"] == "swaps of groups"
    alone = compared("pairs", *([{**row, "group": None} for row in side] for side in rows))
    assert alone["test"] == "McNemar, exact"
    assert (alone["only_a"], alone["only_b"]) == tuple(
        sum(x["score_chosen"] > 0 >= y["score_chosen"] for x, y in zip(*sides, strict=True))
        for sides in (rows, rows[::-1])
    )


def test_a_checkpoint_and_itself_are_not_distinguishable():
    rows = rewardbench_rows(0)

    found = compared("rewardbench", rows, rows, power=0.02)

    assert (found["difference"], found["p_value"], found["verdict"]) == (0, 1, "not distinguishable")
    assert found["ci_low"] < 0 < found["ci_high"]
    assert found["power"]["items_needed"] is None


def test_swapping_a_and_b_mirrors_everything():
    a, b = rewardbench_rows(0, 1.0), rewardbench_rows(1)

    there, back = compared("rewardbench", a, b), compared("rewardbench", b, a)

    assert there["difference"] == pytest.approx(-back["difference"])
    assert (there["ci_low"], there["ci_high"]) == pytest.approx((-back["ci_high"], -back["ci_low"]))
    assert there["p_value"] == back["p_value"]
    assert (there["verdict"], back["verdict"]) == ("A better", "B better")


def test_subsets_are_corrected_by_holm_over_all_of_them():
    found = compared("rewardbench", rewardbench_rows(0, 1.2), rewardbench_rows(1))["subsets"]

    uncorrected = sorted(figure["p_uncorrected"] for figure in found.values())
    smallest = min(found.values(), key=lambda figure: figure["p_uncorrected"])
    assert smallest["p_value"] == pytest.approx(min(1, uncorrected[0] * len(rewardbench.SUBSETS)))
    assert all((figure["p_value"] < 0.05) == (figure["verdict"] != "not distinguishable") for figure in found.values())


def test_without_a_subset_the_mean_over_all_items_stands_for_the_overall():
    kept = ("math-prm", "hep-cpp")
    a, b = rewardbench_rows(0, 1.0, kept), rewardbench_rows(1, 0.0, kept)

    found = compared("rewardbench", a, b)

    assert compared("rewardbench", rewardbench_rows(0), rewardbench_rows(1))["of"] == "overall"
    assert found["of"] == "all items"
    right = [[row["score_chosen"] > row["score_rejected"] for row in side] for side in (a, b)]
    assert found["score_a"] == pytest.approx(np.mean(right[0]))
    assert found["n"] == 46
    only_a, only_b = (sum(x and not y for x, y in zip(*sides, strict=True)) for sides in (right, right[::-1]))
    assert (found["only_a"], found["only_b"]) == (only_a, only_b)
    assert (found["p_value"], found["test"]) == (pytest.approx(mcnemar(only_a, only_b)), "McNemar, exact")
    assert found["odds_ratio"] == pytest.approx((only_a + 0.5) / (only_b + 0.5))
    assert set(found["sections"]) == {"Reasoning"}
    assert found["sections"]["Reasoning"]["test"] == "swaps of groups"


def test_power_tells_how_many_items_a_difference_needs():
    found = compared("rewardbench", rewardbench_rows(0, 1.0), rewardbench_rows(1), power=0.02)["power"]

    assert found["items_needed"] > 1000
    assert 0.02 < found["least_difference"] < 0.4


def test_items_in_other_groups_are_refused():
    rows = [{"score_chosen": 1.0, "score_rejected": 0.0, "group": n} for n in range(4)]

    with pytest.raises(UserError, match="lie in other groups for A than for B"):
        compared("pairs", rows, [{**row, "group": 0} for row in rows])


def test_a_verdict_needs_p_below_5_percent():
    assert verdict(0.1, 0.05) == "not distinguishable"
    assert verdict(0.1, 0.049) == "A better"
    assert verdict(-0.1, 0.049) == "B better"


def correlation_rows(slopes: list[float]) -> list[dict]:
    return [
        {"id": f"{prompt} {rating}", "group": prompt, "score": slope * rating, "rating": rating}
        for prompt, slope in enumerate(slopes)
        for rating in range(3)
    ]


def test_differences_of_correlations_reach_2():
    up, down = correlation_rows([1.0] * 12), correlation_rows([1.0] + [-1.0] * 11)

    found = compared("rating_correlation", up, down, power=0.5)

    assert found["difference"] == pytest.approx(22 / 12)
    assert found["ci_low"] < found["difference"] <= found["ci_high"] <= 2
    assert found["cohens_h"] is None
    assert 1 < found["power"]["least_difference"] < 2
    assert 12 < found["power"]["items_needed"] < 200


def test_intervals_of_differences_of_correlations_hold_the_truth():
    generator, held = np.random.default_rng(3), 0
    for _ in range(200):
        sides = [generator.choice([-1.0, 1.0], 60, p=(share, 1 - share)) for share in (0.2, 0.4)]
        found = compared("rating_correlation", *(correlation_rows(list(side)) for side in sides))
        held += found["ci_low"] <= 0.4 <= found["ci_high"]

    assert 0.91 <= held / 200 <= 0.985


def test_too_few_items_cannot_reach_5_percent_and_say_so():
    rows = [[{"id": n, "score_chosen": right, "score_rejected": 0.5} for n in range(3)] for right in (1.0, 0.0)]

    found = compared("pairs", *rows)

    assert (found["p_value"], found["least_p_value"], found["verdict"]) == (0.25, 0.25, "not distinguishable")
    assert found["power"]["least_difference"] is None
    assert found["power"]["second_moment"] > 0


def test_composites_of_subsets_of_one_item_claim_no_certainty():
    a, b = ([row for row in rewardbench_rows(seed, gain) if row["id"] == 0] for seed, gain in ((0, 1.0), (1, 0.0)))

    found = compared("rewardbench", a, b)

    assert found["ci_high"] - found["ci_low"] > 0.3
