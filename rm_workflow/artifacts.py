"""Immutable, content-keyed artifacts: staging -> checks -> fsync -> rename -> record, and reuse.

Layout under RMW_HOME::

    artifacts/<asset>/<version>/{data files, manifest.json}   never changes once it is there
    events/<sequence>.<kind>.<asset>.json                     one fact each; the highest sequence is the latest
    staging/<token>/                                          swept when its owner is gone
    work/<asset>/<version>/                                   a trainer's own folder, kept across failures
    cache/proofs/<asset>/<version>.json                       that its files were hashed; may be deleted

Manifests and events are the truth; the lineage database is an index over them.
"""

import contextlib
import errno
import functools
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rm_workflow.durable_files import Hold, fsync, fsync_names, fsync_tree, locked, make_folders, write_whole
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id, file_sha256
from rm_workflow.proofs import Proofs, read_sealed, sealed_json

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2
EVENT_FILE = re.compile(r"(?P<sequence>\d{8,})\.(?P<kind>\w+)\.(?P<asset>\w+)\.json")
RECORDED_PACKAGES = (
    *("rm-workflow", "dagster", "duckdb", "pyarrow", "torch", "transformers", "trl", "peft", "accelerate"),
    *("tokenizers", "safetensors", "numpy"),
)


@dataclass(frozen=True)
class Check:
    """One statement about an artifact that must hold before it is published.

    Attributes:
        name: identifier, a Dagster check name.
        description: the law as a sentence.
        metadata: the figures behind the verdict.
    """

    name: str
    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """What a build function says about the files it wrote.

    Attributes:
        facts: JSON values kept in the manifest (row counts, drop counts, metrics).
        checks: every declared check, passed or not.
    """

    facts: Mapping[str, Any]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class ExternalFile:
    """A file from outside RMW_HOME that an artifact was made from.

    Attributes:
        name: ``<hub id or path>/<file>``, never absolute.
        sha256: hash of its bytes.
        revision: commit of the hub repository that it was read at, where it comes from one; recorded, not keyed.
    """

    name: str
    path: Path
    sha256: str
    revision: str | None = None


@dataclass(frozen=True)
class Artifact:
    """A published artifact.

    Attributes:
        hold: keeps it from being collected as garbage while this object is referred to; None where it was only found.
    """

    asset: str
    version: str
    folder: Path
    manifest: Mapping[str, Any]
    hold: Hold | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> str:
        """Return ``asset@version``."""
        return f"{self.asset}@{self.version}"

    @property
    def kind(self) -> str:
        """Return the kind of asset: raw, pairs, mixture, ..."""
        return str(self.manifest["kind"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return what the build function stated."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    def file(self, name: str) -> Path:
        """Return the path of one of the artifact's files."""
        if name not in self.manifest["files"]:
            raise UserError(f"artifact {self.id} has no file {name} (it has: {', '.join(self.manifest['files'])})")
        return self.folder / name


@dataclass(frozen=True)
class Request:
    """What is asked for: everything that decides the content of one artifact.

    Attributes:
        asset: name of the Dagster asset.
        code_version: constant beside the building code, raised when its output changes.
        parameters: JSON values that decide the output.
        requested: id of the parameters of this asset and of all upstream ones; finds the latest answer.
        overridden: the run changed the recipe (``--set``), so this is not the latest of the bare name.
    """

    asset: str
    kind: str
    code_version: str
    parameters: Mapping[str, Any]
    inputs: tuple[Artifact, ...] = ()
    external_files: tuple[ExternalFile, ...] = ()
    partition: str | None = None
    requested: str = ""
    overridden: bool = False

    @property
    def version(self) -> str:
        """Return the content key."""
        return content_id(
            {
                "asset": self.asset,
                "partition": self.partition,
                "code_version": self.code_version,
                "parameters": self.parameters,
                "inputs": sorted([artifact.asset, artifact.version] for artifact in self.inputs),
                "external_files": sorted([file.name, file.sha256] for file in self.external_files),
            }
        )


@dataclass(frozen=True)
class Outcome:
    """A request answered: the artifact, and whether it was there already."""

    artifact: Artifact
    reused: bool


class CheckFailedError(UserError):
    """A blocking check failed; nothing was published."""

    def __init__(self, asset: str, checks: tuple[Check, ...]) -> None:
        self.checks = checks
        failed = "; ".join(f"{c.name}: {c.description} {_figures(c)}" for c in checks if not c.passed)
        super().__init__(f"{asset} was not published because a blocking check failed: {failed}")


class DamagedError(UserError):
    """A file of an artifact is not what was published."""

    def __init__(self, artifact: Artifact, fault: str) -> None:
        where = f"artifacts/{artifact.asset}/{artifact.version}"
        super().__init__(f"artifact {artifact.id}: {fault}; delete the folder {where} and run again")


def _figures(check: Check) -> str:
    return "(" + ", ".join(f"{key} {value}" for key, value in check.metadata.items()) + ")"


class ArtifactStore:
    """The artifacts and events under one RMW_HOME."""

    def __init__(self, home: Path) -> None:
        # Not above: the trainer imports this module where DuckDB need not be installed.
        from rm_workflow.database import open_home

        open_home(home)
        self.home = home
        self.artifacts = home / "artifacts"
        self.events_folder = home / "events"
        self.staging = home / "staging"
        self.proofs = Proofs(home / "cache" / "proofs")

    def find(self, asset: str, version: str) -> Artifact | None:
        """Return the published artifact with this key, its files checked for size, or None."""
        folder = self.artifacts / asset / version
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            manifest = read_sealed(path, f"delete the folder artifacts/{asset}/{version} and run again")
        except FileNotFoundError:
            return None  # collected meanwhile
        if manifest["format"] != MANIFEST_FORMAT:
            raise UserError(
                f"artifact {asset}@{version} is of store format {manifest['format']} and this version reads format "
                f"{MANIFEST_FORMAT}; use the version of rm_workflow that wrote it, or set RMW_HOME to another folder"
            )
        artifact = Artifact(asset, version, folder, manifest)
        if (manifest["asset"], manifest["version"]) != (asset, version):
            raise DamagedError(artifact, f"its manifest is that of {manifest['asset']}@{manifest['version']}")
        for name, entry in manifest["files"].items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != entry["bytes"] and not path.is_file():
                return None  # collected meanwhile
            if size != entry["bytes"]:
                raise DamagedError(artifact, f"file {name} has {size} bytes where its manifest says {entry['bytes']}")
        return artifact

    def take(self, asset: str, version: str) -> Artifact | None:
        """Return the published artifact with this key for use: proven by hash, and held against collection; or None.

        Raises:
            DamagedError: a file is not what was published.
        """
        try:
            hold = Hold(self.artifacts / asset / version)
        except (FileNotFoundError, NotADirectoryError):
            return None
        found = self.find(asset, version)
        if found is None:
            return None
        self.prove(found)
        return replace(found, hold=hold)

    def prove(self, artifact: Artifact, names: Collection[str] | None = None) -> None:
        """Make sure that files of an artifact are what was published; what has a proof is not hashed again.

        Args:
            names: files that will be read, as the manifest names them; None for all.

        Raises:
            DamagedError: a file is not.
        """
        files = {name: entry for name, entry in artifact.manifest["files"].items() if names is None or name in names}
        fault = self.proofs.fault(f"{artifact.asset}/{artifact.version}", artifact.folder, files)
        if fault:
            raise DamagedError(artifact, fault)

    def latest(self, asset: str, requested: str | None = None, partition: str | None = None) -> Artifact | None:
        """Return the artifact that the highest publish or reuse of ``asset`` names.

        Args:
            requested: only answers to this request; None takes the bare name, without overridden runs.
        """
        for event in self.events(asset=asset, kinds=("publish", "reuse"), newest_first=True):
            matches = not event["overridden"] if requested is None else event["requested"] == requested
            if matches and event["partition"] == partition:
                artifact = self.find(asset, event["version"])
                if artifact:
                    return artifact
        return None

    def require(self, asset: str, requested: str | None = None, partition: str | None = None) -> Artifact:
        """Return the latest artifact of ``asset``, or say how to make one."""
        latest = self.latest(asset, requested, partition)
        artifact = self.take(asset, latest.version) if latest else None
        if artifact is None:
            raise UserError(
                f"asset {asset}{f'[{partition}]' if partition else ''} has no artifact for these parameters under "
                f"RMW_HOME ({self.home}); materialize it first"
            )
        failed = [check["name"] for check in artifact.manifest["checks"] if not check["passed"]]
        if failed:
            raise UserError(f"artifact {artifact.id} is recorded with failed checks ({', '.join(failed)}); rebuild it")
        return artifact

    def inputs_of(self, artifact: Artifact) -> list[Artifact]:
        """Return the artifacts that ``artifact`` was made from."""
        found = [(entry, self.take(entry["asset"], entry["version"])) for entry in artifact.manifest["inputs"]]
        missing = [f"{entry['asset']}@{entry['version']}" for entry, artifact in found if artifact is None]
        if missing:
            raise UserError(
                f"artifact {artifact.id} was made from {missing[0]}, which is gone from RMW_HOME ({self.home}); "
                "run its recipe again (rmw run) to make it anew"
            )
        return [artifact for _, artifact in found if artifact]

    def events(
        self,
        asset: str | None = None,
        kinds: tuple[str, ...] = (),
        newest_first: bool = False,
        skip: Container[int] = (),
    ) -> Iterator[dict[str, Any]]:
        """Yield events in the order of their sequence numbers; what is left out is left out by name, unopened.

        Args:
            skip: sequence numbers to leave out.

        Raises:
            UserError: an event file is damaged.
        """
        wanted = []
        for file in self._event_files():
            is_asked_for = (asset is None or file["asset"] == asset) and (not kinds or file["kind"] in kinds)
            if is_asked_for and int(file["sequence"]) not in skip:
                wanted.append(file.string)
        for file_name in sorted(wanted, reverse=newest_first):
            yield self._read_event(file_name)

    def faults_of_events(self) -> list[str]:
        """Return a sentence for each event that is not as it was written."""
        faults = []
        for file in self._event_files():
            try:
                self._read_event(file.string)
            except UserError as error:
                faults.append(str(error))
        return sorted(faults)

    def _read_event(self, file_name: str) -> dict[str, Any]:
        path, mend = self.events_folder / file_name, "delete it, then run rmw lineage rebuild"
        event = read_sealed(path, mend)
        if file_name != _event_file_name(event["sequence"], event["kind"], event["asset"]):
            raise UserError(f"{path} is damaged (its content is that of another event); {mend}")
        return event

    def last_sequence(self) -> int:
        """Return the highest sequence number of all events, 0 where there is none."""
        return max((int(file["sequence"]) for file in self._event_files()), default=0)

    def _event_files(self) -> list[re.Match[str]]:
        if not self.events_folder.is_dir():
            return []
        return [match for match in map(EVENT_FILE.fullmatch, os.listdir(self.events_folder)) if match]

    def record(self, kind: str, asset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write one event under the next sequence number and return it."""
        self.events_folder.mkdir(parents=True, exist_ok=True)
        with locked(self.events_folder / ".lock"):
            sequence = self.last_sequence() + 1
            event = {
                "sequence": sequence,
                "kind": kind,
                "asset": asset,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                **facts,
            }
            path = self.events_folder / _event_file_name(sequence, kind, asset)
            write_whole(path, sealed_json(event))
            fsync(self.home)
        return event

    def work_folder(self, asset: str, version: str) -> Path:
        """Return the folder where a long build of this key keeps its own files across failures."""
        folder = self.home / "work" / asset / version
        folder.mkdir(parents=True, exist_ok=True)
        fsync_names(folder.parent, self.home)
        return folder

    def clear_work(self, asset: str, version: str) -> None:
        """Remove the work folder of a key that is published."""
        shutil.rmtree(self.home / "work" / asset / version, ignore_errors=True)

    @contextlib.contextmanager
    def _staged(self) -> Iterator[Path]:
        self.staging.mkdir(parents=True, exist_ok=True)
        folder = self.staging / uuid.uuid4().hex
        lock = folder.with_suffix(".lock")
        with contextlib.ExitStack() as owned:
            with self._staging_locked():
                owned.enter_context(locked(lock))
                folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove the staging folders of processes that are gone and return their number."""
        removed = 0
        for folder in self.abandoned():
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
            removed += 1
        return removed

    def abandoned(self) -> Iterator[Path]:
        """Yield the staging folders of processes that are gone, each locked until the next one is asked for."""
        if not self.staging.is_dir():
            return
        with self._staging_locked():
            for token in sorted({path.stem for path in self.staging.glob("[!.]*")}):
                with contextlib.suppress(BlockingIOError), locked(self.staging / f"{token}.lock", wait=False):
                    yield self.staging / token

    def _staging_locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep making and sweeping apart: a sweep could lock, and remove, what its owner has made but not locked."""
        return locked(self.staging / ".lock")

    def remove(self, artifact: Artifact, reason: str) -> None:
        """Let an artifact vanish in one rename, after an event has taken over its manifest; then free its space."""
        facts = {name: artifact.manifest[name] for name in ("version", "partition", "requested")}
        known = {**facts, "overridden": False, "run_id": "", "reason": reason, "manifest": dict(artifact.manifest)}
        self.record("removal", artifact.asset, known)
        self.staging.mkdir(parents=True, exist_ok=True)
        swept = self.staging / uuid.uuid4().hex
        artifact.folder.rename(swept)
        # Else a loss of power could leave the name and take the files.
        fsync(artifact.folder.parent)
        fsync(self.staging)
        self.proofs.forget(f"{artifact.asset}/{artifact.version}")
        shutil.rmtree(swept, ignore_errors=True)

    def publish(self, staged: Path, request: Request, built: Built, run_id: str) -> Artifact:
        """Make a staged folder visible under its key in one rename; a concurrent winner is kept."""
        target = self.artifacts / request.asset / request.version
        manifest = _manifest(staged, request, built, run_id)
        (staged / MANIFEST).write_text(sealed_json(manifest), "utf-8")
        fsync_tree(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _rename_new(staged, target)
            self.proofs.note(f"{request.asset}/{request.version}", target, manifest["files"])
        fsync_names(target.parent, self.home)
        artifact = self.take(request.asset, request.version)
        if artifact is None:
            raise UserError(
                f"the folder artifacts/{request.asset}/{request.version} stands in the way: it has files and no "
                f"{MANIFEST}; delete it and run again"
            )
        return artifact

    def materialize(self, request: Request, build: Callable[[Path], Built], run_id: str) -> Outcome:
        """Answer a request: reuse the artifact with its key, or build, check and publish it.

        Raises:
            CheckFailedError: a check did not hold; nothing was published.
            UserError: the disk is full or read-only; nothing was half published.
        """
        try:
            outcome = self._reuse_or_build(request, build, run_id)
            kind = "reuse" if outcome.reused else "publish"
            self.record(kind, request.asset, _event_facts(request, run_id))
        except OSError as error:
            if not _is_under(error, self.home):
                raise
            raise storage_error(error, self.home) from error
        return outcome

    def _reuse_or_build(self, request: Request, build: Callable[[Path], Built], run_id: str) -> Outcome:
        found = self.take(request.asset, request.version)
        if found:
            return Outcome(found, reused=True)
        with self._staged() as folder:
            built = build(folder)
            if not all(check.passed for check in built.checks):
                checks = [_check_json(check) for check in built.checks]
                self.record("failed_check", request.asset, {**_event_facts(request, run_id), "checks": checks})
                raise CheckFailedError(request.asset, built.checks)
            published = self.publish(folder, request, built, run_id)
            return Outcome(published, reused=published.manifest["run_id"] != run_id)  # a concurrent winner is kept


def _event_file_name(sequence: int, kind: str, asset: str) -> str:
    return f"{sequence:08d}.{kind}.{asset}.json"


def _is_under(error: OSError, home: Path) -> bool:
    """Return whether an error is about this home; a source file that cannot be read is told by its reader."""
    return error.filename is None or Path(str(error.filename)).is_relative_to(home)


def storage_error(error: OSError, home: Path) -> Exception:
    """Return a sentence for a full or read-only disk, and the error itself for all else."""
    reasons = {
        errno.ENOSPC: "the disk is full; free space there",
        errno.EDQUOT: "the disk quota is used up; free space there",
        errno.EIO: "the disk reports an error; check it",
        errno.EROFS: "the file system is read-only; make it writable",
        errno.EACCES: "permission is denied; make it writable",
        errno.EPERM: "permission is denied; make it writable",
        errno.EEXIST: "it is a file where a folder must be; remove it",
        errno.ENOTDIR: "a part of the path is a file; remove it",
        errno.ENOENT: "its parent folder does not exist and cannot be made; create it",
    }
    reason = reasons.get(error.errno or 0)
    if reason is None:
        return error
    return UserError(f"cannot write {error.filename or home}: {reason} or set RMW_HOME to another folder")


def prepare_home(home: Path) -> None:
    """Create RMW_HOME and prove that it can be written, before any work is done."""
    probe = home / f".probe-{uuid.uuid4().hex}"
    try:
        make_folders(home)
        probe.write_bytes(bytes(1 << 20))
        fsync(probe)
    except OSError as error:
        raise storage_error(error, home) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _manifest(staged: Path, request: Request, built: Built, run_id: str) -> dict[str, Any]:
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    return {
        "format": MANIFEST_FORMAT,
        "asset": request.asset,
        "kind": request.kind,
        "version": request.version,
        "partition": request.partition,
        "code_version": request.code_version,
        "parameters": request.parameters,
        "requested": request.requested,
        "inputs": [{"asset": a.asset, "version": a.version, "kind": a.kind} for a in request.inputs],
        "external_files": [
            {"name": file.name, "sha256": file.sha256, "revision": file.revision} for file in request.external_files
        ],
        "files": {
            str(path.relative_to(staged)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files
        },
        "facts": built.facts,
        "checks": [_check_json(check) for check in built.checks],
        "run_id": run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": installed_packages(),
    }


@functools.cache
def installed_packages() -> Mapping[str, str]:
    """Return the versions of the packages that shape results; recorded, not keyed."""
    versions = {}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": check.passed,
        "description": check.description,
        "metadata": dict(check.metadata),
    }


def _event_facts(request: Request, run_id: str) -> dict[str, Any]:
    return {
        "version": request.version,
        "partition": request.partition,
        "requested": request.requested,
        "overridden": request.overridden,
        "run_id": run_id,
    }


def _rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a name that must not hold files yet (rename onto a filled folder fails on POSIX)."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(target) from error
        raise
