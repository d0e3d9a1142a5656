"""Frozen weights of linear layers in bf16, half the memory: what autocast makes of them at each use, kept instead.

A LoRA trains beside weights that stay as they are. Autocast computes linear layers in bf16, so it rounds those weights
to bf16 in every pass; where a base was published in bf16 there is nothing to round, and holding them so changes no bit
of a loss, a gradient or a reward (tested on the CPU). Norms and embeddings, whose outputs autocast leaves in fp32, stay
in fp32.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from rm_workflow.models.reward_model import whole_head


class FrozenLinear(nn.Linear):
    """A linear layer with a frozen weight in bf16, which outside autocast computes in the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input @ weight^T + bias, [..., out_features]."""
        if torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        return nn.functional.linear(input, self.weight.to(input.dtype), self.bias)


def is_stored_in_bf16(model_folder: Path) -> bool:
    """Tell whether all weights of a folder's safetensors files are bf16, so that holding them in bf16 loses nothing."""
    from safetensors import safe_open

    files = sorted(model_folder.glob("*.safetensors"))
    for path in files:
        with safe_open(path, framework="numpy") as weights:
            if any(weights.get_slice(name).get_dtype() != "BF16" for name in weights.keys()):  # noqa: SIM118 (no mapping)
                return False
    return bool(files)


def hold_in_bf16(model: nn.Module) -> None:
    """Turn the frozen weights of linear layers to bf16 in place, adapters and head left out."""
    head = set(whole_head(model).modules())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child not in head and not child.weight.requires_grad:
                setattr(parent, name, _in_bf16(child))


def hold_in_fp32(model: nn.Module) -> None:
    """Turn the weights that ``hold_in_bf16`` turned back to fp32 in place, so that an adapter can be merged exactly."""
    for module in model.modules():
        if isinstance(module, FrozenLinear):
            module.float()


def _in_bf16(linear: nn.Linear) -> FrozenLinear:
    frozen = FrozenLinear(linear.in_features, linear.out_features, bias=False, device="meta")
    frozen.weight = nn.Parameter(linear.weight.detach().to(torch.bfloat16), requires_grad=False)
    frozen.bias = linear.bias
    return frozen
