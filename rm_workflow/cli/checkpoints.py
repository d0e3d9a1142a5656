"""How a checkpoint is named on the command line."""

from pathlib import Path

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.names import nearest
from rm_workflow.cli.targets import find_artifact
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings

MODEL = "model"
KIND = "checkpoint"


def checkpoint_folder(text: str) -> Path:
    """Return the model folder of a checkpoint: a folder (or its ``model`` inside), ``asset`` or ``asset@version``.

    Raises:
        UserError: there is no such folder and no such artifact; the nearest names are told.
    """
    folder = Path(text).expanduser()
    if folder.is_dir():
        return folder / MODEL if (folder / MODEL).is_dir() else folder
    if text.startswith("hub:"):
        raise UserError(f"checkpoint {text}: the hub is not asked for checkpoints yet; name a local folder")
    if "/" in text or text.startswith("."):
        raise UserError(f"checkpoint {text}: there is no such folder; name a folder, an asset or asset@version")
    store = ArtifactStore(load_settings().home)
    known = [path.name for path in store.artifacts.glob(f"*_{KIND}")]
    if text.partition("@")[0] not in known:
        raise UserError(f"checkpoint {text}: no such folder and no such asset in {store.home}; {nearest(text, known)}")
    return find_artifact(store, text).folder / MODEL
