"""The Dagster layer: gather inputs, call one library function, publish, attach metadata."""
