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
    chain = json.loads(rmw("lineage", "toy_mixture", "--json").out)
    assert {"rollouts", "labels"} <= {node["kind"] for node in chain["nodes"]}

    again = json.loads(rmw("run", "toy", "--until", "mixture", "--json").out)["assets"]
    assert all(asset["reused"] for asset in again.values())
    assert len(server.asked) == 12
