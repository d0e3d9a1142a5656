"""A home with two runs of the quickstart: sample rows to mixture, then tokens, checkpoint and scores by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from rm_workflow import hub
from rm_workflow.artifacts import Artifact, ArtifactStore, Built
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.publishing import external_files
from rm_workflow.catalog.loading import load_catalog, override_recipe
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.database import connect, quote_literal
from rm_workflow.hub import SourceFile
from rm_workflow.preferences import mixture, pairs, raw
from rm_workflow.settings import Settings, load_settings

# No benchmark takes part, which would take seconds; the second run has fewer train pairs and another learning rate.
UNGUARDED = {"mixture.decontaminate_against": []}
FEWER = {"mixture.sample.train_pairs": 400, "training.learning_rate": 1e-4}
FACTS = {"base": "tiny", "objective": "bradley_terry", "num_train_pairs": 400, "num_steps": 2, "seconds": 1.5}
TEST_SCORE = {"score": 0.5, "n": 400, "ci_low": 0.4, "ci_high": 0.6}
# A pair's hash decides by how much its chosen reply is better or worse.
SCORED = """
    select
        pair_id, source, group_id,
        ((hash(pair_id) % 1000)::bigint - 500) / 100 as score_chosen, 0.0::double as score_rejected,
        1 as chosen_length, 1 as rejected_length
    from read_parquet({pairs}) where split = 'test' order by pair_id
"""


@dataclass(frozen=True)
class LivedIn:
    """The home and its two checkpoints, the latest one last."""

    store: ArtifactStore
    checkpoints: tuple[Artifact, Artifact]


def live_in() -> LivedIn:
    """Make the home that RMW_HOME names, without Dagster."""
    settings = load_settings()
    catalog = load_catalog(settings)
    store = ArtifactStore(settings.home)
    changed = [
        override_recipe(catalog.recipes["quickstart"], changes, catalog) for changes in (UNGUARDED, UNGUARDED | FEWER)
    ]
    first, second = (_run(settings, catalog, store, recipe) for recipe in changed)
    return LivedIn(store, (first, second))


def _run(settings: Settings, catalog: Catalog, store: ArtifactStore, recipe: Recipe) -> Artifact:
    """Make everything of the recipe that the questions are about, and return its checkpoint."""
    made: dict[str, Artifact] = {}
    for planned in Flow(catalog).scores(recipe).lineage():
        if planned.kind not in ("benchmark", "base", "overlap"):
            inputs = tuple(made[one.asset] for one in planned.upstream if one.asset in made)
            files = _files(planned, catalog, settings) if planned.kind == "raw" else []
            request = planned.request(inputs, overridden=False, external_files=external_files(files))
            build = _built(planned, catalog, recipe, {one.kind: one for one in inputs}, files, made)
            made[planned.asset] = store.materialize(request, build, f"run of {recipe.training.learning_rate}").artifact
    return made[f"{recipe.name}_checkpoint"]


def _files(planned: Planned, catalog: Catalog, settings: Settings) -> list[SourceFile]:
    return hub.resolve_files(catalog.sources[planned.name], settings)


def _built(
    planned: Planned,
    catalog: Catalog,
    recipe: Recipe,
    inputs: dict[str, Artifact],
    files: list[SourceFile],
    made: dict[str, Artifact],
) -> Callable[[Path], Built]:
    def build(out: Path) -> Built:
        if planned.kind == "raw":
            return raw.build_raw(planned.name, catalog.sources[planned.name], files, out)
        if planned.kind == "pairs":
            return pairs.build_pair_set(planned.name, catalog.pair_sets[planned.name], inputs["raw"].folder, out)
        if planned.kind == "mixture":
            members = [_member(catalog, name, made) for name in recipe.mixture.pair_set_names]
            return mixture.build_mixture(recipe.mixture, members, {}, out)
        return _by_hand(planned.kind, inputs, out)

    return build


def _member(catalog: Catalog, name: str, made: dict[str, Artifact]) -> mixture.Member:
    source = catalog.pair_sets[name].source
    return mixture.Member(
        name, source, catalog.sources[source], made[f"pairs_{name}"].folder, made[f"raw_{source}"].folder
    )


def _by_hand(kind: str, inputs: dict[str, Artifact], out: Path) -> Built:
    (out / "made.txt").write_text(kind)
    if kind == "tokens":
        table = pq.read_table(inputs["mixture"].file("pairs.parquet"))
        pq.write_table(table, out / "pairs.parquet")
        pq.write_table(pq.read_table(inputs["mixture"].file("dropped.parquet")).slice(0, 0), out / "dropped.parquet")
        return Built({"pairs": len(table), "kept": len(table), "dropped": {"too_long": 0}})
    if kind == "checkpoint":
        (out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n{"step": 2, "loss": 0.6}\n')
        (out / "model").mkdir()
        (out / "model/config.json").write_text("{}")
        return Built(FACTS)
    if kind == "scores":
        table = quote_literal(str(inputs["tokens"].file("pairs.parquet")))
        with connect() as con:
            pq.write_table(con.sql(SCORED.format(pairs=table)).to_arrow_table(), out / "test_pairs.parquet")
        per_source = dict.fromkeys(("sample_dialogues", "sample_ratings"), TEST_SCORE)
        test = {**TEST_SCORE, "per_source": per_source}
        (out / "scores.json").write_text(json.dumps({"test": test}))
        return Built({"scores": {"test": test}})
    return Built({})
