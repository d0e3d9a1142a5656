"""Scores as they come: Parquet parts in a work folder, so that a scoring that was killed goes on where it was.

A part holds ``key`` (a hash of the token ids) and ``score``, and gets its name when it is whole and on the disk. The
name ends with the hash of its bytes, so that a damaged part is told, removed, and its scores computed again. The folder
belongs to one scoring: the same model, precision, device and sequences; several processes may do it at once. It is no
result and is removed when the result is published.
"""

import hashlib
import logging
import math
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rm_workflow.durable_files import fsync
from rm_workflow.keys import file_sha256

logger = logging.getLogger(__name__)

KEY_BYTES = 16
SCHEMA = pa.schema([("key", pa.binary(KEY_BYTES)), ("score", pa.float64())])
NAME = re.compile(r"part-(?P<number>\d{6,})-(?P<sha256>[0-9a-f]{64})\.parquet")
# A killed scoring loses at most so many seconds of work, or one pass.
SECONDS_A_PART = 10.0


class Parts:
    """The parts of one scoring.

    Attributes:
        num_found: scores that stood in the folder when it was opened.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._scores: dict[bytes, float] = {}
        self._new: list[tuple[bytes, float]] = []
        self._written = time.monotonic()
        self._next_part = 0
        for path in self._whole_parts():
            table = pq.read_table(path, schema=SCHEMA)
            self._scores.update(zip(table["key"].to_pylist(), table["score"].to_pylist(), strict=True))
        self.num_found = len(self._scores)
        if self.num_found:
            logger.info("%s scores were there already", f"{self.num_found:,}")

    def _whole_parts(self) -> Iterator[Path]:
        """Yield the parts in their order, after the removal of those that are not what was written."""
        named = [(match, path) for path in sorted(self._folder.iterdir()) if (match := NAME.fullmatch(path.name))]
        for match, path in named:
            self._next_part = max(self._next_part, int(match["number"]) + 1)
            if file_sha256(path) == match["sha256"]:
                yield path
            else:
                logger.warning("%s is damaged, by its sha256; its scores are computed again", path)
                path.unlink(missing_ok=True)

    def find(self, keys: Sequence[bytes]) -> list[float] | None:
        """Return the scores of sequences, or None where one of them is missing or no number."""
        found = [self._scores.get(_short(key), math.nan) for key in keys]
        return found if all(map(math.isfinite, found)) else None

    def add(self, keys: Sequence[bytes], scores: Sequence[float]) -> None:
        """Take scores; they are on the disk a few seconds later, or when ``flush`` returns."""
        self._new += zip(map(_short, keys), scores, strict=True)
        if time.monotonic() - self._written >= SECONDS_A_PART:
            self.flush()

    def flush(self) -> None:
        """Write what was taken since the last part."""
        if self._new:
            keys, scores = zip(*self._new, strict=True)
            draft = self._folder / f"{uuid.uuid4().hex}.draft"
            pq.write_table(pa.table({"key": list(keys), "score": list(scores)}, SCHEMA), draft, compression="zstd")
            fsync(draft)
            draft.rename(self._folder / f"part-{self._next_part:06d}-{file_sha256(draft)}.parquet")
            fsync(self._folder)
            self._next_part += 1
            self._new = []
        self._written = time.monotonic()


def _short(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=KEY_BYTES).digest()
