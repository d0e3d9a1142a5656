"""How a checkpoint is named on the command line."""

from dataclasses import dataclass
from pathlib import Path

from rm_workflow.artifacts import MANIFEST, Artifact, ArtifactStore
from rm_workflow.catalog.names import nearest
from rm_workflow.cli.targets import find_artifact, split_partition
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.reporting.words import SHORT_VERSION, artifact_name
from rm_workflow.settings import load_settings, user_path

MODEL = "model"
KIND = "checkpoint"
HUB = "hub:"
# The fact by which an imported checkpoint is known.
IMPORTED = "imported_from"


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint that somebody named.

    Attributes:
        folder: what the scorer loads.
        label: what it is called where its scores are shown: ``asset@version``, the folder, ``hub:org/name@commit``.
        hub_id: org/name of a published model, by which its token recipe is known.
        artifact: what a run published, held against collection as long as this is referred to.
    """

    folder: Path
    label: str
    hub_id: str | None = None
    artifact: Artifact | None = None

    def shown(self, digits: int | None = SHORT_VERSION) -> str:
        """Return its label with the run of a sweep that made it and so many digits of its version; None for all."""
        if self.artifact is None:
            return self.label
        return artifact_name(self.artifact.id, self.artifact.manifest["partition"], digits)

    @property
    def identity(self) -> str:
        """Return an id of its files by name, size and time of change; weights are too large to be read for it."""
        stats = [(path.name, path.resolve(), path.stat()) for path in sorted(self.folder.iterdir()) if path.is_file()]
        return content_id([[name, str(path), stat.st_size, stat.st_mtime_ns] for name, path, stat in stats])


def find_checkpoint(text: str) -> NamedCheckpoint:
    """Return the checkpoint that a name means.

    Args:
        text: a folder (or its ``model`` inside), ``asset`` (the latest), ``asset[run]`` of a sweep, either with
            ``@version``, or ``hub:org/name[@revision]``.

    Raises:
        UserError: there is no such folder and no such artifact, the nearest names are told; or the hub refuses.
    """
    if text.startswith(HUB):
        return _on_hub(text)
    folder = user_path(text)
    if folder.is_dir():
        inside = folder / MODEL if (folder / MODEL).is_dir() else folder
        # A copy of a hub model in a folder of the hub's layout is known by it.
        return NamedCheckpoint(inside, str(folder), "/".join(folder.resolve().parts[-2:]))
    if "/" in text or text.startswith("."):
        raise UserError(
            f"checkpoint {text}: there is no such folder; name a folder, an asset, asset@version or {HUB}org/name"
        )
    store = ArtifactStore(load_settings().home)
    known = [path.name for path in store.artifacts.glob(f"*_{KIND}")]
    asset, _ = split_partition(text.partition("@")[0])
    if asset not in known and (store.artifacts / asset).is_dir():
        raise UserError(f"checkpoint {text}: {asset} is an asset, but no checkpoint; {nearest(text, known)}")
    if asset not in known:
        raise UserError(f"checkpoint {text}: no such folder and no such asset in {store.home}; {nearest(text, known)}")
    artifact = find_artifact(store, text)
    return NamedCheckpoint(artifact.folder / MODEL, artifact.id, artifact=artifact)


def _on_hub(text: str) -> NamedCheckpoint:
    from rm_workflow.models import base

    repository, at, revision = text.removeprefix(HUB).partition("@")
    folder, commit = base.find_checkpoint(repository, revision if at else None, load_settings())
    return NamedCheckpoint(folder, f"{HUB}{repository}" + (f"@{commit}" if commit else ""), repository)


def checkpoint_artifact(store: ArtifactStore, text: str) -> Artifact:
    """Return the artifact of a checkpoint, of which more is known than its model: ``asset``, ``asset@version``, folder.

    Raises:
        UserError: there is none, the folder is not one that a run published, or it is a model of the hub.
    """
    if text.startswith(HUB):
        raise UserError(
            f"checkpoint {text}: it was not made under RMW_HOME ({store.home}), so nothing is known of its data and "
            "training; name an asset or asset@version"
        )
    folder = user_path(text).absolute()
    if not folder.is_dir():
        find_checkpoint(text)
        return find_artifact(store, text)
    published = folder.parent if folder.name == MODEL else folder
    known = store.take(published.parent.name, published.name) if (published / MANIFEST).is_file() else None
    if known is None or known.kind != KIND or not known.folder.samefile(published):
        raise UserError(
            f"checkpoint {text}: this folder was not published by a run under RMW_HOME ({store.home}), so nothing is "
            "known of its data and scores; name an asset or asset@version"
        )
    return known
