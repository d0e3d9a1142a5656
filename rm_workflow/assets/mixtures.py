"""``<recipe>_mixture`` and ``<recipe>_tokens``: pairs joined, split, decontaminated; then as token ids."""

from pathlib import Path

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
    table,
)
from rm_workflow.catalog import licences
from rm_workflow.catalog.models import Catalog, Mixture, ResponseUse
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow.preferences import mixture
from rm_workflow.preferences.mixture import Member
from rm_workflow.preferences.response_mixture import ResponsePart, build_response_mixture
from rm_workflow.reporting import plots

MIXTURE_CHECKS = (
    ("candidates_accounted_for", "Every pair or response that came in is kept or dropped under a named rule."),
    ("groups_stay_on_one_side", "No group of prompts stands in train and in test."),
    ("no_benchmark_prompt_in_train", "No train prompt asks a benchmark's question, unless the policy is to mark them."),
)
TOKENS_CHECKS = (
    ("pairs_accounted_for", "Every pair (or labelled response) of the mixture is kept or dropped under a named rule."),
)


def mixture_asset(catalog: Catalog, recipe_name: str) -> dg.AssetsDefinition:
    """Define the mixture of one recipe."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.recipe(recipe_name)
        planned = workplace.flow.mixture(recipe)
        inputs = planned.inputs(workplace.store)
        benchmarks = {name: inputs[f"bench_{name}"].folder for name in recipe.mixture.decontaminate_against}
        request = planned.request(tuple(inputs.values()), workplace.overridden, guard_files(recipe.mixture))

        def build(out: Path) -> Built:
            if recipe.mixture.kind == "responses":
                parts = [_part(workplace, inputs[f"raw_{use.name}"], use) for use in recipe.mixture.responses]
                return build_response_mixture(recipe.mixture, parts, benchmarks, out)
            members = [_member(workplace, inputs[f"pairs_{name}"], name) for name in recipe.mixture.pair_set_names]
            return mixture.build_mixture(recipe.mixture, members, benchmarks, out)

        def describe(artifact: Artifact) -> Metadata:
            facts, rows = artifact.facts, recipe.mixture.kind
            return {
                **describe_pairs(artifact, raw_folders(workplace, artifact), rows),
                f"train_{rows}": facts["train"],
                f"test_{rows}": facts["test"],
                f"train_{rows}_per_epoch": facts["train_per_epoch"],
                f"marked_{rows}": facts["marked"],
                "leaks": table([{"benchmark": name, **counts} for name, counts in facts["leaks"].items()]),
                "by_source": table([{"source": name, **counts} for name, counts in facts["sources"].items()]),
                **licence_metadata(licences.of_mixture(recipe, workplace.catalog)),
            }

        yield from publish(context, workplace, request, build, describe)

    recipe = catalog.recipes[recipe_name]
    return define_asset(
        Flow(catalog).mixture(recipe),
        catalog,
        body,
        group=recipe_name,
        kinds={"duckdb", "parquet"},
        description=(
            f"{_contents(recipe.mixture)}, split by "
            f"{recipe.mixture.split.by} and decontaminated against "
            f"{', '.join(f'`{name}`' for name in recipe.mixture.decontaminate_against) or 'nothing'}."
        ),
        checks=MIXTURE_CHECKS,
    )


def guard_files(mixture: Mixture) -> tuple[ExternalFile, ...]:
    """Return the text files that a mixture's guard reads.

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
    return tuple(ExternalFile(f"{path.parent.name}/{path.name}", path, file_sha256(path)) for _, path in paths)


def _contents(mixture: Mixture) -> str:
    if mixture.kind == "responses":
        return f"Labelled responses of {', '.join(f'`{use.name}`' for use in mixture.responses)}"
    return f"Pairs of {', '.join(f'`{name}`' for name in mixture.pair_set_names)}"


def _part(workplace: Workplace, raw: Artifact, use: ResponseUse) -> ResponsePart:
    return ResponsePart(use, workplace.catalog.sources[use.name], raw.folder)


def _member(workplace: Workplace, pairs: Artifact, name: str) -> Member:
    source_name = workplace.catalog.pair_sets[name].source
    raw = workplace.store.inputs_of(pairs)[0]
    return Member(name, source_name, workplace.catalog.sources[source_name], pairs.folder, raw.folder)


def raw_folders(workplace: Workplace, mixture_artifact: Artifact) -> list[Path]:
    """Return the folders that hold the texts of a mixture's pairs or responses."""
    inputs = workplace.store.inputs_of(mixture_artifact)
    of_pairs = [raw for pairs in inputs if pairs.kind == "pairs" for raw in workplace.store.inputs_of(pairs)]
    return [raw.folder for raw in (*of_pairs, *inputs) if raw.kind == "raw"]


def tokens_asset(catalog: Catalog, recipe_name: str) -> dg.AssetsDefinition:
    """Define the token ids of one recipe's mixture."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.recipe(recipe_name)
        planned = workplace.flow.tokens(recipe)
        inputs = planned.inputs(workplace.store)
        mixture_artifact, base = (inputs[upstream.asset] for upstream in planned.upstream)
        request = planned.request(tuple(inputs.values()), workplace.overridden)

        def build(out: Path) -> Built:
            from rm_workflow.models.base import model_folder
            from rm_workflow.training.response_tokens import build_response_tokens
            from rm_workflow.training.tokens import build_tokens

            raws = raw_folders(workplace, mixture_artifact)
            build_it = build_response_tokens if recipe.mixture.kind == "responses" else build_tokens
            return build_it(mixture_artifact.folder, raws, model_folder(base.folder), recipe.tokens, out)

        def describe(artifact: Artifact) -> Metadata:
            return _describe_tokens(artifact, recipe.mixture.kind)

        yield from publish(context, workplace, request, build, describe)

    recipe = catalog.recipes[recipe_name]
    return define_asset(
        Flow(catalog).tokens(recipe),
        catalog,
        body,
        group=recipe_name,
        kinds={"huggingface", "parquet"},
        description=(
            f"The mixture as token ids: template `{recipe.tokens.template}`, at most "
            f"{recipe.tokens.max_length} tokens, longer ones: `{recipe.tokens.over_length}`."
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
        "lengths": image(lengths, "token lengths"),
        "template_hash": facts["template_hash"],
    }
