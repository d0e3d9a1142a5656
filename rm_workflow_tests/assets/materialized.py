"""What the web UI must know of every asset, and of every materialization."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from rm_workflow.assets.columns import TABLES

ALWAYS = ("version", "reused", "seconds", "folder")
OF_TABLES = ("dagster/row_count", "dagster/column_schema", "columns_of")
# Tables without an asset upstream have no column that comes from a column.
FIRST_TABLES = ("raw", "benchmark")


def lacking(instance: dg.DagsterInstance, assets: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what the last materialization of each asset lacks.

    Args:
        assets: name -> kind.
    """
    found = {}
    for asset, kind in assets.items():
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        if event is None or event.asset_materialization is None:
            found[asset] = ["materialization"]
            continue
        metadata: Mapping[str, Any] = event.asset_materialization.metadata
        of_tables = [*OF_TABLES, *([] if kind in FIRST_TABLES else ["dagster/column_lineage"])]
        wanted = [*ALWAYS, *(of_tables if kind in TABLES else [])]
        missing = [name for name in wanted if name not in metadata]
        tags = event.asset_materialization.tags or {}
        missing += [name for name in ("dagster/data_version", "dagster/code_version") if name not in tags]
        if missing:
            found[asset] = missing
    return found
