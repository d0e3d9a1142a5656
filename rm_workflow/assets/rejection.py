"""``<recipe>_ranked`` and ``<recipe>_sft_dpo``: candidates as a checkpoint ranks them, and the choice for TRL."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, publish, table
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Catalog, Recipe, RejectionSampling

RANKED_CHECKS = (
    ("prompts_accounted_for", "Every prompt is ranked or dropped under a named rule."),
    ("no_score_is_missing_or_nan", "Every candidate has a finite score."),
)
SHOWN = 3  # rows


def ranked_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the candidates of a recipe that samples by rejection, ranked."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        from rm_workflow.models.reward_model import resolve_device, resolve_precision

        recipe = workplace.asked(of, context)
        asked = _asked(recipe)
        planned = workplace.flow.ranked(recipe)
        inputs = planned.inputs(workplace.store)
        device = resolve_device(workplace.settings.device)
        resolved = {"device": device, "precision": resolve_precision(recipe.evaluation.precision, device)}
        request = planned.request(tuple(inputs.values()), workplace.overridden, resolved=resolved)
        checkpoint, raw = (inputs[upstream.asset] for upstream in planned.upstream)

        def build(out: Path) -> Built:
            from rm_workflow.evaluation.progress import progress_bar
            from rm_workflow.evaluation.rejection_sampling import build_ranked
            from rm_workflow.evaluation.scorer import Scorer

            scorer = Scorer.load(
                checkpoint.folder / "model", device, resolved["precision"], recipe.evaluation.batch_tokens
            )
            work = workplace.store.work_folder(request.asset, request.version)
            files = workplace.catalog.sources[asked.candidates].files.get("train", [])
            with progress_bar("candidates") as progress:
                return build_ranked(raw.folder, files, asked, scorer, out, progress, work)

        yield from publish(context, workplace, request, build, _describe_ranked)
        workplace.store.clear_work(request.asset, request.version)

    asked = _asked(of)
    flow = Flow(catalog)
    return define_asset(
        flow.across_runs(of, flow.ranked),
        catalog,
        body,
        group=of.name,
        kinds={"pytorch", "parquet"},
        description=(
            f"{asked.n or 'All'} candidates of each prompt of `{asked.candidates}`, with the rewards of the checkpoint "
            "and the best of them."
        ),
        checks=RANKED_CHECKS,
        partitions=sweeps.partition_keys(of),
    )


def sft_dpo_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define what TRL's SFTTrainer and DPOTrainer read of the ranked candidates."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        planned = workplace.flow.sft_dpo(recipe)
        inputs = planned.inputs(workplace.store)
        request = planned.request(tuple(inputs.values()), workplace.overridden)
        (ranked,) = inputs.values()

        def build(out: Path) -> Built:
            from rm_workflow.evaluation.rejection_sampling import build_sft_dpo

            return build_sft_dpo(ranked.folder, _asked(recipe), out)

        yield from publish(context, workplace, request, build, _describe_sft_dpo)

    flow = Flow(catalog)
    return define_asset(
        flow.across_runs(of, flow.sft_dpo),
        catalog,
        body,
        group=of.name,
        kinds={"parquet"},
        description=(
            "The best reply to each prompt (`sft.parquet`), and best against worst (`dpo.parquet`), as TRL's "
            "SFTTrainer and DPOTrainer read them."
        ),
        checks=(),
        partitions=sweeps.partition_keys(of),
    )


def _asked(recipe: Recipe) -> RejectionSampling:
    assert recipe.rejection_sampling is not None, "only recipes with rejection sampling have these assets"
    return recipe.rejection_sampling


def _describe_ranked(artifact: Artifact) -> Metadata:
    from rm_workflow.evaluation.rejection_sampling import RANKED

    facts = artifact.facts
    rows = [
        {"prompt": row["messages"][-1]["content"], "best": row["responses"][row["best"]], "reward": max(row["scores"])}
        for row in _first_rows(artifact, RANKED)
    ]
    return {
        "mean_reward_of_the_best": facts["mean_best"],
        "mean_reward": facts["mean_reward"],
        "dagster/row_count": facts["ranked"],
        "prompts": facts["prompts"],
        "candidates": facts["candidates"],
        "candidates_refused": facts["candidates_refused"],
        "dropped": table([facts["dropped"]]),
        "first_rows": table(rows),
    }


def _describe_sft_dpo(artifact: Artifact) -> Metadata:
    from rm_workflow.evaluation.rejection_sampling import DPO

    facts = artifact.facts
    sides = ("chosen", "rejected")
    rows = [
        {"prompt": row["prompt"][-1]["content"], **{side: row[side][0]["content"] for side in sides}}
        | {"score_gap": row["score_gap"]}
        for row in _first_rows(artifact, DPO)
    ]
    return {
        "dagster/row_count": facts["sft"],
        "dpo_rows": facts["dpo"],
        "dropped": table([facts["dropped"]]),
        "first_rows": table(rows),
    }


def _first_rows(artifact: Artifact, name: str) -> list[Mapping[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(artifact.folder / name) as file:
        batch = next(file.iter_batches(batch_size=SHOWN), None)
    return batch.to_pylist() if batch is not None else []
