"""A project in which the commands of documents run: its quickstart has a tiny base model and few pairs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rm_workflow.catalog.loading import BUILT_IN
from rm_workflow.catalog.yaml_file import dump_value, read_yaml
from rm_workflow.cli import init
from rm_workflow_tests.docs.commands import Shell
from rm_workflow_tests.models.tiny import tiny_tokenizer, write_tiny_model
from rm_workflow_tests.preferences.sources import write_lines

SMALL: dict[str, Any] = {
    "mixture": {"sample": {"train_pairs": 40}},
    "training": {"learning_rate": 1e-3, "precision": "fp32", "lora": {"r": 4, "alpha": 8}},
    "evaluation": {"max_test_pairs": 40, "precision": "fp32", "probes": {"num_pairs": 4, "num_prompt_ablated": 8}},
}
RIVER = {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."}
SCORED = [{"score_chosen": n % 3, "score_rejected": 1.5, "source": "a"} for n in range(40)]
# Files that commands read, beside those that the documents themselves write.
FILES: dict[str, list[dict[str, Any]]] = {
    "rows.jsonl": [{"prompt": "Name a river.", "response": "The Danube."}],
    "a.jsonl": SCORED,
    "b.jsonl": [{**row, "score_chosen": 2} for row in SCORED],
    "rows/my_pairs.jsonl": [RIVER],
    "scores.jsonl": [{"id": 7, "domain": "chat", "score_chosen": [1.5, 1.2, 0.9], "score_rejected": [0.1, 0.3, 1.1]}],
    "catalog/rows/train.jsonl.gz": [
        {"question": f"River {n}?", "better": f"The Danube, {n}.", "worse": "No."} for n in range(40)
    ],
    "catalog/rows/test.jsonl": [{"question": f"Lake {n}?", "better": "Lake Garda.", "worse": "No."} for n in range(10)],
}


def small_quickstart(base: Path) -> str:
    """Return the quickstart with a tiny base model, as a recipe of the user's that has its name."""
    recipe = read_yaml(BUILT_IN / "recipes/quickstart.yaml").data
    for part, changes in SMALL.items():
        recipe[part] = {**recipe[part], **changes}
    return "".join(f"{key}: {dump_value(value)}\n" for key, value in {**recipe, "base": str(base)}.items())


class Place:
    """The folder of the project, and what makes another one share its home and its quickstart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.recipe = small_quickstart(write_tiny_model(folder / "base", tiny_tokenizer()))
        init.begin_project(str(self.folder / "project"))
        self.project = self.folder / "project"
        self.home = self.project / "data/home"
        self.home.mkdir()
        self.share(self.project)
        for name, rows in FILES.items():
            path = self.project / name
            write_lines(path, rows)

    def share(self, project: Path) -> None:
        (project / "catalog/recipes/quickstart.yaml").write_text(self.recipe)
        if not (project / "data/home").exists():
            (project / "data/home").symlink_to(self.home)

    def start(self) -> None:
        """Put the catalogue back to a new project's, and take away what other documents have made of their own."""
        for file, (_, text) in init.CATALOG.items():
            (self.project / "catalog" / file).write_text(text)
        for path in (*self.folder.iterdir(), *(self.project / "catalog/recipes").iterdir()):
            if path != self.project and path.name != "quickstart.yaml":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RMW_HOME", str(folder / "unused"))  # settings export it; here it is put back
        return Place(folder)


@pytest.fixture(scope="module")
def trained(place: Place) -> Place:
    """Return the place with a trained and scored quickstart."""
    command = [sys.executable, "-m", "rm_workflow.cli.main", "run", "quickstart", "--json"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("RMW_", "DAGSTER_"))}
    done = subprocess.run(
        command, cwd=place.project, env=plain, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[Place], Shell]:
    """Return what opens a shell in a place."""
    for variable in ("RMW_HOME", "RMW_CATALOG", "RMW_HUB_MIRROR", "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "put back")  # also where it was not set, as the settings export one
        monkeypatch.delenv(variable)

    def captured() -> tuple[str, str]:
        found = capfd.readouterr()
        return found.out, found.err

    def opened(place: Place) -> Shell:
        place.start()
        monkeypatch.chdir(place.project)
        return Shell(place, monkeypatch, captured)

    return opened
