"""Base models from a server on this machine that speaks the hub's API, through huggingface_hub's own download."""

import hashlib
import logging
import threading
from pathlib import Path

import pytest

from rm_workflow.errors import UserError
from rm_workflow.hub import download
from rm_workflow.hub.lock import read_hub_lock
from rm_workflow.models import base
from rm_workflow.models.base import build_base, check_base_access
from rm_workflow.settings import Settings
from rm_workflow_tests.hub.hub_server import OLD, SIGNATURE, FakeHub, Fault
from rm_workflow_tests.preferences.sources import settings

WEIGHTS = "model.safetensors"
CONTENT = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    WEIGHTS: CONTENT,
    "notes.txt": b"not fetched",
}
TOKEN = "hf_sentinelOfAToken"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Path:
    """The hub's own cache, empty; nothing is waited for."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_hub(fake_hub: FakeHub) -> FakeHub:
    fake_hub.put(OLD, FILES, "models/org/tiny")
    fake_hub.large = {WEIGHTS}
    return fake_hub


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings(tmp_path / "home")


def build(home: Settings, out: Path) -> dict[str, object]:
    out.mkdir()
    return build_base("org/tiny", home, out).facts


def test_a_model_comes_with_the_hashes_of_its_files(model_hub: FakeHub, home: Settings, tmp_path: Path) -> None:
    facts = build(home, tmp_path / "out")
    fetched = {name: content for name, content in FILES.items() if name != "notes.txt"}
    assert facts["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in fetched.items()}
    assert read_hub_lock(home) == {"models": {"org/tiny": OLD}}


@pytest.mark.parametrize("fault", [Fault(503), Fault(body=CONTENT[:1000])])
def test_a_model_whose_weights_break_off_is_asked_for_again(
    model_hub: FakeHub, home: Settings, tmp_path: Path, waits: list[float], fault: Fault
) -> None:
    model_hub.fail(f"GET {WEIGHTS}", fault)
    build(home, tmp_path / "out")
    assert len(waits) == 1


def test_a_long_download_tells_how_much_is_here(
    model_hub: FakeHub,
    home: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "PATIENCE", download.Patience(progress_every=0.01))
    model_hub.hold[WEIGHTS] = threading.Event()
    monkeypatch.setattr(base.logger, "info", lambda *told: model_hub.hold[WEIGHTS].set())
    build(home, tmp_path / "out")
    assert model_hub.hold[WEIGHTS].is_set()


def test_weights_that_stay_short_are_refused(model_hub: FakeHub, home: Settings, tmp_path: Path) -> None:
    model_hub.fail(f"GET {WEIGHTS}", *[Fault(body=CONTENT[:1000])] * 20)
    with pytest.raises(UserError, match=r"base org/tiny came short again and again; run again later"):
        build(home, tmp_path / "out")
    assert read_hub_lock(home) == {}


def test_weights_damaged_in_the_cache_are_refused(
    model_hub: FakeHub, home: Settings, tmp_path: Path, cache: Path
) -> None:
    build(home, tmp_path / "first")
    (stored,) = cache.rglob(hashlib.sha256(CONTENT).hexdigest())
    stored.write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match=rf"{WEIGHTS} is damaged in the hub's cache; delete {stored} and run again"):
        build(home, tmp_path / "second")


def test_a_gated_model_is_told_before_anything_is_fetched(model_hub: FakeHub, home: Settings, tmp_path: Path) -> None:
    check_base_access("org/tiny", home)
    assert model_hub.lines("GET ") == []
    model_hub.refusal = (403, "GatedRepo")
    with pytest.raises(UserError, match=r"gated; accept its licence at https://huggingface\.co/org/tiny"):
        check_base_access("org/tiny", home)
    model_hub.refusal = (503, "")
    check_base_access("org/tiny", home)
    model_hub.refusal = None
    build(home, tmp_path / "out")
    model_hub.refusal = (403, "GatedRepo")
    check_base_access("org/tiny", home)


@pytest.mark.parametrize("faults", [[], [Fault(503)], [Fault(403)] * 9, [Fault(500)] * 20])
def test_neither_token_nor_signature_is_logged(
    model_hub: FakeHub,
    home: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    faults: list[Fault],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for logger in ("", *download.LOGGERS_OF_URLS):
        caplog.set_level(logging.DEBUG, logger)
    model_hub.fail(f"GET {WEIGHTS}", *faults)
    try:
        build(home, tmp_path / "out")
    except UserError:
        logging.getLogger("rm_workflow").exception("with its whole chain")
    written = [caplog.text, *capfd.readouterr()]
    written += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert [text for text in written if TOKEN in text or SIGNATURE in text] == []
    assert any(asked.authorization == f"Bearer {TOKEN}" for asked in model_hub.asked)
    assert any(SIGNATURE in asked.line for asked in model_hub.asked)
