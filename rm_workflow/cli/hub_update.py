"""What ``rmw sources update`` compares and shows before a newer commit of the hub is taken."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from rm_workflow import hub
from rm_workflow.catalog.models import Catalog
from rm_workflow.cli.output import for_terminal, print_table
from rm_workflow.errors import UserError
from rm_workflow.hub.lock import locked_files
from rm_workflow.preferences import revisions
from rm_workflow.preferences.preview import preview
from rm_workflow.settings import Settings


def compare_newest(
    catalog: Catalog, name: str, repository: str, settings: Settings, progress: Callable[[int], None]
) -> tuple[dict[str, Any], hub.Revision | None]:
    """Fetch the newest commit of a repository and compare it with the locked one.

    The files compared are those of the source ``name`` and all others that were fetched at the locked commit.

    Args:
        progress: told the number of rows that the adapters have read of the new files.

    Returns:
        ``{"source", "hub", "before", "now", "taken": False, "sources", "benchmarks", "files", "refused"}`` and the
        revision to take, None where nothing has changed. ``files`` is that of ``revisions.compare``; ``refused`` are
        the sentences with which the new files would be refused, by source.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    sources = {other: entry for other, entry in catalog.sources.items() if entry.hub == repository}
    benchmarks = {other: entry for other, entry in catalog.benchmarks.items() if entry.hub == repository}
    before, now = hub.locked_commit(repository, settings), hub.newest_commit(repository, settings)
    update: dict[str, Any] = {"source": name, "hub": repository, "before": before, "now": now, "taken": False}
    update |= {"sources": list(sources), "benchmarks": list(benchmarks), "files": [], "refused": {}}
    if before in (None, now):
        return update, None if before else hub.Revision(repository, now, {})
    fetched = {*locked_files(settings, repository), *hub.location_files(sources[name])}
    locations = [*sources.values(), *benchmarks.values()]
    files = list(dict.fromkeys(file for entry in locations for file in hub.location_files(entry) if file in fetched))
    old, new = (hub.fetch_revision(repository, files, commit, settings) for commit in (str(before), now))
    nowhere = [file for file in files if file not in old.files and file not in new.files]
    sides = ([file for entry in locations for file in side.source_files(entry)] for side in (old, new))
    refused = {}
    for other, entry in sources.items():
        there = new.source_files(entry)
        if there and (sentence := preview(other, entry, there, 0, lambda rows, _: progress(rows))["refused"]):
            refused[other] = sentence
    differences = [*revisions.compare(*sides), *map(revisions.removed, nowhere)]
    return {**update, "files": differences, "refused": refused}, new


def show(update: dict[str, Any]) -> None:
    """Print both commits and what differs between their files."""
    commits = {"before": update["before"] or "not locked yet", "now": update["now"]}
    print_table(f"commit of {update['hub']}", [commits])
    if update["files"]:
        shown = ("file", "change", "rows_before", "rows_after")
        print_table("files", [{key: file[key] for key in shown} for file in update["files"]])
    columns = [
        {"file": file["file"], "columns": kind, "which": ", ".join(file[kind])}
        for file in update["files"]
        for kind in ("added", "removed", "retyped")
        if file[kind]
    ]
    if columns:
        print_table("columns", columns)
    for sentence in update["refused"].values():
        typer.echo(for_terminal(f"a build from the new files would end with: {sentence}"), err=True)


def refuse_missing(update: dict[str, Any]) -> None:
    """Refuse a commit that lacks a file.

    Raises:
        UserError: the first such file.
    """
    missing = [file["file"] for file in update["files"] if file["change"] == "removed"]
    if missing:
        raise UserError(
            f"source '{update['source']}': {missing[0]} is not in the newest commit of {update['hub']}, so nothing is "
            "taken; correct `files` of the source first"
        )


def wanted() -> bool:
    """Ask on a terminal whether the new commit is taken; elsewhere it is not."""
    return sys.stdin.isatty() and typer.confirm("Read the new commit from now on?", err=True)


def outcome(update: dict[str, Any]) -> str:
    """Return the last line for a person."""
    if update["before"] == update["now"]:
        return "nothing has changed"
    if not update["taken"]:
        return "nothing is taken; add --yes to read the new commit from now on"
    return f"read at this commit from now on: {', '.join([*update['sources'], *update['benchmarks']])}"
