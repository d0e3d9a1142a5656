from pathlib import Path

import duckdb
import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Check, CheckFailedError, Request
from rm_workflow.errors import UserError
from rm_workflow.lineage import graph, opening
from rm_workflow.lineage.store import LineageStore
from rm_workflow_tests.lineage.homes import build, chain, publish


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_counts_drops_and_checks_can_be_queried(store: ArtifactStore):
    chain(store)
    lineage = LineageStore(store)
    assert lineage.catch_up()
    dropped = lineage.query("select rule, num_dropped from drop_count where asset = 'pairs_toy' order by rule")
    assert dropped == [("cap", 0), ("equal_score", 3)]
    assert lineage.query("select count(*) from check_result where passed") == [(3,)]
    assert lineage.query("select num_rows from row_count where asset = 'toy_mixture' and stage = 'kept'") == [(7,)]


def test_a_failed_check_and_a_run_with_changes_can_be_queried(store: ArtifactStore):
    def fail(out: Path) -> Built:
        return Built({}, (Check("law", False, "Nothing vanishes.", {"missing": 1}),))

    with pytest.raises(CheckFailedError):
        store.materialize(Request("pairs_toy", "pairs", "1", {}), fail, "run-1")
    store.materialize(Request("pairs_toy", "pairs", "1", {"min": 2}, overridden=True), build, "run-2")
    lineage = LineageStore(store)
    assert lineage.catch_up()
    assert lineage.query("select run_id, event, overridden from run_output order by sequence") == [
        *(("run-1", "failed_check", False), ("run-2", "publish", True))
    ]
    assert lineage.query("select passed, metadata from check_result order by sequence") == [
        *((False, '{"missing": 1}'), (True, '{"candidates": 10}'))
    ]


def test_figures_of_a_checkpoint_and_its_scores_can_be_queried(store: ArtifactStore):
    def train(out: Path) -> Built:
        (out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7, "note": "text"}\n{"step": 2, "loss": 0.5}\n')
        (out / "validation.jsonl").write_text('{"step": 2, "loss": 0.6}\n')
        names = {"base": "tiny", "objective": "bradley_terry", "num_train_pairs": 8, "num_steps": 2, "seconds": 1.5}
        return Built(names)

    def score(out: Path) -> Built:
        part = {"score": 0.8, "n": 10, "ci_low": 0.5, "ci_high": 0.9}
        return Built({"scores": {"test": {**part, "per_source": {"toy": {"score": 0.7, "n": 5}}}}})

    checkpoint = store.materialize(Request("toy_checkpoint", "checkpoint", "1", {}), train, "run-1").artifact
    store.materialize(Request("toy_scores", "scores", "1", {}, (checkpoint,)), score, "run-1")
    lineage = LineageStore(store)
    assert lineage.catch_up()
    assert lineage.query("select base, num_steps, seconds from checkpoint") == [("tiny", 2, 1.5)]
    assert lineage.query("select step, name, value from training_metric order by step, name") == [
        *((1, "loss", 0.7), (2, "loss", 0.5), (2, "validation_loss", 0.6))
    ]
    columns = "checkpoint_version, benchmark, part, score, n, ci_low, ci_high"
    assert lineage.query(f"select {columns} from benchmark_score order by part") == [
        (checkpoint.version, "test", "", 0.8, 10, 0.5, 0.9),
        (checkpoint.version, "test", "toy", 0.7, 5, None, None),
    ]


def test_the_chain_reaches_the_raw_files_with_their_hashes(store: ArtifactStore):
    raw, pairs, mixture = chain(store)
    lineage = LineageStore(store)
    lineage.catch_up()
    found = graph.upstream(lineage, mixture)
    assert {"id": "file:org/name/train.jsonl", "kind": "file", "version": "f" * 64} in found["nodes"]
    assert {node["id"] for node in found["nodes"]} >= {raw.id, pairs.id, mixture.id}
    assert found["edges"] == sorted(
        [["file:org/name/train.jsonl", raw.id], [raw.id, pairs.id], [pairs.id, mixture.id]], key=lambda edge: edge[1]
    )


def test_catching_up_twice_adds_nothing(store: ArtifactStore):
    chain(store)
    lineage = LineageStore(store)
    lineage.catch_up()
    lineage.catch_up()
    assert lineage.query("select count(*) from run_output") == [(3,)]


def break_events(store: ArtifactStore) -> None:
    for path in store.events_folder.glob("*.json"):
        path.write_text("not opened")


@pytest.mark.parametrize("rebuilt", [False, True])
def test_indexed_events_are_not_opened_again(store: ArtifactStore, rebuilt: bool):
    raw, *_ = chain(store)
    lineage = LineageStore(store)
    assert lineage.catch_up()
    if rebuilt:
        assert lineage.rebuild() == 3
    break_events(store)
    assert lineage.catch_up()
    publish(store, "pairs_later", "pairs", raw)
    assert lineage.catch_up()
    assert lineage.query("select sequence from run_output order by sequence") == [(1,), (2,), (3,), (4,)]


def test_an_event_that_appears_below_the_highest_is_indexed(store: ArtifactStore):
    raw, *_ = chain(store)
    lineage = LineageStore(store)
    (gap,) = store.events_folder.glob("00000002.*")
    text = gap.read_text()
    gap.unlink()
    assert lineage.catch_up()
    assert lineage.query("select sequence from run_output order by sequence") == [(1,), (3,)]
    gap.write_text(text)
    publish(store, "pairs_later", "pairs", raw)
    assert lineage.catch_up()
    assert lineage.query("select sequence from run_output order by sequence") == [(1,), (2,), (3,), (4,)]


def test_a_cut_event_fails_no_asset_and_is_named_until_it_is_mended(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
):
    chain(store)
    lineage = LineageStore(store)
    (cut,) = store.events_folder.glob("00000002.*")
    cut.write_text(cut.read_text()[:40])
    assert not lineage.catch_up()
    assert cut.name in caplog.text
    with pytest.raises(UserError, match=rf"{cut.name} is damaged .* delete it, then run rmw lineage rebuild"):
        lineage.rebuild()
    cut.unlink()
    assert lineage.rebuild() == 2


def test_a_damaged_artifact_fails_no_other_asset_and_is_named(store: ArtifactStore, caplog: pytest.LogCaptureFixture):
    raw, *_ = chain(store)
    (raw.folder / "rows.txt").write_text("")
    lineage = LineageStore(store)
    assert not lineage.catch_up()
    assert f"artifact {raw.id}: file rows.txt has 0 bytes" in caplog.text
    (raw.folder / "rows.txt").write_text("abc")
    assert lineage.catch_up()
    for table in ("dataset_version", "run_output", "check_result"):
        assert lineage.query(f"select count(*) from {table}") == [(3,)]


@pytest.fixture
def read_only(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A home with an index that this user may not write."""
    chain(store)
    assert LineageStore(store).catch_up()
    monkeypatch.setattr(opening.os, "access", lambda path, mode: False)
    return store


def test_a_read_only_index_is_read_and_called_so(read_only: ArtifactStore, caplog: pytest.LogCaptureFixture):
    lineage = LineageStore(read_only)
    assert not lineage.catch_up()
    assert lineage.query("select count(*) from dataset_version") == [(3,)]
    (record,) = caplog.records
    assert f"cannot write {lineage.path} (it is read-only); make it writable" in record.message


def test_an_index_without_a_folder_is_not_called_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lineage = LineageStore(ArtifactStore(tmp_path / "nowhere"))
    assert not lineage.catch_up()
    assert f"cannot write {lineage.path} (its folder does not exist)" in caplog.text


def test_a_read_only_home_without_an_index_has_a_mend_that_can_be_done(read_only: ArtifactStore):
    lineage = LineageStore(read_only)
    lineage.path.unlink()
    with pytest.raises(UserError, match=r"cannot write .*lineage\.duckdb \(it is read-only\); make it writable"):
        lineage.query("from dataset_version")


def test_a_full_disk_is_not_told_as_a_damaged_index(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fill(*arguments: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    chain(store)
    monkeypatch.setattr(LineageStore, "_index", fill)
    assert not LineageStore(store).catch_up()
    assert "No space left on device" in caplog.text
    assert "damaged" not in caplog.text


def test_a_rebuild_that_cannot_write_says_so(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot write .*lineage\.duckdb .* set RMW_HOME to another folder"):
        LineageStore(ArtifactStore(tmp_path / "nowhere")).rebuild()


def test_a_deleted_or_rebuilt_index_holds_the_same_rows(store: ArtifactStore):
    chain(store)
    lineage = LineageStore(store)
    lineage.catch_up()
    before = lineage.query("from dataset_version order by all")
    lineage.path.unlink()
    lineage.catch_up()
    assert lineage.query("from dataset_version order by all") == before
    assert lineage.rebuild() == 3
    assert lineage.query("from dataset_version order by all") == before


def test_a_rebuilt_index_still_knows_a_version_that_was_removed(store: ArtifactStore):
    chain(store)
    lineage = LineageStore(store)
    lineage.catch_up()
    tables = ("dataset_version", "version_input", "version_file", "row_count", "drop_count")
    before = {table: lineage.query(f"from {table} order by all") for table in tables}
    for asset in ("toy_mixture", "pairs_toy"):
        (found,) = (store.artifacts / asset).iterdir()
        artifact = store.find(asset, found.name)
        assert artifact
        store.remove(artifact, "no longer wanted")
    assert lineage.rebuild() == 5
    assert {table: lineage.query(f"from {table} order by all") for table in tables} == before
