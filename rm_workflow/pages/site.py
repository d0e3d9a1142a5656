"""What every page reads: the store, the lineage index and the catalogue, as they are at the time of the request."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.loading import BUILT_IN
from rm_workflow.catalog.models import Catalog
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.errors import UserError
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint, scored_checkpoints
from rm_workflow.lineage.store import LineageStore
from rm_workflow.pages import addresses
from rm_workflow.reporting import html_report
from rm_workflow.reporting.words import artifact_name
from rm_workflow.settings import Settings, load_settings

# As people write numbers: 0.583, +1.25, 12,345, 5e-4. Ids are longer or have letters.
NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d{1,9})(\.\d+)?(e[+-]?\d+)?")
ARTIFACT = re.compile(r"(?P<asset>[A-Za-z0-9_-]+)@(?P<version>[0-9a-f]{32})")

Row = dict[str, Any]


class NotFoundError(UserError):
    """There is nothing by that name."""


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a page."""

    text: str
    href: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Bar:
    """A cell of a table that shows a number as a share of a whole.

    Attributes:
        share: from 0 to 1.
        kind: ``kept`` or ``dropped``, which decides the colour.
    """

    share: float
    kind: str = "kept"


def numeric_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of a table whose cells are numbers, which stand right; empty cells may be among them."""
    names = dict.fromkeys(name for row in rows for name in row)
    cells = {name: [str(row[name]) for row in rows if row.get(name) not in (None, "")] for name in names}
    return [name for name, found in cells.items() if found and all(NUMBER.fullmatch(cell) for cell in found)]


@dataclass(frozen=True)
class Site:
    """One RMW_HOME and the catalogue that goes with it."""

    store: ArtifactStore
    lineage: LineageStore
    catalog: Catalog

    def checkpoint(self, name: str) -> Artifact:
        """Return the checkpoint that an address names as ``asset@version``.

        Raises:
            NotFoundError: there is none.
        """
        named = ARTIFACT.fullmatch(name)
        found = self.store.find(named["asset"], named["version"]) if named else None
        if found is None or found.kind != "checkpoint":
            raise NotFoundError(
                f"there is no checkpoint {name[:100]!r} under RMW_HOME; the start page lists those with scores"
            )
        return found

    def checkpoint_link(self, name: str) -> Link:
        """Return a link to the page of a checkpoint (``asset@version``), called with the run that made it."""
        found = self.store.find(*name.split("@"))
        run = found.manifest["partition"] if found else None
        return Link(artifact_name(name, run), addresses.checkpoint(name))

    def scored(self) -> Mapping[str, ScoredCheckpoint]:
        """Return all checkpoints that have scores, by id."""
        return _scored(self.store.home, self.store.last_sequence())

    def leaderboard(self) -> html_report.Leaderboard:
        """Return the standings on each benchmark."""
        return _leaderboard(self.store.home, self.store.last_sequence())

    def input_of(self, artifact: Artifact, asset: str) -> Artifact | None:
        """Return one of the artifacts that an artifact was made from, or None where it is gone."""
        used = next((one for one in artifact.manifest["inputs"] if one["asset"] == asset), None)
        return self.store.find(used["asset"], used["version"]) if used else None

    def inputs_of_kind(self, artifact: Artifact, *kinds: str) -> list[Artifact]:
        """Return those of some kinds that an artifact was made from and that are still there."""
        used = [one for one in artifact.manifest["inputs"] if one["kind"] in kinds]
        found = [self.store.find(one["asset"], one["version"]) for one in used]
        return [one for one in found if one]

    def raws_of(self, mixture: Artifact) -> list[Artifact]:
        """Return the artifacts that hold the texts of a mixture, each once."""
        of_pairs = [raw for pairs in self.inputs_of_kind(mixture, "pairs") for raw in self.inputs_of_kind(pairs, "raw")]
        return list({one.id: one for one in [*of_pairs, *self.inputs_of_kind(mixture, "raw", "labels")]}.values())

    def mixtures(self) -> list[Artifact]:
        """Return the latest mixtures, each of a name of its own."""
        names = sorted(folder.name for folder in self.store.artifacts.glob("*_mixture"))
        return [artifact for artifact in map(self.store.latest, names) if artifact and artifact.kind == "mixture"]


def open_site() -> Site:
    """Open what the environment names (RMW_HOME, RMW_CATALOG).

    Raises:
        UserError: a file of the catalogue is wrong.
    """
    settings = load_settings()
    store = ArtifactStore(settings.home)
    return Site(store, LineageStore(store), _catalog(settings, _stamps(settings)))


def _stamps(settings: Settings) -> tuple[tuple[Path, int, int], ...]:
    """Return the files of the catalogue with what changes where one of them does."""
    folders = [BUILT_IN, *([settings.catalog] if settings.catalog else [])]
    files = sorted(file for folder in folders for file in folder.rglob("*.y*ml"))
    found = [(file, file.stat()) for file in files]
    return tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in found)


@lru_cache(maxsize=2)
def _catalog(settings: Settings, stamps: tuple[tuple[Path, int, int], ...]) -> Catalog:
    """Return the catalogue as its files are: to read all of them for each page takes longer than the page."""
    return load_checked_catalog(settings)


# What is kept holds until the next event: each publish, reuse, promotion and removal is one with a number of its own.


@lru_cache(maxsize=2)
def _scored(home: Path, last_sequence: int) -> dict[str, ScoredCheckpoint]:
    return scored_checkpoints(ArtifactStore(home))


@lru_cache(maxsize=2)
def _leaderboard(home: Path, last_sequence: int) -> html_report.Leaderboard:
    return html_report.leaderboard_rows(ArtifactStore(home))
