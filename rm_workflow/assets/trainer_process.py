"""Runs a training under its launcher within Dagster Pipes, so that it never outlives its step."""

import collections
import dataclasses
import signal
import sys
from collections.abc import Sequence

import dagster as dg

from rm_workflow.errors import UserError
from rm_workflow.training.launchers import Launcher, Training

KEPT_LINES = 30
ERROR = "error: "
KILLED = (
    "the trainer was ended by signal SIGKILL, most likely because memory ran out (the kernel's log tells); lower "
    "training.micro_batch_tokens, set training.activation_checkpointing or take a smaller base, and run the recipe "
    "again: it goes on from its last state"
)


class Told:
    """What a training prints: passed on to stderr, but for errors, which whoever ran the step says.

    Attributes:
        last_lines: of all of it.
        errors: kept however many lines of its own a launcher prints after them.
    """

    def __init__(self) -> None:
        self.last_lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.errors: list[str] = []

    def __call__(self, line: str) -> None:
        """Take a line."""
        self.last_lines.append(line)
        if line.startswith(ERROR):
            self.errors.append(line.removeprefix(ERROR))
        else:
            print(line, file=sys.stderr, flush=True)


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
