"""Trains one checkpoint: ``python -m rm_workflow.training.entry --run-config F --tokens DIR --base DIR --out DIR``.

Needs neither dagster nor duckdb, so it runs on a cluster node too; where Dagster Pipes started it, its lines also go to
the Dagster log. Under ``accelerate launch`` or ``torchrun`` the processes train one checkpoint together, and the first
of them prints, writes and saves (``distributed.py``). The folder OUT belongs to one trainer at a time and holds, at the
end::

    model/          reward model for AutoModelForSequenceClassification, tokenizer, token_recipe.json
    adapter/        PEFT adapter with the head (LoRA only)
    attributes.safetensors   head of each attribute (regression only)
    metrics.jsonl   one line a logging step
    states/         while it trains: the states from which the same command goes on after it was ended
    validation.jsonl  one line an evaluation on held-out pairs (where the recipe has training.validation)
    runs/           files of trackers (where the recipe has training.report_to)
    outputs.json    bytes and sha256 of all but the trackers' files
    result.json     figures of the run; written last, so without it nothing here is a checkpoint

Exit code 0 on success, 1 with one line ``error: ...``, 130 and 143 after SIGINT and SIGTERM.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rm_workflow.errors import UserError
from rm_workflow.training import launch, process, training_state

LOST = (
    "one of the processes that train together no longer answers ({}); a system ends a process when memory runs out: "
    "then lower training.micro_batch_tokens or training.distributed.processes"
)
PIPES_VARIABLE = "DAGSTER_PIPES_CONTEXT"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trainer and return its exit code."""
    options = _parse(arguments)
    try:
        return _run(options)
    except process.Terminated as ended:
        # The signal came while another end was told: of several processes the launcher ends those that have not failed.
        return ended.exit_code


def _run(options: argparse.Namespace) -> int:
    process.set_environment()
    process.end_on_signals()
    if not launch.is_launched():
        launch.see_one_gpu()
    try:
        _end_with_parent(options.parent_pid)
        with contextlib.ExitStack() as held:
            tell = None
            if launch.is_main():
                held.enter_context(process.locked(options.out))
                tell = held.enter_context(dagster_log())
            _check_inputs(options)
            # Brings torch, which must find the environment set.
            from rm_workflow.training import checkpoint

            checkpoint.train(options.run_config, options.tokens, options.base, options.out, tell)
    except UserError as error:
        _say_once(f"error: {error}")
        return 1
    except process.Terminated as ended:
        _say_once(f"ended by {ended}; nothing is published{training_state.goes_on(options.out)}")
        return ended.exit_code
    except Exception as error:
        lost = _lost_another(error)
        if lost:
            _say_once(f"error: {lost}{training_state.goes_on(options.out)}")
        elif _is_first_to_fail():
            raise
        return 1
    return 0


def _check_inputs(options: argparse.Namespace) -> None:
    from rm_workflow.training import run_config

    run_config.read(options.run_config)
    if not (options.tokens / "responses.parquet").is_file():
        raise UserError(
            f"--tokens {options.tokens} has no responses.parquet; take the folder of a <recipe>_tokens artifact"
        )
    if not (options.base / "config.json").is_file():
        raise UserError(f"--base {options.base} has no config.json; take a folder that transformers loads a model from")


def _end_with_parent(parent: int | None) -> None:
    if launch.is_launched():
        process.end_with_parent(starter=parent)
    else:
        process.end_with_parent(parent)


def _say_once(text: str) -> None:
    """Print why training ends, unless another of its processes has."""
    if _is_first_to_fail():
        print(text, file=sys.stderr, flush=True)


def _is_first_to_fail() -> bool:
    if launch.size() == 1:
        return True
    from rm_workflow.training import distributed

    return distributed.is_first_to_fail()


def _lost_another(error: Exception) -> str | None:
    """Return what to say where an error means that another process is gone."""
    if launch.size() == 1:
        return None
    from rm_workflow.models.reward_model import first_line
    from rm_workflow.training import distributed

    return LOST.format(first_line(error)) if distributed.is_lost(error) else None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rm_workflow.training.entry", description="Train one checkpoint.")
    parser.add_argument("--run-config", type=Path, required=True, help="run_config.json")
    parser.add_argument("--tokens", type=Path, required=True, help="folder of the tokens artifact")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model, as transformers loads it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to, held by one trainer at a time")
    parser.add_argument("--parent-pid", type=int, help="process to end with; default: whoever started this one")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def dagster_log() -> Iterator[Callable[[str], None] | None]:
    """Yield what writes a line to the Dagster log, or None where Dagster Pipes did not start this process."""
    if PIPES_VARIABLE not in os.environ:
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.log.info


def _end(exit_code: int) -> NoReturn:
    if exit_code and launch.size() > 1:
        # The others are left without a word, and what torch would free of that bond can wait for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    _end(main())
