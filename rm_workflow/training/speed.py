"""How fast training is against what the device could do.

MFU, model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B)::

    MFU = tokens computed per second * FLOPs of a token / peak FLOP/s
    FLOPs of a token = 6 * trained parameters + 4 * frozen parameters of the body

A trained parameter costs 2 FLOPs forward, 2 for the gradient of its input and 2 for its own, a frozen one has no
gradient of its own. Padding, embedding, head, attention's own FLOPs and the second forward pass of activation
checkpointing are left out, so the figure is what was needed, not what was done; tokens that pairs share count once.
"""

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rm_workflow.training.plan import DEVICES

if TYPE_CHECKING:
    from torch import nn

FLOPS_OF_TRAINED = 6
FLOPS_OF_FROZEN = 4
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Speed:
    """What MFU is measured against.

    Attributes:
        flops_per_token: forward and backward, see above.
        peak_flops: dense bf16 peak of the device in FLOP/s as its maker states it, None where it is not known.
        device: ``cpu`` or ``cuda``.
    """

    flops_per_token: float
    peak_flops: float | None
    device: str

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return the share of the peak that so many computed tokens per second, padding left out, make use of."""
        return tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else None


def speed_of(model: "nn.Module", device: str, precision: str, num_devices: int = 1) -> Speed:
    """Return what the speed of training this model on so many devices is measured against."""
    peak = peak_flops(device, precision)
    return Speed(flops_per_token(model), peak and peak * num_devices, device)


def flops_per_token(model: "nn.Module") -> float:
    """Return the FLOPs of one token, forward and backward, of the body without its embeddings."""
    from torch import nn

    from rm_workflow.models.reward_model import transformers_model

    classifier = transformers_model(model)
    body = getattr(classifier, classifier.base_model_prefix)
    left_out = {id(p) for module in body.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    counted = [p for p in body.parameters() if id(p) not in left_out]
    return float(sum(p.numel() * (FLOPS_OF_TRAINED if p.requires_grad else FLOPS_OF_FROZEN) for p in counted))


def peak_flops(device: str, precision: str) -> float | None:
    """Return the dense bf16 peak of this GPU in FLOP/s; None for a CPU, in fp32 and for a GPU not in the table."""
    if device != "cuda" or precision != "bf16":
        return None
    import torch

    return peak_flops_of(torch.cuda.get_device_name())


def peak_flops_of(device_name: str) -> float | None:
    """Return the peak of a GPU by the name that its driver gives, ``NVIDIA H200`` for instance."""
    name = device_name.lower().replace(" ", "")
    return next((device.tflops * 1e12 for known, device in DEVICES.items() if known in name), None)


def hardware(device: str) -> dict[str, Any]:
    """Return ``name`` of what computes: the GPU, or the CPU with the number of ``cores`` that this process may use."""
    if device == "cuda":
        import torch

        return {"name": torch.cuda.get_device_name()}
    return {
        "name": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _cpu_name() -> str:
    lines = CPU_INFO.read_text("utf-8").splitlines() if CPU_INFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def peak_memory_gb(device: str) -> float:
    """Return the most memory in use so far in GB of 10^9 bytes: torch's own on a GPU, the process's on a CPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
