"""``<recipe>_scores``: a checkpoint on the mixture's test split and on benchmarks, each with its interval."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.overlaps import verdicts
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, image, publish, table
from rm_workflow.catalog.models import Catalog
from rm_workflow.reporting import plots

CHECKS = (
    ("no_score_is_missing_or_nan", "Every item has a finite score."),
    ("rows_expected_equal_rows_scored", "As many items were scored as the test split and the benchmarks hold."),
)


def scores_asset(catalog: Catalog, recipe_name: str) -> dg.AssetsDefinition:
    """Define the scores of one recipe's checkpoint."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        from rm_workflow.models.reward_model import resolve_device, resolve_precision

        recipe = workplace.recipe(recipe_name)
        planned = workplace.flow.scores(recipe)
        inputs = planned.inputs(workplace.store)
        device = resolve_device(workplace.settings.device)
        resolved = {"device": device, "precision": resolve_precision(recipe.evaluation.precision, device)}
        request = planned.request(tuple(inputs.values()), workplace.overridden, resolved=resolved)
        benchmarks = {
            upstream.name: inputs[upstream.asset].folder for upstream in planned.upstream_of_kind("benchmark")
        }

        def build(out: Path) -> Built:
            from rm_workflow.evaluation.scores import build_scores

            checkpoint, tokens = inputs[f"{recipe_name}_checkpoint"], inputs[f"{recipe_name}_tokens"]
            model = checkpoint.folder / "model"
            built = build_scores(model, tokens.folder, benchmarks, recipe.evaluation, device, out)
            return _with_verdicts(built, verdicts(inputs[f"{recipe_name}_overlap"]))

        yield from publish(context, workplace, request, build, _describe)

    recipe = catalog.recipes[recipe_name]
    return define_asset(
        Flow(catalog).scores(recipe),
        catalog,
        body,
        group=recipe_name,
        kinds={"pytorch", "parquet"},
        description="Scores with 95 % intervals on " + ", ".join(f"`{name}`" for name in recipe.evaluation.evaluate_on),
        checks=CHECKS,
    )


def _with_verdicts(built: Built, contamination: Mapping[str, str]) -> Built:
    """Return scores with the contamination verdict of each benchmark."""
    scores = {name: {**score, "contamination": contamination[name]} for name, score in built.facts["scores"].items()}
    return Built({**built.facts, "scores": scores}, built.checks)


def score_rows(scores: dict[str, dict[str, object]]) -> list[dict[str, object]]:
    """Return one row a benchmark, and one a source of the test split."""
    rows = []
    for benchmark, result in scores.items():
        per_source = result.get("per_source") or {}
        assert isinstance(per_source, dict)
        for name, value in {benchmark: result, **{f"{benchmark}: {part}": v for part, v in per_source.items()}}.items():
            columns = ("score", "n", "ci_low", "ci_high", "ties", "pick_longer", "pick_shorter", "contamination")
            rows.append({"benchmark": name, **{column: value.get(column) for column in columns}})
    return rows


def _describe(artifact: Artifact) -> Metadata:
    rows = score_rows(artifact.facts["scores"])
    scored = [row for row in rows if row["score"] is not None]
    points = [tuple(row[key] for key in ("benchmark", "score", "ci_low", "ci_high")) for row in scored]
    scores = {name: result["score"] for name, result in artifact.facts["scores"].items()}
    headline = {f"{name}_score": float(score) for name, score in scores.items() if score is not None}
    return {
        **headline,
        "scores": table(rows),
        "intervals": image(plots.scores_with_intervals(points, artifact.asset), "scores"),  # type: ignore[arg-type]
        "responses_per_second": artifact.facts["responses_per_second"],
    }
