"""What failed, and what was killed, stands in the lineage as well as what was published."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Check
from rm_workflow.assets.failures import killed_steps_sensor, record_dead_runs, record_killed_steps
from rm_workflow.assets.instance import open_instance, process_tags
from rm_workflow.lineage.store import LineageStore
from rm_workflow.preferences import pairs
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.lineage.homes import contents

Rmw = Callable[..., Answer]
OUTPUTS = "select asset, event, error from run_output order by sequence"
UNTIL_PAIRS = ("run", "toy", "--until", "pairs")


@pytest.fixture
def lineage(project: Project) -> LineageStore:
    return LineageStore(ArtifactStore(project.home))


def test_failures_are_recorded_with_their_checks_inputs_and_reasons(
    project: Project, rmw: Rmw, lineage: LineageStore, monkeypatch: pytest.MonkeyPatch
):
    def break_law(*arguments: Any) -> Built:
        return Built({}, (Check("candidates_accounted_for", False, "Nothing vanishes.", {"missing": 1}),))

    def divide(*arguments: Any) -> Built:
        raise ZeroDivisionError("by zero")

    # Before anything is built; by a check; by a fault of the program; and then not any more.
    rows = (project.folder / "rows/train.jsonl").rename(project.folder / "rows/elsewhere")
    assert rmw(*UNTIL_PAIRS).code == 1
    rows.rename(project.folder / "rows/train.jsonl")
    answers = []
    for broken in (break_law, divide):
        with monkeypatch.context() as patch:
            patch.setattr(pairs, "build_pair_set", broken)
            answers.append(rmw(*UNTIL_PAIRS))
    assert rmw(*UNTIL_PAIRS).code == 0

    missing, raw, check, failure, again, fault, *_ = lineage.query(OUTPUTS)
    assert missing[:2] == ("raw_toy", "failed_run")
    assert "file train.jsonl is missing" in missing[2]
    assert (raw, check) == (("raw_toy", "publish", None), ("pairs_toy", "failed_check", None))
    assert failure[:2] == ("pairs_toy", "failed_run")
    assert answers[0].err.strip().endswith(failure[2])
    assert again == ("raw_toy", "reuse", None)
    assert fault == ("pairs_toy", "failed_run", "ZeroDivisionError: by zero")
    assert lineage.query("select asset, name, metadata from check_result where not passed") == [
        ("pairs_toy", "candidates_accounted_for", '{"missing": 1}')
    ]
    read = "select event, input_asset from run_input join run_output using (sequence, asset) order by sequence"
    assert lineage.query(read) == [*[("failed_run", "raw_toy")] * 2, ("publish", "raw_toy")]
    told = "select num_published, num_reused, num_failures, status from run order by first_recorded"
    assert lineage.query(told) == [(0, 0, 1, "failed"), (1, 0, 2, "failed"), (0, 1, 1, "failed"), (1, 1, 0, "ok")]

    before = contents(lineage)
    lineage.rebuild()
    assert contents(lineage) == before


@dg.asset
def endless() -> None:
    """Stand in for a training that the system kills."""
    os._exit(9)


def run_and_die(home: Path) -> None:
    with open_instance(load_settings()) as instance:
        dg.materialize([endless], instance=instance, tags=process_tags())


def test_the_step_of_a_killed_run_is_recorded_by_the_next_command(project: Project, lineage: LineageStore):
    killed = multiprocessing.get_context("fork").Process(target=run_and_die, args=(project.home,))
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    with open_instance(load_settings()) as instance:
        for _ in range(2):
            record_dead_runs(instance, lineage.store)
    assert lineage.catch_up()
    ((asset, event, error),) = lineage.query(OUTPUTS)
    assert (asset, event) == ("endless", "failed_run")
    assert error.startswith("the process of this run is gone")


def endless_job() -> dg.JobDefinition:
    """Load the job anew, as each process of the executor does."""
    return dg.Definitions(assets=[endless], jobs=[dg.define_asset_job("endless_job")]).resolve_job_def("endless_job")


def test_a_killed_step_of_a_run_that_lives_is_recorded_once_by_the_sensor(
    project: Project, lineage: LineageStore, monkeypatch: pytest.MonkeyPatch
):
    # The executor's processes take this one's sys.path, and the working directory is the project's here.
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    with open_instance(load_settings()) as instance:
        result = dg.execute_job(dg.reconstructable(endless_job), instance)
        assert not result.success
        (failed,) = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        context = dg.build_run_status_sensor_context(
            "killed_steps", failed.get_dagster_event(), instance, instance.get_run_by_id(result.run_id)
        )
        for _ in range(2):
            killed_steps_sensor()(context.for_run_failure())
    assert lineage.catch_up()
    ((asset, event, error),) = lineage.query(OUTPUTS)
    assert (asset, event) == ("endless", "failed_run")
    assert "ChildProcessCrashException" in error
    assert lineage.query("select status from run") == [("failed",)]


def test_the_sensor_repeats_nothing_that_a_step_has_told_itself(project: Project, rmw: Rmw, lineage: LineageStore):
    (project.folder / "rows/train.jsonl").unlink()
    assert rmw(*UNTIL_PAIRS).code == 1
    with open_instance(load_settings()) as instance:
        (run,) = instance.get_runs()
        record_killed_steps(instance, lineage.store, run.run_id)
    assert lineage.catch_up()
    ((asset, _, error),) = lineage.query(OUTPUTS)
    assert (asset, "file train.jsonl is missing" in error) == ("raw_toy", True)
