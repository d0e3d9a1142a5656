"""Passes of a scorer as batches of rows, which other processes compute with the same model.

A pass is planned where its sequences are known and is sent whole, one row a batch: its token ids, the places that are
read, and its trees as JSON, with members numbered by their rows.
"""

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rm_workflow.evaluation.batching import Pass, Tree
from rm_workflow.evaluation.scorer import ComputePasses, Scorer
from rm_workflow.map_batches import MapBatches, Work
from rm_workflow.models import attention
from rm_workflow.models.segments import Ids

PASSES = pa.schema(
    [
        ("input_ids", pa.list_(pa.list_(pa.int32()))),
        ("reads", pa.list_(pa.list_(pa.int32()))),
        ("trees", pa.string()),
    ]
)


class PassScorer:
    """Scores passes; the arguments are those of ``Scorer.load``."""

    def __init__(
        self,
        folder: str,
        hub_id: str | None,
        device: str,
        precision: str,
        batch_tokens: int,
    ) -> None:
        self._scorer = Scorer.load(Path(folder), device, precision, batch_tokens, hub_id=hub_id)
        self._by_segments = False

    def __call__(self, batch: pa.RecordBatch) -> pa.Table:
        """Return the ``score`` of every place that is read, in order."""
        (row,) = batch.to_pylist()
        ids = [np.array(sequence, dtype=np.int32) for sequence in row["input_ids"]]
        one = Pass(tuple(range(len(ids))), tuple(map(_tree, json.loads(row["trees"]))))
        if one.trees and not self._by_segments:
            attention.use_segments(self._scorer.model, self._scorer.device)
            self._by_segments = True
        ((_, scores),) = self._scorer.compute(ids, [one], row["reads"])
        return pa.table({"score": pa.array(scores, pa.float64())})


def elsewhere(map_batches: MapBatches, scorer: Scorer, folder: Path) -> ComputePasses:
    """Return what has passes computed by other processes.

    Args:
        scorer: was loaded, so that others can load the same.
        folder: for files that they read.
    """
    assert scorer.loaded_from is not None
    of_model, hub_id = scorer.loaded_from
    arguments = {
        "folder": str(of_model),
        "hub_id": hub_id,
        "device": scorer.device,
        "precision": scorer.precision,
        "batch_tokens": scorer.batch_tokens,
    }
    work = Work(f"{__name__}:{PassScorer.__name__}", arguments, PASSES, scorer.device)

    def compute(
        ids: Sequence[Ids], planned: Sequence[Pass], reads: Sequence[Sequence[int]]
    ) -> Generator[tuple[int, list[float]]]:
        with contextlib.closing(map_batches(work, _batches(ids, planned, reads), folder)) as found:
            for number, scores in found:
                yield number, scores["score"].to_pylist()

    return compute


def _batches(ids: Sequence[Ids], planned: Sequence[Pass], reads: Sequence[Sequence[int]]) -> Iterator[pa.RecordBatch]:
    for one in planned:
        rows = {member: row for row, member in enumerate(one.members)}
        row = {
            "input_ids": [ids[member] for member in one.members],
            "reads": [list(reads[member]) for member in one.members],
            "trees": json.dumps([_as_json(tree, rows) for tree in one.trees]),
        }
        yield pa.RecordBatch.from_pylist([row], PASSES)


def _as_json(tree: Tree, rows: dict[int, int]) -> list[Any]:
    members = [rows[member] for member in tree.members]
    return [members, tree.num_common, tree.num_tokens, [_as_json(inner, rows) for inner in tree.inner]]


def _tree(found: list[Any]) -> Tree:
    members, num_common, num_tokens, inner = found
    return Tree(tuple(members), num_common, num_tokens, tuple(map(_tree, inner)))
