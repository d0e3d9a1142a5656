"""Trains one checkpoint: ``python -m rm_workflow.training.entry --run-config F --tokens DIR --base DIR --out DIR``.

Needs neither dagster nor duckdb, so it runs on a cluster node too; where Dagster Pipes started it, its lines also go to
the Dagster log. The folder OUT belongs to one trainer at a time and holds, at the end::

    model/          reward model for AutoModelForSequenceClassification, tokenizer, token_recipe.json
    adapter/        PEFT adapter with the head (LoRA only)
    attributes.safetensors   head of each attribute (regression only)
    metrics.jsonl   one line a logging step
    states/         while it trains: the states from which the same command goes on after it was ended
    validation.jsonl  one line an evaluation on held-out pairs (where the recipe has training.validation)
    runs/           files of trackers (where the recipe has training.report_to)
    result.json     figures of the run; written last, so without it nothing here is a checkpoint

Exit code 0 on success, 1 with one line ``error: ...``, 130 and 143 after SIGINT and SIGTERM.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rm_workflow.catalog.models import TokenRecipe, Validation
from rm_workflow.durable_files import fsync_tree
from rm_workflow.errors import UserError
from rm_workflow.training import process

if TYPE_CHECKING:
    from torch import Tensor

    from rm_workflow.models.tokens import Encoder
    from rm_workflow.training.data import TrainPairs
    from rm_workflow.training.held_out import Positions
    from rm_workflow.training.layouts import MicroBatch
    from rm_workflow.training.response_trainer import ResponseTrainer
    from rm_workflow.training.responses import TrainResponses
    from rm_workflow.training.trainer import PairTrainer

PIPES_VARIABLE = "DAGSTER_PIPES_CONTEXT"
METRICS = "metrics.jsonl"
RESULT = "result.json"
VALIDATION = "validation.jsonl"
OUTPUTS = ("model", "adapter", "attributes.safetensors", METRICS, VALIDATION, RESULT)
PROBE_PAIRS = 8
# In fp32, which a CPU is slow at.
LAYOUT_PROBE_PAIRS = 2
CAUSAL_PROBE_TOKENS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer and return its exit code."""
    options = _parse(arguments)
    process.set_environment()
    process.end_on_signals()
    try:
        process.end_with_parent(options.parent_pid)
        with process.locked(options.out), _dagster_log() as tell:
            train(options.run_config, options.tokens, options.base, options.out, tell)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except process.Terminated as ended:
        print(f"ended by {ended}; nothing is published{_kept(options.out)}", file=sys.stderr, flush=True)
        return ended.exit_code
    return 0


def _kept(out: Path) -> str:
    from rm_workflow.training import training_state

    states = training_state.kept_states(out / training_state.STATES, 1)
    return f"; the same command goes on after step {states[0].step}" if states else ""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rm_workflow.training.entry", description="Train one checkpoint.")
    parser.add_argument("--run-config", type=Path, required=True, help="run_config.json")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the tokens artifact")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model, as transformers loads it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, held by one trainer at a time")
    parser.add_argument("--parent-pid", type=int, help="process to end with; default: whoever started this one")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _dagster_log() -> Iterator[Callable[[str], None] | None]:
    if PIPES_VARIABLE not in os.environ:
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.log.info


def train(
    run_config_file: Path, tokens: Path, base: Path, out: Path, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train, save, prove and return what ``result.json`` holds.

    Args:
        tell: gets each line that is printed.
    """
    from rm_workflow.models.tokens import Encoder
    from rm_workflow.training import canaries, held_out, resuming, saving
    from rm_workflow.training.metrics import Progress
    from rm_workflow.training.speed import peak_memory_gb, speed_of
    from rm_workflow.training.training_state import STATES

    quiet_libraries()
    for name in OUTPUTS:
        _remove(out / name)
    run_config = json.loads(run_config_file.read_text("utf-8"))
    encoder = Encoder.load(base, TokenRecipe(**run_config["token_recipe"]))
    pairs = load_data(run_config, tokens)
    validation = run_config["training"]["validation"]
    positions = held_out.split(tokens, Validation(**validation)) if validation else None
    _check_inputs(run_config, encoder, pairs, positions, tokens)
    progress = Progress(
        out / METRICS,
        run_config["num_steps"],
        run_config["num_train_pairs"],
        tell,
        run_config["training"]["batch_unit"],
    )
    _announce(run_config, pairs, progress)

    identity = resuming.run_identity(run_config, tokens, base)
    trainer = make_trainer(run_config, encoder, pairs, base, progress, out, identity, positions)
    lora = run_config["training"]["lora"]
    canaries.check_learning_rate(
        run_config["training"]["learning_rate"], trainer.trained_model.num_parameters(), lora is None
    )
    probe = _probe(trainer, pairs, encoder.pad_token_id)
    first_loss = check_start(trainer, probe, _fresh_head(base))
    prove_layout(trainer, probe)
    progress.say(f"layout {trainer.layout}: {trainer.layout_reason}")
    if any(pairs.unshared.values()):
        progress.say(_unshared_line(pairs))
    progress.speed = speed_of(trainer.trained_model, run_config["device"], run_config["precision"])
    progress.start()
    run_to_the_end(trainer)
    seconds = time.monotonic() - progress.started
    trainer.load_best()

    trainer.finish(out)
    model, parameters = trainer.trained_model, _parameter_counts(trainer)
    layout, layout_reason = trainer.layout, trainer.layout_reason
    told = {
        "num_steps": trainer.state.global_step,
        "stopped_early": trainer.has_stopped_early,
        "validation": trainer.best,
        "resumed_from": resuming.resumed_from(out),
        "num_states": len(trainer.schedule.costs),
        "seconds_saving": sum(trainer.schedule.costs),
    }
    del trainer
    save_dtype = run_config["training"]["save_dtype"]
    reload = saving.save_and_prove(model, encoder, base, save_dtype, probe, out)
    progress.say(_reload_line(reload))
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
        "layout": layout,
        "layout_reason": layout_reason,
        "unshared_pairs": pairs.unshared,
        **_attribute_facts(run_config, pairs),
        **parameters,
        **told,
        "peak_memory_gb": peak_memory_gb(run_config["device"]),
        "reload": reload,
    }
    fsync_tree(out)
    _write_last(out / RESULT, result)
    _remove(out / STATES)
    return result


def run_to_the_end(trainer: "PairTrainer") -> None:
    """Train from the newest whole state, or from the start; a signal first gets the last whole step written.

    Raises:
        Terminated: a signal came.
    """
    from rm_workflow.training.resuming import PROGRESS, find_state

    state = find_state(trainer)
    if state and state.read(PROGRESS)["beside"]["has_stopped_early"]:
        trainer.take_up_ended(state.folder)
        return
    with process.deferring_signals():
        try:
            trainer.train(resume_from_checkpoint=str(state.folder) if state else None)
            process.raise_if_asked()
        except process.Terminated:
            trainer.save_state()
            raise


def load_data(run_config: Mapping[str, Any], tokens: Path) -> "TrainPairs | TrainResponses":
    """Read the train split as the objective takes it: pairs, or labelled responses."""
    from rm_workflow.training import objectives
    from rm_workflow.training.data import load_pairs
    from rm_workflow.training.responses import load_responses

    if run_config["objective"] in objectives.ON_RESPONSES:
        return load_responses(tokens, run_config["objective"], run_config["attributes"])
    return load_pairs(tokens)


def _attribute_facts(run_config: Mapping[str, Any], data: "TrainPairs | TrainResponses") -> dict[str, Any]:
    """Return, for regression, the weight of each attribute in the reward and the scales of its ratings by source."""
    from rm_workflow.training.response_trainer import attribute_weights
    from rm_workflow.training.responses import TrainResponses

    if not isinstance(data, TrainResponses) or not data.scales:
        return {}
    weights = attribute_weights(run_config)
    return {"attributes": {name: {"weight": weights[name], "scales": data.scales[name]} for name in data.scales}}


def quiet_libraries() -> None:
    """Keep transformers from warning that the head is new and drawing bars; our own lines say what is done."""
    from transformers.utils import logging

    # peft still asks transformers by the old name of activation checkpointing.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_inputs(
    run_config: Mapping[str, Any],
    encoder: "Encoder",
    pairs: "TrainPairs | TrainResponses",
    positions: tuple["Positions", "Positions"] | None,
    tokens: Path,
) -> None:
    from rm_workflow.training import canaries, extras
    from rm_workflow.training.data import TrainPairs

    extras.check(run_config["training"])
    if encoder.template_hash != run_config["template_hash"]:
        raise UserError(
            f"the tokens in {tokens} were made with another chat template than the base model has under this token "
            "recipe (template_hash differs); rebuild the tokens"
        )
    unit = run_config["training"]["batch_unit"]
    per_epoch = int(pairs.repeat[positions[0]].sum()) if positions else pairs.per_epoch
    if per_epoch != run_config["num_train_pairs"]:
        raise UserError(
            f"{tokens} has {per_epoch} train {unit} an epoch where the run config says "
            f"{run_config['num_train_pairs']}; rebuild the run config"
        )
    canaries.check_tokens(pairs, encoder.pad_token_id, encoder.tokenizer.eos_token_id)
    canaries.check_bos(pairs, encoder.tokenizer.bos_token_id)
    if isinstance(pairs, TrainPairs):
        canaries.check_scores(pairs, run_config["objective"])


def _announce(run_config: Mapping[str, Any], pairs: "TrainPairs | TrainResponses", progress: Any) -> None:
    training = run_config["training"]
    unit = training["batch_unit"]
    kind = f"LoRA r {training['lora']['r']}" if training["lora"] else "all weights"
    progress.say(
        f"training {run_config['recipe']}: {len(pairs)} {unit}, {pairs.num_tokens} tokens an epoch, "
        f"{run_config['num_steps']} steps of {training['batch_size']} {unit}, {kind}, "
        f"objective {run_config['objective']}, {run_config['device']}, {run_config['precision']}"
    )
    if run_config["num_validation_pairs"]:
        progress.say(f"{run_config['num_validation_pairs']} of the train pairs are held out for validation")
    for note in run_config["notes"]:
        progress.say(f"note: {note}")


def make_trainer(
    run_config: Mapping[str, Any],
    encoder: "Encoder",
    pairs: "TrainPairs | TrainResponses",
    base: Path,
    progress: Any,
    out: Path,
    identity: str = "",
    positions: tuple["Positions", "Positions"] | None = None,
) -> "PairTrainer":
    """Return a trainer with the model of a run config, its fresh head and its adapters, all drawn by the seed.

    Args:
        identity: what its states are written for (``resuming.run_identity``).
        positions: of the pairs to train on and of those held out; None trains on all.
    """
    from transformers import set_seed

    from rm_workflow.models.reward_model import load_reward_model, widen_head
    from rm_workflow.training import canaries
    from rm_workflow.training.response_trainer import ResponseTrainer
    from rm_workflow.training.responses import TrainResponses
    from rm_workflow.training.trainer import PairTrainer, add_lora

    training, seed = run_config["training"], run_config["seed"]
    model: Any = load_reward_model(base, training["head_init_std"], seed, encoder.pad_token_id)
    canaries.check_head(model)
    if len(run_config["attributes"]) > 1:
        widen_head(model, len(run_config["attributes"]), training["head_init_std"], seed)
    set_seed(seed)
    if training["lora"]:
        model = add_lora(model, training["lora"], adapter_base(run_config["base"], base))
    kind: Any = ResponseTrainer if isinstance(pairs, TrainResponses) else PairTrainer
    trainer: PairTrainer = kind(model, encoder.tokenizer, pairs, run_config, progress, out, identity, positions)
    return trainer


def adapter_base(base: str, folder: Path) -> str:
    """Return the base that an adapter names: the recipe's hub id, else the folder, which transformers can load."""
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).is_dir()
    return base if is_hub_id else str(folder)


def _fresh_head(base: Path) -> bool:
    from rm_workflow.training.canaries import holds_head

    return not holds_head(base)


def _probe(trainer: "PairTrainer", pairs: "TrainPairs | TrainResponses", pad_token_id: int) -> "MicroBatch":
    from rm_workflow.training.data import TrainPairs
    from rm_workflow.training.layouts import padded_batch
    from rm_workflow.training.response_trainer import ResponseTrainer

    if isinstance(trainer, ResponseTrainer):
        return trainer.probe()
    assert isinstance(pairs, TrainPairs)
    first = list(itertools.islice(itertools.chain.from_iterable(trainer.steps), PROBE_PAIRS))
    return padded_batch(pairs, first, pad_token_id)


def check_start(trainer: "PairTrainer", probe: "MicroBatch", fresh_head: bool) -> float:
    """Run the start-up canaries on the first pairs, in the precision of training, and return their loss."""
    import torch

    from rm_workflow.training import canaries
    from rm_workflow.training.response_trainer import ResponseTrainer

    batch = trainer._prepare_inputs(dict(probe))
    if isinstance(trainer, ResponseTrainer):
        return _check_response_start(trainer, batch, fresh_head)
    with torch.no_grad():
        chosen, rejected = trainer.pair_rewards(trainer.trained_model.eval(), batch)
        zero = torch.zeros_like(chosen)
        losses = trainer.pair_loss(chosen, rejected, batch["score_gap"])
        losses_at_zero = trainer.pair_loss(zero, zero, batch["score_gap"])
    canaries.check_shapes(chosen, batch["score_gap"], losses)
    return canaries.check_start(chosen, rejected, losses, losses_at_zero, batch["weight"], fresh_head)


def _check_response_start(trainer: "ResponseTrainer", batch: "MicroBatch", fresh_head: bool) -> float:
    import torch

    from rm_workflow.training import canaries

    targets, item = batch["targets"], batch["item_index"]
    data = trainer.pairs
    rows = [data.prompt[data.rows_of(one)] for one in batch["pair"].tolist()]
    prompts = torch.tensor([int(prompt) for of_item in rows for prompt in of_item], device=targets.device)
    with torch.no_grad():
        outputs = trainer.outputs(trainer.trained_model.eval(), batch)
        losses = trainer.objective.loss(outputs, targets, item)
        losses_at_zero = trainer.objective.loss(torch.zeros_like(outputs), targets, item)
    return canaries.check_response_start(outputs, prompts, losses, losses_at_zero, batch["weight"], fresh_head)


def prove_layout(trainer: "PairTrainer", probe: "MicroBatch") -> None:
    """Let the trainer fall back to ``grouped``, with a word, where this body's rewards depend on the layout.

    Raises:
        UserError: they depend on what follows a reply, so not even padded rows can be computed together.
    """
    from rm_workflow.models.reward_model import first_line
    from rm_workflow.training import canaries, layouts
    from rm_workflow.training.response_trainer import ResponseTrainer

    if isinstance(trainer, ResponseTrainer):
        followed = layouts.followed(probe, CAUSAL_PROBE_TOKENS, trainer.collator.pad_token_id)
        canaries.check_causal(_exact_rewards(trainer, probe), _exact_rewards(trainer, followed))
        return
    for batch in trainer.collator.micro_batches(_layout_probe(trainer, probe)):
        padded = layouts.padded_batch(trainer.pairs, batch["pair"].tolist(), trainer.collator.pad_token_id)
        rewards = _exact_rewards(trainer, padded)
        followed = layouts.followed(padded, CAUSAL_PROBE_TOKENS, trainer.collator.pad_token_id)
        canaries.check_causal(rewards, _exact_rewards(trainer, followed))
        if trainer.layout not in layouts.ONE_ROW:
            continue
        try:
            difference = canaries.relative_difference(rewards, _exact_rewards(trainer, batch))
        except (TypeError, ValueError, RuntimeError) as error:
            trainer.use_layout("grouped", f"the body refuses the {trainer.layout} layout ({first_line(error)})")
            return
        # Also where the difference is NaN.
        if not difference <= canaries.LAYOUT_TOLERANCE:
            reason = f"rewards of the {trainer.layout} layout differ by {difference:.1e} of the largest"
            trainer.use_layout("grouped", reason)
            return


def _layout_probe(trainer: "PairTrainer", probe: "MicroBatch") -> list[int]:
    """Return the first pairs; with the longest where only it is longer than the window that the body attends to."""
    from rm_workflow.models.reward_model import sequence_classifier

    first: list[int] = probe["pair"][:LAYOUT_PROBE_PAIRS].tolist()
    config = sequence_classifier(trainer.trained_model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    return [*first, trainer.pairs.longest_pair] if window and window < trainer.pairs.longest else first


def _exact_rewards(trainer: "PairTrainer", batch: "MicroBatch") -> "Tensor":
    """Return the rewards of the chosen, then of the rejected sides, or of all responses, in float32."""
    import torch

    from rm_workflow.training.response_trainer import ResponseTrainer

    with torch.no_grad(), trainer.exactly():
        if isinstance(trainer, ResponseTrainer):
            return trainer.outputs(trainer.trained_model.eval(), trainer._prepare_inputs(dict(batch)))
        return torch.cat(trainer.pair_rewards(trainer.trained_model.eval(), trainer._prepare_inputs(dict(batch))))


def _unshared_line(pairs: "TrainPairs | TrainResponses") -> str:
    counts = pairs.unshared
    return (
        f"pairs whose sides share no tokens: {counts['other_context']} answer different conversations, in "
        f"{counts['prompt_not_prefix']} a reply merged with the end of its prompt"
    )


def _parameter_counts(trainer: "PairTrainer") -> dict[str, int]:
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in trainer.trained_model.parameters()]
    return {
        "num_parameters": sum(count for count, _ in counts),
        "num_trainable_parameters": sum(count for count, trained in counts if trained),
    }


def _reload_line(reload: Mapping[str, Any]) -> str:
    adapter = reload["adapter_max_difference"]
    beside = "" if adapter is None else f", of adapter/ on its base {adapter:.1e}"
    return (
        f"saved and loaded again: rewards of model/ differ by up to {reload['max_difference']:.1e} (tolerance "
        f"{reload['tolerance']:.0e}){beside}; loaded in bf16 by up to {reload['bf16_max_difference']:.1e}"
    )


def _write_last(path: Path, result: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(result, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


if __name__ == "__main__":
    sys.exit(main())
