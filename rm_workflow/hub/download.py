"""One file of a hub repository: continued where it broke off, and believed only when its hash is the stated one.

huggingface_hub finds the file and logs in; its own download is not used, because it (2.4.0, ``file_download.py``)
begins at byte 0 again in every new process, gives up at once on a 5xx or a reset connection within a file, checks the
size but not the hash, waits as long as any ``Retry-After`` says, and logs whole URLs with the signature of a CDN.
"""

import hashlib
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

from rm_workflow.durable_files import fsync
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id, file_sha256

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
# Seconds without a byte, and without an answer, after which a connection counts as broken.
TIMEOUT_SECONDS = 30.0
SHA256 = re.compile(r"[0-9a-f]{64}")
GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
# They write whole URLs, and the hub redirects large files to URLs that let in whoever has them.
LOGGERS_OF_URLS = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub")


@dataclass(frozen=True)
class Patience:
    """How long a hub that fails is asked again.

    Attributes:
        num_failures: failures in a row, without a new byte between them, after which it is given up.
        first_wait: seconds before the second try; twice as long before each further one, with jitter of up to a half.
        longest_wait: bound of one such wait in seconds.
        budget: seconds of waiting for one repository, and so the longest ``Retry-After`` that is obeyed.
        progress_every: seconds between two lines about a file that is still coming.
        sleep: waits for a number of seconds.
    """

    num_failures: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    budget: float = 900.0
    progress_every: float = 10.0
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub states it.

    Attributes:
        label: ``<repository> <file>``, for people.
        etag: sha256 of a large (LFS) file, git's blob hash of any other.
        size: bytes, or None where the server does not say.
    """

    label: str
    url: str
    etag: str
    size: int | None


class BadTransferError(Exception):
    """What came is not what the hub states; a further try may mend it."""


class WrongBytesError(BadTransferError):
    """All bytes came, but they have another hash or there are more of them."""


class NotTheHubError(Exception):
    """The server does not answer as the hub does: a proxy, a log-in page, or a wrong HF_ENDPOINT."""


class Attempts:
    """Tries at one repository within ``PATIENCE``."""

    def __init__(self, repository: str) -> None:
        self._repository = repository
        self._patience = PATIENCE
        self._reached = False
        self._num_failures = 0
        self._num_wrong = 0
        self._waited = 0.0
        self._most_bytes = 0

    def run(self, action: Callable[[], Result]) -> Result:
        """Return the action's result; try again after what may pass, with back-off, and raise anything else."""
        while True:
            try:
                result = action()
            except Exception as error:
                seconds = self._wait_for(error)
                if seconds is None:
                    raise
                self._waited += seconds
                logger.info("hub: %s: %s; trying again in %.0f s", self._repository, cause(error), seconds)
                self._patience.sleep(seconds)
            else:
                self._reached = True
                self._num_failures = self._most_bytes = 0
                return result

    def progressed(self, num_bytes: int) -> None:
        """Note that a file has grown to ``num_bytes``: a connection that brings more each time is worth another try."""
        if num_bytes > self._most_bytes:
            self._most_bytes = num_bytes
            self._num_failures = 0

    def _wait_for(self, error: Exception) -> float | None:
        """Return how long to wait before another try, or None where none is worth it."""
        self._num_failures += 1
        self._num_wrong += isinstance(error, WrongBytesError)
        status = status_of(error)
        never_reached = status is None and not self._reached and not isinstance(error, BadTransferError)
        if not may_pass(error) or never_reached or self._num_wrong > 1:
            return None
        asked = retry_after(error)
        seconds = self._backoff() if asked is None else asked
        over = self._num_failures >= self._patience.num_failures or self._waited + seconds > self._patience.budget
        return None if over else seconds

    def _backoff(self) -> float:
        doubled = self._patience.first_wait * 2.0 ** min(self._num_failures - 1, 30)
        return min(doubled, self._patience.longest_wait) * random.uniform(0.5, 1.0)


def may_pass(error: Exception) -> bool:
    """Return whether the same request may be answered later: a busy or broken server, a lost connection."""
    status = status_of(error)
    if status is not None:
        return status in PASSING_STATUSES
    return isinstance(error, (BadTransferError, transport_error()))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status with which the hub refused, or None where it did not answer."""
    from huggingface_hub.errors import HfHubHTTPError

    return int(error.response.status_code) if isinstance(error, HfHubHTTPError) else None


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that a refusal asks to wait (``Retry-After``, or the hub's own ``RateLimit``), or None."""
    if status_of(error) is None:
        return None
    headers: Mapping[str, str] = error.response.headers  # type: ignore[attr-defined]
    asked = headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    if asked:
        return _seconds_until(asked)
    # https://huggingface.co/docs/hub/rate-limits: `RateLimit: "api";r=0;t=55`, no request left for 55 s
    left = re.search(r"\br=0;t=(\d+)", headers.get("RateLimit", ""))
    return float(left[1]) if left else None


def _seconds_until(date: str) -> float | None:
    try:
        then = parsedate_to_datetime(date)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def transport_error() -> type[Exception]:
    """Return the base class of the HTTP client that the hub library uses: no name server, no route, time-out."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def cause(error: BaseException) -> str:
    """Return the HTTP status of a refusal, or the first line of another error without signatures."""
    status = status_of(error)
    return without_signatures(error) if status is None else f"HTTP {status}"


def without_signatures(error: BaseException) -> str:
    """Return the first line of an error; of a URL in it nothing after ``?``, where signatures stand."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"(\w+://[^\s?]+)\?\S*", r"\1?...", lines[0])


def endpoint() -> str | None:
    """Return HF_ENDPOINT as it is now; huggingface_hub reads it only once, at import."""
    return os.environ.get("HF_ENDPOINT") or None


def quiet_url_loggers() -> None:
    """Keep the libraries below from logging URLs, at whatever level the log is read."""
    for name in LOGGERS_OF_URLS:
        named = logging.getLogger(name)
        named.setLevel(max(named.level, logging.ERROR))


def ask(repository: str, file: str, commit: str) -> RemoteFile:
    """Return what the hub states about a file of a data set at a commit.

    Raises:
        HfHubHTTPError, NotTheHubError: the hub refuses; it does not answer as the hub does.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    quiet_url_loggers()
    url = hf_hub_url(repository, file, repo_type="dataset", revision=commit, endpoint=endpoint())
    found = get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS, endpoint=endpoint())
    if not found.etag or found.commit_hash != commit:
        raise NotTheHubError(f"{file} is answered without its hash or with another commit")
    return RemoteFile(f"{repository} {file}", url, found.etag, found.size)


def ask_newest(repository: str, timeout: float) -> str:
    """Return the commit at which the hub has a data set now; ``timeout`` in seconds.

    Raises:
        HfHubHTTPError, NotTheHubError: the hub refuses; it does not answer as the hub does.
    """
    from huggingface_hub import HfApi

    quiet_url_loggers()
    try:
        return str(HfApi(endpoint=endpoint()).dataset_info(repository, timeout=timeout).sha)
    except (ValueError, KeyError) as error:
        raise NotTheHubError(f"no JSON about the data set, {type(error).__name__}") from error


def download(remote: RemoteFile, target: Path, attempts: Attempts) -> str:
    """Bring a file to ``target``, which appears whole or not at all, and return its sha256.

    What a broken connection left stands beside ``target`` under a name with the file's hash and is continued, also by
    another process on another day. The caller sees to it that no other process fetches the same file.

    Raises:
        UserError: the disk has too little space.
        HfHubHTTPError, BadTransferError, the HTTP client's errors: beyond ``PATIENCE``.
    """
    part = target.with_name(f"{target.name}.{content_id(remote.etag)[:12]}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    _refuse_full_disk(remote, part)

    def bring() -> str:
        _continue(remote, part, attempts)
        return _verified(remote, part)

    sha256 = attempts.run(bring)
    fsync(part)
    part.rename(target)
    fsync(target.parent)
    return sha256


def _refuse_full_disk(remote: RemoteFile, part: Path) -> None:
    missing = (remote.size or 0) - _size(part)
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise UserError(
            f"hub: {remote.label} needs {_megabytes(missing)} more, and {part.parent} has {_megabytes(free)} free; "
            "free space there, or set RMW_HOME to a larger disk"
        )


def _continue(remote: RemoteFile, part: Path, attempts: Attempts) -> None:
    """Append to ``part`` the bytes that it lacks."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    # Without a stated size nobody can tell a whole file from a broken one.
    start = 0 if remote.size is None else _size(part)
    if remote.size is not None and start >= remote.size:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # The hub's own URL each time, as the signature of the one it redirects to expires; the client takes the token out
    # of the request when it follows to another host.
    request = get_session().stream("GET", remote.url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True)
    with request as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:
            start = 0
        progress = _Progress(remote, start)
        with part.open("ab") as file:
            file.truncate(start)
            for chunk in response.iter_bytes():
                file.write(chunk)
                start += len(chunk)
                attempts.progressed(start)
                progress.show(start)


def _verified(remote: RemoteFile, part: Path) -> str:
    """Return the sha256 of a whole file; one with wrong bytes is deleted.

    Raises:
        BadTransferError: it is shorter than stated, longer, or has another hash.
    """
    size = _size(part)
    if remote.size is not None and size < remote.size:
        raise BadTransferError(f"{remote.label} came short, {size:,} of {remote.size:,} bytes")
    sha256 = file_sha256(part)
    stated = sha256 if SHA256.fullmatch(remote.etag) else _git_hash(part, size)
    known = SHA256.fullmatch(remote.etag) or GIT_SHA1.fullmatch(remote.etag)
    if (remote.size is not None and size > remote.size) or (known and stated != remote.etag):
        part.unlink()
        raise WrongBytesError(f"{remote.label} came with other bytes than the hub states ({size:,} bytes)")
    return sha256


def _git_hash(path: Path, size: int) -> str:
    """Return git's hash of a file, by which the hub names what is not in its large-file store."""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


class _Progress:
    """Lines about a file that takes long."""

    def __init__(self, remote: RemoteFile, start: int) -> None:
        self._remote, self._start = remote, start
        self._begun = self._told = time.monotonic()

    def show(self, num_bytes: int) -> None:
        """Log how much is here and how long the rest takes, once every ``PATIENCE.progress_every`` seconds."""
        now = time.monotonic()
        if now - self._told < PATIENCE.progress_every:
            return
        self._told = now
        speed = (num_bytes - self._start) / max(now - self._begun, 1e-9)
        size = self._remote.size
        rest = f" of {_megabytes(size)}, about {(size - num_bytes) / max(speed, 1.0):,.0f} s left" if size else ""
        logger.info("hub: %s: %s%s", self._remote.label, _megabytes(num_bytes), rest)
