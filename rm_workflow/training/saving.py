"""Writes a checkpoint that plain transformers and peft load, and proves it by loading it.

Safetensors and JSON only: transformers refuses nothing of it and nothing is unpickled.

    model/     AutoModelForSequenceClassification (LoRA merged; of solutions what models/readout.py names), tokenizer,
               token_recipe.json
    adapter/   PEFT adapter with the head, for LoRA
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from rm_workflow.models import frozen, reward_model
from rm_workflow.models.readout import END, Readout
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import canaries
from rm_workflow.training.fresh_load import Load
from rm_workflow.training.micro_batches import MicroBatch
from rm_workflow.training.reloading import Reload, Say

MODEL = "model"
ADAPTER = "adapter"


def save(
    model: PreTrainedModel | PeftModel, encoder: Encoder, save_dtype: str, out: Path, readout: Readout = END
) -> None:
    """Write a trained model as others load it.

    Args:
        model: a LoRA adapter is merged into it, so it is of no use afterwards.
        readout: how its rewards are read.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, out / ADAPTER)
    save_model(_merged(model), encoder, save_dtype, out / MODEL)
    readout.write(out / MODEL)


def prove(
    out: Path,
    base: Path,
    pad_token_id: int,
    save_dtype: str,
    probe: MicroBatch,
    before: Tensor,
    reload: Reload,
    say: Say,
    readout: Readout = END,
) -> dict[str, Any]:
    """Load what ``save`` wrote as a stranger would and compare rewards, all in fp32.

    Args:
        base: folder of the base model, for the proof of the adapter.
        probe: a padded batch, on the CPU.
        before: its rewards by the model as it was trained (``trained_rewards``).
        reload: loads the files.
        say: gets a line where that takes long.
        readout: how the rewards are read.

    Returns:
        The figures of the proof: ``max_difference`` (model/), ``adapter_max_difference`` or None, their tolerances, and
        ``bf16_max_difference``: what loading model/ in bf16 costs, without verdict.

    Raises:
        UserError: a file cannot be loaded, a weight is missing or a reward changed beyond the tolerance.
    """
    has_adapter = (out / ADAPTER).is_dir()
    model = str(out / MODEL)
    loads = [Load(model, "float32"), Load(model, "bfloat16")]
    if has_adapter:
        loads.append(Load(str(base), "float32", str(out / ADAPTER), pad_token_id))
    loads = [replace(load, kind=readout.kind, sign_ids=readout.sign_ids) for load in loads]
    exact, rounded, *adapters = reload(loads, probe, say)
    difference = canaries.check_reload(before, exact.rewards, exact.missing, MODEL, save_dtype)
    of_adapter = [canaries.check_reload(before, one.rewards, [], ADAPTER, "float32") for one in adapters]
    return {
        "passed": True,
        "num_responses": len(before),
        "max_difference": difference,
        "tolerance": canaries.reload_tolerance(before, save_dtype),
        "adapter_max_difference": of_adapter[0] if has_adapter else None,
        "adapter_tolerance": canaries.reload_tolerance(before, "float32") if has_adapter else None,
        "bf16_max_difference": (before - rounded.rewards).abs().max().item(),
    }


def _merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    if not isinstance(model, PeftModel):
        return model
    # Not on a GPU, which need not hold the whole model in fp32.
    frozen.hold_in_fp32(model.cpu())
    merged: PreTrainedModel = model.base_model.merge_and_unload()  # type: ignore[operator]
    return merged


@torch.no_grad()
def trained_rewards(model: torch.nn.Module, batch: MicroBatch, readout: Readout = END) -> Tensor:
    """Return the rewards of a batch without autocast, fp32 on the CPU, shape [rows], of solutions [labels]."""
    model.eval()
    device = next(model.parameters()).device
    inputs = (batch[name].to(device) for name in ("input_ids", "end_index", "row_index"))
    return readout.logits(model, reward_model.hidden_states(model, *inputs)).float().cpu()


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write a PEFT adapter with its head."""
    # "auto" asks the hub whether the embedding was resized; ours never is.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # peft writes a template of a model card; the recipe's card replaces it.
    (folder / "README.md").unlink(missing_ok=True)


def save_model(model: PreTrainedModel, encoder: Encoder, save_dtype: str, folder: Path) -> None:
    """Write a model without adapters, its tokenizer and its token recipe."""
    model.config.pad_token_id = encoder.pad_token_id
    model.to(getattr(torch, save_dtype)).save_pretrained(str(folder))
    # Comes last: it also adds the keys that older transformers reads to the config.json just written.
    encoder.save(folder)
