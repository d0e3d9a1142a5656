"""Pairs per second of one optimiser step in each layout: ``python -m benchmarks.layouts RECIPE``.

The rival is ``padded``, TRL's own way with a right-padded row for each response, under the same model, pairs, precision
and budget of tokens. Every round takes the same step through all layouts in turn; the first round warms up. The
recipe's tokens and base model are made first where they are missing.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import end

NUM_ROUNDS = 7
LAYOUTS = ("padded", "grouped", "shared")


def main(recipe_name: str = "quickstart") -> None:
    """Print pairs per second of each layout and its ratio to ``padded``."""
    from rm_workflow.settings import load_settings, wait_without_spinning

    wait_without_spinning()
    parts = parts_of(recipe_name, load_settings())
    trainers = {layout: _trainer(layout, *parts) for layout in LAYOUTS}
    rounds = [_round(trainers, number) for number in range(NUM_ROUNDS + 1)][1:]
    padded = [seconds["padded"] for seconds in rounds]
    pairs = trainers["padded"].args.train_batch_size
    print(f"{recipe_name}: steps of {pairs} pairs, {NUM_ROUNDS} interleaved rounds: median (least to most)")
    for layout in LAYOUTS:
        speeds = [pairs / seconds[layout] for seconds in rounds]
        ratios = [rival / seconds[layout] for rival, seconds in zip(padded, rounds, strict=True)]
        print(
            f"  {layout:8s} {statistics.median(speeds):6.2f} pairs/s ({min(speeds):.2f} to {max(speeds):.2f})"
            f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def parts_of(recipe_name: str, settings: Any) -> tuple[dict[str, Any], Any, Any, Path]:
    """Return run config, encoder, pairs and the base's folder of a recipe; what is missing is made first."""
    from rm_workflow.artifacts import ArtifactStore
    from rm_workflow.assets.flow import Flow
    from rm_workflow.assets.headless import run_recipe
    from rm_workflow.catalog.loading import load_catalog, resolve_recipe
    from rm_workflow.catalog.models import TokenRecipe
    from rm_workflow.definitions import build_definitions
    from rm_workflow.models.base import model_folder
    from rm_workflow.models.tokens import Encoder
    from rm_workflow.training.data import load_pairs

    catalog = load_catalog(settings)
    recipe = resolve_recipe(catalog, recipe_name)
    run_recipe(settings, catalog, recipe, {}, "run_config", build_definitions)
    store, flow = ArtifactStore(settings.home), Flow(catalog)
    found = [
        planned.latest(store) for planned in (flow.tokens(recipe), flow.base(recipe.base), flow.run_config(recipe))
    ]
    tokens, base, run_config = (artifact.folder for artifact in found if artifact)
    config = _read_json(run_config / "run_config.json")
    encoder = Encoder.load(model_folder(base), TokenRecipe(**config["token_recipe"]))
    return config, encoder, load_pairs(tokens), model_folder(base)


def _read_json(path: Path) -> Any:
    import json

    return json.loads(path.read_text("utf-8"))


def _trainer(layout: str, config: dict[str, Any], encoder: Any, pairs: Any, base: Path) -> Any:
    from rm_workflow.training import entry
    from rm_workflow.training.metrics import Progress

    out = Path(tempfile.mkdtemp(prefix="layouts-"))
    changed = {**config, "training": {**config["training"], "layout": layout}}
    progress = Progress(out / "metrics.jsonl", config["num_steps"], len(pairs))
    return entry.make_trainer(changed, encoder, pairs, base, progress, out)


def _round(trainers: dict[str, Any], number: int) -> dict[str, float]:
    """Return the seconds of one step in each layout, the same pairs in all."""
    seconds = {}
    for layout, trainer in trainers.items():
        size = trainer.args.train_batch_size
        start = number * size % (len(trainer.order) - size)
        step = trainer.data_collator([{"pair": position} for position in trainer.order[start : start + size]])
        started = time.perf_counter()
        trainer.training_step(trainer.model, step)
        seconds[layout] = time.perf_counter() - started
        trainer.model.zero_grad()
    return seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
    end()
