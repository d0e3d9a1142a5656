import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow import proofs
from rm_workflow.artifacts import ArtifactStore, Built, Request
from rm_workflow.errors import UserError
from rm_workflow.proofs import read_sealed, sealed_json


def test_what_is_sealed_is_read_back_as_json_has_it(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(sealed_json({"counts": {10: 1, 9: 2}, "pair": (1, 0.1), "text": "\u2028 é", "nan": None}))
    assert read_sealed(path, "delete it") == {
        "counts": {"10": 1, "9": 2},
        "pair": [1, 0.1],
        "text": "\u2028 é",
        "nan": None,
    }


def test_every_flipped_bit_of_a_sealed_file_is_told(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(sealed_json({"version": "abc", "overridden": False, "time": 1.5}))
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytes([whole[position] ^ 1 << bit])
            path.write_bytes(whole[:position] + flipped + whole[position + 1 :])
            # White space, and the case of a digit that spells a letter, are no content.
            with contextlib.suppress(UserError):
                assert read_sealed(path, "delete it") == {"version": "abc", "overridden": False, "time": 1.5}


def test_a_file_without_a_seal_is_of_an_older_format(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"a\.json is of an older store format, .*; set RMW_HOME .*, or delete it$"):
        read_sealed(path, "delete it")


REQUEST = Request("pairs_toy", "pairs", "1", {}, requested="r")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path)

    def build(out: Path) -> Built:
        (out / "rows.txt").write_text("abc")
        (out / "more.txt").write_text("def")
        return Built({})

    store.materialize(REQUEST, build, "run-1")
    return store


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are hashed from now on."""
    names: list[str] = []
    stock = proofs.file_sha256
    monkeypatch.setattr(proofs, "file_sha256", lambda path: (names.append(path.name), stock(path))[1])
    return names


def restart(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    boot = folder / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(proofs, "BOOT_ID_FILE", boot)


def flip_unseen(path: Path) -> None:
    """Change a file as a fault of the disk does: without a word to the system."""
    stat = path.stat()
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_what_was_just_published_is_not_hashed_again(store: ArtifactStore, hashed: list[str]):
    store.require("pairs_toy")
    assert hashed == []


def test_after_a_restart_of_the_machine_each_artifact_is_hashed_once(
    store: ArtifactStore, hashed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    restart(monkeypatch, tmp_path)
    store.require("pairs_toy")
    assert sorted(hashed) == ["more.txt", "rows.txt"]
    store.require("pairs_toy")
    assert len(hashed) == 2


def test_what_the_disk_changed_is_found_after_a_restart(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    flip_unseen(store.require("pairs_toy").file("rows.txt"))
    restart(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"file rows\.txt is not what was published \(its sha256 differs\); delete"):
        store.require("pairs_toy")


def replace_by_copy(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("touch", [lambda path: os.utime(path, ns=(0, 0)), replace_by_copy], ids=["time", "copy"])
def test_a_file_that_somebody_touched_is_hashed_alone(
    store: ArtifactStore, hashed: list[str], touch: Callable[[Path], None]
):
    touch(store.require("pairs_toy").file("rows.txt"))
    store.require("pairs_toy")
    assert hashed == ["rows.txt"]


@pytest.mark.parametrize("proof", ["", "[]", "{", '{"boot": 1}'])
def test_without_a_readable_proof_an_artifact_is_hashed(store: ArtifactStore, hashed: list[str], proof: str):
    (path,) = (store.home / "cache/proofs").rglob("*.json")
    path.write_text(proof)
    store.require("pairs_toy")
    assert sorted(hashed) == ["more.txt", "rows.txt"]


def test_a_home_that_cannot_be_written_is_still_read(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError

    shutil.rmtree(store.home / "cache")
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert store.require("pairs_toy").version == REQUEST.version
