"""Garbage of one RMW_HOME: what no kept artifact, no person's choice and no living process needs.

Kept are, of each asset and partition, the newest versions by the sequence of events, never by a file's time; what an
event other than a publish or reuse names, as a promotion does its checkpoint and scores; what a living process uses or
an unfinished run has published or reused; what no event names yet; and all that any of these was made from.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.durable_files import locked, unheld
from rm_workflow.errors import UserError

ANSWERS = ("publish", "reuse")
# Of these an event says nothing about what somebody wants to keep.
PASSED_OVER = (*ANSWERS, "failed_check", "failed_run", "removal", "refusal")


@dataclass(frozen=True)
class Garbage:
    """What can go.

    Attributes:
        artifacts: each before those it was made from, so that a removal cut short leaves none without its inputs.
        num_kept: artifacts that stay.
        work: work folders whose artifact is published.
        staging: staging folders whose process is gone.
        sizes: bytes of each folder.
    """

    artifacts: tuple[Artifact, ...]
    num_kept: int
    work: tuple[Path, ...]
    staging: tuple[Path, ...]
    sizes: Mapping[Path, int] = field(default_factory=dict)


def find_garbage(store: ArtifactStore, keep: int, unfinished_runs: Collection[str] = ()) -> Garbage:
    """Return what can go, without touching anything.

    Args:
        keep: versions of each asset and partition that stay, at least 1.
        unfinished_runs: ids of runs that go on.

    Raises:
        UserError: a manifest or event is damaged, so that what it needs is not known.
    """
    found = {artifact.id: artifact for artifact in _all_artifacts(store)}
    kept = _with_inputs(_wanted(store, found, keep, unfinished_runs), found)
    kept |= _with_inputs((name for name in found.keys() - kept if _is_held(found[name].folder)), found)
    going = {name: found[name] for name in found.keys() - kept}
    inputs = {name: [used for used in _inputs(artifact) if used in going] for name, artifact in sorted(going.items())}
    artifacts = tuple(going[name] for name in reversed(list(TopologicalSorter(inputs).static_order())))
    published = (
        path for path in sorted((store.home / "work").glob("*/*")) if f"{path.parent.name}@{path.name}" in found
    )
    work = tuple(path for path in published if not _is_held(path))
    staging = tuple(store.abandoned())
    folders = (*(artifact.folder for artifact in artifacts), *work, *staging)
    return Garbage(artifacts, len(kept), work, staging, {folder: _num_bytes(folder) for folder in folders})


def remove_garbage(
    store: ArtifactStore, find: Callable[[], Garbage], progress: Callable[[int], object] = lambda done: None
) -> None:
    """Remove what ``find`` finds; where a run has published meanwhile, it is asked again.

    Args:
        find: returns the garbage as it is now.
        progress: called with the number of folders that are gone.

    Raises:
        UserError: another process collects garbage of this home.
    """
    try:
        with locked(store.home / ".gc.lock", wait=False):
            _remove_garbage(store, find, progress)
    except BlockingIOError as error:
        raise UserError(f"another rmw gc is at work in {store.home}; wait for its end") from error


def _remove_garbage(store: ArtifactStore, find: Callable[[], Garbage], progress: Callable[[int], object]) -> None:
    expected = store.last_sequence()
    garbage, done = find(), 0
    going = list(garbage.artifacts)
    stays: set[str] = set()
    while going:
        artifact = going.pop(0)
        with unheld(artifact.folder) as is_free:
            # Whoever held it has recorded by now what was made of it.
            if store.last_sequence() != expected:
                expected = store.last_sequence()
                going = list(find().artifacts)
                continue
            if not is_free or artifact.id in stays:
                stays |= {artifact.id, *_inputs(artifact)}
                continue
            store.remove(artifact, "garbage collection")
        expected += 1
        done += 1
        progress(done)
    for folder in garbage.work:
        store.clear_work(folder.parent.name, folder.name)
    store.sweep()


def _all_artifacts(store: ArtifactStore) -> Iterable[Artifact]:
    for folder in sorted(store.artifacts.glob("*/*")):
        artifact = store.find(folder.parent.name, folder.name)
        if artifact:
            yield artifact


def _wanted(
    store: ArtifactStore, found: Mapping[str, Artifact], keep: int, unfinished_runs: Collection[str]
) -> set[str]:
    named: dict[str, int] = {}
    latest: dict[tuple[str, str | None], str] = {}
    wanted = set()
    for event in store.events():
        name = f"{event['asset']}@{event.get('version')}"
        if name not in found:
            continue
        if event["kind"] in ANSWERS:
            named[name] = event["sequence"]
            if not event["overridden"]:
                latest[event["asset"], event["partition"]] = name
        if event["kind"] not in PASSED_OVER or event["run_id"] in unfinished_runs:
            wanted |= {name, event.get("scores") or name}
    newest: dict[tuple[str, str | None], int] = {}
    for name in sorted(named, key=named.__getitem__, reverse=True):
        key = (found[name].asset, found[name].manifest["partition"])
        newest[key] = newest.get(key, 0) + 1
        if newest[key] <= keep:
            wanted.add(name)
    return wanted | {*latest.values()} | (found.keys() - named.keys())


def _with_inputs(names: Iterable[str], found: Mapping[str, Artifact]) -> set[str]:
    reached: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name in found and name not in reached:
            reached.add(name)
            ahead += _inputs(found[name])
    return reached


def _inputs(artifact: Artifact) -> list[str]:
    return [f"{used['asset']}@{used['version']}" for used in artifact.manifest["inputs"]]


def _is_held(folder: Path) -> bool:
    with unheld(folder) as is_free:
        return not is_free


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
