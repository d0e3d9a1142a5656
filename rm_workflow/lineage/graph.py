"""Questions about where an artifact came from and where it went."""

from typing import Any

from rm_workflow.artifacts import Artifact
from rm_workflow.lineage.store import LineageStore, sql


def upstream(lineage: LineageStore, artifact: Artifact) -> dict[str, Any]:
    """Return the chain from an artifact back to its raw files.

    Returns:
        ``{"nodes": [{"id", "kind", "version"}], "edges": [[upstream_id, downstream_id]]}``; a file's version is its
        sha256.
    """
    key = {"asset": artifact.asset, "version": artifact.version}
    nodes = lineage.query(sql("queries/upstream_nodes.sql"), key)
    edges = lineage.query(sql("queries/upstream.sql"), key)
    return {
        "nodes": [{"id": id_, "kind": kind, "version": version} for id_, kind, version in nodes],
        "edges": [list(edge) for edge in edges],
    }
