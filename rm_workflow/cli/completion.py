"""What the shell completes: names that stand in files and folders, without loading what it takes to use them."""

import re
from collections.abc import Iterable
from pathlib import Path

from rm_workflow.catalog.loading import BUILT_IN
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings, load_settings

ENTRY = re.compile(r"^([a-z0-9_]+):", re.MULTILINE)


def recipes(incomplete: str) -> list[str]:
    """Return names of recipes, each by the name of its file."""
    return _beginning((path.stem for folder in _folders() for path in folder.glob("recipes/*.yaml")), incomplete)


def sources(incomplete: str) -> list[str]:
    """Return names of sources."""
    return _entries("sources.yaml", incomplete)


def pair_sets(incomplete: str) -> list[str]:
    """Return names of pair sets."""
    return _entries("pair_sets.yaml", incomplete)


def benchmarks(incomplete: str) -> list[str]:
    """Return names of benchmarks."""
    return _entries("benchmarks.yaml", incomplete)


def assets(incomplete: str) -> list[str]:
    """Return the assets that the home holds."""
    settings = _settings()
    folder = settings.home / "artifacts" if settings else None
    return _beginning((path.name for path in folder.iterdir()) if folder and folder.is_dir() else (), incomplete)


def checkpoints(incomplete: str) -> list[str]:
    """Return the checkpoints that the home holds, each by its latest version."""
    return [name for name in assets(incomplete) if name.endswith("_checkpoint")]


def _settings() -> Settings | None:
    """Return the settings, or None where the environment is wrong: a completion is no place to say so."""
    try:
        return load_settings()
    except UserError:
        return None


def _folders() -> list[Path]:
    settings = _settings()
    return [BUILT_IN, *([settings.catalog] if settings and settings.catalog else [])]


def _entries(file: str, incomplete: str) -> list[str]:
    paths = [folder / file for folder in _folders()]
    texts = [path.read_text("utf-8", errors="replace") for path in paths if path.is_file()]
    return _beginning((name for text in texts for name in ENTRY.findall(text)), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
