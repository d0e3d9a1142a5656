import json
import sys
from collections.abc import Callable

import pytest

from rm_workflow.hub.lock import read_hub_lock
from rm_workflow.settings import load_settings
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.hub.hub_server import NEW, OLD, SIGNATURE, FakeHub, Fault

Rmw = Callable[..., Answer]
HH = "Anthropic/hh-rlhf"
REPOSITORY = "org/pairs"
TRAIN, TEST = "data/train.jsonl", "data/test.jsonl"
HUB_SOURCES = """
toy:
  hub: org/pairs
  files: {train: [data/train.jsonl], test: [data/test.jsonl]}
  adapter: chosen_rejected
  licence: CC0-1.0
twin:
  hub: org/pairs
  files: {train: [twin.jsonl]}
  adapter: chosen_rejected
  licence: CC0-1.0
"""


def rows(*values: dict[str, object]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def pair(number: int, **more: object) -> dict[str, object]:
    return {"prompt": f"Question {number}?", "chosen": "Good.", "rejected": "Bad.", **more}


def locked() -> dict[str, str]:
    return read_hub_lock(load_settings()).get("datasets", {})


@pytest.fixture
def on_hub(project: Project, fake_hub: FakeHub, waits: list[float]) -> FakeHub:
    """The source ``toy`` on a hub, with three rows at the commit OLD."""
    (project.folder / "catalog/sources.yaml").write_text(HUB_SOURCES)
    files = {TRAIN: rows(pair(1, score=1), pair(2, score=2)), TEST: rows(pair(9)), "twin.jsonl": rows(pair(5))}
    fake_hub.put(OLD, files, REPOSITORY)
    return fake_hub


@pytest.fixture
def moved(on_hub: FakeHub, rmw: Rmw) -> FakeHub:
    """The same after it was read and then published again: a row more, a new column, one of another type."""
    assert rmw("sources", "check", "toy").code == 0
    changed = [pair(number, score=str(number), notes=[{"by": "x"}]) for number in (1, 2, 3)]
    old = on_hub.commits[REPOSITORY][OLD]
    on_hub.put(NEW, {TRAIN: rows(*changed), TEST: old[TEST], "twin.jsonl": rows(pair(6))}, REPOSITORY)
    return on_hub


def test_an_update_shows_rows_and_columns_and_takes_nothing_by_itself(rmw: Rmw, moved: FakeHub):
    answer = rmw("sources", "update", "toy", "--json")
    assert answer.code == 0
    unchanged = {"rows_before": None, "rows_after": None, "added": [], "removed": [], "retyped": []}
    assert json.loads(answer.out) == {
        "source": "toy",
        "hub": REPOSITORY,
        "before": OLD,
        "now": NEW,
        "taken": False,
        "sources": ["toy", "twin"],
        "benchmarks": [],
        "files": [
            {
                "file": TRAIN,
                "change": "changed",
                "rows_before": 2,
                "rows_after": 3,
                "added": ["notes", "notes[]", "notes[].by"],
                "removed": [],
                "retyped": ["score: integer -> string"],
            },
            {"file": TEST, "change": "same", **unchanged},
        ],
        "refused": {},
    }
    assert locked() == {REPOSITORY: OLD}
    # what was never read is not compared, and so not fetched
    assert [line for line in moved.lines("GET ") if "twin" in line] == []


def test_an_update_is_taken_with_yes(rmw: Rmw, moved: FakeHub):
    answer = rmw("sources", "update", "toy", "--yes")
    assert answer.code == 0
    assert "read at this commit from now on: toy, twin" in answer.err
    assert locked() == {REPOSITORY: NEW}
    assert json.loads(rmw("sources", "check", "toy", "--json").out)["files"][0]["num_rows"] == 3
    again = rmw("sources", "update", "toy")
    assert again.out.count(NEW) == 2
    assert "nothing has changed" in again.err


def test_an_update_is_told_to_a_person_who_is_not_at_a_terminal(rmw: Rmw, moved: FakeHub):
    answer = rmw("sources", "update", "toy")
    for words in (OLD, NEW, "retyped", "score: integer -> string", "notes[].by"):
        assert words in answer.out
    assert "nothing is taken; add --yes" in answer.err
    assert locked() == {REPOSITORY: OLD}


@pytest.mark.parametrize(("typed", "commit"), [("y", NEW), ("n", OLD)])
def test_at_a_terminal_an_update_is_asked_for(
    rmw: Rmw, moved: FakeHub, monkeypatch: pytest.MonkeyPatch, typed: str, commit: str
):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, **_: typed == "y")
    rmw("sources", "update", "toy")
    assert locked() == {REPOSITORY: commit}


def test_an_update_that_the_adapter_cannot_read_says_so(rmw: Rmw, moved: FakeHub):
    moved.put(NEW, {TRAIN: rows({"question": "?", "chosen": "a", "rejected": "b"})}, REPOSITORY)
    answer = rmw("sources", "update", "toy", "--json")
    assert json.loads(answer.out)["files"][0]["removed"] == ["prompt", "score"]
    assert "column 'prompt' is missing in every row" in json.loads(answer.out)["refused"]["toy"]
    assert "a build from the new files would end with: source 'toy'" in rmw("sources", "update", "toy").err


def test_an_update_without_a_file_of_the_source_is_refused(rmw: Rmw, moved: FakeHub):
    del moved.commits[REPOSITORY][NEW][TEST]
    answer = rmw("sources", "update", "toy", "--yes", "--json")
    assert answer.code == 1
    assert f"{TEST} is not in the newest commit of {REPOSITORY}, so nothing is taken" in answer.error
    assert locked() == {REPOSITORY: OLD}


def test_a_commit_that_is_gone_can_be_left_behind(rmw: Rmw, moved: FakeHub, project: Project):
    del moved.commits[REPOSITORY][OLD]
    (project.home / "cache/hub" / REPOSITORY / OLD / TRAIN).unlink()
    assert "no longer has the commit" in rmw("sources", "check", "toy").err
    answer = rmw("sources", "update", "toy", "--yes", "--json")
    changes = {file["file"]: file["change"] for file in json.loads(answer.out)["files"]}
    assert changes == {TRAIN: "added", TEST: "same"}
    assert locked() == {REPOSITORY: NEW}


def test_a_file_that_is_gone_from_all_commits_is_named(rmw: Rmw, moved: FakeHub, project: Project):
    del moved.commits[REPOSITORY][OLD], moved.commits[REPOSITORY][NEW][TRAIN]
    (project.home / "cache/hub" / REPOSITORY / OLD / TRAIN).unlink()
    assert f"{TRAIN} is not in the newest commit" in rmw("sources", "update", "toy", "--yes", "--json").error
    assert locked() == {REPOSITORY: OLD}


def test_a_newer_commit_is_reported_by_a_check_and_not_taken(
    rmw: Rmw, moved: FakeHub, caplog: pytest.LogCaptureFixture
):
    answer = rmw("sources", "check", "toy", "--json")
    assert f"{REPOSITORY} has moved on to {NEW}; the locked commit {OLD} is used" in caplog.text
    assert json.loads(answer.out)["files"][0]["num_rows"] == 2


def test_a_source_that_was_never_read_is_only_locked(rmw: Rmw, on_hub: FakeHub):
    answer = rmw("sources", "update", "toy")
    assert "not locked yet" in answer.out
    assert locked() == {REPOSITORY: OLD}
    assert on_hub.lines("HEAD ") == []


def test_a_gated_source_ends_a_run_before_its_first_step(project: Project, rmw: Rmw, on_hub: FakeHub):
    on_hub.refusal = (403, "GatedRepo")
    answer = rmw("run", "toy", "--until", "raw", "--json")
    assert answer.code == 1
    assert "source 'toy'" in answer.error
    assert "accept its licence at https://huggingface.co/datasets/org/pairs" in answer.error
    assert list((project.home / "dagster").rglob("*.db")) == []


def test_neither_token_nor_signature_stands_in_anything_that_a_run_writes(
    project: Project, rmw: Rmw, on_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    token = "hf_sentinelOfAToken"
    monkeypatch.setenv("HF_TOKEN", token)
    on_hub.large = {TRAIN, TEST}
    on_hub.faults[f"GET {TEST}"] = [Fault(403)]
    failed = rmw("run", "toy", "--until", "raw", "--json")
    assert "org/pairs is gated or private (HTTP 403)" in failed.error
    finished = rmw("run", "toy", "--until", "raw", "--json")
    assert finished.code == 0
    assert f"Bearer {token}" in {asked.authorization for asked in on_hub.asked}
    assert len([line for line in on_hub.lines("GET /large/") if SIGNATURE in line]) == 3
    written = {str(path): path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}
    written["terminal"] = "".join((failed.out, failed.err, finished.out, finished.err)).encode()
    assert any(path.endswith(".db") for path in written)
    secrets = (token.encode(), SIGNATURE.encode())
    assert [path for path, content in written.items() if any(secret in content for secret in secrets)] == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("toy", ("source 'toy'", "rows is not on the hub", "change the files there")),
        ("sample_ratings", ("samples:ratings is not on the hub",)),
        ("hh_helpfull_base", ("did you mean 'hh_helpful_base'?",)),
    ],
)
def test_only_a_source_on_the_hub_can_be_updated(project: Project, rmw: Rmw, source: str, words: tuple[str, ...]):
    answer = rmw("sources", "update", source)
    assert answer.code == 1
    assert [part for part in words if part not in answer.error] == []
    assert locked() == {}


def test_a_source_that_the_mirror_serves_is_not_updated(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    (project.folder / "mirror" / HH).mkdir(parents=True)
    monkeypatch.setenv("RMW_HUB_MIRROR", str(project.folder / "mirror"))
    answer = rmw("sources", "update", "hh_helpful_base")
    assert answer.code == 1
    assert f"mirror folder {project.folder}/mirror/{HH}" in answer.error
    assert "unset RMW_HUB_MIRROR" in answer.error
    assert locked() == {}
