"""``<recipe>_mixture`` and ``<recipe>_tokens``: pairs joined, split, decontaminated; then as token ids."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from rm_workflow.artifacts import Artifact, Built, ExternalFile
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.pairs import describe_pairs
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    define_asset,
    image,
    licence_metadata,
    publish,
    recipe_link,
    table,
)
from rm_workflow.catalog import licences
from rm_workflow.catalog.models import ANNOTATION, Catalog, Mixture, Recipe, Source
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow.models.readout import KINDS
from rm_workflow.pages import addresses
from rm_workflow.preferences import mixture
from rm_workflow.preferences.labelled_mixture import LabelledPart, Use
from rm_workflow.preferences.mixture import Member
from rm_workflow.preferences.response_mixture import build_response_mixture
from rm_workflow.preferences.trajectory_mixture import build_trajectory_mixture
from rm_workflow.reporting import plots
from rm_workflow.training import launchers

CONTENTS = {
    "pairs": "Pairs",
    "responses": "Labelled responses",
    "trajectories": "Solutions with step labels",
}
SPLITS = {"native": "the sources' own test files", "hash": "hash of the group of prompts"}
# The tables of step labels as a source: all solutions are of train problems.
ANNOTATED = Source(path=ANNOTATION, files={"train": ["rollouts"]}, adapter=ANNOTATION, licence="")
MIXTURE_CHECKS = (
    ("candidates_accounted_for", "Every pair or response that came in is kept or dropped under a named rule."),
    ("groups_stay_on_one_side", "No group of prompts stands in train and in test."),
    ("no_benchmark_prompt_in_train", "No train prompt asks a benchmark's question, unless the policy is to mark them."),
)
TOKENS_CHECKS = (
    ("pairs_accounted_for", "Every pair (or labelled response) of the mixture is kept or dropped under a named rule."),
)


def mixture_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the mixture of one recipe."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        planned = workplace.flow.mixture(recipe)
        inputs = planned.inputs(workplace.store)
        benchmarks = {name: inputs[f"bench_{name}"].folder for name in recipe.mixture.decontaminate_against}
        request = planned.request(tuple(inputs.values()), workplace.overridden, guard_files(recipe.mixture))

        def build(out: Path) -> Built:
            if recipe.mixture.kind == "responses":
                parts = [_part(workplace, recipe, inputs, use) for use in recipe.mixture.responses]
                return build_response_mixture(recipe.mixture, parts, benchmarks, out)
            if recipe.mixture.kind == "trajectories":
                solved = [_part(workplace, recipe, inputs, use) for use in recipe.mixture.trajectories]
                return build_trajectory_mixture(recipe.mixture, solved, benchmarks, out)
            members = [_member(workplace, inputs[f"pairs_{name}"], name) for name in recipe.mixture.pair_set_names]
            return mixture.build_mixture(recipe.mixture, members, benchmarks, out)

        def describe(artifact: Artifact) -> Metadata:
            facts, rows = artifact.facts, recipe.mixture.kind
            known = licences.test_problems(recipe, workplace.catalog)
            return {
                f"train_{rows}": facts["train"],
                f"test_{rows}": facts["test"],
                "by_source": table([{"source": name, **counts} for name, counts in facts["sources"].items()]),
                **describe_pairs(artifact, raw_folders(workplace, artifact), rows),
                "lineage_page": recipe_link(recipe.name),
                f"train_{rows}_per_epoch": facts["train_per_epoch"],
                f"marked_{rows}": facts["marked"],
                "leaks": table([{"benchmark": name, **counts} for name, counts in facts["leaks"].items()]),
                **_step_labels(facts),
                **{f"test_problems_of_{name}": told for name, told in known.items()},
                **licence_metadata(licences.of_mixture(recipe, workplace.catalog)),
            }

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        Flow(catalog).mixture(of),
        catalog,
        body,
        group=of.name,
        kinds={"duckdb", "parquet"},
        description=(
            f"{_contents(of.mixture)}, split by {SPLITS[of.mixture.split.by]} and decontaminated against "
            f"{', '.join(f'`{name}`' for name in of.mixture.decontaminate_against) or 'nothing'}. "
            f"[Counts by source, rule and run]({addresses.recipe(of.name)})"
        ),
        checks=MIXTURE_CHECKS,
    )


def guard_files(mixture: Mixture, sha256: Callable[[Path], str] = file_sha256) -> tuple[ExternalFile, ...]:
    """Return the text files that a mixture's guard reads.

    Args:
        sha256: hashes a file.

    Raises:
        UserError: one is not there.
    """
    listed = {
        "decontaminate_files": mixture.decontaminate_files,
        "guard.boilerplate_files": mixture.guard.boilerplate_files,
    }
    paths = [(field, Path(file)) for field, files in listed.items() for file in files]
    for field, path in paths:
        if not path.is_file():
            raise UserError(f"there is no file {path}; mend mixture.{field}")
    return tuple(ExternalFile(f"{path.parent.name}/{path.name}", path, sha256(path)) for _, path in paths)


def _contents(mixture: Mixture) -> str:
    names = mixture.pair_set_names if mixture.kind == "pairs" else mixture.labelled_sources
    return f"{CONTENTS[mixture.kind]} of {', '.join(f'`{name}`' for name in names)}"


def _part(workplace: Workplace, recipe: Recipe, inputs: Mapping[str, Artifact], use: Use) -> LabelledPart[Use]:
    if use.name == ANNOTATION:
        return LabelledPart(use, ANNOTATED, inputs[f"{recipe.name}_step_labels"].folder)
    return LabelledPart(use, workplace.catalog.sources[use.name], inputs[f"raw_{use.name}"].folder)


def _step_labels(facts: Mapping[str, Any]) -> Metadata:
    """Return how many steps of each split have which label, for a mixture of trajectories."""
    if "steps" not in facts:
        return {}
    return {"steps": table([{"split": split, **numbers} for split, numbers in facts["steps"].items()])}


def _member(workplace: Workplace, pairs: Artifact, name: str) -> Member:
    source_name = workplace.catalog.pair_sets[name].source
    raw = workplace.store.inputs_of(pairs)[0]
    return Member(name, source_name, workplace.catalog.sources[source_name], pairs.folder, raw.folder)


def raw_folders(workplace: Workplace, mixture_artifact: Artifact) -> list[Path]:
    """Return the folders that hold the texts of a mixture's pairs or responses."""
    inputs = workplace.store.inputs_of(mixture_artifact)
    of_pairs = [raw for pairs in inputs if pairs.kind == "pairs" for raw in workplace.store.inputs_of(pairs)]
    return [raw.folder for raw in (*of_pairs, *inputs) if raw.kind in ("raw", "labels")]


def tokens_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the token ids of one recipe's mixture."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        planned = workplace.flow.tokens(recipe)
        inputs = planned.inputs(workplace.store)
        mixture_artifact, base = (inputs[upstream.asset] for upstream in planned.upstream)
        request = planned.request(tuple(inputs.values()), workplace.overridden)

        def build(out: Path) -> Built:
            from rm_workflow.models.base import model_folder
            from rm_workflow.training.response_tokens import build_response_tokens
            from rm_workflow.training.solution_tokens import build_solution_tokens
            from rm_workflow.training.tokens import build_tokens

            raws = raw_folders(workplace, mixture_artifact)
            inputs_of = mixture_artifact.folder, raws, model_folder(base.folder), recipe.tokens, out
            map_batches = launchers.get(workplace.settings.launcher).mapper()
            if recipe.objective in KINDS:
                return build_solution_tokens(*inputs_of, recipe.objective, recipe.mixture.kind, map_batches)
            build_it = build_response_tokens if recipe.mixture.kind == "responses" else build_tokens
            return build_it(*inputs_of, map_batches)

        def describe(artifact: Artifact) -> Metadata:
            return _describe_tokens(artifact, recipe.mixture.kind)

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        Flow(catalog).tokens(of),
        catalog,
        body,
        group=of.name,
        kinds={"huggingface", "parquet"},
        description=(
            f"The mixture as token ids: template `{of.tokens.template}`, at most "
            f"{of.tokens.max_length} tokens, longer ones: `{of.tokens.over_length}`."
        ),
        checks=TOKENS_CHECKS,
    )


def _describe_tokens(artifact: Artifact, rows: str) -> Metadata:
    facts = artifact.facts
    histogram = facts["histogram"]
    lengths = plots.histogram(histogram["edges"], histogram["counts"], "tokens", "tokens of prompt and reply")
    return {
        "dagster/row_count": facts["kept"],
        rows: facts[rows],
        f"train_{rows}": facts["train"],
        f"test_{rows}": facts["test"],
        f"train_{rows}_per_epoch": facts["train_per_epoch"],
        "train_tokens": facts["train_tokens"],
        "dropped_by_rule": table([{"rule": rule, rows: number} for rule, number in facts["dropped"].items()]),
        "plot_token_lengths": image(lengths, "token lengths"),
        "template_hash": facts["template_hash"],
    }
