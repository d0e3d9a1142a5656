"""A project and a recipe to begin with: what is written loads, says what comes next, and replaces nothing."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.yaml_file import read_yaml
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli import init
from rm_workflow.settings import load_settings
from rm_workflow_tests.catalog.test_schema import problems, schema_of
from rm_workflow_tests.cli.conftest import Answer, Project

Rmw = Callable[..., Answer]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder that is no project."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("RMW_CATALOG", "RMW_HUB_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    # load_settings exports it: what is set here is put back.
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_name_outside_of_a_project_is_a_new_one(empty: Path, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    answer = rmw("init", "my-project")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("project my-project: my-project/workspace.yaml, my-project/catalog/sources.yaml, ")
    commands = [line.partition("#")[0].strip() for line in answer.out.splitlines() if line.startswith("  ")]
    assert commands == ["cd my-project", "rmw run quickstart", "rmw sources add FILE", "rmw init NAME"]
    project = empty / "my-project"
    files = ("sources.yaml", "pair_sets.yaml", "benchmarks.yaml")
    assert sorted(path.name for path in project.iterdir()) == [
        ".gitignore",
        ".rmw",
        "catalog",
        "data",
        "workspace.yaml",
    ]
    monkeypatch.chdir(project)
    monkeypatch.delenv("RMW_HOME")
    settings = load_settings()
    assert (settings.project, settings.home) == (project, project / "data/home")
    assert "quickstart" in load_checked_catalog(settings).recipes
    for file in (project / "catalog" / name for name in files):
        assert problems(read_yaml(file, may_be_empty=True).data, schema_of(file)) == []


def test_the_examples_in_the_files_of_a_new_project_load_as_they_stand(
    empty: Path, rmw: Rmw, monkeypatch: pytest.MonkeyPatch
):
    assert rmw("init", "mine").code == 0
    for file in (empty / "mine/catalog").glob("*.yaml"):
        first, *lines = file.read_text().splitlines(keepends=True)
        example = [line.removeprefix("#").removeprefix(" ") for line in lines[2:]]
        file.write_text(first + "".join(example))
        assert problems(read_yaml(file).data, schema_of(file)) == []
    monkeypatch.chdir(empty / "mine")
    catalog = load_checked_catalog(load_settings())
    assert "my_rows" in catalog.sources
    assert "my_rows" in catalog.pair_sets
    assert "my_test" in catalog.benchmarks


def test_the_current_folder_can_become_a_project(empty: Path, rmw: Rmw):
    (empty / ".git").mkdir()
    answer = json.loads(rmw("init", ".", "--json").out)
    assert (answer["kind"], answer["name"]) == ("project", "empty")
    assert answer["next"][0] == "rmw run quickstart"
    assert (empty / "workspace.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("held",), "project 'held': the folder is not empty (a.txt); choose another name or empty it"),
        (("a.txt",), "project 'a.txt': there is a file of this name; choose another name"),
        (("my project",), "project 'my project': a name is letters, digits"),
        (("away/mine",), "does not exist; make it first"),
        (("mine", "--extends", "quickstart"), "make a project with rmw init NAME"),
        (("./mine", "--data", "x"), "--data: a recipe has it, not a project"),
    ],
)
def test_no_project_is_made_where_it_cannot_be(empty: Path, rmw: Rmw, arguments: tuple[str, ...], sentence: str):
    (empty / "held").mkdir()
    (empty / "held/a.txt").write_text("")
    (empty / "a.txt").write_text("")
    before = tree(empty)
    answer = rmw("init", *arguments)
    assert answer.code in (1, 2)
    assert sentence in answer.error
    assert tree(empty) == before


def test_a_name_inside_of_a_project_is_a_recipe_on_its_data(empty: Path, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    rmw("init", "mine")
    monkeypatch.chdir(empty / "mine")
    rows = "".join(
        json.dumps({"prompt": f"Name river {n}.", "chosen": "The Danube.", "rejected": "No."}) + "\n" for n in range(20)
    )
    Path("data/rivers.jsonl").write_text(rows)
    added = rmw("sources", "add", "data/rivers.jsonl")
    assert "; next: rmw init NAME --data rivers (a recipe that trains on it)" in added.err
    answer = rmw("init", "on-rivers", "--data", "rivers", "--base", "org/model", "--set", "training.lora.r=8")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("recipe on_rivers: catalog/recipes/on_rivers.yaml\nnext:\n  rmw plan on_rivers ")
    file = Path("catalog/recipes/on_rivers.yaml")
    assert problems(read_yaml(file).data, schema_of(file)) == []
    recipe = load_catalog(load_settings()).recipes["on_rivers"]
    assert recipe.mixture.pair_set_names == ["rivers"]
    assert (recipe.mixture.split.by, recipe.mixture.sample, recipe.mixture.decontaminate_against) == ("hash", None, [])
    assert recipe.evaluation.evaluate_on == ["test"]
    assert (recipe.base, recipe.training.lora.r, recipe.training.lora.alpha) == ("org/model", 8, 64)
    # Editors are offered what is new, and the sources of a file that began without an entry know their schema.
    offered = json.loads(Path(".rmw/schemas/recipe.json").read_text())
    assert "rivers" in offered["$defs"]["PairSetUse"]["anyOf"][0]["anyOf"][0]["enum"]
    assert "on_rivers" in offered["properties"]["extends"]["anyOf"][0]["enum"]
    counts = json.loads(rmw("counts", "on_rivers", "--json").out)
    assert counts["mixtures"]["on_rivers_mixture"]["kept"] == 20


def test_a_source_with_test_files_of_its_own_keeps_them(project: Project, rmw: Rmw):
    assert rmw("init", "mine", "--data", "toy").code == 0
    recipe = load_catalog(load_settings()).recipes["mine"]
    assert recipe.mixture.split.by == "native"
    # A catalogue without a project has no folder for schemas.
    assert (project.folder / "catalog/recipes/mine.yaml").read_text().startswith("# What differs from quickstart;")
    assert not (project.folder / ".rmw").exists()


def test_a_recipe_without_options_says_where_to_begin(project: Project, rmw: Rmw):
    assert rmw("init", "mine").code == 0
    text = (project.folder / "catalog/recipes/mine.yaml").read_text()
    assert "extends: quickstart\n" in text
    assert "# training: {batch_size: 8, " in text
    assert (
        load_catalog(load_settings()).recipes["mine"].mixture
        == load_catalog(load_settings()).recipes["quickstart"].mixture
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_it_asks(project: Project, rmw: Rmw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", Terminal("rm_mistral_7b_mini\ntoy\n\n"))
    answer = rmw("init", "mine")
    assert answer.code == 0, answer.err
    assert "pair sets, with commas; yours: toy" in answer.out
    recipe = load_catalog(load_settings()).recipes["mine"]
    assert (recipe.extends, recipe.mixture.pair_set_names) == ("rm_mistral_7b_mini", ["toy"])
    assert recipe.base == load_catalog(load_settings()).recipes["rm_mistral_7b_mini"].base


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("quickstart",), "recipe 'quickstart' is in the catalogue already; choose another name"),
        (("My!",), "recipe 'My!': a name is 1 to 64 characters of a-z, 0-9 and _"),
        (("mine", "--extends", "quikstart"), "did you mean 'quickstart'?"),
        (("mine", "--extends", "./toy.yaml"), "a recipe extends one of the catalogue"),
        (("mine", "--data", "tyo"), "--data: pair set 'tyo' is not in the catalogue (did you mean 'toy'?)"),
        (("mine", "--extends", "quickstart_regression", "--data", "toy"), "is trained on responses, and pair sets"),
        (("mine", "--set", "training.epochs=-1"), "training.epochs"),
        (("mine", "--set", "training.epocs=1"), "did you mean 'epochs'?"),
    ],
)
def test_no_recipe_is_written_that_does_not_load(project: Project, rmw: Rmw, arguments: tuple[str, ...], sentence: str):
    before = tree(project.folder / "catalog")
    answer = rmw("init", *arguments)
    assert answer.code == 1
    assert sentence in answer.error
    after = tree(project.folder / "catalog")
    assert {file: text for file, text in after.items() if file != ".lock"} == before


def test_a_project_can_be_made_inside_of_another(project: Project, rmw: Rmw):
    assert json.loads(rmw("init", "--project", "inner", "--json").out)["kind"] == "project"
    assert (project.folder / "inner/workspace.yaml").exists()


def test_schemas_are_written_where_they_are_asked_for(project: Project, rmw: Rmw, tmp_path: Path):
    assert "name a folder with -o" in rmw("schema").error
    assert rmw("schema", "-o", "schemas").code == 0
    schema = json.loads((tmp_path / "schemas/recipe.json").read_text())
    assert "toy" in schema["$defs"]["PairSetUse"]["anyOf"][0]["anyOf"][0]["enum"]


def test_the_workspace_of_a_new_project_is_that_of_the_repository(tmp_path: Path):
    (tmp_path / "workspace.yaml").write_text(init.WORKSPACE)
    assert read_yaml(tmp_path / "workspace.yaml").data == read_yaml(Path(__file__).parents[2] / "workspace.yaml").data


def test_own_data_leave_out_a_parents_sweep_over_other_data_and_the_promotion_by_its_samples(
    empty: Path, rmw: Rmw, monkeypatch: pytest.MonkeyPatch
):
    rmw("init", "mine")
    monkeypatch.chdir(empty / "mine")
    Path("data/rivers.jsonl").write_text('{"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."}\n')
    assert rmw("sources", "add", "data/rivers.jsonl").code == 0
    answer = rmw("init", "on_rivers", "--data", "rivers", "--extends", "rb2_llama31_70b_mini")
    assert answer.code == 0, answer.err
    recipe = load_catalog(load_settings()).recipes["on_rivers"]
    assert recipe.sweep is None
    assert recipe.promotion is None
    assert recipe.evaluation.evaluate_on == ["test", "hh_helpful_base", "gsm8k_rollouts_best_of_4_small"]
