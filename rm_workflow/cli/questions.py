"""``rmw funnel``, ``history``, ``diff``, ``shared``, ``worst``: questions about many runs, and down to single pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.names import nearest
from rm_workflow.catalog.sweeps import shared_data
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.card import refuse_missing_folder
from rm_workflow.cli.checkpoints import checkpoint_artifact
from rm_workflow.cli.output import for_terminal, print_json, print_table
from rm_workflow.cli.replacing import refuse_other_than_picture
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.targets import existing_store, find_artifact
from rm_workflow.durable_files import replaced
from rm_workflow.errors import UserError
from rm_workflow.lineage import questions
from rm_workflow.lineage.store import LineageStore
from rm_workflow.preferences.text import conversation
from rm_workflow.reporting import plots
from rm_workflow.reporting.words import SHORT_VERSION, artifact_name
from rm_workflow.settings import load_settings

Rows = list[dict[str, Any]]
MIXTURE = "_mixture"
WHAT = ("data", "code", "config", "versions")
CheckpointArgument = Annotated[
    str,
    typer.Argument(help="A checkpoint: an asset, asset@version or a folder.", autocompletion=completion.checkpoints),
]
NumberOption = Annotated[int, typer.Option("-n", min=1, help="Number of pairs.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("funnel")(funnel_command)
    app.command("history")(history_command)
    app.command("diff")(diff_command)
    app.command("shared")(shared_command)
    app.command("worst")(worst_command)


def funnel_command(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe whose mixture was made.", autocompletion=completion.recipes)
    ],
    json_: JsonOption = False,
) -> None:
    """Show the funnel of a recipe over time: each version of its data, and how it differs from the one before."""
    lineage = _lineage()
    names = _named_mixtures(lineage.store, recipe.removesuffix(MIXTURE))
    found = {name: questions.funnel(lineage, name + MIXTURE) for name in names}
    if json_:
        print_json([_plain(row) for rows in found.values() for row in rows])
        return
    for name, rows in found.items():
        print_table(f"funnel of {name} over time", [_funnel_row(row) for row in rows])


def _named_mixtures(store: ArtifactStore, name: str) -> list[str]:
    """Return the mixture of this name, or those of the data of a sweep.

    Raises:
        UserError: there is none.
    """
    known = _mixtures(store)
    if name in known:
        return [name]
    recipe = load_checked_catalog(load_settings()).recipes.get(name)
    swept = [data.data_name for data in shared_data(recipe)] if recipe else []
    made = [data for data in swept if data in known]
    if not made:
        raise UserError(f"recipe {name} has no mixture under RMW_HOME ({store.home}); {nearest(name, known)}")
    return made


def _mixtures(store: ArtifactStore) -> list[str]:
    return [folder.name.removesuffix(MIXTURE) for folder in store.artifacts.glob(f"*{MIXTURE}")]


def _funnel_row(row: Mapping[str, Any]) -> dict[str, Any]:
    dropped = ", ".join(f"{rule} {number:,}" for rule, number in row["dropped"].items() if number)
    change = row["change"]
    return {
        "since": f"{row['since']:%Y-%m-%d %H:%M}",
        "mixture": row["mixture_version"][:SHORT_VERSION] + (" (--set)" if row["overridden"] else ""),
        "asset": row["asset"],
        "in": row["came_in"],
        "kept": row["kept"],
        "change": "" if change is None else f"{change:+,}",
        "dropped": dropped,
    }


def history_command(
    asset: Annotated[
        str | None,
        typer.Argument(help="Only this raw_, pairs_, _mixture or _tokens asset.", autocompletion=completion.assets),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only this source.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule; 'kept' for what no rule dropped.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the counts over the runs to this PNG file.")] = None,
    json_: JsonOption = False,
) -> None:
    """Show how many rows and pairs of each source were kept, and dropped by each rule, run after run."""
    if plot:
        refuse_missing_folder(plot)
        refuse_other_than_picture(plot)
    lineage = _lineage()
    _require_known(lineage, {"asset": asset, "source": source, "rule": rule})
    rows = questions.counts_over_runs(lineage, asset, source, rule)
    if plot:
        with replaced(plot) as draft:
            draft.write_bytes(plots.counts_over_runs(rows))
    if json_:
        print_json([_plain(row) for row in rows])
        return
    print_table("kept and dropped over the runs", _changed_rows(rows))
    if plot:
        typer.echo(f"drawn to {for_terminal(str(plot))}", err=True)


def _require_known(lineage: LineageStore, asked: Mapping[str, str | None]) -> None:
    for column, name in asked.items():
        rows = lineage.query(f"select distinct {column} from source_count where {column} is not null")
        known = [value for (value,) in rows] + (["kept"] if column == "rule" else [])
        if name is not None and name not in known:
            raise UserError(f"no {column} {name!r} is counted under RMW_HOME; {nearest(name, known)}")


def _changed_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return a row for each version, with the runs that reused it counted and the change since the version before."""
    shown: dict[tuple[str, ...], dict[str, Any]] = {}
    before: dict[tuple[str, ...], int] = {}
    for row in rows:
        series = (row["asset"], row["source"], row["rule"])
        found = shown.get((*series, row["version"]))
        if found:
            found["runs"] += 1
            continue
        change = row["num_rows"] - before[series] if series in before else None
        before[series] = row["num_rows"]
        shown[(*series, row["version"])] = {
            "since": f"{row['recorded']:%Y-%m-%d %H:%M}",
            "asset": artifact_name(f"{row['asset']}@{row['version']}"),
            "source": row["source"],
            "rule": row["rule"],
            "rows": row["num_rows"],
            "change": "" if change is None else f"{change:+,}",
            "runs": 1,
        }
    return list(shown.values())


def diff_command(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint: an asset, asset@version or a folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    json_: JsonOption = False,
) -> None:
    """Show what changed between two checkpoints: data, code, config and versions of packages."""
    lineage = _lineage()
    sides = [checkpoint_artifact(lineage.store, text) for text in (a, b)]
    rows = questions.changes(lineage, *sides)
    by_what = {
        what: [{key: value for key, value in row.items() if key != "what"} for row in rows if row["what"] == what]
        for what in WHAT
    }
    train = questions.train_pairs(lineage.store, *sides)
    if json_:
        print_json({"a": sides[0].id, "b": sides[1].id, **by_what, "train_pairs": train})
        return
    for what, changed in by_what.items():
        if changed:
            print_table(f"{what}: a = {sides[0].id}, b = {sides[1].id}", changed)
    same = [what for what, changed in by_what.items() if not changed]
    if same:
        typer.echo(f"no change in {', '.join(same)}")
    if train:
        typer.echo(f"train pairs: {train['a']:,} in a, {train['b']:,} in b, {train['both']:,} in both")


def shared_command(
    a: Annotated[str, typer.Argument(metavar="A", help="A _mixture or pairs_ asset; @version if old.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    json_: JsonOption = False,
) -> None:
    """Show how many pairs two mixtures share, by source and split: the same texts, whatever row they come from."""
    store = existing_store()
    sides = [find_artifact(store, text) for text in (a, b)]
    rows = questions.shared(*sides)
    total = {key: sum(row[key] for row in rows) for key in ("num_shared", "num_same_row")}
    sizes = {f"num_{side}": artifact.facts["kept"] for side, artifact in zip("ab", sides, strict=True)}
    if json_:
        print_json({"a": sides[0].id, "b": sides[1].id, **sizes, **total, "by_source": rows})
        return
    if rows:
        print_table(f"shared by a = {sides[0].id} and b = {sides[1].id}", rows)
    typer.echo(
        f"{total['num_shared']:,} shared, {total['num_same_row']:,} of them from the same row of the same file; "
        f"a holds {sizes['num_a']:,}, b {sizes['num_b']:,}"
    )


def worst_command(
    checkpoint: CheckpointArgument,
    source: Annotated[str | None, typer.Option(help="Only pairs of this source.")] = None,
    n: NumberOption = 5,
    json_: JsonOption = False,
) -> None:
    """Show the test pairs that a checkpoint gets most wrong, with their texts and the rows they come from."""
    lineage = _lineage()
    artifact = checkpoint_artifact(lineage.store, checkpoint)
    known = questions.sources_scored(lineage, artifact)
    if source is not None and known and source not in known:
        raise UserError(f"checkpoint {artifact.id} has no test pairs of source {source}; {nearest(source, known)}")
    found = questions.worst_pairs(lineage, lineage.store, artifact, source, n)
    rows = [{**row, "prompt": conversation(row.pop("messages"))} for row in found]
    if json_:
        print_json(rows)
        return
    of_source = f" of {source}" if source else ""
    typer.echo(f"{artifact.id}: test pairs{of_source} whose rejected reply has the higher reward, {len(rows)} worst")
    for number, row in enumerate(rows, start=1):
        typer.echo("\n" + for_terminal(_block(number, row)))


def _block(number: int, row: Mapping[str, Any]) -> str:
    lines = [
        f"=== {number}: {row['source']}:{row['file']}:{row['row']}  pair {row['pair_id']}",
        f"prompt: {row['prompt']}",
        f"chosen ({row['score_chosen']:.3f}): {row['chosen']}",
        f"rejected ({row['score_rejected']:.3f}, higher by {-row['margin']:.3f}): {row['rejected']}",
    ]
    return "\n".join(lines)


def _lineage() -> LineageStore:
    lineage = LineageStore(existing_store())
    lineage.catch_up()
    return lineage


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON: times as texts."""
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}
