"""``rmw sources``: raw data sets, how they are understood, and at which commit of the hub they are read."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rm_workflow.artifacts import prepare_home
from rm_workflow.catalog.entries import add_entries, locked_catalog, user_folder
from rm_workflow.catalog.loading import NAME, nearest
from rm_workflow.catalog.models import Catalog, Source
from rm_workflow.catalog.yaml_file import dump_value, shown_path
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.init import editor_line, renew_schemas
from rm_workflow.cli.output import counting_line, for_terminal, print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.errors import UserError
from rm_workflow.preferences import shapes
from rm_workflow.settings import Settings, load_settings, user_path

SHOWN_RESPONSES = 8  # of one row; a best-of-N set has 1,024
SIDES = ("a", "b", "tie")

sources_app = typer.Typer(help="Raw data sets: what exists and how it is understood.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.add_typer(sources_app, name="sources")


@sources_app.command("list")
def sources_list_command(json_: JsonOption = False) -> None:
    """List the sources of the catalogue with licence and adapter."""
    sources = load_checked_catalog(load_settings()).sources
    fields = {"hub", "licence", "adapter", "proven_on_real_rows"}
    rows = [{"name": name, **source.model_dump(include=fields)} for name, source in sources.items()]
    if json_:
        print_json(rows)
        return
    print_table("sources", [{**row, "hub": row["hub"] or sources[row["name"]].path} for row in rows])
    typer.echo("proven_on_real_rows: no = the adapter has only met generated rows in this schema.", err=True)


@sources_app.command("check")
def sources_check_command(
    name: Annotated[str, typer.Argument(help="Name of a source.", autocompletion=completion.sources)],
    num_rows: Annotated[int, typer.Option("-n", min=1, help="Rows of each file.")] = 3,
    json_: JsonOption = False,
) -> None:
    """Read all rows of a source and show what the first ones are understood as; nothing is kept.

    Ends with the sentence of the build where the build would refuse the files.
    """
    settings = load_settings()
    name, source = find_source(load_checked_catalog(settings), name)
    preview = read_source(name, source, settings, num_rows)
    show_preview(preview, json_)


@sources_app.command("update")
def sources_update_command(
    name: Annotated[
        str, typer.Argument(help="Name of a source on the Hugging Face hub.", autocompletion=completion.sources)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Take the new commit without asking.")] = False,
    json_: JsonOption = False,
) -> None:
    """Fetch the hub's newest commit, show how its files differ, and read it from now on if that is wanted."""
    from rm_workflow import hub
    from rm_workflow.cli import hub_update

    settings = load_settings()
    catalog = load_checked_catalog(settings)
    name, source = find_source(catalog, name)
    repository = _updatable(name, source, settings)
    prepare_home(settings.home)
    with counting_line(f"comparing the revisions of {repository}") as counted:
        update, revision = hub_update.compare_newest(catalog, name, repository, settings, counted)
    if not json_:
        hub_update.show(update)
    hub_update.refuse_missing(update)
    if revision and (yes or update["before"] is None or (not json_ and hub_update.wanted())):
        hub.take(revision, settings)
        update["taken"] = True
    if json_:
        print_json(update)
    else:
        typer.echo(hub_update.outcome(update), err=True)


def _updatable(name: str, source: Source, settings: Settings) -> str:
    """Return the repository of a source that is read from the hub itself."""
    from rm_workflow import hub

    if source.hub is None:
        raise UserError(
            f"source '{name}': path: {source.path} is not on the hub; change the files there, then run again"
        )
    mirror = hub.mirror_folder(source.hub, settings)
    if mirror:
        raise UserError(
            f"source '{name}': {source.hub} is read from the mirror folder {mirror}; update that folder, or unset "
            "RMW_HUB_MIRROR"
        )
    return source.hub


@sources_app.command("add")
def sources_add_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, CSV or Parquet with your rows.")],
    name: Annotated[str | None, typer.Option(help="Name of the source; the file's own name if left out.")] = None,
    adapter: Annotated[str | None, typer.Option(help="How rows are read; guessed from the first ones.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=COLUMN", help="The adapter's field and your column for it.")
    ] = None,
    winner: Annotated[
        list[str] | None,
        typer.Option(metavar="SIDE=LABEL", help="Which label means that a, b or tie wins; several with commas."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the rows.")] = "not stated",
    drop_other_shapes: Annotated[
        bool, typer.Option("--drop-other-shapes", help="Also a file of several schemas: leave out all but one.")
    ] = False,
    num_rows: Annotated[int, typer.Option("-n", min=1, help="Rows to show.")] = 3,
    json_: JsonOption = False,
) -> None:
    """Add a file of your own as a source and a pair set of your catalogue, and show how its rows are understood.

    A file of which more than 1 % of the rows have other columns than those that are understood is refused.
    """
    from rm_workflow.cli import own_data

    settings = load_settings()
    said = own_data.Said(adapter, _assignments(column, "FIELD=COLUMN", "--column"), _sides(winner), licence)
    path = user_path(file).absolute()
    if path.is_dir():
        raise UserError(f"{file} is a folder; name one JSON Lines, CSV or Parquet file in it")
    if not path.is_file():
        raise UserError(f"{file}: there is no such file; name a JSON Lines, CSV or Parquet file")
    folder = user_folder(settings)
    with locked_catalog(folder):
        name = _new_name(load_checked_catalog(settings), path, name)
        data = own_data.understand_file(name, path, said)
        preview = read_source(name, data.source, settings, num_rows)
        entries = data.entries(name, folder)
        if preview["refused"]:
            preview["refused"] = _refused_before_adding(preview["refused"])
        elif not drop_other_shapes:
            preview["refused"] = _several_shapes(name, data.source, preview["files"])
        first_lines = {file: editor_line(settings, file.replace(".yaml", ".json"), folder) for file in entries}
        written = [] if preview["refused"] else add_entries(folder, entries, first_lines)
    if written:
        renew_schemas(settings, load_checked_catalog(load_settings()))
    if not json_:
        typer.echo(f"{name}: {for_terminal(data.in_words())}")
    show_preview({**preview, "understood": data.in_words(), "entries": entries}, json_)
    typer.echo(
        f"'{name}' is added to {' and '.join(map(shown_path, written))}; next: rmw init NAME --data {name} (a recipe "
        f"that trains on it), or use it in a recipe: mixture: {{pair_sets: {dump_value([name])}, split: {{by: hash}}}}",
        err=True,
    )


def _refused_before_adding(sentence: str) -> str:
    """Return the build's sentence with a mend that can be done: its own speaks of an entry that is not there yet."""
    problem = sentence.rpartition("; ")[0]
    return f"{problem}; nothing is added; mend the file, or say how it is read with --column or --adapter"


def _several_shapes(name: str, source: Source, files: list[dict[str, Any]]) -> str | None:
    """Return why a file with rows of other shapes is not added, or None where they are no more than broken lines may.

    The build would drop such rows as ``bad_field``, which is right for a stray row and not for half of a file.
    """
    for file in files:
        rows = sum(other["num_rows"] for other in file["other_shapes"])
        if rows > source.max_broken_share * file["num_rows"]:
            return (
                f"source '{name}': {file['file']} has {rows:,} of {file['num_rows']:,} rows of another shape: "
                f"{for_terminal(shapes.in_words(file['other_shapes']))}; nothing is added; put each shape into a file "
                "of its own and add that, or leave these rows out with --drop-other-shapes"
            )
    return None


def _assignments(written: list[str] | None, form: str, option: str) -> dict[str, str]:
    found = {}
    for assignment in written or []:
        key, equals, value = assignment.partition("=")
        if not (key and equals and value):
            raise typer.BadParameter(f"{assignment!r} is not {form}", param_hint=option)
        found[key] = value
    return found


def _sides(written: list[str] | None) -> dict[str, list[str]]:
    """Return side -> labels of ``--winner a=1,2``; a side may be named several times."""
    sides: dict[str, list[str]] = {}
    for assignment in written or []:
        for side, labels in _assignments([assignment], "SIDE=LABEL", "--winner").items():
            if side not in SIDES:
                raise typer.BadParameter(f"{assignment!r}: a side is one of {', '.join(SIDES)}", param_hint="--winner")
            sides.setdefault(side, []).extend(labels.split(","))
    return sides


def _new_name(catalog: Catalog, file: Path, asked: str | None) -> str:
    """Return the name of a new source: as asked for, or the file's, in the letters that a name may have."""
    name = (asked or re.sub(r"[^a-z0-9]+", "_", file.name.split(".")[0].lower()).strip("_")).replace("-", "_")
    if not NAME.fullmatch(name):
        raise UserError(f"source '{name}': a name is 1 to 64 characters of a-z, 0-9 and _; choose one with --name")
    if name in catalog.sources or name in catalog.pair_sets:
        raise UserError(f"source '{name}' is in the catalogue already; choose another name with --name")
    return name


def find_source(catalog: Catalog, name: str) -> tuple[str, Source]:
    """Return a source of the catalogue by its name, in which ``-`` and ``_`` are the same.

    Raises:
        UserError: there is none of this name.
    """
    plain = name.replace("-", "_")
    if plain not in catalog.sources:
        raise UserError(
            f"source '{name}' is not in the catalogue ({nearest(plain, catalog.sources, 'rmw sources list')})"
        )
    return plain, catalog.sources[plain]


def read_source(name: str, source: Source, settings: Settings, num_rows: int) -> dict[str, Any]:
    """Return ``preview`` of a source; a line on stderr counts the rows meanwhile."""
    from rm_workflow import hub
    from rm_workflow.preferences.preview import preview

    files = hub.resolve_files(source, settings, f"sources.yaml: source '{name}'")
    with counting_line(f"reading the rows of {name}") as counted:
        return preview(name, source, files, num_rows, lambda rows, _: counted(rows))


def show_preview(preview: dict[str, Any], json_: bool) -> None:
    """Print what the first rows of each file are understood as.

    Raises:
        UserError: after the print, where ``build_raw`` would refuse the files; the sentence is the build's.
    """
    if json_:
        print_json(preview)
    else:
        _print_preview(preview)
    if preview["refused"]:
        raise UserError(preview["refused"])


def _print_preview(preview: dict[str, Any]) -> None:
    console = Console()
    for file in preview["files"]:
        columns = for_terminal(", ".join(file["columns"]))
        dropped = [f"{rule} {number:,}" for rule, number in file["dropped"].items() if number]
        console.rule(f"{preview['source']}: {file['file']} ({file['split']}), read by {preview['adapter']}")
        console.print(f"columns: {columns}; sha256 {file['sha256'][:12]}", highlight=False, markup=False)
        rows = f"rows: {file['num_rows']:,}, used: {file['num_used']:,}, dropped: {', '.join(dropped) or 'none'}"
        console.print(rows, highlight=False, markup=False)
        if file["other_shapes"]:
            others = f"dropped, of another shape: {shapes.in_words(file['other_shapes'])}"
            console.print(for_terminal(others), highlight=False, markup=False)
        for row in file["rows"]:
            console.print(for_terminal("\n".join(_preview_lines(row))), highlight=False, markup=False)


def _preview_lines(row: dict[str, Any]) -> list[str]:
    """Return one row of ``preview`` as a person reads it."""
    if "rule" in row:
        detail = f" ({row['detail']})" if row["detail"] else ""
        return [f"\nrow {row['row']} dropped by {row['rule']}: {row['reason']}{detail}", f"  {row['excerpt']}"]
    turns = [f"  {message['role']}: {message['content']}" for message in row["messages"]]
    shown, more = row["responses"][:SHOWN_RESPONSES], len(row["responses"]) - SHOWN_RESPONSES
    responses = [line for response in shown for line in _response_lines(response)]
    rest = [f"  ... and {more:,} more responses"] if more > 0 else []
    return [f"\nrow {row['row']}", *turns, *responses, *rest]


def _response_lines(response: dict[str, Any]) -> list[str]:
    """Return a response with its labels; one with steps is cut into them, each with its own labels before it."""
    whole = _labels(response["labels"], None)
    if not response["steps"]:
        return [f"  -> {response['slot']}{_ratings(response['ratings'])}{whole}: {response['text']}"]
    steps = [
        f"     step {number}{_labels(response['labels'], number)}: {step.strip()}"
        for number, step in enumerate(response["steps"])
    ]
    after = response["text"][len("".join(response["steps"])) :].strip()
    steps += [f"     after the steps: {after}"] if after else []
    return [f"  -> {response['slot']}{_ratings(response['ratings'])}{whole}, {len(response['steps'])} steps", *steps]


def _labels(labels: list[dict[str, Any]], step: int | None) -> str:
    found = [f"{label['kind']} {label['value']:g}" for label in labels if label["step"] == step]
    return f" [{', '.join(found)}]" if found else ""


def _ratings(ratings: dict[str, float]) -> str:
    return f" ({', '.join(f'{name} {value:g}' for name, value in ratings.items())})" if ratings else ""
