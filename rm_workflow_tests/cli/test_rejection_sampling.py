"""What a recipe with rejection sampling says before it runs; ``test_whole_way.py`` runs one."""

import json
from collections.abc import Callable

import pytest

from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.definitions import build_definitions
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project

Rmw = Callable[..., Answer]

ASKED = RECIPE + "rejection_sampling: {candidates: toy, n: 2}\n"


def test_a_plan_tells_what_is_asked_for(project: Project, rmw: Rmw):
    assert json.loads(rmw("plan", "toy", "--json").out)["rejection_sampling"] is None
    assert "rejection_sampling" not in rmw("plan", "toy").out
    project.write_catalog(recipe=ASKED)
    asked = {"candidates": "toy", "n": 2, "num_prompts": None, "min_gap": 0.0, "seed": 0}
    assert json.loads(rmw("plan", "toy", "--json").out)["rejection_sampling"] == asked
    assert "candidates toy, n 2, num_prompts all" in rmw("plan", "toy").out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("candidates: toy", "candidates: toi", "rejection_sampling.candidates: source 'toi' is not in the catalogue"),
        ("n: 2", "n: 1", "rejection_sampling.n must be greater than or equal to 2, not 1"),
        ("n: 2", "min_gap: -1", "rejection_sampling.min_gap must be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_runs(
    project: Project, rmw: Rmw, old: str, new: str, said: str
):
    project.write_catalog(recipe=ASKED.replace(old, new))
    answer = rmw("run", "toy")
    assert answer.code == 1
    assert said in answer.error
    assert project.published() == []


def test_each_run_of_a_sweep_chooses_for_itself(project: Project):
    project.write_catalog(recipe=ASKED + "sweep: {seed: [0, 1]}\n")
    catalog = load_catalog(load_settings())
    planned = Flow(catalog).of_recipe(catalog.recipes["toy"])
    assert [one.partition for one in planned if one.kind == "sft_dpo"] == ["s0", "s1"]
    definitions = build_definitions(catalog, planned)
    of_run = {node.name for node in definitions.resolve_job_def("toy").nodes_in_topological_order}
    shared = {node.name for node in definitions.resolve_job_def("toy_data").nodes_in_topological_order}
    assert {"toy_ranked", "toy_sft_dpo"} <= of_run
    assert "raw_toy" in shared
    assert not {"toy_ranked", "toy_sft_dpo"} & shared
