"""A recipe that labels its own data through the real command line and Dagster: cost, rollouts, labels, mixture."""

import json
from collections.abc import Callable

from rm_workflow_tests.annotation.conftest import Server, server  # noqa: F401 (a fixture)
from rm_workflow_tests.cli.conftest import Answer, Project

RECIPE = """
base: org/model-1B
objective: generative_prm
mixture:
  kind: trajectories
  trajectories: [annotation: {labels: soft}]
  split: {by: hash, test_share: 0.3}
annotation:
  problems: toy
  generator: served
  endpoint: ADDRESS
  trajectories: 2
  completions: 4
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-3, batch_size: 2, batch_unit: blocks}
"""


def solve(prompt: str, number: int) -> str:
    gold = int(prompt.split()[0]) + 1
    return f"The answer is: {gold + number % 2}" if "so" in prompt else f"so\nThe answer is: {gold + number % 2}"


def test_a_recipe_labels_its_own_data(
    project: Project,
    rmw: Callable[..., Answer],
    server: Server,  # noqa: F811
):
    server.say = solve
    project.write_catalog(recipe=RECIPE.replace("ADDRESS", server.address))
    sources = project.folder / "catalog" / "sources.yaml"
    sources.write_text(sources.read_text().replace("chosen_rejected", "reference_answer"))
    (project.folder / "catalog" / "pair_sets.yaml").write_text("")
    rows = [json.dumps({"question": f"{n} + 1?", "answer": f"It is\n#### {n + 1}"}) for n in range(6)]
    project.write_rows("".join(row + "\n" for row in rows))
    (project.folder / "rows" / "test.jsonl").write_text(rows[0] + "\n")

    planned = json.loads(rmw("plan", "toy", "--set", "annotation.num_problems=6", "--json").out)
    assert (planned["annotation"]["trajectories"], planned["annotation"]["completions"]) == (12, 192)
    assert planned["annotation"]["hours"] is None
    assert server.asked == []

    ran = rmw("run", "toy", "--until", "mixture", "--json")
    assert ran.code == 0, ran.err
    made = json.loads(ran.out)["assets"]
    assert list(made) == ["raw_toy", "toy_rollouts", "toy_step_labels", "toy_mixture"]
    assert len(server.asked) == 12  # six problems, and the one start that both their solutions share

    shown = json.loads(rmw("show", "toy_mixture", "-n", "50", "--json").out)
    assert {(row["response"].split("\n")[0], row["labels"]) for row in shown} == {
        ("[0.5] so", "0.5"),
        ("[0.5] so", "0"),
    }
    kept = json.loads(rmw("show", "toy_step_labels", "-n", "1", "--json").out)
    assert kept[0]["responses"][0]["model"] == "served"
    counted = json.loads(rmw("counts", "toy", "--json").out)
    assert list(counted["sources"]) == ["toy", "toy_step_labels"]
    solutions = counted["sources"]["toy_step_labels"]
    assert (solutions["rows"], solutions["used"], solutions["dropped"]["empty_message"]) == (12, 12, 0)
    assert "toy_step_labels" in rmw("counts", "toy").out
    traced = json.loads(rmw("trace", "toy_step_labels:rollouts:1", "--json").out)
    assert (traced["source"], traced["mixtures"], traced["dropped_by"]) == ("toy_step_labels", ["toy_mixture"], None)
    assert (traced["response"].split("\n")[0], len(traced["labels"])) == ("so", 1)
    by_label = json.loads(rmw("trace", traced["labels"][0], "--json").out)
    assert (by_label["row"], by_label["mixtures"]) == (1, ["toy_mixture"])
    chain = json.loads(rmw("lineage", "toy_mixture", "--json").out)
    assert {"rollouts", "labels"} <= {node["kind"] for node in chain["nodes"]}

    again = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)["assets"]
    assert all(asset["reused"] for asset in again.values())
    assert len(server.asked) == 12
