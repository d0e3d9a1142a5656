"""What an artifact with its manifest, fsync and lineage record costs, against Dagster's default I/O manager.

Both sides materialize the same ten small assets in one process, on an ephemeral instance, in turn.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import ArtifactStore, Built, Check, Request
from rm_workflow.lineage.store import LineageStore

NUM_ASSETS = 10
NUM_RUNS = 7
ROWS = "row\n" * 1000


def _published(home: Path, run: int) -> list[dg.AssetsDefinition]:
    store = ArtifactStore(home)
    lineage = LineageStore(store)

    def build(out: Path) -> Built:
        (out / "rows.txt").write_text(ROWS)
        return Built({"kept": 1000}, (Check("law", True, "Nothing vanishes."),))

    def define(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"toy_{number}")
        def toy() -> dg.MaterializeResult[None]:
            request = Request(f"toy_{number}", "pairs", "1", {"run": run})
            outcome = store.materialize(request, build, "benchmark")
            lineage.catch_up()
            return dg.MaterializeResult(metadata={"version": outcome.artifact.version})

        return toy

    return [define(number) for number in range(NUM_ASSETS)]


def _pickled() -> list[dg.AssetsDefinition]:
    def define(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"toy_{number}")
        def toy() -> str:
            return ROWS

        return toy

    return [define(number) for number in range(NUM_ASSETS)]


def _seconds(materialize: Callable[[], object]) -> float:
    started = time.perf_counter()
    materialize()
    return time.perf_counter() - started


def main() -> None:
    """Print milliseconds per asset of both sides and their difference."""
    ours, rival = [], []
    with tempfile.TemporaryDirectory() as folder:
        manager = dg.FilesystemIOManager(base_dir=f"{folder}/pickles")
        for run in range(NUM_RUNS):
            published = _published(Path(folder) / "home", run)
            ours.append(_seconds(lambda assets=published: dg.materialize(assets)))  # type: ignore[misc]
            pickled = _pickled()
            rival.append(_seconds(lambda assets=pickled: dg.materialize(assets, resources={"io_manager": manager})))  # type: ignore[misc]
    print(f"{NUM_ASSETS} assets, {NUM_RUNS} interleaved runs; milliseconds per asset: median (least to most)")
    for name, seconds in (("artifact + lineage", ours), ("Dagster's default I/O manager", rival)):
        each = [1000 * value / NUM_ASSETS for value in seconds]
        print(f"  {name:32s} {statistics.median(each):7.1f} ({min(each):.1f} to {max(each):.1f})")
    differences = [1000 * (a - b) / NUM_ASSETS for a, b in zip(ours, rival, strict=True)]
    print(f"  {'difference':32s} {statistics.median(differences):7.1f}")
    print(f"  {'ratio':32s} {statistics.median(ours) / statistics.median(rival):7.2f}")


if __name__ == "__main__":
    main()
