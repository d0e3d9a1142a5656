"""Schema readers: one small file each; its name is the adapter's name.

A module has ``COLUMNS`` (the adapter's own field -> the column that is read where ``columns`` of the source names no
other) and ``read(row, source) -> Example``, which raises ``RowDropped`` where a row rule matches. It may have
``PREFIXES`` (starts of further keys that ``columns`` may have; ``extra_`` for all) and ``READS_WINNER`` (it needs the
source's ``winner``), or ``INSTEAD_OF_WINNER`` (fields that say the same without it).
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

from rm_workflow.catalog.models import Source
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError
from rm_workflow.preferences.adapters._fields import EXTRA
from rm_workflow.preferences.tables import Example


class Adapter(Protocol):
    """What a module of this package offers."""

    COLUMNS: Mapping[str, str | None]

    def read(self, row: Mapping[str, Any], source: Source) -> Example:
        """Return what ``row`` says or raise ``RowDropped``."""


def names() -> list[str]:
    """Return the names of all adapters."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> Adapter:
    """Return the adapter of this name.

    Raises:
        UserError: there is none.
    """
    known = names()
    if name not in known:
        raise UserError(f"adapter {name!r} does not exist ({nearest(name, known)})")
    return cast(Adapter, importlib.import_module(f"{__name__}.{name}"))


def check_source(name: str, source: Source) -> None:
    """Refuse an unknown adapter and a key of ``columns`` that the adapter does not read.

    Raises:
        UserError: names the source, the key and what was meant.
    """
    known = names()
    if source.adapter not in known:
        raise UserError(
            f"source '{name}': adapter {source.adapter!r} does not exist ({nearest(source.adapter, known)})"
        )
    module = get(source.adapter)
    prefixes = getattr(module, "PREFIXES", (EXTRA,))
    for key in source.columns:
        if key not in module.COLUMNS and not key.startswith(prefixes):
            raise UserError(
                f"source '{name}': columns: adapter {source.adapter} has no field {key!r} "
                f"({nearest(key, module.COLUMNS)}); a column that a rule needs is carried along as {EXTRA}<name>"
            )
    reads_winner = getattr(module, "READS_WINNER", False)
    if source.winner and not reads_winner:
        raise UserError(f"source '{name}': adapter {source.adapter} reads no label; take 'winner' out of sources.yaml")
    instead = getattr(module, "INSTEAD_OF_WINNER", ())
    if instead and source.columns.keys() >= set(instead):
        if source.winner:
            raise UserError(
                f"source '{name}': columns {', '.join(instead)} say which side wins; take 'winner' out of sources.yaml"
            )
        return
    if reads_winner and not {"a", "b"} <= source.winner.keys():
        raise UserError(
            f"source '{name}': adapter {source.adapter} needs the labels under which either side wins; set 'winner' in "
            "sources.yaml, for instance winner: {a: [1], b: [0]}"
        )
