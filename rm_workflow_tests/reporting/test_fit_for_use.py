from dataclasses import replace

import pytest

from rm_workflow.reporting import fit_for_use, tables
from rm_workflow.reporting.fit_for_use import RULES, USES
from rm_workflow_tests.reporting.published import Home, rewrite


def verdicts(home: Home) -> dict[str, str]:
    fit = fit_for_use.fit_for_use(home.evidence())
    return {use["use"]: use["verdict"] for use in fit["uses"]}


def warnings(home: Home, **more: int) -> dict[str, str]:
    fit = fit_for_use.fit_for_use(home.evidence(**more))
    return {warning["name"]: warning["sentence"] for warning in fit["warnings"]}


def test_a_use_is_supported_where_every_rule_holds_with_its_whole_interval(home: Home):
    assert verdicts(home) == {
        "best_of_n": "supported",
        "filtering": "supported",
        # No score on stored replies supports it.
        "policy_training": "no evidence",
    }


def test_a_score_whose_interval_holds_the_baseline_supports_nothing_and_condemns_nothing(home: Home):
    home.scores["test"].update(ci_low=0.51, pick_longer=0.52)
    assert verdicts(home) == {"best_of_n": "undecided", "filtering": "undecided", "policy_training": "no evidence"}


@pytest.mark.parametrize(("ci_high", "verdict"), [(0.82, "undecided"), (0.80, "not supported")])
def test_the_better_baseline_is_the_one_to_beat(home: Home, ci_high: float, verdict: str):
    home.scores["test"].update(ci_low=0.75, ci_high=ci_high, pick_longer=0.2, pick_shorter=0.8)
    assert verdicts(home)["filtering"] == verdict


def test_a_figure_without_an_interval_decides_nothing_and_says_so(home: Home):
    for value in (0.9, 0.1):
        home.scores["test"].update(score=value, ci_low=None, ci_high=None)
        assert verdicts(home)["filtering"] == "undecided"
    use = fit_for_use.fit_for_use(home.evidence())["uses"][0]
    assert tables.fit_rules(use)[0]["measured"] == "0.100 (n 400), without interval, which decides nothing"


def test_choosing_among_replies_needs_more_than_length(home: Home):
    home.analysis["test"]["length"]["chosen_shorter"].update(score=0.45, ci_low=0.4, ci_high=0.49)
    assert verdicts(home) == {
        "best_of_n": "not supported",
        "filtering": "supported",
        "policy_training": "not supported",
    }


def test_the_score_of_a_benchmark_must_beat_what_it_gives_to_who_reads_nothing(home: Home):
    home.scores["sample_rewardbench2"].update(ci_low=0.26)
    assert verdicts(home)["best_of_n"] == "supported"


def test_a_null_of_the_benchmark_above_chance_is_the_one_to_beat(home: Home):
    home.analysis["sample_rewardbench2"] = {"nulls": {"pick_shorter": {"score": 0.527, "n": 116}}}
    assert verdicts(home)["best_of_n"] == "undecided"


@pytest.mark.parametrize(
    ("reach", "verdict"),
    [([0.0, 0.05], "supported"), ([0.02, 0.09], "undecided"), ([0.051, 0.09], "not supported")],
)
def test_filtering_needs_probabilities_that_are_right_beyond_chance(home: Home, reach: list[float], verdict: str):
    home.analysis["test"]["calibration"].update(ece_after_temperature_interval=reach)
    assert verdicts(home)["filtering"] == verdict


def test_without_a_temperature_the_error_of_all_pairs_counts_with_their_number(home: Home):
    calibration = home.analysis["test"]["calibration"]
    calibration.update(ece_after_temperature=None, ece=0.2, ece_interval=[0.1, 0.3], n=400, n_evaluated=200)
    assert verdicts(home)["filtering"] == "not supported"
    assert "0.200, interval 0.100 to 0.300, n 400" in warnings(home)["calibration"]


def test_without_an_analysis_there_is_no_evidence_and_no_crash(home: Home):
    home.analysis = {}
    assert verdicts(home) == dict.fromkeys(USES, "no evidence")


def test_a_checkpoint_that_was_never_scored_has_no_evidence(home: Home):
    fit = fit_for_use.fit_for_use(home.evidence(until="checkpoint"))
    assert {use["verdict"] for use in fit["uses"]} == {"no evidence"}
    assert "not evaluated" in {one["name"]: one["sentence"] for one in fit["warnings"]}["prompt_distribution"]


@pytest.mark.parametrize(("leaked", "verdict"), [(20, "supported"), (40, "undecided")])
def test_leaked_items_are_taken_off_before_a_score_is_compared(home: Home, leaked: int, verdict: str):
    home.scores["test"].update(ci_low=0.58)
    home.overlap["test"].update(verdict="leaky", leaked_items=leaked)
    assert verdicts(home)["filtering"] == verdict
    assert f"{leaked} of 400 prompts of test" in warnings(home)["contamination"]


def test_a_score_that_leaves_leaked_items_out_is_compared_as_it_is(home: Home):
    all_items = {**home.scores["test"], "score": 0.9}
    home.scores["test"].update(ci_low=0.58, n=360, leaked_items=40, all_items=all_items)
    home.overlap["test"].update(verdict="leaky", leaked_items=40)
    # Not 0.51 less the 40 of 400: the analysis leaves them out too.
    home.analysis["test"]["length"]["chosen_shorter"].update(ci_low=0.51)
    assert verdicts(home)["filtering"] == "supported"
    assert verdicts(home)["best_of_n"] == "supported"
    assert "its score leaves them out" in warnings(home)["contamination"]


@pytest.mark.parametrize(
    ("ci_high", "ties", "is_worse"), [(0.5, 0, False), (0.499, 0, True), (0.499, 4, False), (None, 0, False)]
)
def test_a_score_that_is_surely_below_a_coin_is_called_worse_than_chance(
    home: Home, ci_high: float | None, ties: int, is_worse: bool
):
    home.scores["test"].update(score=0.4, ci_low=0.3 if ci_high else None, ci_high=ci_high, ties=ties)
    use = fit_for_use.fit_for_use(home.evidence())["uses"][1]
    outcome = tables.fit_rules(use)[0]["outcome"]
    assert (outcome == "does not hold: worse than chance") == is_worse
    assert ("worse than chance" in outcome) == is_worse


def test_choosing_worse_than_at_random_is_called_so(home: Home):
    home.add_best_of_n("mistral_gsm8k_best_of_n")
    use = fit_for_use.fit_for_use(home.evidence())["uses"][0]
    assert not any(rule["is_worse_than_chance"] for rule in use["rules"])
    # One of four candidates taken at random is right.
    home.scores["mistral_gsm8k_best_of_n"].update(ci_low=0.1, ci_high=0.24)
    use = fit_for_use.fit_for_use(home.evidence())["uses"][0]
    worse = [row["figure"] for row in tables.fit_rules(use) if row["outcome"] == "does not hold: worse than chance"]
    assert worse == ["best-of-4 score on mistral_gsm8k_best_of_n"]


@pytest.mark.parametrize(
    ("peak", "told"),
    [
        (
            1,
            "Ranking by this model does not help: the best of 4 is right less often than one candidate at random",
        ),
        (2, "Best-of-n is right most often with 2 candidates; with 4 it is lower"),
    ],
)
def test_a_choice_that_gets_worse_with_more_candidates_is_told_by_what_it_means(home: Home, peak: int, told: str):
    home.add_best_of_n("mistral_gsm8k_best_of_n")
    curve = home.details["mistral_gsm8k_best_of_n"]["over_optimisation"]["score"]
    curve.update(peak_n=peak, drop={"score": 0.05, "ci_low": 0.01, "ci_high": 0.09})
    words = tables.best_of_n_words(home.evidence(), "mistral_gsm8k_best_of_n")
    assert told in words
    assert words.endswith("by 0.050 (0.010 to 0.090).")


def test_every_rule_has_a_figure_a_reason_and_a_use():
    measured = fit_for_use.NOT_MEASURED
    for rule in RULES:
        assert rule.use in USES
        assert rule.figure in measured
        assert len(rule.why) > 40


def test_a_calm_model_is_warned_of_for_what_no_score_can_tell_alone(home: Home):
    assert set(warnings(home)) == {"policy_lineage", "prompt_distribution", "generated_rows"}


def test_length_bias_is_told_with_its_figures(home: Home):
    length = home.analysis["test"]["length"]
    length.update(spearman_margin_length=-0.31)
    assert "Spearman -0.31" in warnings(home)["length_bias"]


def test_an_accuracy_gap_by_length_is_told(home: Home):
    home.analysis["test"]["length"]["chosen_longer"].update(score=0.95, ci_low=0.9)
    assert "0.950" in warnings(home)["length_bias"]


def test_a_test_on_the_sources_of_training_alone_is_told(home: Home):
    home.scores = {"test": home.scores["test"]}
    assert "sources that it was trained on alone" in warnings(home)["prompt_distribution"]


def test_several_scored_checkpoints_of_one_recipe_are_told(home: Home):
    assert "3 checkpoints" in warnings(home, num_scored=3)["selected_on_test"]
    assert "selected_on_test" not in warnings(home, num_scored=1)


def test_one_that_was_chosen_by_a_score_tells_that_this_score_is_too_high_for_it(home: Home):
    chosen = replace(home.evidence(num_scored=6), selected_by={"test": 6})
    told = [warning["sentence"] for warning in fit_for_use.fit_for_use(chosen)["warnings"]]
    (sentence,) = [sentence for sentence in told if "runs" in sentence or "checkpoints of this recipe" in sentence]
    assert sentence.startswith("This checkpoint was chosen among 6 runs by its score on test")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ties", {"ties": 5}),
        ("precision", {"mean_margin": 0.001}),
    ],
)
def test_ties_and_coarse_precision_are_told(home: Home, name: str, change: dict[str, float]):
    home.scores["test"].update(change)
    assert name in warnings(home)


def test_what_a_model_reaches_without_prompts_is_no_threshold(home: Home):
    home.analysis["test"]["nulls"]["prompt_ablated"]["score"] = 0.79
    assert verdicts(home)["filtering"] == "supported"


@pytest.mark.parametrize(("expected", "low", "is_told"), [("falls", 0.01, True), ("falls", 0.0, False)])
@pytest.mark.parametrize("name", ["injection", "empty"])
def test_a_rewrite_that_should_not_be_rewarded_and_is_is_told(
    home: Home, name: str, expected: str, low: float, is_told: bool
):
    home.probes["probes"][name] = rewrite(expected, low, 0.5)
    told = warnings(home)
    assert ("rewarded_rewrites" in told) == is_told
    if is_told:
        assert "+0.26 (+0.01 to +0.50) standard deviations (n 46)" in told["rewarded_rewrites"]


@pytest.mark.parametrize(
    ("low", "high", "is_told"), [(0.21, 0.4, True), (0.19, 0.9, False), (-0.4, -0.21, True), (-0.9, -0.19, False)]
)
def test_a_change_of_form_that_moves_rewards_much_is_told(home: Home, low: float, high: float, is_told: bool):
    home.probes["probes"]["quoted"] = rewrite("unchanged", low, high)
    assert ("moved_by_form" in warnings(home)) == is_told
    # what should fall may fall by any amount
    assert "rewarded_rewrites" not in warnings(home)


@pytest.mark.parametrize(("low", "high", "is_told"), [(-0.34, 0.26, True), (-0.34, -0.01, False), (0.01, 0.5, False)])
def test_what_should_lower_a_reward_and_does_not_clearly_is_told(home: Home, low: float, high: float, is_told: bool):
    home.probes["probes"]["empty"] = rewrite("falls", low, high)
    assert ("kept_rewards" in warnings(home)) == is_told


def test_rewrites_without_an_interval_are_not_judged(home: Home):
    for one in home.probes["probes"].values():
        one["change"]["all"].update(mean=9.0, ci_low=None, ci_high=None)
    home.probes["probes"]["empty"]["change"]["all"] = None
    assert not {"rewarded_rewrites", "kept_rewards", "moved_by_form"} & set(warnings(home))


@pytest.mark.parametrize(("low", "is_told"), [(0.001, False), (0.0, True), (-0.2, True)])
def test_a_model_that_needs_no_prompt_is_told(home: Home, low: float, is_told: bool):
    home.probes["prompt_ablated"]["difference"]["ci_low"] = low
    assert ("prompt_ignored" in warnings(home)) == is_told


def test_a_flip_that_does_not_hold_is_told(home: Home):
    home.analysis["test"]["flip"]["holds"] = False
    assert "flip" in warnings(home)


@pytest.mark.parametrize("benchmark", ["test", "sample_rewardbench2"])
def test_a_score_whose_overlap_is_unknown_supports_nothing_and_is_told(home: Home, benchmark: str):
    home.overlap[benchmark] = {"verdict": "unknown"}
    assert verdicts(home)["best_of_n"] == "no evidence"
    assert f"items of {benchmark} is not known" in warnings(home)["contamination"]


def test_a_generated_benchmark_supports_no_choice_among_real_replies(home: Home):
    generated = home.catalog.benchmarks["sample_rewardbench2"].model_copy(update={"path": "samples:any", "hub": None})
    home.catalog.benchmarks["sample_rewardbench2"] = generated
    assert verdicts(home)["best_of_n"] == "no evidence"
    assert "sample_rewardbench2 were generated" in warnings(home)["generated_rows"]


def test_best_of_n_is_judged_against_its_strongest_baseline_and_comes_before_other_lists(home: Home):
    home.add_best_of_n("mistral_gsm8k_best_of_n")
    use = next(use for use in fit_for_use.fit_for_use(home.evidence())["uses"] if use["use"] == "best_of_n")
    rule = next(rule for rule in use["rules"] if rule["figure"].startswith("best-of-4 score on mistral_gsm8k"))
    # The strongest generator is always right here, the model is not.
    assert (rule["threshold"], rule["outcome"], use["verdict"]) == (1.0, "does not hold", "not supported")

    for name in list(home.details["mistral_gsm8k_best_of_n"]["nulls"]):
        home.details["mistral_gsm8k_best_of_n"]["nulls"][name]["score"] = 0.1
    use = next(use for use in fit_for_use.fit_for_use(home.evidence())["uses"] if use["use"] == "best_of_n")
    rule = next(rule for rule in use["rules"] if rule["figure"].startswith("best-of-4 score on mistral_gsm8k"))
    # One of four candidates taken at random is right.
    assert (rule["threshold"], rule["outcome"]) == (0.25, "holds")
