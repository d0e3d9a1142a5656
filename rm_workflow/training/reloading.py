"""Lets a process of its own load what was saved, so that nothing the trainer did to its libraries can help it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rm_workflow.errors import UserError
from rm_workflow.training import fresh_load, launch
from rm_workflow.training.fresh_load import Load, Loaded

Say = Callable[[str], None]
Reload = Callable[[Sequence[Load], Mapping[str, Tensor], Say], list[Loaded]]

SAY_SECONDS = 60.0
OUTPUT = "output.txt"


def here(loads: Sequence[Load], probe: Mapping[str, Tensor], say: Say) -> list[Loaded]:
    """Load in this process: quick, and blind to what this process changed in its libraries."""
    return [fresh_load.loaded(load, probe) for load in loads]


def in_a_fresh_process(loads: Sequence[Load], probe: Mapping[str, Tensor], say: Say) -> list[Loaded]:
    """Load in another process, on the CPU, and wait for it without limit.

    Whatever ends the wait, such as a signal, ends that process too.

    Args:
        probe: a padded batch, on the CPU.
        say: gets a line for each minute of waiting.

    Raises:
        UserError: it cannot load a model, or ended before it had.
    """
    with tempfile.TemporaryDirectory(prefix="reload-") as name:
        folder = Path(name)
        fresh_load.ask(folder, list(loads), probe)
        code = _run(folder, say)
        if code:
            raise UserError(_reason(folder, code))
        return fresh_load.answer(folder)


def _run(folder: Path, say: Say) -> int:
    command = [sys.executable, "-m", fresh_load.__name__, str(folder), str(os.getpid())]
    with (folder / OUTPUT).open("wb") as output:
        child = subprocess.Popen(
            command, env=launch.environment_of_one(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    started = time.monotonic()
    try:
        while True:
            try:
                return child.wait(SAY_SECONDS)
            except subprocess.TimeoutExpired:
                minutes = (time.monotonic() - started) / 60
                say(f"the saved files are being loaded and proved in a fresh process: {minutes:.0f} min so far")
    finally:
        child.kill()
        child.wait()


def _reason(folder: Path, code: int) -> str:
    told = folder / fresh_load.ERROR
    mend = "nothing is published; check the disk and the memory of this machine and run the same command again"
    if told.is_file():
        return f"the saved files cannot be loaded by plain transformers: {told.read_text('utf-8')}; {mend}"
    if code < 0:
        how = f"was ended by signal {signal.Signals(-code).name}"
    else:
        lines = (folder / OUTPUT).read_text("utf-8", "replace").strip().splitlines()
        how = f"ended with code {code}, its last line: {lines[-1] if lines else '(none)'}"
    return f"the process that loads the saved files {how}; {mend}"
