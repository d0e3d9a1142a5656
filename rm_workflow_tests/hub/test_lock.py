import json
from pathlib import Path

from rm_workflow.hub.lock import lock_hub_revision, locked_files, read_hub_lock
from rm_workflow_tests.preferences.sources import settings


def test_files_fetched_one_after_the_other_are_all_recorded_and_the_first_hash_stays(tmp_path: Path) -> None:
    home = settings(tmp_path)
    lock_hub_revision(home, "datasets", "org/rows", "a", {"one": "1"})
    lock_hub_revision(home, "datasets", "org/rows", "a", {"two": "2", "one": "other"})
    lock_hub_revision(home, "datasets", "org/other", "b", {"one": "3"})
    assert locked_files(home, "org/rows") == {"one": "1", "two": "2"}
    assert locked_files(home, "org/other") == {"one": "3"}


def test_a_commit_that_is_taken_brings_its_own_hashes_alone(tmp_path: Path) -> None:
    home = settings(tmp_path)
    lock_hub_revision(home, "datasets", "org/rows", "a", {"one": "1", "two": "2"})
    lock_hub_revision(home, "datasets", "org/rows", "b", {"one": "9"}, replace=True)
    assert read_hub_lock(home) == {"datasets": {"org/rows": "b"}, "files": {"org/rows": {"one": "9"}}}
    lock_hub_revision(home, "datasets", "org/rows", "c", {}, replace=True)
    assert locked_files(home, "org/rows") == {}


def test_a_fetch_that_an_update_has_overtaken_leaves_the_hashes_alone(tmp_path: Path) -> None:
    home = settings(tmp_path)
    lock_hub_revision(home, "datasets", "org/rows", "new", {"one": "1"}, replace=True)
    lock_hub_revision(home, "datasets", "org/rows", "old", {"two": "2"})
    assert read_hub_lock(home) == {"datasets": {"org/rows": "new"}, "files": {"org/rows": {"one": "1"}}}


def test_a_lock_of_before_hashes_were_kept_is_read_and_completed(tmp_path: Path) -> None:
    home = settings(tmp_path)
    (tmp_path / "hub_lock.json").write_text(json.dumps({"datasets": {"org/rows": "a"}}))
    assert locked_files(home, "org/rows") == {}
    lock_hub_revision(home, "datasets", "org/rows", "newer", {"one": "1"})
    lock_hub_revision(home, "datasets", "org/rows", "a", {"one": "1"})
    assert read_hub_lock(home) == {"datasets": {"org/rows": "a"}, "files": {"org/rows": {"one": "1"}}}
