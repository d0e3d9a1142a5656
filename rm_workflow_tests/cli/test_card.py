import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow_tests.cli.conftest import Answer
from rm_workflow_tests.reporting.published import Home, quickstart_home, without_ranks

Rmw = Callable[..., Answer]


@pytest.fixture(scope="module")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = quickstart_home(tmp_path_factory.mktemp("published"))
    home.publish()
    return home


@pytest.fixture
def published(published_once: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = quickstart_home(tmp_path / "home")
    shutil.copytree(published_once.home, home.home)
    monkeypatch.setenv("RMW_HOME", str(home.home))
    monkeypatch.delenv("RMW_CATALOG", raising=False)
    monkeypatch.chdir(tmp_path)
    return home


def test_a_card_goes_to_stdout_or_to_a_file_with_its_plots(published: Home, rmw: Rmw, tmp_path: Path):
    answer = rmw("card", "quickstart_checkpoint")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("---\n")
    (tmp_path / "out").mkdir()
    for _ in range(2):
        assert rmw("card", "quickstart_checkpoint", "-o", "out/README.md").code == 0
    assert (tmp_path / "out/README.md").read_text() == answer.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "probes.png", "reliability.png", "scores.png", "training_curves.png")
    ]


def test_a_card_replaces_no_file_but_cards_and_plots(published: Home, rmw: Rmw, tmp_path: Path):
    for name in ("README.md", "scores.png"):
        out = tmp_path / f"beside_{name}"
        out.mkdir()
        (out / name).write_text("mine")
        assert f"{name} is there already" in rmw("card", "quickstart_checkpoint", "-o", f"{out}/README.md").error
        assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]


def test_a_checkpoint_is_named_by_its_folder_too(published: Home, rmw: Rmw):
    (folder,) = (published.home / "artifacts/quickstart_checkpoint").iterdir()
    assert rmw("card", str(folder)).out == rmw("card", str(folder / "model")).out == rmw("card", folder.parent.name).out


def test_scores_of_another_checkpoint_of_the_recipe_are_not_taken(published: Home, rmw: Rmw):
    training = published.recipe.training.model_copy(update={"seed": 1})
    published.recipe = published.recipe.model_copy(update={"training": training})
    second = published.publish(until="checkpoint")["checkpoint"]
    assert "This checkpoint was not evaluated." in rmw("card", second.id).out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("card", "nothing_checkpoint"), "no such folder and no such asset"),
        (("card", "."), "this folder was not published by a run"),
        (("card", "hub:org/model"), "it was not made under RMW_HOME"),
        (("card", "quickstart_checkpoint", "-o", "away/README.md"), "its folder does not exist"),
        (("report", "quickstart", "-o", "away/report.html"), "its folder does not exist"),
        (("report", "nothing"), "no such folder and no such asset"),
    ],
)
def test_bad_names_get_one_sentence(published: Home, rmw: Rmw, arguments: tuple[str, ...], sentence: str):
    answer = rmw(*arguments)
    assert answer.code == 1
    assert sentence in answer.error


def test_a_source_that_left_the_catalogue_is_named(published: Home, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    from rm_workflow.catalog.models import Catalog
    from rm_workflow.cli import card

    sources = {name: one for name, one in published.catalog.sources.items() if name != "sample_ratings"}
    without: Catalog = published.catalog.model_copy(update={"sources": sources})
    monkeypatch.setattr(card, "load_checked_catalog", lambda settings: without)
    assert "source sample_ratings of quickstart_checkpoint" in rmw("card", "quickstart_checkpoint").error


@pytest.mark.parametrize("target", [(), ("quickstart",), ("quickstart_checkpoint",)])
def test_a_report_is_one_file(
    published: Home, rmw: Rmw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: tuple[str, ...]
):
    monkeypatch.setattr("rm_workflow.reporting.html_report._images", lambda evidence: {})
    # The benchmarks of this home have no items.
    monkeypatch.setattr("rm_workflow.evaluation.standings._item_sets", without_ranks)
    answer = rmw("report", *target, "-o", "out.html")
    assert answer.code == 0, answer.err
    text = (tmp_path / "out.html").read_text()
    assert "<h1>quickstart</h1>" in text
    assert "Leaderboard" in text
    assert "quickstart_checkpoint" in answer.err


def test_a_home_without_checkpoints_has_no_report(rmw: Rmw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    answer = rmw("report")
    assert answer.code == 1
    assert "make one: rmw run quickstart" in answer.error
