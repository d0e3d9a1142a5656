"""``<recipe>_audit``: what a mixture teaches beside its preferences; training does not wait for it."""

from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.mixtures import raw_folders
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    define_asset,
    image,
    licence_metadata,
    markdown,
    publish,
    table,
)
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.preferences import audit, audit_tables
from rm_workflow.reporting import plots

CHECKS = (("every_pair_is_measured", "The texts of every pair of the mixture were read and measured."),)


def audit_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the audit of one recipe's mixture."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        planned = workplace.flow.audit(workplace.asked(of, context))
        (mixture,) = planned.inputs(workplace.store).values()
        pair_sets = {
            one.asset.removeprefix("pairs_"): one.folder
            for one in workplace.store.inputs_of(mixture)
            if one.kind == "pairs"
        }
        request = planned.request((mixture,), workplace.overridden)

        def build(out: Path) -> Built:
            raws = raw_folders(workplace, mixture)
            return audit.build_audit(mixture.folder, pair_sets, raws, planned.parameters["licences"], out)

        yield from publish(context, workplace, request, build, _describe)

    return define_asset(
        Flow(catalog).audit(of),
        catalog,
        body,
        group=of.name,
        kinds={"duckdb", "json"},
        description=(
            "What the mixture teaches beside its preferences: length bias with intervals, repeats, contradictions "
            "within and across sources, overlaps, leftovers of templates, and what the licences allow."
        ),
        checks=CHECKS,
    )


def _describe(artifact: Artifact) -> Metadata:
    """Return the sentences and plots first, then the tables behind them."""
    facts = artifact.facts
    longer = [
        (name, *(one["length"]["chosen_longer"][key] for key in ("share", "ci_low", "ci_high")))
        for name, one in facts["sources"].items()
    ]
    return {
        "findings": markdown(_listed([found["sentence"] for found in facts["findings"]])),
        "commercial_use": facts["licences"]["commercial_use"],
        "pairs": facts["pairs"],
        "plot_chosen_is_longer": image(
            plots.scores_with_intervals(longer, "share of pairs whose chosen reply has more words"), "chosen is longer"
        ),
        "plot_lengths": image(plots.length_histograms(facts["lengths"], "words of replies"), "words of replies"),
        "plot_shared_first_turns": image(_overlap(facts, "first_turns", "first user turns"), "shared first user turns"),
        "plot_shared_responses": image(_overlap(facts, "responses", "responses"), "shared responses"),
        **{_key(title): table(rows) for title, rows in audit_tables.tables(facts).items()},
        **licence_metadata(facts["licences"]),
    }


def _listed(sentences: list[str]) -> str:
    """Return a Markdown list in which a mark such as ``<s>`` is text."""
    return "\n".join(f"- {sentence.replace('<', '&lt;')}" for sentence in sentences) or "nothing of note"


def _key(title: str) -> str:
    return title.replace(":", "").replace(" ", "_")


def _overlap(facts: audit_tables.Facts, what: str, label: str) -> bytes:
    names, shares = audit_tables.overlap_matrix(facts, what)
    return plots.matrix(names, shares, f"share of a row's {label} that the column's source holds too")
