"""Each kind of bad input: one sentence, exit code 1, nothing half published."""

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rm_workflow_tests.cli.conftest import RECIPE, Answer, Project, lines, row

Rmw = Callable[..., Answer]


def test_an_unknown_recipe_is_answered_with_the_nearest_name(project: Project, rmw: Rmw):
    answer = rmw("run", "quikstart")
    assert answer.code == 1
    assert "quickstart" in answer.error


def test_a_misspelt_key_is_named_with_file_and_line(project: Project, rmw: Rmw):
    project.write_catalog(recipe=RECIPE.replace("learning_rate", "lerning_rate"))
    answer = rmw("run", "toy")
    assert answer.code == 1
    assert "toy.yaml" in answer.error
    assert "learning_rate" in answer.error


def test_a_missing_mirror_folder_is_named(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "nowhere"))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "RMW_HUB_MIRROR" in answer.error
    assert "nowhere" in answer.error


def test_a_file_missing_in_the_mirror_is_named(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "mirror/Anthropic/hh-rlhf").mkdir(parents=True)
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "mirror"))
    answer = rmw("counts", "qwen25_7b_hh_lora_mini")
    assert answer.code == 1
    assert "helpful-base/train.jsonl.gz" in answer.error


def test_five_percent_of_broken_lines_are_refused(project: Project, rmw: Rmw):
    broken = [
        line if number % 20 else line[:10] + "\n" for number, line in enumerate(lines(range(100)).splitlines(True))
    ]
    project.write_rows("".join(broken))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "train.jsonl" in answer.error
    assert "max_broken_share" in answer.error
    assert project.published() == []


def test_a_gzip_that_ends_early_is_refused(project: Project, rmw: Rmw):
    project.write_catalog("train.jsonl.gz")
    whole = gzip.compress(lines(range(1000)).encode())
    (project.folder / "rows/train.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "train.jsonl.gz" in answer.error
    assert project.published() == []


def test_a_renamed_column_is_named_with_what_was_found(project: Project, rmw: Rmw):
    renamed = [{"question": r["prompt"], "chosen": r["chosen"], "rejected": r["rejected"]} for r in map(row, range(9))]
    project.write_rows("".join(json.dumps(r) + "\n" for r in renamed))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "prompt" in answer.error
    assert "question" in answer.error
    assert project.published() == []


def test_a_file_without_rows_is_refused(project: Project, rmw: Rmw):
    project.write_rows("")
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "train.jsonl" in answer.error
    assert project.published() == []


def test_wrong_usage_exits_with_2(project: Project, rmw: Rmw):
    assert rmw("run", "toy", "--until", "nowhere").code == 2
    assert rmw("no-such-verb").code == 2


def test_an_override_of_an_unknown_path_is_answered_with_the_nearest_one(project: Project, rmw: Rmw):
    answer = rmw("run", "toy", "--set", "training.lerning_rate=1")
    assert answer.code == 1
    assert "learning_rate" in answer.error


@pytest.mark.parametrize("verb", [("show",), ("lineage",), ("trace",)])
def test_an_unknown_asset_or_row_is_one_sentence(project: Project, rmw: Rmw, verb: tuple[str]):
    assert rmw("counts", "toy").code == 0
    answer = rmw(*verb, "pairs_nothing")
    assert answer.code == 1
    assert "pairs_nothing" in answer.error


@pytest.fixture(params=["3m", "6m"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small tmpfs; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a small tmpfs can only be mounted as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_one_sentence_and_nothing_is_half_published(
    project: Project, rmw: Rmw, small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HOME", str(small_disk / "home"))
    project.write_rows("".join(json.dumps({**row(n), "chosen": os.urandom(400).hex()}) + "\n" for n in range(8000)))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "full" in answer.error or "space" in answer.error.lower()
    for manifest in (small_disk / "home").glob("artifacts/*/*"):
        assert (manifest / "manifest.json").is_file()


def test_a_read_only_home_is_one_sentence(
    project: Project, rmw: Rmw, small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RMW_HOME", str(small_disk / "home"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "read-only" in answer.error
    assert "RMW_HOME" in answer.error


def test_a_home_that_is_a_file_is_one_sentence(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "file").write_text("")
    monkeypatch.setenv("RMW_HOME", str(project.folder / "file"))
    answer = rmw("counts", "toy")
    assert answer.code == 1
    assert "RMW_HOME" in answer.error
