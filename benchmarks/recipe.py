"""A recipe's tokens, base model and run config, made first where they are missing, for benchmarks of the trainer."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PreparedRecipe:
    """What the trainer of a recipe reads."""

    name: str
    config: dict[str, Any]
    encoder: Any
    pairs: Any
    base: Path

    def trainer(self, layout: str) -> Any:
        """Return the project's trainer in one layout, with a fresh model."""
        from rm_workflow.training import building
        from rm_workflow.training.metrics import Progress

        out = Path(tempfile.mkdtemp(prefix="benchmark-"))
        config = {**self.config, "training": {**self.config["training"], "layout": layout}}
        progress = Progress(out / "metrics.jsonl", config["num_steps"], len(self.pairs))
        return building.make_trainer(config, self.encoder, self.pairs, self.base, progress, out)

    def model(self) -> Any:
        """Return a fresh model with the recipe's adapters, the same as the trainer's."""
        return self.trainer("padded").trained_model


def prepare(recipe_name: str, settings: Any) -> PreparedRecipe:
    """Make a recipe up to its run config and read it."""
    from rm_workflow.assets.headless import run_recipe
    from rm_workflow.catalog.loading import load_catalog, resolve_recipe
    from rm_workflow.definitions import build_definitions

    catalog = load_catalog(settings)
    run_recipe(settings, catalog, resolve_recipe(catalog, recipe_name), {}, "run_config", build_definitions)
    return read(recipe_name, settings)


def read(recipe_name: str, settings: Any) -> PreparedRecipe:
    """Read a recipe that was made up to its run config."""
    from rm_workflow.artifacts import ArtifactStore
    from rm_workflow.assets.flow import Flow
    from rm_workflow.catalog.loading import load_catalog, resolve_recipe
    from rm_workflow.catalog.models import TokenRecipe
    from rm_workflow.models.base import model_folder
    from rm_workflow.models.tokens import Encoder
    from rm_workflow.training import checkpoint
    from rm_workflow.training.run_config import complete

    checkpoint.quiet_libraries()
    catalog = load_catalog(settings)
    recipe = resolve_recipe(catalog, recipe_name)
    store, flow = ArtifactStore(settings.home), Flow(catalog)
    found = [
        planned.latest(store) for planned in (flow.tokens(recipe), flow.base(recipe.base), flow.run_config(recipe))
    ]
    tokens, base, run_config = (artifact.folder for artifact in found if artifact)
    config = complete(json.loads((run_config / "run_config.json").read_text("utf-8")), recipe.training)
    encoder = Encoder.load(model_folder(base), TokenRecipe(**config["token_recipe"]))
    return PreparedRecipe(recipe_name, config, encoder, checkpoint.load_data(config, tokens), model_folder(base))


def count_flops(work: Callable[[], Any]) -> int:
    """Return the FLOPs of some work; the CPU's attention kernels are counted as torch counts a GPU's."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(*shapes: Any, **others: Any) -> int:
        return int(sdpa_flop_count(*shapes[:3]))  # type: ignore[no-untyped-call]

    def backward(*shapes: Any, **others: Any) -> int:
        return int(sdpa_backward_flop_count(*shapes[:4]))  # type: ignore[no-untyped-call]

    cpu_attention = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        work()
    return int(counter.get_total_flops())
