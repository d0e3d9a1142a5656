"""``<recipe>_rollouts`` and ``<recipe>_step_labels``: what a generator writes, and the labels that follow from it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, markdown, publish, table
from rm_workflow.catalog.models import Annotation, Catalog, Recipe
from rm_workflow.preferences import show
from rm_workflow.training import plan

if TYPE_CHECKING:
    from rm_workflow.annotation.generators import Generator
    from rm_workflow.annotation.rollouts import Problem

logger = logging.getLogger("rm_workflow")

ROLLOUTS_CHECKS = (
    ("every_problem_is_rolled_out", "Every problem has all its solutions, every start all its completions."),
)
LABELS_CHECKS = (("rows_accounted_for", "Every solution is used or dropped under a named rule."),)


def rollouts_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the rollouts of a recipe that has an annotation."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        annotation = _annotation(recipe)
        planned = workplace.flow.rollouts(recipe)
        inputs = planned.inputs(workplace.store)
        resolved = {} if annotation.endpoint else _resolved(workplace)
        request = planned.request(tuple(inputs.values()), workplace.overridden, resolved=resolved)
        problems = _problems(workplace, recipe, inputs[f"raw_{annotation.problems}"])

        def build(out: Path) -> Built:
            from rm_workflow.annotation.rollouts import build_rollouts
            from rm_workflow.evaluation.progress import progress_bar

            logger.info("%s, an estimate: %s", planned.asset, _estimated(workplace, recipe, len(problems)))
            base = next((artifact for artifact in inputs.values() if artifact.kind == "base"), None)
            generator = _generator(annotation, base, resolved)
            work = workplace.store.work_folder(request.asset, request.version)
            with progress_bar("problems") as progress:
                return build_rollouts(problems, annotation, generator, work, out, progress)

        def describe(artifact: Artifact) -> Metadata:
            return {"dagster/row_count": artifact.facts["completions"], **artifact.facts}

        yield from publish(context, workplace, request, build, describe)
        workplace.store.clear_work(request.asset, request.version)

    annotation = _annotation(of)
    return define_asset(
        Flow(catalog).rollouts(of),
        catalog,
        body,
        group=of.name,
        kinds={"parquet", "python" if annotation.endpoint else "pytorch"},
        description=(
            f"{annotation.trajectories} solutions by `{annotation.generator}` of each problem of "
            f"`{annotation.problems}`, and {annotation.completions} completions from each of their steps but the last, "
            f"at temperature {annotation.temperature:g}."
        ),
        checks=ROLLOUTS_CHECKS,
    )


def step_labels_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the labels of a recipe that has an annotation."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        from rm_workflow.evaluation.grading import grader

        recipe = workplace.asked(of, context)
        annotation = _annotation(recipe)
        planned = workplace.flow.step_labels(recipe)
        inputs = planned.inputs(workplace.store)
        resolved = {"grader": grader()}
        request = planned.request(tuple(inputs.values()), workplace.overridden, resolved=resolved)
        problems = _problems(workplace, recipe, inputs[f"raw_{annotation.problems}"])
        rollouts = inputs[f"{recipe.name}_rollouts"]

        def build(out: Path) -> Built:
            from rm_workflow.annotation.step_labels import build_step_labels

            return build_step_labels(planned.asset, problems, rollouts.folder, annotation, out)

        def describe(artifact: Artifact) -> Metadata:
            facts = artifact.facts
            labels = [
                {"kind": kind, "value": value, "labels": number}
                for kind, by_value in facts["num_labels"].items()
                for value, number in by_value.items()
            ]
            return {
                "dagster/row_count": facts["used"],
                "solutions": facts["rows"],
                "solutions_dropped": facts["rows"] - facts["used"],
                "labels": table(labels),
                "grader": table([facts["grader"]]),
                "kept_rows": markdown(show.as_markdown(show.kept_rows(artifact.folder, [artifact.folder], 3))),
            }

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        Flow(catalog).step_labels(of),
        catalog,
        body,
        group=of.name,
        kinds={"parquet", "python"},
        description="Outcome, hard and soft labels of the solutions: a step is as good as the completions from it.",
        checks=LABELS_CHECKS,
    )


def _annotation(recipe: Recipe) -> Annotation:
    assert recipe.annotation is not None, "only recipes with an annotation have these assets"
    return recipe.annotation


def _estimated(workplace: Workplace, recipe: Recipe, num_problems: int) -> str:
    """Return what is about to be generated, as words."""
    device = plan.device_name(None, workplace.settings)
    found = plan.annotation_plan(recipe, workplace.catalog, workplace.settings, device, num_problems) or {}
    told = {name: "not known before the first problem is done" if n is None else f"{n:,}" for name, n in found.items()}
    return ", ".join(f"{name} {shown}" for name, shown in told.items())


def _problems(workplace: Workplace, recipe: Recipe, raw: Artifact) -> "list[Problem]":
    from rm_workflow.annotation.rollouts import read_problems

    annotation = _annotation(recipe)
    files = workplace.catalog.sources[annotation.problems].files.get("train", [])
    return read_problems(raw.folder, annotation, files)


def _resolved(workplace: Workplace) -> dict[str, str]:
    from rm_workflow.models.reward_model import resolve_device, resolve_precision

    device = resolve_device(workplace.settings.device)
    return {"device": device, "precision": resolve_precision("auto", device)}


def _generator(annotation: Annotation, base: Artifact | None, resolved: dict[str, Any]) -> "Generator":
    if base is None:
        from rm_workflow.annotation.endpoint import EndpointGenerator

        return EndpointGenerator(annotation)
    from rm_workflow.annotation.local import LocalGenerator
    from rm_workflow.models.base import model_folder

    return LocalGenerator(model_folder(base.folder), annotation, resolved["device"], resolved["precision"])
