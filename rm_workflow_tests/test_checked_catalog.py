from pathlib import Path

import pytest

from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "catalog").mkdir()
    home, catalog = tmp_path / "home", tmp_path / "catalog"
    return Settings(home=home, hub_mirror=None, catalog=catalog, project=None, device="cpu")


def refused(settings: Settings, file: str, text: str) -> str:
    (settings.catalog / file).write_text(text)
    with pytest.raises(UserError) as caught:
        load_checked_catalog(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BENCHMARK = "mine:\n  hub: org/mine\n  files: {test: [a.jsonl]}\n  licence: MIT\n  scoring: "


@pytest.mark.parametrize(
    ("scoring", "words"),
    [
        ("rewardbench3", "there is no scoring rule 'rewardbench3'; did you mean 'rewardbench"),
        ("pairs", "scoring rule 'pairs' has no rows of its own"),
    ],
)
def test_a_benchmark_that_cannot_be_scored_is_refused_when_the_catalogue_is_loaded(settings, scoring, words):
    message = refused(settings, "benchmarks.yaml", BENCHMARK + scoring + "\n")
    assert "benchmarks.yaml:1: " in message
    assert f"benchmark 'mine': scoring: {words}" in message


@pytest.mark.parametrize("source", ["mistral_orm", "mistral_prm", "deepseek_gsm8k_test", "math_shepherd", "gsm8k"])
@pytest.mark.parametrize("candidates", ["given", "rated", "rated_prompt"])
def test_a_pair_set_over_worked_solutions_is_refused_before_a_row_is_fetched(settings, source, candidates):
    score = "" if candidates == "given" else "  score: [outcome]\n"
    text = f"mine:\n  source: {source}\n  candidates: {candidates}\n{score}  rules: [identical_responses]\n"
    message = refused(settings, "pair_sets.yaml", text)
    assert "pair_sets.yaml:1: " in message
    assert f"pair set 'mine': source '{source}' gives worked solutions with labels" in message


def test_the_built_in_catalogue_passes(settings):
    catalog = load_checked_catalog(settings)
    assert catalog.benchmarks["rewardbench"].hub == "allenai/reward-bench"
    assert catalog.benchmarks["rewardbench2"].hub == "allenai/reward-bench-2"
