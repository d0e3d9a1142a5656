"""Checkpoints with scores in a store, without any model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.catalog.models import Benchmark
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation import test_split
from rm_workflow.evaluation.analysis import write_analysis
from rm_workflow.evaluation.contamination import with_verdicts
from rm_workflow.evaluation.scores import ITEM_SCORES, TEST_PAIRS
from rm_workflow.evaluation.stored import benchmark_rows
from rm_workflow.hub import SourceFile
from rm_workflow.keys import file_sha256

NO_SCORE = dict.fromkeys(("score", "n", "ci_low", "ci_high", "ties"))


def publish_benchmark(store: ArtifactStore, name: str, scoring: str, rows: Sequence[Mapping[str, Any]]) -> Artifact:
    """Publish ``bench_<name>`` from rows of the native schema."""

    def build(out: Path) -> Built:
        path = out / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        described = Benchmark(path="somewhere", files={"test": [path.name]}, scoring=scoring, licence="CC0")
        files = [SourceFile("test", path.name, path, path.name, file_sha256(path))]
        return rules.build_benchmark(name, described, files, out)

    return store.materialize(Request(f"bench_{name}", "benchmark", "1", {}), build, "run").artifact


def publish_scores(
    store: ArtifactStore,
    recipe: str,
    margins: Sequence[float],
    benchmarks: Mapping[str, tuple[Artifact, Mapping[str, Sequence[float]]]] | None = None,
    leaked: Mapping[str, list[str]] | None = None,
    prefix: str = "p",
    partition: str | None = None,
) -> Artifact:
    """Publish a checkpoint and its scores.

    Args:
        margins: of the test pairs, of which two share a group; the pairs are called ``<prefix>0``, ...
        benchmarks: name -> artifact, and item id -> scores of its replies.
        leaked: benchmark -> leaked items.
        partition: the run of a sweep.
    """
    request = Request(f"{recipe}_checkpoint", "checkpoint", "1", {"margins": list(margins)}, partition=partition)
    checkpoint = store.materialize(request, _build_checkpoint, "run").artifact
    scored = benchmarks or {}

    def build(out: Path) -> Built:
        write_scores(out, margins, {name: (found.folder, scores) for name, (found, scores) in scored.items()}, prefix)
        folders = {name: artifact.folder for name, (artifact, _) in scored.items()}
        headlines: dict[str, Any] = {"test": test_split.summarise(test_split.read_pairs(out / "test_pairs.parquet"))}
        for name, folder in folders.items():
            rows = benchmark_rows(out, name, folder)
            rule = rules.rule(rows.scoring)
            headline = rule.headline(rule.aggregate(list(rows.rows.values())))
            headlines[name] = headline or {**NO_SCORE, "n": len(rows.rows)}
        verdicts = {name: "leaky" if name in (leaked or {}) else "clean" for name in headlines}
        built = Built({"scores": headlines, "analysis": write_analysis(out, folders, leaked)})
        return with_verdicts(built, verdicts, leaked or {}, folders, out)

    inputs = (checkpoint, *(artifact for artifact, _ in scored.values()))
    request = Request(f"{recipe}_scores", "scores", "1", {"leaked": leaked}, inputs=inputs, partition=partition)
    return store.materialize(request, build, "run").artifact


def _build_checkpoint(out: Path) -> Built:
    (out / "model").mkdir()
    return Built({})


def write_scores(
    out: Path,
    margins: Sequence[float],
    benchmarks: Mapping[str, tuple[Path, Mapping[str, Sequence[float]]]],
    prefix: str = "p",
) -> None:
    """Write the tables of a scores artifact."""
    pairs = [
        {
            "pair_id": f"{prefix}{number}",
            "source": "hh" if number % 2 else "shp",
            "group_id": f"g{number // 2}",
            "score_chosen": margin,
            "score_rejected": 0.0,
            "chosen_length": 10 + number % 7,
            "rejected_length": 12,
        }
        for number, margin in enumerate(margins)
    ]
    pq.write_table(pa.Table.from_pylist(pairs, TEST_PAIRS), out / "test_pairs.parquet")
    scored = {
        (name, row["item_id"], response_id): float(score)
        for name, (folder, scores) in benchmarks.items()
        for row in pq.read_table(folder / "items.parquet").to_pylist()
        for response_id, score in zip(row["response_ids"], scores[row["item_id"]], strict=True)
    }
    items = [dict(zip(ITEM_SCORES.names, (*key, None, score), strict=True)) for key, score in scored.items()]
    pq.write_table(pa.Table.from_pylist(items, ITEM_SCORES), out / "item_scores.parquet")


def item_ids(benchmark: Artifact) -> list[str]:
    """Return the ids of a benchmark's items, in order."""
    return [str(row["item_id"]) for row in pq.read_table(benchmark.folder / "items.parquet").to_pylist()]
