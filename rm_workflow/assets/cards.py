"""``<recipe>_card``: the model card of a checkpoint with its plots, and the report on it as one HTML file."""

import re
from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    checkpoint_link,
    define_asset,
    image,
    markdown,
    publish,
    table,
)
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.reporting.evidence import CARD_CHECKS, README, Evidence, chain_of

REPORT = "report.html"
PLOTS = ("scores.png", "training_curves.png", "reliability.png")
CURVE = "_curve.png"  # accuracy over candidates, one for each set of them


def card_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the card of one recipe's checkpoint."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        planned = workplace.flow.card(workplace.asked(of, context))
        inputs = planned.inputs(workplace.store)
        checkpoint, scores = (inputs[upstream.asset] for upstream in planned.upstream)
        request = planned.request((checkpoint, scores), workplace.overridden)

        def build(out: Path) -> Built:
            from rm_workflow.reporting import html_report, model_card

            chain = chain_of(workplace.store, checkpoint, scores)
            evidence = Evidence(checkpoint, chain, planned.parameters["about"], scores)
            (out / REPORT).write_text(html_report.report([evidence]), "utf-8")
            return model_card.build_card(evidence, out)

        yield from publish(context, workplace, request, build, _describe)

    flow = Flow(catalog)
    return define_asset(
        flow.across_runs(of, flow.card),
        catalog,
        body,
        group=of.name,
        kinds={"markdown", "huggingface"},
        description=(
            "The checkpoint's card as a Hugging Face README and its report as one HTML file: scores with intervals, "
            "which uses the evidence supports, training, data, licences, lineage."
        ),
        checks=CARD_CHECKS,
        partitions=sweeps.partition_keys(of),
    )


def _describe(artifact: Artifact) -> Metadata:
    """Return the verdicts first, then the card without its YAML block and its plots."""
    facts = artifact.facts
    drawn = [name for name in artifact.manifest["files"] if name in PLOTS or name.endswith(CURVE)]
    return {
        **{f"fit_for_{use}": verdict for use, verdict in facts["fit_for_use"].items()},
        "lineage_page": checkpoint_link(_checkpoint_of(artifact)),
        "warnings": table([{"warning": sentence} for sentence in facts["warnings"]]),
        "card": markdown(_preview(artifact.file(README).read_text("utf-8"))),
        **{f"plot_{name.removesuffix('.png')}": image(artifact.file(name).read_bytes(), name) for name in drawn},
        "report": dg.MetadataValue.path(str(artifact.file(REPORT))),
    }


def _checkpoint_of(card: Artifact) -> str | None:
    inputs = card.manifest["inputs"]
    return next((f"{used['asset']}@{used['version']}" for used in inputs if used["kind"] == "checkpoint"), None)


def _preview(text: str) -> str:
    """Return the card's text without images, which the web UI does not find, and without what a reader folds open."""
    _, _, body = text.removeprefix("---\n").partition("\n---\n")
    body = re.sub(r"<details>.*?</details>\n*", "", body, flags=re.DOTALL)
    return "\n".join(line for line in body.splitlines() if not line.startswith("![")).strip()
