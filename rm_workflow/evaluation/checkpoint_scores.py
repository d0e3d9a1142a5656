"""Which scores are stored for which checkpoint: the scores artifacts of one RMW_HOME."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.contamination import UNKNOWN, read_leaked
from rm_workflow.evaluation.stored import StoredRows

KIND, SUFFIX = "scores", "_scores"
CHECKPOINT = "_checkpoint"


@dataclass(frozen=True)
class ScoredCheckpoint:
    """A checkpoint with the newest scores on each benchmark.

    Attributes:
        id: ``asset@version``.
        scores: benchmark -> scores artifact.
    """

    id: str
    scores: dict[str, Artifact] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Return the recipe that made the checkpoint."""
        return self.id.partition("@")[0].removesuffix(CHECKPOINT)

    @property
    def run(self) -> str | None:
        """Return the run of a sweep that made the checkpoint; None for a recipe without a sweep."""
        partition: str | None = next(iter(self.scores.values())).manifest["partition"] if self.scores else None
        return partition

    def headline(self, benchmark: str) -> Mapping[str, Any]:
        """Return the score object of a benchmark with its verdict."""
        found: Mapping[str, Any] = self.scores[benchmark].facts["scores"][benchmark]
        return {"contamination": UNKNOWN, **found}

    def leaked(self, benchmark: str) -> list[str]:
        """Return the items of a benchmark that are leaked to the checkpoint."""
        return read_leaked(self.scores[benchmark].folder).get(benchmark, [])

    def items_of(self, benchmark: str) -> str:
        """Return what the items of a benchmark are of: the benchmark, or the mixture whose test split they are."""
        if benchmark != stored.TEST:
            return benchmark
        inputs = self.scores[benchmark].manifest["inputs"]
        return str(next((used["asset"] for used in inputs if used["kind"] == "mixture"), self.recipe))

    def rows(self, store: ArtifactStore, benchmark: str) -> StoredRows:
        """Return the scored rows of a benchmark.

        Raises:
            UserError: the scores are damaged, or the benchmark that was scored is gone.
        """
        artifact = self.scores[benchmark]
        store.prove(artifact)
        if benchmark == stored.TEST:
            return stored.split_rows(artifact.folder)
        scored = next((used for used in store.inputs_of(artifact) if used.asset == f"bench_{benchmark}"), None)
        if scored is None:
            raise UserError(
                f"artifact {artifact.id} does not say which version of {benchmark} it scored; score it again"
            )
        return stored.benchmark_rows(artifact.folder, benchmark, scored.folder)


def scored_checkpoints(store: ArtifactStore) -> dict[str, ScoredCheckpoint]:
    """Return all checkpoints that have scores, by id, each with its newest scores."""
    found: dict[str, ScoredCheckpoint] = {}
    for asset in sorted(folder.name for folder in store.artifacts.glob(f"*{SUFFIX}")):
        for event in store.events(asset=asset, kinds=("publish", "reuse")):
            artifact = store.find(asset, event["version"])
            name = checkpoint_of(artifact) if artifact else None
            if artifact and name:
                checkpoint = found.setdefault(name, ScoredCheckpoint(name))
                checkpoint.scores.update(dict.fromkeys(artifact.facts["scores"], artifact))
    return found


def checkpoint_of(artifact: Artifact) -> str | None:
    """Return the id of the checkpoint that a scores artifact is of, or None for another kind of artifact."""
    if artifact.kind != KIND:
        return None
    inputs = artifact.manifest["inputs"]
    return next((f"{used['asset']}@{used['version']}" for used in inputs if used["kind"] == "checkpoint"), None)
