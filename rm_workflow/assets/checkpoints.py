"""``<recipe>_run_config`` and ``<recipe>_checkpoint``: everything one checkpoint needs, then the training itself."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from rm_workflow.artifacts import Artifact, Built, Check
from rm_workflow.assets.access import check_transfer
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    checkpoint_link,
    define_asset,
    image,
    licence_metadata,
    markdown,
    publish,
)
from rm_workflow.assets.trainer_process import run_trainer
from rm_workflow.catalog import licences, sweeps
from rm_workflow.catalog.models import UNKEYED_TRAINING_FIELDS, Catalog, Recipe
from rm_workflow.models.readout import KINDS
from rm_workflow.reporting import plots
from rm_workflow.reporting.words import duration, plural
from rm_workflow.training import launchers, outputs
from rm_workflow.training.launchers import Training
from rm_workflow.training.outputs import RESULT

GPU_POOL = "gpu"
RUN_CONFIG = "run_config.json"
CONFIGURED_FACTS = ("base", "objective", "num_train_pairs")
CHECKPOINT_CHECKS = (
    (
        "head_survives_reload",
        "The saved model, loaded by plain transformers, gives the rewards of the trained one.",
    ),
)

logger = logging.getLogger("rm_workflow")


def run_config_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the resolved configuration of one recipe's checkpoint."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        check_transfer(workplace.recipe(of.name), workplace.catalog, workplace.settings)
        planned = workplace.flow.run_config(recipe)
        inputs = planned.inputs(workplace.store)
        tokens = inputs[planned.upstream[0].asset]
        resolved = _machine(workplace, recipe.training.precision)
        request = planned.request(tuple(inputs.values()), workplace.overridden, resolved=resolved)

        def build(out: Path) -> Built:
            from rm_workflow.training import held_out, run_config
            from rm_workflow.training.data import PairKeys
            from rm_workflow.training.solutions import load_solutions

            validation = recipe.training.validation
            facts = held_out.facts_for_training(tokens.folder, tokens.facts, validation)
            by_prompt = recipe.training.grouping == "prompts"
            keys: PairKeys | None = held_out.keys_for_training(tokens.folder, validation) if by_prompt else None
            if recipe.objective in KINDS:
                keys = load_solutions(tokens.folder, recipe.objective)
            config = run_config.resolve(recipe, facts, resolved["device"], resolved["precision"], keys)
            config = run_config.keyed(config)
            (out / RUN_CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True), "utf-8")
            return Built(facts=config)

        def describe(artifact: Artifact) -> Metadata:
            return {
                "num_train_pairs": artifact.facts["num_train_pairs"],
                "num_validation_pairs": artifact.facts["num_validation_pairs"],
                "num_steps": artifact.facts["num_steps"],
                "run_config": markdown(f"```json\n{json.dumps(dict(artifact.facts), indent=1, sort_keys=True)}\n```"),
            }

        yield from publish(context, workplace, request, build, describe)

    flow = Flow(catalog)
    return define_asset(
        flow.across_runs(of, flow.run_config),
        catalog,
        body,
        group=of.name,
        kinds={"json"},
        description="The resolved recipe of one checkpoint: data, base, objective, optimisation, device, precision.",
        checks=(),
        partitions=sweeps.partition_keys(of),
    )


def _machine(workplace: Workplace, precision: str) -> dict[str, str]:
    """Return device and precision as this machine resolves them; both decide the trained weights."""
    from rm_workflow.models.reward_model import resolve_device, resolve_precision

    device = resolve_device(workplace.settings.device)
    return {"device": device, "precision": resolve_precision(precision, device)}


def checkpoint_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the trained checkpoint of one recipe."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        planned = workplace.flow.checkpoint(recipe)
        inputs = planned.inputs(workplace.store)
        request = planned.request(tuple(inputs.values()), workplace.overridden)

        def build(out: Path) -> Built:
            run_config, tokens, base = (inputs[upstream.asset] for upstream in planned.upstream)
            work = workplace.store.work_folder(request.asset, request.version)
            # A training that ended well before a publish that failed is not repeated.
            if not _has_ended_well(work):
                _write_run_config(recipe, run_config, work)
                launcher = launchers.get(workplace.settings.launcher)
                run_trainer(context, launcher, _training(recipe, tokens, base, work))
            return _collect(work, out, run_config)

        def describe(artifact: Artifact) -> Metadata:
            return {
                **describe_checkpoint(artifact),
                **licence_metadata(licences.of_recipe(recipe, workplace.catalog)),
            }

        yield from publish(context, workplace, request, build, describe)
        workplace.store.clear_work(request.asset, request.version)

    flow = Flow(catalog)
    return define_asset(
        flow.across_runs(of, flow.checkpoint),
        catalog,
        body,
        group=of.name,
        kinds={"pytorch", "huggingface"},
        description=(
            f"Reward model trained from `{of.base}` with objective `{of.objective}`, "
            f"{'LoRA' if of.training.lora else 'all weights'}, in its own process."
        ),
        checks=CHECKPOINT_CHECKS,
        pool=GPU_POOL,
        partitions=sweeps.partition_keys(of),
    )


def _write_run_config(recipe: Recipe, run_config: Artifact, work: Path) -> None:
    """Write the run config with what is part of no key, as the recipe says it now."""
    from rm_workflow.training.run_config import complete

    config = complete(json.loads(run_config.file(RUN_CONFIG).read_text("utf-8")), recipe.training)
    (work / RUN_CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True), "utf-8")


def _training(recipe: Recipe, tokens: Artifact, base: Artifact, work: Path) -> Training:
    from rm_workflow.models.base import model_folder

    arguments = {
        "--run-config": work / RUN_CONFIG,
        "--tokens": tokens.folder,
        "--base": model_folder(base.folder),
        "--out": work,
    }
    flat = [str(part) for pair in arguments.items() for part in pair]
    device = json.loads((work / RUN_CONFIG).read_text("utf-8"))["device"]
    return Training(flat, recipe.training.distributed, work, device)


def _has_ended_well(work: Path) -> bool:
    """Return whether a training ended here with a proven model; any other result would fail each run anew."""
    if not (work / RESULT).exists():
        return False
    damage = outputs.fault(work)
    if damage:
        logger.warning("what the training left in %s is damaged (%s); it is trained again", work, damage)
        return False
    return bool(json.loads((work / RESULT).read_text("utf-8"))["reload"]["passed"])


def _link(source: Path, target: Path) -> None:
    """Link files into the staging folder: until the artifact is published, the trainer's own folder keeps them."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_or_copy)
    else:
        _link_or_copy(source, target)


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Some file systems have no hard links; what else may be wrong, such as a full disk, stops the copy too.
        shutil.copy2(source, target)


def _collect(work: Path, out: Path, run_config: Artifact) -> Built:
    """Take over what the trainer left in its folder and read what it says of itself."""
    result = json.loads((work / RESULT).read_text("utf-8"))
    for name in (*("model", "adapter", "attributes.safetensors", "metrics.jsonl", "validation.jsonl", "runs", RESULT),):
        if (work / name).exists():
            _link(work / name, out / name)
    reload = result["reload"]
    check = Check("head_survives_reload", bool(reload["passed"]), CHECKPOINT_CHECKS[0][1], reload)
    configured = {name: run_config.facts[name] for name in CONFIGURED_FACTS}
    training = json.loads((work / RUN_CONFIG).read_text("utf-8"))["training"]
    how = {name: value for name, value in training.items() if name in UNKEYED_TRAINING_FIELDS}
    return Built(facts={**configured, "trained_with": how, **result}, checks=(check,))


def describe_checkpoint(artifact: Artifact) -> Metadata:
    """Return what a checkpoint's page shows, held-out accuracy, steps and loss first."""
    metrics = _lines(artifact.file("metrics.jsonl"))
    validations = _lines(artifact.folder / "validation.jsonl")
    figures = {key: value for key, value in artifact.facts.items() if isinstance(value, str | int | float)}
    curves = image(plots.training_curves(metrics, artifact.asset, validations), "training curves")
    facts = artifact.facts
    return {
        "held_out": _held_out(validations),
        "trained": f"{plural(facts['num_steps'], 'step')} in {duration(facts['seconds'])}",
        "loss": _loss(facts),
        "lineage_page": checkpoint_link(artifact.id),
        "plot_training_curves": curves,
        # How long this materialization took has the same name.
        **{"training_seconds" if key == "seconds" else key: value for key, value in figures.items()},
    }


def _held_out(validations: Sequence[Mapping[str, Any]]) -> str:
    """Return the accuracy on the pairs held out from training, at the last time it was measured."""
    measured = [line for line in validations if line.get("accuracy") is not None]
    if not measured:
        return "no pairs were (training.validation)"
    last = measured[-1]
    return f"accuracy {last['accuracy']:.3f} at step {last['step']}"


def _loss(facts: Mapping[str, Any]) -> str:
    before, last = facts.get("loss_before_training"), facts.get("last_loss")
    told = {"before": before, "at the last step": last}
    return ", ".join(f"{loss:.4f} {when}" for when, loss in told.items() if loss is not None) or "not measured"


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file, none where there is no such file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
