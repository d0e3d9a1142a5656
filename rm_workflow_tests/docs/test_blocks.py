"""Every command and snippet of README.md and docs: it is run, or says why not and is checked as far as it can be."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest

from rm_workflow.catalog.loading import BUILT_IN
from rm_workflow.catalog.models import Benchmark, PairSet, Recipe, Source
from rm_workflow.catalog.typed import typed
from rm_workflow.catalog.yaml_file import Document, Origin, merge, read_yaml
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.examples import EXAMPLES
from rm_workflow.evaluation.benchmarks import check_benchmark
from rm_workflow.preferences.adapters import check_source
from rm_workflow.preferences.pairs import check_pair_set
from rm_workflow_tests.docs.blocks import (
    KNOWN_NOTES,
    LANGUAGES,
    PROJECT,
    PROMPT,
    Block,
    all_blocks,
    blocks,
    documents,
    inline_commands,
    name,
    shell_commands,
)
from rm_workflow_tests.docs.commands import Shell, inline_problem, problem, rmw_parts, root, words
from rm_workflow_tests.docs.conftest import Place
from rm_workflow_tests.preferences.sources import settings

BLOCKS = all_blocks()
FILE_NAME = re.compile(r"# (\S+\.yaml)\b")
# What runs nothing but is shown in bash blocks beside rmw.
SHELL_WORDS = (
    *("cd", "echo", "cat", "mkdir", "make", "ls", "git", "pip", "python", ".", "accelerate", "docker", "curl", "ray"),
    "vllm",
)


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language in languages]


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in BLOCKS])
def test_a_block_has_a_language_and_a_reason_where_it_is_not_run(block: Block):
    assert block.language in LANGUAGES, "name the language of the block"
    assert set(block.notes) <= set(KNOWN_NOTES)
    assert not {"run", "not run"} <= set(block.notes)
    assert block.notes.get("run") in (None, "slow")


def commands_of(block: Block) -> Iterator[str]:
    if block.language == "bash":
        yield from shell_commands(block.text)
    else:
        lines = block.text.splitlines()
        yield from (line.removeprefix(PROMPT) for line in lines if line.startswith(PROMPT))


@pytest.mark.parametrize("block", of("bash", "text"))
def test_the_commands_of_a_block_are_those_of_the_command_line(block: Block):
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for command in commands_of(block):
        first = next((word for word in words(command.partition("\n")[0]) if "=" not in word), "")
        assert first == "rmw" or first in SHELL_WORDS, command
        if first == "make":
            assert words(command)[1] in targets, command
        for arguments in rmw_parts(command):
            assert problem(arguments) is None, command


@pytest.mark.parametrize("path", [pytest.param(path, id=name(path)) for path in documents()])
def test_commands_in_running_text_exist(path: Path):
    wrong = {command: inline_problem(command) for command in inline_commands(path)}
    assert {command: told for command, told in wrong.items() if told} == {}


def verbs(command: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for verb, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from verbs(inner, f"{before}{verb} ")
        else:
            yield f"{before}{verb}", inner


def test_each_verb_ends_its_help_with_examples_that_can_be_written_so():
    found = dict(verbs(root()))
    assert set(EXAMPLES) == set(found), "rm_workflow/cli/examples.py"
    for verb, examples in EXAMPLES.items():
        assert "Examples:" in found[verb].epilog
        for command in examples:
            (arguments,) = rmw_parts(command)
            assert " ".join(arguments).startswith(verb), command
            assert problem(arguments) is None, command


@pytest.mark.parametrize("text", ["rmw plna quickstart", "rmw plan", "rmw plan x --devise h100", "rmw run x --until"])
def test_a_wrong_command_is_seen(text: str):
    (arguments,) = rmw_parts(text)
    assert problem(arguments) is not None


@pytest.mark.parametrize("text", ["rmw plna quickstart", "rmw plan --devise h100", "rmw sources upgrade NAME"])
def test_a_wrong_command_in_running_text_is_seen(text: str):
    assert inline_problem(text) is not None


# YAML, Python, JSON


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Recipe]:
    return load_checked_catalog(settings(tmp_path_factory.mktemp("home"))).recipes


def schema(file: str) -> dict[str, Any]:
    return json.loads((BUILT_IN / "schemas" / file).read_text("utf-8"))


def check_entry(entry_name: str, entry: Document) -> None:
    if "adapter" in entry.data:
        source = typed(Source, entry, entry_name)
        check_source(entry_name, source)
        jsonschema.validate({entry_name: entry.data}, schema("sources.json"))
    elif "scoring" in entry.data:
        check_benchmark(entry_name, typed(Benchmark, entry, entry_name))
        jsonschema.validate({entry_name: entry.data}, schema("benchmarks.json"))
    else:
        check_pair_set(entry_name, typed(PairSet, entry, entry_name))
        jsonschema.validate({entry_name: entry.data}, schema("pair_sets.json"))


def check_yaml(block: Block, document: Document, parents: Mapping[str, Recipe]) -> None:
    if not set(document.data) <= set(Recipe.model_fields):
        for entry_name in document.data:
            check_entry(entry_name, document.entry(entry_name))
        return
    jsonschema.validate({"extends": "quickstart", **document.data}, schema("recipe.json"))
    if "base" in document.data and "extends" not in document.data:
        typed(Recipe, merge(Document({"name": "mine"}, {(): Origin("")}), document), block.place)
        return
    over = block.notes.get("over") or document.data.get("extends") or "quickstart"
    parent = Document(parents[over].model_dump(mode="json", exclude={"extends"}), {(): Origin("")})
    typed(Recipe, merge(parent, document), block.place)


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_what_the_types_take(block: Block, tmp_path: Path, parents: Mapping[str, Recipe]):
    (tmp_path / "block.yaml").write_text(block.text)
    check_yaml(block, read_yaml(tmp_path / "block.yaml"), parents)


@pytest.mark.parametrize("block", of("python", "json"))
def test_python_and_json_can_be_read(block: Block):
    if block.language == "python":
        compile(block.text, block.place, "exec")
    else:
        for line in [block.text] if "shape of" in block.notes else block.text.strip().split("\n\n"):
            json.loads(line)


# Run


def shown_keys(shown: Any, real: Any, path: str = "") -> list[str]:
    """Return the keys that a shape shows and the real answer lacks; of lists the first elements are compared.

    A key in angle brackets stands for any name.
    """
    if isinstance(shown, list) and isinstance(real, list):
        return shown_keys(shown[0], real[0], f"{path}[0]") if shown and real else []
    if not (isinstance(shown, dict) and isinstance(real, dict)):
        return []
    missing = []
    for key, value in shown.items():
        if key.startswith("<"):
            missing += shown_keys(value, next(iter(real.values())), f"{path}.{key}") if real else []
        elif key not in real:
            missing.append(f"{path}.{key}")
        else:
            missing += shown_keys(value, real[key], f"{path}.{key}")
    return missing


def write_yaml(block: Block) -> None:
    """Put a block that names its file where it belongs; entries of a catalogue's file stand below the others."""
    found = FILE_NAME.match(block.text)
    if found and block.is_run:
        path = Path(found[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() and path.parent.name == "catalog" else ""
        path.write_text(text + block.text)


def run_block(block: Block, shell: Shell) -> None:
    if block.language == "yaml":
        write_yaml(block)
    elif not block.is_run:
        return
    elif block.language == "bash":
        for command in shell_commands(block.text):
            shell.run(command)
    elif block.language == "python":
        exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    elif block.language == "sql":
        index = shell.place.home / "lineage.duckdb"
        with duckdb.connect(str(index), read_only=True) as con:
            for statement in duckdb.extract_statements(block.text):
                con.execute(statement).fetchall()
    elif "shape of" in block.notes:
        real = json.loads(shell.run(block.notes["shape of"]))
        assert shown_keys(json.loads(block.text), real) == []


def run_document(path: Path, shell: Shell, slow: bool) -> None:
    # Where a document makes a project, its reader is in none yet.
    makes_project = any("rmw init myproject" in block.text and block.is_run for block in blocks(path))
    shell.monkeypatch.chdir(shell.place.folder if makes_project else shell.place.project)
    for block in blocks(path):
        if slow or not block.is_slow:
            try:
                run_block(block, shell)
            except Exception as error:
                raise AssertionError(f"{block.place}: {error}") from error


# A document without blocks that run has nothing to say here.
RUNNABLE = ("bash", "python", "sql", "json")
FAST = [
    path
    for path in documents()
    if any(block.is_run and not block.is_slow and block.language in RUNNABLE for block in blocks(path))
]
SLOW = [path for path in documents() if any(block.is_slow for block in blocks(path))]


@pytest.mark.parametrize("path", [pytest.param(path, id=name(path)) for path in FAST])
def test_what_a_document_shows_runs(path: Path, place: Place, shell: Callable[[Place], Shell]):
    run_document(path, shell(place), slow=False)


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("path", [pytest.param(path, id=name(path)) for path in SLOW])
def test_what_a_document_shows_of_a_checkpoint_runs(path: Path, trained: Place, shell: Callable[[Place], Shell]):
    run_document(path, shell(trained), slow=True)
