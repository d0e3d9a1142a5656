"""Files that appear whole or not at all, and locks that the system releases when their holder ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all; the caller holds the lock of its folder."""
    draft = path.with_name(".draft")
    draft.write_text(text, "utf-8")
    fsync(draft)
    draft.rename(path)
    fsync(path.parent)


def fsync_tree(folder: Path) -> None:
    """Bring a folder and all that it holds to the disk, so that a later mark of completeness can be believed."""
    for path in sorted(folder.rglob("*"), reverse=True):
        fsync(path)
    fsync(folder)


def fsync(path: Path) -> None:
    """Bring one file, or the names in one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system releases it when the process ends, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
