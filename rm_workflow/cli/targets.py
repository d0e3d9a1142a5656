"""Names on the command line: assets, versions, and the nearest valid one when a name is wrong."""

from collections.abc import Collection, Mapping

from rm_workflow.artifacts import MANIFEST, Artifact, ArtifactStore
from rm_workflow.catalog.loading import nearest
from rm_workflow.catalog.sweeps import runs_of
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.errors import UserError
from rm_workflow.reporting.words import SHORT_VERSION
from rm_workflow.settings import load_settings

LISTED_VERSIONS = 5


def existing_store() -> ArtifactStore:
    """Return the store of RMW_HOME for a verb that only asks, and makes no home by the way.

    Raises:
        UserError: there is no such folder.
    """
    home = load_settings().home
    if not home.exists():
        raise UserError(
            f"there is no home yet: RMW_HOME ({home}) does not exist; make one with rmw run quickstart, or set "
            "RMW_HOME to the one you mean"
        )
    return ArtifactStore(home)


def find_artifact(store: ArtifactStore, target: str) -> Artifact:
    """Return the artifact that ``asset`` (its latest), ``asset[partition]``, or either with ``@version`` names.

    A version may be cut to its first digits where they are unambiguous.
    """
    named, at, version = target.partition("@")
    asset, partition = split_partition(named)
    known = sorted(folder.name for folder in store.artifacts.iterdir()) if store.artifacts.is_dir() else []
    if asset not in known:
        raise UserError(f"asset {asset} has no artifact under RMW_HOME ({store.home}); {nearest(asset, known)}")
    keys = partitions_of(store, asset)
    if partition is not None and partition not in keys:
        raise UserError(_no_run(asset, partition, [key for key in keys if key is not None]))
    if not at:
        return store.require(asset, partition=_meant(asset, partition, keys))
    versions = sorted(
        manifest.parent.name
        for manifest in (store.artifacts / asset).glob(f"*/{MANIFEST}")
        if partition is None or manifest.parent.name in keys[partition]
    )
    if not version:
        raise UserError(
            f"{target} names no version after @; leave @ out for the latest, or take of {_listed(versions)}"
        )
    matching = [candidate for candidate in versions if candidate.startswith(version)]
    artifact = store.take(asset, matching[0]) if len(matching) == 1 else None
    if artifact is None:
        raise UserError(_not_one_version(asset, version, versions, matching))
    return artifact


def split_partition(named: str) -> tuple[str, str | None]:
    """Return the asset and the partition of ``asset[partition]``; None where none is named.

    Raises:
        UserError: a bracket is missing, or nothing stands between the two.
    """
    asset, bracket, rest = named.partition("[")
    if not bracket:
        return named, None
    if not rest.endswith("]") or rest == "]":
        raise UserError(f"{named}: write the key of a run between brackets, as in {asset}[lr3e-6__ep1__s0]")
    return asset, rest[:-1]


def partitions_of(store: ArtifactStore, asset: str) -> dict[str | None, set[str]]:
    """Return the versions of an asset by partition; those of assets without one stand under None."""
    keys: dict[str | None, set[str]] = {}
    for event in store.events(asset=asset, kinds=("publish", "reuse")):
        keys.setdefault(event["partition"], set()).add(event["version"])
    return keys


def _meant(asset: str, partition: str | None, keys: Mapping[str | None, set[str]]) -> str | None:
    """Return the partition that a name means: the one named, or none where the asset has no runs.

    Raises:
        UserError: the asset has several runs and none is named.
    """
    if partition is not None or None in keys or not keys:
        return partition
    runs = sorted(key for key in keys if key is not None)
    if len(runs) == 1:
        return runs[0]
    raise UserError(f"asset {asset} has {len(runs)} runs; name one, for instance {asset}[{runs[0]}]")


def _no_run(asset: str, key: str, made: list[str]) -> str:
    """Return why an asset has no run of this key: it is not made yet, or there is none."""
    recipe = asset.rpartition("_")[0]
    if key in _runs_of_sweep(recipe):
        return f"asset {asset} has no run {key} yet; make it with: rmw run {recipe} --key {key}"
    return f"asset {asset} has no run {key}; {nearest(key, made)}"


def _runs_of_sweep(recipe: str) -> Collection[str]:
    """Return the keys of a recipe's sweep; none where the catalogue cannot be read or has no such recipe."""
    try:
        return runs_of(load_checked_catalog(load_settings(), wanted=recipe, warn=False).recipes[recipe])
    except UserError:
        return ()


def _not_one_version(asset: str, version: str, versions: list[str], matching: list[str]) -> str:
    if not matching:
        return f"asset {asset} has no version that begins with {version!r}; its versions: {_listed(versions)}"
    return (
        f"asset {asset} has {len(matching)} versions that begin with {version!r} ({_listed(matching)}); "
        "write more digits of the one you mean"
    )


def _listed(versions: list[str]) -> str:
    shown = [version[:SHORT_VERSION] for version in versions[:LISTED_VERSIONS]]
    more = len(versions) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])]) or "none"


def raw_of(store: ArtifactStore, artifact: Artifact) -> list[Artifact]:
    """Return the raw artifacts that hold the texts of an artifact's rows."""
    if artifact.kind in ("raw", "labels"):
        return [artifact]
    found: dict[str, Artifact] = {}
    for upstream in store.inputs_of(artifact):
        if upstream.kind in ("raw", "labels", "pairs", "mixture", "tokens"):
            found.update({raw.id: raw for raw in raw_of(store, upstream)})
    return list(found.values())
