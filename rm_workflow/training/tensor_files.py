"""Tensors as safetensors and everything around them as JSON, so that nothing is ever pickled.

``pack`` takes the tensors out of a nested value, such as the state of an optimizer, and leaves JSON that names them::

    {0: {"step": tensor(3.), "betas": (0.9, 0.999)}}
    {"dict": [[0, {"dict": [["step", {"tensor": "optimizer.0"}], ["betas", {"tuple": [0.9, 0.999]}]]}]]}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rm_workflow.errors import UserError

# https://github.com/huggingface/safetensors#format
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
HEADER_ALIGNMENT = 8


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors one after another: the library's own writer first makes bytes of all of them in memory."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            file.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> Any:
    """Return a view of the tensor's bytes, which a file takes as they are."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def pack(value: Any, tensors: dict[str, Tensor], prefix: str) -> Any:
    """Return JSON for a nested value; its tensors are added to ``tensors``, one that occurs twice only once.

    Raises:
        UserError: the value holds something that JSON and safetensors cannot.
    """
    if isinstance(value, Tensor):
        known = next((name for name, other in tensors.items() if other is value), None)
        name = known or f"{prefix}.{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, pack(item, tensors, prefix)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [pack(item, tensors, prefix) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"the state of the {prefix} holds a {type(value).__name__}, which cannot be kept without pickle; "
        "take another training.optimizer"
    )


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that ``pack`` was given."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
