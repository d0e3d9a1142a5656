"""JSON schemas of the catalogue's YAML files, by which editors complete and check them.

They are made from the types (``rm_workflow/catalog/models``) and say less than these: what depends on several keys, and
whether a name exists, is checked when the catalogue is loaded. An editor finds the schema of a file by its first line::

    # yaml-language-server: $schema=schemas/sources.json
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rm_workflow.catalog.models import TEST, Benchmark, Entry, PairSet, Recipe, Source

Schema = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
NULL: Schema = {"type": "null"}
# Where null is no value of a key, a recipe that extends another one may still write it, to be rid of the parent's.
REMOVES: Schema = {"type": "null", "description": "takes away what the parent has; refused in a recipe without one"}
NAME: Schema = {"pattern": "^[a-z0-9_]{1,64}$"}
# File of a schema -> what the YAML files are called that it describes, and the type of an entry.
FILES: Mapping[str, tuple[str, type[Entry]]] = {
    "sources.json": ("sources.yaml", Source),
    "pair_sets.json": ("pair_sets.yaml", PairSet),
    "benchmarks.json": ("benchmarks.yaml", Benchmark),
    "recipe.json": ("recipes/<name>.yaml", Recipe),
}
# A recipe without a parent has these.
WHOLE_RECIPE = ("base", "mixture", "training")


@dataclass(frozen=True)
class Known:
    """The names that may be written, where the types only say that there is a name.

    Attributes:
        adapters: of sources.
        rules: of pair sets: name -> what it does, and its parameters.
        scorings: of benchmarks.
        sources, pair_sets, benchmarks, recipes: of the catalogue; they are offered, and others are allowed.
    """

    adapters: Sequence[str]
    rules: Mapping[str, tuple[str, type[BaseModel]]]
    scorings: Sequence[str]
    sources: Sequence[str] = ()
    pair_sets: Sequence[str] = ()
    benchmarks: Sequence[str] = ()
    recipes: Sequence[str] = ()


def header(schema: str, folder: str) -> str:
    """Return the line by which an editor finds a schema; ``folder`` is where it lies, seen from the YAML file."""
    return f"# yaml-language-server: $schema={folder}/{schema}"


def schemas(known: Known) -> dict[str, Schema]:
    """Return the file of each schema -> the schema."""
    return {
        "sources.json": _entries("sources.json", _sources(known)),
        "pair_sets.json": _entries("pair_sets.json", _pair_sets(known)),
        "benchmarks.json": _entries("benchmarks.json", _benchmarks(known)),
        "recipe.json": _recipe(known),
    }


def _tidy(schema: Schema) -> Schema:
    """Drop the titles that pydantic makes of names, and let a mapping by names have no other keys."""
    for part in _parts(schema):
        if isinstance(part.get("title"), str):
            del part["title"]
        if "patternProperties" in part:
            ((pattern, values),) = part.pop("patternProperties").items()
            part.update(propertyNames={"pattern": pattern}, additionalProperties=values)
    return schema


def _parts(schema: Any) -> Iterator[Schema]:
    """Yield every mapping in a schema, inner ones last."""
    if isinstance(schema, dict):
        yield schema
    within = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in list(within):
        yield from _parts(part)


def _entries(file: str, entry: Schema) -> Schema:
    """Return the schema of a file of entries by name."""
    definitions = entry.pop("$defs", {})
    kind = FILES[file][1].__name__
    return {
        "$schema": DRAFT,
        "title": FILES[file][0],
        "type": "object",
        "propertyNames": NAME,
        "additionalProperties": {"$ref": f"#/$defs/{kind}"},
        "$defs": {kind: entry, **definitions},
    }


def _sources(known: Known) -> Schema:
    schema = _tidy(Source.model_json_schema())
    schema["properties"]["adapter"]["enum"] = list(known.adapters)
    return schema


def _pair_sets(known: Known) -> Schema:
    schema = _tidy(PairSet.model_json_schema())
    _offer(schema["properties"]["source"], known.sources)
    references, rules = models_json_schema([(parameters, "validation") for _, parameters in known.rules.values()])
    behind = {
        name: {"anyOf": [references[parameters, "validation"], NULL], "description": told}
        for name, (told, parameters) in known.rules.items()
    }
    alone, short, long = schema["$defs"]["RuleUse"]["anyOf"]
    alone["enum"] = long["properties"]["name"]["enum"] = list(known.rules)
    short.update(properties=behind, additionalProperties=False)
    schema["$defs"].update(_tidy(rules["$defs"]))
    return schema


def _benchmarks(known: Known) -> Schema:
    schema = _tidy(Benchmark.model_json_schema())
    schema["properties"]["scoring"]["enum"] = list(known.scorings)
    return schema


def _recipe(known: Known) -> Schema:
    schema = _tidy(Recipe.model_json_schema())
    definitions = schema["$defs"]
    uses = {"PairSetUse": known.pair_sets, "ResponseUse": known.sources, "TrajectoryUse": known.sources}
    for name, part in [(Recipe.__name__, schema), *definitions.items()]:
        if name not in uses:
            _make_partial(part)
    for use, names in uses.items():
        alone, short, _ = definitions[use]["anyOf"]
        _offer(alone, names)
        fields = {"$ref": f"#/$defs/{use}Fields"}
        definitions[f"{use}Fields"] = {"description": definitions[use]["description"], **short["additionalProperties"]}
        short.update(properties=dict.fromkeys(names, fields), additionalProperties=fields)
    mixture, evaluation = definitions["Mixture"]["properties"], definitions["Evaluation"]["properties"]
    _offer(mixture["decontaminate_against"]["anyOf"][0]["items"], known.benchmarks)
    _offer(evaluation["evaluate_on"]["anyOf"][0]["items"], [TEST, *known.benchmarks])
    _offer(schema["properties"]["extends"], known.recipes)
    # What differs in the data of a sweep's runs are keys of the mixture.
    changes = definitions["Sweep"]["properties"]["data"]["anyOf"][0]
    changes["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/Mixture"}, REMOVES]}
    return {
        "$schema": DRAFT,
        "title": FILES["recipe.json"][0],
        **schema,
        "anyOf": [{"required": ["extends"]}, {"required": list(WHOLE_RECIPE)}],
    }


def _make_partial(schema: Schema) -> None:
    """Let every key be left out, as its parent has it, and be null, which removes it where it is no value."""
    schema.pop("required", None)
    for name, field in schema.get("properties", {}).items():
        described = {key: field[key] for key in ("description", "default") if key in field}
        forms = field.get("anyOf") or [{key: value for key, value in field.items() if key not in described}]
        for form in forms:
            if isinstance(form.get("additionalProperties"), dict):
                form["additionalProperties"] = {"anyOf": [form["additionalProperties"], REMOVES]}
        schema["properties"][name] = {**described, "anyOf": [*forms, *([] if NULL in forms else [REMOVES])]}


def _offer(schema: Schema, names: Sequence[str]) -> None:
    """Let an editor complete names, without refusing others."""
    if names:
        kept = {key: schema.pop(key) for key in list(schema) if key != "description"}
        schema["anyOf"] = [{"enum": list(names)}, *kept.get("anyOf", [kept])]
