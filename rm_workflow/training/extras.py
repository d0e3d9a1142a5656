"""What a recipe may name that needs a package of its own; asked for before anything is loaded. Imports no torch."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from rm_workflow.errors import UserError

BITSANDBYTES = ("bnb", "8bit", "paged", "lion", "ademamix")
REPORTERS: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


def needs_bitsandbytes(optimizer: str) -> bool:
    """Tell whether transformers takes this optimizer from bitsandbytes."""
    return any(part in optimizer for part in BITSANDBYTES)


def check(training: Mapping[str, Any]) -> None:
    """Refuse an optimizer or a reporter whose package is not installed."""
    optimizer = training["optimizer"]
    if needs_bitsandbytes(optimizer) and not _is_installed(["bitsandbytes"]):
        raise UserError(
            f"training.optimizer {optimizer} needs the package bitsandbytes; install it (pip install bitsandbytes) or "
            "set training.optimizer to adamw_torch_fused"
        )
    for reporter in training["report_to"]:
        if not _is_installed(REPORTERS[reporter]):
            raise UserError(
                f"training.report_to names {reporter}, whose package is not installed; install it (pip install "
                f"{REPORTERS[reporter][0]}) or take it out"
            )


def _is_installed(packages: Sequence[str]) -> bool:
    return any(find_spec(package) is not None for package in packages)
