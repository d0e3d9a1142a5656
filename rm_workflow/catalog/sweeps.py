"""The runs of a sweep: each a recipe of its own, under a key that a person can read.

A key names data, base, learning rate, epochs and seed, those alone that the sweep varies or lists:
``combined__lr3e-6__ep1__s0``. Nothing is ever read out of a key: the run is looked up by it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from rm_workflow.catalog.models import LEAVE_ONE_OUT, PARTS, Mixture, Recipe, Sweep, SweepRun
from rm_workflow.catalog.names import nearest
from rm_workflow.errors import UserError

ALL = "all"
# Below, numbers are written with an exponent.
LEAST_WRITTEN_OUT = 0.01
# Fields of the recipe that runs have for themselves: setting them once would change no run.
SWEPT = {"learning_rate": "training.learning_rate", "epochs": "training.epochs", "seed": "training.seed"}
# The same of what a run names, by its field of the recipe.
NAMED = {"base": "base"}


def runs_of(recipe: Recipe) -> dict[str, Recipe]:
    """Return the runs of a recipe by key, retired ones left out; a recipe without a sweep has none.

    Raises:
        UserError: two runs are the same, or the data of one is no mixture.
    """
    if recipe.sweep is None:
        return {}
    found = [_as_recipe(recipe, run) for run in _asked(recipe, recipe.sweep)]
    keys = Counter(run.partition for run in found)
    for key, number in keys.items():
        if number > 1:
            raise UserError(f"recipe '{recipe.name}': sweep: {number} runs are called {key}; list each once")
    kept = {run.partition or "": run for run in found if run.partition not in recipe.sweep.retired}
    if not kept:
        raise UserError(f"recipe '{recipe.name}': sweep.retired names every run; take one out, or write sweep: null")
    return kept


def partition_keys(recipe: Recipe) -> list[str]:
    """Return all keys, those of retired runs last."""
    if recipe.sweep is None:
        return []
    retired = recipe.sweep.retired
    made = [key for key in map(run_key, _asked(recipe, recipe.sweep)) if key not in retired]
    return list(dict.fromkeys([*made, *retired]))


def run_of(recipe: Recipe, key: str) -> Recipe:
    """Return the run with this key.

    Raises:
        UserError: there is none, or it is retired.
    """
    runs = runs_of(recipe)
    if key in runs:
        return runs[key]
    if recipe.sweep and key in recipe.sweep.retired:
        raise UserError(
            f"recipe '{recipe.name}': run {key} is retired, so it is made no more; take it out of sweep.retired to run "
            f"it again, or name what it made: {recipe.name}_checkpoint[{key}]"
        )
    raise UserError(f"recipe '{recipe.name}': its sweep has no run {key}; {nearest(key, runs)}")


def bases_of(recipe: Recipe) -> list[str]:
    """Return the base models of a recipe and of its runs."""
    return list(dict.fromkeys([recipe.base, *(recipe.sweep.base.values() if recipe.sweep else ())]))


def shared_data(recipe: Recipe) -> list[Recipe]:
    """Return the recipe once for each mixture of its runs; without a sweep this is the recipe itself."""
    return _told_apart(recipe, lambda run: run.data_name)


def shared_tokens(recipe: Recipe) -> list[Recipe]:
    """Return the recipe once for each mixture and base model of its runs."""
    return _told_apart(recipe, lambda run: run.tokens_name)


def sharing(recipe: Recipe, tokens_name: str) -> Recipe:
    """Return the recipe as the runs with these tokens share it.

    Raises:
        UserError: no run of the sweep has them.
    """
    for one in shared_tokens(recipe):
        if one.tokens_name == tokens_name:
            return one
    raise UserError(
        f"recipe '{recipe.name}': no run of its sweep is made from {tokens_name}_tokens; reload the code location, or "
        "list its data under sweep.data"
    )


def _told_apart(recipe: Recipe, name: Callable[[Recipe], str]) -> list[Recipe]:
    if recipe.sweep is None:
        return [recipe]
    return [run.as_run(None, run.data_name, run.tokens_name) for run in _first_of_each(recipe, name)]


def runs_with_own_tokens(recipe: Recipe) -> list[Recipe]:
    """Return the first run of each mixture and base model; without a sweep the recipe itself."""
    return _first_of_each(recipe, lambda run: run.tokens_name) or [recipe]


def _first_of_each(recipe: Recipe, name: Callable[[Recipe], str]) -> list[Recipe]:
    first: dict[str, Recipe] = {}
    for run in runs_of(recipe).values():
        first.setdefault(name(run), run)
    return list(first.values())


def check_overrides(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """Refuse to set what every run of the sweep has for itself.

    Raises:
        UserError: such a field is set.
    """
    if recipe.sweep is None:
        return
    for field, path in {**SWEPT, **NAMED}.items():
        if path in values and all(getattr(run, field) is not None for run in _asked(recipe, recipe.sweep)):
            where = "it under sweep.runs" if recipe.sweep.runs else f"sweep.{field}"
            raise UserError(f"--set {path}: each run of the sweep has its own {field}; set {where} instead")
    changes = _data(recipe, recipe.sweep).values()
    for path in values:
        field, _, own = path.partition(".")
        if field == "mixture" and changes and all(_replaces(change, own.split(".")) for change in changes):
            raise UserError(f"--set {path}: all data of the sweep have their own {own}; change it under sweep.data")


def _replaces(change: Any, path: Sequence[str]) -> bool:
    """Return whether a change of the mixture says what stands at a path."""
    for key in path:
        if not isinstance(change, Mapping):
            return True
        if key not in change:
            return False
        change = change[key]
    return True


def _asked(recipe: Recipe, sweep: Sweep) -> Iterator[SweepRun]:
    """Yield what each run has for itself, the last dimension fastest."""
    if sweep.runs:
        yield from sweep.runs
        return
    data: list[Any] = [*_data(recipe, sweep)] or [None]
    bases: list[Any] = [*sweep.base] or [None]
    values: list[list[Any]] = [data, bases, *([*getattr(sweep, name)] or [None] for name in SWEPT)]
    for combination in product(*values):
        yield SweepRun.model_validate(dict(zip(("data", "base", *SWEPT), combination, strict=True)))


def _data(recipe: Recipe, sweep: Sweep) -> Mapping[str, Mapping[str, Any]]:
    """Return the fields of the mixture that differ, by name of the data."""
    if not isinstance(sweep.data, str):
        return sweep.data
    field = PARTS[recipe.mixture.kind]
    parts = [part.model_dump(mode="json") for part in getattr(recipe.mixture, field)]
    if len(parts) < 2:
        raise UserError(
            f"recipe '{recipe.name}': sweep.data is leave_one_out, and its mixture has one part; list what is to differ"
        )
    left = {name: [part for part in parts if part != name_of] for name, name_of in _names(parts)}
    return {ALL: {}, **{name: {field: rest} for name, rest in left.items() if rest}}


def _names(parts: list[Any]) -> Iterator[tuple[str, Any]]:
    for part in parts:
        name = part if isinstance(part, str) else part.get("name") or next(iter(part))
        yield f"without_{name}", part


def left_out(recipe: Recipe, data: str) -> str | None:
    """Return the part of the mixture that the data of a leave-one-out sweep lack, or None."""
    is_one = recipe.sweep is not None and recipe.sweep.data == LEAVE_ONE_OUT and data != ALL
    return data.removeprefix("without_") if is_one else None


def _as_recipe(recipe: Recipe, run: SweepRun) -> Recipe:
    """Return the recipe of one run, its sweep left in place."""
    sweep = recipe.sweep
    assert sweep is not None, "only a sweep has runs"
    trained = {name: getattr(run, name) for name in SWEPT if getattr(run, name) is not None}
    changed = recipe.model_copy(
        update={
            "mixture": _mixture(recipe, sweep, run.data),
            "base": sweep.base[run.base] if run.base else recipe.base,
            "training": recipe.training.model_copy(update=trained),
        }
    )
    data_name = f"{recipe.name}_{run.data}" if run.data else recipe.name
    tokens_name = f"{data_name}_{run.base}" if run.base else data_name
    return changed.as_run(run_key(run), data_name, tokens_name)


def _mixture(recipe: Recipe, sweep: Sweep, data: str | None) -> Mixture:
    changes = _data(recipe, sweep)[data] if data else {}
    if not changes:
        return recipe.mixture
    try:
        return Mixture.model_validate(_merged(recipe.mixture.model_dump(mode="json"), changes))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(["sweep", "data", str(data), *map(str, problem["loc"])])
        said = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"recipe '{recipe.name}': {where}: {said}; mend it there") from None


def _merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over fields as a recipe over its parent: mappings merge by key, null removes, all else replaces."""
    merged = dict(fields)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merged(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def run_key(run: SweepRun) -> str:
    """Return the key of a run, which a person can read.

    >>> run_key(SweepRun(data="combined", learning_rate=3e-6, epochs=1, seed=0))
    'combined__lr3e-6__ep1__s0'
    """
    parts = [
        run.data,
        run.base,
        None if run.learning_rate is None else f"lr{_short(run.learning_rate)}",
        None if run.epochs is None else f"ep{_short(run.epochs)}",
        None if run.seed is None else f"s{run.seed}",
    ]
    return "__".join(part for part in parts if part is not None)


def _short(value: float) -> str:
    """Return a number as people write it: ``5e-4`` and ``3e-6``, not ``0.0005`` and ``3e-06``.

    >>> _short(0.0005), _short(3e-6), _short(2.5e-5), _short(0.25), _short(3.0)
    ('5e-4', '3e-6', '2.5e-5', '0.25', '3')
    """
    written = f"{value:.17g}" if float(f"{value:g}") != value else f"{value:g}"
    if 0 < abs(value) < LEAST_WRITTEN_OUT and "e" not in written:
        digits = len(written.lstrip("0.")) - 1
        written = f"{value:.{digits}e}"
    mantissa, e, exponent = written.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa
