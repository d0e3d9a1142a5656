"""A training on a real Ray cluster that Dagster cancels, and one recipe from rows to scores under two launchers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow_tests.assets.test_cancelling import long_project, processes_of, slots_held, train, write_recipe
from rm_workflow_tests.assets.web import wait_until, web_ui_of
from rm_workflow_tests.cli.conftest import Answer, Project, project, rmw
from rm_workflow_tests.training.ray_cluster import actors, running_cluster

__all__ = ["long_project", "project", "rmw"]
pytestmark = pytest.mark.slow(seconds=180)

REPOSITORY = Path(__file__).parents[2]


def test_a_training_that_dagster_cancels_leaves_nothing_on_the_cluster_and_a_launcher_makes_nothing_again(
    long_project: Project,
    rmw: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
):
    with running_cluster() as cluster:
        monkeypatch.setenv("RMW_LAUNCHER", "ray")
        for name, value in cluster.items():
            monkeypatch.setenv(name, value)
        with web_ui_of(long_project.home, REPOSITORY) as web_ui:
            run_id = train(web_ui, long_project)
            assert len(actors(cluster)) == 1
            # The one that asked the cluster, accelerate and two trainers.
            assert len(processes_of(long_project, "rm_workflow.training")) == 4
            web_ui.terminate(run_id)
            assert web_ui.wait_for_end(run_id) == "CANCELED"
            wait_until(lambda: not processes_of(long_project, "rm_workflow.training"), "the end of all that trained")
            wait_until(lambda: not actors(cluster), "the end of the actor")
            wait_until(lambda: not slots_held(), "the place in the pool")
        assert "toy_checkpoint" not in long_project.published()
        assert list(long_project.home.glob("work/toy_checkpoint/*/states/step_*"))

        write_recipe(long_project, epochs=1)
        trained = rmw("run", "toy", "--until", "scores", "--json")
        assert trained.code == 0, trained.err
        assert "workers of the Ray cluster" in trained.err
        # Ray ends the actors of a program some moments after the program.
        wait_until(lambda: not actors(cluster), "the end of the actors that scored")
    monkeypatch.setenv("RMW_LAUNCHER", "local")
    again = rmw("run", "toy", "--until", "scores", "--json")
    assert again.code == 0, again.err
    assert all(asset["reused"] for asset in json.loads(again.out)["assets"].values())
