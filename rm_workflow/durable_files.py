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


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file to write to that takes the place of ``path`` when the block ends well, and is removed else.

    What is no plain file, as a pipe, is written to as it is; of a link the file that it points to is replaced.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        yield path
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        yield draft
        fsync(draft)
        draft.replace(target)
        fsync(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def make_folders(folder: Path) -> None:
    """Make a folder and its parents, each brought to the disk as a name in the one above it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        fsync(made.parent)


def fsync_names(folder: Path, top: Path) -> None:
    """Bring the names in a folder to the disk, and those of all folders above it up to and including ``top``.

    A folder may be there and its name not on the disk yet: whoever made it may have been killed before.
    """
    fsync(folder)
    while folder != top:
        folder = folder.parent
        fsync(folder)


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


class Hold:
    """A shared lock on a folder, for as long as somebody refers to this object or until the process ends."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # Some network file systems lock no folders; there nothing can be held, and ``unheld`` says so.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._descriptor)


@contextlib.contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Say whether nobody holds a folder, and if so let new holders wait until the block ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
