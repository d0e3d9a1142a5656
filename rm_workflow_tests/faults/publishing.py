"""One publish of a small artifact as a run does it: what is left is swept, then built, published and recorded."""

from pathlib import Path

from rm_workflow.artifacts import ArtifactStore, Built, Check, Request

REQUEST = Request("pairs_toy", "pairs", "1", {"min": 2}, requested="r")


def build(out: Path) -> Built:
    """Write two files, one of them in several pieces and in a folder."""
    (out / "rows.txt").write_text("row\n" * 1000)
    (out / "model").mkdir()
    with (out / "model/weights.bin").open("wb", buffering=0) as file:
        for number in range(3):
            file.write(bytes([number]) * 5000)
    return Built({"kept": 1000}, (Check("law", True, "Nothing vanishes."),))


def publish(home: Path) -> str:
    """Publish, or reuse, in this home and return the artifact's id."""
    store = ArtifactStore(home)
    store.sweep()
    return store.materialize(REQUEST, build, "run-1").artifact.id
