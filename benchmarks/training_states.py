"""What saving training states costs: ``python -m benchmarks.training_states RECIPE``.

Rounds of a few optimiser steps alternate with one state each, as the trainer writes it: safetensors and JSON, hashed,
brought to the disk, renamed. The overhead at the default interval is the time of one state over the interval, which the
trainer lengthens where it would be more than 2 %. Beside it stands the time of TRL's own checkpoint of the same model
and optimizer, without hashes and fsync.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import end

NUM_ROUNDS = 5
STEPS_A_ROUND = 1


def main(recipe_name: str = "quickstart") -> None:
    """Print seconds and bytes of a state, for the recipe's adapters and for all weights."""
    from rm_workflow.settings import load_settings, wait_without_spinning

    wait_without_spinning()
    from benchmarks.recipe import prepare

    prepared = prepare(recipe_name, load_settings())
    config, encoder, pairs, base = prepared.config, prepared.encoder, prepared.pairs, prepared.base
    for name, changes in (("its adapters", {}), ("all weights", {"lora": None})):
        changed = {**config, "training": {**config["training"], **changes}}
        _measure(f"{recipe_name}, {name}", changed, encoder, pairs, base)


def _measure(title: str, config: dict[str, Any], encoder: Any, pairs: Any, base: Path) -> None:
    from rm_workflow.catalog.models import Save
    from rm_workflow.training import building
    from rm_workflow.training.metrics import Progress
    from rm_workflow.training.resuming import LARGEST_OVERHEAD

    out = Path(tempfile.mkdtemp(prefix="states-"))
    progress = Progress(out / "metrics.jsonl", config["num_steps"], len(pairs))
    trainer: Any = building.make_trainer(config, encoder, pairs, base, progress, out)
    progress.start()
    trainer._prepare_for_training(config["num_steps"], trainer.get_train_dataloader(), None)
    steps, ours, theirs = [], [], []
    for number in range(NUM_ROUNDS + 1):
        started = time.perf_counter()
        for position in range(number, number + STEPS_A_ROUND):
            rows = [{"pair": pair} for pair in trainer.steps[position]]
            trainer.training_step(trainer.model, trainer.data_collator(rows))
            trainer.optimizer.step()
            trainer.model.zero_grad()
        steps.append((time.perf_counter() - started) / STEPS_A_ROUND)
        trainer.state.global_step = number + 1
        ours.append(_seconds(trainer.save_state))
        theirs.append(_seconds(lambda: _stock(trainer, out / "stock")))
    state = out / "states" / f"step_{NUM_ROUNDS + 1:08d}"
    megabytes = sum(path.stat().st_size for path in state.iterdir()) / 1e6
    step, our, their = (statistics.median(seconds[1:]) for seconds in (steps, ours, theirs))
    interval = max(60 * (Save().minutes or 0.0), our / LARGEST_OVERHEAD)
    print(
        f"{title}: a step {step:.2f} s; a state of {megabytes:.0f} MB {our:.2f} s ({min(ours[1:]):.2f} to "
        f"{max(ours[1:]):.2f}), stock {their:.2f} s; every {interval / 60:.0f} min: {our / interval:.2%} of the time"
    )
    shutil.rmtree(out)


def _seconds(save: Any) -> float:
    started = time.perf_counter()
    save()
    return time.perf_counter() - started


def _stock(trainer: Any, folder: Path) -> None:
    """Write what transformers writes for a checkpoint: weights, then optimizer and schedule by torch.save."""
    from transformers import Trainer

    folder.mkdir(exist_ok=True)
    trainer.save_model(str(folder), _internal_call=True)
    Trainer._save_optimizer_and_scheduler(trainer, str(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
