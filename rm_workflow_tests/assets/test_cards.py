"""The card's asset on stand-ins of everything that it is made from."""

from pathlib import Path

import dagster as dg
import pytest

from rm_workflow.assets.cards import card_asset
from rm_workflow.assets.publishing import RecipeSettings
from rm_workflow.assets.scores import curves
from rm_workflow_tests.reporting.published import Home, quickstart_home

# What the web UI loads for one materialization; plots are images inside it.
MAX_BYTES = 1_000_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    home = quickstart_home(tmp_path / "home")
    home.publish()
    return home


def materialize(home: Home) -> dg.ExecuteInProcessResult:
    asset = card_asset(home.catalog, home.catalog.recipes["quickstart"])
    return dg.materialize([asset], resources={"recipe_settings": RecipeSettings()}, raise_on_error=False)


def test_the_page_shows_verdicts_card_and_plots(home: Home):
    result = materialize(home)
    assert result.success
    (event,) = result.asset_materializations_for_node("quickstart_card")
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown["fit_for_best_of_n"] == "supported"
    assert str(shown["card"]).startswith("# quickstart")
    assert {"plot_scores", "plot_training_curves", "plot_reliability"} <= set(shown)
    assert "![" not in str(shown["card"])
    # The web UI shows the inside of folded parts at once, which would leave no room for the rest.
    assert "<details>" not in str(shown["card"])
    assert "## Fit for use" in str(shown["card"])
    assert sum(len(str(value)) for value in shown.values()) < MAX_BYTES
    card = home.store.require("quickstart_card")
    assert {"README.md", "report.html", "fit_for_use.json"} <= set(card.manifest["files"])
    assert card.file("report.html").read_text().startswith("<!doctype html>")
    assert [entry["kind"] for entry in card.manifest["inputs"]] == ["checkpoint", "scores"]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw and write no report, which these tests do not look at."""
    monkeypatch.setattr("rm_workflow.reporting.html_report.report", lambda found: "")
    monkeypatch.setattr("rm_workflow.reporting.model_card.card_plots", lambda found: {})


def test_a_card_with_a_placeholder_is_not_published(home: Home, no_report: None):
    recipe = home.recipe.model_copy(update={"description": "{{ DESCRIPTION }}"})
    home.catalog = home.catalog.model_copy(update={"recipes": {"quickstart": recipe}})
    result = materialize(home)
    assert not result.success
    assert home.store.latest("quickstart_card") is None


def test_a_changed_licence_makes_a_new_card_and_nothing_else(home: Home, no_report: None):
    assert materialize(home).success
    first = home.store.require("quickstart_card")
    source = home.catalog.sources["sample_dialogues"].model_copy(update={"licence": "CC-BY-NC-4.0"})
    sources = {**home.catalog.sources, "sample_dialogues": source}
    home.catalog = home.catalog.model_copy(update={"sources": sources})
    assert materialize(home).success
    second = home.store.require("quickstart_card")
    assert second.version != first.version
    assert second.manifest["inputs"] == first.manifest["inputs"]


def test_the_pages_of_scores_and_card_show_accuracy_over_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    home = quickstart_home(tmp_path / "home")
    home.add_best_of_n("gsm8k_rollouts_best_of_4")
    drawn = curves(home.publish()["scores"])
    assert list(drawn) == ["plot_gsm8k_rollouts_best_of_4_curve"]
    assert str(drawn["plot_gsm8k_rollouts_best_of_4_curve"].value).startswith(
        "![gsm8k_rollouts_best_of_4](data:image/png"
    )

    (event,) = materialize(home).asset_materializations_for_node("quickstart_card")
    assert "plot_gsm8k_rollouts_best_of_4_curve" in event.metadata
