"""The lineage is the same whichever executor ran the assets."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.instance import open_instance
from rm_workflow.lineage.store import LineageStore
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.lineage.homes import contents

Rmw = Callable[..., Answer]
# What differs from run to run: who ran, when, and in which order.
OF_THE_RUN = ("run_output", "run_input", "indexed_event", "check_result", "dataset_version")
DATA = ["raw_toy", "pairs_toy"]


def toy_job() -> dg.JobDefinition:
    """Load the job anew, as each process of the executor does."""
    from rm_workflow.checked_catalog import load_checked_catalog
    from rm_workflow.definitions import build_definitions

    return build_definitions(load_checked_catalog(load_settings())).resolve_job_def("toy_data")


@pytest.mark.slow(seconds=55)
def test_processes_of_their_own_leave_the_same_rows(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    assert rmw("run", "toy", "--until", "pairs").code == 0
    lineage = LineageStore(ArtifactStore(project.home))
    here = contents(lineage)
    monkeypatch.setenv("RMW_HOME", str(project.folder / "other"))
    # The executor's processes take this one's sys.path, and the working directory is the project's here.
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    with open_instance(load_settings()) as instance:
        result = dg.execute_job(
            dg.reconstructable(toy_job),
            instance,
            run_config={"execution": {"config": {"multiprocess": {"max_concurrent": 2}}}},
            asset_selection=[dg.AssetKey(name) for name in DATA],
        )
    assert result.success
    lineage = LineageStore(ArtifactStore(project.folder / "other"))
    there = contents(lineage)
    for table in set(here) - set(OF_THE_RUN):
        assert there[table] == here[table], table
    assert {table: len(there[table]) for table in OF_THE_RUN} == {table: len(here[table]) for table in OF_THE_RUN}
    assert len(lineage.query("from run")) == 1
