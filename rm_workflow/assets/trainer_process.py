"""Runs a training under its launcher within Dagster Pipes, so that it never outlives its step."""

import dataclasses
import signal
from collections.abc import Sequence

import dagster as dg

from rm_workflow.errors import UserError
from rm_workflow.training.launchers import Launcher, Training
from rm_workflow.training.launchers._told import Told

KILLED = (
    "the trainer was ended by signal SIGKILL, most likely because memory ran out (the kernel's log tells); lower "
    "training.micro_batch_tokens, set training.activation_checkpointing or take a smaller base, and run the recipe "
    "again: it goes on from its last state"
)


def run_trainer(context: dg.AssetExecutionContext, launcher: Launcher, training: Training) -> None:
    """Run a training to its end; its Pipes messages land in the run's log.

    Raises:
        UserError: the trainer failed; the sentence is its own last ``error:`` line.
    """
    told = Told()
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        environment = {**training.environment, **session.get_bootstrap_env_vars()}
        running = launcher.start(dataclasses.replace(training, environment=environment), told)
        try:
            code = running.wait()
        finally:
            running.stop()
    if code != 0:
        raise UserError(_reason(code, list(told.last_lines), told.errors))


def _reason(code: int, lines: Sequence[str], errors: Sequence[str]) -> str:
    if errors:
        return errors[-1]
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL) or any("SIGKILL" in line for line in lines):
        return KILLED
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the trainer {how}; its last line: {lines[-1] if lines else '(none)'}"
