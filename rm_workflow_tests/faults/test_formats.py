"""Stores of an older or newer version: refused in one sentence, and left as they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.artifacts import MANIFEST_FORMAT, ArtifactStore, Built, Request
from rm_workflow.errors import UserError
from rm_workflow.garbage import find_garbage
from rm_workflow.lineage.store import LineageStore
from rm_workflow.proofs import SEAL, sealed_json
from rm_workflow.training import training_state
from rm_workflow_tests.faults import states

REQUEST = Request("pairs_toy", "pairs", "1", {}, requested="r")


def build(out: Path) -> Built:
    (out / "rows.txt").write_text("abc")
    return Built({})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(memory: Path) -> ArtifactStore:
    store = ArtifactStore(memory)
    store.materialize(REQUEST, build, "run-1")
    return store


def make_first_format(store: ArtifactStore) -> None:
    """Leave what the first format had: no seals, and its number in the manifest."""
    for path in (*store.artifacts.glob("*/*/manifest.json"), *store.events_folder.glob("*.json")):
        content = json.loads(path.read_text())
        del content[SEAL]
        path.write_text(json.dumps({**content, **({"format": 1} if path.name == "manifest.json" else {})}))


def make_next_format(store: ArtifactStore) -> None:
    (path,) = store.artifacts.glob("*/*/manifest.json")
    content = json.loads(path.read_text())
    del content[SEAL]
    path.write_text(sealed_json({**content, "format": MANIFEST_FORMAT + 1}))


FORMATS = {
    "first": (
        make_first_format,
        "is of an older store format, which this version does not read; set RMW_HOME to anoth",
    ),
    "next": (make_next_format, "is of store format 3 and this version reads format 2; use the version of rm_workflow "),
}


@pytest.mark.parametrize(("make", "sentence"), FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.find("pairs_toy", REQUEST.version),
        lambda store: store.require("pairs_toy", "r"),
        lambda store: store.materialize(REQUEST, build, "run-2"),
        lambda store: find_garbage(store, 1),
        lambda store: LineageStore(store).rebuild(),
    ],
    ids=["found", "required", "asked for again", "collected", "indexed"],
)
def test_a_store_of_another_format_is_refused_and_left_as_it_is(
    store: ArtifactStore, make: Callable[[ArtifactStore], None], sentence: str, use: Callable[[ArtifactStore], object]
):
    make(store)
    before = files(store.home)
    with pytest.raises(UserError, match=sentence):
        use(store)
    after = files(store.home)
    assert {name: after[name] for name in before} == before
    assert {*after} - {*before} <= {"lineage.duckdb", "lineage.duckdb.wal", "lineage.lock"}


def test_training_states_of_another_format_are_refused_and_left_as_they_are(
    memory: Path, monkeypatch: pytest.MonkeyPatch
):
    for step in (1, 2):
        states.save(memory, step)
    before = files(memory)
    monkeypatch.setattr(training_state, "FORMAT", training_state.FORMAT + 1)
    with pytest.raises(
        UserError, match=r"holds training states of format 3 and this version reads format 4; go on with"
    ):
        training_state.newest_whole(memory, print)
    assert files(memory) == before


def test_one_state_with_another_number_among_ours_is_a_damaged_one(memory: Path):
    for step in (1, 2):
        states.save(memory, step)
    marker = memory / "step_00000002" / training_state.COMPLETE
    marker.write_text(marker.read_text().replace('"format": 3', '"format": 2'))
    found = training_state.newest_whole(memory, lambda line: None)
    assert found is not None
    assert found.step == 1
