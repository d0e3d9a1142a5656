"""What a file of the user's own is: the adapter that understands its first rows, and its catalogue entries."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.errors import UserError
from rm_workflow.preferences import adapters
from rm_workflow.preferences.files import BrokenLine, Row, read_rows
from rm_workflow.preferences.tables import Example, RowDropped
from rm_workflow.preferences.understanding import understand

# Adapters that are tried; of two that understand as many rows the first is taken, so the more special stands first.
TRIED = ("hh_transcript", "chosen_rejected", "scored_completions")
LOOKED_AT = 100  # rows
GIVEN_SLOTS = {"chosen", "rejected"}


@dataclass(frozen=True)
class OwnData:
    """A file as it would stand in the catalogue.

    Attributes:
        source: the source with an absolute path.
        rated: responses are ranked by their ratings, not given as chosen and rejected.
        ratings: names of the ratings that were met.
    """

    source: Source
    rated: bool
    ratings: list[str]

    def entries(self, name: str, catalog_folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
        """Return the entries of ``sources.yaml`` and ``pair_sets.yaml``; the path is relative where that is short."""
        folder = Path(str(self.source.path))
        near = folder.is_relative_to(catalog_folder.parent)
        source = {
            "path": os.path.relpath(folder, catalog_folder) if near else str(folder),
            **self.source.model_dump(include={"files", "adapter", "columns", "licence"}, exclude_defaults=True),
        }
        return {"sources.yaml": {name: source}, "pair_sets.yaml": {name: self._pair_set(name)}}

    def _pair_set(self, name: str) -> dict[str, Any]:
        rules = ["identical_responses", "exact_duplicate"]
        if not self.rated:
            return {"source": name, "candidates": "given", "rules": rules}
        rules = ["rating", "equal_score", *rules]
        return {"source": name, "candidates": "rated", "score": self.ratings, "rules": rules}


def understand_file(name: str, file: Path, adapter: str | None, columns: Mapping[str, str], licence: str) -> OwnData:
    """Return what a JSON Lines or Parquet file is, by its first rows.

    Args:
        adapter: taken as it is; None tries ``TRIED``.
        columns: field of the adapter -> column of the file, see ``Source``.

    Raises:
        UserError: the file cannot be read, or no adapter understands any of its first rows.
    """
    rows = [row for _, row in islice(read_rows(file, str(file)), LOOKED_AT)]

    def source(adapter: str) -> Source:
        folder, files = str(file.parent), {"train": [file.name]}
        return Source(path=folder, files=files, adapter=adapter, columns=dict(columns), licence=licence)

    if adapter is None:
        adapter = _guess(name, file, rows, {tried: source(tried) for tried in TRIED})
    adapters.check_source(name, source(adapter))
    examples, _ = _try(rows, source(adapter))
    slots = {response.slot for example in examples for response in example.responses}
    ratings = {rating for example in examples for response in example.responses for rating in response.ratings}
    rated = bool(slots - GIVEN_SLOTS)
    if rated and not ratings:
        raise UserError(f"{file}: no response has a rating to rank by; name their field with --column ratings=FIELD")
    return OwnData(source(adapter), rated, sorted(ratings))


def _guess(name: str, file: Path, rows: Sequence[Row | BrokenLine], sources: Mapping[str, Source]) -> str:
    """Return the adapter that understands the most rows."""
    understood: dict[str, int] = {}
    problems: dict[str, str] = {}
    for adapter, source in sources.items():
        try:
            adapters.check_source(name, source)
        except UserError:
            continue  # it has no field of this name
        examples, drops = _try(rows, source)
        understood[adapter] = len(examples)
        problems[adapter] = drops.most_common(1)[0][0] if drops else "no rows"
    best = max(understood, key=lambda adapter: understood[adapter], default=None)
    if best is None:
        raise UserError(f"--column: no adapter of {', '.join(sources)} has the fields {', '.join(source.columns)}")
    # A file of no rows is nobody's; the check of all rows refuses it in the words of the build.
    if rows and not understood[best]:
        columns = dict.fromkeys(column for row in rows if isinstance(row, dict) for column in row)
        tried = "; ".join(f"{adapter}: {problem}" for adapter, problem in problems.items())
        raise UserError(
            f"{file}: no adapter understands its first rows ({tried}); it has the columns {', '.join(columns)}: "
            "map them with --column FIELD=COLUMN, or choose with --adapter"
        )
    return best


def _try(rows: Sequence[Row | BrokenLine], source: Source) -> tuple[list[Example], Counter[str]]:
    examples: list[Example] = []
    drops: Counter[str] = Counter()
    for row in rows:
        try:
            examples.append(understand(row, source, adapters.get(source.adapter))[1])
        except RowDropped as drop:
            drops[f"{drop.reason} ({drop.detail})" if drop.detail else drop.reason] += 1
    return examples, drops
