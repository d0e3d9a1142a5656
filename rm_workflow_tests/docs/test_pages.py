"""What the documents say is what the code and the catalogue hold."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Recipe
from rm_workflow.preferences import adapters
from rm_workflow_tests.docs.blocks import PROJECT, documents, name
from rm_workflow_tests.docs.environment import VARIABLES, names_in_code
from rm_workflow_tests.docs.pages import COMMAND, REFERENCE, pages
from rm_workflow_tests.preferences.sources import settings

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_pages_that_are_made_from_the_code_are_up_to_date():
    stale = [name(path) for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    assert stale == [], f"renew them: {COMMAND}"


def test_null_is_told_of_the_keys_of_a_recipe_that_take_it_and_of_no_other():
    models = recipe_models()
    told = re.split("\n### recipe: (\\w+)\n", pages()[REFERENCE / "yaml.md"])
    wrong = [
        f"{model}.{key}"
        for model, text in zip(told[1::2], told[2::2], strict=True)
        for key, kind in re.findall(r"^\| `(\w+)` \| (.*?) \| ", text, re.MULTILINE)
        if model in models and ("null" in kind) != takes_null(models[model].model_fields[key])
    ]
    assert wrong == []


def recipe_models() -> dict[str, type[BaseModel]]:
    """Return the types that stand in a recipe, by name."""
    found: dict[str, type[BaseModel]] = {}
    waiting: list[object] = [Recipe]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__ not in found:
            found[kind.__name__] = kind
            waiting += [field.annotation for field in kind.model_fields.values()]
    return found


def takes_null(field: FieldInfo) -> bool:
    try:
        TypeAdapter(field.annotation).validate_python(None)
    except ValidationError:
        return False
    return True


def test_each_environment_variable_that_the_code_reads_is_described_and_no_other():
    assert sorted(VARIABLES) == sorted(names_in_code())


def test_each_adapter_is_in_the_table_of_adapters():
    table = (PROJECT / "docs/how-to/data.md").read_text("utf-8")
    assert [adapter for adapter in adapters.names() if f"\n| `{adapter}` |" not in table] == []


def test_the_sources_whose_file_names_are_by_convention_exist(tmp_path: Path):
    sources = load_catalog(settings(tmp_path)).sources
    (named,) = re.findall(r"but for (.*?), where they follow", (PROJECT / "docs/data.md").read_text(), re.DOTALL)
    for source_name in re.findall(r"`([a-z0-9_]+)(?:\*)?`", named):
        assert any(source.startswith(source_name) for source in sources), source_name


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.mark.parametrize("path", [pytest.param(path, id=name(path)) for path in documents()])
def test_links_lead_somewhere(path: Path):
    wrong = []
    for link in LINK.findall(re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        page = (path.parent / target).resolve() if target else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            wrong.append(link)
    assert wrong == []


def test_the_readme_is_short_enough_to_be_read():
    assert len((PROJECT / "README.md").read_text("utf-8").splitlines()) <= 500
