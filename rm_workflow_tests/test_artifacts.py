import contextlib
import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rm_workflow import artifacts, durable_files
from rm_workflow.artifacts import (
    Artifact,
    ArtifactStore,
    Built,
    Check,
    CheckFailedError,
    ExternalFile,
    Request,
    prepare_home,
)
from rm_workflow.errors import UserError
from rm_workflow.proofs import sealed_json


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


def staged(store: ArtifactStore) -> list[str]:
    """Return what lies in the staging folder, its own lock apart."""
    return sorted(path.name for path in store.staging.iterdir() if path.name != ".lock")


def test_an_artifact_is_published_whole_with_hashes_and_facts(store: ArtifactStore):
    outcome = store.materialize(request(), build_text("abc"), "run-1")
    assert not outcome.reused
    manifest = json.loads((outcome.artifact.folder / "manifest.json").read_text())
    assert manifest["files"]["rows.txt"]["bytes"] == 3
    assert manifest["files"]["rows.txt"]["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert manifest["facts"] == {"kept": 3}
    assert [(check["name"], check["passed"]) for check in manifest["checks"]] == [("law", True)]
    assert staged(store) == []


def test_files_in_folders_are_part_of_the_artifact(store: ArtifactStore):
    def build(out: Path) -> Built:
        (out / "model").mkdir()
        (out / "model" / "config.json").write_text("{}")
        return Built({})

    artifact = store.materialize(request(), build, "run-1").artifact
    assert artifact.file("model/config.json").read_text() == "{}"
    with pytest.raises(UserError, match=r"has no file rows\.txt \(it has: model/config\.json\)"):
        artifact.file("rows.txt")
    (artifact.folder / "model" / "config.json").unlink()
    with pytest.raises(UserError, match=r"model/config\.json has None bytes"):
        store.find("pairs_toy", artifact.version)


def test_everything_is_on_the_disk_before_the_one_rename_that_shows_it(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    rename_new = artifacts._rename_new

    def rename(source: Path, target: Path) -> None:
        assert not target.exists()
        done.append("rename")
        rename_new(source, target)

    monkeypatch.setattr(durable_files, "fsync", lambda path: done.append(path.name))
    monkeypatch.setattr(artifacts, "fsync", lambda path: done.append(path.name))
    monkeypatch.setattr(artifacts, "_rename_new", rename)
    store.materialize(request(), build_text("abc"), "run-1")
    at = done.index("rename")
    staging_folder = done.index(next(name for name in done if len(name) == 32))
    assert {"rows.txt", "manifest.json"} <= set(done[:staging_folder])
    assert staging_folder < at
    home = store.home.name
    assert done[at + 1 :] == ["pairs_toy", "artifacts", home, ".draft", "events", home]


def test_a_publisher_killed_before_the_rename_leaves_nothing_to_see(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    def die(source: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(artifacts, "_rename_new", die)
    process = multiprocessing.get_context("fork").Process(
        target=store.materialize, args=(request(), build_text("abc"), "run-1")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert store.find("pairs_toy", request().version) is None
    assert list(store.events()) == []
    monkeypatch.undo()
    assert store.sweep() == 1
    assert staged(store) == []


def test_a_publisher_killed_before_its_event_is_made_good_by_the_next_run(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ArtifactStore, "record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.materialize(request(), build_text("abc"), "run-1")
    monkeypatch.undo()
    assert store.latest("pairs_toy") is None
    assert store.materialize(request(), must_not_build, "run-2").reused
    assert store.latest("pairs_toy") is not None


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def must_not_build(out: Path) -> Built:
    raise AssertionError("built again")


def test_the_same_key_is_reused_without_building(store: ArtifactStore):
    store.materialize(request(), build_text("abc"), "run-1")
    outcome = store.materialize(request(), must_not_build, "run-2")
    assert outcome.reused
    assert [event["kind"] for event in store.events()] == ["publish", "reuse"]


@pytest.mark.parametrize(
    "changed",
    [
        {"code_version": "2"},
        {"parameters": {"min": 3}},
        {"asset": "pairs_other"},
        {"partition": "seed_1"},
        {"inputs": (Artifact("raw_toy", "1", Path("raw"), {}),)},
        {"external_files": (ExternalFile("toy/train.jsonl", Path("train.jsonl"), "f" * 64),)},
    ],
)
def test_whatever_decides_the_output_changes_the_version(changed: dict[str, object]):
    assert request(**changed).version != request().version


def test_versions_and_hashes_of_inputs_count_and_their_order_does_not():
    def version(*inputs: tuple[str, str], files: tuple[tuple[str, str], ...] = ()) -> str:
        made_from = tuple(Artifact(asset, version, Path("raw"), {}) for asset, version in inputs)
        external = tuple(ExternalFile(name, Path(name), sha256) for name, sha256 in files)
        return request(inputs=made_from, external_files=external).version

    assert version(("a", "1"), ("b", "1")) == version(("b", "1"), ("a", "1"))
    assert version(("a", "1")) != version(("a", "2"))
    assert version(files=(("x", "1"), ("y", "2"))) == version(files=(("y", "2"), ("x", "1")))
    assert version(files=(("x", "1"),)) != version(files=(("x", "2"),))


def test_where_a_file_lies_and_whether_the_run_has_changes_do_not_decide_the_output():
    near, far = (ExternalFile("x", Path(folder) / "x", "f" * 64) for folder in ("near", "far"))
    assert request(external_files=(near,)).version == request(external_files=(far,), overridden=True).version


def test_a_failed_check_publishes_nothing_and_is_recorded(store: ArtifactStore):
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("x")
        return Built({}, (Check("law", False, "Nothing vanishes.", {"missing": 1}),))

    with pytest.raises(CheckFailedError, match="Nothing vanishes"):
        store.materialize(request(), build, "run-1")
    assert store.find("pairs_toy", request().version) is None
    (event,) = store.events()
    assert (event["kind"], event["checks"][0]["metadata"]) == ("failed_check", {"missing": 1})
    assert staged(store) == []
    with pytest.raises(UserError, match="materialize it first"):
        store.require("pairs_toy", "r")


def test_one_failed_check_among_passed_ones_is_enough(store: ArtifactStore):
    def build(out: Path) -> Built:
        return Built({}, (Check("law", True, "One."), Check("other", False, "Two."), Check("last", True, "Three.")))

    with pytest.raises(CheckFailedError, match=r"failed: other: Two\. \(\)$"):
        store.materialize(request(), build, "run-1")
    assert store.find("pairs_toy", request().version) is None


def test_nobody_downstream_gets_an_artifact_with_a_failed_check(store: ArtifactStore):
    artifact = store.materialize(request(), build_text("abc"), "run-1").artifact
    manifest = json.loads((artifact.folder / "manifest.json").read_text())
    manifest["checks"][0]["passed"] = False
    del manifest["sha256"]
    (artifact.folder / "manifest.json").write_text(sealed_json(manifest))
    with pytest.raises(UserError, match=r"recorded with failed checks \(law\); rebuild it"):
        store.require("pairs_toy", "r")


def test_a_build_that_raises_leaves_nothing_behind(store: ArtifactStore):
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("x")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        store.materialize(request(), build, "run-1")
    assert staged(store) == []
    assert not store.artifacts.exists()


def test_latest_follows_the_sequence_and_not_the_order_of_publishing(store: ArtifactStore):
    old, new = request({"min": 1}), request({"min": 2})
    for asked in (old, new, old):
        store.materialize(asked, build_text("a"), "run-1")
        assert store.require("pairs_toy").version == asked.version


def test_a_run_with_changes_never_becomes_the_latest_of_the_bare_name(store: ArtifactStore):
    bare = request({"min": 1}, requested="bare")
    changed = request({"min": 2}, requested="changed", overridden=True)
    store.materialize(bare, build_text("a"), "run-1")
    store.materialize(changed, build_text("b"), "run-2")
    assert store.require("pairs_toy").version == bare.version
    assert store.require("pairs_toy", "changed").version == changed.version


def test_a_partition_has_its_own_latest(store: ArtifactStore):
    whole, part = request({"min": 1}), request({"min": 1}, partition="seed_1")
    store.materialize(whole, build_text("a"), "run-1")
    store.materialize(part, build_text("b"), "run-2")
    for requested in (None, "r"):
        found = [store.latest("pairs_toy", requested, partition) for partition in (None, "seed_1", "seed_2")]
        assert [artifact and artifact.version for artifact in found] == [whole.version, part.version, None]


def test_latest_is_of_the_asset_that_is_asked_for(store: ArtifactStore):
    store.materialize(request(), build_text("a"), "run-1")
    store.materialize(request(asset="pairs_toy_more"), build_text("b"), "run-2")
    latest = store.latest("pairs_toy")
    assert latest is not None
    assert latest.asset == "pairs_toy"


def test_latest_passes_over_an_artifact_that_is_gone(store: ArtifactStore):
    old = store.materialize(request({"min": 1}), build_text("a"), "run-1").artifact
    gone = store.materialize(request({"min": 2}), build_text("b"), "run-2").artifact
    shutil.rmtree(gone.folder)
    assert store.require("pairs_toy").version == old.version


def test_an_input_that_is_gone_is_named(store: ArtifactStore):
    raw = store.materialize(request(asset="raw_toy", kind="raw"), build_text("a"), "run-1").artifact
    pairs = store.materialize(request(inputs=(raw,)), build_text("b"), "run-1").artifact
    assert [artifact.id for artifact in store.inputs_of(pairs)] == [raw.id]
    shutil.rmtree(raw.folder)
    gone = f"{pairs.id} was made from {raw.id}, which is gone from RMW_HOME .*; run its recipe again .*to make it anew"
    with pytest.raises(UserError, match=gone):
        store.inputs_of(pairs)


def test_a_damaged_file_is_named_and_not_used(store: ArtifactStore):
    artifact = store.materialize(request(), build_text("abc"), "run-1").artifact
    (artifact.folder / "rows.txt").write_text("ab")
    with pytest.raises(UserError, match=r"rows\.txt has 2 bytes where its manifest says 3"):
        store.find("pairs_toy", artifact.version)
    with pytest.raises(UserError, match=r"rows\.txt has 2 bytes"):
        store.materialize(request(), must_not_build, "run-2")
    (artifact.folder / "rows.txt").unlink()
    with pytest.raises(UserError, match=r"rows\.txt has None bytes"):
        store.latest("pairs_toy")


# What a fault of the disk leaves of a file: nothing, its start, zeros, other bytes.
DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "other": lambda whole: b"\xff",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_cut_manifest_is_one_sentence_and_its_mend_works(store: ArtifactStore, damage):
    artifact = store.materialize(request(), build_text("abc"), "run-1").artifact
    manifest = artifact.folder / "manifest.json"
    manifest.write_bytes(damage(manifest.read_bytes()))
    mend = f"delete the folder artifacts/{artifact.asset}/{artifact.version} and run again"
    for look in (lambda: store.find("pairs_toy", artifact.version), lambda: store.latest("pairs_toy")):
        with pytest.raises(UserError, match=rf"^{re.escape(str(manifest))} is damaged \(.*\); {mend}$"):
            look()
    shutil.rmtree(store.home / "artifacts" / artifact.asset / artifact.version)
    assert not store.materialize(request(), build_text("abc"), "run-2").reused


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_cut_event_is_one_sentence_and_hinders_no_other_asset(store: ArtifactStore, damage):
    store.materialize(request(asset="pairs_other"), build_text("abc"), "run-1")
    store.materialize(request(), build_text("abc"), "run-1")
    path = store.events_folder / "00000002.publish.pairs_toy.json"
    path.write_bytes(damage(path.read_bytes()))
    for look in (lambda: list(store.events()), lambda: store.latest("pairs_toy")):
        with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is damaged \(.*\); delete it, then run rmw "):
            look()
    assert store.latest("pairs_other") is not None
    path.unlink()
    assert store.latest("pairs_toy") is None
    assert store.materialize(request(), must_not_build, "run-2").reused
    assert store.latest("pairs_toy") is not None


def test_events_are_left_out_by_name_and_not_opened(store: ArtifactStore):
    for number in range(12):
        store.record("publish" if number % 2 else "reuse", f"asset_{number % 3}", {})
    for path in store.events_folder.glob("*.json"):
        if int(path.name[:8]) not in (2, 6, 8, 10):
            path.write_text("not opened")

    def found(**which: object) -> list[int]:
        return [event["sequence"] for event in store.events(**which)]

    assert found(skip={1, 3, 4, 5, 7, 9, 11, 12}) == [2, 6, 8, 10]
    assert found(asset="asset_1", kinds=("publish",)) == [2, 8]
    assert found(asset="asset_1", kinds=("publish",), newest_first=True) == [8, 2]


@pytest.mark.parametrize("name", ["x.json", "zz.publish.pairs_toy.json", "00000009.publish.pairs_toy copy.json"])
def test_a_file_that_is_no_event_is_passed_over(store: ArtifactStore, name: str):
    store.record("publish", "pairs_toy", {})
    (store.events_folder / name).write_text("{}")
    assert [event["sequence"] for event in store.events(asset="pairs_toy")] == [1]
    assert store.record("reuse", "pairs_toy", {})["sequence"] == 2


def test_a_sequence_number_is_the_highest_one_and_one_more(store: ArtifactStore):
    for _ in range(10):
        store.record("reuse", "asset", {})
    (store.events_folder / "00000003.reuse.asset.json").unlink()
    (store.events_folder / ".draft").write_text("left by a process that was killed")
    assert store.record("publish", "another", {})["sequence"] == 11
    names = sorted(os.listdir(store.events_folder))
    assert names[0] == ".lock"
    assert names[-1] == "00000011.publish.another.json"
    assert len(names) == 11


def test_a_folder_without_manifest_in_the_way_is_told_in_one_sentence(store: ArtifactStore):
    folder = store.artifacts / "pairs_toy" / request().version
    folder.mkdir(parents=True)
    (folder / "rows.txt").write_text("left of a folder that was deleted")
    with pytest.raises(UserError, match=rf"artifacts/pairs_toy/{request().version} stands in the way.*; delete it"):
        store.materialize(request(), build_text("abc"), "run-1")
    shutil.rmtree(folder)
    assert not store.materialize(request(), build_text("abc"), "run-2").reused


def test_of_two_publishers_of_one_key_the_first_is_kept_and_both_finish(store: ArtifactStore):
    def build(out: Path) -> Built:
        ArtifactStore(store.home).materialize(request(), build_text("first"), "run-1")
        return build_text("second")(out)

    outcome = store.materialize(request(), build, "run-2")
    assert outcome.artifact.file("rows.txt").read_text() == "first"
    assert outcome.artifact.manifest["run_id"] == "run-1"
    assert [event["run_id"] for event in store.events()] == ["run-1", "run-2"]
    assert staged(store) == []


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
    assert staged(store) == []
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


def test_a_build_is_not_swept_between_the_making_and_the_locking_of_its_lock_file(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    """The owner stops there until a sweep of another thread has ended or waits for the owner."""
    swept: list[int] = []
    sweep_goes_no_further = threading.Event()
    flock = fcntl.flock

    def sweep() -> None:
        swept.append(store.sweep())
        sweep_goes_no_further.set()

    sweeper = threading.Thread(target=sweep)

    def stop_and_lock(file, operation: int) -> None:
        if threading.current_thread() is sweeper and not operation & fcntl.LOCK_NB:
            try:
                flock(file, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                sweep_goes_no_further.set()
        elif threading.current_thread() is not sweeper and is_lock_of_a_build(getattr(file, "name", "")):
            sweeper.start()
            assert sweep_goes_no_further.wait(timeout=60)
        flock(file, operation)

    def build(out: Path) -> Built:
        sweeper.join()
        assert swept == [0]
        assert out.with_suffix(".lock").exists()
        assert out.is_dir()
        return build_text("abc")(out)

    monkeypatch.setattr(fcntl, "flock", stop_and_lock)
    store.materialize(request(), build, "run-1")


def is_lock_of_a_build(name: str) -> bool:
    return Path(name).parent.name == "staging" and Path(name).name != ".lock"


@pytest.mark.parametrize("left", ["token", "token.lock"])
def test_a_staging_folder_and_a_lock_file_without_each_other_are_swept(store: ArtifactStore, left: str):
    store.staging.mkdir()
    if left == "token":
        (store.staging / left).mkdir()
        (store.staging / left / "rows.txt").write_text("abc")
    else:
        (store.staging / left).touch()
    assert store.sweep() == 1
    assert staged(store) == []


def test_a_home_without_staging_has_nothing_to_sweep(store: ArtifactStore):
    assert store.sweep() == 0


def test_a_work_folder_is_kept_until_it_is_cleared(store: ArtifactStore):
    folder = store.work_folder("toy_checkpoint", "1")
    (folder / "result.json").write_text("{}")
    assert store.work_folder("toy_checkpoint", "1") == folder
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    store.clear_work("toy_checkpoint", "1")
    assert not folder.exists()


DISK_BYTES = 2 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[ArtifactStore]:
    """A store on a tmpfs of 2 MiB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small tmpfs can only be mounted as root")
    try:
        yield ArtifactStore(folder / "home")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_full_while_building_publishes_nothing_and_leaves_nothing(small_disk: ArtifactStore):
    def build(out: Path) -> Built:
        (out / "rows.bin").write_bytes(bytes(DISK_BYTES + 1))
        return Built({})

    with pytest.raises(UserError, match=r"cannot write .*: the disk is full; free space there or set RMW_HOME"):
        small_disk.materialize(request(), build, "run-1")
    assert small_disk.find("pairs_toy", request().version) is None
    assert list(small_disk.events()) == []
    assert staged(small_disk) == []
    assert not small_disk.materialize(request(), build_text("abc"), "run-2").reused


def test_a_disk_that_is_full_when_a_reuse_is_recorded_is_one_sentence(small_disk: ArtifactStore):
    small_disk.materialize(request(), build_text("abc"), "run-1")
    fill(small_disk.home / "filler")
    with pytest.raises(UserError, match="the disk is full"):
        small_disk.materialize(request(), must_not_build, "run-2")
    (small_disk.home / "filler").unlink()
    assert [event["run_id"] for event in small_disk.events()] == ["run-1"]
    assert small_disk.materialize(request(), must_not_build, "run-3").reused


@pytest.mark.parametrize("is_published", [False, True])
def test_a_read_only_disk_is_one_sentence(small_disk: ArtifactStore, is_published: bool):
    small_disk.home.mkdir()
    if is_published:
        small_disk.materialize(request(), build_text("abc"), "run-1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk.home.parent)], check=True)
    for write in (
        lambda: small_disk.materialize(request(), build_text("abc"), "run-2"),
        lambda: prepare_home(small_disk.home),
    ):
        with pytest.raises(UserError, match="the file system is read-only; make it writable or set RMW_HOME"):
            write()
    assert bool(small_disk.latest("pairs_toy")) is is_published


def test_a_home_is_made_with_its_parents_and_the_proof_leaves_nothing(tmp_path: Path):
    prepare_home(tmp_path / "parent" / "home")
    assert list((tmp_path / "parent" / "home").iterdir()) == []


def test_a_home_on_a_full_disk_is_told_before_any_work(small_disk: ArtifactStore):
    fill(small_disk.home.parent / "filler")
    with pytest.raises(UserError, match="the disk is full"):
        prepare_home(small_disk.home)


def test_an_error_about_a_file_outside_the_home_is_not_told_as_the_homes(store: ArtifactStore):
    def build(out: Path) -> Built:
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/train.jsonl")

    with pytest.raises(PermissionError):
        store.materialize(request(), build, "run-1")
