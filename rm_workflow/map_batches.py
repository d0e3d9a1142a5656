"""Batches of rows that other processes, maybe on other machines, turn into other rows.

The work is named and not sent: a class, and with what it is made, so that whoever does it imports the same code. What
may stand in place of the process itself is chosen by whoever has the launcher (``rm_workflow/training/launchers``).
"""

import importlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pyarrow as pa

Worker = Callable[["pa.RecordBatch"], "pa.Table"]


@dataclass(frozen=True)
class Work:
    """What is to be done with each batch.

    Attributes:
        worker: ``package.module:Class``, whose objects are called with a batch and return a table; it may raise
            ``UserError``.
        arguments: by which one is made, as JSON has them; files among them are seen by all machines.
        schema: of the batches.
        device: that each worker has for itself, ``cpu`` or ``cuda``.
    """

    worker: str
    arguments: Mapping[str, Any]
    schema: "pa.Schema"
    device: str = "cpu"


# (work, batches, a folder for files of this call) -> the number of each batch, from 0, with its table, as they come.
MapBatches = Callable[[Work, Iterable["pa.RecordBatch"], Path], Generator[tuple[int, "pa.Table"]]]


def made(worker: str, arguments: Mapping[str, Any]) -> Worker:
    """Return a worker of this name."""
    module, _, name = worker.partition(":")
    return cast(Worker, getattr(importlib.import_module(module), name)(**arguments))
