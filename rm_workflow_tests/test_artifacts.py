import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Check, CheckFailedError, Request, prepare_home
from rm_workflow.errors import UserError


def request(parameters: dict[str, int] | None = None, **changes: object) -> Request:
    fields = {"asset": "pairs_toy", "kind": "pairs", "code_version": "1", "parameters": parameters or {"min": 2}}
    return Request(**{**fields, "requested": "r", **changes})


def build_text(text: str):
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text(text)
        return Built({"kept": len(text)}, (Check("law", True, "Nothing vanishes."),))

    return build


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_an_artifact_is_published_whole_with_hashes_and_facts(store: ArtifactStore):
    outcome = store.materialize(request(), build_text("abc"), "run-1")
    assert not outcome.reused
    manifest = json.loads((outcome.artifact.folder / "manifest.json").read_text())
    assert manifest["files"]["rows.txt"]["bytes"] == 3
    assert manifest["facts"] == {"kept": 3}
    assert list(store.staging.iterdir()) == []


def test_the_same_key_is_reused_without_building(store: ArtifactStore):
    store.materialize(request(), build_text("abc"), "run-1")

    def must_not_build(out: Path) -> Built:
        raise AssertionError("built again")

    outcome = store.materialize(request(), must_not_build, "run-2")
    assert outcome.reused
    assert [event["kind"] for event in store.events()] == ["publish", "reuse"]


@pytest.mark.parametrize(
    "changed",
    [{"code_version": "2"}, {"parameters": {"min": 3}}, {"asset": "pairs_other"}, {"partition": "seed_1"}],
)
def test_whatever_decides_the_output_changes_the_version(changed: dict[str, object]):
    assert request(**changed).version != request().version


def test_a_failed_check_publishes_nothing_and_is_recorded(store: ArtifactStore):
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("x")
        return Built({}, (Check("law", False, "Nothing vanishes.", {"missing": 1}),))

    with pytest.raises(CheckFailedError, match="Nothing vanishes"):
        store.materialize(request(), build, "run-1")
    assert store.find("pairs_toy", request().version) is None
    assert [event["kind"] for event in store.events()] == ["failed_check"]
    with pytest.raises(UserError, match="materialize it first"):
        store.require("pairs_toy", "r")


def test_a_build_that_raises_leaves_nothing_behind(store: ArtifactStore):
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("x")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        store.materialize(request(), build, "run-1")
    assert list(store.staging.iterdir()) == []
    assert not store.artifacts.exists()


def test_latest_follows_the_sequence_and_not_the_order_of_publishing(store: ArtifactStore):
    old, new = request({"min": 1}), request({"min": 2})
    store.materialize(old, build_text("a"), "run-1")
    store.materialize(new, build_text("b"), "run-2")
    store.materialize(old, build_text("a"), "run-3")
    latest = store.latest("pairs_toy")
    assert latest is not None
    assert latest.version == old.version


def test_a_run_with_changes_never_becomes_the_latest_of_the_bare_name(store: ArtifactStore):
    bare = request({"min": 1}, requested="bare")
    changed = request({"min": 2}, requested="changed", overridden=True)
    store.materialize(bare, build_text("a"), "run-1")
    store.materialize(changed, build_text("b"), "run-2")
    assert store.require("pairs_toy").version == bare.version
    assert store.require("pairs_toy", "changed").version == changed.version


def test_a_damaged_file_is_named_and_not_used(store: ArtifactStore):
    artifact = store.materialize(request(), build_text("abc"), "run-1").artifact
    (artifact.folder / "rows.txt").write_text("ab")
    with pytest.raises(UserError, match=r"rows\.txt has 2 bytes where its manifest says 3"):
        store.find("pairs_toy", artifact.version)


def _publish_many(home: Path, number: int) -> None:
    store = ArtifactStore(home)
    for index in range(number):
        store.materialize(request({"min": index}), build_text("abc"), f"run-{os.getpid()}")


def test_processes_that_publish_the_same_keys_both_finish_with_distinct_sequence_numbers(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_publish_many, args=(tmp_path, 10)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    sequences = [event["sequence"] for event in ArtifactStore(tmp_path).events()]
    assert sequences == list(range(1, 21))


def _die_while_building(home: Path) -> None:
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    ArtifactStore(home).materialize(request(), build, "run-1")


def test_a_killed_build_is_invisible_and_its_staging_is_swept(tmp_path: Path):
    process = multiprocessing.get_context("fork").Process(target=_die_while_building, args=(tmp_path,))
    process.start()
    process.join()
    store = ArtifactStore(tmp_path)
    assert process.exitcode == -signal.SIGKILL
    assert store.find("pairs_toy", request().version) is None
    assert store.sweep() == 1
    assert list(store.staging.iterdir()) == []
    assert not store.materialize(request(), build_text("abc"), "run-2").reused


def test_a_living_build_is_not_swept(store: ArtifactStore):
    def build(out: Path) -> Built:
        assert store.sweep() == 0
        assert out.is_dir()
        return build_text("abc")(out)

    store.materialize(request(), build, "run-1")


def test_a_home_that_is_a_file_is_told_in_one_sentence(tmp_path: Path):
    (tmp_path / "home").write_text("")
    with pytest.raises(UserError, match="it is a file where a folder must be"):
        prepare_home(tmp_path / "home")
