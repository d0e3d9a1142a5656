"""Where things live on this machine; everything that is not in a recipe.

Environment variables: ``RMW_HOME`` (artifacts, lineage, Dagster's own storage), ``RMW_HUB_MIRROR`` (a folder with
the hub's layout), ``RMW_CATALOG`` (a folder merged over the built-in catalogue), ``RMW_DEVICE`` (auto, cpu, cuda).
``RMW_LAUNCHER`` names what runs the trainer's processes (``rm_workflow/training/launchers``), default ``local``.
``RMW_ROWS`` is a folder with real rows that no hub has, one folder a data set (``path: rows:<name>``).
``RMW_MEMORY_LIMIT`` and ``RMW_THREADS`` are read where DuckDB works (``rm_workflow/database.py``).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from rm_workflow.errors import UserError

PROJECT_MARKERS = ("workspace.yaml", ".rmw")
DEVICES = ("auto", "cpu", "cuda")
# By default an OpenMP thread that waits for its sibling spins, so a core taken by another process stalls both: on two
# cores with five busy processes a step of SmolLM2 took 3 to 5 times as long. Not spinning at all costs a tenth of the
# speed of a quiet machine; GNU's count of spins (it goes before the policy) has both (AMD EPYC, torch 2.13).
OPENMP_WAITS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "3000"}


@dataclass(frozen=True)
class Settings:
    """Resolved locations, all absolute.

    Attributes:
        home: root of everything the project writes.
        hub_mirror: folder asked before the Hugging Face hub, or None.
        catalog: the user's catalogue folder, or None.
        project: nearest parent folder with ``workspace.yaml`` or ``.rmw``, or None.
        device: "auto", "cpu" or "cuda".
        rows: folder of data sets that no hub has, or None.
        launcher: name of what runs the trainer's processes; part of no key, as it changes no result.
    """

    home: Path
    hub_mirror: Path | None
    catalog: Path | None
    project: Path | None
    device: str
    rows: Path | None = None
    launcher: str = "local"

    @property
    def dagster_home(self) -> Path:
        """Return the DAGSTER_HOME that belongs to this home."""
        return self.home / "dagster"

    @property
    def cache(self) -> Path:
        """Return the folder for downloads and other files that can be fetched again."""
        return self.home / "cache"


def _project_folder(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if any((folder / marker).exists() for marker in PROJECT_MARKERS):
            return folder
    return None


def load_settings() -> Settings:
    """Read the environment once and export RMW_HOME as an absolute path, so that children agree."""
    project = _project_folder(Path.cwd())
    default_home = project / "data" / "home" if project else user_data_path("rm_workflow")
    home = user_path(os.environ.get("RMW_HOME") or str(default_home)).absolute()
    os.environ["RMW_HOME"] = str(home)
    mirror = os.environ.get("RMW_HUB_MIRROR")
    device = os.environ.get("RMW_DEVICE", "auto")
    if device not in DEVICES:
        raise UserError(f"environment variable RMW_DEVICE is {device!r}; set it to one of {', '.join(DEVICES)}")
    return Settings(
        home=home,
        hub_mirror=_existing_folder("RMW_HUB_MIRROR", mirror) if mirror else None,
        catalog=_catalog_folder(project),
        project=project,
        device=device,
        rows=_rows_folder(project),
        launcher=os.environ.get("RMW_LAUNCHER") or "local",
    )


def _rows_folder(project: Path | None) -> Path | None:
    """Return where rows that no hub has lie: as named, in the project, or in a folder that several projects share."""
    named = os.environ.get("RMW_ROWS")
    if named:
        return _existing_folder("RMW_ROWS", named)
    usual = (project / "data" / "rows", project.parent / "shared" / "data") if project else ()
    return next((folder for folder in usual if folder.is_dir()), None)


def user_path(text: str) -> Path:
    """Return a path that a person wrote; ``~`` is their home.

    Raises:
        UserError: the home of a user who is not known here, or a character that no path has.
    """
    if "\0" in text:
        raise UserError(f"the path {text!r} holds a NUL character, which no path has; remove it")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            f"the path {text!r} begins with the home of a user who is not known here; write it out"
        ) from None


def wait_without_spinning() -> None:
    """Let OpenMP threads wait almost without spinning; must come before torch is imported. What is set stays."""
    for name, value in OPENMP_WAITS.items():
        os.environ.setdefault(name, value)


def _catalog_folder(project: Path | None) -> Path | None:
    named = os.environ.get("RMW_CATALOG")
    if named:
        return _existing_folder("RMW_CATALOG", named)
    if project and (project / "catalog").is_dir():
        return project / "catalog"
    return None


def _existing_folder(variable: str, value: str) -> Path:
    folder = user_path(value).absolute()
    if not folder.is_dir():
        raise UserError(
            f"environment variable {variable}: folder {value} does not exist; create it or unset {variable}"
        )
    os.environ[variable] = str(folder)
    return folder
