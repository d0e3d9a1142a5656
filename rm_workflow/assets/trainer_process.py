"""Runs the trainer as its own process group through Dagster Pipes, so that it never outlives its step.

The stock PipesSubprocessClient signals only the direct child; a launcher such as ``accelerate launch`` then leaves the
real trainer on the GPU. Here the whole group gets SIGTERM, time to end cleanly, then SIGKILL.
"""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import dagster as dg

from rm_workflow.errors import UserError
from rm_workflow.redaction import redact
from rm_workflow.training.process import GRACE_LINE

# At least; and this much longer than the trainer says that it gives itself for writing a large state.
GRACE_SECONDS = 100.0
MORE_SECONDS = 10.0
POLL_SECONDS = 0.2
KEPT_LINES = 30
STDERR_DESCRIPTOR = 2
KILLED = (
    "the trainer was ended by signal SIGKILL, most likely because memory ran out (the kernel's log tells); lower "
    "training.micro_batch_tokens, set training.activation_checkpointing or take a smaller base, and run the recipe "
    "again: it goes on from its last state"
)


def run_trainer(context: dg.AssetExecutionContext, command: Sequence[str]) -> None:
    """Run ``command`` to its end; its Pipes messages land in the run's log.

    Raises:
        UserError: the trainer failed; the sentence is its own last ``error:`` line.
    """
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        process = subprocess.Popen(
            [*command, "--parent-pid", str(os.getpid())],
            env={**os.environ, **session.get_bootstrap_env_vars()},
            stdout=STDERR_DESCRIPTOR,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        errors: list[str] = []
        asked: list[float] = []
        reader = threading.Thread(target=_forward_lines, args=(process, lines, errors, asked), daemon=True)
        reader.start()
        try:
            process.wait()
        finally:
            _end_group(process, asked)
            reader.join(timeout=5)
    if process.returncode != 0:
        raise UserError(_reason(process.returncode, list(lines), errors))


def _forward_lines(
    process: "subprocess.Popen[bytes]", lines: "collections.deque[str]", errors: list[str], asked: list[float]
) -> None:
    """Pass lines on; an error is kept however many lines of its own a launcher prints after it.

    An error is not passed on: whoever ran the step says it.

    Args:
        asked: gets the seconds that the trainer asks for after a signal.
    """
    assert process.stderr is not None
    for raw in process.stderr:
        line = redact(raw.decode("utf-8", "replace"))
        lines.append(line.rstrip())
        if line.startswith("error: "):
            errors.append(line.rstrip().removeprefix("error: "))
            continue
        if line.startswith(GRACE_LINE):
            asked.append(float(line.removeprefix(GRACE_LINE)))
        sys.stderr.write(line)
        sys.stderr.flush()


def _end_group(process: "subprocess.Popen[bytes]", asked: Sequence[float]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < _grace(asked):
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _grace(asked: Sequence[float]) -> float:
    return max([GRACE_SECONDS, *(seconds + MORE_SECONDS for seconds in asked)])


def _reason(code: int, lines: list[str], errors: list[str]) -> str:
    if errors:
        return errors[-1]
    if code == -signal.SIGKILL or any("SIGKILL" in line for line in lines):
        return KILLED
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the trainer {how}; its last line: {lines[-1] if lines else '(none)'}"
