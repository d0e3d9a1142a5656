"""The JSON schemas that editors read: made from the types, and they know what is written and what is not."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from rm_workflow.catalog.loading import BUILT_IN, load_catalog
from rm_workflow.catalog.models import Entry
from rm_workflow.catalog.models.entry import field_descriptions
from rm_workflow.catalog.schema import FILES
from rm_workflow.catalog.yaml_file import read_yaml
from rm_workflow.checked_catalog import write_schemas
from rm_workflow.settings import Settings

BUILT_IN_FILES = [path for name in ("*.yaml", "recipes/*.yaml") for path in sorted(BUILT_IN.glob(name))]
WITH_SCHEMA = [path for path in BUILT_IN_FILES if not path.name.startswith("published_")]
HEADER = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


def schema_of(path: Path) -> dict[str, Any]:
    """Return the schema that the first line of a YAML file names."""
    found = HEADER.match(path.read_text("utf-8"))
    assert found, f"{path.name} names no schema in its first line"
    return json.loads((path.parent / found[1]).read_text("utf-8"))


def problems(data: Any, schema: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(data)]


def recipe(text: dict[str, Any]) -> list[str]:
    return problems(text, json.loads((BUILT_IN / "schemas/recipe.json").read_text("utf-8")))


def entry(file: str, **text: Any) -> list[str]:
    return problems({"mine": text}, json.loads((BUILT_IN / "schemas" / file).read_text("utf-8")))


@pytest.mark.parametrize("path", WITH_SCHEMA, ids=lambda path: path.name)
def test_a_built_in_file_is_as_the_schema_in_its_first_line_says(path: Path):
    assert problems(read_yaml(path).data, schema_of(path)) == []


def test_the_schemas_of_the_package_are_those_of_the_types(tmp_path: Path):
    for written in write_schemas(tmp_path, None):
        kept = BUILT_IN / "schemas" / written.name
        assert kept.read_text("utf-8") == written.read_text("utf-8"), "python -m rm_workflow_tests.docs"
        jsonschema.Draft202012Validator.check_schema(json.loads(written.read_text("utf-8")))


def keys(data: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every key of mappings in ``data``."""
    within = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in within:
        if isinstance(data, dict):
            yield (key,)
        yield from ((key, *inner) for inner in keys(value))


# Below these, keys are names that people choose.
CHOSEN = ("files", "columns", "published_rows", "attribute_weights")


def test_a_misspelt_key_is_seen_wherever_it_stands():
    schema = schema_of(BUILT_IN / "recipes/quickstart.yaml")
    data = read_yaml(BUILT_IN / "recipes/quickstart.yaml").data
    tried = 0
    for path in keys(data):
        wrong = json.loads(json.dumps(data))
        here = wrong
        for key in path[:-1]:
            here = here[key]
        here[f"{path[-1]}_"] = here.pop(path[-1])
        assert problems(wrong, schema), path
        tried += 1
    assert tried > 20
    sources = read_yaml(BUILT_IN / "sources.yaml").data
    for name, source in sources.items():
        for key in source:
            wrong = {**source, f"{key}_": source[key]}
            assert problems({name: wrong}, schema_of(BUILT_IN / "sources.yaml")), (name, key)


@pytest.mark.parametrize(
    "text",
    [
        {"extends": "quickstart"},
        {"extends": "quickstart", "training": {"lora": None, "epochs": 2}, "mixture": {"sample": None}},
        {"extends": "x", "mixture": {"pair_sets": ["a", {"b": {"count": 5, "repeat": 2}}, {"name": "c"}]}},
        {"extends": "x", "mixture": {"kind": "responses", "responses": [{"helpsteer2": {"ratings": ["help"]}}]}},
        {"extends": "x", "sweep": {"data": {"a": {"pair_sets": ["b"]}, "c": {}}, "seed": [0, 1]}},
        {"extends": "x", "sweep": {"data": "leave_one_out"}},
        {"base": "a/b", "mixture": {"split": {"by": "hash"}}, "training": {"learning_rate": 1, "batch_size": 2}},
    ],
)
def test_what_loads_is_right(text: dict[str, Any]):
    assert recipe(text) == []


@pytest.mark.parametrize(
    "text",
    [
        {"training": {"epochs": 2}},
        {"extends": "x", "training": {"epochs": "two"}},
        {"extends": "x", "training": {"optimizer": "adam"}},
        {"extends": "x", "mixture": {"pair_sets": [{"b": {"cuont": 5}}]}},
        {"extends": "x", "mixture": {"guard": {"near_duplicate": {"threshold": 0.2}}}},
        {"extends": "x", "sweep": {"data": {"a": {"pairsets": ["b"]}}}},
    ],
)
def test_what_does_not_load_is_wrong(text: dict[str, Any]):
    assert recipe(text)


def test_rules_and_their_parameters_are_known():
    pair_set = {"source": "a", "candidates": "given"}
    assert entry("pair_sets.json", **pair_set, rules=["equal_score", {"cap": {"max_pairs": 5}}, {"rating": None}]) == []
    assert entry("pair_sets.json", **pair_set, rules=[{"name": "cap", "parameters": {"max_pairs": 5}}]) == []
    for wrong in ("equal_scores", {"cap": {"pairs": 5}}, {"score_ratio": {"min": "2"}}, {"name": "caps"}):
        assert entry("pair_sets.json", **pair_set, rules=[wrong]), wrong


def test_adapters_and_scoring_rules_are_known():
    source = {"path": "rows", "files": {"train": ["a.jsonl"]}, "licence": "MIT"}
    assert entry("sources.json", **source, adapter="chosen_rejected") == []
    assert entry("sources.json", **source, adapter="chosen_rejcted")
    benchmark = {"path": "rows", "files": {"test": ["a.jsonl"]}, "licence": "MIT"}
    assert entry("benchmarks.json", **benchmark, scoring="preferences") == []
    assert entry("benchmarks.json", **benchmark, scoring="test")


def test_the_schemas_of_a_project_offer_its_names_and_allow_others(tmp_path: Path, settings: Settings):
    write_schemas(tmp_path, load_catalog(settings))
    schema = json.loads((tmp_path / "recipe.json").read_text("utf-8"))
    uses = schema["$defs"]["PairSetUse"]["anyOf"]
    assert "sample_ratings" in uses[0]["anyOf"][0]["enum"]
    assert "sample_ratings" in uses[1]["properties"]
    assert "quickstart" in schema["properties"]["extends"]["anyOf"][0]["enum"]
    assert problems({"extends": "mine", "mixture": {"pair_sets": ["new", {"newer": {"count": 1}}]}}, schema) == []
    assert problems({"extends": "mine", "mixture": {"pair_sets": [{"sample_ratings": {"cuont": 1}}]}}, schema)


def types(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in model.__subclasses__():
        if child.__module__.startswith("rm_workflow.catalog.models"):
            yield child
            yield from types(child)


def test_every_field_is_described():
    for model in types(Entry):
        assert list(field_descriptions(model)) == list(model.model_fields), model.__name__
    for file in FILES:
        schema = json.loads((BUILT_IN / "schemas" / file).read_text("utf-8"))
        for name, part in schema["$defs"].items():
            assert part.get("description"), f"{file}: {name}"
