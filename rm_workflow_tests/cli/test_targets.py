from pathlib import Path

import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.cli.checkpoints import find_checkpoint
from rm_workflow.cli.targets import find_artifact
from rm_workflow.errors import UserError
from rm_workflow_tests.cli.conftest import RECIPE, Project
from rm_workflow_tests.evaluation.stored_scores import publish_scores


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Seven versions of one asset."""
    store = ArtifactStore(tmp_path)
    for number in range(7):
        request = Request(
            asset="raw_toy", kind="raw", code_version="1", parameters={"number": number}, requested=str(number)
        )
        store.materialize(request, lambda out: Built({}), "run")
    return store


def versions(store: ArtifactStore) -> list[str]:
    return sorted(folder.name for folder in (store.artifacts / "raw_toy").iterdir())


def test_the_bare_name_is_the_latest(store: ArtifactStore):
    assert find_artifact(store, "raw_toy") == store.latest("raw_toy")


def test_a_version_may_be_cut_to_its_first_digits(store: ArtifactStore):
    for version in versions(store):
        assert find_artifact(store, f"raw_toy@{version}").version == version
        assert find_artifact(store, f"raw_toy@{version[:20]}").version == version


def test_an_unknown_version_is_answered_with_those_that_are_there(store: ArtifactStore):
    with pytest.raises(UserError) as caught:
        find_artifact(store, "raw_toy@zz")
    shown = ", ".join(version[:12] for version in versions(store)[:5])
    assert str(caught.value) == (f"asset raw_toy has no version that begins with 'zz'; its versions: {shown}, 2 more")


def test_an_empty_version_is_not_the_latest(store: ArtifactStore):
    with pytest.raises(UserError, match="raw_toy@ names no version after @; leave @ out for the latest, or take of "):
        find_artifact(store, "raw_toy@")


def test_a_version_that_is_not_published_does_not_count(store: ArtifactStore):
    (store.artifacts / "raw_toy" / "zz").mkdir()
    with pytest.raises(UserError, match="no version that begins with 'zz'"):
        find_artifact(store, "raw_toy@zz")


def test_an_ambiguous_version_is_answered_with_the_matching_ones(store: ArtifactStore):
    (alike,) = [digit for digit in "0123456789abcdef" if sum(v.startswith(digit) for v in versions(store)) == 2][:1]
    first, second = [version[:12] for version in versions(store) if version.startswith(alike)]
    with pytest.raises(UserError) as caught:
        find_artifact(store, f"raw_toy@{alike}")
    assert str(caught.value) == (
        f"asset raw_toy has 2 versions that begin with '{alike}' ({first}, {second}); "
        "write more digits of the one you mean"
    )


def test_a_run_of_the_sweep_that_is_not_made_yet_is_answered_with_the_command_that_makes_it(project: Project):
    project.write_catalog(recipe=RECIPE + "sweep: {learning_rate: [3e-4, 5e-4]}\n")
    store = ArtifactStore(project.home)
    publish_scores(store, "toy", [1.0] * 4, partition="lr3e-4")
    for asset in ("toy_checkpoint", "toy_scores"):
        with pytest.raises(UserError) as caught:
            find_artifact(store, f"{asset}[lr5e-4]")
        assert str(caught.value) == f"asset {asset} has no run lr5e-4 yet; make it with: rmw run toy --key lr5e-4"
    with pytest.raises(UserError, match=r"has no run lr4e-4; did you mean 'lr3e-4'\?"):
        find_artifact(store, "toy_checkpoint[lr4e-4]")


def test_a_checkpoint_is_shown_with_its_run_and_the_first_digits_of_its_version(project: Project):
    publish_scores(ArtifactStore(project.home), "toy", [1.0] * 4, partition="lr3e-4")
    named = find_checkpoint("toy_checkpoint[lr3e-4]")
    version = named.label.partition("@")[2]
    assert named.shown() == f"toy_checkpoint[lr3e-4]@{version[:12]}"
    assert named.shown(digits=None) == f"toy_checkpoint[lr3e-4]@{version}"
    assert find_checkpoint(str(named.folder)).shown() == str(named.folder)


def test_a_run_of_a_recipe_that_the_catalogue_lacks_is_answered_with_the_runs_that_are_there(project: Project):
    store = ArtifactStore(project.home)
    publish_scores(store, "gone", [1.0] * 4, partition="lr3e-4")
    with pytest.raises(UserError, match=r"has no run lr5e-4; did you mean 'lr3e-4'\?"):
        find_artifact(store, "gone_checkpoint[lr5e-4]")
