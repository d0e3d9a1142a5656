"""Files of sources and benchmarks: local folders, the embedded sample, a mirror of the hub, the Hugging Face hub.

A hub repository is read at one commit: the first fetch records it in ``<home>/hub_lock.json`` with the sha256 of each
file, later fetches use it, and a hub that has moved on is reported, never followed. No data script is ever run: only
the named files are fetched, to ``<home>/cache/hub/<org>/<name>/<commit>/``.
"""

import difflib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rm_workflow import samples
from rm_workflow.catalog.models import Location
from rm_workflow.durable_files import locked
from rm_workflow.errors import UserError
from rm_workflow.hub import download
from rm_workflow.hub.lock import HUB_LOCK, lock_hub_revision, locked_files, read_hub_lock
from rm_workflow.hub.sentences import NotInRepositoryError, hub_told
from rm_workflow.keys import file_sha256
from rm_workflow.settings import Settings, user_path

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
SAMPLES, ROWS = "samples:", "rows:"
FOLDER = re.compile(r"[a-z0-9_]{1,64}")
# A look at the hub's newest commit must not hold up a run whose files are all there.
DRIFT_TIMEOUT_SECONDS = 3.0
# Requests at once while access is checked.
NUM_ASKING = 8
# The bytes of one file on this machine, and their sha256.
Fetched = tuple[Path, str]
# Returns the sha256 of a file.
Hash = Callable[[Path], str]


@dataclass(frozen=True)
class SourceFile:
    """One file of a source or benchmark on this machine.

    Attributes:
        file: name relative to the repository or folder.
        name: ``<hub id, samples:name, rows:name or folder name>/<file>``, never absolute.
        sha256: hash of its bytes.
        revision: commit of the hub repository that it was read at; None for other places, a mirror among them.
    """

    split: str
    file: str
    path: Path
    name: str
    sha256: str
    revision: str | None = None


def resolve_files(location: Location, settings: Settings, title: str = "files") -> list[SourceFile]:
    """Return the files of a source or benchmark in their declared order, fetched where they are not here yet.

    Args:
        title: what errors call the location: ``sources.yaml: source 'hh'``.

    Raises:
        UserError: a folder, repository or file is not there, may not be read, or cannot be reached.
    """
    try:
        files = location_files(location)
        root, fetched = _local(location, files, settings, file_sha256) or _from_hub(location, files, settings)
    except UserError as error:
        raise UserError(f"{title}: {error}") from error
    return _source_files(location, root, dict(zip(files, fetched, strict=True)), _commit(location, settings))


def known_files(location: Location, settings: Settings, title: str, sha256: Hash) -> list[SourceFile] | None:
    """Return what ``resolve_files`` would, without asking the hub for anything; None where it would have to.

    Args:
        sha256: hashes files of folders; those of the hub have been hashed when they were fetched.

    Raises:
        UserError: a folder or file is not there.
    """
    try:
        files = location_files(location)
        local = _local(location, files, settings, sha256)
    except UserError as error:
        raise UserError(f"{title}: {error}") from error
    commit = _commit(location, settings)
    if local:
        return _source_files(location, local[0], dict(zip(files, local[1], strict=True)), commit)
    repository = _repository(location)
    known = locked_files(settings, repository)
    if commit is None or not known.keys() >= set(files):
        return None
    fetched = {file: (_cached_path(repository, file, commit, settings), known[file]) for file in files}
    return _source_files(location, repository, fetched, commit)


def location_files(location: Location) -> list[str]:
    """Return the names of a location's files in their declared order.

    Raises:
        UserError: a name leaves the folder or stands twice.
    """
    files = [file for split in location.files.values() for file in split]
    _refuse_bad_names(files)
    return files


def _source_files(
    location: Location, root: str, fetched: Mapping[str, Fetched], commit: str | None
) -> list[SourceFile]:
    return [
        SourceFile(split, file, fetched[file][0], f"{root}/{file}", fetched[file][1], commit)
        for split, files in location.files.items()
        for file in files
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


def _local(location: Location, files: list[str], settings: Settings, sha256: Hash) -> tuple[str, list[Fetched]] | None:
    """Return what a location on this machine is called and each file; None for one on the hub."""
    if location.path is not None:
        for kind in (SAMPLES, ROWS):
            if location.path.startswith(kind):
                name = _named_folder(location.path, kind)
                parent = samples.folder(settings) if kind == SAMPLES else _rows(name, settings)
                return location.path, _in_folder(parent / name, files, f"path: {location.path}", sha256)
        folder = user_path(location.path)
        return folder.name, _in_folder(folder, files, f"path: {location.path}", sha256)
    repository = _repository(location)
    mirror = mirror_folder(repository, settings)
    if mirror:
        place = f"hub: {repository} in the mirror folder {mirror}"
        return repository, _in_folder(mirror, files, place, sha256)
    return None


def _from_hub(location: Location, files: list[str], settings: Settings) -> tuple[str, list[Fetched]]:
    repository = _repository(location)
    return repository, _fetch(repository, files, settings)


def _named_folder(path: str, kind: str) -> str:
    name = path.removeprefix(kind)
    if not FOLDER.fullmatch(name):
        raise UserError(f"path: {path!r} names no data set; write {kind}<name> without folders")
    return name


def _rows(name: str, settings: Settings) -> Path:
    if settings.rows is None or not (settings.rows / name).is_dir():
        where = f"{settings.rows}/{name}" if settings.rows else f"data/rows/{name} of the project"
        raise UserError(
            f"path: {ROWS}{name}: no hub has these rows and they are not on this machine; put them into "
            f"{where} (docs/data.md says where they are from), or set RMW_ROWS to the folder that holds them"
        )
    return settings.rows


def _repository(location: Location) -> str:
    repository = location.hub or ""
    if not HUB_ID.fullmatch(repository):
        raise UserError(f"hub: {repository!r} is no dataset id; write it as org/name")
    return repository


def _commit(location: Location, settings: Settings) -> str | None:
    """Return the commit at which a location is read, or None where it is not read from the hub."""
    from_hub = location.hub and not mirror_folder(location.hub, settings)
    return locked_commit(location.hub, settings) if location.hub and from_hub else None


def mirror_folder(repository: str, settings: Settings) -> Path | None:
    """Return the repository's folder in RMW_HUB_MIRROR, which is then asked instead of the hub, or None."""
    folder = settings.hub_mirror / repository if settings.hub_mirror else None
    return folder if folder and folder.is_dir() else None


def _in_folder(folder: Path, files: list[str], place: str, sha256: Hash) -> list[Fetched]:
    if not folder.is_dir():
        raise UserError(f"{place}: the folder {folder} does not exist; create it or correct `path`")
    for file in files:
        if not (folder / file).is_file():
            near = _nearest_file(file, folder)
            raise UserError(f"{place}: file {file} is missing ({near}); put it there or correct `files`")
    return [(folder / file, sha256(folder / file)) for file in files]


def _nearest_file(file: str, folder: Path) -> str:
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if not there:
        return "the folder is empty"
    close = difflib.get_close_matches(file, there, n=1, cutoff=0.0)
    return f"nearest there: {close[0]}" if close else f"there: {', '.join(there[:5])}"


# The hub ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Revision:
    """The files of a data set on the hub at one commit, brought to this machine.

    Attributes:
        files: name -> the file; one that the commit does not hold, or no longer, is left out.
    """

    repository: str
    commit: str
    files: Mapping[str, Fetched]

    def source_files(self, location: Location) -> list[SourceFile]:
        """Return those of a location's files that the commit holds, in their declared order."""
        there = {split: [file for file in files if file in self.files] for split, files in location.files.items()}
        return _source_files(location.model_copy(update={"files": there}), self.repository, self.files, self.commit)


def _fetch(repository: str, files: list[str], settings: Settings) -> list[Fetched]:
    """Return the files of a data set at its locked commit; the first file that is fetched locks it."""
    with _only_fetcher(repository, settings):
        attempts = download.Attempts(repository)
        before = locked_commit(repository, settings)
        commit = before or _newest_commit(repository, settings, attempts)
        fetched = []
        for file in files:
            known = locked_files(settings, repository).get(file)
            fetched.append(_fetch_file(repository, file, commit, known, settings, attempts))
            if known is None:
                lock_hub_revision(settings, "datasets", repository, commit, {file: fetched[-1][1]})
    if before:
        _report_drift(repository, before, settings)
    return fetched


def locked_commit(repository: str, settings: Settings) -> str | None:
    """Return the commit at which a data set is read, or None where none is locked yet."""
    commit: str | None = read_hub_lock(settings).get("datasets", {}).get(repository)
    return commit


def _cached_path(repository: str, file: str, commit: str, settings: Settings) -> Path:
    return settings.cache / "hub" / repository / commit / file


@contextmanager
def _only_fetcher(repository: str, settings: Settings) -> Iterator[None]:
    """Let one process at a time fetch a repository; the others wait and find the files there."""
    folder = settings.cache / "hub"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{repository.replace('/', '--')}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, wait=False))
        except BlockingIOError:
            logger.info("hub: another process is fetching %s; waiting for it", repository)
            held.enter_context(locked(path))
        yield


def _fetch_file(
    repository: str, file: str, commit: str, known: str | None, settings: Settings, attempts: download.Attempts
) -> Fetched:
    """Return one file at a commit, from the cache where it is there and whole.

    Args:
        known: its sha256 when it was first fetched at this commit.
    """
    path = _cached_path(repository, file, commit, settings)
    if path.is_file():
        sha256 = file_sha256(path)
        if known in (None, sha256):
            return path, sha256
        logger.warning("hub: %s of %s is damaged in the cache; it is fetched again", file, repository)
        path.unlink()
    with hub_told(repository, settings, file):
        remote = attempts.run(lambda: download.ask(repository, file, commit))
        if known and download.SHA256.fullmatch(remote.etag):
            _refuse_republished(repository, file, commit, known, remote.etag, settings)
        at_hand = _same_bytes(remote, repository, settings)
        sha256 = _copy(at_hand, path, remote.etag) if at_hand else download.download(remote, path, attempts)
    if known and sha256 != known:
        path.unlink()
        _refuse_republished(repository, file, commit, known, sha256, settings)
    return path, sha256


def _refuse_republished(repository: str, file: str, commit: str, known: str, now: str, settings: Settings) -> None:
    if now != known:
        raise UserError(
            f"hub: {file} of {repository} has other bytes now at the same commit {commit[:12]} (sha256 {now[:12]}, "
            f"first fetched as {known[:12]}), which is refused; restore the file to the cache, or take it by deleting "
            f"the entry of {repository} under `files` in {settings.home / HUB_LOCK}"
        )


def _same_bytes(remote: download.RemoteFile, repository: str, settings: Settings) -> Path | None:
    """Return a file of the locked commit that has the bytes of a file of another commit, or None."""
    commit = locked_commit(repository, settings)
    if commit is None:
        return None
    same = [file for file, sha256 in locked_files(settings, repository).items() if sha256 == remote.etag]
    paths = [_cached_path(repository, file, commit, settings) for file in same]
    return next((path for path in paths if path.is_file() and file_sha256(path) == remote.etag), None)


def _copy(source: Path, target: Path, sha256: str) -> str:
    """Give a file a second name, or copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        draft = target.with_name(f"{target.name}.part")
        shutil.copyfile(source, draft)
        draft.rename(target)
    return sha256


def fetch_revision(repository: str, files: Sequence[str], commit: str, settings: Settings) -> Revision:
    """Bring files of a data set at a commit to this machine; which commit is read stays as it is: see ``take``.

    Raises:
        UserError: the repository may not be read or cannot be reached.
    """
    known = locked_files(settings, repository) if commit == locked_commit(repository, settings) else {}
    attempts = download.Attempts(repository)
    fetched = {}
    with _only_fetcher(repository, settings):
        for file in files:
            with suppress(NotInRepositoryError):
                fetched[file] = _fetch_file(repository, file, commit, known.get(file), settings, attempts)
    return Revision(repository, commit, fetched)


def take(revision: Revision, settings: Settings) -> None:
    """Read a data set at this revision from now on."""
    files = {file: sha256 for file, (_, sha256) in revision.files.items()}
    lock_hub_revision(settings, "datasets", revision.repository, revision.commit, files, replace=True)


def newer_commit(repository: str, settings: Settings) -> str | None:
    """Return the hub's newest commit of a data set where it is not the locked one; asked once, for a few seconds.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    with hub_told(repository, settings):
        newest = download.ask_newest(repository, DRIFT_TIMEOUT_SECONDS)
    return newest if newest != locked_commit(repository, settings) else None


def follow(repository: str, commit: str, files: Sequence[str], settings: Settings) -> None:
    """Fetch files of a data set at a commit, and all others that are in use, and read it from now on.

    Raises:
        UserError: the commit lacks a file, or it cannot be fetched; nothing is taken.
    """
    wanted = list(dict.fromkeys([*files, *locked_files(settings, repository)]))
    revision = fetch_revision(repository, wanted, commit, settings)
    missing = [file for file in wanted if file not in revision.files]
    if missing:
        raise UserError(
            f"{missing[0]} is not in the newest commit {commit[:12]} of {repository}, so the locked one stays; correct "
            "`files` of the source, then run rmw sources update"
        )
    take(revision, settings)


def newest_commit(repository: str, settings: Settings) -> str:
    """Return the commit at which the hub has a data set now.

    Raises:
        UserError: the repository is not there, may not be read, or cannot be reached.
    """
    return _newest_commit(repository, settings, download.Attempts(repository))


def _newest_commit(
    repository: str, settings: Settings, attempts: download.Attempts, timeout: float = download.TIMEOUT_SECONDS
) -> str:
    with hub_told(repository, settings):
        return attempts.run(lambda: download.ask_newest(repository, timeout))


def _report_drift(repository: str, locked: str, settings: Settings) -> None:
    """Warn when the hub has a newer commit than the locked one; a hub that cannot be asked is no news."""
    try:
        newest = newer_commit(repository, settings)
    except UserError as error:
        logger.debug("drift of %s is not known: %s", repository, error)
        return
    if newest:
        logger.warning(
            "hub: %s has moved on to %s; the locked commit %s is used (`rmw sources update` shows what has changed)",
            repository,
            newest,
            locked,
        )


def check_access(locations: Mapping[str, Location], settings: Settings) -> None:
    """Ask the hub for each file that is not on this machine yet, so that a refusal comes before hours of work.

    A hub that is only busy is left to the fetch, which waits for it.

    Args:
        locations: what errors call a location -> the location.

    Raises:
        UserError: a data set is gated, private or not there, a file is not in it, or the hub cannot be reached.
    """
    asked = {title: location for title, location in locations.items() if location.hub}
    with ThreadPoolExecutor(NUM_ASKING) as pool:
        sentences = list(pool.map(lambda title: _refusal(title, asked[title], settings), asked))
    for sentence in sentences:
        if sentence:
            raise UserError(sentence)


def _refusal(title: str, location: Location, settings: Settings) -> str | None:
    """Return why a location's files cannot be fetched, or None."""
    try:
        files, repository = location_files(location), _repository(location)
        if not mirror_folder(repository, settings):
            _ask_for_missing(repository, files, settings)
    except UserError as error:
        return f"{title}: {error}"
    return None


def _ask_for_missing(repository: str, files: list[str], settings: Settings) -> None:
    commit = locked_commit(repository, settings)
    if commit:
        files = [file for file in files if not _cached_path(repository, file, commit, settings).is_file()]
    for file in files:
        with hub_told(repository, settings, file), _busy_ignored():
            commit = commit or download.ask_newest(repository, download.TIMEOUT_SECONDS)
            download.ask(repository, file, commit)


@contextmanager
def _busy_ignored() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if download.status_of(error) not in download.PASSING_STATUSES:
            raise
