"""One key, one content: what is made again after a change of an input, and that another home gives the same bytes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rm_workflow import code_versions
from rm_workflow.catalog import loading
from rm_workflow_tests.cli.conftest import Answer, Project, lines, project, rmw  # noqa: F401 (fixtures)
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model

Rmw = Callable[..., Answer]
Change = Callable[[Project, pytest.MonkeyPatch], tuple[str, ...]]

RECIPE = """
base: BASE
mixture:
  pair_sets: [toy]
  split: {by: native}
tokens: {template: chatml, max_length: 128}
training: {learning_rate: 1e-3, batch_size: 4, precision: fp32}
"""
ALL = ["base_base", "pairs_toy", "raw_toy", "toy_mixture", "toy_run_config", "toy_tokens"]
FROM_PAIRS = ["pairs_toy", "toy_mixture", "toy_run_config", "toy_tokens"]


@pytest.fixture
def tiny(project: Project) -> Project:  # noqa: F811
    write_tiny_model(project.folder / "base", tiny_tokenizer())
    project.write_catalog(recipe=RECIPE.replace("BASE", str(project.folder / "base")))
    project.write_rows(lines(range(20)))
    return project


def made(rmw: Rmw, *more: str) -> list[str]:  # noqa: F811
    """Return the assets that a run has made and not reused."""
    answer = rmw("run", "toy", "--until", "run_config", "--json", *more)
    assert answer.code == 0, answer.err
    return sorted(name for name, asset in json.loads(answer.out)["assets"].items() if not asset["reused"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def code(kind: str) -> Change:
    def change(_: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        newer = replace(code_versions.CODE_VERSIONS[kind], version="of tomorrow")
        monkeypatch.setitem(code_versions.CODE_VERSIONS, kind, newer)
        return ()

    return change


def option(*words: str) -> Change:
    return lambda *_: words


def catalogue(file: str, old: str, new: str) -> Change:
    def change(project: Project, _: pytest.MonkeyPatch) -> tuple[str, ...]:  # noqa: F811
        edit(project.folder / "catalog" / file, old, new)
        return ()

    return change


def row(project: Project, _: pytest.MonkeyPatch) -> tuple[str, ...]:  # noqa: F811
    edit(project.folder / "rows/train.jsonl", "Answer 7.", "Answer 7!")
    return ()


def weights(project: Project, _: pytest.MonkeyPatch) -> tuple[str, ...]:  # noqa: F811
    write_tiny_model(project.folder / "base", tiny_tokenizer(), seed=1)
    return ()


def machine(_: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("RMW_THREADS", "1")
    monkeypatch.setenv("RMW_MEMORY_LIMIT", "1GB")
    return ()


def launcher(_: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("RMW_LAUNCHER", "ray")
    return ()


# What changes, and which assets it makes again; all others must be reused.
CHANGES: dict[str, tuple[Change, list[str]]] = {
    "nothing": (option(), []),
    "code that reads rows": (code("raw"), ["raw_toy", *FROM_PAIRS]),
    "code of the rules": (code("pairs"), FROM_PAIRS),
    "code of the mixture": (code("mixture"), FROM_PAIRS[1:]),
    "code of the tokens": (code("tokens"), ["toy_run_config", "toy_tokens"]),
    "a row of a source": (row, ["raw_toy", *FROM_PAIRS]),
    "the reading of a source": (
        catalogue("sources.yaml", "licence:", "max_broken_share: 0.5\n  licence:"),
        ["raw_toy", *FROM_PAIRS],
    ),
    "a rule": (catalogue("pair_sets.yaml", "exact_duplicate]", "exact_duplicate, contradictory]"), FROM_PAIRS),
    "the split": (option("--set", "mixture.sample={train_pairs: 10}"), FROM_PAIRS[1:]),
    "the length": (option("--set", "tokens.max_length=64"), ["toy_run_config", "toy_tokens"]),
    "the learning rate": (option("--set", "training.learning_rate=2e-3"), ["toy_run_config"]),
    "the weights of the base": (weights, ["base_base", "toy_run_config", "toy_tokens"]),
    "a licence": (catalogue("sources.yaml", "CC0-1.0", "MIT"), []),
    "a description": (catalogue("pair_sets.yaml", "source: toy", "source: toy\n  description: x"), []),
    "the machine": (machine, []),
    "the launcher": (launcher, []),
}


FEW = ["a row of a source", "code of the rules", "a licence", "the launcher"]


@pytest.mark.parametrize(
    "names", [FEW, pytest.param(list(CHANGES), marks=pytest.mark.slow(seconds=65))], ids=["few", "all"]
)
def test_a_change_of_an_input_makes_again_what_depends_on_it_and_nothing_else(
    tiny: Project,
    names: list[str],
    rmw: Rmw,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
):
    monkeypatch.setattr(loading, "BUILT_IN", tmp_path_factory.mktemp("built_in"))
    assert made(rmw) == ALL
    before = tmp_path_factory.mktemp("before")
    shutil.copytree(tiny.folder, before, dirs_exist_ok=True, ignore=shutil.ignore_patterns("home"))
    again = {}
    for name in names:
        change, _ = CHANGES[name]
        with monkeypatch.context() as changed:
            again[name] = made(rmw, *change(tiny, changed))
        shutil.copytree(before, tiny.folder, dirs_exist_ok=True)
    assert again == {name: sorted(CHANGES[name][1]) for name in names}
    assert made(rmw) == []


def files_of(home: Path) -> dict[str, str]:
    """Return asset, version and file -> sha256 of all artifacts of a home."""
    found = {}
    for manifest in sorted(home.glob("artifacts/*/*/manifest.json")):
        for file, entry in json.loads(manifest.read_text())["files"].items():
            found[f"{manifest.parent.parent.name}@{manifest.parent.name}/{file}"] = entry["sha256"]
    return found


@pytest.mark.parametrize(("recipe", "num_assets"), [("toy", 6), pytest.param("quickstart", 10, marks=pytest.mark.slow)])
def test_another_home_gives_the_same_keys_and_the_same_bytes(
    tiny: Project,
    rmw: Rmw,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    num_assets: int,
):
    homes = []
    for name, threads in (("a", "1"), ("another home with a longer name", "2")):
        homes.append(tiny.folder / name)
        monkeypatch.setenv("RMW_HOME", str(homes[-1]))
        monkeypatch.setenv("DAGSTER_HOME", str(homes[-1] / "dagster"))
        monkeypatch.setenv("RMW_THREADS", threads)
        answer = rmw("run", recipe, "--until", "run_config", "--set", f"base={tiny.folder / 'base'}")
        assert answer.code == 0, answer.err
    first, second = map(files_of, homes)
    assert first == second
    assert len({name.split("@")[0] for name in first}) == num_assets
    assert [name for name in first if name.endswith(".parquet")]
