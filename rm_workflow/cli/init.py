"""``rmw init`` and ``rmw schema``: a project or a recipe to begin with, and what editors know of its YAML files."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rm_workflow.catalog.entries import locked_catalog, user_folder
from rm_workflow.catalog.loading import NAME, is_recipe_path, nearest, override_recipe, parse_overrides, resolve_recipe
from rm_workflow.catalog.models import TEST, Catalog, Recipe
from rm_workflow.catalog.schema import header
from rm_workflow.catalog.yaml_file import dump_value, read_yaml, shown_path
from rm_workflow.checked_catalog import load_checked_catalog, write_schemas
from rm_workflow.cli import completion
from rm_workflow.cli.output import print_json
from rm_workflow.cli.run import JsonOption, SetOption
from rm_workflow.durable_files import write_whole
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings, load_settings, user_path

FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
# Where the schemas of a project lie; its folder marks a project as workspace.yaml does.
SCHEMAS = Path(".rmw/schemas")
SAMPLES = "samples:"
DEFAULT_PARENT = "quickstart"

WORKSPACE = """\
# What Dagster loads; the folder with this file is a project of rmw, and data/home beside it holds what is made.
load_from:
  - python_module:
      module_name: rm_workflow.definitions
      location_name: rm_workflow
"""
IGNORED = "data/home/\ncatalog/.lock\n"
SOURCES = """\
# Your raw data sets; `rmw sources add FILE` writes an entry here. One looks like this:
#
# my_rows:
#   path: ../data                 # a folder, seen from this file; or hub: org/name
#   files: {train: [train.jsonl], test: [test.jsonl]}
#   adapter: chosen_rejected
#   licence: CC-BY-4.0
"""
PAIR_SETS = """\
# Your sources put through rules, in this order; `rmw sources add FILE` writes an entry here too. One looks like this:
#
# my_rows:
#   source: my_rows
#   candidates: given
#   rules: [identical_responses, exact_duplicate, {cap: {max_pairs: 5}}]
"""
BENCHMARKS = """\
# Your evaluation sets, each with the rule that scores it. One looks like this:
#
# my_test:
#   path: ../data
#   files: {test: [my_test.jsonl]}   # {"prompt": ..., "chosen": ..., "rejected": ...}
#   scoring: preferences
#   licence: CC-BY-4.0
"""
# File of a new project's catalogue -> its schema and its text.
CATALOG = {
    "sources.yaml": ("sources.json", SOURCES),
    "pair_sets.yaml": ("pair_sets.json", PAIR_SETS),
    "benchmarks.yaml": ("benchmarks.json", BENCHMARKS),
}


@dataclass(frozen=True)
class Begun:
    """What was written, and what to do next.

    Attributes:
        kind: "project" or "recipe".
        written: paths as a person reads them.
        next: command -> what it does.
    """

    kind: str
    name: str
    written: Sequence[str]
    next: Mapping[str, str]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("init")(init_command)
    app.command("schema")(schema_command)


def init_command(
    name: Annotated[str, typer.Argument(help="Name of the recipe, or the folder of the project.")],
    project: Annotated[bool, typer.Option("--project", help="A project, also where this folder is one.")] = False,
    extends: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help=f"Whose keys the recipe has; {DEFAULT_PARENT} if left out.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PAIR_SET", help="Train on this; may be given several times.", autocompletion=completion.pair_sets
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Base model: hub id, folder or pypi:...")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Begin a project (a new folder) or, inside of one, a recipe; nothing that is there is changed.

    At a terminal a recipe without options is asked for its parent, data and base model.
    """
    said = {"--extends": extends, "--data": data, "--base": base, "--set": set_}
    settings = load_settings()
    wants_project = project or "/" in name or name == "." or not (settings.project or settings.catalog)
    if any(said.values()) and (project or "/" in name or name == "."):
        given = next(option for option, value in said.items() if value)
        raise typer.BadParameter("a recipe has it, not a project; leave one out", param_hint=given)
    if wants_project and not any(said.values()):
        begun = begin_project(name)
    else:
        if sys.stdin.isatty() and not any(said.values()) and not json_:
            extends, data, base = _asked(load_checked_catalog(settings), settings)
        values = {**parse_overrides(set_ or []), **({"base": base} if base else {})}
        begun = begin_recipe(settings, name, extends or DEFAULT_PARENT, data or [], values)
    if json_:
        print_json({"kind": begun.kind, "name": begun.name, "written": begun.written, "next": list(begun.next)})
        return
    typer.echo(f"{begun.kind} {begun.name}: {', '.join(begun.written)}\nnext:")
    width = max(map(len, begun.next))
    for command, told in begun.next.items():
        typer.echo(f"  {command:<{width}}   # {told}")


def schema_command(
    out: Annotated[
        str | None, typer.Option("-o", metavar="FOLDER", help=f"Where to write; {SCHEMAS} of the project if left out.")
    ] = None,
) -> None:
    """Write the JSON schemas of the catalogue's YAML files, by which editors complete and check them.

    rmw init and rmw sources add do it too; after names that you wrote yourself, this offers them.
    """
    settings = load_settings()
    if out is None and settings.project is None:
        raise UserError("there is no project here to write to; name a folder with -o, or make one with rmw init NAME")
    folder = user_path(out) if out else (settings.project or Path()) / SCHEMAS
    written = write_schemas(folder, load_checked_catalog(settings))
    typer.echo(", ".join(shown_path(path) for path in written))


def begin_project(name: str) -> Begun:
    """Make the folder of a project that needs nothing but the package.

    Raises:
        UserError: no name for a folder, its parent is missing, or something is there already.
    """
    folder = user_path(name).absolute().resolve()
    _check_free(name, folder)
    (folder / "catalog/recipes").mkdir(parents=True)
    (folder / "data").mkdir()
    write_schemas(folder / SCHEMAS, load_checked_catalog(replace(load_settings(), catalog=None)))
    for file, (schema, text) in CATALOG.items():
        write_whole(folder / "catalog" / file, header(schema, f"../{SCHEMAS}") + "\n" + text)
    write_whole(folder / ".gitignore", IGNORED)
    write_whole(folder / "workspace.yaml", WORKSPACE)
    shown = [*("workspace.yaml", *(f"catalog/{file}" for file in CATALOG)), "catalog/recipes/", "data/"]
    go = {} if folder == Path.cwd().resolve() else {f"cd {shlex.quote(name)}": "what follows is about this folder"}
    commands = {
        **go,
        "rmw run quickstart": "sample rows to a scored checkpoint, in minutes",
        "rmw sources add FILE": "your own rows, and what they are understood as",
        "rmw init NAME": "a recipe of your own on them",
    }
    return Begun("project", folder.name, [f"{shown_path(folder)}/{path}" for path in shown], commands)


def _check_free(name: str, folder: Path) -> None:
    if not FOLDER_NAME.fullmatch(folder.name):
        raise UserError(
            f"project '{name}': a name is letters, digits, '.', '_' and '-', and begins with none of the last two; "
            "choose another"
        )
    if not folder.parent.is_dir():
        raise UserError(f"project '{name}': the folder {folder.parent} does not exist; make it first")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"project '{name}': there is a file of this name; choose another name")
    held = sorted(path.name for path in folder.iterdir() if path.name != ".git")
    if held:
        few = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise UserError(f"project '{name}': the folder is not empty ({few}); choose another name or empty it")


def begin_recipe(settings: Settings, name: str, extends: str, data: Sequence[str], values: Mapping[str, Any]) -> Begun:
    """Write a recipe of the user's catalogue that extends another.

    Args:
        data: pair sets that it trains on; none keeps those of the parent.
        values: further keys by dotted path.

    Raises:
        UserError: a name that is no name or is taken, or what is asked for does not load; nothing is written then.
    """
    folder = user_folder(settings)
    plain = name.replace("-", "_")
    if not NAME.fullmatch(plain):
        raise UserError(f"recipe '{name}': a name is 1 to 64 characters of a-z, 0-9 and _; choose another")
    with locked_catalog(folder):
        catalog = load_checked_catalog(settings)
        path = folder / "recipes" / f"{plain}.yaml"
        if plain in {*catalog.recipes, *catalog.refused} or path.exists():
            raise UserError(f"recipe '{plain}' is in the catalogue already; choose another name")
        parent = _parent(catalog, extends)
        told = f"On {', '.join(data)}, else as {parent.name}" if data else f"As {parent.name}"
        values = {"description": told, **_of_data(catalog, parent, data), **values}
        override_recipe(parent, values, catalog)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, editor_line(settings, "recipe.json", path.parent) + _recipe_text(plain, parent, values))
        try:
            catalog = load_checked_catalog(load_settings(), wanted=plain)
        except UserError:
            path.unlink()
            raise
    renew_schemas(settings, catalog)
    commands = {
        f"rmw plan {plain}": "steps, memory and hours, nothing run",
        f"rmw counts {plain}": "its data, and what each rule dropped",
        f"rmw run {plain}": "the whole way to scores and card",
    }
    return Begun("recipe", plain, [shown_path(path)], commands)


def _parent(catalog: Catalog, extends: str) -> Recipe:
    if is_recipe_path(extends):
        raise UserError(f"--extends {extends}: a recipe extends one of the catalogue; move the file to recipes/ there")
    return resolve_recipe(catalog, extends)


def _of_data(catalog: Catalog, parent: Recipe, names: Sequence[str]) -> dict[str, Any]:
    """Return what differs in a recipe that trains on other pair sets: they are taken whole, and split as they can be.

    Benchmarks among the embedded samples are left out, as they say something of the embedded data alone; so are a
    promotion that looks at them and a sweep whose runs are on other data.
    """
    if not names:
        return {}
    if parent.mixture.kind != "pairs":
        raise UserError(
            f"--data: recipe '{parent.name}' is trained on {parent.mixture.kind}, and pair sets are pairs; name its "
            f"sources with --set 'mixture.{parent.mixture.kind}=[...]', or extend another recipe"
        )
    for name in names:
        if name not in catalog.pair_sets:
            raise UserError(f"--data: pair set '{name}' is not in the catalogue ({nearest(name, catalog.pair_sets)})")
    has_test = all(catalog.sources[catalog.pair_sets[name].source].files.get(TEST) for name in names)
    values: dict[str, Any] = {
        "mixture.pair_sets": list(names),
        "mixture.split": {"by": "native"} if has_test else {"by": "hash", "test_share": 0.1},
    }
    if parent.mixture.sample:
        values["mixture.sample"] = None
    if parent.sweep and (parent.sweep.data or any(run.data for run in parent.sweep.runs)):
        values["sweep"] = None  # its runs differ in data that are not those asked for
    chosen = {
        "mixture.decontaminate_against": parent.mixture.decontaminate_against,
        "evaluation.evaluate_on": parent.evaluation.evaluate_on,
    }
    for path, benchmarks in chosen.items():
        kept = [name for name in benchmarks if not _is_sample(catalog, name)]
        if "sweep" in values and path == "evaluation.evaluate_on" and TEST not in kept:
            kept = [TEST, *kept]  # the parent's runs have no test split in common, one recipe has
        if kept != benchmarks:
            values[path] = kept
    promoting = parent.promotion
    if promoting and not set(promoting.gates) <= set(values.get("evaluation.evaluate_on", promoting.gates)):
        values["promotion"] = None  # it looks at a benchmark that is left out
    return values


def _is_sample(catalog: Catalog, benchmark: str) -> bool:
    return benchmark != TEST and (catalog.benchmarks[benchmark].path or "").startswith(SAMPLES)


def _recipe_text(name: str, parent: Recipe, values: Mapping[str, Any]) -> str:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path.split(".")
        here = nested
        for key in outer:
            here = here.setdefault(key, {})
        here[last] = value
    training = {key: getattr(parent.training, key) for key in ("learning_rate", "batch_size", "epochs")}
    hint = [] if "training" in nested else [f"# training: {dump_value(training)}   # as {parent.name} has them"]
    lines = [
        f"# What differs from {parent.name}; `rmw plan {name} --yaml` shows every key and where it comes from.",
        f"extends: {parent.name}",
        *_block(nested, ""),
        *hint,
    ]
    return "\n".join(lines) + "\n"


def _block(values: Mapping[str, Any], indent: str) -> list[str]:
    """Return YAML lines: mappings of the first two levels in lines of their own, deeper ones in one."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and not indent:
            lines += [f"{key}:", *_block(value, "  ")]
        else:
            lines.append(f"{indent}{key}: {dump_value(value)}")
    return lines


def _asked(catalog: Catalog, settings: Settings) -> tuple[str, list[str], str | None]:
    """Ask for parent, pair sets and base model; an empty answer keeps what the parent has."""
    extends = str(typer.prompt("extends which recipe", default=DEFAULT_PARENT))
    parent = _parent(catalog, extends)
    file = user_folder(settings) / "pair_sets.yaml"
    own = list(read_yaml(file, may_be_empty=True).data) if file.exists() else []
    kept = ", ".join(parent.mixture.pair_set_names)
    data = ""
    if parent.mixture.kind == "pairs":
        yours = f"; yours: {', '.join(own)}" if own else ""
        data = str(typer.prompt(f"pair sets, with commas{yours}", default=kept))
    base = str(typer.prompt("base model", default=parent.base))
    names = [name.strip() for name in data.split(",") if name.strip()]
    return extends, names if data != kept else [], base if base != parent.base else None


def editor_line(settings: Settings, schema: str, folder: Path) -> str:
    """Return the first line of a YAML file in ``folder``, by which editors find its schema; empty without a project."""
    if settings.project is None:
        return ""
    return header(schema, os.path.relpath(settings.project / SCHEMAS, folder)) + "\n"


def renew_schemas(settings: Settings, catalog: Catalog) -> None:
    """Let the schemas of the project, where there is one, offer the names of the catalogue."""
    if settings.project:
        write_schemas(settings.project / SCHEMAS, catalog)
