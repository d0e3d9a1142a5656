"""A model to the Hugging Face hub: one commit on one branch of a model repository."""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rm_workflow.errors import UserError
from rm_workflow.hub import HUB_ID
from rm_workflow.hub.download import cause, endpoint, quiet_url_loggers, status_of, transport_error

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

MAIN = "main"
# Weights of an earlier model at the same place, which would be loaded with, or before, the new ones.
WEIGHTS = re.compile(r"(.*/)?([^/]+\.safetensors(\.index\.json)?|pytorch_model[^/]*\.(bin|bin\.index\.json))")


@dataclass(frozen=True)
class Pushed:
    """What is on the hub now.

    Attributes:
        url: page of the branch.
        removed: weights of an earlier model that were taken away.
    """

    repository: str
    revision: str
    commit: str
    url: str
    removed: tuple[str, ...]


def check_names(repository: str, revision: str) -> None:
    """Refuse what is no name on the hub.

    Raises:
        UserError: names what is wrong.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not HUB_ID.fullmatch(repository):
        raise UserError(f"hub: {repository!r} is no repository; write it as org/name")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"hub: {repository!r} is no repository ({str(error).splitlines()[0].rstrip('.')}); rename it"
        ) from None
    if (
        not revision
        or not revision.isprintable()
        or revision.startswith(("refs/", "-", "/"))
        or any(c in revision for c in " ~^:?*[\\")
        or ".." in revision
    ):
        raise UserError(f"hub: {revision!r} is no branch; name the revision by letters, digits, '.', '_' and '-'")


def has_token() -> bool:
    """Tell whether the hub's token is at hand: HF_TOKEN, or what ``hf auth login`` stored."""
    from huggingface_hub import get_token

    return get_token() is not None


def push(
    repository: str, files: Mapping[str, Path | bytes], message: str, revision: str = MAIN, private: bool = False
) -> Pushed:
    """Upload files in one commit; the repository and the branch are made where they are not there.

    Weights that the branch holds under other names are removed in the same commit, so that a loader never finds parts
    of two models.

    Args:
        files: name in the repository -> file, or its bytes.
        private: of a new repository; one that exists stays what it is.

    Raises:
        UserError: there is no token, it may not write there, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    check_names(repository, revision)
    if not has_token():
        raise UserError("hub: there is no token to write with; log in with `hf auth login`, or set HF_TOKEN")
    quiet_url_loggers()
    if not sys.stderr.isatty():
        disable_progress_bars()
    total = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in files.values())
    logger.info("hub: pushing %s files, %.1f MB, to %s, revision %s", len(files), total / 1e6, repository, revision)
    api = HfApi(endpoint=endpoint())
    with _told(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if revision != MAIN:
            api.create_branch(repository, branch=revision, exist_ok=True)
        removed = _old_weights(api, repository, revision, set(files))
        added = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in sorted(files.items())
        ]
        deleted = [CommitOperationDelete(name) for name in removed]
        commit = api.create_commit(repository, [*added, *deleted], commit_message=message, revision=revision)
    return Pushed(repository, revision, str(commit.oid), f"{api.endpoint}/{repository}/tree/{revision}", tuple(removed))


def _old_weights(api: "HfApi", repository: str, revision: str, new: set[str]) -> list[str]:
    there = api.list_repo_files(repository, revision=revision)
    return sorted(name for name in there if WEIGHTS.fullmatch(name) and name not in new)


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Turn the hub's errors into one sentence each, without its URLs; the token stands in none."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError(f"hub: HF_HUB_OFFLINE forbids to push {repository}; unset it") from None
    except (transport_error(), ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"hub: {_sentence(repository, error)}") from None


def _sentence(repository: str, error: BaseException) -> str:
    # A failed upload of one file is told as a RuntimeError around the cause.
    inner = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    status = status_of(inner)
    if status == 401:
        return "the token is not accepted (HTTP 401); log in anew with `hf auth login`, or correct HF_TOKEN"
    if status == 403:
        return (
            f"the token may not write to {repository} (HTTP 403); take one with write access to it from "
            "https://huggingface.co/settings/tokens"
        )
    if status == 404:
        return f"{repository} is not there, or hidden from this token (HTTP 404); correct the name"
    if status is not None:
        return f"{repository} could not be pushed (HTTP {status}); run the same command again, files that came are kept"
    return f"{repository} could not be pushed ({cause(inner)}); run the same command again, files that came are kept"
