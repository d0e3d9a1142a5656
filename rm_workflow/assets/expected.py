"""Which mixtures a recipe would have now, told without building anything, and which ones its checkpoints have.

The versions of raw -> pairs -> benchmarks -> mixture are chained as the assets chain them. Files of the hub count as
they were hashed when they were fetched; what a generator writes counts as it was made last, as long as it would be made
from the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rm_workflow import hub
from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.mixtures import guard_files
from rm_workflow.assets.publishing import external_files
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Location, Recipe
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.keys import content_id, file_sha256
from rm_workflow.settings import Settings

Hash = Callable[[Path], str]


@dataclass(frozen=True)
class DataState:
    """The data of a recipe now and those of its newest checkpoints.

    Attributes:
        key: the version of the mixture; of the mixtures of a sweep, an id over all.
        is_trained_on: the newest scores of the recipe, of a sweep's every run, are of checkpoints on these mixtures.
        changed: the assets that come first in the flow of those that the newest checkpoints were not trained on; empty
            where nothing was trained yet.
    """

    key: str
    is_trained_on: bool
    changed: tuple[str, ...] = ()


def data_state(flow: Flow, recipe: Recipe, settings: Settings, sha256: Hash = file_sha256) -> DataState:
    """Compare the mixtures that a recipe would have now with those that its newest checkpoints were trained on.

    Args:
        sha256: hashes a file of a folder.

    Raises:
        UserError: a file is not there, or an event or manifest is damaged.
    """
    store = ArtifactStore(settings.home)
    expected = Expected(flow, store, settings, sha256)
    runs = list(sweeps.runs_of(recipe).values()) or [recipe]
    mixtures = [expected.mixture(run) for run in runs]
    versions = {mixture.asset: mixture.version for mixture in mixtures}
    key = next(iter(versions.values())) if len(versions) == 1 else content_id(versions)
    trained = [_mixture_of(store.latest(f"{recipe.name}_scores", partition=run.partition)) for run in runs]
    if trained == [mixture.id for mixture in mixtures]:
        return DataState(key, True)
    known = set(_lineage(store, [name for name in trained if name]))
    return DataState(key, False, tuple(expected.first_unlike(known)) if known else ())


class Expected:
    """Artifacts as they would be made now: each has its asset and version, and no files."""

    def __init__(self, flow: Flow, store: ArtifactStore, settings: Settings, sha256: Hash) -> None:
        self.flow, self.store, self.settings, self.sha256 = flow, store, settings, sha256
        self._found: dict[str, tuple[Artifact, tuple[Artifact, ...]]] = {}

    def mixture(self, recipe: Recipe) -> Artifact:
        """Return the mixture of a recipe, or of one run of a sweep."""
        planned = self.flow.mixture(recipe)
        if planned.asset not in self._found:
            inputs = self._inputs(planned)
            guarded = guard_files(recipe.mixture, self.sha256)
            version = planned.request(inputs, overridden=False, external_files=guarded).version
            self._found[planned.asset] = _light(planned, version), inputs
        return self._found[planned.asset][0]

    def _inputs(self, planned: Planned) -> tuple[Artifact, ...]:
        return tuple(self._artifact(upstream) for upstream in planned.upstream)

    def _artifact(self, planned: Planned) -> Artifact:
        if planned.asset not in self._found:
            inputs = self._inputs(planned)
            self._found[planned.asset] = _light(planned, self._version(planned, inputs)), inputs
        return self._found[planned.asset][0]

    def first_unlike(self, known: set[str]) -> Iterator[str]:
        """Yield the assets that are not among the known ``asset@version``, though all that they are made from is."""
        for artifact, inputs in self._found.values():
            if artifact.id not in known and all(used.id in known for used in inputs):
                yield artifact.asset

    def _version(self, planned: Planned, inputs: tuple[Artifact, ...]) -> str:
        catalog = self.flow.catalog
        if planned.kind == "raw":
            return self._of_files(planned, catalog.sources[planned.name], "sources.yaml: source")
        if planned.kind == "benchmark":
            return self._of_files(planned, catalog.benchmarks[planned.name], "benchmarks.yaml: benchmark")
        if planned.kind == "pairs":
            return planned.request(inputs, overridden=False).version
        return self._as_made(planned, inputs)

    def _of_files(self, planned: Planned, location: Location, kind: str) -> str:
        files = hub.known_files(location, self.settings, f"{kind} '{planned.name}'", self.sha256)
        if files is None:
            return _not_made(planned, ())
        return planned.request((), overridden=False, external_files=external_files(files)).version

    def _as_made(self, planned: Planned, inputs: tuple[Artifact, ...]) -> str:
        """Return the version of what also depends on the machine, as a generator's texts: that of the latest one."""
        latest = planned.latest(self.store)
        if latest is None or latest.manifest["code_version"] != CODE_VERSIONS[planned.kind].version:
            return _not_made(planned, inputs)
        made_from = {f"{used['asset']}@{used['version']}" for used in latest.manifest["inputs"]}
        return latest.version if made_from == {used.id for used in inputs} else _not_made(planned, inputs)


def _light(planned: Planned, version: str) -> Artifact:
    return Artifact(planned.asset, version, Path(), {"kind": planned.kind})


def _not_made(planned: Planned, inputs: Iterable[Artifact]) -> str:
    """Return a name for a version that nothing has yet and nobody can tell before it is made."""
    return content_id({"not made": planned.requested, "inputs": sorted(used.id for used in inputs)})


def _mixture_of(scores: Artifact | None) -> str | None:
    """Return ``asset@version`` of the mixture behind scores."""
    inputs = scores.manifest["inputs"] if scores else []
    return next((f"{used['asset']}@{used['version']}" for used in inputs if used["kind"] == "mixture"), None)


def _lineage(store: ArtifactStore, names: list[str]) -> Iterator[str]:
    """Yield artifacts and all that they were made from; of what is gone, its name alone."""
    ahead, seen = list(names), set()
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            yield name
            found = store.find(*name.split("@"))
            ahead += [f"{used['asset']}@{used['version']}" for used in found.manifest["inputs"]] if found else []
