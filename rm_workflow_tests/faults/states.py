"""One training state as the trainer writes it: tensors, JSON and the lines so far, then the old states are pruned."""

from pathlib import Path

import torch

from rm_workflow.training import training_state
from rm_workflow.training.tensor_files import write_safetensors

KEPT = 2


def save(states: Path, step: int) -> int:
    """Write the state of a step as a resumed run does, and return the step of the newest whole one."""
    training_state.sweep(states)
    tensors = {f"layer.{number}": torch.full((64, 8), float(step + number)) for number in range(3)}

    def fill(folder: Path) -> None:
        write_safetensors(folder / "weights.safetensors", tensors)
        (folder / "progress.json").write_text(f'{{"step": {step}}}', "utf-8")
        (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n' * step)

    training_state.write_state(states, training_state.state_name(step), fill)
    training_state.prune(states, KEPT, set())
    return newest(states)


def newest(states: Path) -> int:
    """Return the step of the newest whole state, 0 where there is none; no state may have to be passed over."""
    said: list[str] = []
    found = training_state.newest_whole(states, said.append)
    assert said == []
    return found.step if found else 0
