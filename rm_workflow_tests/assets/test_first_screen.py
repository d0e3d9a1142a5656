"""What stands first on the pages of assets that are no table, and what the pages of runs show."""

import json
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import TagType, get_tag_type

from rm_workflow.assets.access import recipe_tags
from rm_workflow.assets.checkpoints import describe_checkpoint
from rm_workflow.assets.instance import process_tags
from rm_workflow.assets.scores import describe_scores
from rm_workflow.catalog.loading import override_recipe
from rm_workflow.pages import addresses
from rm_workflow_tests.reporting.published import Home, quickstart_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return quickstart_home(tmp_path / "home")


def test_scores_begin_with_each_score_its_interval_and_verdict_then_the_link_to_their_rows(home: Home):
    home.analysis = {}
    published = home.publish()
    # A stored figure of the trainer's that the page shows last.
    facts = {**published["scores"].facts, "responses_per_second": 1.0}
    published["scores"].manifest["facts"] = facts  # type: ignore[index]
    described = describe_scores(published["scores"])
    assert list(described)[:4] == ["test", "sample_rewardbench", "sample_rewardbench2", "lineage_page"]
    assert described["test"] == "0.800 (0.750 to 0.840, n 400), clean"
    assert described["lineage_page"] == dg.MetadataValue.url(addresses.checkpoint(published["checkpoint"].id))
    assert described["test_score"] == 0.8, "the web UI plots numbers over the runs"


def test_a_checkpoint_begins_with_held_out_accuracy_steps_and_loss(home: Home):
    home.result["last_loss"] = 0.5
    home.model = lambda folder: (folder.parent / "validation.jsonl").write_text(
        "".join(json.dumps({"step": step, "accuracy": step / 100}) + "\n" for step in (30, 60))
    )
    described = describe_checkpoint(home.publish("checkpoint")["checkpoint"])
    assert {name: described[name] for name in list(described)[:3]} == {
        "held_out": "accuracy 0.600 at step 60",
        "trained": "60 steps in 1 min 44 s",
        "loss": "0.6931 before, 0.5000 at the last step",
    }
    assert "seconds" not in described, "by this name the page tells how long the materialization took"


def test_a_checkpoint_without_held_out_pairs_says_so(home: Home):
    assert (
        describe_checkpoint(home.publish("checkpoint")["checkpoint"])["held_out"]
        == "no pairs were (training.validation)"
    )


def test_runs_show_the_recipe_and_its_version_and_no_process(home: Home):
    changed = override_recipe(home.recipe, {"training.learning_rate": 1e-6}, home.catalog)
    tags, others = recipe_tags(home.recipe), recipe_tags(changed)
    assert tags["rm_workflow/recipe"] == others["rm_workflow/recipe"] == "quickstart"
    assert tags["rm_workflow/recipe_version"] != others["rm_workflow/recipe_version"]
    assert {get_tag_type(name) for name in tags} == {TagType.USER_PROVIDED}
    assert {get_tag_type(name) for name in process_tags()} == {TagType.HIDDEN}
