"""A user's catalogue folder that tests write files into."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings

Write = Callable[[str, str], Path]


def load_whole(settings: Settings) -> Catalog:
    """Return a catalogue; a recipe that is left out of it is an error."""
    catalog = load_catalog(settings)
    for sentence in catalog.refused.values():
        raise UserError(sentence)
    return catalog


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose catalogue folder is ``catalog`` in a fresh working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "catalog"
    (folder / "recipes").mkdir(parents=True)
    return Settings(home=tmp_path / "home", hub_mirror=None, catalog=folder, project=tmp_path, device="cpu")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file under the working folder and return its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    return write_file
