"""A recipe of labelled responses through the real command line and Dagster, up to the training itself."""

import json
from collections.abc import Callable

from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

RECIPE = """
base: BASE
objective: plackett_luce
mixture:
  kind: responses
  responses: [toy: {ratings: [help], ranked: true}]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-3, batch_size: 2, batch_unit: prompts, precision: fp32}
evaluation: {precision: fp32}
"""


def rated(number: int) -> str:
    completions = [
        {"text": f"Answer {number}.", "ratings": {"help": 3}},
        {"text": "No.", "ratings": {"help": number % 3}},
    ]
    return json.dumps(
        {"prompt": f"Question {number}?", "completions": [*completions, {"text": "What?", "ratings": {}}]}
    )


def test_responses_are_mixed_tokenised_counted_and_shown(project: Project, rmw: Callable[..., Answer]):
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_catalog(recipe=RECIPE.replace("BASE", str(project.folder / "base")))
    sources = project.folder / "catalog" / "sources.yaml"
    sources.write_text(sources.read_text().replace("chosen_rejected", "scored_completions"))
    (project.folder / "catalog" / "pair_sets.yaml").write_text("")
    project.write_rows("".join(rated(number) + "\n" for number in range(5)))
    (project.folder / "rows" / "test.jsonl").write_text(rated(7) + "\n")

    ran = rmw("run", "toy", "--until", "run_config", "--json")
    assert ran.code == 0, ran.err
    counted = json.loads(rmw("counts", "toy", "--no-run", "--json").out)
    mixture = counted["mixtures"]["toy_mixture"]
    assert counted["pair_sets"] == {}
    assert (mixture["candidates"], mixture["kept"], mixture["dropped"]["rating"]) == (18, 12, 6)
    assert (mixture["train"], mixture["test"]) == (10, 2)
    assert counted["tokens"]["toy_tokens"]["responses"] == counted["tokens"]["toy_tokens"]["kept"] == 12

    planned = json.loads(rmw("plan", "toy", "--json").out)
    assert (planned["num_pairs"], planned["num_steps"], planned["sources"]) == (5, 3, ["toy"])
    (shown,) = json.loads(rmw("show", "toy_mixture", "-n", "1", "--json").out)
    assert shown["labels"].startswith("help ")
    assert rmw("show", "toy_mixture", "--dropped", "any").out.startswith("toy_mixture: 5 of 6 responses dropped")
    traced = json.loads(rmw("trace", "train.jsonl:1", "--json").out)
    assert traced["dropped_by"] == "rating"
    assert traced["mixtures"] == ["toy_mixture"]
