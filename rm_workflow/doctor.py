"""What of a machine and a home would stop work or spoil it, each with its mend; ``rmw doctor`` prints it."""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from rm_workflow.artifacts import ArtifactStore, prepare_home
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.errors import UserError
from rm_workflow.hub.lock import read_hub_lock
from rm_workflow.lineage.store import LineageStore
from rm_workflow.settings import Settings

Level = Literal["ok", "warning", "error"]

DISTRIBUTION = "rm-workflow"
GIGABYTE = 1_000_000_000
# A quickstart writes less than one; a checkpoint of a 7B model with its training state about 100.
DISK_ERROR_GB, DISK_WARNING_GB = 1, 20
MEMORY_WARNING_GB = 4
OPEN_FILES = 1024
MOUNTS = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "ceph", "gluster", "fuse.gluster", "afs", "beegfs")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        found: what it is, as a sentence's part.
        mend: what to do about it; empty where it is ok.
    """

    name: str
    level: Level
    found: str
    mend: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at packages, machine, home and Dagster's storage; what the next run would clean up anyway is cleaned up."""
    yield from packages()
    yield device(settings)
    yield memory()
    yield from limits()
    try:
        prepare_home(settings.home)
    except UserError as error:
        yield Finding("home", "error", str(error), "do what the sentence says")
        return
    yield Finding("home", "ok", f"{settings.home} can be written")
    yield disk(settings.home)
    yield file_system(settings.home)
    for name, look in CARES_FOR_THE_HOME.items():
        try:
            yield look(settings)
        except UserError as error:
            yield Finding(name, "error", str(error), "do what the sentence says")


def packages(distribution: str = DISTRIBUTION) -> Iterator[Finding]:
    """Compare what is installed with the ranges that were tested."""
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        required = [distribution]
    wrong = [problem for text in required if (problem := _problem(Requirement(text)))]
    for problem in wrong:
        yield Finding("packages", "error", problem, "install the project with pip again")
    if not wrong:
        yield Finding("packages", "ok", "all versions are in the tested ranges")


def _problem(requirement: Requirement) -> str | None:
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, and {requirement.specifier} was tested"


def device(settings: Settings) -> Finding:
    """Say what would compute, and whether it has bf16."""
    import torch

    from rm_workflow.models.reward_model import prefers_bf16, resolve_device

    try:
        resolved = resolve_device(settings.device)
    except UserError as error:
        return Finding("device", "error", str(error), "do what the sentence says")
    precision = "computes in bf16" if prefers_bf16(resolved) else "has no bf16 faster than fp32, so fp32 is used"
    if resolved == "cpu":
        return Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads, {precision}; torch sees no GPU")
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    named = ", ".join(f"{gpu.name} with {gpu.total_memory / GIGABYTE:.0f} GB" for gpu in gpus)
    return Finding("device", "ok", f"{named}, {precision}")


def memory() -> Finding:
    """Say how much memory is free."""
    import psutil

    free = psutil.virtual_memory().available / GIGABYTE
    found = f"{free:.1f} GB are free"
    if free < MEMORY_WARNING_GB:
        return Finding("memory", "warning", found, "close other programs, or set RMW_MEMORY_LIMIT for the data stage")
    return Finding("memory", "ok", found)


def limits() -> Iterator[Finding]:
    """Look at limits of the shell that end programs in the middle of their work."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        yield Finding("limits", "warning", f"only {files} files may be open", f"run ulimit -n {OPEN_FILES}")
    for name, option in (("RLIMIT_FSIZE", "-f"), ("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d"), ("RLIMIT_CPU", "-t")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            yield Finding("limits", "warning", f"ulimit {option} is {soft:,}", f"run ulimit {option} unlimited")


def disk(home: Path) -> Finding:
    """Say how much space the home has left."""
    free = shutil.disk_usage(home).free / GIGABYTE
    level: Level = "error" if free < DISK_ERROR_GB else "warning" if free < DISK_WARNING_GB else "ok"
    mend = "" if level == "ok" else "free space with rmw gc, or set RMW_HOME to a folder on another disk"
    return Finding("disk", level, f"{free:.1f} GB are free for {home}", mend)


def file_system(home: Path, mounts: Path = MOUNTS) -> Finding:
    """Tell a network file system, on which Dagster's SQLite and locks are slow and may fail."""
    kind = _file_system(home.resolve(), mounts) if mounts.exists() else "unknown"
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        mend = "set RMW_HOME to a folder on a local disk (several machines that train together need a shared one)"
        return Finding("file system", "warning", f"the home lies on a network file system ({kind})", mend)
    return Finding("file system", "ok", kind)


def _file_system(path: Path, mounts: Path) -> str:
    """Return the type of the file system that holds a path, from the kernel's list of mounts."""
    best, kind = Path(), "unknown"
    for line in mounts.read_text("utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, rest.split()[0]
    return kind


def staging(settings: Settings) -> Finding:
    """Remove what builds left that were killed."""
    swept = ArtifactStore(settings.home).sweep()
    return Finding("staging", "ok", f"{swept} unfinished folders of ended processes were removed")


def runs(settings: Settings) -> Finding:
    """End runs whose process is gone and give back their places in pools."""
    from rm_workflow.assets.failures import record_dead_runs
    from rm_workflow.assets.instance import open_instance, storage_told

    with storage_told(settings), open_instance(settings) as instance:
        record_dead_runs(instance, ArtifactStore(settings.home))
    return Finding("runs", "ok", "those whose process is gone are marked as failed")


def schedules(settings: Settings) -> Finding:
    """Tell schedules and sensors that are switched on while their recipe is gone, or no daemon lives to run them."""
    from dagster._core.scheduler.instigation import InstigatorStatus

    from rm_workflow.assets.instance import open_instance, storage_told
    from rm_workflow.assets.retraining import without_recipe

    with storage_told(settings), open_instance(settings) as instance:
        states = instance.all_instigator_state()
        on = sorted(state.instigator_name for state in states if state.status == InstigatorStatus.RUNNING)
        statuses = instance.get_daemon_statuses()
        alive = bool(statuses) and all(status.healthy for status in statuses.values() if status.required)
    if not on:
        return Finding("schedules", "ok", "none is switched on")
    catalog = load_checked_catalog(settings)
    gone = without_recipe(on, {*catalog.recipes, *catalog.refused})
    if gone:
        mend = "put the recipe back into the catalogue, or leave it: without one nothing is asked for"
        return Finding("schedules", "warning", f"{', '.join(gone)}: switched on, but the recipe is gone", mend)
    if alive:
        return Finding("schedules", "ok", f"the daemon lives; switched on: {', '.join(on)}")
    return Finding("schedules", "warning", f"{', '.join(on)}: switched on, but no daemon lives", "start rmw ui")


def lineage(settings: Settings) -> Finding:
    """Bring the lineage file up to date."""
    if LineageStore(ArtifactStore(settings.home)).catch_up():
        return Finding("lineage", "ok", "every event is indexed")
    return Finding("lineage", "warning", "not every event could be indexed", "see the line above, then run again")


def hub(settings: Settings) -> Finding:
    """Say how many repositories of the hub are locked to a commit, and whether a token is set."""
    import huggingface_hub

    lock = read_hub_lock(settings)
    locked = sum(len(lock.get(kind, {})) for kind in ("datasets", "models"))
    token = "a token is set" if huggingface_hub.get_token() else "no token is set, which gated repositories need"
    mirror = f", mirror {settings.hub_mirror}" if settings.hub_mirror else ""
    offline = ", offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return Finding("hub", "ok", f"{locked} repositories are locked to a commit; {token}{mirror}{offline}")


CARES_FOR_THE_HOME: dict[str, Callable[[Settings], Finding]] = {
    "staging": staging,
    "runs": runs,
    "schedules": schedules,
    "lineage": lineage,
    "hub": hub,
}
