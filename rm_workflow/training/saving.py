"""Writes a checkpoint that plain transformers and peft load, and proves it by loading it.

Safetensors and JSON only: transformers refuses nothing of it and nothing is unpickled.

    model/     AutoModelForSequenceClassification (LoRA merged), tokenizer, token_recipe.json
    adapter/   PEFT adapter with the head, for LoRA
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rm_workflow.models import reward_model
from rm_workflow.models.tokens import Encoder
from rm_workflow.training import canaries
from rm_workflow.training.micro_batches import MicroBatch

MODEL = "model"
ADAPTER = "adapter"


def save_and_prove(
    model: PreTrainedModel | PeftModel,
    encoder: Encoder,
    base: Path,
    save_dtype: str,
    probe: MicroBatch,
    out: Path,
    before: Tensor | None = None,
) -> dict[str, Any]:
    """Save a trained model, load it back as a stranger would and compare rewards.

    Args:
        model: trained; a LoRA adapter is merged into it, so it is of no use afterwards.
        base: folder of the base model, for the proof of the adapter.
        probe: a padded batch whose rewards are compared, all in fp32.
        before: its rewards by the model as it was trained; None lets ``model`` give them.

    Returns:
        The figures of the proof: ``max_difference`` (model/), ``adapter_max_difference`` or None, their tolerances, and
        ``bf16_max_difference``: what loading model/ in bf16 costs, without verdict.

    Raises:
        UserError: a weight is missing or a reward changed beyond the tolerance.
    """
    before = trained_rewards(model, probe) if before is None else before
    is_lora = isinstance(model, PeftModel)
    if isinstance(model, PeftModel):
        save_adapter(model, out / ADAPTER)
    save_model(_merged(model), encoder, save_dtype, out / MODEL)
    del model
    after, missing = load_plain(out / MODEL, probe, torch.float32)
    difference = canaries.check_reload(before, after, missing, MODEL, save_dtype)
    adapter_difference = None
    if is_lora:
        loaded = load_adapter(base, out / ADAPTER, encoder.pad_token_id, probe)
        adapter_difference = canaries.check_reload(before, loaded, [], ADAPTER, "float32")
    rounded, _ = load_plain(out / MODEL, probe, torch.bfloat16)
    return {
        "passed": True,
        "num_responses": len(before),
        "max_difference": difference,
        "tolerance": canaries.reload_tolerance(before, save_dtype),
        "adapter_max_difference": adapter_difference,
        "adapter_tolerance": canaries.reload_tolerance(before, "float32") if is_lora else None,
        "bf16_max_difference": (before - rounded).abs().max().item(),
    }


def _merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    if not isinstance(model, PeftModel):
        return model
    merged: PreTrainedModel = model.base_model.merge_and_unload()  # type: ignore[operator]
    return merged


@torch.no_grad()
def trained_rewards(model: torch.nn.Module, batch: MicroBatch) -> Tensor:
    """Return the rewards of a batch without autocast, fp32 on the CPU, shape [rows]."""
    model.eval()
    device = next(model.parameters()).device
    inputs = (batch[name].to(device) for name in ("input_ids", "end_index"))
    return reward_model.rewards(model, *inputs).float().cpu()


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


def load_plain(folder: Path, batch: MicroBatch, dtype: torch.dtype) -> tuple[Tensor, list[str]]:
    """Return the rewards that plain transformers gives a padded batch, and the weights it did not find."""
    model, report = AutoModelForSequenceClassification.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
    )
    return plain_rewards(model, batch), sorted(report["missing_keys"])


def load_adapter(base: Path, adapter: Path, pad_token_id: int, batch: MicroBatch) -> Tensor:
    """Return the rewards of a padded batch by plain transformers and peft."""
    model = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=1, dtype=torch.float32, local_files_only=True
    )
    # A base's own config may name no pad or its end token; padded rows need the recipe's.
    model.config.pad_token_id = pad_token_id
    return plain_rewards(PeftModel.from_pretrained(model, str(adapter)), batch)


@torch.no_grad()
def plain_rewards(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of the model's own forward pass, fp32, shape [rows]."""
    attention_mask = (torch.arange(batch["input_ids"].shape[1]) <= batch["end_index"][:, None]).long()
    logits: Tensor = model.eval()(input_ids=batch["input_ids"], attention_mask=attention_mask).logits
    return logits.float().squeeze(-1)
