"""The catalogue: built-in YAML files, the user's folder over them, and one recipe file.

An entry of the user's folder replaces the built-in entry of the same name whole; only recipes extend each other::

    # my.yaml
    extends: quickstart
    training: {learning_rate: 2e-4}      # mappings merge by key; lists and scalars replace
    mixture: {sample: null}              # null removes

A mistake in a recipe stops that recipe and those that extend it (``Catalog.refused``), no other.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rm_workflow.catalog.models import (
    ANNOTATION,
    BEST_OF_N,
    PARTS,
    TEST,
    Benchmark,
    Catalog,
    PairSet,
    Recipe,
    Source,
    Split,
)
from rm_workflow.catalog.names import nearest
from rm_workflow.catalog.sweeps import runs_of
from rm_workflow.catalog.typed import EntryType, field_names, typed
from rm_workflow.catalog.yaml_file import (
    Document,
    KeyPath,
    Origin,
    dotted,
    dump_value,
    merge,
    parse_value,
    read_yaml,
    shown_path,
)
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.settings import Settings, user_path

__all__ = [
    "is_recipe_path",
    "load_catalog",
    "nearest",
    "override_recipe",
    "parse_overrides",
    "place_in_recipe",
    "recipe_with_origins",
    "resolve_recipe",
]

BUILT_IN = Path(__file__).parent
FILES = ("sources.yaml", "pair_sets.yaml", "benchmarks.yaml")
SET = "--set"
# The rule of benchmarks that are problems alone (rm_workflow/evaluation/benchmarks/problems.py).
PROBLEMS = "problems"
NAME_FIELDS = ("name", "extends")
# Lists of files in a recipe, relative to it.
TEXT_FILES: tuple[KeyPath, ...] = (("mixture", "decontaminate_files"), ("mixture", "guard", "boilerplate_files"))
NAME = re.compile(r"[a-z0-9_]{1,64}")

# Beginning of the names of assets -> the recipe whose they are, and an id of what they are made from.
AssetNames = dict[str, tuple[str, str]]
# The files of recipes by name; one that cannot be read is the sentence that tells why.
Recipes = dict[str, Document | UserError]


def load_catalog(
    settings: Settings,
    extra_recipe: Path | None = None,
    check_source: Callable[[str, Source], None] | None = None,
    check_pair_set: Callable[[str, PairSet, Source], None] | None = None,
    check_benchmark: Callable[[str, Benchmark], None] | None = None,
) -> Catalog:
    """Read and check everything: each entry's types, and every name that an entry refers to.

    Args:
        extra_recipe: a recipe file outside the catalogue; it may extend a recipe of the catalogue.
        check_source: raises UserError for a source that the code cannot read; ``load_checked_catalog`` hands it in.
        check_pair_set: the same for a pair set, its rules and its source.
        check_benchmark: the same for a benchmark and its scoring rule.

    Returns:
        the catalogue; a recipe of it with a mistake stands under ``refused``.

    Raises:
        UserError: the first problem found outside of the catalogue's recipes, with file, line and key path.
    """
    folders = _folders(settings)
    # A source is written before its pair set (catalog/entries.py): read the other way round, none is met without it.
    pair_sets = _entries(folders, "pair_sets.yaml")
    sources = _entries(folders, "sources.yaml")
    benchmarks = _entries(folders, "benchmarks.yaml")
    recipes = _recipe_documents(folders, extra_recipe)
    catalog = Catalog(
        sources={name: _typed(Source, "source", name, entry) for name, entry in sources.items()},
        pair_sets={name: _typed(PairSet, "pair set", name, entry) for name, entry in pair_sets.items()},
        benchmarks={name: _typed(Benchmark, "benchmark", name, entry) for name, entry in benchmarks.items()},
        recipes={},
    )
    if TEST in benchmarks:
        raise UserError(
            f"{benchmarks[TEST].origin(())}: benchmark '{TEST}': the name means a mixture's own test split; rename it"
        )
    for name, pair_set in catalog.pair_sets.items():
        title = f"pair set '{name}'"
        _require(catalog.sources, "source", pair_set.source, title, pair_sets[name], ("source",))
    if check_source:
        for name, source in catalog.sources.items():
            with _told_at(sources[name].origin(())):
                check_source(name, source)
    if check_pair_set:
        for name, pair_set in catalog.pair_sets.items():
            with _told_at(_written_at(pair_sets[name])):
                check_pair_set(name, pair_set, catalog.sources[pair_set.source])
    if check_benchmark:
        for name, benchmark in catalog.benchmarks.items():
            with _told_at(benchmarks[name].origin(())):
                check_benchmark(name, benchmark)
    usable: dict[str, Recipe] = {}
    refused: dict[str, str] = {}
    taken: AssetNames = {}
    for name in recipes:
        try:
            usable[name] = _checked_recipe(name, recipes, catalog, taken)
        except UserError as error:
            refused[name] = str(error)
    refused = {name: _told_with_parent(name, refused, recipes) for name in refused}
    outside = _recipe_document(extra_recipe).data["name"] if extra_recipe else None
    if outside in refused:
        raise UserError(refused[outside])
    return catalog.model_copy(update={"recipes": usable, "refused": refused})


def _checked_recipe(name: str, recipes: Recipes, catalog: Catalog, taken: AssetNames) -> Recipe:
    """Return a recipe whose every name is in the catalogue, and note the names of its assets."""
    resolved = _resolved(name, recipes)
    recipe = _typed(Recipe, "recipe", name, resolved)
    _check_references(recipe, catalog, resolved)
    taken |= _asset_names(recipe, resolved, taken)
    return recipe


def _told_with_parent(name: str, refused: Mapping[str, str], recipes: Recipes) -> str:
    """Return why a recipe is refused; where the mistake is its parent's, who meets it is led there by ``extends``."""
    document, sentence = recipes[name], refused[name]
    if isinstance(document, UserError):
        return sentence
    parent = document.data.get("extends")
    if not isinstance(parent, str) or parent not in refused:
        return sentence
    if sentence.replace(f"recipe '{name}'", f"recipe '{parent}'") != refused[parent]:
        return sentence
    where = document.origin(("extends",))
    return f"{where}: recipe '{name}': extends: recipe '{parent}' cannot be used: {refused[parent]}"


def _asset_names(recipe: Recipe, document: Document, taken: AssetNames) -> AssetNames:
    """Return the names of a recipe's mixtures and tokens; refuse two whose assets would be called alike.

    Args:
        taken: those of other recipes.

    Raises:
        UserError: with both recipes, and what to rename.
    """
    where = document.origin(("sweep",))
    with _told_at(where):
        runs = runs_of(recipe) or {recipe.name: recipe}
    own: AssetNames = {}
    for run in runs.values():
        named = (recipe.name, content_id([run.data_name, run.base]))
        other = taken.get(run.tokens_name) or own.setdefault(run.tokens_name, named)
        if other != named:
            raise UserError(
                f"{where}: recipe '{recipe.name}': its assets {run.tokens_name}_... are called like those of recipe "
                f"'{other[0]}'; rename an entry of sweep.data or sweep.base, or the recipe"
            )
    return own


@contextmanager
def _told_at(origin: Origin | Callable[[UserError], Origin]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        where = origin if isinstance(origin, Origin) else origin(error)
        raise UserError(f"{where}: {error}") from None


def _written_at(entry: Document) -> Callable[[UserError], Origin]:
    """Return where the part of a pair set stands that an error names by ``rule`` and ``parameter``."""

    def origin(error: UserError) -> Origin:
        rules = entry.data.get("rules")
        names = [_rule_name(rule) for rule in rules] if isinstance(rules, list) else []
        if error.place is None or error.place[0] not in names:
            return entry.origin(())
        rule, *parameter = error.place
        here: KeyPath = ("rules", names.index(rule))
        # Written as `- cap: {max_pairs: 0}` or as `- name: cap` with `parameters`.
        short, long = (*here, rule, *parameter), (*here, "parameters", *parameter)
        return entry.origin(short if short in entry.origins else long)

    return origin


def _rule_name(rule: Any) -> str | None:
    if isinstance(rule, dict):
        return str(rule.get("name") or next(iter(rule), None))
    return rule if isinstance(rule, str) else None


def is_recipe_path(name_or_path: str) -> bool:
    """Return whether the text is a recipe file (it has a folder or a YAML suffix), not a name."""
    return "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def resolve_recipe(catalog: Catalog, name_or_path: str) -> Recipe:
    """Return a recipe by its name (``-`` and ``_`` are the same) or from a file that may extend one by name.

    Raises:
        UserError: there is no such recipe or file, or the file is wrong.
    """
    if not is_recipe_path(name_or_path):
        name = name_or_path.replace("-", "_")
        if name in catalog.refused:
            raise UserError(catalog.refused[name])
        if name not in catalog.recipes:
            raise UserError(
                f"recipe '{name_or_path}' is not in the catalogue ({nearest(name, catalog.recipes)}); "
                "'rmw recipes' lists all, a recipe file is named by its path (./my.yaml)"
            )
        return catalog.recipes[name]
    document = _recipe_document(user_path(name_or_path))
    name = document.data["name"]
    # A recipe of the catalogue is resolved already, so that it stands here as one without a parent.
    usable = {n: _as_document(recipe.model_copy(update={"extends": None})) for n, recipe in catalog.recipes.items()}
    refused = {n: UserError(sentence) for n, sentence in catalog.refused.items()}
    resolved = _resolved(name, {**usable, **refused, name: document})
    recipe = _typed(Recipe, "recipe", name, resolved)
    _check_references(recipe, catalog, resolved)
    return recipe


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``training.learning_rate=1e-5`` texts: dotted path of the recipe schema, then one YAML value."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise UserError(f"{SET} {assignment}: write it as path=value, for instance training.learning_rate=1e-5")
        if path.strip() in values:
            raise UserError(f"{SET} {assignment}: {path.strip()} is set twice; keep one of them")
        values[path.strip()] = parse_value(text, f"{SET} {assignment}")
    return values


def override_recipe(recipe: Recipe, values: Mapping[str, Any], catalog: Catalog | None = None) -> Recipe:
    """Return the recipe with values set at dotted paths; None removes, so that the default holds again.

    Args:
        values: ``{"training.learning_rate": 1e-5}``, see ``parse_overrides``.
        catalog: where new names of pair sets and benchmarks must exist; None leaves them unchecked.

    Raises:
        UserError: an unknown path or name, or a value of the wrong type.
    """
    if not values:
        return recipe
    document = _overridden(_as_document(recipe), values)
    overridden = _typed(Recipe, "recipe", recipe.name, document)
    if catalog:
        _check_references(overridden, catalog, document)
    return overridden


def recipe_with_origins(settings: Settings, name_or_path: str, overrides: Mapping[str, Any] | None = None) -> str:
    """Return the resolved recipe as YAML that can be run as it is, each line with the file it came from.

    Values that stand nowhere are marked ``default``, those of ``overrides`` ``--set``.
    """
    extra = user_path(name_or_path) if is_recipe_path(name_or_path) else None
    catalog = load_catalog(settings, extra)
    name = resolve_recipe(catalog, name_or_path).name
    recipes = _recipe_documents(_folders(settings), extra)
    document = _overridden(_resolved(name, recipes), overrides or {})
    recipe = override_recipe(catalog.recipes[name], overrides or {}, catalog)
    data = recipe.model_dump(mode="json", exclude={"extends"})
    header = " extends ".join(_chain(name, recipes))
    return "\n".join([f"# {header}", *_lines(data, (), document.origins)]) + "\n"


def place_in_recipe(settings: Settings, name: str, path: KeyPath, value: Any) -> str:
    """Return where a recipe of the catalogue gives a key its value, or its name where it stands in no file of it."""
    recipes = _recipe_documents(_folders(settings), None)
    title = f"recipe '{name}': {dotted(path)}"
    if name not in recipes:
        return title
    document = _resolved(name, recipes)
    found: Any = document.data
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return f"{document.origin(path)}: {title}" if found == value else title


def _folders(settings: Settings) -> list[Path]:
    """Return the catalogue folders; a later one replaces entries of an earlier one."""
    if settings.catalog is None:
        return [BUILT_IN]
    for path in sorted([*settings.catalog.glob("*.y*ml"), *settings.catalog.glob("recipes/*.yml")]):
        if path.name not in FILES:
            raise UserError(
                f"{shown_path(path)} is not a file of a catalogue ({nearest(path.name, FILES)}); recipes stand in "
                "recipes/<name>.yaml; rename or move it"
            )
    return [BUILT_IN, settings.catalog]


def _entries(folders: list[Path], file: str) -> dict[str, Document]:
    entries: dict[str, Document] = {}
    for path in (folder / file for folder in folders):
        if path.exists():
            document = read_yaml(path, may_be_empty=True)
            entries.update({name: _entry(document, name, path.parent) for name in document.data})
    return entries


def _entry(document: Document, name: str, folder: Path) -> Document:
    """Return one entry; a relative ``path`` in it is resolved against the folder of the file that declares it."""
    if not isinstance(document.data[name], dict):
        value = dump_value(document.data[name])
        raise UserError(f"{document.origin((name,))}: entry '{name}' must be a mapping (key: value), not {value}")
    entry = document.entry(name)
    path = entry.data.get("path")
    if not isinstance(path, str) or path.startswith(("samples:", "rows:")):
        return entry
    return Document({**entry.data, "path": str((folder / user_path(path)).resolve())}, entry.origins)


def _typed(model: type[EntryType], kind: str, name: str, entry: Document) -> EntryType:
    title = f"{kind} '{name}'"
    if not NAME.fullmatch(name):
        raise UserError(f"{entry.origin(())}: {title}: a name is 1 to 64 characters of a-z, 0-9 and _; rename it")
    return typed(model, entry, title)


def _recipe_documents(folders: list[Path], extra: Path | None) -> Recipes:
    recipes: Recipes = {}
    for folder in folders:
        here: Recipes = {}
        unreadable: dict[Path, UserError] = {}
        for path in sorted((folder / "recipes").glob("*.yaml")):
            try:
                document = _recipe_document(path)
            except UserError as error:
                unreadable[path] = error
                continue
            name = document.data["name"]
            first = here.setdefault(name, document)
            if isinstance(first, Document) and first is not document:
                other = first.origin(()).file
                here[name] = UserError(f"{document.origin(('name',))}: recipe '{name}' is in {other} too; rename one")
        for path, problem in unreadable.items():
            name = _name_by_file(path)
            # Its name cannot be read: where another file says that it is called so, it stands under that of the file.
            here[path.name if name in here else name] = problem
        recipes.update(here)
    if extra:
        document = _recipe_document(extra)
        recipes[document.data["name"]] = document
    return recipes


def _name_by_file(path: Path) -> str:
    return path.stem.replace("-", "_")


def _recipe_document(path: Path) -> Document:
    """Read a recipe file; a recipe without ``name`` is named by its file."""
    document = read_yaml(path)
    name = document.data.get("name", _name_by_file(path))
    if not isinstance(name, str):
        raise UserError(f"{document.origin(('name',))}: name must be text, not {dump_value(name)}")
    named_by: dict[KeyPath, Origin] = {("name",): Origin(document.origin(()).file)}
    data = document.data
    for keys in TEXT_FILES:
        data = _from_folder(data, keys, path.parent)
    return Document({**data, "name": name}, {**named_by, **document.origins})


def _from_folder(data: Any, keys: KeyPath, folder: Path) -> Any:
    """Return data in which the relative paths listed under ``keys`` start from ``folder``."""
    if not keys:
        return [_absolute(value, folder) for value in data] if isinstance(data, list) else data
    if not isinstance(data, dict) or keys[0] not in data:
        return data
    return {**data, keys[0]: _from_folder(data[keys[0]], keys[1:], folder)}


def _absolute(path: Any, folder: Path) -> Any:
    return str((folder / user_path(path)).resolve()) if isinstance(path, str) else path


def _chain(name: str, recipes: Recipes) -> list[str]:
    """Return the names from a recipe to its last parent."""
    chain = [name]
    while (parent := (document := _readable(chain[-1], recipes)).data.get("extends")) is not None:
        where = f"{document.origin(('extends',))}: recipe '{chain[-1]}'"
        if parent == chain[-1]:
            raise UserError(
                f"{where}: extends: this file has the name of the recipe that it extends; rename the file, or change "
                "its `name` where it has one"
            )
        if parent in chain:
            circle = " -> ".join([*chain[chain.index(parent) :], parent])
            raise UserError(f"{where}: extends goes round in a circle ({circle}); remove one of them")
        if not isinstance(parent, str):
            raise UserError(f"{where}: extends must be the name of one recipe, not {dump_value(parent)}")
        if parent not in recipes:
            raise UserError(f"{where}: extends: recipe '{parent}' is not in the catalogue ({nearest(parent, recipes)})")
        if isinstance(recipes[parent], UserError):
            raise UserError(f"{where}: extends: recipe '{parent}' cannot be used: {recipes[parent]}")
        chain.append(parent)
    return chain


def _readable(name: str, recipes: Recipes) -> Document:
    found = recipes[name]
    if isinstance(found, UserError):
        raise UserError(str(found))
    return found


def _resolved(name: str, recipes: Recipes) -> Document:
    chain = _chain(name, recipes)
    document = _readable(chain[-1], recipes)
    for child in reversed(chain[:-1]):
        without_name = {key: value for key, value in document.data.items() if key not in NAME_FIELDS}
        document = merge(Document(without_name, document.origins), _readable(child, recipes))
    return document


def _as_document(recipe: Recipe) -> Document:
    """Return a typed recipe as the mapping it came from."""
    data = recipe.model_dump(mode="json", exclude_unset=True)
    return Document(data, {(): Origin(f"recipe {recipe.name}")})


def _overridden(document: Document, values: Mapping[str, Any]) -> Document:
    for dotted_path, value in values.items():
        path = tuple(dotted_path.split("."))
        text = f"{SET} {dotted_path}={dump_value(value)}"
        _check_path(path, text, document.data)
        data = value
        for key in reversed(path):
            data = {key: data}
        origins = {here: Origin(text) for here in _key_paths(data, ())}
        document = merge(document, Document(data, {**origins, (): document.origins[()]}))
    return document


def _check_path(path: tuple[str, ...], text: str, recipe: Mapping[str, Any]) -> None:
    for depth, key in enumerate(path):
        fields = field_names(Recipe, path[:depth])
        if not fields:
            raise UserError(f"{text}: '{dotted(path[:depth])}' has no keys of its own; set it whole")
        settable = [field for field in fields if depth or field not in NAME_FIELDS]
        if key not in settable:
            mend = _deeper(key, recipe) if depth == 0 else None
            raise UserError(f"{text}: '{dotted(path[: depth + 1])}' cannot be set ({mend or nearest(key, settable)})")


def _deeper(key: str, recipe: Mapping[str, Any]) -> str | None:
    """Return where a key stands one level down, that of the sweep where each of its runs has its own; None: nowhere."""
    own = recipe.get("sweep") or {}
    if own.get(key):
        return f"each run of the sweep has its own; set sweep.{key}"
    if any(run.get(key) is not None for run in own.get("runs") or ()):
        return "each run of the sweep has its own; set it under sweep.runs"
    above = [name for name in field_names(Recipe, ()) if name != "sweep" and key in field_names(Recipe, (name,))]
    above = [name for name in above if recipe.get(name)] or above
    return f"write {' or '.join(f'{name}.{key}' for name in above)}" if above else None


def _key_paths(data: Any, path: KeyPath) -> list[KeyPath]:
    within = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, value in within for found in _key_paths(value, (*path, key)))]


def _check_references(recipe: Recipe, catalog: Catalog, document: Document) -> None:
    title = f"recipe '{recipe.name}'"
    benchmarks = catalog.benchmarks
    for number, name in enumerate(recipe.mixture.pair_set_names):
        _require(catalog.pair_sets, "pair set", name, title, document, ("mixture", "pair_sets", number))
    for number, name in enumerate(recipe.mixture.labelled_sources):
        known = {ANNOTATION, *catalog.sources}
        _require(known, "source", name, title, document, ("mixture", PARTS[recipe.mixture.kind], number))
    with _told_at(document.origin(("sweep",))):
        runs = runs_of(recipe)
    for run in runs.values():
        for name in run.mixture.pair_set_names:
            _require(catalog.pair_sets, "pair set", name, title, document, ("sweep", "data"))
        for name in run.mixture.decontaminate_against:
            _require(benchmarks, "benchmark", name, title, document, ("sweep", "data"))
        for name in run.mixture.labelled_sources:
            _require({ANNOTATION, *catalog.sources}, "source", name, title, document, ("sweep", "data"))
    if recipe.annotation:
        here: KeyPath = ("annotation", "problems")
        _require(catalog.sources, "source", recipe.annotation.problems, title, document, here)
    if recipe.rejection_sampling:
        here = ("rejection_sampling", "candidates")
        _require(catalog.sources, "source", recipe.rejection_sampling.candidates, title, document, here)
    for number, name in enumerate(recipe.mixture.decontaminate_against):
        path: KeyPath = ("mixture", "decontaminate_against", number)
        _require(benchmarks, "benchmark", name, title, document, path)
    for number, name in enumerate(recipe.evaluation.evaluate_on):
        path = ("evaluation", "evaluate_on", number)
        _require({TEST, *benchmarks}, "benchmark", name, title, document, path)
        if name != TEST and benchmarks[name].scoring == PROBLEMS:
            raise UserError(
                f"{document.origin(path)}: {title}: {dotted(path)}: '{name}' holds problems to keep clear of, without "
                "replies to score; name it under mixture.decontaminate_against"
            )
        transfer = recipe.sweep.transfer if recipe.sweep else None
        if transfer and transfer.gold == name and (name == TEST or benchmarks[name].scoring != BEST_OF_N):
            path = ("sweep", "transfer", "gold")
            raise UserError(
                f"{document.origin(path)}: {title}: {dotted(path)}: '{name}' has no candidates with gold labels; name "
                f"a benchmark with scoring {BEST_OF_N}"
            )
        if transfer and transfer.gold == name and (transfer.n or 0) > (benchmarks[name].max_candidates or math.inf):
            path = ("sweep", "transfer", "n")
            raise UserError(
                f"{document.origin(path)}: {title}: {dotted(path)}: {transfer.n} is more than the "
                f"{benchmarks[name].max_candidates} candidates that '{name}' keeps of each problem; lower it, or raise "
                "max_candidates in benchmarks.yaml"
            )
        if name != TEST:
            _check_same_split(recipe, catalog, name, f"{document.origin(path)}: {title}: {dotted(path)}")


def _check_same_split(recipe: Recipe, catalog: Catalog, benchmark: str, where: str) -> None:
    """Refuse candidates of a source that is trained on, unless they are of the problems that its split holds out.

    Raises:
        UserError: a model would be measured on problems that it was trained on.
    """
    candidates, split = catalog.benchmarks[benchmark], recipe.mixture.split
    trained_on = [catalog.sources[name] for name in recipe.mixture.labelled_sources if name in catalog.sources]
    of_same_rows = any((source.hub, source.path) == (candidates.hub, candidates.path) for source in trained_on)
    if of_same_rows and candidates.only_test_of not in (None, split):
        held_out = candidates.only_test_of
        raise UserError(
            f"{where}: '{benchmark}' holds the test problems of the split {_told(held_out)}, and the recipe trains on "
            f"the same rows by the split {_told(split)}; give both the same, here mixture.split or in benchmarks.yaml "
            "only_test_of"
        )


def _told(split: Split | None) -> str:
    assert split is not None
    return f"{{by: {split.by}, test_share: {split.test_share:g}, seed: {split.seed}}}"


def _require(known: Iterable[str], kind: str, name: str, title: str, document: Document, path: KeyPath) -> None:
    if name not in known:
        where = f"{document.origin(path)}: {title}: {dotted(path)}"
        raise UserError(f"{where}: {kind} '{name}' is not in the catalogue ({nearest(name, known)})")


def _lines(
    data: Mapping[str, Any], path: KeyPath, origins: Mapping[KeyPath, Origin], comment_column: int = 60
) -> list[str]:
    lines = []
    indent = "  " * len(path)
    for key, value in data.items():
        here = (*path, key)
        is_open = isinstance(value, dict) and bool(value)
        text = f"{indent}{key}:" if is_open else f"{indent}{key}: {dump_value(value)}"
        lines.append(f"{text:<{comment_column}}  # {origins.get(here, 'default')}")
        if is_open:
            lines.extend(_lines(value, here, origins))
    return lines
