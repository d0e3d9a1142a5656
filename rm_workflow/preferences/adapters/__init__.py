"""Schema readers: one small file each; its name is the adapter's name.

A module has ``COLUMNS`` (the adapter's own field -> the column that is read where ``columns`` of the source names no
other) and ``read(row, source) -> Example``, which raises ``RowDropped`` where a row rule matches. It may have
``PREFIXES`` (starts of further keys that ``columns`` may have; ``extra_`` for all) and ``READS_WINNER`` (it needs the
source's ``winner``), or ``INSTEAD_OF_WINNER`` (fields that say the same without it). One of worked solutions, whose
rows give labels or a reference and no pairs, has ``STEP_FIELDS``: which of the source's ``solution_starts``,
``step_separator`` and ``neutral`` it reads, and whether it needs them.
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

# Fields of a source that only adapters of worked solutions read, each with an example.
STEP_FIELDS = {"solution_starts": '"Step 1:"', "step_separator": '"\\n"', "neutral": "negative"}


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
    _check_step_fields(name, source, getattr(module, "STEP_FIELDS", {}))


def _check_step_fields(name: str, source: Source, read: Mapping[str, bool]) -> None:
    for field, example in STEP_FIELDS.items():
        is_set = getattr(source, field) != Source.model_fields[field].default
        if is_set and field not in read:
            raise UserError(
                f"source '{name}': adapter {source.adapter} reads no {field!r}; take it out of sources.yaml"
            )
        if read.get(field) and not is_set:
            raise UserError(
                f"source '{name}': adapter {source.adapter} needs {field!r}; set it in sources.yaml, for instance "
                f"{field}: {example}"
            )


def check_gives_pairs(pair_set: str, name: str, source: Source) -> None:
    """Refuse a pair set over a source of worked solutions.

    Raises:
        UserError: names the pair set and the source.
    """
    if hasattr(get(source.adapter), "STEP_FIELDS"):
        raise UserError(
            f"pair set '{pair_set}': source '{name}' gives worked solutions with labels, which are neither given pairs "
            "nor rated responses; name a source of pairs or ratings"
        )
