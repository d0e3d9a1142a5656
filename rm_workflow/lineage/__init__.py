"""The lineage database: an index over manifests and events that people query."""
