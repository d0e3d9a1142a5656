"""The training of one checkpoint, from inputs to ``result.json``; ``entry.py`` says what it leaves in its folder."""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from rm_workflow.catalog.models import TokenRecipe, Validation
from rm_workflow.durable_files import fsync_tree
from rm_workflow.errors import UserError
from rm_workflow.models.readout import KINDS
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import (
    canaries,
    distributed,
    extras,
    held_out,
    launch,
    memory,
    objectives,
    outputs,
    process,
    reloading,
    resuming,
    saving,
)
from rm_workflow.training.building import holds_bf16, make_trainer, readout_of, whole_model
from rm_workflow.training.data import TrainPairs, load_pairs
from rm_workflow.training.held_out import Positions
from rm_workflow.training.metrics import Progress
from rm_workflow.training.proving import check_start, first_batch, has_fresh_head, prove_layout
from rm_workflow.training.response_trainer import attribute_weights
from rm_workflow.training.responses import TrainResponses, load_responses
from rm_workflow.training.resuming import METRICS
from rm_workflow.training.run_config import BLOCK_FIELDS, complete
from rm_workflow.training.solutions import load_solutions
from rm_workflow.training.speed import hardware, peak_memory_gb, speed_of
from rm_workflow.training.trainer import PairTrainer
from rm_workflow.training.training_state import STATES
from rm_workflow.training.validating import VALIDATION

OUTPUTS = ("model", "adapter", "attributes.safetensors", METRICS, VALIDATION)


def train(
    run_config_file: Path,
    tokens: Path,
    base: Path,
    out: Path,
    tell: Callable[[str], None] | None = None,
    reload: reloading.Reload = reloading.in_a_fresh_process,
) -> dict[str, Any]:
    """Train, save, prove and return what ``result.json`` holds; of several processes, only the first has it.

    Args:
        tell: gets each line that is printed.
        reload: loads what was saved, for the proof.
    """
    with memory.told_in_one_sentence(out):
        return _train(run_config_file, tokens, base, out, tell, reload)


def _train(
    run_config_file: Path,
    tokens: Path,
    base: Path,
    out: Path,
    tell: Callable[[str], None] | None,
    reload: reloading.Reload,
) -> dict[str, Any]:
    quiet_libraries()
    if launch.is_main():
        for name in (outputs.RESULT, outputs.PROOF, *OUTPUTS):
            _remove(out / name)
    run_config = complete(json.loads(run_config_file.read_text("utf-8")))
    distributed.join(run_config["device"])
    strategy = launch.take_strategy()
    trainer, encoder = _prepared(run_config, tokens, base, out, tell, strategy)
    pairs, progress = trainer.pairs, trainer.progress
    probe = first_batch(trainer, pairs, encoder.pad_token_id)
    first_loss = check_start(trainer, probe, has_fresh_head(base, pairs))
    prove_layout(trainer, probe)
    # Rounding may differ between devices; all must cut the same step in the same way.
    trainer.use_layout(*distributed.gathered((trainer.layout, trainer.layout_reason))[0])
    progress.say(f"layout {trainer.layout}: {trainer.layout_reason}")
    if any(pairs.unshared.values()):
        progress.say(_unshared_line(pairs))
    progress.speed = speed_of(trainer.trained_model, run_config["device"], run_config["precision"], distributed.size())
    progress.start()
    run_to_the_end(trainer)
    seconds = time.monotonic() - progress.started
    trainer.load_best()

    most_memory_gb = max(distributed.gathered(peak_memory_gb(run_config["device"])))
    num_processes = distributed.size()
    model, before = whole_model(trainer, run_config, encoder, base, probe)
    told = _told(trainer, out)
    if launch.is_main():
        trainer.finish(model, out)
    del trainer
    distributed.leave()
    if not launch.is_main():
        return {}
    parameters, save_dtype = _parameter_counts(model), run_config["training"]["save_dtype"]
    readout = readout_of(pairs)
    before = saving.trained_rewards(model, probe, readout) if before is None else before
    saving.save(model, encoder, save_dtype, out, readout)
    # Another process loads the model now, and the memory need not hold both.
    del model
    proof = saving.prove(out, base, encoder.pad_token_id, save_dtype, probe, before, reload, progress.say, readout)
    progress.say(_reload_line(proof))
    result = {
        "recipe": run_config["recipe"],
        "num_pairs": progress.total_pairs,
        "num_tokens": progress.total_tokens,
        "seconds": seconds,
        "pairs_per_second": progress.total_pairs / seconds,
        "tokens_per_second": progress.total_tokens / seconds,
        "loss_before_training": first_loss,
        "first_loss": progress.records[0]["loss"],
        "last_loss": progress.records[-1]["loss"],
        "last_accuracy": progress.records[-1]["accuracy"],
        "device": run_config["device"],
        "precision": run_config["precision"],
        "num_processes": num_processes,
        "strategy": strategy if num_processes > 1 else "none",
        "unshared_pairs": pairs.unshared,
        **_attribute_facts(run_config, pairs),
        **_block_facts(run_config),
        **parameters,
        **told,
        "peak_memory_gb": most_memory_gb,
        "hardware": hardware(run_config["device"]),
        "reload": proof,
    }
    fsync_tree(out)
    outputs.write_result(out, result, OUTPUTS)
    _remove(out / STATES)
    return result


def _prepared(
    run_config: Mapping[str, Any],
    tokens: Path,
    base: Path,
    out: Path,
    tell: Callable[[str], None] | None,
    strategy: launch.Strategy,
) -> tuple[PairTrainer, Encoder]:
    """Return the trainer of inputs that were checked, and the encoder of its tokens."""
    training = run_config["training"]
    encoder = Encoder.load(base, TokenRecipe(**run_config["token_recipe"]))
    pairs = load_data(run_config, tokens)
    positions = held_out.split(tokens, Validation(**training["validation"])) if training["validation"] else None
    _check_inputs(run_config, encoder, pairs, positions, tokens)
    progress = Progress(
        out / METRICS,
        run_config["num_steps"],
        run_config["num_train_pairs"],
        tell,
        "solutions" if training["batch_unit"] == "blocks" else training["batch_unit"],
        is_silent=not launch.is_main(),
    )
    _announce(run_config, pairs, progress, holds_bf16(run_config, base))
    identity = resuming.run_identity(run_config, tokens, base)
    trainer = make_trainer(run_config, encoder, pairs, base, progress, out, identity, positions, strategy)
    num_parameters = trainer.trained_model.num_parameters()
    canaries.check_learning_rate(training["learning_rate"], num_parameters, training["lora"] is None)
    return trainer, encoder


def run_to_the_end(trainer: PairTrainer) -> None:
    """Train from the newest whole state, or from the start; a signal first gets the last whole step written.

    The state after the last step lies on the disk before the model is saved and proved, which a signal or a kill may
    end: the same command then makes no step again.

    Raises:
        Terminated: a signal came.
        OutOfMemory: a micro-batch does not fit; the last whole step is written here too.
    """
    state = resuming.find_state(trainer)
    if state and state.read(resuming.PROGRESS)["is_finished"]:
        trainer.take_up_finished(state.folder)
        return
    trainer.tell_grace()
    with process.deferring_signals():
        try:
            trainer.train(resume_from_checkpoint=str(state.folder) if state else None)
            distributed.end_if_asked()
            trainer.save_finished()
        except process.Terminated:
            trainer.save_state()
            raise
        except memory.OutOfMemory:
            trainer.save_between_steps()
            raise


def _told(trainer: PairTrainer, out: Path) -> dict[str, Any]:
    """Return what ``result.json`` tells of how the training went."""
    return {
        "layout": trainer.layout,
        "layout_reason": trainer.layout_reason,
        "num_steps": trainer.state.global_step,
        "stopped_early": trainer.has_stopped_early,
        "validation": trainer.best,
        "resumed_from": resuming.resumed_from(out),
        "num_states": len(trainer.schedule.costs),
        "seconds_saving": sum(trainer.schedule.costs),
    }


def load_data(run_config: Mapping[str, Any], tokens: Path) -> TrainPairs | TrainResponses:
    """Read the train split as the objective takes it: pairs, labelled responses or solutions."""
    if run_config["objective"] in KINDS:
        return load_solutions(tokens, run_config["objective"])
    if run_config["objective"] in objectives.ON_RESPONSES:
        return load_responses(tokens, run_config["objective"], run_config["attributes"])
    return load_pairs(tokens)


def _attribute_facts(run_config: Mapping[str, Any], data: TrainPairs | TrainResponses) -> dict[str, Any]:
    """Return, for regression, the weight of each attribute in the reward and the scales of its ratings by source."""
    if not isinstance(data, TrainResponses) or not data.scales:
        return {}
    weights = attribute_weights(run_config)
    return {"attributes": {name: {"weight": weights[name], "scales": data.scales[name]} for name in data.scales}}


def _block_facts(run_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return, where a step counts blocks, how many solutions they hold."""
    return {name: run_config[name] for name in BLOCK_FIELDS if name in run_config}


def quiet_libraries() -> None:
    """Keep transformers from warning that the head is new and drawing bars; our own lines say what is done."""
    # peft still asks transformers by the old name of activation checkpointing.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _check_inputs(
    run_config: Mapping[str, Any],
    encoder: Encoder,
    pairs: TrainPairs | TrainResponses,
    positions: tuple[Positions, Positions] | None,
    tokens: Path,
) -> None:
    extras.check(run_config["training"])
    if encoder.template_hash != run_config["template_hash"]:
        raise UserError(
            f"the tokens in {tokens} were made with another chat template than the base model has under this token "
            "recipe (template_hash differs); rebuild the tokens"
        )
    unit = run_config["training"]["batch_unit"]
    per_epoch = int(pairs.repeat[positions[0]].sum()) if positions else pairs.per_epoch
    rows = "solutions" if unit == "blocks" else unit
    if per_epoch != run_config["num_train_pairs"]:
        raise UserError(
            f"{tokens} has {per_epoch} train {rows} an epoch where the run config says "
            f"{run_config['num_train_pairs']}; rebuild the run config"
        )
    canaries.check_tokens(pairs, encoder.pad_token_id, encoder.tokenizer.eos_token_id)
    canaries.check_bos(pairs, encoder.tokenizer.bos_token_id)
    if isinstance(pairs, TrainPairs):
        canaries.check_scores(pairs, run_config["objective"])


def _announce(
    run_config: Mapping[str, Any], pairs: TrainPairs | TrainResponses, progress: Progress, is_bf16: bool
) -> None:
    training = run_config["training"]
    unit = training["batch_unit"]
    beside = (
        f"LoRA r {training['lora']['r']} beside {'bf16' if is_bf16 else 'fp32'} weights" if training["lora"] else None
    )
    kind = beside or "all weights"
    rows = "solutions" if unit == "blocks" else unit
    in_solutions = ""
    if unit == "blocks":
        in_solutions = (
            f" of {run_config['block_tokens']} tokens (about {run_config['solutions_per_step']:.1f} solutions a step)"
        )
    progress.say(
        f"training {run_config['recipe']}: {len(pairs)} {rows}, {pairs.num_tokens} tokens an epoch, "
        f"{run_config['num_steps']} steps of {training['batch_size']} {unit}{in_solutions}, {kind}, "
        f"objective {run_config['objective']}, {run_config['device']}, {run_config['precision']}"
    )
    if run_config["num_validation_pairs"]:
        progress.say(f"{run_config['num_validation_pairs']} of the train pairs are held out for validation")
    for note in run_config["notes"]:
        progress.say(f"note: {note}")


def _unshared_line(pairs: TrainPairs | TrainResponses) -> str:
    counts = pairs.unshared
    return (
        f"pairs whose sides share no tokens: {counts['other_context']} answer different conversations, in "
        f"{counts['prompt_not_prefix']} a reply merged with the end of its prompt"
    )


def _parameter_counts(model: Any) -> dict[str, int]:
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "num_parameters": sum(count for count, _ in counts),
        "num_trainable_parameters": sum(count for count, trained in counts if trained),
    }


def _reload_line(proof: Mapping[str, Any]) -> str:
    adapter = proof["adapter_max_difference"]
    beside = "" if adapter is None else f", of adapter/ on its base {adapter:.1e}"
    return (
        f"saved and loaded again: rewards of model/ differ by up to {proof['max_difference']:.1e} (tolerance "
        f"{proof['tolerance']:.0e}){beside}; loaded in bf16 by up to {proof['bf16_max_difference']:.1e}"
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
