"""``rmw gc``: frees the space of what nothing kept depends on."""

from collections.abc import Collection
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.failures import record_dead_runs
from rm_workflow.assets.instance import UNFINISHED, open_instance, storage_told
from rm_workflow.cli.output import counting_line, print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.garbage import Garbage, find_garbage, remove_garbage
from rm_workflow.settings import Settings, load_settings

KEPT_VERSIONS = 3


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("gc")(gc_command)


def gc_command(
    keep: Annotated[
        int, typer.Option(min=1, help="Versions of each asset and partition that stay, the newest ones.")
    ] = KEPT_VERSIONS,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is touched.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show, and with --yes remove, what no kept artifact was made from and no run or program uses."""
    settings = load_settings()
    store = ArtifactStore(settings.home)
    garbage = find_garbage(store, keep, _unfinished_runs(settings))
    if yes:
        with counting_line("folders removed") as show:
            # Asked anew each time: a run that began meanwhile may have reused what was garbage.
            remove_garbage(store, lambda: find_garbage(store, keep, _unfinished_runs(settings)), show)
    rows, num_bytes = _rows(garbage), sum(garbage.sizes.values())
    if json_:
        print_json({"removed": yes, "bytes": num_bytes, "kept": garbage.num_kept, "garbage": rows})
        return
    if rows:
        print_table("removed" if yes else "garbage", [{**row, "bytes": _size(row["bytes"])} for row in rows])
    done = "freed" if yes else "would be freed; rmw gc --yes removes it"
    typer.echo(f"{garbage.num_kept:,} artifacts stay; {_size(num_bytes)} {done}")


def _unfinished_runs(settings: Settings) -> Collection[str]:
    """Return the ids of Dagster's runs that go on."""
    if not settings.dagster_home.is_dir():
        return ()
    from dagster import DagsterRunStatus, RunsFilter

    with storage_told(settings), open_instance(settings) as instance:
        record_dead_runs(instance, ArtifactStore(settings.home))
        going_on = [*UNFINISHED, DagsterRunStatus.QUEUED, DagsterRunStatus.CANCELING]
        return {run.run_id for run in instance.get_runs(RunsFilter(statuses=going_on))}


def _rows(garbage: Garbage) -> list[dict[str, Any]]:
    artifacts = [("artifact", artifact.id, artifact.folder) for artifact in garbage.artifacts]
    work = [("work of a published artifact", f"{path.parent.name}@{path.name}", path) for path in garbage.work]
    staging = [("left by a killed process", f"staging/{path.name}", path) for path in garbage.staging]
    return [
        {"what": what, "name": name, "bytes": garbage.sizes[path]} for what, name, path in (*artifacts, *work, *staging)
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
