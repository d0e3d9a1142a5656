"""Pushing to a server on this machine that speaks the hub's API, through huggingface_hub's own upload."""

import logging
from pathlib import Path

import pytest

from rm_workflow.errors import UserError
from rm_workflow.hub import push
from rm_workflow_tests.hub.hub_server import FakeHub, Fault

REPO, MODELS = "org/reward", "models/org/reward"
WEIGHTS = bytes(range(256)) * 10


@pytest.fixture
def hub(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("HF_TOKEN", fake_hub.write_token)
    # The server does not speak Xet, the hub's newer protocol for large files.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return fake_hub


def files(folder: Path, weights: bytes = WEIGHTS) -> dict[str, Path | bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    return {"README.md": b"---\ntags: [a]\n---\n# A\n", "model.safetensors": folder / "model.safetensors"}


def test_a_first_push_makes_the_repository_and_one_commit(hub: FakeHub, tmp_path: Path):
    pushed = push.push(REPO, files(tmp_path), "first", private=True)
    assert hub.visibility == {MODELS: "private"}
    assert hub.newest[MODELS] == pushed.commit
    assert hub.commits[MODELS][pushed.commit]["model.safetensors"] == WEIGHTS
    assert hub.large >= {"model.safetensors"}
    assert pushed.url == f"{hub.url}/{REPO}/tree/main"
    assert len([line for line, _ in hub.written if "/commit/" in line]) == 1


def test_a_revision_is_a_branch_and_main_stays_as_it_is(hub: FakeHub, tmp_path: Path):
    first = push.push(REPO, files(tmp_path), "first")
    second = push.push(REPO, files(tmp_path, b"other weights"), "second", revision="2")
    assert hub.branches[MODELS] == {"2": second.commit}
    assert hub.newest[MODELS] == first.commit
    assert hub.commits[MODELS][second.commit]["model.safetensors"] == b"other weights"
    assert hub.visibility == {MODELS: None}


def test_weights_of_an_earlier_model_are_taken_away(hub: FakeHub, tmp_path: Path):
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "notes.txt": b"mine"}
    push.push(REPO, {**files(tmp_path), **old}, "shards")
    pushed = push.push(REPO, files(tmp_path), "whole")
    assert pushed.removed == ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    assert set(hub.commits[MODELS][pushed.commit]) == {".gitattributes", "README.md", "model.safetensors", "notes.txt"}


def test_without_a_token_nothing_is_asked(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(
        UserError, match="there is no token to write with; log in with `hf auth login`, or set HF_TOKEN"
    ):
        push.push(REPO, files(tmp_path), "first")
    assert hub.written == []


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "the token is not accepted"), (403, "may not write to org/reward"), (500, "could not be pushed")],
)
def test_a_refusal_is_one_sentence(hub: FakeHub, tmp_path: Path, status: int, sentence: str):
    push.push(REPO, files(tmp_path), "first")
    hub.fail(f"POST /api/{MODELS}/commit/main", Fault(status))
    with pytest.raises(UserError, match=sentence) as refused:
        push.push(REPO, files(tmp_path, b"other"), "second")
    assert "http" not in str(refused.value).replace("https://huggingface.co/settings/tokens", "").lower().replace(
        "(http", ""
    )


def test_a_server_that_is_not_there_is_one_sentence(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreachable_hub: None
):
    with pytest.raises(UserError, match=r"org/reward could not be pushed .*run the same command again"):
        push.push(REPO, files(tmp_path), "first")


@pytest.mark.parametrize("repository", ["reward", "a/b/c", "org/re ward", "org/../x", "/org/x", "org/x--y"])
def test_what_is_no_repository_is_refused(hub: FakeHub, repository: str):
    with pytest.raises(UserError, match="is no repository"):
        push.push(repository, {}, "first")


@pytest.mark.parametrize("revision", ["", "refs/pr/1", "a b", "-x", "a..b", "a:b", "a\udc80", "a\x1bc", "a\nb"])
def test_what_is_no_branch_is_refused(hub: FakeHub, revision: str):
    with pytest.raises(UserError, match="is no branch"):
        push.push(REPO, {}, "first", revision)


def test_the_token_is_sent_and_never_told(hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    push.push(REPO, files(tmp_path), "first")
    hub.write_token = "hf_another"
    with pytest.raises(UserError) as refused:
        push.push(REPO, files(tmp_path), "second")
    sent = {token for _, token in hub.written if token}
    assert sent == {"Bearer hf_sentinelOfAWriteToken"}
    assert "sentinel" not in caplog.text + str(refused.value) + repr(refused.value.__cause__)
