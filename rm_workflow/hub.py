"""Files of sources and benchmarks: local folders, the embedded sample, a mirror of the hub, the Hugging Face hub.

A hub repository is read at one commit: the first fetch records it in ``<home>/hub_lock.json``, later fetches use it,
and a hub that has moved on is reported, never followed. No data script is ever run: only the named files are fetched.
"""

import difflib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rm_workflow import samples
from rm_workflow.catalog.models import Location
from rm_workflow.durable_files import locked, write_whole
from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256
from rm_workflow.settings import Settings

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

logger = logging.getLogger(__name__)

HUB_LOCK = "hub_lock.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SAMPLES = "samples:"
# A look at the hub's newest commit must not hold up a run whose files are all there.
DRIFT_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class SourceFile:
    """One file of a source or benchmark on this machine.

    Attributes:
        file: name relative to the repository or folder.
        name: ``<hub id, samples:name or folder name>/<file>``, never absolute.
        sha256: hash of its bytes.
    """

    split: str
    file: str
    path: Path
    name: str
    sha256: str


def resolve_files(location: Location, settings: Settings, title: str = "files") -> list[SourceFile]:
    """Return the files of a source or benchmark in their declared order, fetched where they are not here yet.

    Args:
        title: what errors call the location: ``sources.yaml: source 'hh'``.

    Raises:
        UserError: a folder, repository or file is not there, may not be read, or cannot be reached.
    """
    named = [(split, file) for split, files in location.files.items() for file in files]
    try:
        _refuse_bad_names([file for _, file in named])
        root, paths = _locate(location, [file for _, file in named], settings)
    except UserError as error:
        raise UserError(f"{title}: {error}") from error
    return [
        SourceFile(split, file, path, f"{root}/{file}", file_sha256(path))
        for (split, file), path in zip(named, paths, strict=True)
    ]


def _refuse_bad_names(files: list[str]) -> None:
    for file in files:
        parts = PurePosixPath(file).parts
        if not parts or PurePosixPath(file).is_absolute() or ".." in parts:
            raise UserError(
                f"files: {file!r} does not stay inside its folder; name it relative to the repository or `path`"
            )
    repeated = sorted({file for file in files if files.count(file) > 1})
    if repeated:
        raise UserError(f"files: {repeated[0]} is listed twice; list each file once, under one split")


def _locate(location: Location, files: list[str], settings: Settings) -> tuple[str, list[Path]]:
    """Return what the location is called and the path of each file."""
    if location.path is not None:
        sample = location.path.removeprefix(SAMPLES)
        if sample != location.path:
            return location.path, _in_folder(samples.folder(settings) / sample, files, f"path: {location.path}")
        folder = Path(location.path).expanduser()
        return folder.name, _in_folder(folder, files, f"path: {location.path}")
    repository = location.hub or ""
    if not HUB_ID.fullmatch(repository):
        raise UserError(f"hub: {repository!r} is no dataset id; write it as org/name")
    mirror = mirror_folder(repository, settings)
    if mirror:
        return repository, _in_folder(mirror, files, f"hub: {repository} in the mirror folder {mirror}")
    return repository, _fetch(repository, files, settings)


def mirror_folder(repository: str, settings: Settings) -> Path | None:
    """Return the repository's folder in RMW_HUB_MIRROR, which is then asked instead of the hub, or None."""
    folder = settings.hub_mirror / repository if settings.hub_mirror else None
    return folder if folder and folder.is_dir() else None


def _in_folder(folder: Path, files: list[str], place: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{place}: the folder {folder} does not exist; create it or correct `path`")
    for file in files:
        if not (folder / file).is_file():
            near = _nearest_file(file, folder)
            raise UserError(f"{place}: file {file} is missing ({near}); put it there or correct `files`")
    return [folder / file for file in files]


def _nearest_file(file: str, folder: Path) -> str:
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if not there:
        return "the folder is empty"
    close = difflib.get_close_matches(file, there, n=1, cutoff=0.0)
    return f"nearest there: {close[0]}" if close else f"there: {', '.join(there[:5])}"


# The hub ------------------------------------------------------------------------------------------------------------


def _fetch(repository: str, files: list[str], settings: Settings) -> list[Path]:
    from huggingface_hub import hf_hub_download

    locked = read_hub_lock(settings).get("datasets", {}).get(repository)
    revision = locked or _newest_commit(repository, settings)
    paths = []
    for file in files:
        with _told(repository, settings, file):
            paths.append(
                hf_hub_download(
                    repository,
                    file,
                    repo_type="dataset",
                    revision=revision,
                    cache_dir=settings.cache / "hub",
                    endpoint=_endpoint(),
                )
            )
    if locked:
        _report_drift(repository, locked, settings)
    else:
        lock_hub_revision(settings, "datasets", repository, revision)
    return [Path(path) for path in paths]


def update_revision(repository: str, settings: Settings) -> tuple[str | None, str]:
    """Take the newest commit of a dataset repository from now on and return (commit before, commit now).

    Raises:
        UserError: the repository is not there, may not be read, or cannot be reached.
    """
    before = read_hub_lock(settings).get("datasets", {}).get(repository)
    now = _newest_commit(repository, settings)
    lock_hub_revision(settings, "datasets", repository, now, replace=True)
    return before, now


def _newest_commit(repository: str, settings: Settings, timeout: float | None = None) -> str:
    from huggingface_hub import HfApi

    with _told(repository, settings):
        return str(HfApi(endpoint=_endpoint()).dataset_info(repository, timeout=timeout).sha)


def _endpoint() -> str | None:
    """Return HF_ENDPOINT as it is now; huggingface_hub reads it only once, at import."""
    return os.environ.get("HF_ENDPOINT") or None


def _report_drift(repository: str, locked: str, settings: Settings) -> None:
    """Warn when the hub has a newer commit than the locked one; a hub that cannot be asked is no news."""
    try:
        newest = _newest_commit(repository, settings, DRIFT_TIMEOUT_SECONDS)
    except UserError as error:
        logger.debug("drift of %s is not known: %s", repository, error)
        return
    if newest != locked:
        logger.warning(
            "hub: %s has moved on to %s; the locked commit %s is used",
            repository,
            newest,
            locked,
        )


@contextmanager
def _told(repository: str, settings: Settings, file: str = "") -> Iterator[None]:
    """Turn the hub's errors into one sentence each."""
    from huggingface_hub import errors

    # The base is the HTTP client's own error: no route, time-out, broken connection.
    transport_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except (transport_error, errors.EntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        answer = _answer(error)
        sentence = _refused(repository, file, answer) if answer else _unreachable(repository, error, settings)
        raise UserError(f"hub: {sentence}") from error


def _answer(error: BaseException) -> "HfHubHTTPError | None":
    """Return the hub's own answer, which may stand behind a "not in the cache" error."""
    from huggingface_hub.errors import HfHubHTTPError

    found: BaseException | None = error
    while found is not None and not isinstance(found, HfHubHTTPError):
        found = found.__cause__
    return found


def _refused(repository: str, file: str, answer: "HfHubHTTPError") -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repository}"
    status = answer.response.status_code
    if isinstance(answer, errors.GatedRepoError) or status in (401, 403):
        return (
            f"{repository} is gated or private (HTTP {status}); accept its licence at {page} and log in with "
            "`hf auth login`, or correct the id if there is no such page"
        )
    if isinstance(answer, errors.RevisionNotFoundError):
        return f"{repository} no longer has the commit recorded in {HUB_LOCK}; see {page}/commits/main"
    if isinstance(answer, errors.EntryNotFoundError):
        return f"{repository} has no file {file} at the locked commit; see {page}/tree/main and correct `files`"
    if status == 404:
        return f"there is no dataset {repository} (HTTP 404); correct the id in the catalogue"
    return f"{repository} cannot be read now (the hub answers HTTP {status}); try again later"


def _unreachable(repository: str, error: BaseException, settings: Settings) -> str:
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    if settings.hub_mirror:
        return (
            f"the mirror folder {settings.hub_mirror} (RMW_HUB_MIRROR) holds no {repository}, and the Hugging Face hub "
            f"cannot be reached ({lines[0]}); put the repository into the mirror or connect"
        )
    return (
        f"{repository} is not in the cache and the Hugging Face hub cannot be reached ({lines[0]}); connect, or set "
        f"RMW_HUB_MIRROR to a folder that holds {repository}"
    )


# The lock -----------------------------------------------------------------------------------------------------------


def read_hub_lock(settings: Settings) -> dict[str, dict[str, str]]:
    """Return ``{"datasets": {id: commit}, "models": {id: commit}}`` as locked so far under RMW_HOME."""
    path = settings.home / HUB_LOCK
    locked: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return locked


def lock_hub_revision(settings: Settings, kind: str, repository: str, commit: str, replace: bool = False) -> None:
    """Record the commit of a repository under ``datasets`` or ``models``; a locked one stays unless ``replace``."""
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / HUB_LOCK
    with locked(path.with_suffix(".lock")):
        commits = read_hub_lock(settings)
        if repository in commits.get(kind, {}) and not replace:
            return
        commits.setdefault(kind, {})[repository] = commit
        write_whole(path, json.dumps(commits, indent=1, sort_keys=True) + "\n")
