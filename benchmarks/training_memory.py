"""Memory of an optimiser step beside TRL's trainer: ``python -m benchmarks.training_memory [RECIPE] [REPEATS]``.

Both sides compute the same pairs, the longest of the recipe among them, with the same model, adapters, optimiser and
precision, and with the same budget of tokens: TRL's micro-batches are ``PAIRS`` pairs of like length, so its largest is
2 x ``PAIRS`` rows of the longest row's tokens, and that is ``micro_batch_tokens`` of ours. Each repeat is a process of
its own for each side: the most memory that was resident (VmHWM) in one optimiser step, gradients and the optimizer's
state included, less what was resident before it.
"""

import ctypes
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import against_trl, end
from benchmarks.recipe import PreparedRecipe, prepare, read

REPEATS = 3
PAIRS = 2
# Enough for our rows, which hold no padding and shared tokens once, to fill the budget too.
STEP = 8
# Written to clear_refs, sets VmHWM back to what is resident.
CLEAR_PEAK = "5"
SIDES = ("ours", "trl")
# What is trained, and whether activations are computed again.
CASES = (("adapters", False), ("adapters", True), ("all weights", False))


def main(recipe_name: str = "qwen25_7b_hh_lora_mini", repeats: int | str = REPEATS) -> None:
    """Print the median peak of each side and the ratio."""
    from rm_workflow.settings import load_settings

    prepare(recipe_name, load_settings())
    for trained, again in CASES:
        rounds = [
            {side: _in_a_process(recipe_name, trained, again, side) for side in SIDES} for _ in range(int(repeats))
        ]
        print(
            f"{recipe_name}, {trained}, activations {'computed again' if again else 'kept'}: one step of {STEP} pairs, "
            f"at most {rounds[0]['ours']['tokens']} tokens a micro-batch; MiB, median of {repeats} (least to most)"
        )
        for side in SIDES:
            peak, before = (_spread([one[side][name] for one in rounds]) for name in ("peak", "before"))
            print(f"  {side:5s} {peak} beside {before}; {rounds[0][side]['told']}")
        print(
            f"  ours over TRL's {_spread([one['ours']['peak'] / one['trl']['peak'] for one in rounds], 2)}", flush=True
        )


def _spread(values: Sequence[float], digits: int = 0) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _in_a_process(*words: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_memory", "measure", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(recipe_name: str, trained: str, again: str, side: str) -> None:
    """Take one optimiser step and print what it took as JSON."""
    from rm_workflow.settings import load_settings, wait_without_spinning

    wait_without_spinning()
    prepared = read(recipe_name, load_settings())
    place = prepared.pairs.place_of_longest
    tokens = 2 * PAIRS * prepared.pairs.longest
    changes: dict[str, Any] = {"micro_batch_tokens": tokens, "activation_checkpointing": again == "True"}
    if trained == "all weights":
        changes["lora"] = None
    training = {**prepared.config["training"], **changes}
    one = _side(replace(prepared, config={**prepared.config, "training": training}), side)
    step = [place, *(pair for pair in range(STEP) if pair != place)][:STEP]
    gc.collect()
    # What loading left free in the heap would hide a part of the step.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, "ascii")
    before = _resident("VmRSS")
    loss = one.step(step)
    peak = _resident("VmHWM") - before
    told = f"loss {loss:.4f}"
    if side == "ours":
        rows = one.trainer.data_collator([{"pair": pair} for pair in step])["micro_batches"]
        told += f", layout {one.trainer.layout}, micro-batches of {[row['input_ids'].numel() for row in rows]} tokens"
    print(json.dumps({"before": before, "peak": peak, "tokens": tokens, "told": told}))


def _side(prepared: PreparedRecipe, side: str) -> against_trl.Side:
    if side == "ours":
        return against_trl.Side(against_trl.with_optimizer(prepared.trainer("auto")))
    recompute = prepared.config["training"]["activation_checkpointing"]
    return against_trl.Side(against_trl.stock(prepared, recompute), PAIRS, sorted_by_length=True)


def _resident(name: str) -> float:
    """Return a line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
    end()
