"""``<home>/hub_lock.json``: at which commit each hub repository is read, and what its files were when first fetched.

::

    {"datasets": {"org/rows": "<commit>"},
     "files": {"org/rows": {"data/train.jsonl": "<sha256>"}},
     "models": {"org/model": "<commit>"}}
"""

import json
from collections.abc import Mapping
from typing import Any

from rm_workflow.durable_files import locked, write_whole
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings

HUB_LOCK = "hub_lock.json"


def read_hub_lock(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return what is locked so far under RMW_HOME, in the form above; a missing part is left out.

    Raises:
        UserError: the file is no JSON object of objects.
    """
    path = settings.home / HUB_LOCK
    if not path.is_file():
        return {}
    try:
        lock: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); restore it, or delete it to lock the newest commits") from error
    if not isinstance(lock, dict) or not all(isinstance(part, dict) for part in lock.values()):
        raise UserError(f"{path}: not an object of objects; restore it, or delete it to lock the newest commits")
    return lock


def locked_files(settings: Settings, repository: str) -> dict[str, str]:
    """Return file -> sha256 of a data set at its locked commit, as far as its files were fetched."""
    files: dict[str, str] = read_hub_lock(settings).get("files", {}).get(repository, {})
    return files


def lock_hub_revision(
    settings: Settings,
    kind: str,
    repository: str,
    commit: str,
    files: Mapping[str, str] | None = None,
    replace: bool = False,
) -> None:
    """Record the commit of a repository, and the sha256 of files at it; what is locked stays unless ``replace``.

    Hashes of files at another commit than the locked one, which another process may have taken meanwhile, are left out.

    Args:
        kind: ``datasets`` or ``models``.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / HUB_LOCK
    with locked(path.with_suffix(".lock")):
        lock = read_hub_lock(settings)
        commits = lock.setdefault(kind, {})
        commits[repository] = commit if replace else commits.get(repository, commit)
        if kind == "datasets" and commits[repository] == commit:
            hashes = lock.setdefault("files", {})
            hashes[repository] = {**(files or {}), **({} if replace else hashes.get(repository, {}))}
        write_whole(path, json.dumps(lock, indent=1, sort_keys=True) + "\n")
