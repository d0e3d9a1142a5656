import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from rm_workflow import hub
from rm_workflow.catalog.models import Location
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow_tests.hub.hub_server import NEW, OLD, REPOSITORY, FakeHub
from rm_workflow_tests.preferences.sources import settings


def on_hub(*files: str) -> Location:
    return Location(hub=REPOSITORY, files={"train": list(files or ("data/train.jsonl",))})


# Folders, samples, mirror ---------------------------------------------------------------------------------------------


def test_files_of_a_folder_come_in_order_with_split_name_and_hash(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        (folder / name).write_text(name)
    location = Location(path=str(folder), files={"train": ["b.jsonl", "a.jsonl"], "test": ["sub/c.jsonl"]})
    files = hub.resolve_files(location, settings(tmp_path))
    assert [(file.split, file.file, file.name) for file in files] == [
        ("train", "b.jsonl", "mine/b.jsonl"),
        ("train", "a.jsonl", "mine/a.jsonl"),
        ("test", "sub/c.jsonl", "mine/sub/c.jsonl"),
    ]
    assert all(file.sha256 == file_sha256(folder / file.file) for file in files)


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("train.jsonl.gz", "other.parquet"):
        (tmp_path / "mine" / name).write_text("")
    location = Location(path=str(tmp_path / "mine"), files={"train": ["train.jsonl"]})
    words = (
        r"^sources\.yaml: source 'mine': path: .*: file train\.jsonl is missing \(nearest there: train\.jsonl\.gz\); "
    )
    with pytest.raises(UserError, match=words + "put it there or correct `files`$"):
        hub.resolve_files(location, settings(tmp_path), "sources.yaml: source 'mine'")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    location = Location(path=str(tmp_path / "nowhere"), files={"train": ["train.jsonl"]})
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        hub.resolve_files(location, settings(tmp_path))


@pytest.mark.parametrize("file", ["../secret.jsonl", "/etc/passwd", "a/../../b.jsonl", ""])
def test_a_file_name_that_leaves_its_folder_is_refused(tmp_path: Path, file: str) -> None:
    location = Location(path=str(tmp_path), files={"train": [file]})
    with pytest.raises(UserError, match=r"does not stay inside its folder"):
        hub.resolve_files(location, settings(tmp_path))


@pytest.mark.parametrize("repository", ["../org/rows", "org", "org/../rows", "/org/rows", "org/..", "оrg/rows"])
def test_a_repository_id_of_another_form_is_refused(tmp_path: Path, repository: str) -> None:
    location = Location(hub=repository, files={"train": ["a.jsonl"]})
    with pytest.raises(UserError, match=r"is no dataset id; write it as org/name"):
        hub.resolve_files(location, settings(tmp_path, tmp_path))


def test_a_file_that_is_listed_under_two_splits_is_refused(tmp_path: Path) -> None:
    location = Location(path=str(tmp_path), files={"train": ["a.jsonl"], "test": ["a.jsonl"]})
    with pytest.raises(UserError, match=r"a\.jsonl is listed twice"):
        hub.resolve_files(location, settings(tmp_path))


@pytest.mark.parametrize("name", ["../samples/dialogues", "dialogues/../dialogues", "/etc", "", "~"])
@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_samples_and_rows_are_named_without_folders(tmp_path: Path, kind: str, name: str) -> None:
    location = Location(path=f"{kind}:{name}", files={"train": ["train.jsonl"]})
    with pytest.raises(UserError, match=f"names no data set; write {kind}:<name> without folders"):
        hub.resolve_files(location, replace(settings(tmp_path), rows=tmp_path))


def test_rows_that_no_hub_has_are_found_in_their_folder_or_asked_for(tmp_path: Path) -> None:
    location = Location(path="rows:mine", files={"train": ["train.jsonl"]})
    with pytest.raises(UserError, match=r"no hub has these rows .* set RMW_ROWS"):
        hub.resolve_files(location, settings(tmp_path))
    (tmp_path / "rows/mine").mkdir(parents=True)
    (tmp_path / "rows/mine/train.jsonl").write_text("{}\n")
    (file,) = hub.resolve_files(location, replace(settings(tmp_path), rows=tmp_path / "rows"))
    assert file.name == "rows:mine/train.jsonl"


def test_the_embedded_sample_is_found_by_its_name(tmp_path: Path) -> None:
    location = Location(path="samples:dialogues", files={"train": ["train.jsonl"]})
    (file,) = hub.resolve_files(location, settings(tmp_path))
    assert (file.file, file.name) == ("train.jsonl", "samples:dialogues/train.jsonl")


def test_a_mirror_that_holds_the_repository_is_the_only_place_asked(tmp_path: Path, fake_hub: FakeHub) -> None:
    mirrored = tmp_path / "mirror" / REPOSITORY
    (mirrored / "data").mkdir(parents=True)
    (mirrored / "data/test.jsonl").write_text("{}\n")
    at_mirror = settings(tmp_path / "home", tmp_path / "mirror")
    (file,) = hub.resolve_files(on_hub("data/test.jsonl"), at_mirror)
    assert (file.path, file.name) == (mirrored / "data/test.jsonl", "org/rows/data/test.jsonl")
    assert file.revision is None
    with pytest.raises(UserError, match=r"file data/train\.jsonl is missing \(nearest there: data/test\.jsonl\)"):
        hub.resolve_files(on_hub("data/train.jsonl"), at_mirror)
    assert fake_hub.asked == []


# The hub --------------------------------------------------------------------------------------------------------------


def test_the_first_fetch_locks_the_commit_and_a_newer_one_is_reported_but_not_taken(
    tmp_path: Path, fake_hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = hub.resolve_files(on_hub(), settings(tmp_path))
    assert file.path.read_bytes() == b'{"a": 1}\n'
    assert file.path.is_relative_to(tmp_path / "cache/hub")
    assert file.revision == OLD
    locked = {"datasets": {REPOSITORY: OLD}, "files": {REPOSITORY: {"data/train.jsonl": file.sha256}}}
    assert json.loads((tmp_path / "hub_lock.json").read_text()) == locked
    fake_hub.newest[REPOSITORY] = NEW
    with caplog.at_level(logging.WARNING):
        (again,) = hub.resolve_files(on_hub(), settings(tmp_path))
    assert again.path.read_bytes() == b'{"a": 1}\n'
    assert f"moved on to {NEW}" in caplog.text
    assert json.loads((tmp_path / "hub_lock.json").read_text()) == locked


def test_a_file_that_is_fetched_later_comes_from_the_locked_commit(tmp_path: Path, fake_hub: FakeHub) -> None:
    fake_hub.put(NEW, {"data/test.jsonl": b"new\n"})
    fake_hub.put(OLD, {"data/test.jsonl": b"old\n"})
    hub.resolve_files(on_hub(), settings(tmp_path))
    fake_hub.newest[REPOSITORY] = NEW
    (file,) = hub.resolve_files(on_hub("data/test.jsonl"), settings(tmp_path))
    assert file.path.read_bytes() == b"old\n"


def test_what_was_fetched_is_there_without_a_network(
    tmp_path: Path, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    hub.resolve_files(on_hub(), settings(tmp_path))
    request.getfixturevalue("unreachable_hub")
    (file,) = hub.resolve_files(on_hub(), settings(tmp_path))
    assert file.path.read_bytes() == b'{"a": 1}\n'


def test_a_repository_that_the_mirror_lacks_comes_from_the_hub(tmp_path: Path, fake_hub: FakeHub) -> None:
    (tmp_path / "mirror").mkdir()
    (file,) = hub.resolve_files(on_hub(), settings(tmp_path / "home", tmp_path / "mirror"))
    assert file.name == "org/rows/data/train.jsonl"


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "GatedRepo", r"org/rows is gated .*https://huggingface\.co/datasets/org/rows and log in"),
        (401, "GatedRepo", r"org/rows is gated .*https://huggingface\.co/datasets/org/rows and log in"),
        (403, "", r"gated or private \(HTTP 403\).*https://huggingface\.co/datasets/org/rows"),
        (401, "RepoNotFound", r"gated or private \(HTTP 401\).*or correct the id"),
        (404, "RepoNotFound", r"there is no dataset org/rows \(HTTP 404\)"),
    ],
)
def test_a_refusal_is_one_sentence_and_locks_nothing(
    tmp_path: Path, fake_hub: FakeHub, status: int, code: str, sentence: str
) -> None:
    fake_hub.refusal = (status, code)
    with pytest.raises(UserError, match=sentence) as caught:
        hub.resolve_files(on_hub(), settings(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hub_lock.json").exists()


@pytest.mark.parametrize("code", ["GatedRepo", ""])
def test_a_data_set_that_becomes_gated_later_is_told_so(tmp_path: Path, fake_hub: FakeHub, code: str) -> None:
    hub.resolve_files(on_hub(), settings(tmp_path))
    fake_hub.refusal = (403, code)
    with pytest.raises(UserError, match=r"org/rows is gated"):
        hub.resolve_files(on_hub("data/test.jsonl"), settings(tmp_path))


def test_a_file_that_the_hub_lacks_is_named(tmp_path: Path, fake_hub: FakeHub) -> None:
    with pytest.raises(UserError, match=r"org/rows has no file data/nope\.jsonl at the locked commit"):
        hub.resolve_files(on_hub("data/nope.jsonl"), settings(tmp_path))


@pytest.mark.usefixtures("unreachable_hub")
def test_without_a_network_the_sentence_tells_of_the_mirror(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set RMW_HUB_MIRROR to a folder that holds org/rows"):
        hub.resolve_files(on_hub(), settings(tmp_path))


@pytest.mark.usefixtures("unreachable_hub")
def test_with_a_mirror_that_lacks_the_repository_both_places_are_named(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with pytest.raises(
        UserError, match=rf"{mirror} \(RMW_HUB_MIRROR\) holds no org/rows, and the .* hub cannot be reached"
    ):
        hub.resolve_files(on_hub(), settings(tmp_path / "home", mirror))
