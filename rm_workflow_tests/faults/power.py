"""What a disk may hold after the power went: only what was brought to it by fsync, the least that POSIX promises."""

import os
import stat
from pathlib import Path

from rm_workflow_tests.faults.watched import Call


class Disk:
    """Follows the calls under a folder and can write down what of it would have survived.

    A file has the bytes, and a folder the names, of its last fsync; what was there at the start is on the disk. A file
    that never was brought to the disk is empty, though its name may be there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        # As long as a file is open its number is not given to another.
        self._opened: dict[int, int] = {}
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        for path in (self.root, *self.root.rglob("*")):
            self._sync(path)

    def saw(self, call: Call) -> None:
        """Take note of one call."""
        if call.name in ("fsync", "fdatasync"):
            self._sync(self.root / call.path)

    def write_survivors(self, target: Path) -> None:
        """Write what survives into a new folder."""
        self._write(os.stat(self.root).st_ino, target)

    def close(self) -> None:
        """Let go of all files."""
        for descriptor in self._opened.values():
            os.close(descriptor)
        self._opened.clear()

    def _sync(self, path: Path) -> None:
        number = self._number(path)
        if path.is_dir():
            self._names[number] = {name: self._number(path / name) for name in os.listdir(path)}
        else:
            self._bytes[number] = path.read_bytes()

    def _number(self, path: Path) -> int:
        number = path.stat().st_ino
        if number not in self._opened:
            self._opened[number] = os.open(path, os.O_RDONLY)
        return number

    def _write(self, number: int, target: Path) -> None:
        if not stat.S_ISDIR(os.fstat(self._opened[number]).st_mode):
            target.write_bytes(self._bytes.get(number, b""))
            return
        target.mkdir()
        for name, child in self._names.get(number, {}).items():
            self._write(child, target / name)
