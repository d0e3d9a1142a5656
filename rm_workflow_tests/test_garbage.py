import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow import artifacts
from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.durable_files import Hold
from rm_workflow.errors import UserError
from rm_workflow.garbage import Garbage, find_garbage, remove_garbage
from rm_workflow_tests.faults.homes import look


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def publish(
    store: ArtifactStore, asset: str, number: int, *inputs: Artifact, run: str = "old", **changes: object
) -> Artifact:
    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("x" * 1000)
        return Built({})

    request = Request(asset, "pairs", "1", {"number": number}, inputs, **{"requested": str(number), **changes})
    return store.materialize(request, build, run).artifact


def ids(garbage: Garbage) -> list[str]:
    return [artifact.id for artifact in garbage.artifacts]


def collect(store: ArtifactStore, keep: int = 1) -> None:
    remove_garbage(store, lambda: find_garbage(store, keep))


def test_the_newest_versions_by_the_sequence_stay_and_the_rest_goes(store: ArtifactStore):
    names = [publish(store, "pairs_a", number).id for number in range(4)]
    publish(store, "pairs_a", 0)
    assert sorted(ids(find_garbage(store, 2))) == sorted(names[1:3])
    assert ids(find_garbage(store, 4)) == []
    collect(store, 2)
    assert sorted(look(store.home).artifacts) == sorted([names[0], names[3]])
    assert ids(find_garbage(store, 2)) == []


def test_a_run_that_failed_to_make_something_keeps_nothing(store: ArtifactStore):
    old = publish(store, "pairs_a", 1).id
    publish(store, "pairs_a", 2)
    failed = {"version": old.partition("@")[2], "partition": None, "run_id": "run-3", "error": "no reason"}
    store.record("failed_run", "pairs_a", failed)
    assert ids(find_garbage(store, 1)) == [old]


def test_what_a_kept_artifact_was_made_from_stays_down_to_the_raw_rows(store: ArtifactStore):
    raw = publish(store, "raw_a", 1).id
    pairs = publish(store, "pairs_a", 1, store.require("raw_a")).id
    score = publish(store, "toy_scores", 1, store.require("pairs_a")).id
    for asset in ("raw_a", "pairs_a"):
        for number in (2, 3):
            publish(store, asset, number)
    garbage = ids(find_garbage(store, 1))
    assert not {raw, pairs, score} & {*garbage}
    assert len(garbage) == 2


def test_of_what_goes_nothing_is_ever_without_its_inputs(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    made: Artifact | None = None
    for asset in ("raw_a", "pairs_b", "aa_mixture"):
        made = publish(store, asset, 1, *([made] if made else []))
    made = None
    for asset in ("raw_a", "pairs_b", "aa_mixture"):
        publish(store, asset, 2)
    assert [name.split("@")[0] for name in ids(find_garbage(store, 1))] == ["aa_mixture", "pairs_b", "raw_a"]

    class Killed(BaseException):
        pass

    def killed(*arguments: object, **named: object) -> None:
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        collect(store)
    monkeypatch.undo()
    found = look(store.home)
    assert found.partial == ()
    assert len(found.artifacts) == 5
    collect(store)
    assert len(look(store.home).artifacts) == 3
    assert list(store.abandoned()) == []


@pytest.mark.parametrize("kept_by", ["partition", "latest of the bare name", "promotion", "no event"])
def test_what_is_spoken_of_stays(store: ArtifactStore, kept_by: str):
    old = publish(store, "toy_checkpoint", 1)
    name, version = old.id, old.version
    del old
    changes: dict[str, object] = {}
    if kept_by == "partition":
        changes = {"partition": "seed_1"}
    elif kept_by == "latest of the bare name":
        changes = {"overridden": True}
    elif kept_by == "promotion":
        store.record("promotion", "toy_checkpoint", {"version": version, "overridden": False, "run_id": ""})
    else:
        next(iter(store.events_folder.glob("*.publish.toy_checkpoint.json"))).unlink()
    for number in (2, 3):
        publish(store, "toy_checkpoint", number, **changes)
    garbage = ids(find_garbage(store, 1))
    assert name not in garbage
    assert len(garbage) == 1


def test_what_an_unfinished_run_has_published_or_reused_stays(store: ArtifactStore):
    published = publish(store, "pairs_a", 1, run="unfinished").id
    reused = publish(store, "pairs_a", 2).id
    publish(store, "pairs_a", 2, run="unfinished")
    other = publish(store, "pairs_a", 3).id
    publish(store, "pairs_a", 4)
    assert {published, reused} & {*ids(find_garbage(store, 1))} == {published, reused}
    assert ids(find_garbage(store, 1, {"unfinished"})) == [other]


def test_what_a_living_process_took_stays_with_its_inputs_until_it_lets_go(store: ArtifactStore):
    raw = publish(store, "raw_a", 1)
    publish(store, "pairs_a", 1, raw)
    del raw
    taken: Artifact | None = store.require("pairs_a")
    for asset in ("raw_a", "pairs_a"):
        publish(store, asset, 2)
    assert taken is not None
    assert ids(find_garbage(store, 1)) == []
    collect(store)
    assert taken.file("rows.txt").is_file()
    taken = None
    assert len(ids(find_garbage(store, 1))) == 2


def test_a_run_that_takes_something_while_garbage_is_removed_keeps_it(store: ArtifactStore):
    old = publish(store, "raw_a", 1).version
    publish(store, "raw_a", 2)
    late: list[object] = []

    def find() -> Garbage:
        garbage = find_garbage(store, 1)
        late.append(store.take("raw_a", old))
        return garbage

    remove_garbage(store, find)
    assert store.find("raw_a", old) is not None


def test_a_second_collection_is_refused_while_one_goes_on(store: ArtifactStore):
    publish(store, "raw_a", 1)

    def find() -> Garbage:
        with pytest.raises(UserError, match="another rmw gc is at work"):
            collect(store)
        return find_garbage(store, 1)

    remove_garbage(store, find)


def test_who_looks_for_what_is_being_removed_finds_nothing(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    old = publish(store, "raw_a", 1)
    read = artifacts.read_sealed

    def removed_after_reading(path: Path, mend: str) -> dict[str, object]:
        found = read(path, mend)
        store.remove(old, "test")
        return found

    monkeypatch.setattr(artifacts, "read_sealed", removed_after_reading)
    assert store.find("raw_a", old.version) is None


def test_what_was_published_while_garbage_is_removed_keeps_its_inputs(store: ArtifactStore):
    old = publish(store, "raw_a", 1).version
    publish(store, "raw_a", 2)
    found: list[Garbage] = []

    def find() -> Garbage:
        found.append(find_garbage(store, 1))
        if len(found) == 1:
            raw = store.take("raw_a", old)
            assert raw is not None
            publish(store, "pairs_a", 1, raw)
        return found[-1]

    remove_garbage(store, find)
    assert len(found) == 2
    assert store.find("raw_a", old) is not None


def test_who_takes_what_is_being_removed_waits_and_finds_nothing(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    old = publish(store, "raw_a", 1)
    folder, version = old.folder, old.version
    del old
    publish(store, "raw_a", 2)
    stock: Callable[..., Hold] = Hold

    def taken_late(path: Path) -> Hold:
        hold = stock(path)
        if path == folder:
            collect_others()
        return hold

    def collect_others() -> None:
        shutil.rmtree(folder)

    monkeypatch.setattr("rm_workflow.artifacts.Hold", taken_late)
    assert store.take("raw_a", version) is None


def test_a_removal_is_an_event_that_keeps_the_manifest(store: ArtifactStore):
    old = publish(store, "raw_a", 1)
    manifest, version = dict(old.manifest), old.version
    del old
    publish(store, "raw_a", 2)
    collect(store)
    (event,) = store.events(kinds=("removal",))
    assert (event["asset"], event["version"], event["reason"]) == ("raw_a", version, "garbage collection")
    assert event["manifest"] == manifest
    assert not (store.home / f"cache/proofs/raw_a/{version}.json").exists()


def test_what_a_killed_process_left_and_the_work_of_what_is_published_go(store: ArtifactStore):
    kept = publish(store, "toy_checkpoint", 1).version
    for version in (kept, "unpublished", "in_use"):
        (store.work_folder("toy_checkpoint", version) / "state").write_text("x" * 10)
    in_use = publish(store, "other_checkpoint", 1).version
    work = store.work_folder("other_checkpoint", in_use)
    trainer = Hold(work)
    (store.staging / "token").mkdir()
    (store.staging / "token/half").write_text("x" * 20)
    garbage = find_garbage(store, 1)
    assert [path.name for path in (*garbage.work, *garbage.staging)] == [kept, "token"]
    assert sorted(garbage.sizes.values()) == [10, 20]
    collect(store)
    assert sorted(path.name for path in (store.home / "work").glob("*/*")) == sorted(["in_use", in_use, "unpublished"])
    assert not (store.staging / "token").exists()
    del trainer
    assert [path.name for path in find_garbage(store, 1).work] == [in_use]


def test_a_damaged_manifest_stops_it_since_nobody_knows_what_it_needs(store: ArtifactStore):
    publish(store, "pairs_a", 1, publish(store, "raw_a", 1))
    publish(store, "raw_a", 2)
    (store.require("pairs_a").folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        find_garbage(store, 1)
