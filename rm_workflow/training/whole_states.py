"""Weights and optimizer states in one piece for the disk, however the processes hold them.

The files are the same whatever trained: one process, several that each hold the whole model (DDP), or several that each
hold a part (FSDP2). So any of these goes on from a state of any other. Where the model is in parts, every function here
takes all processes; one tensor at a time is put together, and the first process alone keeps it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rm_workflow.errors import UserError
from rm_workflow.training import launch


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that training moves, and the buffers that are saved with them, by name."""
    return {name: _whole(tensor) for name, tensor in _trained(model).items()}


def load_trained(model: nn.Module, file: Path) -> None:
    """Put the tensors of ``trained_tensors`` back in place."""
    targets = _trained(model)
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        if set(stored.keys()) != targets.keys():
            raise UserError(f"{file} holds other weights than this model trains; delete the folder of its states")
        for name, target in targets.items():
            target.copy_(_laid_out_as(target, stored.get_tensor(name)))


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with whole tensors."""
    state = optimizer.state_dict()
    of_parameters = {
        number: {name: _whole(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": of_parameters}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what ``optimizer_state`` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of_parameters = {
        number: {
            name: _laid_out_as(parameters[number], value) if _has_shape_of(parameters[number], value) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_parameters})


def _trained(model: nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole.cpu() if launch.is_main() else torch.empty(0)


def _has_shape_of(parameter: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _laid_out_as(target: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(target, DTensor):
        return whole
    # Each process has read the whole and takes its part; nothing is sent.
    return distribute_tensor(
        whole.to(target.device_mesh.device_type), target.device_mesh, target.placements, src_data_rank=None
    )
