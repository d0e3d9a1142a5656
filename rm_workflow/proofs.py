"""How a file is known to be what was written: sealed JSON, and which files were hashed since when.

A manifest or event carries the sha256 of its own content. The sizes of an artifact's files are looked at whenever it is
found; the files are hashed before they are used where a proof of them is missing: that they were hashed, or written,
since the machine was started, and have not been touched since. So a run after a restart, which may have been a crash,
hashes each artifact it takes once.

Proofs lie under ``cache/proofs/`` and may be deleted: what they stand for is then hashed again.
"""

import contextlib
import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rm_workflow.errors import UserError
from rm_workflow.keys import file_sha256

SEAL = "sha256"
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
# Below this a file is hashed without a word: about a second.
SAID_FROM_BYTES = 1 << 30

logger = logging.getLogger(__name__)


def sealed_json(content: Mapping[str, Any]) -> str:
    """Return JSON text of an object with the hash of all the rest as its last value."""
    # As a reader will find it: keys that are numbers become texts, tuples lists.
    plain = json.loads(json.dumps(content))
    return json.dumps({**plain, SEAL: _seal(plain)}, ensure_ascii=False, indent=1)


def read_sealed(path: Path, mend: str) -> dict[str, Any]:
    """Return the object that ``sealed_json`` was given.

    Raises:
        UserError: it is not what was written, or an older version wrote it.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        found = content.pop(SEAL, None)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {mend}") from error
    if found is None:
        raise UserError(
            f"{path} is of an older store format, which this version does not read; set RMW_HOME to another folder, or "
            f"{mend}"
        )
    if found != _seal(content):
        raise UserError(f"{path} is damaged (it is not what was written, by its {SEAL}); {mend}")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Proofs:
    """Which files of artifacts are known to hold what their manifests say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fault(self, name: str, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Return what is wrong with the files in ``folder``, or None; only what has no proof is hashed.

        Args:
            name: of the proof, ``<asset>/<version>``.
            files: bytes and sha256 of each, as a manifest has them.
        """
        known = self._read(name)
        doubtful = [file for file in files if known.get(file) != _state(folder / file)]
        num_bytes = sum(files[file]["bytes"] for file in doubtful)
        if num_bytes >= SAID_FROM_BYTES:
            logger.info("%s: its files (%.1f GB) are hashed before they are used", name, num_bytes / 1e9)
        for file in doubtful:
            reason = fault_of_file(folder / file, files[file])
            if reason:
                return f"file {file} {reason}"
        if doubtful:
            self.note(name, folder, files)
        return None

    def note(self, name: str, folder: Path, files: Mapping[str, Any]) -> None:
        """Note that these files hold what their manifest says, as they lie there now; notes of others stay."""
        noted = {**self._read(name), **{file: _state(folder / file) for file in files}}
        proof = {"boot": _boot_id(), "files": noted}
        path = self.folder / f"{name}.json"
        draft = path.with_suffix(f".{uuid.uuid4().hex}.draft")
        # Not worth a failure, nor a wait for the disk: without it the files are hashed again.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(proof), "utf-8")
            draft.replace(path)

    def forget(self, name: str) -> None:
        """Remove the proof of an artifact that is gone."""
        with contextlib.suppress(OSError):
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            proof = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
            files: dict[str, Any] = proof["files"] if proof["boot"] == _boot_id() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return files


def fault_of_file(path: Path, entry: Mapping[str, Any]) -> str | None:
    """Return what is wrong with one file, as a predicate, or None where its bytes are those of its manifest."""
    size = path.stat().st_size if path.is_file() else None
    if size != entry["bytes"]:
        return f"has {size} bytes where its manifest says {entry['bytes']}"
    if file_sha256(path) != entry["sha256"]:
        return "is not what was published (its sha256 differs)"
    return None


def _state(path: Path) -> list[int] | None:
    """Return what changes when somebody writes to a file or puts another in its place."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns]


def _boot_id() -> str:
    return BOOT_ID_FILE.read_text("utf-8").strip() if BOOT_ID_FILE.exists() else "unknown"
