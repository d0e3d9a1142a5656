"""WHAT exists, as data: sources, pair sets, benchmarks and recipes in YAML, with typed loading."""
