"""A blocking check that failed in one run stops later runs of what is downstream alone, through real Dagster."""

from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg
import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Check
from rm_workflow.assets import headless, pairs
from rm_workflow.assets.flow import Flow
from rm_workflow.definitions import build_definitions
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import lines
from rm_workflow_tests.faults.pipeline import NAME, Pipeline

Run = Callable[..., Mapping[str, headless.RanAsset]]


@pytest.fixture
def pipeline(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    (memory / "project").mkdir()
    pipeline = Pipeline(memory / "project")
    for name, value in pipeline.environment(memory / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(headless, "open_instance", lambda settings: dg.DagsterInstance.ephemeral())
    return pipeline


@pytest.fixture
def run(pipeline: Pipeline, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the named assets and no others."""
    catalog = pipeline.catalog()
    job = build_definitions(catalog).resolve_job_def(NAME)
    planned = {planned.asset: planned for planned in Flow(catalog).of_recipe(catalog.recipes[NAME])}
    monkeypatch.setenv("RMW_HOME", str(memory / "home"))
    return lambda *names: headless._execute(load_settings(), job, [planned[name] for name in names], {})


ALL = ("raw_toy", "pairs_toy", "toy_mixture")


def fail_check(patch: pytest.MonkeyPatch) -> None:
    stock = pairs.pairs.build_pair_set

    def build(*arguments: object) -> Built:
        built = stock(*arguments)
        checks = [Check("candidates_accounted_for", False, "Every candidate is kept or dropped."), *built.checks[1:]]
        return Built(built.facts, tuple(checks))

    patch.setattr(pairs.pairs, "build_pair_set", build)


def test_what_is_downstream_of_a_failed_check_never_runs_in_this_run_or_a_later_one(
    run: Run, memory: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        fail_check(patch)
        with pytest.raises(UserError, match="pairs_toy was not published because a blocking check failed: candidates_"):
            run(*ALL)
    for _ in range(2):
        with pytest.raises(UserError, match="asset pairs_toy has no artifact for these parameters"):
            run("toy_mixture")
    store = ArtifactStore(memory / "home")
    assert sorted(folder.name for folder in store.artifacts.iterdir()) == ["raw_toy"]
    assert [event["asset"] for event in store.events(kinds=("failed_check",))] == ["pairs_toy"]
    assert not any(asset.reused for name, asset in run(*ALL).items() if name != "raw_toy")


def test_new_rows_whose_check_fails_are_not_used_and_the_last_good_ones_stay(
    run: Run, pipeline: Pipeline, memory: Path, monkeypatch: pytest.MonkeyPatch
):
    good = run(*ALL)
    pipeline.project.write_rows(lines(range(4)))
    with monkeypatch.context() as patch:
        fail_check(patch)
        with pytest.raises(UserError, match="was not published because a blocking check failed"):
            run(*ALL)
    again = run("toy_mixture")
    assert (again["toy_mixture"].version, again["toy_mixture"].reused) == (good["toy_mixture"].version, True)
    assert len([*(memory / "home/artifacts/pairs_toy").iterdir()]) == 1
