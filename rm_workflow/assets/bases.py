"""``base_<name>``: a base model, fetched, converted where needed, and proven to speak."""

from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.access import check_access_of_run
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, publish
from rm_workflow.catalog.models import Catalog

CONVERSION_CHECKS = (
    ("answers_capital_question", "The model names Paris when it is asked for the capital of France."),
    ("perplexity_below_60", "A plain English paragraph has a perplexity below 60."),
)


def base_asset(catalog: Catalog, base: str) -> dg.AssetsDefinition:
    """Define the asset of one base model. Models that are converted here must prove that they still speak."""
    planned = Flow(catalog).base(base)
    converted = base.startswith("pypi:")

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        from rm_workflow.models.base import build_base, external_files

        check_access_of_run(context, workplace)
        files = external_files(base, workplace.settings)
        request = planned.request((), overridden=False, external_files=files)

        def build(out: Path) -> Built:
            return build_base(base, workplace.settings, out)

        def describe(artifact: Artifact) -> Metadata:
            return {key: value for key, value in artifact.facts.items() if isinstance(value, str | int | float)}

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        planned,
        catalog,
        body,
        group="base_models",
        kinds={"pytorch", "huggingface"},
        description=f"Base model `{base}`: safetensors weights, tokenizer and chat template.",
        checks=CONVERSION_CHECKS if converted else (),
    )
