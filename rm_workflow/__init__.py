"""Reward models from raw preference rows to evaluated checkpoints, as Dagster assets with lineage in DuckDB."""
