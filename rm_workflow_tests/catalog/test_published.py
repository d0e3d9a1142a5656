import pytest

from rm_workflow.catalog.published import PublishedScore, published_scores
from rm_workflow.evaluation import benchmarks
from rm_workflow.evaluation.benchmarks import rewardbench, rewardbench2

# A mean of figures with one decimal that is printed with one decimal again.
ROUNDING = 0.1


def published(checkpoint: str, benchmark: str) -> PublishedScore:
    (found,) = (
        score for score in published_scores() if score.checkpoint == checkpoint and score.benchmark == benchmark
    )
    return found


@pytest.mark.parametrize("revision", ["main", "1", "2"])
def test_the_mean_of_six_subsets_is_the_overall_that_the_card_prints(revision: str):
    score = published(f"allenai/Llama-3.1-70B-Instruct-RM-RB2@{revision}", "rewardbench2")

    assert tuple(score.subsets) == rewardbench2.SUBSETS
    assert score.mean_of_subsets == pytest.approx(score.overall, abs=ROUNDING)
    assert score.score == score.overall / 100


def test_sections_and_prior_sets_weighted_as_in_the_paper_give_the_printed_overall():
    score = published("weqweasdas/RM-Mistral-7B@main", "rewardbench")

    assert tuple(score.subsets) == tuple(rewardbench.SECTIONS)
    sections = rewardbench.SECTION_WEIGHT * sum(score.subsets.values())
    total = rewardbench.SECTION_WEIGHT * len(score.subsets) + rewardbench.PRIOR_WEIGHT
    weighted = (sections + rewardbench.PRIOR_WEIGHT * score.others[rewardbench.PRIOR]) / total
    assert weighted == pytest.approx(score.other_overalls["overall_weighted"], abs=ROUNDING)


def test_an_overall_by_another_rule_is_not_set_beside_ours():
    score = published("weqweasdas/RM-Mistral-7B@main", "rewardbench")

    assert score.overall is None
    assert score.score == pytest.approx((96.9 + 58.1 + 87.1 + 77.0) / 400)
    assert score.told_note.startswith("the score is our plain mean of the parts printed; overall_weighted 79.3; from")


def test_each_published_score_has_a_source_a_revision_and_a_rule_of_ours():
    for score in published_scores():
        assert score.benchmark in benchmarks.names()
        assert "@" in score.checkpoint
        assert all(0 <= value <= 101 for value in score.subsets.values())


def test_domains_and_levels_of_rm_bench_have_one_mean():
    score = published("weqweasdas/RM-Mistral-7B@main", "rm_bench")

    levels = sum(score.others.values()) / len(score.others)
    assert score.mean_of_subsets == pytest.approx(levels, abs=ROUNDING)
    assert score.mean_of_subsets == pytest.approx(score.overall, abs=ROUNDING)
