"""Names on the command line: assets, versions, and the nearest valid one when a name is wrong."""

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.loading import nearest
from rm_workflow.errors import UserError


def find_artifact(store: ArtifactStore, target: str) -> Artifact:
    """Return the artifact that ``asset`` (its latest) or ``asset@version`` names.

    A version may be cut to its first digits where they are unambiguous.
    """
    asset, _, version = target.partition("@")
    known = sorted(folder.name for folder in store.artifacts.iterdir()) if store.artifacts.is_dir() else []
    if asset not in known:
        raise UserError(f"asset {asset} has no artifact under RMW_HOME ({store.home}); {nearest(asset, known)}")
    if not version:
        return store.require(asset)
    versions = sorted(folder.name for folder in (store.artifacts / asset).iterdir() if folder.name.startswith(version))
    if len(versions) != 1:
        problem = "no version" if not versions else f"{len(versions)} versions"
        raise UserError(f"asset {asset} has {problem} that begin with {version!r}; see folder artifacts/{asset}")
    artifact = store.find(asset, versions[0])
    assert artifact is not None
    return artifact


def raw_of(store: ArtifactStore, artifact: Artifact) -> list[Artifact]:
    """Return the raw artifacts that hold the texts of an artifact's rows."""
    if artifact.kind == "raw":
        return [artifact]
    found: dict[str, Artifact] = {}
    for upstream in store.inputs_of(artifact):
        if upstream.kind in ("raw", "pairs", "mixture", "tokens"):
            found.update({raw.id: raw for raw in raw_of(store, upstream)})
    return list(found.values())
