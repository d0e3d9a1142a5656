"""From plain data to a typed entry, with one sentence where that fails."""

import types
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rm_workflow.catalog.names import nearest
from rm_workflow.catalog.yaml_file import Document, KeyPath, dotted, dump_value
from rm_workflow.errors import UserError

EntryType = TypeVar("EntryType", bound=BaseModel)

NEEDED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text (in quotes if it looks like a number)",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
    "too_short": "a list with at least one entry",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "a name of 1 to 64 characters a-z, 0-9 and _",
}


def typed(model: type[EntryType], document: Document, title: str) -> EntryType:
    """Return ``document`` as ``model``.

    Args:
        title: what the entry is called in a message: "source 'hh'".

    Raises:
        UserError: the first problem in the order of the file: file, line, key path, mend.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [(_written(problem, document), problem) for problem in error.errors(include_url=False)]
        path, first = min(problems, key=lambda found: _rank(found[1], document.origin(found[0]).line))
        origin = document.origin(path)
        raise UserError(f"{origin}: {title}: {_sentence(model, path, first)}") from None


def _rank(problem: ErrorDetails, line: int | None) -> tuple[bool, int, bool]:
    """Return by what the problem to tell is the least.

    A misspelt key is also a missing one: the misspelling is what a person wants to hear of. A misspelt word where a
    mapping may stand too is also no mapping: the word is what is meant.
    """
    is_word = problem["type"] == "literal_error" and isinstance(problem["input"], str)
    return problem["type"] == "missing", line or 0, not is_word


def _written(problem: ErrorDetails, document: Document) -> KeyPath:
    """Return the part of pydantic's location that stands in the file (it adds names of union members)."""
    path: KeyPath = ()
    for key in problem["loc"]:
        here = _below(path, key, document)
        if here is None:
            break
        path = here
    return path


def _below(path: KeyPath, key: str | int, document: Document) -> KeyPath | None:
    """Return where ``key`` of the entry at ``path`` is written: in it, or behind its name (``- name: {key: 1}``)."""
    if (*path, key) in document.origins:
        return (*path, key)
    in_list = bool(path) and isinstance(path[-1], int)
    short = (
        found for found in document.origins if found[:-2] == path and found[-1] == key and len(found) == len(path) + 2
    )
    return next(short, None) if in_list else None


def _sentence(model: type[BaseModel], path: KeyPath, problem: ErrorDetails) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        fields = field_names(model, path[:-1])
        return f"unknown key '{dotted(path)}' ({nearest(str(path[-1]), fields)})"
    if kind == "missing":
        missing = path if path[-1:] == problem["loc"][-1:] else (*path, problem["loc"][-1])
        return f"key '{dotted(missing)}' is missing; add it"
    if kind == "literal_error":
        expected = _quoted(problem["ctx"]["expected"])
        return f"{dotted(path)} is {_shown(problem)} ({nearest(str(problem['input']), expected)})"
    if kind == "value_error":
        where = f"{dotted(path)}: " if path else ""
        return where + str(problem["ctx"]["error"])
    needed = NEEDED.get(kind) or problem["msg"].removeprefix("Input should be ")
    return f"{dotted(path)} must be {needed}, not {_shown(problem)}"


def _shown(problem: ErrorDetails) -> str:
    value = problem["input"]
    if isinstance(value, dict):
        return "a mapping"
    text = f"'{value}'" if isinstance(value, str) else dump_value(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(expected: str) -> list[str]:
    """Return the names in pydantic's "'a', 'b' or 'c'"."""
    return expected.split("'")[1::2]


def field_names(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that may stand in the mapping at ``path`` of an entry."""
    annotation: Any = model
    for key in path:
        annotation = _inner(annotation, key)
    found = _model(annotation)
    return list(found.model_fields) if found else []


def _inner(annotation: Any, key: str | int) -> Any:
    model = _model(annotation)
    if model and key in model.model_fields:
        return model.model_fields[str(key)].annotation
    if model:
        return model  # a name in front of the fields: `- name: {count: 2000}`
    return (get_args(annotation) or (None,))[-1]


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((model for model in map(_model, get_args(annotation)) if model), None)
    return None
