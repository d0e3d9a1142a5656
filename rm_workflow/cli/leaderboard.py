"""``rmw leaderboard``: all checkpoints with scores, their intervals, ranks and verdicts."""

from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.errors import UserError
from rm_workflow.evaluation.checkpoint_scores import scored_checkpoints
from rm_workflow.evaluation.standings import boards, listed_benchmarks, standings
from rm_workflow.evaluation.verifiers import verifier_rows
from rm_workflow.reporting.words import artifact_name, rank, standing_note
from rm_workflow.settings import load_settings

SHOWN = ("checkpoint", "score", "ci_low", "ci_high", "n", "rank", "contamination", "note")


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("leaderboard")(leaderboard_command)


def leaderboard_command(
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Only this one; may be given several times.")
    ] = None,
    best_of_n: Annotated[
        bool, typer.Option("--best-of-n", help="Which checkpoint picks how well among whose solutions.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """List all checkpoints with scores, best first on each benchmark, with intervals and the ranks they allow."""
    store = ArtifactStore(load_settings().home)
    checkpoints = scored_checkpoints(store)
    if best_of_n:
        _print_verifiers(verifier_rows(checkpoints), [name.replace("-", "_") for name in benchmark or ()], json_)
        return
    available = listed_benchmarks(checkpoints)
    asked = [name.replace("-", "_") for name in benchmark or available]
    for name in asked:
        if name not in available:
            raise UserError(f"nothing is scored on benchmark {name!r}; there are scores on: {', '.join(available)}")
    tables = {name: standings(store, name, checkpoints) for name in asked}
    if json_:
        print_json([row for rows in tables.values() for row in rows])
        return
    for name, rows in tables.items():
        for heading, same_items in boards(name, rows).items():
            title = f"{heading}: scores with 95 % intervals, ranks that they allow"
            print_table(title, [_shown(row) for row in same_items])
    if not checkpoints:
        typer.echo(f"no checkpoint has scores under RMW_HOME ({store.home}) yet; rmw run RECIPE makes some", err=True)


def _print_verifiers(rows: list[dict[str, Any]], asked: list[str], json_: bool) -> None:
    known = dict.fromkeys(row["candidates"] for row in rows)
    for name in asked:
        if name not in known:
            raise UserError(f"no candidates are called {name!r}; there are: {', '.join(known)}")
    kept = [row for row in rows if not asked or row["candidates"] in asked]
    if json_:
        print_json(kept)
        return
    for name in asked or known:
        own = [_verifier(row) for row in kept if row["candidates"] == name]
        print_table(f"{name}: share of problems right, by who picks among the candidates", own)


def _verifier(row: dict[str, Any]) -> dict[str, Any]:
    named = row["verifier"] if row["published"] else artifact_name(row["verifier"] or "", row["run"])
    note = standing_note(row) if row["published"] else ""
    shown = {key: row[key] for key in ("method", "n", "score", "ci_low", "ci_high", "contamination")}
    return {"verifier": named or "none", **shown, "note": note}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    told = {
        **row,
        "checkpoint": row["checkpoint"] if row["published"] else artifact_name(row["checkpoint"], row["run"]),
        "rank": rank(row),
        "note": standing_note(row),
    }
    return {name: told[name] for name in SHOWN}
