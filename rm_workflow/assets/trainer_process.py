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
from collections.abc import Sequence

import dagster as dg

from rm_workflow.errors import UserError

# Longer than the trainer gives itself for writing its state.
GRACE_SECONDS = 100.0
KEPT_LINES = 30
STDERR_DESCRIPTOR = 2


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
        reader = threading.Thread(target=_forward_lines, args=(process, lines, errors), daemon=True)
        reader.start()
        try:
            process.wait()
        finally:
            _end_group(process)
            reader.join(timeout=5)
    if process.returncode != 0:
        raise UserError(_reason(process.returncode, list(lines), errors))


def _forward_lines(process: "subprocess.Popen[bytes]", lines: "collections.deque[str]", errors: list[str]) -> None:
    """Pass lines on; an error is kept however many lines of its own a launcher prints after it."""
    assert process.stderr is not None
    for raw in process.stderr:
        line = raw.decode("utf-8", "replace")
        lines.append(line.rstrip())
        if line.startswith("error: "):
            errors.append(line.rstrip().removeprefix("error: "))
        sys.stderr.write(line)
        sys.stderr.flush()


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(code: int, lines: list[str], errors: list[str]) -> str:
    if errors:
        return errors[-1]
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the trainer {how}; its last line: {lines[-1] if lines else '(none)'}"
