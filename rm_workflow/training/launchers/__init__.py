"""Launchers, one file each: where the processes that train, tokenise and score run. ``RMW_LAUNCHER`` names one.

A launcher runs ``python -m rm_workflow.training.entry`` as often as the recipe's ``training.distributed`` asks for, so
files, resuming and keys of a checkpoint are the same under each. To add one, add a file with ``check``, ``start`` and
``mapper``.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from rm_workflow.catalog.models import Distributed
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError
from rm_workflow.map_batches import MapBatches

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """One training to be started.

    Attributes:
        arguments: of the trainer's entry point, but for ``--parent-pid``, which the launcher adds.
        distributed: how many processes on how many machines.
        out: the folder that the trainer writes to, and from whose states it goes on.
        device: ``cpu`` or ``cuda``, as the run config says.
        environment: variables beside those of this process.
    """

    arguments: Sequence[str]
    distributed: Distributed
    out: Path
    device: str = "cpu"
    environment: Mapping[str, str] = field(default_factory=dict)


class Running(Protocol):
    """A training that was started."""

    def wait(self) -> int:
        """Wait for its end and return the exit code; a negative one is the signal that ended it."""

    def stop(self) -> None:
        """End it: first by a signal after which it writes its state, then by force. No process of it is left."""


class Launcher(Protocol):
    """What a module in this package offers."""

    def check(self) -> None:
        """Refuse where what the launcher needs is not installed; asked before any work of a run.

        Raises:
            UserError: names the package and how to install it.
        """

    def start(self, training: Training, tell: Tell) -> Running:
        """Start a training.

        Args:
            tell: gets each line that it prints, from another thread; ``error: ...`` says why it failed.

        Raises:
            UserError: it cannot run here.
        """

    def mapper(self) -> MapBatches | None:
        """Return what has other processes tokenise and score; None where whoever asks does it itself."""


def names() -> list[str]:
    """Return the names of all launchers: the files of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> Launcher:
    """Return the launcher of this name, whose package is installed.

    Raises:
        UserError: there is none of this name, or what it needs is not installed.
    """
    if name not in names():
        raise UserError(
            f"environment variable RMW_LAUNCHER is {name!r}, and there is no such launcher ({nearest(name, names())})"
        )
    launcher = cast(Launcher, importlib.import_module(f"{__name__}.{name}"))
    launcher.check()
    return launcher
